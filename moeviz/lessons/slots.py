"""Lesson 6: how many slots are worth their memory? The knee, the bound, and the class's own guess."""

from __future__ import annotations

from itertools import pairwise

from moeviz.core.settings import Settings
from moeviz.lessons import drawing
from moeviz.lessons.lab import Lab
from moeviz.lessons.lesson import Answer, Guess, Picture, Said, Shown, Try, lesson
from moeviz.numbers.curves import Curve, curve, knee
from moeviz.words import memory, percent, points, policy_name

POLICIES = ("lru", "lfu", "belady")
LRU, BELADY = policy_name("lru"), policy_name("belady")


def _curve(lab: Lab, policy: str = "lru") -> Curve:
    return curve(lab.trace(), Settings(policy))


def pictures(lab: Lab) -> tuple[Picture, ...]:
    """The two ends of the curve."""
    found = _curve(lab)
    svg = drawing.curves(
        found.slots.tolist(),
        [(LRU, found.hit_ratio.tolist())],
        "slots per layer",
        "Hit ratio",
        hidden=True,
    )
    return (
        Picture(
            svg,
            f"{found.slots[0]} slots hit {percent(found.hit_ratio[0], 0)}, {found.slots[-1]} slots hit "
            f"{percent(found.hit_ratio[-1], 0)}. Draw what lies between.",
        ),
    )


@lesson(
    6,
    "How many slots are worth their memory?",
    minutes=7,
    read=(
        "More slots, more hits, and more of the memory that is short. A curve of hits over slots rises "
        "steeply at first and flattens. The place where it bends most is called the knee: below it a "
        "slot brings more than the average one, beyond it less.",
        "A layer has 8 experts, and a token needs 2 of them.",
    ),
    ask=f"At how many slots per layer does {LRU}'s curve bend most?",
    predict=Guess(2, 8, " slots", close=0),
    claim=(5, 5),
    pictures=pictures,
    goes_wrong="Expect 4, half of the experts. The knee is a rule of thumb and not the best buy: that "
    "depends on what else the memory could hold and what a miss costs on the link at hand.",
    try_it=Try("what_if", "Put in your own machine", {"trace": "sample: change-of-subject"}),
)
def answer(lab: Lab) -> Answer:
    trace = lab.trace()
    found = {name: _curve(lab, name) for name in POLICIES}
    lru = found["lru"]
    slots, shares = lru.slots.tolist(), lru.hit_ratio.tolist()
    bend = knee(lru) or slots[-1]
    at = slots.index(bend)
    steps = [after - before for before, after in pairwise(shares)]
    average = (shares[-1] - shares[0]) / max(slots[-1] - slots[0], 1)
    before, after = steps[at - 1] if at else 0.0, steps[at] if at < len(steps) else 0.0
    each = memory(lab.recorded().mean_bytes * trace.layers)
    behind = float(found["belady"].hit_ratio[at]) - shares[at]
    widest = max(float(b) - a for a, b in zip(shares, found["belady"].hit_ratio, strict=True))
    why = (
        Said(
            f"The step to {bend} slots brings {points(before)}, the next one {points(after)}; the average "
            f"step brings {points(average)}. That is the bend.",
            before > average > after,
        ),
        Said(
            f"One more slot in each of {trace.layers} layers takes {each}. The first step brings "
            f"{points(steps[0])}, the last {points(steps[-1])}, for the same memory.",
            steps[0] > steps[-1],
        ),
        Said(
            f"At {bend} slots {BELADY} hits {points(behind)} more than {LRU}; nowhere is the gap above "
            f"{points(widest)}. A better policy can be worth as much as a slot, and takes no memory.",
            widest > min(steps),
        ),
    )
    lines = [(policy_name(name), one.hit_ratio.tolist()) for name, one in found.items()]

    def picture(guess: float | None = None, whose: str = "") -> Picture:
        said = None if guess is None else (round(guess), f"{whose}: {guess:.0f}")
        knee_of = (bend, f"knee of {LRU}")
        svg = drawing.curves(slots, lines, "slots per layer", "Hit ratio", mark=knee_of, guess=said)
        told = "" if guess is None else f" The ring: {whose}, {guess:.0f} slots."
        return Picture(svg, f"Hit ratio over slots, and the bound.{told}")

    fewer, more = Settings("lru", max(bend - 2, trace.k)), Settings("lru", bend)
    title = f"{LRU} with {fewer.slots} slots a layer, beside {more.slots}"
    middle = len(trace.passes()) // 2
    shown = Shown(trace, (fewer, more), title, middle, measured=lab.recorded())
    return Answer(bend, why, shown, picture(), picture)

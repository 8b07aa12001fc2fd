"""Lesson 7: make a text. Sliders for skew, reuse and change of subject; find where LFU overtakes LRU."""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np

from moeviz.core.replay import replay
from moeviz.core.settings import Settings
from moeviz.core.synthetic import synthetic
from moeviz.core.trace import Trace
from moeviz.lessons import drawing
from moeviz.lessons.lab import Lab
from moeviz.lessons.lesson import Answer, Choice, Picture, Said, Shown, Try, lesson
from moeviz.numbers import routing
from moeviz.numbers.subject import Change
from moeviz.words import percent, points, policy_name

TOKENS, LAYERS, EXPERTS, K, SLOTS = 240, 4, 16, 2, 6
PACES = (0, 60, 30)  # tokens after which the subject changes; 0: never
SEEDS = range(4)  # one made-up text may lie; the mean of a few does not
LRU, LFU = policy_name("lru"), policy_name("lfu")


@dataclass(frozen=True, slots=True)
class Recipe:
    """What a made-up text is made of: how unevenly experts are used, how often one is kept, and when the
    subject changes.
    """

    skew: float = 1.0
    reuse: float = 0.3
    change: int = 0
    seed: int = 0

    def trace(self) -> Trace:
        """The text. Raises SettingsError where the numbers make none."""
        made = synthetic(TOKENS, LAYERS, EXPERTS, K, self.skew, self.reuse, self.change, self.seed)
        return replace(made, texts=tuple(f"{number} " for number in range(TOKENS)))

    @property
    def changes(self) -> tuple[Change, ...]:
        """Where its subject changes; a made-up subject has a number for its name."""
        firsts = range(self.change, TOKENS, self.change) if self.change else ()
        return tuple(Change(token, f"subject {n}", f"subject {n + 1}") for n, token in enumerate(firsts, 1))


def boards() -> tuple[Settings, Settings]:
    """What is compared on it."""
    return Settings("lru", SLOTS), Settings("lfu", SLOTS)


def lead(recipe: Recipe) -> float:
    """Hit ratio of LFU less that of LRU on one made-up text."""
    trace = recipe.trace()
    lru, lfu = (replay(trace, one) for one in boards())
    return lfu.hit_ratio - lru.hit_ratio


def pictures(lab: Lab) -> tuple[Picture, ...]:
    """The favourites of a layer with and without skew."""
    uneven, even = (routing.usage(Recipe(skew).trace())[0] for skew in (1.0, 0.0))
    rows = [
        (f"skew {skew:g}: busiest 4", float(np.sort(use)[-4:].sum() / use.sum()))
        for skew, use in ((1, uneven), (0, even))
    ]
    svg = drawing.bars(rows, "Share of the needs that go to the 4 busiest of 16 experts")
    return (
        Picture(
            svg,
            "Skew makes favourites. Reuse repeats the last token's experts. A change of subject makes "
            "other favourites.",
        ),
    )


@lesson(
    7,
    "Which text makes which cache win?",
    minutes=10,
    read=(
        f"A made-up text: {TOKENS} tokens, {LAYERS} layers of {EXPERTS} experts, {K} for each token, "
        f"{SLOTS} slots. Three numbers make it: skew (how unevenly experts are used), reuse (how often "
        "the last token's expert is kept), and after how many tokens the subject changes.",
        "Take skew 1 and reuse 0.3, and change the subject ever more often. Predict first; the sliders come "
        "with the answer.",
    ),
    ask=f"How often must the subject change before {LRU} hits more than {LFU}?",
    predict=Choice(
        (
            "never: even with a change every 30 tokens LRU stays behind",
            "a change every 60 tokens is enough",
            "every 60 tokens is not enough, every 30 is",
        )
    ),
    claim=(1, 1),
    pictures=pictures,
    goes_wrong="Near the crossing one text says this and the next one that: let the class change the "
    "seed and see the winner flip. That is why the answer is a mean over several made-up texts.",
    try_it=Try("library", "Open a text of your own"),
    extra="sliders",
)
def answer(lab: Lab) -> Answer:
    leads = {pace: float(np.mean([lead(Recipe(change=pace, seed=seed)) for seed in SEEDS])) for pace in PACES}
    right = 1 if leads[60] < 0 else 2 if leads[30] < 0 else 0
    flat = float(np.mean([lead(Recipe(skew=0.0, reuse=0.9, seed=seed)) for seed in SEEDS]))
    why = (
        Said(
            f"Without a change {LFU} leads by {points(leads[0])}: skew makes favourites, and counting "
            "finds them.",
            leads[0] > 0,
        ),
        Said(
            f"With a change every 60 tokens {LRU} leads by {points(-leads[60])}, every 30 by "
            f"{points(-leads[30])}: counts from a subject that is over mislead, and there is less time to "
            "outgrow them.",
            0 > leads[60] > leads[30],
        ),
        Said(
            f"Without skew and with reuse 0.9 the two hardly differ ({points(abs(flat))}): where there "
            "are no favourites there is nothing to count.",
            abs(flat) < leads[0],
        ),
        Said(
            f"Each number is the mean of {len(SEEDS)} made-up texts. One real text is like one of them: "
            "measure more than one."
        ),
    )
    names = {0: "no change", 60: "every 60", 30: "every 30"}
    shown = Recipe(change=60)
    trace = shown.trace()
    runs = [replay(trace, one).hit_ratio for one in boards()]
    rows = [(f"{names[pace]}: {'LFU' if value > 0 else 'LRU'}", abs(value)) for pace, value in leads.items()]
    svg = drawing.bars(
        rows,
        "Who leads in hit ratio, by the tokens between changes",
        most=max(value for _, value in rows),
        unit="points",
        series=[int(value > 0) for value in leads.values()],
    )
    one_text = f"One text with a change every {shown.change} tokens: {LRU} hits {percent(runs[0])}, {LFU}"
    picture = Picture(svg, f"{one_text} {percent(runs[1])}.")
    title = "A made-up text whose subject changes every 60 tokens"
    return Answer(right, why, Shown(trace, boards(), title, 70, changes=shown.changes), picture)

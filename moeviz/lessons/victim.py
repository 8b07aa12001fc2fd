"""Lesson 3: who leaves? How often an eviction is regretted; the game is in `moeviz.lessons.game`."""

from __future__ import annotations

from moeviz.core.settings import Settings
from moeviz.lessons import drawing
from moeviz.lessons.game import LESSON
from moeviz.lessons.lab import CHANGING, Lab
from moeviz.lessons.lesson import Answer, Guess, Picture, Said, Shown, Try, lesson
from moeviz.numbers.explain import Explainer
from moeviz.words import percent, policy_name

SLOTS = 5
LRU, BELADY = policy_name("lru"), policy_name("belady")


def regretted(lab: Lab, policy: str) -> tuple[int, int]:
    """Evictions on demand that a glance into the future would have chosen otherwise, and all, on the
    changing sample.
    """
    found = Explainer(lab.trace(), Settings(policy, SLOTS))
    told = [
        one
        for step in range(len(found.run.passes.phase))
        for layer in range(found.run.layers)
        for one in found.evictions(step, layer)
    ]
    return sum(one.regretted for one in told), len(told)


def pictures(lab: Lab) -> tuple[Picture, ...]:
    """How many evictions each policy makes."""
    counted = [
        (policy_name(name), float((lab.run(CHANGING, Settings(name, SLOTS)).loads.victim_expert >= 0).sum()))
        for name in LESSON
    ]
    svg = drawing.bars(counted, "Evictions on this text", most=max(value for _, value in counted), unit="")
    return (Picture(svg, f"With {SLOTS} slots per layer. Each eviction is a choice: who leaves?"),)


@lesson(
    3,
    "Who should leave?",
    minutes=10,
    read=(
        f"Each MoE layer has {SLOTS} slots. When all are taken and another expert is needed, somebody "
        "leaves. A policy looks at the "
        f"past: last use, or number of uses. {BELADY} looks at the future and drops whoever is needed "
        "again last; no policy hits more.",
        "An eviction is regretted where another expert that could have left is needed later than the "
        "one that did. Play a few rounds, then predict.",
    ),
    ask=f"What percentage of {LRU}'s evictions is regretted?",
    predict=Guess(0, 100, "%", close=10),
    claim=(15, 85),
    pictures=pictures,
    goes_wrong="Players against LFU look at the last tokens only; the count goes back to the beginning "
    "(the hint shows it). Against Belady they still look at the past, where only the future counts. Regret "
    "is not a miss: it says when the miss comes, not whether.",
    try_it=Try(
        "stage",
        "Read any eviction's story on the stage",
        {
            "trace": "sample: change-of-subject",
            "a": f"policy=lru,slots={SLOTS}",
            "b": f"policy=belady,slots={SLOTS}",
        },
    ),
    extra="game",
)
def answer(lab: Lab) -> Answer:
    trace = lab.trace()
    shares = {name: regretted(lab, name) for name in ("lru", "lfu", "belady")}
    part = {name: bad / max(count, 1) for name, (bad, count) in shares.items()}
    lru, bound = (lab.run(CHANGING, Settings(name, SLOTS)) for name in ("lru", "belady"))
    why = (
        Said(
            f"{LRU} regrets {shares['lru'][0]} of its {shares['lru'][1]} evictions, {percent(part['lru'], 0)}"
            ": the past says something about the future, but not everything.",
            0 < part["lru"] < 1,
        ),
        Said(
            f"{policy_name('lfu')} regrets {percent(part['lfu'], 0)} of its own, {BELADY} none: it "
            "cannot, since its rule is the very one that regret is measured by.",
            shares["belady"][0] == 0,
        ),
        Said(
            f"{BELADY} hits {percent(bound.hit_ratio)}, {LRU} {percent(lru.hit_ratio)}. What lies between "
            "is all that a better policy can still get.",
            bound.hit_ratio > lru.hit_ratio,
        ),
    )
    found = Explainer(trace, lru.settings)
    step, layer = found.next_event("regret", len(trace.passes()) // 2, 0) or (0, 0)
    victim = next((one.expert for one in found.evictions(step, layer) if one.regretted), 0)
    picture = Picture(
        drawing.bars(
            [(policy_name(name), share) for name, share in part.items()], "Evictions that are regretted"
        ),
        "Regretted: another could have left that is needed later.",
    )
    title = "An eviction that is regretted: read its story"
    stage = Shown(trace, (lru.settings, bound.settings), title, step, (0, layer, victim), lab.recorded())
    return Answer(100 * part["lru"], why, stage, picture)

"""Lesson 5: hit ratio up, speed down. Pre-fetching that takes the link from what is needed now."""

from __future__ import annotations

from dataclasses import replace

from moeviz.amounts import milliseconds
from moeviz.core.settings import Settings
from moeviz.lessons import drawing
from moeviz.lessons.lab import CHANGING, Lab, decode_ratio
from moeviz.lessons.lesson import Answer, Choice, Picture, Said, Shown, Try, lesson
from moeviz.numbers import cost, metrics
from moeviz.words import percent

LINK = "SATA SSD"
NONE = Settings("lru", 4)
GREEDY = replace(NONE, prefetch="next-gate", width=4)
MODEST = replace(NONE, prefetch="next-gate")
SAME_TIME = 0.02  # of a token's time: what is closer is called alike
NAMES = ("no pre-fetch", "4 guesses a layer")


def pictures(lab: Lab) -> tuple[Picture, ...]:
    """The hit ratios, which are given away."""
    rows = [
        (name, decode_ratio(lab.run(CHANGING, one))) for name, one in zip(NAMES, (NONE, GREEDY), strict=True)
    ]
    before, after = (percent(share, 0) for _, share in rows)
    text = f"Four guesses for every layer raise the hit ratio from {before} to {after}."
    return (Picture(drawing.bars(rows, "Hit ratio"), text),)


@lesson(
    5,
    "More hits. Is it faster?",
    minutes=7,
    read=(
        "A token needs 2 experts of a layer. To be on the safe side, guess 4 for the next layer and copy "
        "each one that is not there yet. It works: far more of what is needed is there.",
        f"There is one link, here a {LINK}. It copies one expert at a time.",
    ),
    ask="With the four guesses, how long does a token take?",
    predict=Choice(("less time than without", "about as long", "more time than without")),
    claim=(2, 2),
    pictures=pictures,
    goes_wrong="The hit ratio counts a copy as free when it was early. Have the class count copies per "
    "token instead of misses. Times are modelled from a measured run with another link put in; on a fast "
    "link the same guesses do no harm.",
    try_it=Try(
        "prefetch",
        "Try more or fewer guesses a layer",
        {"trace": "sample: change-of-subject", "predictor": "next-gate", "width": "4", "slots": "4"},
    ),
)
def answer(lab: Lab) -> Answer:
    trace, costs = lab.trace(), lab.costs(LINK)
    runs = [lab.run(CHANGING, one) for one in (NONE, GREEDY, MODEST)]
    times = [cost.stack(run, costs) for run in runs]
    assert all(times), "the sample decodes"
    plain, greedy, modest = (one.compute + one.stall + one.other for one in times if one is not None)
    apart = greedy / plain - 1
    right = 1 if abs(apart) < SAME_TIME else 0 if apart < 0 else 2
    passes = max(len(trace.passes()), 1)
    copies = [len(run.loads.expert) / passes for run in runs]
    wasted = metrics.ledger(runs[1]).wasted / max(int(runs[1].loads.speculative.sum()), 1)
    hits = [decode_ratio(run) for run in runs]
    why = (
        Said(
            f"A token takes {milliseconds(greedy)} instead of {milliseconds(plain)}, although the hit ratio "
            f"rose from {percent(hits[0], 0)} to {percent(hits[1], 0)}.",
            greedy > plain and hits[1] > hits[0],
        ),
        Said(
            f"{copies[1]:.1f} experts cross the link for each token instead of {copies[0]:.1f}; "
            f"{percent(wasted, 0)} of the guessed ones are never used. An expert that is really needed "
            "waits behind them, and so does compute.",
            copies[1] > copies[0] and wasted > 0.3,
        ),
        Said(
            f"With 2 guesses a layer the hit ratio is lower ({percent(hits[2], 0)}), but a token takes "
            f"{milliseconds(modest)}: faster than both. Hits are a means; the time is what counts.",
            hits[2] < hits[1] and modest < plain < greedy,
        ),
    )
    rows = [
        (name, [("rest of the model", one.other), ("experts", one.compute), ("waiting", one.stall)])
        for name, one in zip((*NAMES, "2 guesses a layer"), times, strict=True)
        if one is not None
    ]
    picture = Picture(
        drawing.stacks(rows, f"Time per token over a {LINK} (modelled)", "ms"),
        "Modelled: the costs of the sample's measured run, over this link.",
    )
    title = "Four guesses a layer beside none: watch the link"
    shown = Shown(trace, (NONE, GREEDY), title, len(trace.passes()) // 2, link=LINK)
    return Answer(right, why, shown, picture)

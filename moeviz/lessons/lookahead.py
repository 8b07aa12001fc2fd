"""Lesson 4: how far ahead a router can see, and above which precision a guess saves time."""

from __future__ import annotations

from dataclasses import replace

from moeviz.core.settings import Settings
from moeviz.lessons import drawing
from moeviz.lessons.lab import CHANGING, Lab
from moeviz.lessons.lesson import Answer, Guess, Picture, Said, Shown, Try, lesson
from moeviz.numbers.routing import guess_quality
from moeviz.numbers.worth import break_even_precision, pollution_of
from moeviz.words import many, percent

SLOTS = 4
LOOKAHEADS = (1, 2, 3)
FAST, SLOW = "SATA SSD", "SD card"


def _recalls(lab: Lab) -> list[float]:
    """Part of the needed experts that the routers' guesses name, for each lookahead."""
    found = guess_quality(lab.trace(), "next-gate", lookaheads=max(LOOKAHEADS))
    return [found.at(ahead)[1] for ahead in LOOKAHEADS]


def _layers(ahead: int) -> str:
    return f"{many(ahead, 'layer')} ahead"


def pictures(lab: Lab) -> tuple[Picture, ...]:
    """Recall one layer ahead; the others are to be guessed."""
    trace, recalls = lab.trace(), _recalls(lab)
    chance = trace.k / trace.num_experts
    rows = [(_layers(ahead), recalls[0] if ahead == 1 else None) for ahead in LOOKAHEADS]
    svg = drawing.bars(rows, "Needed experts that were guessed", marks=(("by chance", chance),))
    return (
        Picture(
            svg,
            f"One layer ahead the guesses name {percent(recalls[0], 0)} of what is needed; chance would "
            f"name {percent(chance, 0)}.",
        ),
    )


@lesson(
    4,
    "How far ahead can a router see?",
    minutes=8,
    read=(
        "An expert that is copied before it is needed costs no waiting. But who will be needed? Take the "
        "hidden state that enters this layer and ask a later layer's router what it would choose for it: "
        "a guess, made early.",
        "The further ahead, the more time a copy has; and the more the hidden state will still change.",
    ),
    ask="What percentage of the needed experts do the routers name three layers ahead?",
    predict=Guess(0, 100, "%", close=7),
    claim=(50, 82),
    pictures=pictures,
    goes_wrong="Precision and recall are one number here, since as many experts are guessed as are "
    "needed; say so before somebody asks. Many expect the guesses to fall to chance at once.",
    try_it=Try(
        "prefetch",
        "Try other guesses and lookaheads",
        {"trace": "sample: change-of-subject", "predictor": "next-gate", "lookahead": "3"},
    ),
)
def answer(lab: Lab) -> Answer:
    trace, recalls = lab.trace(), _recalls(lab)
    chance = trace.k / trace.num_experts
    plain = Settings("lru", SLOTS)
    guessing = replace(plain, prefetch="next-gate")
    run = lab.run(CHANGING, guessing)
    costs = {link: lab.costs(link) for link in (FAST, SLOW)}
    even = {
        link: break_even_precision(found, trace.layers, trace.k, 1, pollution_of(run))
        for link, found in costs.items()
    }
    named = ", ".join(
        f"{_layers(d)} {percent(share, 0)}" for d, share in zip(LOOKAHEADS, recalls, strict=True)
    )
    why = (
        Said(
            f"{named}: falling, but far above chance ({percent(chance, 0)}). Each layer adds a little to "
            "the hidden state, so most of what a later router looks at is there already.",
            recalls[0] > recalls[1] > recalls[2] > 2 * chance,
        ),
        Said(
            f"A wrong guess holds the link up and may push out an expert that was needed. Over a {FAST} a "
            f"guess one layer ahead saves time once at least {percent(even[FAST], 0)} are right; here "
            f"{percent(recalls[0], 0)} are.",
            recalls[0] > even[FAST],
        ),
        Said(
            f"Over an {SLOW} at least {percent(even[SLOW], 0)} would have to be right: there pre-fetching "
            "makes tokens slower.",
            recalls[0] < even[SLOW],
        ),
    )
    svg = drawing.bars(
        [(_layers(ahead), recall) for ahead, recall in zip(LOOKAHEADS, recalls, strict=True)],
        "Needed experts that were guessed",
        marks=(
            ("by chance", chance),
            *((f"needed over {link}", share) for link, share in even.items()),
        ),
    )
    picture = Picture(svg, "Needed over a link: the part that has to be right to save time.")
    title = "Guesses one layer ahead beside none"
    shown = Shown(trace, (plain, guessing), title, len(trace.passes()) // 2, link=SLOW)
    return Answer(100 * recalls[2], why, shown, picture)

"""Lesson 2: as many slots as a token needs, where all policies are equal; and the cliff of one pool."""

from __future__ import annotations

import numpy as np

from moeviz.core.settings import Settings
from moeviz.lessons import drawing
from moeviz.lessons.lab import CHANGING, Lab, ratio_between
from moeviz.lessons.lesson import Answer, Choice, Picture, Said, Shown, Try, lesson
from moeviz.numbers.curves import curve
from moeviz.words import SAME, percent, policy_name

POLICIES = ("lru", "lfu", "belady")
LRU, LFU, BELADY = (policy_name(name) for name in POLICIES)
TOKENS, LAYER = 24, 3  # that the picture shows


def pictures(lab: Lab) -> tuple[Picture, ...]:
    """Who is used by the tokens of one layer, one after the other."""
    trace = lab.trace()
    first = trace.tokens // 3
    cells = np.zeros((trace.num_experts, TOKENS), bool)
    for column, row in enumerate(trace.experts[first : first + TOKENS, LAYER]):
        cells[row[row >= 0], column] = True
    svg = drawing.raster(cells, f"{TOKENS} tokens in MoE layer {LAYER}: who is needed", "tokens")
    return (
        Picture(
            svg, "Two experts a token. Look at how often one of them is needed again by the very next token."
        ),
    )


@lesson(
    2,
    "What can a policy do with two slots?",
    minutes=6,
    read=(
        "Each token needs 2 experts of a layer, and both have to be in the fast tier while it is "
        "computed. Give each layer 2 slots, as many as one token needs.",
        f"{LRU} drops who was used longest ago, {LFU} who was used least, and {BELADY} knows the future "
        "and drops who is needed last.",
    ),
    ask="Which policy hits most when the next token comes?",
    predict=Choice((LRU, LFU, BELADY, "all hit alike")),
    claim=(3, 3),
    pictures=pictures,
    goes_wrong="“Belady knows the future, so it must win.” Ask whom it could keep instead: the experts "
    "of the token at hand take every slot, so nobody chooses. The cliff surprises those who think of a "
    "larger pool as harmless.",
    try_it=Try(
        "what_if",
        "See every slot count, with one pool too",
        {"trace": "sample: change-of-subject", "scope": "model"},
    ),
)
def answer(lab: Lab) -> Answer:
    trace = lab.trace()
    need = trace.k * trace.layers
    end = len(trace.passes())
    # the first decoded token finds what the prompt's waves left, which does depend on the policy
    alike = [ratio_between(lab.run(CHANGING, Settings(name, trace.k)), 2, end) for name in POLICIES]
    best = int(np.argmax(alike))
    right = 3 if max(alike) - min(alike) < SAME else best
    counts = list(range(need // 2, need + need // 2 + 1))
    found = {
        name: curve(trace, Settings(name, scope="model"), counts).hit_ratio.tolist() for name in POLICIES
    }
    nothing = [slots for slots, share in zip(counts, found["lru"], strict=True) if share < SAME]
    edge = nothing[-1] if nothing else 0
    beyond = found["lru"][counts.index(need)]
    there = found["belady"][counts.index(edge)] if edge else 0.0
    why = (
        Said(
            f"All hit {percent(alike[0])} from the second written token on. A token's {trace.k} experts "
            "fill both slots: nobody can choose, and what hits is what two tokens in a row share.",
            right == 3,
        ),
        Said(
            f"Now one pool for all {trace.layers} layers: a token needs {need} of its experts. "
            f"With {edge} slots {LRU} never hits: before a layer's turn comes again, the others "
            f"have pushed its experts out. {BELADY} hits {percent(there)} with the same slots.",
            0 < edge < need and there > 0.25,
        ),
        Said(
            f"With {need} slots {LRU} hits {percent(beyond)} at once: a cliff. A cache that is a little "
            "too small can be worth nothing.",
            beyond > 0.3,
        ),
    )
    lines = [(policy_name(name), shares) for name, shares in found.items()]
    svg = drawing.curves(
        counts,
        lines,
        "slots in all",
        "Hit ratio of one pool",
        mark=(need, f"{need} = {trace.layers} x {trace.k}"),
    )
    picture = Picture(svg, "One pool for all layers: hit ratio over its slots.")
    pool = edge or need
    title = f"One pool of {pool} slots: {LRU} beside {BELADY}"
    settings = Settings("lru", pool, "model"), Settings("belady", pool, "model")
    return Answer(right, why, Shown(trace, settings, title, end // 2, measured=lab.recorded()), picture)

"""Lesson 1: LRU against LFU on a text that changes its subject, and on one that does not."""

from __future__ import annotations

import numpy as np

from moeviz.core.settings import Settings
from moeviz.lessons import drawing
from moeviz.lessons.lab import Lab, ratio_between
from moeviz.lessons.lesson import Answer, Choice, Picture, Said, Shown, Try, lesson
from moeviz.numbers.subject import Change, subject_changes
from moeviz.words import percent, points, policy_name

SLOTS = 4
AFTER = 24  # tokens after the change at which the cursor stands
LRU, LFU, LOST = (policy_name(name) for name in ("lru", "lfu", "lfu-resident"))
SAME_TEXT = "bible"  # the sample that keeps to one subject


def _change(lab: Lab) -> tuple[Change, int]:
    """Where the sample changes its subject, and the forward pass of that token."""
    trace = lab.trace()
    change = subject_changes(trace)[0]
    return change, next(n for n, part in enumerate(trace.passes()) if part.stop > change.token)


def pictures(lab: Lab) -> tuple[Picture, ...]:
    """Who is used before and after the change, in the layer where the two differ most."""
    trace = lab.trace()
    change, at = _change(lab)
    chosen = np.zeros((trace.tokens, trace.layers, trace.num_experts), bool)
    np.put_along_axis(chosen, trace.experts.astype(np.int64), True, 2)
    apart = np.abs(chosen[: change.token].mean(0) - chosen[change.token :].mean(0)).sum(1)
    layer = int(apart.argmax())
    first, last = max(change.token - 60, 0), min(change.token + 60, trace.tokens)
    what = f"Experts of MoE layer {layer}: who is used by which token"
    subjects = f"{change.before.capitalize()} becomes {change.after.capitalize()}"
    svg = drawing.raster(chosen[first:last, layer].T, what, "tokens", (change.token - first, subjects))
    return (Picture(svg, f"{subjects} at token {at}. Other experts become the busy ones."),)


@lesson(
    1,
    "Which cache suits a text that changes its subject?",
    minutes=8,
    read=(
        f"Each MoE layer has {SLOTS} slots for 8 experts. {LRU} drops the expert that was used longest "
        f"ago. {LFU} drops the one that was used least often since the run began.",
        "The text begins as German and becomes Python halfway.",
    ),
    ask="Which of the two hits more?",
    predict=Choice(
        (
            "LRU, in both halves",
            "LFU (counts kept), in both halves",
            "LFU (counts kept) in the first half, LRU in the second",
            "LRU in the first half, LFU (counts kept) in the second",
        )
    ),
    claim=(2, 2),
    pictures=pictures,
    goes_wrong="A class wants one winner. Let those who said LRU and those who said LFU each find the "
    "half in which they are right, then ask what LFU would need in order to forget. The two LFUs are two "
    "policies: say each time which one is meant.",
    try_it=Try(
        "stage",
        "Try other policies and slots",
        {
            "trace": "sample: change-of-subject",
            "a": f"policy=lru,slots={SLOTS}",
            "b": f"policy=lfu-aged,slots={SLOTS}",
        },
    ),
)
def answer(lab: Lab) -> Answer:
    trace = lab.trace()
    change, at = _change(lab)
    end = len(trace.passes())
    lru, lfu, lost = (
        lab.run("change-of-subject", Settings(name, SLOTS)) for name in ("lru", "lfu", "lfu-resident")
    )
    halves = ((1, at), (at, end))  # the prompt's own pass comes before the first decoded token
    first, second = ([ratio_between(run, *half) for run in (lru, lfu)] for half in halves)
    right = (1 if first[1] > first[0] else 0, 1 if second[1] > second[0] else 0)
    other_lru, other_lfu = (lab.run(SAME_TEXT, Settings(name, SLOTS)) for name in ("lru", "lfu"))
    before, after = change.before.capitalize(), change.after.capitalize()
    why = (
        Said(
            f"In {before} {LFU} hits {percent(first[1])} and {LRU} {percent(first[0])}: counting finds "
            "the favourites.",
            first[1] > first[0],
        ),
        Said(
            f"In {after} {LFU} falls to {percent(second[1])} and {LRU} hits {percent(second[0])}: counts "
            "go on protecting the experts of a subject that is over, while LRU forgets it within a few "
            "tokens.",
            second[0] > second[1] and first[1] > second[1],
        ),
        Said(
            f"Over the whole text {LRU} leads by {points(lru.hit_ratio - lfu.hit_ratio)}. On a text that "
            f"stays with one subject (the sample {SAME_TEXT}) {LFU} leads by "
            f"{points(other_lfu.hit_ratio - other_lru.hit_ratio)}. Neither is better: the text decides.",
            lru.hit_ratio > lfu.hit_ratio and other_lfu.hit_ratio > other_lru.hit_ratio,
        ),
        Said(
            f"Which LFU? {LOST} forgets a count when its expert leaves. Here it hits "
            f"{percent(lost.hit_ratio)}, {points(lfu.hit_ratio - lost.hit_ratio)} less than {LFU}.",
            lost.hit_ratio < lfu.hit_ratio,
        ),
    )
    table = {(0, 0): 0, (1, 1): 1, (1, 0): 2, (0, 1): 3}
    title = f"{LRU} beside {LFU}, just after the change"
    cursor = min(at + AFTER, end - 1)
    shown = Shown(trace, (lru.settings, lfu.settings), title, cursor, measured=lab.recorded())
    return Answer(table[right], why, shown)

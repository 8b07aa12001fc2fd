"""Why each victim left, packed for the browser: the policy's words, the bound's choice, the regret, and who
was there.

The words, scores and regrets are those of `moeviz.numbers.explain`; nothing is decided here.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from typing import Any

import numpy as np
from numpy.typing import NDArray

from moeviz.charts.stage.packing import packed
from moeviz.core.policies import POLICIES
from moeviz.numbers.explain import Eviction, Explainer, Resident

MAX_RESIDENTS = 150_000  # of all evictions together; beyond that the page would grow past what a mail carries
SHOWN = 8  # residents told of one eviction: who leaves, the bound's choice, and those who would leave next
STATUS = {
    name: number for number, name in enumerate(("leaves", "could leave", "needed now", "held by a guess"))
}
NEVER = -1  # regret: the bound's choice is never needed again


def stories_of(explainer: Explainer) -> dict[str, Any] | None:
    """Every eviction of a run. None where there are too many to carry.

    Per eviction: `load` the load that it made room for, `why` a number into `words`, `belady` the cell
    (layer x E + expert) that belady would have dropped, `regret` in forward passes (0 none, -1: that one is
    never needed again); then `counts` residents, each with its cell, status, a number into `words` for its
    score (0: the policy has no words for a single one), and a length for its score's bar.
    """
    run = explainer.run
    evictions = len(run.departures.load)
    if run.settings.baseline or evictions * min(run.room.slots, SHOWN) > MAX_RESIDENTS:
        return None
    words = _Words(POLICIES[run.settings.policy].says.rpartition(",")[0])
    rows: list[tuple[int, int, int, int, int]] = []
    there: list[tuple[int, int, int]] = []
    scores: list[float] = []
    for eviction in _evictions(explainer):
        shown = _shown(eviction)
        for one in shown:
            there.append((one.layer * run.experts + one.expert, STATUS[one.status], words.of_score(one)))
            scores.append(one.score)
        regret = NEVER if eviction.regret is None else eviction.regret
        belady = eviction.belady[0] * run.experts + eviction.belady[1]
        rows.append((eviction.load, words.number(_reason(eviction.sentence)), belady, regret, len(shown)))
    table = np.array(rows, np.int64).reshape(-1, 5)
    columns = np.array(there, np.int64).reshape(-1, 3)
    lengths = _lengths(np.array(scores, np.float64), table[:, 4])
    return {
        **{
            name: packed(table[:, at])
            for at, name in enumerate(("load", "why", "belady", "regret", "counts"))
        },
        **{name: packed(columns[:, at]) for at, name in enumerate(("cell", "status", "says"))},
        "share": packed(np.rint(lengths * 255).astype(np.int64)),
        "words": words.table,
    }


def _evictions(explainer: Explainer) -> Iterator[Eviction]:
    run = explainer.run
    events = np.unique(run.loads.event[run.loads.victim_expert >= 0])
    steps, layers = run.events.forward_pass[events].tolist(), run.events.layer[events].tolist()
    for step, layer in zip(steps, layers, strict=True):
        yield from explainer.evictions(step, layer)


def _lengths(scores: NDArray[np.float64], counts: NDArray[np.int64]) -> NDArray[np.float64]:
    """Lengths of bars, 0 to 1, for the residents of each eviction: from 0 to the highest score, or from the
    lowest where all are far above 0, as clocks are."""
    if not scores.size:
        return scores
    starts = np.concatenate([[0], np.cumsum(counts)[:-1]])
    known = np.isfinite(scores)
    least = np.repeat(np.minimum.reduceat(np.where(known, scores, np.inf), starts), counts)
    most = np.repeat(np.maximum.reduceat(np.where(known, scores, -np.inf), starts), counts)
    floor = np.where((least >= 0) & (least < most / 2), 0.0, least)
    with np.errstate(invalid="ignore", divide="ignore"):
        found = np.where(most > floor, (scores - floor) / (most - floor), 1.0)
    return np.where(known, found, 0.0)


def _shown(eviction: Eviction) -> list[Resident]:
    """At most SHOWN residents, the first to leave first, the bound's choice among them."""
    listed = list(eviction.residents)
    if len(listed) <= SHOWN:
        return listed
    first = listed[:SHOWN]
    if all((one.layer, one.expert) != eviction.belady for one in first):
        first[-1] = next(one for one in listed if (one.layer, one.expert) == eviction.belady)
    return first


def _reason(sentence: str) -> str:
    """Of "Expert 4 left: used twice so far, ...; next needed 3 tokens later." the part between."""
    return sentence.partition(" left: ")[2].partition(";")[0]


class _Words:
    """Texts that repeat, each kept once. Number 0 is the empty text."""

    def __init__(self, measure: str) -> None:
        self.table = [""]
        self._numbers = {"": 0}
        self._measure = measure  # the policy's words for one expert's score
        self._told: dict[tuple[float, int | None], int] = {}

    def number(self, text: str) -> int:
        if text not in self._numbers:
            self._numbers[text] = len(self.table)
            self.table.append(text)
        return self._numbers[text]

    def of_score(self, one: Resident) -> int:
        """Of a resident's score by itself: "used 52 times so far"."""
        if not self._measure:
            return 0
        key = one.score, one.last_use
        if key not in self._told:
            self._told[key] = self.number(self._in_words(*key))
        return self._told[key]

    def _in_words(self, score: float, passes: int | None) -> str:
        ago = "in this pass" if passes == 0 else f"{passes} token{'s' if passes != 1 else ''} ago"
        many = f"{score:.0f} times" if math.isfinite(score) else "never"
        times = {1.0: "once", 2.0: "twice"}.get(score, many)
        return self._measure.format(score=score, ago="never" if passes is None else ago, times=times)

"""Why each victim left, packed for the browser: the policy's words, the bound's choice, the regret, and who
was there.

The words, scores and regrets are those of `moeviz.numbers.explain`; nothing is decided here.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from moeviz.charts.stage.packing import packed
from moeviz.core.policies import POLICIES
from moeviz.core.run import Run
from moeviz.numbers.explain import Chosen, Explainer

MAX_RESIDENTS = 150_000  # of all evictions together; beyond that the page would grow past what a mail carries
SHOWN = 8  # residents told of one eviction: who leaves, the bound's choice, and those who would leave next


def stories_of(explainer: Explainer) -> dict[str, Any] | None:
    """Every eviction of a run. None where there are too many to carry.

    Per eviction: `load` the load that it made room for, `why` a number into `words`, `belady` the cell
    (layer x E + expert) that belady would have dropped, `regret` in forward passes (0: within one, -1: that
    one is never needed again); then `counts` residents, each with its cell, status, a number into `words`
    for its score (0: the policy has no words for a single one), and a length for its score's bar.
    """
    run = explainer.run
    if run.settings.baseline or not tellable(run):
        return None
    chosen = explainer.chosen
    words = _Words(POLICIES[run.settings.policy].measure, explainer)
    rows, counts = _shown(chosen)
    score = chosen.score[rows]
    return {
        "load": packed(chosen.load),
        "why": packed(np.array([words.number(explainer.reason(n)) for n in range(len(counts))], np.int64)),
        "belady": packed(chosen.belady),
        "regret": packed(chosen.regret),
        "counts": packed(counts),
        "cell": packed(chosen.cell[rows]),
        "status": packed(chosen.status[rows]),
        "says": packed(words.of_scores(score, chosen.last_use[rows])),
        "share": packed(np.rint(_lengths(score, counts) * 255).astype(np.int64)),
        "words": words.table,
    }


def tellable(run: Run) -> bool:
    """Whether the evictions of a run are few enough to carry."""
    return len(run.departures.load) * min(run.room.slots, SHOWN) <= MAX_RESIDENTS


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


def _shown(chosen: Chosen) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """Rows of at most SHOWN residents of each eviction, the first to leave first, the bound's choice among
    them; and how many they are.
    """
    first, counts = chosen.first[:-1], np.diff(chosen.first)
    rank = np.arange(len(chosen.cell)) - np.repeat(first, counts)
    bound = chosen.cell == np.repeat(chosen.belady, counts)
    far = (
        np.repeat(np.bincount(np.repeat(np.arange(len(first)), counts), bound & (rank >= SHOWN)), counts) > 0
    )
    keep = (rank < SHOWN) & ~(far & (rank == SHOWN - 1)) | (bound & far)
    return np.flatnonzero(keep), np.minimum(counts, SHOWN)


class _Words:
    """Texts that repeat, each kept once. Number 0 is the empty text."""

    def __init__(self, measure: str, explainer: Explainer) -> None:
        self.table = [""]
        self._numbers = {"": 0}
        self._measure = measure  # the policy's words for one expert's score, not filled in
        self._explainer = explainer

    def number(self, text: str) -> int:
        if text not in self._numbers:
            self._numbers[text] = len(self.table)
            self.table.append(text)
        return self._numbers[text]

    def of_scores(self, scores: NDArray[np.float64], last_use: NDArray[np.int64]) -> NDArray[np.int64]:
        """Of residents' scores by themselves: "used 52 times so far"."""
        told = self._measure
        if not told:
            return np.zeros(len(scores), np.int64)
        by_score = "{score" in told or "{times}" in told
        read = np.where([[by_score], ["{ago}" in told]], [scores, last_use], 0.0)
        each, places = np.unique(read, axis=1, return_inverse=True)
        numbers = [self.number(self._explainer.measure(score, int(ago))) for score, ago in each.T.tolist()]
        return np.array(numbers, np.int64)[places.reshape(-1)]

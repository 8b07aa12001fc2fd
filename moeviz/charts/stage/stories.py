"""Why each victim left, packed for the browser: the policy's words, the bound's choice, the regret, and who
else was there.

The words, scores and regrets are those of `moeviz.numbers.explain`; nothing is decided here.
"""

from __future__ import annotations

from typing import Any

import numpy as np

from moeviz.charts.stage.packing import packed
from moeviz.core.policies import POLICIES
from moeviz.numbers.explain import Eviction, Explainer

MAX_RESIDENTS = 150_000  # of all evictions together; beyond that the page would grow past what a mail carries
SHOWN = (
    8  # residents told of one eviction: who leaves, the bound's choice, and those who would have left next
)
STATUS = ("leaves", "could leave", "needed now", "held by a guess")
NEVER = -1  # regret: the bound's choice is never needed again


def stories_of(explainer: Explainer) -> dict[str, Any] | None:
    """Every eviction of a run. None where there are too many to carry.

    Per eviction: `load` the load that took the slot, `why` a number into `words`, `belady` the cell (layer x
    E + expert) that the bound would have dropped, `regret` in forward passes (0 none, -1: the bound's choice
    is never needed again); then `counts` residents, each with its cell, status, a number into `words` for its
    score (0: the policy has no words for a single one), and the score as a share of the largest one there.
    """
    run = explainer.run
    evictions = int((run.loads.victim_expert >= 0).sum())
    residents = evictions * min(run.settings.slots, SHOWN)
    if run.settings.baseline or residents > MAX_RESIDENTS:
        return None
    words = _Words()
    rows: list[tuple[int, int, int, int, int]] = []
    there: list[tuple[int, int, int, float]] = []
    measure = POLICIES[run.settings.policy].says.rpartition(",")[0]
    for event in np.unique(run.loads.event[run.loads.victim_expert >= 0]).tolist():
        step, layer = int(run.events.forward_pass[event]), int(run.events.layer[event])
        for eviction in explainer.evictions(step, layer):
            shown = _shown(eviction)
            top = max((abs(one.score) for one in shown if np.isfinite(one.score)), default=0.0) or 1.0
            for one in shown:
                share = min(abs(one.score) / top, 1.0) if np.isfinite(one.score) else 1.0
                ago = "" if one.last_use is None else _ago(one.last_use)
                text = _measured(measure, one.score, ago) if measure else ""
                cell = one.layer * run.experts + one.expert
                there.append((cell, STATUS.index(one.status), words.number(text), share))
            regret = NEVER if eviction.regret is None else eviction.regret
            belady = eviction.belady[0] * run.experts + eviction.belady[1]
            why = words.number(_reason(eviction.sentence))
            rows.append((eviction.load, why, belady, regret, len(shown)))
    table = np.array(rows, np.int64).reshape(-1, 5)
    names = ("load", "why", "belady", "regret", "counts")
    columns = np.array([row[:3] for row in there], np.int64).reshape(-1, 3)
    share = np.rint(np.array([row[3] for row in there]) * 255).astype(np.int64)
    return {
        **{name: packed(table[:, at]) for at, name in enumerate(names)},
        "cell": packed(columns[:, 0]),
        "status": packed(columns[:, 1]),
        "says": packed(columns[:, 2]),
        "share": packed(share),
        "words": words.table,
    }


def _shown(eviction: Eviction) -> list[Any]:
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


def _ago(passes: int) -> str:
    return "in this pass" if passes == 0 else f"{passes} token{'s' if passes > 1 else ''} ago"


def _measured(template: str, score: float, ago: str) -> str:
    times = {1: "once", 2: "twice"}.get(int(score), f"{score:.0f} times") if np.isfinite(score) else "never"
    return template.format(score=score, ago=ago or "never", times=times)


class _Words:
    """Texts that repeat, each kept once. Number 0 is the empty text."""

    def __init__(self) -> None:
        self.table = [""]
        self._numbers = {"": 0}

    def number(self, text: str) -> int:
        if text not in self._numbers:
            self._numbers[text] = len(self.table)
            self.table.append(text)
        return self._numbers[text]

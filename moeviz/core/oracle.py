"""What some settings have to know besides the run itself: how often a calibration trace used each expert, and what the future holds.

Knows no cache. `knowledge(settings, trace)` gives what a replay of `trace` under `settings` needs, and nothing more.
"""

from __future__ import annotations

import math
from bisect import bisect_right
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from moeviz.core.policies import NEEDS_FUTURE
from moeviz.core.predictors import BY_FUTURE
from moeviz.core.settings import ITSELF, Settings
from moeviz.core.trace import Trace
from moeviz.errors import SettingsError

BUNDLED_NAME = "moeviz demo model"  # in the traces of the bundled model
DOMAIN_USE = (
    Path(__file__).parents[1] / "demo_model" / "domains.json"
)  # written by moeviz.demo_model.evaluate


class Future:
    """What every event of a trace needs. Events are numbered forward pass x MoE layers + layer."""

    def __init__(self, trace: Trace) -> None:
        self.layers = trace.layers
        self._needs: dict[tuple[int, int], list[int]] = {}  # (pass, layer) -> experts, strongest first
        self._uses: dict[
            tuple[int, int], list[int]
        ] = {}  # (layer, expert) -> numbers of the events that need it
        for step, layer, experts, _ in trace.events():
            self._needs[step, layer] = experts
            for expert in experts:
                self._uses.setdefault((layer, expert), []).append(step * trace.layers + layer)

    def next_use(self, layer: int, expert: int, event: int) -> float:
        """Number of the first event after `event` that needs an expert; infinity where none does."""
        uses = self._uses.get((layer, expert), ())
        at = bisect_right(uses, event)
        return uses[at] if at < len(uses) else math.inf

    def uses(self, layer: int, expert: int) -> list[int]:
        """Numbers of all events that need an expert, ascending."""
        return self._uses.get((layer, expert), [])

    def needs(self, forward_pass: int, layer: int) -> list[int]:
        """Experts of an event, strongest first; none after the trace's end."""
        return self._needs.get((forward_pass, layer), [])


def strongest(experts: Sequence[Sequence[int]], weights: Sequence[Sequence[float]]) -> dict[int, float]:
    """Distinct experts of one event with their largest weights, strongest first.

    experts, weights: [token, rank], strongest first; -1 where a token uses fewer. Of equal weights the one that a router names first
    counts as the stronger.
    """
    if len(experts) == 1:
        return {e: w for e, w in zip(experts[0], weights[0], strict=True) if e >= 0}
    need: dict[int, float] = {}
    for row, row_weights in zip(experts, weights, strict=True):
        for expert, weight in zip(row, row_weights, strict=True):
            if expert >= 0:
                need[expert] = max(weight, need.get(expert, weight))
    return dict(sorted(need.items(), key=lambda item: -item[1]))


class Uses(Protocol):
    """Counts without order, as `moeviz.files.moecounts` reads them."""

    @property
    def counts(self) -> NDArray[np.float64]:
        """[L, E]"""


@dataclass(frozen=True, slots=True)
class Knowledge:
    """Nothing, unless settings ask for more."""

    calibration: list[list[int]] | None = None  # [layer][expert] accesses in the calibration trace
    future: Future | None = None


def needs_future(settings: Settings) -> bool:
    return not settings.baseline and (settings.policy in NEEDS_FUTURE or settings.prefetch in BY_FUTURE)


def knowledge(
    settings: Settings, trace: Trace | None, find: Callable[[str], Trace | Uses] | None = None
) -> Knowledge:
    """What a run under `settings` has to know; `trace` is the one replayed, or the future of a live run, None where there is none.

    `find` gives the trace or the counts of a calibration's name (default: `moeviz.files.library.named_trace`). Raises SettingsError where something is missing.
    """
    counts = future = None
    if settings.needs_calibration and settings.calibration:
        calibration = trace if settings.calibration == ITSELF else (find or _named)(settings.calibration)
        if calibration is None:
            raise SettingsError(
                f"calibration {ITSELF!r} is for replays. A live run is calibrated on a trace file or a sample."
            )
        counts = usage(calibration)
    if needs_future(settings):
        if trace is None:
            what = settings.policy if settings.policy in NEEDS_FUTURE else settings.prefetch
            raise SettingsError(
                f"{what!r} has to know the future: record a trace of the same prompt first and give it as the future."
            )
        future = Future(trace)
    return Knowledge(counts, future)


def usage(trace: Trace | Uses) -> list[list[int]]:
    """How many tokens chose each expert, as a trace shows or as counts without order say. [layer][expert]"""
    if not isinstance(trace, Trace):
        counts: list[list[int]] = trace.counts.tolist()
        return counts
    layers = trace.experts.transpose(1, 0, 2).reshape(trace.layers, -1)
    return [np.bincount(row[row >= 0], minlength=trace.num_experts).tolist() for row in layers]


def _named(name: str) -> Trace | Uses:
    from moeviz.files import library

    return library.named_trace(name)

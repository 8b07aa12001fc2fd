"""What some settings have to know besides the run itself: how often a calibration trace used each expert, and
what the future holds.

Knows no cache. `knowledge(settings, trace)` gives what a replay of `trace` under `settings` needs, and
nothing more.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from moeviz.core.policies import POLICIES
from moeviz.core.settings import ITSELF, Settings
from moeviz.core.trace import MAX_EXPERTS, Trace
from moeviz.errors import SettingsError

Floats = NDArray[np.float64]
BUNDLED_NAME = "moeviz demo model"  # in the traces of the bundled model
DOMAIN_USE = (
    Path(__file__).parents[1] / "demo_model" / "domains.json"
)  # written by moeviz.demo_model.evaluate


class Future:
    """What every event of a trace needs. Events are numbered forward pass x MoE layers + layer.

    `one_by_one`: the experts of an event are served one after the other, and numbered apart, by parts of one.
    """

    def __init__(self, trace: Trace, one_by_one: bool = False) -> None:
        needs = trace.events()
        self.layers, self._experts = trace.layers, trace.num_experts
        self.shape = (trace.layers, trace.num_experts)
        self._needs = needs
        self._numbers = needs.forward_pass.astype(np.int64) * trace.layers + needs.layer  # [N] ascending
        self._event = needs.access_event  # [M]
        self._place = needs.layer[self._event].astype(np.int64) * trace.num_experts + needs.expert  # [M]
        small = self._place.astype(np.min_scalar_type(trace.layers * trace.num_experts))  # quick
        order = np.argsort(small, kind="stable")  # uses of one expert together, in time order
        self._order = order
        self._begins = np.searchsorted(
            self._place[order], np.arange(trace.layers * trace.num_experts + 1)
        )  # [L x E + 1]
        self._number = self._numbers[self._event].astype(np.float64)  # [M]
        if one_by_one:
            self._number += (np.arange(len(order)) - needs.first[self._event]) / MAX_EXPERTS
        self._when = self._number[order]

    def next_uses(self) -> tuple[Floats, Floats]:
        """Number of the event that needs the expert of every access next [M], and of each expert's first [L x
        E]; infinity: none does."""
        return self._next_uses

    @cached_property
    def _next_uses(self) -> tuple[Floats, Floats]:
        order, place, when = self._order, self._place, self._number
        following = np.full(len(place), np.inf)
        same = place[order][1:] == place[order][:-1]
        following[order[:-1][same]] = when[order[1:][same]]
        first = np.full(self.layers * self._experts, np.inf)
        begins = order[np.append(True, ~same)]
        first[place[begins]] = when[begins]
        return following, first

    def number(self, forward_pass: int, layer: int, expert: int) -> float:
        """Number at which an event needs an expert."""
        own = self.accesses(forward_pass, layer)
        return float(self._number[own][self._needs.expert[own] == expert][0])

    def around(self, places: NDArray[np.int64], numbers: Floats) -> tuple[Floats, Floats]:
        """Of experts (layer x experts + expert) [N], each asked for at a number [N]: the number of its last
        use before that, minus infinity where there is none, and of the first after it, infinity likewise."""
        span = (
            len(self._needs) and float(self._numbers[-1]) + 2
        )  # of one expert's uses, so that one search does
        keys = self._place[self._order] * span + self._when
        wanted = places * span + numbers
        before, after = keys.searchsorted(wanted) - 1, keys.searchsorted(wanted, "right")
        begins, ends = self._begins[places], self._begins[places + 1]
        when = np.append(self._when, np.inf)
        return np.where(before >= begins, when[before], -np.inf), np.where(after < ends, when[after], np.inf)

    def accesses(self, forward_pass: int, layer: int) -> slice:
        """Rows of an event's experts, strongest first, among all accesses; an empty one after the trace's
        end."""
        number = forward_pass * self.layers + layer
        at = int(np.searchsorted(self._numbers, number))
        if at == len(self._numbers) or self._numbers[at] != number:
            return slice(0, 0)
        return slice(int(self._needs.first[at]), int(self._needs.first[at + 1]))

    def needs(self, forward_pass: int, layer: int) -> list[int]:
        """Experts of an event, strongest first; none after the trace's end."""
        found: list[int] = self._needs.expert[self.accesses(forward_pass, layer)].tolist()
        return found


def strongest(experts: Sequence[Sequence[int]], weights: Sequence[Sequence[float]]) -> dict[int, float]:
    """Distinct experts of one event with their largest weights, strongest first.

    experts, weights: [token, rank], strongest first; -1 where a token uses fewer. Of equal weights the one
    that a router names first counts as the stronger.
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

    calibration: NDArray[np.number] | None = None  # [L, E] accesses in the calibration trace
    future: Future | None = None

    @property
    def calibrated(self) -> Floats | None:
        """Accesses in the calibration trace, layer after layer. [L x E]"""
        return None if self.calibration is None else self.calibration.ravel().astype(np.float64)

    def check(self, layers: int, experts: int) -> None:
        """Raises SettingsError where the calibration or the future is of a model of another shape."""
        if self.future is not None and self.future.shape != (layers, experts):
            others, of = self.future.shape
            raise SettingsError(
                f"the run departs from the trace given as its future: that is of {others} MoE layers of "
                f"{of} experts, not {layers} of "
                f"{experts}. Give a trace of the same prompt, seed and temperature, as long as the run."
            )
        if self.calibration is not None and self.calibration.shape != (layers, experts):
            others, of = self.calibration.shape
            raise SettingsError(
                f"the calibration trace is of another model: {others} MoE layers of {of} experts, not "
                f"{layers} of "
                f"{experts}. Choose a trace of this model."
            )


def knowledge(
    settings: Settings, trace: Trace | None, find: Callable[[str], Trace | Uses] | None = None
) -> Knowledge:
    """What a run under `settings` has to know; `trace` is the one replayed, or the future of a live run, None
    where there is none.

    `find` gives the trace or the counts of a calibration's name (default:
    `moeviz.files.library.named_trace`). Raises SettingsError where something is missing.
    """
    counts = future = None
    if settings.needs_calibration and settings.calibration:
        calibration = trace if settings.calibration == ITSELF else (find or _named)(settings.calibration)
        if calibration is None:
            raise SettingsError(
                f"calibration {ITSELF!r} is for replays. A live run is calibrated on a trace file or a "
                "sample."
            )
        counts = usage(calibration)
    if settings.needs_future:
        if trace is None:
            what = settings.policy if "future" in POLICIES[settings.policy].needs else settings.prefetch
            raise SettingsError(
                f"{what!r} has to know the future: record a trace of the same prompt first and give it as "
                "the future."
            )
        future = Future(trace, settings.one_by_one)
    return Knowledge(counts, future)


def usage(trace: Trace | Uses) -> NDArray[np.number]:
    """How many tokens chose each expert, as a trace shows or as counts without order say. [L, E]"""
    if not isinstance(trace, Trace):
        return np.asarray(trace.counts)
    layers = trace.experts.transpose(1, 0, 2).reshape(trace.layers, -1)
    return np.array([np.bincount(row[row >= 0], minlength=trace.num_experts) for row in layers])


def _named(name: str) -> Trace | Uses:
    from moeviz.files import library

    return library.named_trace(name)

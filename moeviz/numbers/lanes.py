"""What compute and link do in a forward pass, in stretches of time: their form, and those of a measured run.
Modelled ones are made by `moeviz.numbers.cost`.

    measured_lanes(run, 3)[0].kind
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, fields
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from moeviz.core.run import Run

KINDS = ("expert", "stall", "other", "demand", "guess used", "guess wasted")  # of segments
OF_LINK = KINDS.index("demand")  # from here on they are of the link, before it of compute
_KIND = {name: number for number, name in enumerate(KINDS)}


class Segment(NamedTuple):  # a run has thousands, and a frozen dataclass takes longer to make
    """A stretch of one forward pass's time, ms since the pass began."""

    lane: str  # compute or link
    kind: str  # one of KINDS
    start: float
    end: float
    layer: int
    expert: int  # -1 where there is none


@dataclass(frozen=True, eq=False, slots=True)
class Lanes:
    """S segments of several forward passes, pass by pass."""

    forward_pass: NDArray[np.integer]
    kind: NDArray[np.int64]  # its place in KINDS
    start: NDArray[np.float64]  # ms since the pass began
    end: NDArray[np.float64]
    layer: NDArray[np.integer]
    expert: NDArray[np.integer]  # -1 where there is none

    @classmethod
    def from_segments(cls, passes: Sequence[Sequence[Segment]]) -> Lanes:
        """Those of each pass, from the first on."""
        flat = [one for segments in passes for one in segments]
        _, kind, start, end, layer, expert = tuple(zip(*flat, strict=True)) or ((),) * 6
        return cls(
            np.repeat(np.arange(len(passes)), [len(segments) for segments in passes]),
            np.array([_KIND[one] for one in kind], np.int64),
            np.array(start, np.float64),
            np.array(end, np.float64),
            np.array(layer, np.int64),
            np.array(expert, np.int64),
        )

    def then(self, other: Lanes) -> Lanes:
        """With the segments of others, which come after these in each pass."""
        both = (np.concatenate([getattr(self, f.name), getattr(other, f.name)]) for f in fields(self))
        whole = list(both)
        order = np.argsort(whole[0], kind="stable")
        return Lanes(*(column[order] for column in whole))


def measured_lanes(run: Run, step: int) -> list[Segment]:
    """What compute and link did in one forward pass of a measured run. Raises ValueError where it was not."""
    found = measured_passes(run, step, step + 1)
    columns = (found.kind, found.start, found.end, found.layer, found.expert)
    return [
        Segment("compute" if kind < OF_LINK else "link", KINDS[kind], *rest)
        for kind, *rest in zip(*(column.tolist() for column in columns), strict=True)
    ]


def measured_passes(run: Run, first: int, after: int) -> Lanes:
    """What compute and link did in the forward passes from `first` to before `after` of a measured run.

    Of an event only its start and its sums of waiting and computing were kept. Its wait is drawn in one piece
    that ends as the last copy which it waited for arrives: what was computed before came before it, the rest
    comes after. Raises ValueError where the run was not measured.
    """
    if run.times is None:
        raise ValueError("only a measured run has times.")
    times, loads = run.times, run.loads
    begin, stop = np.searchsorted(run.events.forward_pass, (first, after)).tolist()
    numbers, opens, own = np.unique(
        run.events.forward_pass[begin:stop], return_index=True, return_inverse=True
    )  # `own`: which of these passes an event is of
    layer = run.events.layer[begin:stop].astype(np.int64)
    began = times.event_start[begin:stop]
    closed = began + times.event_stall[begin:stop] + times.event_compute[begin:stop]
    zero, over = began[opens], np.maximum.reduceat(closed, opens) if len(opens) else closed

    earliest = np.searchsorted(over, times.load_start, "right")  # pass in which a copy is under way
    passes = np.searchsorted(zero, times.load_end, "left") - earliest
    copy = np.repeat(np.arange(len(passes)), np.where(times.load_start >= 0, np.maximum(passes, 0), 0))
    crossed = earliest[copy] + np.arange(len(copy)) - np.searchsorted(copy, copy)
    order = np.argsort(crossed, kind="stable")
    copy, crossed = copy[order], crossed[order]
    sent = (times.load_start[copy] - zero[crossed]) / 1e6
    ended = (times.load_end[copy] - zero[crossed]) / 1e6

    arrived = np.zeros((len(numbers), run.layers, run.experts))
    arrived[crossed, loads.layer[copy], loads.expert[copy]] = ended  # of several copies the last
    needs = slice(*np.searchsorted(run.accesses.event, (begin, stop)).tolist())
    event = run.accesses.event[needs] - begin
    came = np.zeros(stop - begin)
    np.maximum.at(came, event, arrived[own[event], layer[event], run.accesses.expert[needs]])

    start = (began - zero[own]) / 1e6
    stall, compute = times.event_stall[begin:stop] / 1e6, times.event_compute[begin:stop] / 1e6
    at = start + stall + compute
    before = np.roll(at, 1)
    before[opens] = 0.0
    held = np.where(stall > 0, start + np.clip(came - stall - start, 0.0, compute), at)
    edges = np.stack([before, start, held, held + stall, at], 1)
    row, piece = np.nonzero(edges[:, 1:] > edges[:, :-1])

    guess = np.where(loads.used[copy], _KIND["guess used"], _KIND["guess wasted"])
    kind = np.where(loads.speculative[copy], guess, _KIND["demand"])
    kinds = np.array([_KIND[name] for name in ("other", "expert", "stall", "expert")])
    compute_lane = Lanes(
        numbers[own[row]],
        kinds[piece],
        edges[row, piece],
        edges[row, piece + 1],
        layer[row],
        np.full(len(row), -1),
    )
    link_lane = Lanes(
        numbers[crossed],
        kind,
        np.maximum(sent, 0.0),
        np.minimum(ended, ((over - zero) / 1e6)[crossed]),
        loads.layer[copy],
        loads.expert[copy],
    )
    return compute_lane.then(link_lane)

"""The events of a whole trace, laid out to be served: which experts are needed together, in which pools, at
which ticks of the clock.

Without pre-fetching every event's clock, count of touches and next uses are known beforehand, whatever the
cache holds. So a replay serves an event of every layer at once where layers own their slots, and a curve
those of many slot counts too (`moeviz.core.serving`). Knows no policy and decides nothing.

    Steps(trace, Knowledge(), settings).place      # of every access's expert
"""

from __future__ import annotations

from collections.abc import Callable, Container, Iterator
from functools import cached_property
from itertools import pairwise

import numpy as np
from numpy.typing import NDArray

from moeviz.core.columns import Floats, Ints
from moeviz.core.oracle import Knowledge
from moeviz.core.pools import Pools
from moeviz.core.settings import Settings
from moeviz.core.trace import Trace
from moeviz.core.use import Touch

Index = slice | Ints  # of accesses


class Steps:
    """The accesses of a trace under the rule and scope of some settings.

    labels: [pass, layer] what hits are counted apart by, from 0; None: the phase of the pass.
    """

    def __init__(
        self,
        trace: Trace,
        known: Knowledge,
        settings: Settings,
        labels: Ints | None = None,
    ) -> None:
        needs = trace.events()
        self.settings, self.needs = settings, needs
        self.experts, self.layers = trace.num_experts, trace.layers
        self.own = settings.scope == "layer" or bool(settings.baseline)  # every layer has a pool of its own
        self.single = settings.one_by_one  # every access is served by itself
        count = len(needs.expert)
        self.event = needs.access_event  # of every access [M]
        self._all = slice(0, count)
        self.first: Ints = needs.first.astype(np.intp)  # access of each event, and their number [N + 1]
        layer = needs.layer.astype(np.intp)
        self._before = layer * trace.num_experts  # places before those of each event's layer
        self.weight = needs.weight  # of the router, for every access [M]
        self.next_use: Floats = (  # after every access [M]
            known.future.next_uses()[0] if known.future else np.broadcast_to(np.inf, count)
        )
        self.of_a_pass = labels is None  # all layers of a pass have one label
        self._event_label: Ints = (
            trace.pass_phase[needs.forward_pass].astype(np.intp)
            if labels is None
            else labels[needs.forward_pass, layer]
        )
        self.labels = 2 if labels is None else int(labels.max(initial=0)) + 1
        self.tokens: list[int] = np.cumsum(  # that have entered the model by each pass
            [tokens.stop - tokens.start for tokens in trace.passes()]
        ).tolist()

    # Columns of all accesses are made when they are asked for, and, where pools are served together, of a
    # block at a time: those of a long trace leave the processor's cache, and each then costs as much as
    # serving some of it.

    @cached_property
    def place(self) -> Ints:
        """Place of every access's expert. [M]"""
        return self.place_of(self._all)

    @cached_property
    def label(self) -> Ints:
        """What every access is counted under. [M]"""
        return self._event_label.take(self.event)

    @cached_property
    def row(self) -> Ints:
        """Pool of every access. [M]"""
        layer = self.needs.layer.astype(np.intp)
        return layer.take(self.event) if self.own else np.zeros(len(self.event), np.intp)

    @cached_property
    def _begin(self) -> Floats:
        """Touches before the experts that are served together with each. [M]"""
        return self._begin_of(self._all).astype(np.float64)

    @cached_property
    def _touch_clock(self) -> Floats:
        return self._touch_clock_of(self._all)

    @cached_property
    def _touch_number(self) -> Floats:
        return self._touch_number_of(self._all)

    def place_of(self, block: slice) -> Ints:
        """`place` of a block of accesses."""
        return self._before.take(self.event[block]) + self.needs.expert[block]

    def _begin_of(self, block: slice) -> Ints:
        return np.arange(block.start, block.stop) if self.single else self.first.take(self.event[block])

    def _touch_number_of(self, block: slice) -> Floats:
        if self.settings.in_order:
            return _numbers(block) + 1
        return self._counted_down(2, 1, block)

    def _touch_clock_of(self, block: slice) -> Floats:
        if self.settings.in_order:
            return self.first[1:].take(self.event[block]) + _numbers(block) + 1
        return self._counted_down(3, 2, block)

    def load_clock_of(self, block: slice) -> Floats:
        """Clock of the load of each of a block of accesses, if it is one."""
        return self._begin_of(block) + _numbers(block) + 1

    def _counted_down(self, begins: int, sizes: int, block: slice) -> Floats:
        """begins x the first access of each event + sizes x the event's accesses - the access's number: the
        strongest is touched last."""
        if self.single:
            return (begins - 1) * _numbers(block) + sizes
        event = self.event[block]
        first = self.first[event[0] : event[-1] + 2]
        of_event: Ints = begins * first[:-1] + sizes * np.diff(first)
        found: Floats = of_event.take(event - event[0]) - _numbers(block)
        return found

    def given(self, columns: Container[str], block: slice | None = None) -> list[tuple[str, Floats]]:
        """What touches are told, by field of Touch, of a block of accesses or of all, where pools keep these
        columns."""
        own = block or self._all
        found = [("clock", self._touch_clock if block is None else self._touch_clock_of(own))]
        if "touch_number" in columns:
            found.append(("number", self._touch_number if block is None else self._touch_number_of(own)))
        if "average" in columns or "weight" in columns:
            found.append(("weight", self.weight[own]))
        if "next_use" in columns:
            found.append(("next_use", self.next_use[own]))
        return found

    @property
    def accesses(self) -> int:
        return len(self.event)

    @property
    def clocks(self) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
        """Clock of every access's load, if it is one, and of its touch. [M] each"""
        return self.load_clock_of(self._all), self._touch_clock

    @property
    def by_touch(self) -> Ints:
        """Every access, in the order of touches: of those that are served together the strongest is last,
        unless the rule is in-order. [M]"""
        if self.settings.in_order or self.single:
            return np.arange(self.accesses)
        return (self.first[:-1] + self.first[1:] - 1).take(self.event) - np.arange(self.accesses)

    def ends(self) -> list[int]:
        """One past the last access of each event of one pool for all layers, in order."""
        return list(range(1, len(self.event) + 1)) if self.single else self.first[1:].tolist()

    @property
    def largest(self) -> int:
        """Most experts that are served together."""
        return 1 if self.single else int(np.diff(self.first).max())

    @cached_property
    def _event_at(self) -> Ints:
        """First event of every forward pass, and the number of events. [F + 1]"""
        return self.needs.forward_pass.searchsorted(np.arange(len(self.tokens) + 1))

    @cached_property
    def pass_begins(self) -> list[int]:
        """First access of every forward pass, and the number of accesses. [F + 1]"""
        found: list[int] = self.first[self._event_at].tolist()
        return found

    @cached_property
    def even(self) -> int:
        """Experts of every event, where every pass has an event of every pool and all are served at once;
        else 0."""
        rows = self.layers if self.own else 1
        served = len(self.tokens) * (1 if self.own else self.layers)
        most = int(np.diff(self.first).max())
        return most if not self.single and len(self.event) == served * rows * most else 0

    def members(self, pools: Pools | None = None) -> Iterator[tuple[Index, Ints, Ints]]:
        """Accesses that are served together, their places and pools, in order. `pools`: is told the moment of
        each."""
        rows = self.layers if self.own else 1
        layers, touches = np.arange(rows, dtype=np.float64)[:, None], np.empty((1, rows))
        for step, index, _ in self.groups():
            if pools is not None:
                self.tell(pools, step, index, layers, touches)
            yield index, self.place[index], self.row[index]

    def passes(self, pools: Pools) -> Iterator[tuple[int, int, Ints, Ints]]:
        """Accesses of each forward pass of one pool, from and to, which of the pass's events each is of, and
        the first access of each of these. `pools`: is told the moments of those events, [event, 1]."""
        first: Ints = np.array([0, *self.ends()[:-1]], np.intp)  # access of each event
        count = len(self.event)
        event = np.arange(count) if self.single else self.event
        layer = self.needs.layer[self.event[first]].astype(np.float64)[:, None]
        touches = self._begin[first][:, None]
        clock, now = 2 * touches, pools.now
        bounds = self.pass_begins
        event_at = first.searchsorted(bounds)
        for step, (begin, end) in enumerate(pairwise(bounds)):
            if begin == end:
                continue
            own = slice(event_at[step], event_at[step + 1])
            now.forward_pass, now.tokens = step, self.tokens[step]
            now.layer, now.touches, now.clock = layer[own], touches[own], clock[own]
            yield begin, end, event[begin:end] - own.start, first[own]

    def touches(self, columns: Container[str]) -> Callable[[Index], Touch]:
        """What gives the touches of accesses of one pass, always in the same Touch. `columns`: that pools
        keep."""
        touch, given = Touch(0.0, half_life=self.settings.half_life), self.given(columns)
        forward_pass = self.needs.forward_pass.take(self.event).tolist()

        def of(index: Index) -> Touch:
            step = forward_pass[index.start if isinstance(index, slice) else index[0]]
            touch.forward_pass, touch.tokens = step, self.tokens[step]
            for name, column in given:
                setattr(touch, name, column[index])
            return touch

        return of

    def ranks(self, pools: Pools) -> Ints:
        """Rank of every access among all, by its expert's score after it, for scores that change with a touch
        only. [M]"""
        scores, touch_of = np.empty(len(self.event)), self.touches(pools.columns)
        for begin, end in pairwise(self.pass_begins):
            if begin < end:  # each expert is needed at most once in a pass
                index = slice(begin, end)
                place = self.place[index]
                pools.touch(place, touch_of(index))
                scores[index] = pools.scores(place)
        order = scores.argsort() if pools.policy.distinct else np.lexsort((self._touch_clock, scores))
        ranks = np.empty(len(order), np.intp)
        ranks[order] = np.arange(len(order))
        return ranks

    def tell(self, pools: Pools, step: int, index: Index, layers: Floats, touches: Floats) -> None:
        """The moment before accesses are served. `touches`: room for those of each pool [copies, pool]."""
        now = pools.now
        now.forward_pass, now.tokens = step, self.tokens[step]
        if self.own and self.even:
            moments = self._moments[step]
            if len(touches) > 1:
                moments = np.tile(moments, (len(touches), 1))
            now.layer, now.touches, now.clock = layers, moments[0], moments[1]
            return
        if self.own:
            now.layer = layers
            touches.fill(len(self.event))  # of pools not served: no less than any number of theirs
            touches[:, self.row[index]] = self._begin[index]
            now.touches = touches.reshape(-1, 1)
        else:
            now.layer, now.touches = self.needs.layer[self.event[index][0]], self._begin[index][0]
        now.clock = 2 * now.touches

    @cached_property
    def _moments(self) -> Floats:
        """Where passes are even, touches and clock before the event of each pool. [pass, 2, pool, 1]"""
        touches = self.first[:-1].astype(np.float64).reshape(len(self.tokens), 1, -1, 1)
        return np.concatenate((touches, 2 * touches), 1)

    def groups(self) -> Iterator[tuple[int, Index, int]]:
        """(pass, accesses with at most one event of each pool, experts of the largest event), in the order in
        which they are served."""
        needs = self.needs
        largest = np.diff(self.first)
        if not self.own:
            begin = 0
            for end in self.ends():
                event = self.event[begin]
                yield int(needs.forward_pass[event]), slice(begin, end), end - begin
                begin = end
            return
        at, bounds = self._event_at, self.pass_begins
        steps = np.flatnonzero(np.diff(at))  # passes without events are none
        most = np.maximum.reduceat(largest, at[steps]).tolist()
        for step, largest_here in zip(steps.tolist(), most, strict=True):
            begin, end = bounds[step], bounds[step + 1]
            if not self.single:
                yield step, slice(begin, end), largest_here
                continue
            rank = np.arange(begin, end) - self.first[self.event[begin:end]]
            for number in range(largest_here):
                yield step, begin + (rank == number).nonzero()[0], 1


def _numbers(block: slice) -> Floats:
    return np.arange(block.start, block.stop, dtype=np.float64)

"""The events of a whole trace, laid out to be served: which experts are needed together, in which pools, at
which ticks of the clock.

Without pre-fetching every event's clock, count of touches and next uses are known beforehand, whatever the
cache holds. So a replay serves an event of every layer at once where layers own their slots, and a curve
those of many slot counts too. Knows no policy.

    Steps(trace, Knowledge(), settings).serve(pools).hit      # of every access
"""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Callable, Container, Iterator
from dataclasses import dataclass
from functools import cached_property
from itertools import pairwise

import numpy as np
from numpy.typing import NDArray

from moeviz.core.columns import Floats, Ints
from moeviz.core.lists import wrong_victim
from moeviz.core.oracle import Knowledge
from moeviz.core.pools import Pools, in_waves
from moeviz.core.settings import Settings
from moeviz.core.trace import Trace
from moeviz.core.use import LOADED, Touch

Index = slice | Ints
BLOCK = 1 << 15  # accesses whose columns are made at a time, whole passes
FEW = 8  # members of an event up to which a list of them is quicker to look through than to make a set of


@dataclass(frozen=True, eq=False, slots=True)
class Served:
    """What became of the M accesses of a trace, strongest first in each event, and of the P loads, in the
    order of their copies."""

    hit: NDArray[np.bool_]  # [M] whether the expert was there when its turn came
    load: Ints  # [P] the access that each load is for
    load_slot: NDArray[np.int32]  # [P]
    victim: NDArray[np.int32]  # [P] layer x experts + expert of who left; -1: nobody
    leaver_load: NDArray[np.int32]  # [Q] the load, of P, that somebody besides its victim left for
    leaver: NDArray[np.int32]  # [Q] layer x experts + expert


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
        self.settings, self._needs = settings, needs
        self._experts, self._layers = trace.num_experts, trace.layers
        self._own = settings.scope == "layer" or bool(settings.baseline)
        self._single = settings.one_by_one
        count = len(needs.expert)
        self._event = needs.access_event
        self._all = slice(0, count)
        self._first: Ints = needs.first.astype(np.intp)
        layer = needs.layer.astype(np.intp)
        self._before = layer * trace.num_experts  # places before those of each event's layer
        self._weight = needs.weight
        self._next: Floats = known.future.next_uses()[0] if known.future else np.broadcast_to(np.inf, count)
        self._of_a_pass = labels is None  # all layers of a pass have one label
        self._event_label: Ints = (
            trace.pass_phase[needs.forward_pass].astype(np.intp)
            if labels is None
            else labels[needs.forward_pass, layer]
        )
        self.labels = 2 if labels is None else int(labels.max(initial=0)) + 1
        self._tokens: list[int] = np.cumsum(  # that have entered the model by each pass
            [tokens.stop - tokens.start for tokens in trace.passes()]
        ).tolist()

    # Columns of all accesses are made when they are asked for, and, where pools are served together, of a
    # block at a time: those of a long trace leave the processor's cache, and each then costs as much as
    # serving some of it.

    @cached_property
    def place(self) -> Ints:
        """Place of every access's expert. [M]"""
        return self._place_of(self._all)

    @cached_property
    def label(self) -> Ints:
        """What every access is counted under. [M]"""
        return self._event_label.take(self._event)

    @cached_property
    def _row(self) -> Ints:
        """Pool of every access. [M]"""
        layer = self._needs.layer.astype(np.intp)
        return layer.take(self._event) if self._own else np.zeros(len(self._event), np.intp)

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

    def _place_of(self, block: slice) -> Ints:
        return self._before.take(self._event[block]) + self._needs.expert[block]

    def _begin_of(self, block: slice) -> Ints:
        return np.arange(block.start, block.stop) if self._single else self._first.take(self._event[block])

    def _touch_number_of(self, block: slice) -> Floats:
        if self.settings.in_order:
            return _numbers(block) + 1
        return self._counted_down(2, 1, block)

    def _touch_clock_of(self, block: slice) -> Floats:
        if self.settings.in_order:
            return self._first[1:].take(self._event[block]) + _numbers(block) + 1
        return self._counted_down(3, 2, block)

    def _load_clock_of(self, block: slice) -> Floats:
        return self._begin_of(block) + _numbers(block) + 1

    def _counted_down(self, begins: int, sizes: int, block: slice) -> Floats:
        """begins x the first access of each event + sizes x the event's accesses - the access's number: the
        strongest is touched last."""
        if self._single:
            return (begins - 1) * _numbers(block) + sizes
        event = self._event[block]
        first = self._first[event[0] : event[-1] + 2]
        of_event: Ints = begins * first[:-1] + sizes * np.diff(first)
        found: Floats = of_event.take(event - event[0]) - _numbers(block)
        return found

    def _given(self, columns: Container[str], block: slice | None = None) -> list[tuple[str, Floats]]:
        """What touches are told, by field of Touch, of a block of accesses or of all, where pools keep these
        columns."""
        own = block or self._all
        found = [("clock", self._touch_clock if block is None else self._touch_clock_of(own))]
        if "touch_number" in columns:
            found.append(("number", self._touch_number if block is None else self._touch_number_of(own)))
        if "average" in columns or "weight" in columns:
            found.append(("weight", self._weight[own]))
        if "next_use" in columns:
            found.append(("next_use", self._next[own]))
        return found

    def serve(self, pools: Pools) -> Served:
        """Serves every event in pools of one slot count."""
        if pools.lists is not None:
            return self._by_lists(pools)
        if pools.rows == 1:
            return self._one_pool(pools)
        count = len(self._event)
        hit, load = np.empty(count, np.bool_), np.empty(count, np.intp)
        load_slot, victim = np.empty(count, np.int32), np.empty(count, np.int32)
        loads = 0
        for index, before, gone, slots, victims in self._walk(pools):
            hit[index] = before >= 0
            if len(gone):
                now = slice(loads, loads := loads + len(gone))
                load[now] = gone + index.start if isinstance(index, slice) else index[gone]
                load_slot[now], victim[now] = slots, victims
        nobody = np.empty(0, np.int32)
        found = load[:loads], load_slot[:loads], victim[:loads]
        if self._single:  # one member of each event was served after the other
            order = np.argsort(self._event[found[0]], kind="stable")
            return Served(hit, found[0][order], found[1][order], found[2][order], nobody, nobody)
        return Served(hit, *found, nobody, nobody)

    def hits(self, pools: Pools) -> NDArray[np.int64]:
        """Serves every event in pools of several slot counts, one after the other in `pools`; of one slot
        count where lists decide. Hits by label. [slot count, label]"""
        copies = len(pools.slot_of) // (self._layers * self._experts)
        found = np.zeros((copies, self.labels), np.int64)
        if pools.rows == 1 or pools.lists is not None:
            found[0] = np.bincount(self.label[self.serve(pools).hit], minlength=self.labels)
            return found
        first, hits = [], []
        for index, before, gone, *_ in self._walk(pools):
            if self._of_a_pass:
                first.append(index.start if isinstance(index, slice) else index[0])
                hits.append((before >= 0).sum(1) if copies > 1 else before.size - len(gone))
                continue
            here = self.label[index]
            begins = np.flatnonzero(np.diff(here, prepend=-1))
            there = (before >= 0).reshape(copies, -1)
            np.add.at(found.T, here[begins], np.add.reduceat(there, begins, 1, np.int64).T)
        if first:
            np.add.at(found.T, self.label[first], np.reshape(hits, (-1, copies)))
        return found

    @property
    def accesses(self) -> int:
        return len(self._event)

    @property
    def clocks(self) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
        """Clock of every access's load, if it is one, and of its touch. [M] each"""
        return self._load_clock_of(self._all), self._touch_clock

    @property
    def by_touch(self) -> Ints:
        """Every access, in the order of touches: of those that are served together the strongest is last,
        unless the rule is in-order. [M]"""
        if self.settings.in_order or self._single:
            return np.arange(self.accesses)
        return (self._first[:-1] + self._first[1:] - 1).take(self._event) - np.arange(self.accesses)

    def ends(self) -> list[int]:
        """One past the last access of each event of one pool for all layers, in order."""
        return list(range(1, len(self._event) + 1)) if self._single else self._first[1:].tolist()

    @property
    def largest(self) -> int:
        """Most experts that are served together."""
        return 1 if self._single else int(np.diff(self._first).max())

    @cached_property
    def _event_at(self) -> Ints:
        """First event of every forward pass, and the number of events. [F + 1]"""
        return self._needs.forward_pass.searchsorted(np.arange(len(self._tokens) + 1))

    @cached_property
    def _pass_begins(self) -> list[int]:
        """First access of every forward pass, and the number of accesses. [F + 1]"""
        found: list[int] = self._first[self._event_at].tolist()
        return found

    @cached_property
    def even(self) -> int:
        """Experts of every event, where every pass has an event of every pool and all are served at once;
        else 0."""
        rows = self._layers if self._own else 1
        served = len(self._tokens) * (1 if self._own else self._layers)
        most = int(np.diff(self._first).max())
        return most if not self._single and len(self._event) == served * rows * most else 0

    def members(self, pools: Pools | None = None) -> Iterator[tuple[Index, Ints, Ints]]:
        """Accesses that are served together, their places and pools, in order. `pools`: is told the moment of
        each."""
        rows = self._layers if self._own else 1
        layers, touches = np.arange(rows, dtype=np.float64)[:, None], np.empty((1, rows))
        for step, index, _ in self._groups():
            if pools is not None:
                self._tell(pools, step, index, layers, touches)
            yield index, self.place[index], self._row[index]

    def passes(self, pools: Pools) -> Iterator[tuple[int, int, Ints]]:
        """Accesses of each forward pass of one pool, from and to, and which of the pass's events each is of.
        `pools`: is told the moments of those events, [event, 1]."""
        first: Ints = np.array([0, *self.ends()[:-1]], np.intp)  # access of each event
        count = len(self._event)
        event = np.arange(count) if self._single else self._event
        layer = self._needs.layer[self._event[first]].astype(np.float64)[:, None]
        touches = self._begin[first][:, None]
        clock, now = 2 * touches, pools.now
        bounds = self._pass_begins
        event_at = first.searchsorted(bounds)
        for step, (begin, end) in enumerate(pairwise(bounds)):
            if begin == end:
                continue
            own = slice(event_at[step], event_at[step + 1])
            now.forward_pass, now.tokens = step, self._tokens[step]
            now.layer, now.touches, now.clock = layer[own], touches[own], clock[own]
            yield begin, end, event[begin:end] - own.start

    def touches(self, columns: Container[str]) -> Callable[[Index], Touch]:
        """What accesses of one pass are touched with: of any, in the same Touch. `columns`: that pools keep."""
        touch, given = Touch(0.0, half_life=self.settings.half_life), self._given(columns)
        forward_pass = self._needs.forward_pass.take(self._event).tolist()

        def of(index: Index) -> Touch:
            step = forward_pass[index.start if isinstance(index, slice) else index[0]]
            touch.forward_pass, touch.tokens = step, self._tokens[step]
            for name, column in given:
                setattr(touch, name, column[index])
            return touch

        return of

    def ranks(self, pools: Pools) -> Ints:
        """Rank of every access among all, by its expert's score after it, for scores that change with a touch
        only. [M]"""
        scores, touch_of = np.empty(len(self._event)), self.touches(pools.columns)
        for begin, end in pairwise(self._pass_begins):
            if begin < end:  # each expert is needed at most once in a pass
                index = slice(begin, end)
                place = self.place[index]
                pools.touch(place, touch_of(index))
                scores[index] = pools.scores(place)
        order = scores.argsort() if pools.policy.distinct else np.lexsort((self._touch_clock, scores))
        ranks = np.empty(len(order), np.intp)
        ranks[order] = np.arange(len(order))
        return ranks

    def _one_pool(self, pools: Pools) -> Served:
        """One pool for all layers: event by event."""
        needs, now = self._needs, pools.now
        limits = [pools.limit(0, layer * self._experts) for layer in range(self._layers)]
        place, given = self.place, self._given(pools.columns)
        touch = Touch(0.0, half_life=now.half_life)
        load: list[int] = []
        load_slot: list[int] = []
        victim: list[int] = []
        leavers: list[tuple[int, int]] = []  # load, who left
        first = [0, *self.ends()]
        events = self._event.tolist() if self._single else range(len(needs))
        layers, passes = needs.layer.tolist(), needs.forward_pass.tolist()
        tokens = self._tokens
        serve = pools.serve
        for step, event in enumerate(events):
            begin, end = first[step], first[step + 1]
            now.layer, now.forward_pass = layers[event], passes[event]
            now.tokens = tokens[now.forward_pass]
            now.touches, now.clock = begin, 2 * begin
            if end - begin > limits[layers[event]]:
                _, _, gone, slots, victims = self._apart(pools, event, 1)
                load += (gone + begin).tolist()
                load_slot += slots.tolist()
                victim += victims.tolist()
                if pools.leavers:
                    leavers += self._leavers(pools, load, begin)
                continue
            for name, column in given:
                setattr(touch, name, column[begin:end])
            touch.forward_pass, touch.tokens = now.forward_pass, now.tokens
            _, loads = serve(0, place[begin:end], touch, 2 * begin)
            for rank, to, who in loads:
                load.append(begin + rank)
                load_slot.append(to)
                victim.append(who)
            if pools.leavers:
                leavers += self._leavers(pools, load, begin)
        return self._served(load, load_slot, victim, [at for at, _ in leavers], [who for _, who in leavers])

    def _served(self, load: list[int], *others: list[int]) -> Served:
        """Every access hit that no load is for. others: as Served names them."""
        hit, access = np.ones(len(self._event), np.bool_), np.array(load, np.intp)
        hit[access] = False
        return Served(hit, access, *(np.array(values, np.int32) for values in others))

    def _by_lists(self, pools: Pools) -> Served:
        """Where lists decide: event by event, in plain numbers, which are quicker than columns for so few.
        Lists are told what `Pools.serve` tells them."""
        assert pools.lists is not None
        each = []
        for row, lists in enumerate(pools.lists):
            slot_of = {place: slot for slot, place in enumerate(pools.residents(row).tolist())}
            limit = int(pools.limits[row])
            each.append((limit, slot_of, lists.missed, lists.leaves, lists.came, lists.used))
        load: list[int] = []
        load_slot: list[int] = []
        victims: list[int] = []
        begins = np.array([0, *self.ends()[:-1]])
        places, rows = self.place.tolist(), self._row[begins].tolist()
        for row, begin, end in zip(rows, begins.tolist(), self.ends(), strict=True):
            event = places[begin:end]
            limit, slot_of, missed, leaves, came, used = each[row]
            for own in (event,) if len(event) <= limit else in_waves(event, slot_of, limit):
                new: list[int] = []
                for one in own:
                    if one in slot_of:
                        continue
                    missed(one)
                    victim, slot = -1, len(slot_of)
                    if slot == limit:
                        victim = leaves(own if slot <= FEW else set(own))
                        if not isinstance(victim, int) or victim in own or victim not in slot_of:
                            raise wrong_victim(pools.policy.name)
                        slot = slot_of.pop(victim)
                    slot_of[one] = slot
                    came(one)
                    new.append(one)
                    load.append(begin + event.index(one))
                    load_slot.append(slot)
                    victims.append(victim)
                order = own if pools.in_order else own[::-1]
                if new:
                    for one in order:
                        used(one, one not in new)
                else:
                    for one in order:
                        used(one, True)
        return self._served(load, load_slot, victims, [], [])

    def _leavers(self, pools: Pools, load: list[int], begin: int) -> list[tuple[int, int]]:
        """Takes those who left besides victims: the load each left for, and its place. load: access of each
        load so far; begin: first access of the event."""
        number = {int(self.place[load[at]]): at for at in range(bisect_left(load, begin), len(load))}
        found = [(number[came], left) for came, left in pools.leavers]
        pools.leavers.clear()
        return found

    def _walk(self, pools: Pools) -> Iterator[tuple[Index, Ints, Ints, Ints, Ints]]:
        """One event of every pool at a time: accesses, their slots before ([slot count, access], of one slot
        count [access]), and the loads as `serve_rows` gives them."""
        copies = len(pools.slot_of) // (self._layers * self._experts)
        rows = pools.rows // copies  # of one slot count
        copy = np.arange(copies)[:, None]
        shift, row_shift = copy * (self._layers * self._experts), copy * rows
        steady, now = pools.policy.steady, pools.now
        layers = np.tile(np.arange(self._layers, dtype=np.float64), copies)[:, None]
        touches = np.empty((copies, rows))
        touch = Touch(0.0, half_life=now.half_life)
        least, timed = int(pools.limits.min()), bool(pools.policy.reads & LOADED.keys())
        bounds = self._pass_begins
        end = start = 0  # of the block, in passes and in accesses
        # pool of each access of a pass, the same in all
        of_pass = np.arange(rows).repeat(self.even) + (row_shift if copies > 1 else 0)
        for step, index, largest in self._groups():
            if step >= end:
                start = bounds[step]
                end = max(step + 1, bisect_left(bounds, start + BLOCK))
                block = slice(start, bounds[min(end, len(self._tokens))])
                place, given = self._place_of(block), self._given(pools.columns, block)
                clock = self._load_clock_of(block) if timed else None
            if largest > least:
                assert isinstance(index, slice)
                for event in range(self._event[index.start], self._event[index.stop - 1] + 1):
                    yield self._apart(pools, event, copies)
                continue
            if not steady:
                self._tell(pools, step, index, layers, touches)
            here: Index = index - start if isinstance(index, np.ndarray) else _back(index, start)
            for name, column in given:
                setattr(touch, name, column[here])
            touch.forward_pass, touch.tokens = step, self._tokens[step]
            at = place[here] if copies == 1 else place[here] + shift
            own = of_pass
            if not self.even:
                own = self._row[index] if copies == 1 else self._row[index] + row_shift
            loaded = None if clock is None else clock[here]
            yield index, *pools.serve_rows(at, own, touch, loaded)

    def _tell(self, pools: Pools, step: int, index: Index, layers: Floats, touches: Floats) -> None:
        """The moment before accesses are served. `touches`: room for those of each pool [copies, pool]."""
        now = pools.now
        now.forward_pass, now.tokens = step, self._tokens[step]
        if self._own and self.even:
            moments = self._moments[step]
            if len(touches) > 1:
                moments = np.tile(moments, (len(touches), 1))
            now.layer, (now.touches, now.clock) = layers, moments
            return
        if self._own:
            now.layer = layers
            touches.fill(len(self._event))  # of pools not served: no less than any number of theirs
            touches[:, self._row[index]] = self._begin[index]
            now.touches = touches.reshape(-1, 1)
        else:
            now.layer, now.touches = self._needs.layer[self._event[index][0]], self._begin[index][0]
        now.clock = 2 * now.touches

    @cached_property
    def _moments(self) -> Floats:
        """Where passes are even, touches and clock before the event of each pool. [pass, 2, pool, 1]"""
        touches = self._first[:-1].astype(np.float64).reshape(len(self._tokens), 1, -1, 1)
        return np.concatenate((touches, 2 * touches), 1)

    def _groups(self) -> Iterator[tuple[int, Index, int]]:
        """(pass, accesses with at most one event of each pool, experts of the largest event), in the order in
        which they are served."""
        needs = self._needs
        largest = np.diff(self._first)
        if not self._own:
            begin = 0
            for end in self.ends():
                event = self._event[begin]
                yield int(needs.forward_pass[event]), slice(begin, end), end - begin
                begin = end
            return
        at, bounds = self._event_at, self._pass_begins
        steps = np.flatnonzero(np.diff(at))  # passes without events are none
        most = np.maximum.reduceat(largest, at[steps]).tolist()
        for step, largest_here in zip(steps.tolist(), most, strict=True):
            begin, end = bounds[step], bounds[step + 1]
            if not self._single:
                yield step, slice(begin, end), largest_here
                continue
            rank = np.arange(begin, end) - self._first[self._event[begin:end]]
            for number in range(largest_here):
                yield step, begin + (rank == number).nonzero()[0], 1

    def _apart(self, pools: Pools, event: int, copies: int) -> tuple[Index, Ints, Ints, Ints, Ints]:
        """An event that needs more than the slots of some slot count: in waves, and for each slot count by
        itself.

        As `_walk` yields; the loads are those of the last slot count.
        """
        begin, end = int(self._first[event]), int(self._first[event + 1])
        now, layer = pools.now, int(self._needs.layer[event])
        now.layer, now.forward_pass = layer, int(self._needs.forward_pass[event])
        now.tokens = self._tokens[now.forward_pass]
        rows = pools.rows // copies
        before: Ints = np.empty((copies, end - begin), np.intp)
        loads: list[tuple[int, int, int]] = []
        for copy in range(copies):
            row = copy * rows + (layer if self._own else 0)
            places = self.place[begin:end] + copy * self._layers * self._experts
            number = {place: at for at, place in enumerate(places.tolist())}
            resident = {place for place in number if pools.slot_of[place] >= 0}
            now.touches, now.clock = begin, 2 * begin
            loads = []
            for wave in in_waves(list(number), resident, pools.limit(row, int(places[0]))):
                ranks = [number[place] for place in wave]
                at = np.array(ranks) + begin
                found, came = pools.serve_together(
                    row, wave, self._weight[at].tolist(), self._next[at].tolist()
                )
                before[copy, ranks] = found
                loads += [(ranks[rank], slot, victim) for rank, slot, victim in came]
        gone, slots, victims = np.array(loads, np.intp).reshape(-1, 3).T
        return slice(begin, end), before if copies > 1 else before[0], gone, slots, victims


def _numbers(block: slice) -> Floats:
    return np.arange(block.start, block.stop, dtype=np.float64)


def _back(these: slice, by: int) -> slice:
    return slice(these.start - by, these.stop - by)

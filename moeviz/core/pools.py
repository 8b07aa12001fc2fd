"""Pools of slots: who is resident, who is admitted and who leaves, by the event rule.

A pool is a row of slots that serves one MoE layer (scope layer) or all of them (scope model). The live cache
serves one event at a time (`serve`); a replay without pre-fetching serves an event of every pool at once
(`serve_rows`), and a curve those of every slot count too, as so many more pools. Both choose the lowest
scores by the same function of the same columns, and a test holds them to the same victims; so it does the
replay of one pool that takes a shorter way to them (`moeviz.core.onepool`). Experts are named by their place:
pool x (experts of a pool) + number in it.

    pools = Pools(POLICIES["lru"], Moment(0, 1, 64), layers=1, experts=4, limits=[2], own=True)
    pools.serve(0, np.array([3, 1]), Touch(clock=np.array([4.0, 3.0])), clock=0)
    # ([-1, -1], [(0, 0, -1), (1, 1, -1)]): two misses into free slots
"""

from __future__ import annotations

from collections.abc import Callable, Container, Iterable, Iterator, Sequence
from copy import deepcopy

import numpy as np
from numpy.typing import NDArray

from moeviz.core.columns import Columns, Floats, Ints
from moeviz.core.lists import Lists, wrong_victim
from moeviz.core.policies import Policy
from moeviz.core.use import Moment, Touch

FEW = 1_024  # scores up to which sorting them all is quicker than looking for the lowest one by one
SEVERAL = 8  # lowest ones of a pool from which it is quicker too


def in_waves(
    members: Sequence[int], resident: Container[int], limit: int, everyone: Iterable[int] = ()
) -> list[list[int]]:
    """Experts of one event that are served together, strongest first in each wave.

    members: strongest first. Where they are more than `limit`, residents come first, then the others by id.
    `everyone`: experts to copy whether they are needed or not.
    """
    if len(members) <= limit and not everyone:
        return [list(members)]
    strength = {member: rank for rank, member in enumerate(members)}
    order = sorted(member for member in members if member in resident)
    order += sorted(other for other in everyone or members if other not in resident)
    return [
        sorted(order[start : start + limit], key=lambda member: strength.get(member, len(members)))
        for start in range(0, len(order), limit)
    ]


class Pools(Columns):
    """`limits`: slots of every pool. `own`: every layer has a pool of its own; several times as many limits
    are several slot counts.

    `sizes`, `room`: [layers x experts] bytes of each expert, and of what one shared pool may hold, where
    sizes differ. A load may then cost several their place: it takes the slot of the first of them, and
    `leavers` names the others. Slots are no more than names then, and bytes limit.

    `in_order`: of experts served together the weakest counts as used last, not the strongest.

    `calibrated`, `first_use`: [layers x experts] accesses in a calibration trace, and the number of the event
    that needs an expert first.
    """

    def __init__(
        self,
        policy: Policy,
        now: Moment,
        layers: int,
        experts: int,
        limits: Sequence[int],
        own: bool,
        calibrated: Floats | None = None,
        first_use: Floats | None = None,
        sizes: NDArray[np.int64] | None = None,
        room: int = 0,
        in_order: bool = False,
    ) -> None:
        self.in_order = in_order
        self.limits: Ints = np.array(limits, np.intp)
        self.rows, self.most = len(self.limits), int(self.limits.max())
        self.width = experts if own else layers * experts  # experts of a pool
        size = self.rows * self.width
        super().__init__(policy, now, layers, experts, size, calibrated, first_use, not own)
        self.slot_of: Ints = np.full(size, -1, np.intp)  # by place; -1: not resident
        self.holder: Ints = np.zeros((self.rows, self.most), np.intp)  # place of who is in a slot
        self._flat = self.holder.ravel()  # the same, pool after pool: a spot is a place in it
        self._begins = np.arange(self.rows) * self.most  # first spot of each pool
        self._ranks = np.arange(self.most)
        self.filled: Ints = np.zeros(self.rows, np.intp)  # slots taken, the first ones
        self.level: Floats = np.zeros(self.rows)  # highest score of anyone evicted; kept where it is read
        self.watch: Callable[[int, int, int], None] | None = None  # told row, place, victim's place
        # places of who came, and of who left besides its victim, where sizes differ; whoever asks for loads
        # takes them and clears it
        self.leavers: list[tuple[int, int]] = []
        self._sizes: list[int] | None = None if sizes is None else sizes.tolist()
        self._room = room  # bytes that are left
        self._vacant: list[int] = []  # slots below `filled` that nobody holds; only where sizes differ
        self._holders = [self.holder[row, :limit] for row, limit in enumerate(limits)]
        self._leveled = "level" in policy.reads
        self.lists = [policy.keep(limit) for limit in limits] if policy.lists is not None else None
        self._asked: tuple[Lists, set[int]] | None = None  # while `watch` is told: the lists that were asked
        # who leaves, as they were, and who had to stay
        # By spot, where many pools are served at once, what residents leave in the order of: the score, which
        # is infinite where nobody is or may leave, and of equal scores the last touch. Where scores may be
        # equal these are the parts of a complex number, which numpy compares so. One more spot, the last, is
        # of whoever has none.
        distinct = policy.distinct
        self._standing = np.full(self._flat.size + 1, np.inf, np.float64 if distinct else np.complex128)
        self._by_row = self._standing[:-1].reshape(self.rows, self.most)
        self._score: Floats = self._standing.real
        self._last: Floats | None = None if distinct else self._standing.imag
        self._stands = False  # they are as they should be; of steady scores they then stay so
        self._full = False  # every pool is as large as the largest, and no slot is free

    @property
    def sized(self) -> bool:
        """Whether experts differ in size, and bytes limit."""
        return self._sizes is not None

    def shown(self, row: int) -> Floats:
        """Of each of a pool's residents the score now, as people see it: the lowest leaves. Where lists
        decide, its turn: how many would leave before it."""
        places = self.residents(row)
        if self.lists is None:
            return np.asarray(self.policy.shown(self.scores(places), self.now))
        before, stays = self._asked or (self.lists[row], set[int]())
        again = deepcopy(before)
        turn: dict[int, int] = {}
        for who in (stays, set[int]()):
            while (one := again.leaves(who)) >= 0:
                turn[one] = len(turn)
        return np.array([turn[one] for one in places.tolist()], np.float64)

    def why(self, victim: int) -> str:
        """Where lists decide, why a resident leaves, in words, asked while `watch` is told; else empty."""
        return self._asked[0].why(victim) if self._asked else ""

    def limit(self, row: int, place: int) -> int:
        """How many experts like this one a pool can hold at once."""
        if self._sizes is None:
            return int(self.limits[row])
        held = sum(self._sizes[one] for one in self.residents(row).tolist())
        return int((self._room + held) // self._sizes[place])

    def residents(self, row: int) -> Ints:
        """Places of who is in a pool, by slot."""
        held = self.holder[row, : self.filled[row]]
        return held if not self._vacant else np.delete(held, self._vacant)

    def fill(self, chosen: Ints) -> list[tuple[int, int]]:
        """Before a run: gives experts free slots while there are any, the first as if used last, all before
        the clock's zero. (place, slot) of who got one."""
        placed = []
        for place in chosen.tolist():
            row = place // self.width
            slot = int(self.filled[row])
            if slot < self.limits[row] and (self._sizes is None or self._sizes[place] <= self._room):
                if self._sizes is not None:
                    self._room -= self._sizes[place]
                self._place(row, place, slot)
                self.filled[row] += 1
                placed.append((place, slot))
        for clock, (place, _) in enumerate(reversed(placed), -len(placed)):
            self.load(place, clock)
            self.columns["last_touch"][place] = clock
            if self.lists is not None:
                self.lists[place // self.width].missed(place)
                self.lists[place // self.width].came(place)
        return placed

    # one event of one pool

    def serve(
        self, row: int, at: Ints, touch: Touch, clock: int, held: Iterable[int] = ()
    ) -> tuple[list[int], list[tuple[int, int, int]]]:
        """Serves experts that are needed together: none of them leaves for another, misses come in their
        order, then all are touched.

        at: their places, strongest first, no more than the pool has slots; of a policy by event they were
        told to `need`. `clock`: ticks before the event.
        `held`: slots of residents that stay if any other can leave. Returns the slots that they had before
        (-1: a miss), and the loads as (index in `at`, slot, place of the victim or -1).
        """
        self._stands = False
        found: list[int] = self.slot_of.take(at).tolist()
        loads: list[tuple[int, int, int]] = []
        if min(found) < 0:
            loads = self._fill(row, at.tolist(), found, clock, held)
        if self._leveled:
            touch.level = self.level[row]
        self.touch(at, touch)
        if self.lists is not None:
            self._use(row, at.tolist(), found)
        return found, loads

    def serve_together(
        self,
        row: int,
        places: Sequence[int],
        weight: Sequence[float],
        next_use: Sequence[float],
        held: Iterable[int] = (),
    ) -> tuple[list[int], list[tuple[int, int, int]]]:
        """`serve` at the moment's clock, which then goes on. places, weight, next_use: of each member."""
        now, size, kept = self.now, len(places), self._kept
        counts = np.arange(1.0, size + 1) if self.in_order else np.arange(size, 0, -1.0)
        touch = Touch(
            counts + (now.clock + size),
            forward_pass=now.forward_pass,
            tokens=now.tokens,
            half_life=now.half_life,
        )
        if "touch_number" in kept:
            touch.number = counts + now.touches
        if "average" in kept or "weight" in kept:
            touch.weight = np.array(weight)
        if "next_use" in kept:
            touch.next_use = np.array(next_use)
        at = np.array(places)
        if self.by_event:
            self.need(at, size)
        found = self.serve(row, at, touch, now.clock, held)
        now.clock += 2 * size
        now.touches += size
        return found

    def _fill(
        self, row: int, places: list[int], found: list[int], clock: int, held: Iterable[int]
    ) -> list[tuple[int, int, int]]:
        loads = []
        filled, limit = int(self.filled[row]), int(self.limits[row])
        taken = [slot for slot in found if slot >= 0]
        scores: Floats | None = None
        leaving: Iterator[int] = iter(())
        lists = None if self.lists is None else self.lists[row]
        for rank, place in enumerate(places):
            if found[rank] >= 0:
                continue
            victim = -1
            if lists is not None:
                lists.missed(place)
            if self._sizes is not None:
                slot, victim = self._make_room(row, place, taken, held)
                taken.append(slot)
                filled = int(self.filled[row])
            elif filled < limit:
                slot = filled
                filled += 1
                self.filled[row] = filled  # whoever explains the next victim counts this one in
                taken.append(slot)
            elif lists is not None:
                slot, victim = self._by_lists(row, place, taken, held)
                taken.append(slot)
            else:
                if scores is None:
                    scores = self._allowed(row, taken, held)
                    leaving = self._leaving(row, scores)
                slot = next(leaving, -1)
                if slot < 0:  # every other is held by a guess: demand comes first
                    scores = self._allowed(row, taken, ())
                    leaving = self._leaving(row, scores)
                    slot = next(leaving)
                victim = self._evict(row, place, slot, float(scores[slot]))
                taken.append(slot)
            self._place(row, place, slot)
            self.load(place, clock + rank + 1)
            if lists is not None:
                lists.came(place)
            loads.append((rank, slot, victim))
        return loads

    def _by_lists(
        self, row: int, place: int, pinned: Iterable[int], held: Iterable[int] = ()
    ) -> tuple[int, int]:
        """Slot and place of who leaves where lists decide. `pinned`, `held` as of `_make_room`."""
        assert self.lists is not None
        lists, holder = self.lists[row], self.holder[row]
        stays = {int(holder[slot]) for slot in pinned}
        before = deepcopy(lists) if self.watch is not None else None
        victim: object = -1
        who = stays
        for who in (stays | {int(holder[slot]) for slot in held}, stays):
            if (victim := lists.leaves(who)) != -1:
                break
        if not isinstance(victim, int) or not 0 <= victim < len(self.slot_of) or victim in who:
            raise wrong_victim(self.policy.name)
        slot = int(self.slot_of[victim])
        if slot < 0 or holder[slot] != victim:
            raise wrong_victim(self.policy.name)
        if before is not None:
            self._asked = before, who
        self._evict(row, place, slot, 0.0)
        self._asked = None
        return slot, victim

    def _use(self, row: int, places: list[int], found: list[int]) -> None:
        """Tells the lists of a pool who was needed. found: the slots that they had before."""
        assert self.lists is not None
        lists = self.lists[row]
        ranks = range(len(places))
        for rank in ranks if self.in_order else reversed(ranks):
            lists.used(places[rank], found[rank] >= 0)

    def _make_room(
        self, row: int, place: int, pinned: Iterable[int], held: Iterable[int] = ()
    ) -> tuple[int, int]:
        """Where sizes differ: evicts until an expert's bytes are free. Its slot, and the place of who held
        it, or -1. `pinned`, `held`: slots of who stays, and of who leaves only if nobody else can."""
        assert self._sizes is not None
        victims: list[tuple[int, int]] = []
        while self._sizes[place] > self._room:
            scores = self._allowed(row, pinned, held, self._vacant)
            slot = next(self._leaving(row, scores), -1)
            if slot < 0:  # every other is held by a guess: demand comes first
                scores = self._allowed(row, pinned, self._vacant)
                slot = next(self._leaving(row, scores), -1)
            victim = self._evict(row, place, slot, float(scores[slot]))
            self._room += self._sizes[victim]
            self._vacant.append(slot)
            victims.append((slot, victim))
        self._room -= self._sizes[place]
        self.leavers += [(place, victim) for _, victim in victims[1:]]
        if victims:
            self._vacant.remove(victims[0][0])
            return victims[0]
        if self._vacant:
            return self._vacant.pop(), -1
        self.filled[row] += 1
        return int(self.filled[row]) - 1, -1

    def admit(self, row: int, place: int, clock: int, held: Iterable[int]) -> tuple[int, int] | None:
        """Gives an expert that was guessed a slot: a free one, or the lowest of those not held. (slot,
        victim's place or -1) or None."""
        self._stands = False
        slot, victim = int(self.filled[row]), -1
        if self._sizes is not None:
            stay = list(held)
            could = set(self.residents(row).tolist()) - {int(self.holder[row, one]) for one in stay}
            if self._room + sum(self._sizes[one] for one in could) < self._sizes[place]:
                return None
            slot, victim = self._make_room(row, place, stay)
        elif slot < self.limits[row]:
            self.filled[row] += 1
            if self.lists is not None:
                self.lists[row].missed(place)
        elif self.lists is not None:
            stays = list(held)
            if len(set(stays)) == slot:
                return None
            self.lists[row].missed(place)
            slot, victim = self._by_lists(row, place, stays)
        else:
            scores = self._allowed(row, held)
            slot = next(self._leaving(row, scores), -1)
            if slot < 0:
                return None
            victim = self._evict(row, place, slot, float(scores[slot]))
        self._place(row, place, slot)
        self.load(place, clock)
        self.columns["last_touch"][place] = clock
        if self.lists is not None:
            self.lists[row].came(place)
        return slot, victim

    def clear(self, row: int) -> None:
        """Nothing stays."""
        self.slot_of[self.holder[row, : self.filled[row]]] = -1
        self.filled[row] = 0
        self._full = self._stands = False
        if self.lists is not None:
            self.lists[row] = self.policy.keep(int(self.limits[row]))

    def _place(self, row: int, place: int, slot: int) -> None:
        self.holder[row, slot] = place
        self.slot_of[place] = slot

    def _evict(self, row: int, place: int, slot: int, score: float) -> int:
        victim = int(self.holder[row, slot])
        if self.watch is not None:
            self.watch(row, place, victim)
        self.slot_of[victim] = -1
        if self._leveled:
            self.level[row] = max(self.level[row], score)
        return victim

    def _allowed(self, row: int, *stay: Iterable[int]) -> Floats:
        """Scores of a full pool by slot, infinite where the resident has to stay."""
        full = self._sizes is None
        scores = self.scores(self._holders[row] if full else self.holder[row, : self.filled[row]])
        for slots in stay:
            for slot in slots:
                scores[slot] = np.inf
        return scores

    def _leaving(self, row: int, scores: Floats) -> Iterator[int]:
        """Slots in the order in which their residents leave: the lowest score first, of equal ones the least
        recently used; none of those that have to stay. Makes the scores of who left infinite."""
        while scores[slot := int(scores.argmin())] < np.inf:
            same = (slot,) if self.policy.distinct else (scores == scores[slot]).nonzero()[0]
            if len(same) == 1:
                yield slot
                scores[slot] = np.inf
                continue
            touched = self.use.last_touch.take(self.holder[row].take(same))
            for _ in range(len(same)):
                first = touched.argmin()
                touched[first] = np.inf
                slot = int(same[first])
                yield slot
                scores[slot] = np.inf

    # an event of many pools at once

    def serve_rows(
        self, at: Ints, row: Ints, touch: Touch, clock: Floats | None
    ) -> tuple[Ints, Ints, Ints, Ints]:
        """Serves one event of each of several pools, as `serve` does. `clock`: of each member's load, if it
        has to be loaded; None where the policy does not ask when that was.

        at, row: [member], or [copies, member]: the members of one pool after the other, strongest first.
        `clock` and the columns of `touch` are [member]. Members were told to `need` as `serve`'s are. Returns
        the slots that they had before, shaped as `at`, and of each load the index in `at`, flat, the slot and
        the victim's place (-1: a free slot).
        """
        before: Ints = self.slot_of.take(at)
        spots = row * self.most + before
        gone = (before < 0).ravel().nonzero()[0]
        if not len(gone):
            slots = victims = gone
        else:
            spots.ravel()[gone] = len(self._flat)
            if not self._stands:
                self._stand()
            self._score[spots] = np.inf
            new, slots, victims = self._fill_rows(row.take(gone))
            spots.ravel()[gone] = new
            place = at.take(gone)
            self._flat[new] = place
            self.slot_of[place] = slots
            if clock is not None:
                self.load(place, clock[gone % len(clock)])
        if self._leveled:
            touch.level = self.level[row]
        self.touch(at, touch)
        if self._stands:
            self._score[spots] = self.scores(at)
            if self._last is not None:
                self._last[spots] = touch.clock
        return before, gone, slots, victims

    def _stand(self) -> None:
        """Asks for everybody's score anew."""
        scores = self.scores(self.holder)
        if not self._full:
            scores[self._ranks >= self.filled[:, None]] = np.inf
        self._score[:-1] = scores.ravel()
        if self._last is not None:
            self._last[:-1] = self.use.last_touch.take(self._flat)
        self._stands = self.policy.steady

    def _fill_rows(self, own: Ints) -> tuple[Ints, Ints, Ints]:
        """Spots and slots where the misses of several pools go, and who leaves them. own: pool of each miss,
        ascending."""
        count = np.bincount(own, minlength=self.rows)
        taken = None if self._full else np.minimum(count, self.limits - self.filled)  # of the free slots
        if taken is None or not taken.any():
            return self._leave(own, self._lowest_of_rows(count))
        rank = np.arange(len(own)) - (count.cumsum() - count)[own]  # among the misses of the pool
        slots = self.filled[own] + rank
        spots = own * self.most + slots
        victims = np.full(len(own), -1, np.intp)
        late = (rank >= taken[own]).nonzero()[0]
        if len(late):
            found = self._leave(own[late], self._lowest_of_rows(count - taken))
            spots[late], slots[late], victims[late] = found
        self.filled += taken
        self._full = bool((self.filled == self.most).all())
        return spots, slots, victims

    def _leave(self, rows: Ints, slots: Ints) -> tuple[Ints, Ints, Ints]:
        """Takes out who holds these slots. Their spots, the slots, and who it was."""
        spots = rows * self.most + slots
        victims = self._flat.take(spots)
        if self._leveled:
            np.maximum.at(self.level, rows, self._score[spots])
        self.slot_of[victims] = -1
        return spots, slots, victims

    def _lowest_of_rows(self, short: Ints) -> Ints:
        """Slots of the `short` lowest standings of each pool, lowest first, one pool's after the other."""
        most = int(short[short.argmax()])  # quicker than max()
        if self.holder.size <= FEW or most > SEVERAL:
            return self._by_row.argsort(1)[self._ranks < short[:, None]]
        by_need = (-short).astype(np.int8).argsort(kind="stable")  # small numbers are sorted quickest
        some = by_need[: np.count_nonzero(short)]  # who is short of more stands first
        standing, to = self._by_row.take(some, 0), (short.cumsum() - short).take(some)
        begins, flat = self._begins, standing.ravel()
        found = np.empty(int(np.add.reduce(short)), np.intp)
        for rank in range(most):
            left = np.count_nonzero(short > rank)  # the first so many of them need one more
            slots = standing[:left].argmin(1)
            found[to[:left] + rank] = slots
            flat[begins[:left] + slots] = np.inf
        return found

"""Serves the events of a whole trace in one pool of slots, without asking for everybody's score at every
event, which is several times quicker than `moeviz.core.pools`: a heap finds who leaves, or the scores of a
forward pass are asked for at once.

The rule is the pools' own, with the same scores and touches, and a test holds the two to the same victims in
the same slots. Only for a pool that begins empty and holds every event's experts, without pre-fetching.

    if quick(steps, pools):
        hit, left = decide(steps, pools)
"""

from __future__ import annotations

from dataclasses import fields
from heapq import heappop, heappush, heapreplace
from types import SimpleNamespace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from moeviz.core.pools import Pools
from moeviz.core.steps import Steps
from moeviz.core.use import BY_EVENT, BY_RESIDENCY, CONSTANT, LOADED, TOUCHED, Touch, Use

LAYERS = 6  # from which scores of a whole pass at once are quicker than those of an event
FEW = 8  # members of an event up to which a list of them is quicker to look through than to make a set of
INFINITY = np.array(np.inf)  # which numpy takes quicker than a number
Entry = tuple[float, float, int]  # score, last touch, place
Decided = tuple[NDArray[np.bool_], list[int]]  # which accesses hit [M]; places of who left, in order


def quick(steps: Steps, pools: Pools) -> bool:
    """Whether `decide` serves these pools. Where accesses are served by themselves a layer's are several
    events of a pass, each with a company of its own, which is not known for all of them at once."""
    policy = pools.policy
    if pools.rows > 1 or pools.filled[0] or pools.sized or policy.lists is not None:
        return False
    if steps.largest > pools.limits[0]:
        return False
    if not policy.steady:
        unknown = policy.reads & (BY_RESIDENCY | BY_EVENT if steps.single else BY_RESIDENCY)
        return steps.layers >= LAYERS and not unknown
    return policy.stack or (policy.reads <= BY_RESIDENCY and not policy.guarded)


def decide(steps: Steps, pools: Pools) -> Decided:
    """Which accesses hit, and who left. Each load takes a free slot while there is one; the others take the
    slots of those who left, one after the other. `pools` are as they were before, but for their columns."""
    policy, slots = pools.policy, int(pools.limits[0])
    if not policy.steady:
        constant = policy.distinct and policy.reads <= CONSTANT
        with np.errstate(all="ignore"):  # of scores at moments that are not theirs
            return (_by_draws if constant else _by_passes)(steps, pools, slots)
    return (_by_ranks if policy.stack else _by_scores)(steps, pools, slots)


def slots_of(loads: list[int], left: list[int], slots: int) -> tuple[list[int], list[int]]:
    """Slot that each load takes, and the place of who left it, -1 of a free one. loads, left: places, in
    order."""
    free = min(slots, len(loads))
    victims = [-1] * free + left
    slot_of: dict[int, int] = {}
    found = []
    for number, (one, victim) in enumerate(zip(loads, victims, strict=True)):
        slot_of[one] = slot = slot_of[victim] if victim >= 0 else number
        found.append(slot)
    return found, victims


def _by_passes(steps: Steps, pools: Pools, slots: int) -> Decided:
    """Scores change by themselves, but do not depend on residency: so those of a whole forward pass are
    asked for at once, at the moment of each of its events.

    An expert is needed at most once in a pass. So a column of the table of scores is one expert as it was
    before the pass, up to its event, or as it is touched there, after it. Columns are in the order of last
    touches, so that the first of equal scores is the one to leave.
    """
    hit = np.zeros(steps.accesses, np.bool_)
    left: list[int] = []
    place, by_touch, touch_of = steps.place, steps.by_touch, steps.touches(pools.columns)
    place_by_touch = place.take(by_touch)
    column_of = np.full(pools.width, -1, np.intp)  # by place; -1: not resident
    residents = np.empty(0, np.intp)  # their places, by column
    free = slots
    ascending = np.arange(pools.width, dtype=np.int32)
    most = int(np.diff(steps.pass_begins).max(initial=0))  # accesses of a pass, and so of its events
    dtype = np.dtype(np.int16 if most < 2**15 else np.int32)  # half as much to compare
    moments = np.arange(most, dtype=dtype)[:, None]
    for begin, end, event, first in steps.passes(pools):
        own, count, held = place[begin:end], len(first), len(residents)
        touched = place_by_touch[begin:end]
        everyone = _joined(residents, touched)
        width = len(everyone)
        column = column_of[own]
        found = column >= 0
        ends_at = np.empty(width + 1, dtype)  # the event at which a column ends
        ends_at.fill(count)
        ends_at[column] = event  # of a miss the column is -1, one too many
        leaves = ends_at[:held]
        # whose columns have begun stand first: events are touched one after the other
        starts = first - begin
        ends = (starts + held).tolist()
        if pools.by_event:
            pools.need(own, steps.even)
        before = pools.read(residents)
        pools.touch(own, touch_of(slice(begin, end)))
        after = pools.read(touched)
        scores = pools.scored(list(map(_joined, before, after)), (count, width))
        by_column = scores.T
        np.putmask(scores, moments[:count] >= ends_at[:-1], INFINITY)  # quicker than copyto
        misses = np.add.reduceat(~found, starts, dtype=np.intp).tolist()
        until: list[int] = ends_at.tolist()
        misses.append(0)  # of those that are not needed here any more
        gone: list[int] = []
        for moment in range(count):
            short = misses[moment]
            if free:
                took = min(free, short)
                free, short = free - took, short - took
            if not short:
                continue
            lowest_of = scores[moment, : ends[moment]].argmin
            for _ in range(short):
                lowest = int(lowest_of())
                by_column[lowest] = INFINITY
                gone.append(lowest)
                misses[until[lowest]] += 1  # it is needed later in this pass
        those = np.array(gone, np.intp)
        left += everyone.take(those).tolist()
        stays = np.ones(width, np.bool_)
        stays[those] = False
        found &= stays.take(column)
        hit[begin:end] = found
        stays[:held] &= leaves == count
        column_of[residents] = -1
        residents = everyone[stays]
        column_of[residents] = ascending[: len(residents)]
    return hit, left


def _by_draws(steps: Steps, pools: Pools, slots: int) -> Decided:
    """As `_by_passes`, of scores that no touch changes, that differ between any two experts, and that are
    others at every moment.

    So a column of the table is one expert, who may leave before the event that needs it, come there, and
    leave again; and whoever has the lowest scores of a row is seldom gone already: the lowest of all rows are
    looked for at once, and of a row again only where more are needed.
    """
    hit = np.zeros(steps.accesses, np.bool_)
    left: list[int] = []
    place, free = steps.place, slots
    column_of = np.full(pools.width, -1, np.intp)  # by place; -1: not resident
    residents = np.empty(0, np.intp)  # their places, by column
    ascending = np.arange(pools.width)
    for begin, end, event, first in steps.passes(pools):
        own, count, held = place[begin:end], len(first), len(residents)
        column = column_of[own]
        missed = column < 0
        coming = own[missed]
        everyone = _joined(residents, coming)
        width = len(everyone)
        column[missed] = ascending[held:width]
        scores = pools.scored(pools.read(everyone), (count, width))
        rows = ascending[:count]
        np.copyto(scores[:, held:], INFINITY, where=rows[:, None] < event[missed])  # who is not there yet
        scores[event, column] = INFINITY  # whom an event needs stays
        misses = np.add.reduceat(missed, first - begin, dtype=np.intp).tolist()
        lowest_ones = []
        for _ in range(1 + len(coming) // count):
            lowest_ones.append(scores.argmin(1))
            scores[rows, lowest_ones[-1]] = INFINITY
        known = np.array(lowest_ones[::-1]).T.tolist()  # of each row, the lowest last
        needed_at = np.full(width, -1, np.intp)
        needed_at[column] = event
        due: list[int] = needed_at.tolist()
        away = [-1] * width  # the moment up to which a column is gone
        gone: list[int] = []  # columns; less `width` of those who come again
        for moment in range(count):
            short = misses[moment]
            if free:
                took = min(free, short)
                free, short = free - took, short - took
            while short:
                if known[moment]:
                    lowest = known[moment].pop()
                else:
                    lowest = int(scores[moment].argmin())
                    scores[moment, lowest] = INFINITY
                if away[lowest] >= moment:
                    continue
                short -= 1
                again = due[lowest]
                if again > moment:
                    away[lowest] = again
                    misses[again] += 1
                    gone.append(lowest - width)
                else:
                    away[lowest] = count
                    gone.append(lowest)
        those = np.array(gone, np.intp)
        left += everyone[those].tolist()
        late = np.zeros(width, np.bool_)
        late[those[those < 0]] = True
        hit[begin:end] = ~(missed | late[column])
        stays = np.ones(width, np.bool_)
        stays[those[those >= 0]] = False
        column_of[residents] = -1
        residents = everyone[stays]
        column_of[residents] = ascending[: len(residents)]
    return hit, left


def _joined(first: NDArray[Any], second: NDArray[Any]) -> NDArray[Any]:
    return np.concatenate((first, second), -1)


def _by_ranks(steps: Steps, pools: Pools, slots: int) -> Decided:
    """Scores change with a touch only: every access's rank is known beforehand."""
    ranks = steps.ranks(pools)
    place = steps.place
    whose = np.empty_like(place)  # place by rank
    whose[ranks] = place
    members, owners, own = place.tolist(), whose.tolist(), ranks.tolist()
    rank_of = [-1] * (pools.rows * pools.width)  # by place, of residents
    heap: list[int] = []  # ranks; of residents, and older ones of who was touched since or left
    hit, left = bytearray(len(own)), []
    free, begin = slots, 0
    for end in steps.ends():
        for index in range(begin, end):
            member = members[index]
            if rank_of[member] >= 0:
                hit[index] = 1
            else:
                free -= 1
            rank_of[member] = own[index]
        while free < 0:
            lowest = heappop(heap)
            if rank_of[leaving := owners[lowest]] == lowest:
                rank_of[leaving] = -1
                left.append(leaving)
                free += 1
        for rank in own[begin:end]:
            heappush(heap, rank)
        begin = end
    return np.frombuffer(hit, np.bool_), left


def _by_scores(steps: Steps, pools: Pools, slots: int) -> Decided:
    """Scores read columns of residency only, and are found as the run goes on: one expert's at a time, in
    plain lists, since numpy is slower with so few.

    A touch never lowers them. So a resident's entry of the heap is looked at again only when it is the
    lowest.
    """
    policy, now = pools.policy, pools.now
    columns = {name: pools.columns[name].tolist() for name in policy.reads}
    use = Use(**{field.name: columns.get(field.name) for field in fields(Use)})
    touched = [(columns[name], rule) for name, rule in TOUCHED.items() if name in columns]
    loaded = [(columns[name], rule) for name, rule in LOADED.items() if name in columns]
    one: Any = SimpleNamespace()  # whose fields are set quickest as the dict that they are
    its, touch, score = one.__dict__, Touch(0.0), policy.score
    members, load_clock, clock = steps.place.tolist(), *(clocks.tolist() for clocks in steps.clocks)
    reading = list(columns.items())
    resident = [False] * pools.width  # by place
    last = [0.0] * pools.width  # clock of the last touch; where scores may be equal
    heap: list[Entry] = []  # one of each resident, but for who is needed now
    hit, left = bytearray(b"\1") * len(members), []
    free, begin = slots, 0
    for end in steps.ends():
        own = members[begin:end]
        came = [index for index, member in enumerate(own, begin) if not resident[member]]
        free -= len(came)
        stays = own if len(own) <= FEW else set(own)
        new = []  # to have an entry
        while free < 0:
            entry = heap[0]
            member = entry[2]
            if member in stays:
                new.append(member)
                heappop(heap)
            elif last[member] == entry[1]:
                heappop(heap)
                resident[member] = False
                left.append(member)
                free += 1
                if entry[0] > touch.level:
                    touch.level = entry[0]
            else:
                for name, column in reading:
                    its[name] = column[member]
                heapreplace(heap, (score(one, now), last[member], member))
        for index in came:
            hit[index] = 0
            member = members[index]
            resident[member] = True
            new.append(member)
            for column, loading in loaded:
                column[member] = loading(load_clock[index])
        if not policy.distinct:
            for member, at in zip(own, clock[begin:end], strict=True):
                last[member] = at
            for column, rule in touched:  # of residency, none of which reads the clock
                for member in own:
                    column[member] = rule(use, member, touch)
        for member in new:
            for name, column in reading:
                its[name] = column[member]
            heappush(heap, (score(one, now), last[member], member))
        begin = end
    return np.frombuffer(hit, np.bool_), left

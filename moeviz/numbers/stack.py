"""Hits of a stack algorithm at every slot count at once (Mattson, Gecsei, Slutz, Traiger 1970).

A policy whose scores depend on neither slots nor residency keeps at n slots everybody whom it keeps at n - 1,
and one more. So one list a pool, the stack, says who is resident at every slot count: its first n. It does
not serve events as `moeviz.core.pools` does, one slot count after the other, and that is why it is a second
way beside it: it is several times quicker. It scores and touches by the same functions, and a test holds the
two to the same hits. Only for a cold start and slot counts of at least every event's experts.
"""

from __future__ import annotations

from dataclasses import fields
from heapq import heappop, heappush, heapreplace
from types import SimpleNamespace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from moeviz.core.columns import Ints
from moeviz.core.policies import Policy
from moeviz.core.pools import Pools
from moeviz.core.steps import Steps
from moeviz.core.use import BY_EVENT, BY_RESIDENCY, LOADED, TOUCHED, Touch, Use

HOLE = np.iinfo(np.int64).min  # the place of who was taken out of a stack
TOP = np.iinfo(np.int64).max  # who is needed now and stays at every slot count
LAYERS = 6  # from which scores of a whole pass at once are quicker than those of an event
INFINITY = np.array(np.inf)  # which numpy takes quicker than a number
Entry = tuple[float, float, int]  # score, last touch, place


def depths(steps: Steps, pools: Pools) -> Ints:
    """Place in its pool's stack of every access's expert before its event: resident at more slots than that.
    [M]

    `pools`: as they are before the run; their slots are not used. An expert that was never loaded is deeper
    than any slot count.
    """
    found = np.empty(steps.accesses, np.intp)
    if pools.policy.steady:
        ranks = steps.ranks(pools)
        _steady(steps, ranks, pools, found)
    else:
        _moving(steps, pools, found)
    return found


def _steady(steps: Steps, ranks: Ints, pools: Pools, found: Ints) -> None:
    """Scores that change with a touch only: a stack holds each expert's rank among all accesses, of its last
    one."""
    never = -1 - np.arange(pools.rows * pools.width)  # of who was not used yet, below all others
    stack = never.reshape(pools.rows, pools.width).copy()
    last = never.copy()  # rank by place
    even = steps.even
    for index, place, row in steps.members():
        own = last[place]
        depth = (stack[row] == own[:, None]).argmax(1)
        stack[row, depth] = HOLE
        found[index] = np.where(own < 0, pools.width, depth)
        last[place] = ranks[index]
        _rise(stack, row, even)
        _name(stack, row, ranks[index], even)


def _moving(steps: Steps, pools: Pools, found: Ints) -> None:
    """Scores that change by themselves: everybody is ranked anew at each event."""
    stack = np.arange(pools.rows * pools.width).reshape(pools.rows, pools.width)
    base = np.arange(pools.rows)[:, None] * pools.width
    seen = np.zeros(pools.rows * pools.width, bool)
    rank, depth_of = np.empty_like(stack), np.empty_like(stack)
    even, everyone, touch_of = steps.even, False, steps.touches(pools.columns)
    ascending = np.broadcast_to(np.arange(pools.width), stack.shape)
    for index, place, row in steps.members(pools):
        depth_of.ravel()[stack] = ascending
        depth = depth_of.take(place)
        found[index] = np.where(seen[place], depth, pools.width)
        if pools.by_event:
            pools.need(place, even)
        scores = pools.scores(stack)
        if not everyone:
            known = seen.take(stack)
            everyone = bool(known.all())
            scores[~known] = -np.inf
        order = np.lexsort((pools.use.last_touch.take(stack), scores), axis=1)  # quick: nearly in order
        order += base
        rank.ravel()[order] = ascending
        rank[row, depth] = HOLE
        _rise(rank, row, even)
        np.minimum(rank, pools.width - 1, out=rank)
        rank += base
        stack = stack.take(order.take(rank))
        _name(stack, row, place, even)
        seen[place] = True
        pools.touch(place, touch_of(index))


def _rise(stack: NDArray[np.int64], row: Ints, even: int) -> None:
    """Whoever was taken out comes to the top; at every depth the lowest so far falls on, until it fills a
    hole.

    stack: [pool, depth] ranks; row: the pool of each hole; even: holes of every pool where all have as many,
    else 0.
    """
    if even:
        stack[:] = _risen(stack.T, even).T
        return
    holes = np.bincount(row, minlength=len(stack))
    for count in set(holes.tolist()) - {0}:
        some = holes == count
        stack[some] = _risen(stack[some].T, count).T


def _risen(stack: NDArray[np.int64], holes: int) -> NDArray[np.int64]:
    """stack: [depth, pool], so that what is beside each other in memory moves alike"""
    stack = stack.copy()
    fallen = np.empty_like(stack)
    below, top, above = stack[1:], stack[0], fallen[:-1]
    for _ in range(holes):
        np.minimum.accumulate(stack, 0, out=fallen)
        np.maximum(below, above, out=below)
        top.fill(TOP)
    return stack


def _name(stack: NDArray[np.int64], row: Ints, names: Ints, even: int) -> None:
    """Gives the top of each stack to who is needed now. row: ascending."""
    if even:
        stack[:, :even] = names.reshape(len(stack), even)
        return
    begins = row.searchsorted(row)
    stack[row, np.arange(len(row)) - begins] = names


def hits(depth: Ints, steps: Steps, counts: Ints) -> NDArray[np.int64]:
    """Hits by slot count and label. depth: [M] of each access; gives [slot count, label]"""
    most = int(max(counts.max(), depth.max())) + 1
    at = np.bincount(steps.label * most + depth, minlength=steps.labels * most)
    return at.reshape(steps.labels, most).cumsum(1)[:, counts - 1].T


def heaped(policy: Policy, steps: Steps) -> bool:
    """Whether `hits_of_one_pool` serves a policy. Where accesses are served by themselves a layer's are
    several events of a pass, each with a company of its own, which is not known for all of them at once."""
    if not policy.steady:
        unknown = policy.reads & (BY_RESIDENCY | BY_EVENT if steps.single else BY_RESIDENCY)
        return steps.layers >= LAYERS and not unknown
    return policy.stack or (policy.reads <= BY_RESIDENCY and not policy.guarded)


def hits_of_one_pool(steps: Steps, pools: Pools, slots: int) -> NDArray[np.int64]:
    """Hits by label at one slot count of one pool, of scores that change with a touch or a load only. [label]

    A heap finds who leaves without asking for everybody's score again. `pools`: as they are before the run.
    """
    policy = pools.policy
    hit: Any
    if not policy.steady:
        with np.errstate(all="ignore"):  # of scores at moments that are not theirs
            hit = _hit_by_passes(steps, pools, slots)
    else:
        hit = np.frombuffer(
            (_hit_by_ranks if policy.stack else _hit_by_scores)(steps, pools, slots), np.bool_
        )
    return np.bincount(steps.label[hit], minlength=steps.labels)


def _hit_by_passes(steps: Steps, pools: Pools, slots: int) -> NDArray[np.bool_]:
    """Which accesses hit. Scores change by themselves, but do not depend on residency: so those of a whole
    forward pass are asked for at once, at the moment of each of its events.

    An expert is needed at most once in a pass. So a column of the table of scores is one expert as it was
    before the pass, up to its event, or as it is touched there, after it. Columns are in the order of last
    touches, so that the first of equal scores is the one to leave.
    """
    hit = np.zeros(steps.accesses, np.bool_)
    place, by_touch, touch_of = steps.place, steps.by_touch, steps.touches(pools.columns)
    place_by_touch = place.take(by_touch)
    column_of = np.full(pools.width, -1, np.intp)  # by place; -1: not resident
    residents = np.empty(0, np.intp)  # their places, by column
    free = slots
    for begin, end, event in steps.passes(pools):
        own, count, held = place[begin:end], len(pools.now.touches), len(residents)
        touched = place_by_touch[begin:end]
        width = held + len(own)
        column = column_of[own]
        found = column >= 0
        ends_at = np.empty(width + 1, np.int32)  # the event at which a column ends
        ends_at.fill(count)
        ends_at[column] = event  # of a miss the column is -1, one too many
        leaves = ends_at[:held]
        moments = np.arange(count, dtype=np.int32)
        # whose columns have begun stand first: events are touched one after the other
        ends = (held + event.searchsorted(moments)).tolist()
        if pools.by_event:
            pools.need(own, steps.even)
        before = pools.read(residents)
        pools.touch(own, touch_of(slice(begin, end)))
        after = pools.read(touched)
        scores = pools.scored(list(map(_joined, before, after)), (count, width))
        np.putmask(scores, moments[:, None] >= ends_at[:-1], INFINITY)
        misses = np.bincount(event[~found], minlength=count).tolist()
        until: list[int] = leaves.tolist()
        gone: list[int] = []
        for moment, short in enumerate(misses):
            if free:
                took = min(free, short)
                free, short = free - took, short - took
            if not short:
                continue
            row, rest = scores[moment, : ends[moment]], scores[moment:]
            for _ in range(short):
                lowest = int(row.argmin())
                rest[:, lowest] = INFINITY
                gone.append(lowest)
                if lowest < held and until[lowest] < count:  # it is needed later in this pass
                    misses[until[lowest]] += 1
        stays = np.ones(width, np.bool_)
        stays[gone] = False
        found &= stays.take(column)
        hit[begin:end] = found
        stays[:held] &= leaves == count
        column_of[residents] = -1
        residents = _joined(residents, touched)[stays]
        column_of[residents] = np.arange(len(residents))
    return hit


def _joined(first: NDArray[Any], second: NDArray[Any]) -> NDArray[Any]:
    return np.concatenate((first, second), -1)


def _hit_by_ranks(steps: Steps, pools: Pools, slots: int) -> bytearray:
    """Which accesses hit. Every access's rank is known beforehand."""
    ranks = steps.ranks(pools)
    place = steps.place
    whose = np.empty_like(place)  # place by rank
    whose[ranks] = place
    members, owners, own = place.tolist(), whose.tolist(), ranks.tolist()
    rank_of = [-1] * (pools.rows * pools.width)  # by place, of residents
    heap: list[int] = []  # ranks; of residents, and older ones of who was touched since or left
    hit = bytearray(len(own))
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
                free += 1
        for rank in own[begin:end]:
            heappush(heap, rank)
        begin = end
    return hit


def _hit_by_scores(steps: Steps, pools: Pools, slots: int) -> bytearray:
    """Which accesses hit. Scores read columns of residency only, and are found as the run goes on: one
    expert's at a time, in plain lists, since numpy is slower with so few."""
    policy, now = pools.policy, pools.now
    columns = {name: pools.columns[name].tolist() for name in policy.reads}
    use = Use(**{field.name: columns.get(field.name) for field in fields(Use)})
    touched = [(name, columns[name], rule) for name, rule in TOUCHED.items() if name in columns]
    others = [(name, column) for name, column in columns.items() if name not in TOUCHED]
    loaded = [(columns[name], rule) for name, rule in LOADED.items() if name in columns]
    one: Any = SimpleNamespace()  # whose fields are set quickest as the dict that they are
    its, touch, score = one.__dict__, Touch(0.0), policy.score
    members, load_clock, clock = steps.place.tolist(), *(clocks.tolist() for clocks in steps.clocks)
    stays = (0.0, 0.0, -1)  # the entry of who is needed now
    entry_of: list[Entry | None] = [None] * pools.width  # by place; None: not resident
    heaped: list[Entry | None] = [None] * pools.width  # the heap's entry of a resident: its own, or one below
    heap: list[Entry] = []
    hit = bytearray(b"\1") * len(members)
    free, begin = slots, 0
    for end in steps.ends():
        own = members[begin:end]
        came = []
        for index, member in enumerate(own, begin):
            if entry_of[member] is None:
                came.append(index)
            entry_of[member] = stays
        free -= len(came)
        while free < 0:
            entry = heap[0]
            member = entry[2]
            now_of = entry_of[member]
            if heaped[member] is not entry or now_of is None:  # it has another, or has left
                heappop(heap)
            elif now_of is stays:
                heaped[member] = None
                heappop(heap)
            elif now_of is not entry:
                heaped[member] = now_of
                heapreplace(heap, now_of)
            else:
                heaped[member] = entry_of[member] = None
                heappop(heap)
                free += 1
                if entry[0] > touch.level:
                    touch.level = entry[0]
        for index in came:
            hit[index] = 0
            for column, rule in loaded:
                column[members[index]] = rule(load_clock[index])
        for member, touch.clock in zip(own, clock[begin:end], strict=True):
            for name, column, touching in touched:
                its[name] = column[member] = touching(use, member, touch)
            for name, column in others:
                its[name] = column[member]
            entry_of[member] = entry = (score(one, now), touch.clock, member)
            before = heaped[member]
            if before is None or entry < before:
                heaped[member] = entry
                heappush(heap, entry)
        begin = end
    return hit

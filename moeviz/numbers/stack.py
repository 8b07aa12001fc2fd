"""Hits of a stack algorithm at every slot count at once (Mattson, Gecsei, Slutz, Traiger 1970).

A policy whose scores depend on neither slots nor residency keeps at n slots everybody whom it keeps at n - 1,
and one more. So one list a pool, the stack, says who is resident at every slot count: its first n. It does
not serve events as `moeviz.core.pools` does, one slot count after the other, and that is why it is a second
way beside it: it is several times quicker. It scores and touches by the same functions, and a test holds the
two to the same hits. Only for a cold start and slot counts of at least every event's experts.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from moeviz.core.columns import Ints
from moeviz.core.pools import Pools
from moeviz.core.steps import Steps

HOLE = np.iinfo(np.int64).min  # the place of who was taken out of a stack
TOP = np.iinfo(np.int64).max  # who is needed now and stays at every slot count


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

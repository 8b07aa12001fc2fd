"""Serves the events of a whole trace in pools, without pre-fetching: what became of every access.

Where layers own their slots, an event of every layer is served at once, and of every slot count too
(`Pools.serve_rows`); in one pool a pass or a heap at a time where that can be (`moeviz.core.onepool`); else,
and where lists decide, one event after the other. What is known of the events beforehand is the business of
`moeviz.core.steps`.

    serve(Steps(trace, Knowledge(), settings), pools).hit      # of every access
"""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from moeviz.core.columns import Ints
from moeviz.core.lists import wrong_victim
from moeviz.core.onepool import FEW, decide, quick, slots_of
from moeviz.core.pools import Pools, in_waves
from moeviz.core.steps import Index, Steps
from moeviz.core.use import LOADED, Touch

BLOCK = 1 << 15  # accesses whose columns are made at a time, whole passes


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


def serve(steps: Steps, pools: Pools) -> Served:
    """Serves every event in pools of one slot count."""
    if pools.lists is not None:
        return _by_lists(steps, pools)
    if quick(steps, pools):
        hit, left = decide(steps, pools)
        missed = np.flatnonzero(~hit)
        taken = slots_of(steps.place.take(missed).tolist(), left, int(pools.limits[0]))
        return _served(steps, missed.tolist(), *taken, [], [])
    if pools.rows == 1:
        return _one_pool(steps, pools)
    count = len(steps.event)
    hit, load = np.empty(count, np.bool_), np.empty(count, np.intp)
    load_slot, victim = np.empty(count, np.int32), np.empty(count, np.int32)
    loads = 0
    for index, before, gone, slots, victims in _walk(steps, pools):
        hit[index] = before >= 0
        if len(gone):
            now = slice(loads, loads := loads + len(gone))
            load[now] = gone + index.start if isinstance(index, slice) else index[gone]
            load_slot[now], victim[now] = slots, victims
    nobody = np.empty(0, np.int32)
    found = load[:loads], load_slot[:loads], victim[:loads]
    if steps.single:  # one member of each event was served after the other
        order = np.argsort(steps.event[found[0]], kind="stable")
        return Served(hit, found[0][order], found[1][order], found[2][order], nobody, nobody)
    return Served(hit, *found, nobody, nobody)


def hits(steps: Steps, pools: Pools) -> NDArray[np.int64]:
    """Serves every event in pools of several slot counts, one after the other in `pools`; of one slot count
    where lists decide. Hits by label. [slot count, label]"""
    copies = len(pools.slot_of) // (steps.layers * steps.experts)
    found = np.zeros((copies, steps.labels), np.int64)
    if pools.rows == 1 or pools.lists is not None:
        hit = decide(steps, pools)[0] if quick(steps, pools) else serve(steps, pools).hit
        found[0] = np.bincount(steps.label[hit], minlength=steps.labels)
        return found
    first, of_pass = [], []
    for index, before, gone, *_ in _walk(steps, pools):
        if steps.of_a_pass:
            first.append(index.start if isinstance(index, slice) else index[0])
            of_pass.append((before >= 0).sum(1) if copies > 1 else before.size - len(gone))
            continue
        here = steps.label[index]
        begins = np.flatnonzero(np.diff(here, prepend=-1))
        there = (before >= 0).reshape(copies, -1)
        np.add.at(found.T, here[begins], np.add.reduceat(there, begins, 1, np.int64).T)
    if first:
        np.add.at(found.T, steps.label[first], np.reshape(of_pass, (-1, copies)))
    return found


def _walk(steps: Steps, pools: Pools) -> Iterator[tuple[Index, Ints, Ints, Ints, Ints]]:
    """One event of every pool at a time: accesses, their slots before (of several slot counts [slot count,
    access]), and the loads as `serve_rows` gives them."""
    copies = len(pools.slot_of) // (steps.layers * steps.experts)
    rows = pools.rows // copies  # of one slot count
    copy = np.arange(copies)[:, None]
    shift, row_shift = copy * (steps.layers * steps.experts), copy * rows
    steady, now = pools.policy.steady, pools.now
    layers = np.tile(np.arange(steps.layers, dtype=np.float64), copies)[:, None]
    touches = np.empty((copies, rows))
    touch = Touch(0.0, half_life=now.half_life)
    least, timed = int(pools.limits.min()), bool(pools.policy.reads & LOADED.keys())
    bounds = steps.pass_begins
    end = start = 0  # of the block, in passes and in accesses
    # pool of each access of a pass, the same in all
    of_pass = np.arange(rows).repeat(steps.even) + (row_shift if copies > 1 else 0)
    for step, index, largest in steps.groups():
        if step >= end:
            start = bounds[step]
            end = max(step + 1, bisect_left(bounds, start + BLOCK))
            block = slice(start, bounds[min(end, len(steps.tokens))])
            place, given = steps.place_of(block), steps.given(pools.columns, block)
            clock = steps.load_clock_of(block) if timed else None
        if largest > least:
            assert isinstance(index, slice)
            for event in range(steps.event[index.start], steps.event[index.stop - 1] + 1):
                yield _apart(steps, pools, event, copies)
            continue
        if not steady:
            steps.tell(pools, step, index, layers, touches)
        here: Index = (
            slice(index.start - start, index.stop - start) if isinstance(index, slice) else index - start
        )
        for name, column in given:
            setattr(touch, name, column[here])
        touch.forward_pass, touch.tokens = step, steps.tokens[step]
        at = place[here] if copies == 1 else place[here] + shift
        own = of_pass
        if not steps.even:
            own = steps.row[index] if copies == 1 else steps.row[index] + row_shift
        if pools.by_event:
            pools.need(at.ravel(), steps.even)
        loaded = None if clock is None else clock[here]
        yield index, *pools.serve_rows(at, own, touch, loaded)


def _apart(steps: Steps, pools: Pools, event: int, copies: int) -> tuple[Index, Ints, Ints, Ints, Ints]:
    """An event that needs more than the slots of some slot count: in waves, and each slot count by itself.

    As `_walk` yields; the loads are those of the last slot count.
    """
    begin, end = int(steps.first[event]), int(steps.first[event + 1])
    now, layer = pools.now, int(steps.needs.layer[event])
    now.layer, now.forward_pass = layer, int(steps.needs.forward_pass[event])
    now.tokens = steps.tokens[now.forward_pass]
    rows = pools.rows // copies
    before: Ints = np.empty((copies, end - begin), np.intp)
    loads: list[tuple[int, int, int]] = []
    for copy in range(copies):
        row = copy * rows + (layer if steps.own else 0)
        places = steps.place[begin:end] + copy * steps.layers * steps.experts
        number = {place: at for at, place in enumerate(places.tolist())}
        resident = {place for place in number if pools.slot_of[place] >= 0}
        now.touches, now.clock = begin, 2 * begin
        loads = []
        for wave in in_waves(list(number), resident, pools.limit(row, int(places[0]))):
            ranks = [number[place] for place in wave]
            at = np.array(ranks) + begin
            found, came = pools.serve_together(
                row, wave, steps.weight[at].tolist(), steps.next_use[at].tolist()
            )
            before[copy, ranks] = found
            loads += [(ranks[rank], slot, victim) for rank, slot, victim in came]
    gone, slots, victims = np.array(loads, np.intp).reshape(-1, 3).T
    return slice(begin, end), before if copies > 1 else before[0], gone, slots, victims


def _one_pool(steps: Steps, pools: Pools) -> Served:
    """One pool for all layers: event by event."""
    needs, now = steps.needs, pools.now
    limits = [pools.limit(0, layer * steps.experts) for layer in range(steps.layers)]
    place, given = steps.place, steps.given(pools.columns)
    touch = Touch(0.0, half_life=now.half_life)
    load: list[int] = []
    load_slot: list[int] = []
    victim: list[int] = []
    leavers: list[tuple[int, int]] = []  # load, who left
    first = [0, *steps.ends()]
    events = steps.event.tolist() if steps.single else range(len(needs))
    layers, passes = needs.layer.tolist(), needs.forward_pass.tolist()
    tokens = steps.tokens
    # Only the event's own layer is read, so that a whole pass can be told what it needs at once.
    by_pass, told = not steps.single and steps.largest <= min(limits), -1
    for step, event in enumerate(events):
        begin, end = first[step], first[step + 1]
        now.layer, now.forward_pass = layers[event], passes[event]
        now.tokens = tokens[now.forward_pass]
        now.touches, now.clock = begin, 2 * begin
        if end - begin > limits[layers[event]]:
            _, _, gone, slots, victims = _apart(steps, pools, event, 1)
            load += (gone + begin).tolist()
            load_slot += slots.tolist()
            victim += victims.tolist()
            if pools.leavers:
                leavers += _leavers(steps, pools, load, begin)
            continue
        for name, column in given:
            setattr(touch, name, column[begin:end])
        touch.forward_pass, touch.tokens = now.forward_pass, now.tokens
        if pools.by_event and not by_pass:
            pools.need(place[begin:end], end - begin)
        elif pools.by_event and now.forward_pass != told:
            told = now.forward_pass
            pools.need(place[steps.pass_begins[told] : steps.pass_begins[told + 1]], steps.even)
        _, loads = pools.serve(0, place[begin:end], touch, 2 * begin)
        for rank, to, who in loads:
            load.append(begin + rank)
            load_slot.append(to)
            victim.append(who)
        if pools.leavers:
            leavers += _leavers(steps, pools, load, begin)
    return _served(steps, load, load_slot, victim, [at for at, _ in leavers], [who for _, who in leavers])


def _leavers(steps: Steps, pools: Pools, load: list[int], begin: int) -> list[tuple[int, int]]:
    """Takes those who left besides victims: the load each left for, and its place. load: access of each
    load so far; begin: first access of the event."""
    number = {int(steps.place[load[at]]): at for at in range(bisect_left(load, begin), len(load))}
    found = [(number[came], left) for came, left in pools.leavers]
    pools.leavers.clear()
    return found


def _by_lists(steps: Steps, pools: Pools) -> Served:
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
    begins = np.array([0, *steps.ends()[:-1]])
    places, rows = steps.place.tolist(), steps.row[begins].tolist()
    for row, begin, end in zip(rows, begins.tolist(), steps.ends(), strict=True):
        event = places[begin:end]
        limit, slot_of, missed, leaves, came, used = each[row]
        for own in (event,) if end - begin <= limit else in_waves(event, slot_of, limit):
            new = [one for one in own if one not in slot_of]
            stays = own if len(own) <= FEW else set(own)
            for one in new:
                missed(one)
                victim, slot = -1, len(slot_of)
                if slot == limit:
                    victim = leaves(stays)
                    if not isinstance(victim, int) or victim in stays or victim not in slot_of:
                        raise wrong_victim(pools.policy.name)
                    slot = slot_of.pop(victim)
                slot_of[one] = slot
                came(one)
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
    return _served(steps, load, load_slot, victims, [], [])


def _served(steps: Steps, load: list[int], *others: list[int]) -> Served:
    """Every access hit that no load is for. others: as Served names them."""
    hit, access = np.ones(len(steps.event), np.bool_), np.array(load, np.intp)
    hit[access] = False
    return Served(hit, access, *(np.array(values, np.int32) for values in others))

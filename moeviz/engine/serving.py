"""One run of a model whose experts stand in slots: the cache decides, the link copies, this module waits and
computes, and records every event.

It answers in place of the modules of transformers' experts interface and calls each architecture's own expert
code, one expert at a time, on the weights that stand in a slot. Knows neither prompts nor how a token is
chosen.
"""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import dataclass, field
from functools import partial
from typing import Any

import torch
from torch import nn

from moeviz.core.cache import NOBODY, ExpertCache, Load, Wave
from moeviz.core.oracle import knowledge
from moeviz.core.settings import Settings
from moeviz.core.trace import DECODE, Trace
from moeviz.engine.experts import Expert
from moeviz.engine.grouped import grouped, over_slots
from moeviz.engine.guesses import Guesses
from moeviz.engine.link import HostLink, Ticket
from moeviz.engine.loader import Loaded
from moeviz.engine.records import PassRecord
from moeviz.engine.rows import Rows
from moeviz.errors import ModelError, SettingsError

Span = tuple[Any, Any]  # stamps of a beginning and an end


class Serving:
    """Cache, slots and link of one run, called by the experts modules while the model computes.

    `guesses`: whether the routers' guesses are recorded; `one_product`: whether the experts of a layer are
    computed together, which is not lossless. Raises SettingsError where the settings do not fit the model.
    """

    def __init__(
        self,
        loaded: Loaded,
        settings: Settings,
        future: Trace | None = None,
        guesses: bool = True,
        one_product: bool = False,
    ) -> None:
        count = len(loaded.layers)
        size = loaded.store.layout.expert_bytes
        known = knowledge(settings, future)
        self.cache = ExpertCache(settings, count, loaded.experts, loaded.k, known, size)
        self._loaded = loaded
        self._hardware = loaded.hardware
        settings.check_live()
        if settings.by_routers and all(layer.router is None for layer in loaded.layers):
            raise SettingsError(
                "prefetch 'next-gate' asks the layers' routers ahead, which this model's cannot be: "
                f"{'; '.join(loaded.notes)}. Choose another prefetch."
            )
        self._guesses = Guesses(loaded, settings, guesses, self.cache.width)
        self._one_product = one_product
        together = loaded.recipe.together
        self._at_once = together and together()  # the experts of one token that are there
        self._clock = loaded.hardware.clock()
        self._link: HostLink | None = None

    # a run

    def start(self) -> None:
        """Takes the slots, plugs into the model. A run of the same model that nobody closed is over: a model
        is served by one at a time."""
        loaded, hardware = self._loaded, self._hardware
        if isinstance(served := vars(loaded.layers[0].experts).get("forward"), partial):
            served.func.__self__.close()
        self._link = hardware.link(loaded.store, loaded.link)
        slot_bytes = loaded.store.layout.slot_bytes
        self._pools = [hardware.slots(self.cache.slots, slot_bytes) for _ in range(self.cache.pools)]
        self._slots = [list(pool) for pool in self._pools]
        self._experts: dict[tuple[int, int], Expert] = {}  # (layer, slot) -> the layer's code on that slot
        self._on_slots: dict[int, Any] = {}  # layer -> its module on all slots of its pool
        self._open_tickets: list[Ticket] = []
        self._coming: dict[tuple[int, int], Ticket] = {}  # (pool, slot) -> a copy not yet seen to be there
        self._spare: torch.Tensor | None = None  # a slot for what padding alone needs
        self._fill()
        for number, layer in enumerate(loaded.layers):
            # before transformers would look for who is to answer, which takes longer than the cache does
            layer.experts.forward = partial(self.serve, number, layer.experts)
        self._hooks = self._guesses.hooks()
        loaded.dense.begin()
        self._texts = [""]  # of the tokens that the last pass chose, which enter the next
        self._clock.start()

    def close(self) -> None:
        """Gives the slots back and leaves the model as it was."""
        if self._link is None:
            return
        self._link.close()
        for ticket in self._open_tickets:  # no copy is under way any more
            self._link.let_go(ticket)
        self._open_tickets.clear()
        self._clock.close()
        self._link = None
        self._loaded.dense.end()
        for hook in self._hooks:
            hook.remove()
        for layer in self._loaded.layers:
            del layer.experts.forward
        self._pools.clear()
        self._slots.clear()
        self._experts.clear()
        self._on_slots.clear()
        self._coming.clear()
        self._spare = None

    def begin_pass(self, phase: int, tokens: int, real: Sequence[int] | None = None) -> None:
        """`tokens` enter the model. `real`: their rows in a batch of prompts that is filled up with padding;
        None where every row is a token. Raises ModelError where another run of the model has begun since.

        What padding needs is no routing of the text: it is copied aside, into a slot of its own, where no
        token of the pass needs it too, and counted nowhere. It is computed at all since the bits of a product
        depend on how many rows it has.
        """
        if self._link is None:
            raise ModelError(
                f"Another run of {self._loaded.name} has begun, which ended this one. Run one after the "
                "other, or load the model twice."
            )
        self.cache.begin_pass(phase, tokens)
        self._real = real
        if real is not None and self._spare is None:
            self._spare = self._hardware.slots(1, self._loaded.store.layout.slot_bytes)[0]
        self._clock.begin_pass()
        self._guesses.begin_pass()
        self._phase = phase
        self._stamps: list[tuple[Any, list[Span], list[Span]]] = []  # of each event: began, stalls, computes
        self._chosen: list[tuple[list[list[int]], list[list[float]]]] = []  # per layer

    def end_pass(
        self, ids: list[int], chosen: list[int], start: int, sequence: list[int] | None = None
    ) -> PassRecord:
        """The pass as plain data: the tokens that entered, of which prompt of a batch each is, and the token
        that each prompt goes on with. The last one has been read, so every stamp of the pass has passed.

        The time of the pass ends when its record is complete: what recording costs is part of it.
        """
        with torch.inference_mode():
            self._guesses.ask_the_rest()
        recorder = self.cache.recorder
        recorder.time_events(self._event_times())
        text_of = self._loaded.text_of
        texts = self._texts if self._phase == DECODE else [text_of(token) for token in ids]
        self._texts = [text_of(token) for token in chosen]
        record = PassRecord(
            phase=self._phase,
            token_ids=ids,
            texts=texts,
            experts=_by_token([rows for rows, _ in self._chosen]),
            weights=_by_token([weights for _, weights in self._chosen]),
            guess=self._guesses.experts(len(ids)),
            guess_probability=self._guesses.probabilities(len(ids)),
            rows={},
            copies=self._finished_copies(),
            next_ids=chosen,
            next_texts=self._texts,
            sequence=sequence or [],
        )
        self._clock.end_pass()
        recorder.time_pass(time.perf_counter_ns() - start)
        record.rows = recorder.take()
        return record

    def _event_times(self) -> list[tuple[int, int, int]]:
        """Start, stall and compute of each event of the pass, in nanoseconds."""
        since_start, between = self._clock.since_start, self._clock.between
        return [
            (
                since_start(began),
                sum([between(*span) for span in stalls]),
                sum([between(*span) for span in computes]),
            )
            for began, stalls, computes in self._stamps
        ]

    def _finished_copies(self) -> list[tuple[int, int, int]]:
        """Copies of the run that have arrived since the last pass. What was copied aside, or before the clock
        ran, is none of them; its stamps are given back all the same.
        """
        assert self._link is not None
        found, left = [], []
        for ticket in self._open_tickets:
            if ticket.state != "dropped":
                if not (ticket.state == "done" and self._clock.ready(ticket.end)):
                    left.append(ticket)
                    continue
                if ticket.load.index >= 0:
                    start = self._clock.since_start(ticket.start)
                    end = start + self._clock.between(ticket.start, ticket.end)
                    found.append((ticket.load.index, start, end))
            self._link.let_go(ticket)
        self._open_tickets = left
        return found

    # an event

    def serve(
        self, number: int, module: nn.Module, hidden: torch.Tensor, index: torch.Tensor, weights: torch.Tensor
    ) -> torch.Tensor:
        """Output of the experts of one MoE layer. hidden: [token, hidden]; index, weights: [token, k]"""
        clock, cache, hardware, guesses = self._clock, self.cache, self._hardware, self._guesses
        began = clock.stamp() if clock.free else None
        guesses.enter(number, hidden)
        # Where reading is waiting, guesses are read with the choice; else they need not hold up its copies.
        places, asked = guesses.ask(number, len(index)) if hardware.read_waits else ([], [])
        ids, strengths, *found = hardware.read(index, weights.float(), *asked)
        rows = Rows(hardware, hidden, weights, ids, strengths)
        event = _Event(number, module, rows)
        chosen, by_weight = rows.of_tokens(self._real)
        waves = cache.demand(number, chosen, by_weight)
        assert self._link is not None
        handy = self._link.handy and len(ids) == 1
        event.next = {load.slot: load for load in waves[0].loads} if waves else {}
        for wave, after in zip(waves, [*waves[1:], Wave()], strict=True):
            if event.mark is not None:
                event.computes.append((event.mark, clock.stamp()))
            for load in event.next.values():
                self._submit(load, awaited=handy or not (wave.hits or event.begun))
                event.begun.append(load)
            loads, event.begun = event.begun, []
            event.next = {load.slot: load for load in after.loads}
            if wave is waves[-1]:
                if not hardware.read_waits:
                    places, asked = guesses.ask(number, len(index))
                    found = hardware.read(*asked)
                guesses.keep(places, found, self._real)
                for load in cache.speculate(number, guesses.of(number)):
                    self._submit(load)
            waiting = self._still_coming(number, wave)
            event.late += waiting
            event.mark = clock.stamp()
            began = event.mark if began is None else began
            if self._one_product:
                self._together(event, wave, waiting, loads)
            else:
                self._one_by_one(event, wave, waiting, loads)
        if self._real is not None and not self._one_product:
            self._aside(event)
        out = rows.add(event.parts, self._loaded.recipe.sum_dtype) if event.total is None else event.total
        event.computes.append((event.mark, clock.stamp()))

        if event.late:
            cache.recorder.late(event.late)
        self._stamps.append((began, event.stalls, event.computes))
        self._chosen.append((chosen, by_weight))
        return out

    def _one_by_one(self, event: _Event, wave: Wave, waiting: list[int], loads: list[Load]) -> None:
        """Computes the experts that are there, then each of the others as it arrives, in the order of the
        copies. Where the next wave copies into the slot of one that was computed, that begins at once.

        One token's experts are computed together where all are there, or where compute itself makes the
        copies that are missing, so that nothing would run beside it.
        """
        assert self._link is not None
        number, rows, parts, where = event.number, event.rows, event.parts, wave.slots
        late = [*waiting, *(load.expert for load in loads)]
        alone = not late or (self._link.handy and not waiting)  # no copy is under way that compute can hide
        token = rows.one_token if self._at_once and alone else ()
        if token and where.keys() >= rows.needed:
            for expert in late:
                self._wait(event, where[expert])
            experts = [self._expert(number, where[expert], event.module) for expert in token]
            parts.update(zip(token, self._at_once(experts, rows.hidden, rows.weights), strict=True))
            return
        for expert in wave.hits:
            if expert not in waiting:
                parts[expert] = self._computed(event, expert, where[expert])
                self._replace(event, where[expert])
        for expert in late:
            self._wait(event, where[expert])
            if expert in rows.needed:  # whole-layer copies experts that nobody asked for
                parts[expert] = self._computed(event, expert, where[expert])
            self._replace(event, where[expert])

    def _computed(self, event: _Event, expert: int, slot: int) -> torch.Tensor:
        """What an expert that is there gives its tokens."""
        one, given = self._expert(event.number, slot, event.module), event.rows.of(expert)
        if self._at_once and event.rows.one_token:
            return self._at_once([one], *given)[0]
        return one(*given)

    def _aside(self, event: _Event) -> None:
        """Computes the experts that padding alone needs, in a slot of their own. It is no stall and no
        compute of the event: the time is in that of the pass alone."""
        assert self._spare is not None
        event.computes.append((event.mark, self._clock.stamp()))
        views = self._loaded.store.layout.views(self._spare)
        for expert in sorted(event.rows.needed - event.parts.keys()):
            self._copy_aside(event.number, expert, -1, self._spare)
            way = self._loaded.recipe.way(event.module, views)
            event.parts[expert] = way(*event.rows.of(expert))
        event.mark = self._clock.stamp()

    def _together(self, event: _Event, wave: Wave, waiting: list[int], loads: list[Load]) -> None:
        """Computes the experts of a wave by one product, once all of them are there."""
        for expert in [*waiting, *(load.expert for load in loads)]:
            self._wait(event, wave.slots[expert])
        number = event.number
        if number not in self._on_slots:
            pool = self._pools[self.cache.pool(number)]
            self._on_slots[number] = over_slots(event.module, self._loaded.store.layout, pool)
        part = grouped(self._on_slots[number], self._hardware, event.rows, wave.slots)
        event.total = part if event.total is None else event.total + part

    def _replace(self, event: _Event, slot: int) -> None:
        """The expert in a slot has been computed: the copy of the next wave that overwrites it may begin."""
        if (load := event.next.pop(slot, None)) is not None:
            self._submit(load)
            event.begun.append(load)

    def _wait(self, event: _Event, slot: int) -> None:
        """Compute waits for a slot's copy."""
        assert self._link is not None
        pool = self.cache.pool(event.number)
        paused = self._clock.stamp()
        self._link.wait(self._slots[pool][slot])
        self._coming.pop((pool, slot), None)
        event.computes.append((event.mark, paused))
        event.mark = self._clock.stamp()
        event.stalls.append((paused, event.mark))

    def _still_coming(self, number: int, wave: Wave) -> list[int]:
        """The hits of a wave whose copies are still on their way; those that are not are not asked again."""
        assert self._link is not None
        pool, found = self.cache.pool(number), []
        for expert in wave.hits:
            slot = wave.slots[expert]
            if (pool, slot) in self._coming:
                if self._link.is_late(self._slots[pool][slot]):
                    found.append(expert)
                else:
                    del self._coming[pool, slot]
        return found

    def _expert(self, number: int, slot: int, module: nn.Module) -> Expert:
        """The layer's code on the weights that stand in a slot."""
        if (number, slot) not in self._experts:
            record = self._slots[self.cache.pool(number)][slot]
            tensors = self._loaded.store.layout.views(record)
            self._experts[number, slot] = self._loaded.recipe.way(module, tensors)
        return self._experts[number, slot]

    def _submit(self, load: Load, awaited: bool = False) -> None:
        assert self._link is not None
        pool = self.cache.pool(load.layer)
        ticket = self._link.submit(load, self._slots[pool][load.slot], awaited)
        self._open_tickets.append(ticket)
        self._coming[pool, load.slot] = ticket

    def _fill(self) -> None:
        """Copies who is resident from the start, before the clock runs."""
        for number, expert, slot in self.cache.initial:
            self._copy_aside(number, expert, slot, self._slots[self.cache.pool(number)][slot])

    def _copy_aside(self, layer: int, expert: int, slot: int, room: torch.Tensor) -> None:
        """A copy that is none of the run's, and that compute waits for."""
        assert self._link is not None
        ticket = self._link.submit(Load(layer, expert, slot, NOBODY, -1, False), room, awaited=True)
        self._open_tickets.append(ticket)
        self._link.wait(room)


@dataclass(slots=True, eq=False)
class _Event:
    """What is under way in one layer of one pass."""

    number: int  # of the MoE layer
    module: nn.Module  # its experts
    rows: Rows
    mark: Any = None  # stamp since when nothing was waited for
    stalls: list[Span] = field(default_factory=list)
    computes: list[Span] = field(default_factory=list)
    late: list[int] = field(default_factory=list)
    parts: dict[int, torch.Tensor] = field(default_factory=dict)  # expert -> what it gives its tokens
    total: torch.Tensor | None = None  # of the waves so far, where a wave is one product
    next: dict[int, Load] = field(default_factory=dict)  # slot -> copy of the next wave that has not begun
    begun: list[Load] = field(default_factory=list)  # copies of the next wave that have, in their order


def _by_token(layers: list[list[Any]]) -> list[list[Any]]:
    """[layer, token] -> [token, layer]"""
    return [list(rows) for rows in zip(*layers, strict=True)]

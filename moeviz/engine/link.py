"""The link: copies experts from the slow tier into slots, beside compute. Demand beats speculation in its
queue.

One thread copies one expert at a time, so copies never overtake each other within a slot. Decides nothing:
who goes where is the cache's business. `HostLink` fills slots in host memory; `DeviceLink` fills an
accelerator's through a stream of its own.
"""

from __future__ import annotations

import threading
import time
from collections import deque
from dataclasses import dataclass
from typing import Any

import torch

from moeviz.core.cache import Load
from moeviz.core.machines import Machine
from moeviz.engine.store import HostStore, Store, aligned, least_ns

_SPIN_NS = 120_000  # a sleep of the system ends up to so much too late; the rest is waited for awake


@dataclass(slots=True, eq=False)
class Ticket:
    """One copy on its way."""

    load: Load
    slot: torch.Tensor  # uint8 [slot_bytes]
    state: str = "queued"  # queued, copying, done, dropped
    start: Any = None  # clock stamps
    end: Any = None
    after: object = None  # accelerator: the compute that must be over before the slot is overwritten


class HostLink:
    """Copies by a reader thread into host memory. On a paced link (`pace`) a copy takes at least as long as
    on that machine."""

    def __init__(self, store: Store, pace: Machine | None = None) -> None:
        self.store = store
        self._least_ns = least_ns(pace, store.layout)
        self._packed = aligned(1, store.layout.record_bytes)[0] if store.layout.packing else None
        self._demand: deque[Ticket] = deque()
        self._speculative: deque[Ticket] = deque()
        self._changed = threading.Condition()
        self._current: dict[int, Ticket] = {}  # slot address -> its latest copy
        self._error: BaseException | None = None
        self._open = True
        self._thread = threading.Thread(target=self._work, name="moeviz-link", daemon=True)
        self._thread.start()

    def submit(self, load: Load, slot: torch.Tensor) -> Ticket:
        """Queues a copy. A copy to the same slot that has not begun is dropped: its expert has been
        evicted."""
        ticket = Ticket(load, slot, after=self._compute_so_far())
        with self._changed:
            old = self._current.get(slot.data_ptr())
            if old is not None and old.state == "queued":
                old.state = "dropped"
            self._current[slot.data_ptr()] = ticket
            (self._speculative if load.speculative else self._demand).append(ticket)
            self._changed.notify_all()
        return ticket

    def is_late(self, slot: torch.Tensor) -> bool:
        """True where the slot's expert is not there yet; its copy then goes before all speculation."""
        ticket = self._current.get(slot.data_ptr())
        if ticket is None or self._arrived(ticket):
            return False
        with self._changed:
            if ticket.state == "queued" and ticket in self._speculative:
                self._speculative.remove(ticket)
                self._demand.append(ticket)
        return True

    def wait(self, slot: torch.Tensor) -> None:
        """Returns when the slot's latest copy has arrived; raises what stopped it."""
        ticket = self._current.get(slot.data_ptr())
        if ticket is None:
            return
        with self._changed:
            self._changed.wait_for(lambda: ticket.state == "done" or self._error is not None)
        if self._error is not None:
            raise self._error

    def drain(self) -> None:
        """Drops what has not begun and waits for what has."""
        with self._changed:
            for ticket in [*self._demand, *self._speculative]:
                ticket.state = "dropped"
            self._demand.clear()
            self._speculative.clear()
            self._changed.wait_for(
                lambda: all(t.state != "copying" for t in self._current.values()) or self._error is not None
            )

    def close(self) -> None:
        self.drain()
        with self._changed:
            self._open = False
            self._changed.notify_all()
        self._thread.join()

    def _next(self) -> Ticket | None:
        """The next copy, or None when the link is closed. Called with the lock held."""
        while True:
            for queue in (self._demand, self._speculative):
                while queue:
                    ticket = queue.popleft()
                    if ticket.state == "queued":
                        return ticket
            if not self._open:
                return None
            self._changed.wait()

    def _work(self) -> None:
        while True:
            with self._changed:
                ticket = self._next()
                if ticket is None:
                    return
                ticket.state = "copying"
            try:
                self._copy(ticket)
            except BaseException as error:
                with self._changed:
                    self._error = error
                    self._changed.notify_all()
                return
            with self._changed:
                ticket.state = "done"
                self._changed.notify_all()
            self._settle(ticket)

    def _arrived(self, ticket: Ticket) -> bool:
        return ticket.state == "done"

    def _settle(self, ticket: Ticket) -> None:
        """Called before the next copy begins."""

    def _copy(self, ticket: Ticket) -> None:
        record = ticket.slot if self._packed is None else self._packed
        ticket.start = time.perf_counter_ns()
        self.store.read(ticket.load.layer, ticket.load.expert, record)
        if self._least_ns:
            wait_until(ticket.start + self._least_ns)
        if self._packed is not None:  # part of the copy: until then nobody can compute
            self.store.layout.arrive(record, ticket.slot)
        ticket.end = time.perf_counter_ns()
        self.store.check(ticket.load.layer, ticket.load.expert, record)

    def _compute_so_far(self) -> object:
        return None


class DeviceLink(HostLink):
    """Copies into an accelerator's memory on a stream of its own, with timing events that are read after the
    run.

    From the host tier a copy goes straight out of pinned memory; from disk it passes through one pinned
    buffer.
    """

    def __init__(self, store: Store, device: torch.device) -> None:
        self._device = device
        self._stream = torch.Stream(device)
        self._staging = None
        if not isinstance(store, HostStore):
            self._staging = torch.empty(store.layout.record_bytes + 4_096, dtype=torch.uint8, pin_memory=True)
            offset = -self._staging.data_ptr() % 4_096
            self._staging = self._staging[offset : offset + store.layout.record_bytes]
        super().__init__(store)
        if self._packed is not None:
            self._packed = torch.empty(store.layout.record_bytes, dtype=torch.uint8, device=device)

    def wait(self, slot: torch.Tensor) -> None:
        super().wait(slot)
        ticket = self._current.get(slot.data_ptr())
        if ticket is not None:
            torch.accelerator.current_stream(self._device).wait_event(ticket.end)

    def _copy(self, ticket: Ticket) -> None:
        layer, expert = ticket.load.layer, ticket.load.expert
        if isinstance(self.store, HostStore):
            source = self.store.records[layer, expert]
        else:
            assert self._staging is not None
            self.store.read(layer, expert, self._staging)
            self.store.check(layer, expert, self._staging)
            source = self._staging
        ticket.start = torch.Event(self._device, enable_timing=True)
        ticket.end = torch.Event(self._device, enable_timing=True)
        with self._stream:
            self._stream.wait_event(ticket.after)
            ticket.start.record(self._stream)
            if self._packed is None:
                ticket.slot.copy_(source, non_blocking=True)
            else:
                self._packed.copy_(source, non_blocking=True)
                self.store.layout.arrive(self._packed, ticket.slot)
            ticket.end.record(self._stream)

    def _arrived(self, ticket: Ticket) -> bool:
        return ticket.state == "done" and ticket.end.query()

    def _settle(self, ticket: Ticket) -> None:
        # Blocks this thread only: one copy at a time, so that demand can pass what is still queued, and the
        # buffer is free again.
        ticket.end.synchronize()

    def _compute_so_far(self) -> object:
        event = torch.Event(self._device)
        event.record(torch.accelerator.current_stream(self._device))
        return event


def wait_until(due_ns: int) -> None:
    """Returns when `time.perf_counter_ns` has reached `due_ns`: asleep, and awake for the last moment, about
    40 microseconds."""
    while (left := due_ns - time.perf_counter_ns()) > _SPIN_NS:
        time.sleep((left - _SPIN_NS) / 1e9)
    while time.perf_counter_ns() < due_ns:
        pass  # even a sleep of no length takes 70 microseconds on Linux


def slots_for(link_store: Store, slots: int, device: torch.device) -> torch.Tensor:
    """Room for experts in the fast tier, uint8 [slots, slot_bytes]."""
    if device.type == "cpu":
        return aligned(slots, link_store.layout.slot_bytes)
    return torch.empty(slots, link_store.layout.slot_bytes, dtype=torch.uint8, device=device)

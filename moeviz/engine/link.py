"""The link: copies experts from the slow tier into slots, beside compute. Demand beats speculation in its
queue.

Copies are begun one after the other, so they never overtake each other within a slot. Decides nothing: who
goes where is the cache's business. `HostLink` fills slots in host memory, one copy at a time; `PacedLink` no
faster than another machine's link would; `DeviceLink` fills an accelerator's slots through a stream of its
own, two copies at a time.
"""

from __future__ import annotations

import threading
import time
from collections import deque
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import torch

from moeviz.core.cache import Load
from moeviz.core.machines import Machine
from moeviz.engine.aligned import aligned
from moeviz.engine.layout import Layout
from moeviz.engine.store import HostStore, Store

if TYPE_CHECKING:
    from moeviz.engine.hardware import Accelerator

_SMALL = 2_000_000  # bytes that are copied sooner than a thread wakes up and compute after it
_SPIN_NS = 120_000  # a sleep of the system ends up to so much too late; the rest is waited for awake


@dataclass(slots=True, eq=False)
class Ticket:
    """One copy on its way."""

    load: Load
    slot: torch.Tensor  # uint8 [slot_bytes]
    asked: int  # ns of `time.perf_counter_ns` at which it was submitted
    awaited: bool = False  # who waits for it makes it, and the thread need not wake up
    state: str = "queued"  # queued, copying, done, dropped
    start: Any = None  # clock stamps
    end: Any = None
    after: Any = None  # accelerator: the compute that must be over before the slot is overwritten


class HostLink:
    """Copies by a reader thread into host memory.

    Whoever waits for a copy that has not begun makes it, where the link is idle: to wake a thread for it
    would take longer than the copy of a small expert. `handy`: the copies are as short as that, so that one
    token's compute had better make all that it needs, even if it could compute something meanwhile.
    """

    _waiter_copies = True
    _settles = False

    def __init__(self, store: Store) -> None:
        self.store = store
        self.handy = (
            self._waiter_copies and isinstance(store, HostStore) and store.layout.record_bytes < _SMALL
        )
        self._packed = aligned(1, store.layout.record_bytes)[0] if store.layout.packing else None
        self._demand: deque[Ticket] = deque()
        self._speculative: deque[Ticket] = deque()
        lock = threading.RLock()
        self._changed = threading.Condition(lock)  # a copy is over
        self._queued = threading.Condition(lock)  # there is one to make, or the link is closed: the thread's
        self._current: dict[int, Ticket] = {}  # slot address -> its latest copy
        self._copying = False  # a copy is being made, by whichever thread
        self._error: BaseException | None = None
        self._open = True
        self._thread = threading.Thread(target=self._work, name="moeviz-link", daemon=True)
        self._thread.start()

    def submit(self, load: Load, slot: torch.Tensor, awaited: bool = False) -> Ticket:
        """Queues a copy. A copy to the same slot that has not begun is dropped: its expert has been evicted.

        `awaited`: whoever submits it waits for it next, and may as well make it: the thread is let sleep.
        """
        awaited = awaited and self._waiter_copies
        ticket = Ticket(load, slot, time.perf_counter_ns(), awaited, after=self._compute_so_far())
        with self._changed:
            old = self._current.get(slot.data_ptr())
            if old is not None and old.state == "queued":
                old.state = "dropped"
            self._current[slot.data_ptr()] = ticket
            (self._speculative if load.speculative else self._demand).append(ticket)
            if not awaited:
                self._queued.notify()
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
        if ticket is None or ticket.state == "done":
            return
        while True:
            with self._changed:
                self._changed.wait_for(
                    lambda: (
                        ticket.state == "done"
                        or self._error is not None
                        or (self._waiter_copies and not self._copying)
                    )
                )
                if self._error is not None:
                    raise self._error
                if ticket.state == "done":
                    return
                first = self._take()
            if first is not None:
                self._make(first)

    def let_go(self, ticket: Ticket) -> None:
        """A copy has arrived or was dropped, and nobody will ask for its times again."""

    def drain(self) -> None:
        """Drops what has not begun and waits for what has."""
        with self._changed:
            for ticket in [*self._demand, *self._speculative]:
                ticket.state = "dropped"
            self._demand.clear()
            self._speculative.clear()
            self._changed.wait_for(lambda: not self._copying)

    def close(self) -> None:
        self.drain()
        with self._changed:
            self._open = False
            self._queued.notify()
        self._thread.join()

    def _take(self) -> Ticket | None:
        """The copy to begin now, where there is one and none is being made. Called with the lock held."""
        for queue in (self._demand, self._speculative) if not self._copying else ():
            while queue:
                ticket = queue.popleft()
                if ticket.state == "queued":
                    ticket.state, self._copying = "copying", True
                    return ticket
        return None

    def _make(self, ticket: Ticket) -> None:
        """Makes a copy that was taken. What stops it is kept for who waits."""
        try:
            self._copy(ticket)
            if self._settles:
                with self._changed:
                    ticket.state = "done"
                    self._changed.notify_all()  # compute goes on while the link settles
                self._settle(ticket)
        except BaseException as error:
            self._error = error
        with self._changed:
            if self._error is None:
                ticket.state = "done"
            self._copying = False
            self._changed.notify_all()
            if self._speculative or self._error is not None or not all(one.awaited for one in self._demand):
                self._queued.notify()

    def _work(self) -> None:
        while True:
            with self._changed:
                while (ticket := self._take()) is None:
                    if not self._open or self._error is not None:
                        return
                    self._queued.wait()
            self._make(ticket)

    def _arrived(self, ticket: Ticket) -> bool:
        return ticket.state == "done"

    def _settle(self, ticket: Ticket) -> None:
        """Called before the next copy begins."""

    def _copy(self, ticket: Ticket) -> None:
        record = ticket.slot if self._packed is None else self._packed
        begun = time.perf_counter_ns()
        self.store.read(ticket.load.layer, ticket.load.expert, record)
        moved = time.perf_counter_ns()
        if self._packed is not None:  # part of the copy: until then nobody can compute
            self.store.layout.arrive(record, ticket.slot)
        ticket.start, ticket.end = self._span(ticket.asked, begun, moved, time.perf_counter_ns())
        self.store.check(ticket.load.layer, ticket.load.expert, record)

    def _span(self, asked: int, begun: int, moved: int, unpacked: int) -> tuple[int, int]:
        """From when to when a copy counts that was asked for, began, had its bytes and was unpacked at these
        times."""
        return begun, unpacked

    def _compute_so_far(self) -> object:
        return None


class PacedLink(HostLink):
    """Copies into host memory no faster than over another machine's link.

    Once a copy's bytes are moved, it is known when they would have come over that link. Until then the expert
    counts as not there: `wait` returns at that moment, and `is_late` answers by the clock, so that neither
    depends on when a thread wakes up. The thread itself may sleep on until shortly before that moment. A copy
    counts from when it was asked for, or from when the link would have been free: an accelerator's copies
    need no thread of this machine to wake up first. Where the thread wakes up so late that the bytes are not
    moved by the time at which they were due, the copy counts as begun that much later. Only bytes that this
    machine moves more slowly than the link that was asked for make a copy longer.
    """

    _settles = True

    def __init__(self, store: Store, pace: Machine) -> None:
        self._least_ns = least_ns(pace, store.layout)
        self._free = 0  # when the link has made all copies so far
        super().__init__(store)
        self.handy = False  # a copy that begins later arrives later

    def wait(self, slot: torch.Tensor) -> None:
        super().wait(slot)
        ticket = self._current.get(slot.data_ptr())
        if ticket is not None and ticket.end > time.perf_counter_ns():
            wait_until(ticket.end)
            with self._changed:
                if self._free == ticket.end and not self._copying:  # else the next copy counts from there
                    # where the system woke compute too late, it is told
                    ticket.end = self._free = time.perf_counter_ns()

    def _arrived(self, ticket: Ticket) -> bool:
        return ticket.state == "done" and time.perf_counter_ns() >= ticket.end

    def _span(self, asked: int, begun: int, moved: int, unpacked: int) -> tuple[int, int]:
        first = max(asked, self._free)  # at which it could begin
        come = max(moved, first + self._least_ns)
        start = max(first, min(begun, come - self._least_ns))
        self._free = come + unpacked - moved
        return start, self._free

    def _settle(self, ticket: Ticket) -> None:
        doze_until(ticket.end)  # the next copy begins that much too early rather than too late


class DeviceLink(HostLink):
    """Copies into an accelerator's memory on a stream of its own, with timing events that are read after the
    run.

    From the host tier a copy goes straight out of pinned memory; from disk it passes through one of two
    pinned buffers, so that one is filled while the other is emptied. Where the accelerator has one stream,
    copies take their turn in it, and nothing has to be waited for.
    """

    _waiter_copies = False  # it queues compute while the link's thread waits for buffers
    _settles = True

    def __init__(self, store: Store, hardware: Accelerator) -> None:
        self._hardware = hardware
        self._buffers: deque[torch.Tensor] = deque()  # the next to be filled is first
        if not isinstance(store, HostStore):
            self._buffers.extend(hardware.staging(store.layout.record_bytes) for _ in range(2))
        self._under_way: deque[Ticket] = deque()  # queued on the stream and not known to be over
        super().__init__(store)
        if self._packed is not None:
            self._packed = torch.empty(store.layout.record_bytes, dtype=torch.uint8, device=hardware.device)

    def wait(self, slot: torch.Tensor) -> None:
        super().wait(slot)
        ticket = self._current.get(slot.data_ptr())
        if ticket is not None and ticket.end is not None and self._hardware.overlaps:
            self._hardware.compute_stream().wait_event(ticket.end)

    def let_go(self, ticket: Ticket) -> None:
        with self._changed:
            if ticket.end is not None:  # None where it was dropped
                self._hardware.give(ticket.start)
                self._hardware.give(ticket.end)
            if ticket.after is not None:
                self._hardware.give(ticket.after, timing=False)
            ticket.start = ticket.end = ticket.after = None

    def close(self) -> None:
        super().close()
        while self._under_way:  # into slots that are about to be given back
            self._finish_oldest()

    def _copy(self, ticket: Ticket) -> None:
        layer, expert = ticket.load.layer, ticket.load.expert
        if isinstance(self.store, HostStore):
            source = self.store.record(layer, expert)
        else:
            source = self._buffers[0]
            self._buffers.rotate()
            self.store.read(layer, expert, source)
            self.store.check(layer, expert, source)
        hardware = self._hardware
        ticket.start, ticket.end = hardware.take(timing=True), hardware.take(timing=True)
        with hardware.copying():
            stream = hardware.copies if hardware.overlaps else hardware.compute_stream()
            if ticket.after is not None:
                stream.wait_event(ticket.after)
            ticket.start.record(stream)
            if self._packed is None:
                ticket.slot.copy_(source, non_blocking=True)
            else:
                self._packed.copy_(source, non_blocking=True)
                self.store.layout.arrive(self._packed, ticket.slot)
            ticket.end.record(stream)

    def _arrived(self, ticket: Ticket) -> bool:
        return ticket.state == "done" and (ticket.end is None or ticket.end.query())

    def _settle(self, ticket: Ticket) -> None:
        # Holds up the link alone: not more than two copies are begun, so that demand can pass what is still
        # queued, and the buffer that is filled next is free again.
        self._under_way.append(ticket)
        if len(self._under_way) > 1:
            self._finish_oldest()

    def _finish_oldest(self) -> None:
        end = self._under_way.popleft().end
        if end is not None:  # else it was seen to be over, and let go
            end.synchronize()

    def _compute_so_far(self) -> object:
        return self._hardware.now(timing=False) if self._hardware.overlaps else None


def doze_until(due_ns: int) -> None:
    """Sleeps until shortly before `time.perf_counter_ns` reaches `due_ns`; not at all where that is near."""
    if (left := due_ns - time.perf_counter_ns()) > _SPIN_NS:
        time.sleep((left - _SPIN_NS) / 1e9)


def wait_until(due_ns: int) -> None:
    """Returns when `time.perf_counter_ns` has reached `due_ns`: asleep, and awake for the last moment, about
    40 microseconds."""
    doze_until(due_ns)
    while time.perf_counter_ns() < due_ns:
        pass  # even a sleep of no length takes 70 microseconds on Linux


def least_ns(pace: Machine | None, layout: Layout) -> int:
    """Nanoseconds that a copy of one expert takes at least on a paced link; 0 on one that is not."""
    return round(pace.copy_ms(layout.link_bytes) * 1e6) if pace else 0

"""What experts are computed on: its memory, its streams and events, and the ways to and from the host.

`Cpu` and `Accelerator` answer the same calls, so that what serves a run does not ask which it is. An
accelerator of any kind is spoken to through `torch.accelerator`, `torch.Stream` and `torch.Event`. What it
lacks is replaced by something slower and said in `notes`.

    hardware_of(torch.device("cpu")).read(torch.arange(3))
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable
from contextlib import nullcontext, suppress
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from moeviz.core.machines import Machine
from moeviz.engine.aligned import aligned, pages
from moeviz.engine.clocks import DeviceClock, HostClock
from moeviz.engine.link import DeviceLink, HostLink, PacedLink
from moeviz.engine.store import HostStore, Store
from moeviz.engine.tiers import ALIGNMENT
from moeviz.errors import ModelError
from moeviz.words import NO_OVERLAP

# what torch raises where a backend lacks something
_LACKS = (RuntimeError, NotImplementedError, AssertionError, AttributeError, TypeError)
NOT_PINNED = "No memory of the host can be pinned for {}: a copy holds up whatever starts it."


class Cpu:
    """The fast tier is RAM: nothing is queued, and what was computed can be read at once."""

    device = torch.device("cpu")
    read_waits = False  # reading what was computed makes nothing wait
    notes: tuple[str, ...] = ()
    overlaps = True  # a reader thread copies beside compute

    def clock(self) -> HostClock:
        return HostClock()

    def link(self, store: Store, pace: Machine | None) -> HostLink:
        return HostLink(store) if pace is None else PacedLink(store, pace)

    def slots(self, count: int, slot_bytes: int) -> torch.Tensor:
        """Room for experts in the fast tier, uint8 [count, slot_bytes]."""
        return aligned(count, slot_bytes)

    def read(self, *tensors: torch.Tensor) -> list[NDArray[Any]]:
        """What was computed, on the host."""
        return [tensor.numpy() for tensor in tensors]

    def upload(self, array: NDArray[Any]) -> torch.Tensor:
        """An array of the host, where experts are computed."""
        return torch.from_numpy(array)

    def host_memory(self, size: int) -> torch.Tensor:
        """Memory of the host for the slow tier, uint8 [size]."""
        return pages(size)

    def let_go(self) -> None:
        """Gives memory of the host that nobody uses any more back to the system."""

    def copier(self, store: Store) -> Callable[[int, int], None]:
        """What copies one expert (layer, expert) as a run does, and returns when it has arrived."""
        record = aligned(1, store.layout.record_bytes)[0]
        return lambda layer, expert: store.read(layer, expert, record)

    def unpacker(self, store: Store) -> Callable[[], None] | None:
        """What unpacks an expert that has arrived as a run does; None where it comes as a slot has it."""
        layout = store.layout
        if layout.packing is None:
            return None
        record, slot = aligned(1, layout.record_bytes)[0], aligned(1, layout.slot_bytes)[0]
        store.read(0, 0, record)
        return lambda: layout.arrive(record, slot)


class Accelerator:
    """The fast tier is an accelerator's memory: work is queued on streams, and to read a result is to wait.

    `stream`, `event`, `compute_stream` and `pinned` are all that is asked of torch. Raises ModelError where
    the backend has no events, without which nothing can be in flight.
    """

    read_waits = True

    def __init__(self, device: torch.device) -> None:
        self.device = device
        self._events: dict[bool, deque[Any]] = {False: deque(), True: deque()}  # unused ones, by timing
        try:
            self.give(self.take(timing=True), timing=True)
        except _LACKS as error:
            raise ModelError(
                f"device {str(device)!r} has no events to wait for, so no copy can run beside compute "
                f"({str(error).splitlines()[0]}). Choose cpu."
            ) from None
        self.copies: Any = None  # the stream of copies; None: they go on the compute stream
        notes = []
        try:
            self.copies = self.stream()
        except _LACKS:
            notes.append(NO_OVERLAP)
        self.overlaps = self.copies is not None
        self._pins = True
        try:
            self._block = self.pinned(4_096)  # results on their way to the host
        except _LACKS:
            self._pins = False
            self._block = torch.empty(4_096, dtype=torch.uint8)
            notes.append(NOT_PINNED.format(device.type))
        self.notes = tuple(notes)

    # what is asked of torch

    def stream(self) -> Any:
        """A stream beside the compute stream. Raises RuntimeError where the backend has none."""
        if self.device.type == "mps":
            raise RuntimeError("MPS has one stream")
        return torch.Stream(self.device)

    def event(self, timing: bool) -> Any:
        return torch.Event(self.device, enable_timing=timing)

    def compute_stream(self) -> Any:
        return torch.accelerator.current_stream(self.device)

    def pinned(self, size: int) -> torch.Tensor:
        """Memory of the host that the accelerator can copy from and to by itself, uint8 [size]."""
        return torch.empty(size, dtype=torch.uint8, pin_memory=True)

    # events are used again, because making one costs more than recording it

    def take(self, timing: bool = False) -> Any:
        """An event that nobody uses."""
        try:
            return self._events[timing].pop()
        except IndexError:
            return self.event(timing)

    def give(self, event: Any, timing: bool = True) -> None:
        """Takes an event back that nobody will ask any more."""
        self._events[timing].append(event)

    def now(self, timing: bool = True) -> Any:
        """An event that passes when all that has been queued for compute is done."""
        event = self.take(timing)
        event.record(self.compute_stream())
        return event

    # the same calls as of a CPU

    def clock(self) -> DeviceClock:
        return DeviceClock(self)

    def link(self, store: Store, pace: Machine | None) -> DeviceLink:
        return DeviceLink(store, self)

    def slots(self, count: int, slot_bytes: int) -> torch.Tensor:
        return torch.empty(count, slot_bytes, dtype=torch.uint8, device=self.device)

    def read(self, *tensors: torch.Tensor) -> list[NDArray[Any]]:
        """All tensors in one copy into pinned memory and one wait, which is what costs, not the bytes."""
        order = sorted(range(len(tensors)), key=lambda n: -tensors[n].element_size())  # keeps each aligned
        parts = [tensors[n].contiguous().view(-1).view(torch.uint8) for n in order]
        size = sum(map(len, parts))
        if size > len(self._block):
            self._block = self.host_memory(2 * size)
        here = self._block[:size]
        here.copy_(torch.cat(parts), non_blocking=True)
        self._finish()
        whole, at, found = here.numpy().copy(), 0, {}
        for n, part in zip(order, parts, strict=True):
            kind = torch.empty(0, dtype=tensors[n].dtype).numpy().dtype
            found[n] = whole[at : at + len(part)].view(kind).reshape(tensors[n].shape)
            at += len(part)
        return [found[n] for n in range(len(tensors))]

    def upload(self, array: NDArray[Any]) -> torch.Tensor:
        """Without a wait where memory can be pinned: torch keeps a pinned block until its copy is over."""
        block = self.host_memory(array.nbytes)
        block.numpy()[:] = np.ascontiguousarray(array).reshape(-1).view(np.uint8)
        kind = torch.from_numpy(array[:0]).dtype
        return block.view(kind).view(array.shape).to(self.device, non_blocking=True)

    def host_memory(self, size: int) -> torch.Tensor:
        return self.pinned(size) if self._pins else torch.empty(size, dtype=torch.uint8)

    def let_go(self) -> None:
        with suppress(*_LACKS):  # torch before 2.10 and some backends keep it for the next run
            torch.accelerator.empty_host_cache()

    def staging(self, record_bytes: int) -> torch.Tensor:
        """A pinned buffer for one record, aligned as a read past the page cache asks for."""
        room = self.host_memory(record_bytes + ALIGNMENT)
        offset = -room.data_ptr() % ALIGNMENT
        return room[offset : offset + record_bytes]

    def copying(self) -> Any:
        """Within this block, copies are queued on their stream."""
        return self.copies if self.copies is not None else nullcontext()

    def copier(self, store: Store) -> Callable[[int, int], None]:
        record = self.slots(1, store.layout.record_bytes)[0]
        room = None if isinstance(store, HostStore) else self.staging(store.layout.record_bytes)

        def copy(layer: int, expert: int) -> None:
            source = room
            if source is None:
                assert isinstance(store, HostStore)
                source = store.record(layer, expert)
            else:
                store.read(layer, expert, source)
            record.copy_(source, non_blocking=True)
            self._finish()

        return copy

    def unpacker(self, store: Store) -> Callable[[], None] | None:
        layout = store.layout
        if layout.packing is None:
            return None
        record, slot = self.slots(1, layout.record_bytes)[0], self.slots(1, layout.slot_bytes)[0]
        here = aligned(1, layout.record_bytes)[0]
        store.read(0, 0, here)
        record.copy_(here)

        def unpack() -> None:
            layout.arrive(record, slot)
            self._finish()

        return unpack

    def _finish(self) -> None:
        """Waits for all that has been queued for compute."""
        event = self.now(timing=False)
        event.synchronize()
        self.give(event, timing=False)


Hardware = Cpu | Accelerator


def hardware_of(device: torch.device) -> Hardware:
    """Of a torch device. Raises ModelError where it cannot serve."""
    return Cpu() if device.type == "cpu" else Accelerator(device)


def device_named(name: str) -> torch.device:
    """`auto`: the accelerator if there is one. Raises ModelError where it is not here or computes nothing."""
    if name == "auto":
        return (
            torch.accelerator.current_accelerator()
            if torch.accelerator.is_available()
            else torch.device("cpu")
        )  # type: ignore[return-value]
    refusal = (
        f"device {name!r} is not available here. Choose cpu, or auto for the accelerator if there is one."
    )
    try:
        device = torch.device(name)
        if device.type == "meta":
            raise ModelError(
                f"device {name!r} computes nothing: its tensors have no values. Choose cpu or auto."
            )
        if device.type != "cpu":
            torch.empty(0, device=device)
    except (RuntimeError, AssertionError, NotImplementedError):
        raise ModelError(refusal) from None
    if device.type not in ("cpu", getattr(torch.accelerator.current_accelerator(), "type", "cpu")):
        raise ModelError(refusal)  # a device of torch that is no accelerator, such as one that only compiles
    return device

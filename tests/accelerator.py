"""A double of an accelerator on the CPU: streams, events and copies that happen as late as they may.

A copy that is queued on the copy stream turns its slot into NaN, and is made only when somebody waits for an
event behind it, or an event is asked and answers yes, which it does every third time. Compute happens at
once, but what it has read of a slot counts as read only when the host has waited for it: a copy into a slot
that compute may still be reading, with no event that makes it wait, is a race and is raised. So what a
missing wait leaves to chance on an accelerator is seen here every time.
"""

from __future__ import annotations

import threading
import time
from collections import deque
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch.overrides import TorchFunctionMode
from torch.utils._python_dispatch import TorchDispatchMode, _disable_current_modes

from moeviz.engine.hardware import Accelerator

TO_HOST = ("item", "tolist", "cpu", "numpy", "nonzero", "__bool__", "__int__", "__float__", "__index__")


class Event:
    def __init__(self) -> None:
        self.stream: Any = None
        self.asked = 0

    def record(self, stream: Any) -> None:
        self.stream, self.at, self.asked, self.ns = stream, stream.queued, 0, time.perf_counter_ns()

    def query(self) -> bool:
        self.asked += 1
        if self.asked % 3 == 0:
            self.stream.run_to(self.at)
        return bool(self.stream.done >= self.at)

    def synchronize(self) -> None:
        self.stream.device.waits += threading.current_thread() is threading.main_thread()
        self.stream.run_to(self.at)

    def elapsed_time(self, other: Event) -> float:
        return (other.ns - self.ns) / 1e6


class Copies(TorchDispatchMode):
    """The copy stream: within it, `copy_` is queued."""

    def __init__(self, device: Double) -> None:
        super().__init__()
        self.device, self.lock = device, threading.RLock()
        self.queue: deque[Callable[[], object]] = deque()
        self.queued = self.done = self.read_before = self.most = 0

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        if func is not torch.ops.aten.copy_.default:
            return func(*args, **(kwargs or {}))
        slot, source = args[:2]
        self.device.check_free(slot, self.read_before)
        with self.lock:
            slot.fill_(255)  # NaN in every float dtype
            self.queue.append(lambda: slot.copy_(source))
            self.queued += 1
            self.most = max(self.most, self.queued - self.done)
        return slot

    def wait_event(self, event: Event) -> None:
        self.read_before = max(self.read_before, event.at)

    def run_to(self, position: int) -> None:
        with self.lock, _disable_current_modes():  # a copy is no compute, whichever thread asks for it
            while self.done < position:
                self.queue.popleft()()
                self.done += 1


class Compute(TorchDispatchMode):
    """The compute stream: runs at once, and counts as done what the host has waited for."""

    def __init__(self, device: Double) -> None:
        super().__init__()
        self.device = device
        self.queued = self.done = 0

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        self.queued += 1
        for one in args:
            if isinstance(one, torch.Tensor):
                self.device.note(one, self.queued)
        return func(*args, **(kwargs or {}))

    def wait_event(self, event: Event) -> None:
        event.stream.run_to(event.at)

    def run_to(self, position: int) -> None:
        self.done = max(self.done, position)


class Double(Accelerator):
    """`streams`: 1 for an accelerator whose copies go on the compute stream; `pins`: whether memory can be
    pinned; `slow`: compute takes so long that every copy has been queued when the next event begins.
    """

    def __init__(self, streams: int = 2, pins: bool = True, slow: bool = False) -> None:
        self._streams, self._can_pin, self._slow = streams, pins, slow
        self.made = 0  # events
        self.waits = 0  # of the thread that computes
        self.uploads = 0
        self.hidden: list[str] = []  # ways to the host that go past `read`
        self._inside = 0  # calls of `read` and `upload`
        self._pools: dict[int, torch.Tensor] = {}
        self._last_read: dict[int, int] = {}  # slot address -> position of the compute that read it last
        self.compute = Compute(self)
        super().__init__(torch.device("cpu"))

    def stream(self) -> Any:
        if self._streams == 1:
            raise RuntimeError("one stream")
        return Copies(self)

    def event(self, timing: bool) -> Any:
        self.made += 1
        return Event()

    @property
    def unused(self) -> int:
        """Events that were made and that nobody holds."""
        return sum(map(len, self._events.values()))

    def compute_stream(self) -> Any:
        return self.compute

    def pinned(self, size: int) -> torch.Tensor:
        if not self._can_pin:
            raise RuntimeError("nothing can be pinned")
        return torch.empty(size, dtype=torch.uint8)

    def slots(self, count: int, slot_bytes: int) -> torch.Tensor:
        pool = torch.full((count, slot_bytes), 255, dtype=torch.uint8)
        self._pools[pool.data_ptr()] = pool
        return pool

    def link(self, store: Any, pace: Any) -> Any:
        self._link = super().link(store, pace)
        return self._link

    def read(self, *tensors: torch.Tensor) -> Any:
        link = self._link
        with link._changed:
            link._changed.wait_for(lambda: not (self._slow and (link._demand or link._speculative)))
            link._changed.wait_for(lambda: not (self._slow and link._copying))
        with self._counted():
            return super().read(*tensors)

    def upload(self, array: Any) -> Any:
        self.uploads += 1
        with self._counted():
            return super().upload(array)

    @contextmanager
    def _counted(self) -> Iterator[None]:
        self._inside += 1
        try:
            yield
        finally:
            self._inside -= 1

    @contextmanager
    def computing(self) -> Iterator[None]:
        """Within this block the thread computes on the double."""
        with self.compute, Watch(self):
            yield

    def note(self, tensor: torch.Tensor, position: int) -> None:
        """Compute reads a tensor, perhaps one in a slot."""
        base = tensor.untyped_storage().data_ptr()
        if (pool := self._pools.get(base)) is not None:
            size = pool.shape[1]
            begin = tensor.storage_offset() * tensor.element_size() // size
            end = begin + 1 if tensor.numel() * tensor.element_size() <= size else len(pool)
            for slot in range(begin, end):
                self._last_read[base + slot * size] = position

    def check_free(self, slot: torch.Tensor, read_before: int) -> None:
        """Raises AssertionError where compute may still be reading a slot that is about to be overwritten."""
        if self._last_read.get(slot.data_ptr(), 0) > max(self.compute.done, read_before):
            raise AssertionError("race: a slot is overwritten while compute may still be reading it")

    def called(self, name: str) -> None:
        """A function of torch by which results come to the host."""
        if not self._inside:
            self.hidden.append(name)


class Watch(TorchFunctionMode):
    """Notes every call that would make an accelerator's host wait."""

    def __init__(self, device: Double) -> None:
        super().__init__()
        self._device = device

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        if getattr(func, "__name__", "") in TO_HOST:
            self._device.called(func.__name__)
        return func(*args, **(kwargs or {}))

"""The slow tier: every expert of a model as one record of bytes, in a file read past the page cache or in host memory.

A record holds one expert's tensors one after the other and is padded to 4,096 bytes, so that a miss is one aligned read straight into
its slot. Knows neither slots nor policies. The slow tier is read-only: an eviction copies nothing back.
"""

from __future__ import annotations

import mmap
import os
import shutil
import time
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO, Protocol

import torch

from moeviz.core.run import Tier
from moeviz.errors import StoreError

ALIGNMENT = 4_096  # of O_DIRECT: offset, length and memory
_TENSOR_ALIGNMENT = 64  # of tensors within a record


@dataclass(frozen=True, slots=True)
class Layout:
    """Where an expert's tensors stand in its record."""

    layers: int
    experts: int
    dtype: torch.dtype
    shapes: Mapping[str, tuple[int, ...]]  # parameter name -> shape of one expert's tensor

    @property
    def offsets(self) -> dict[str, int]:
        """Byte offset of each tensor in a record."""
        offsets, at = {}, 0
        for name, shape in self.shapes.items():
            offsets[name] = at
            at += -(-_count(shape) * self.dtype.itemsize // _TENSOR_ALIGNMENT) * _TENSOR_ALIGNMENT
        return offsets

    @property
    def expert_bytes(self) -> int:
        """Weights of one expert, without padding."""
        return sum(_count(shape) for shape in self.shapes.values()) * self.dtype.itemsize

    @property
    def record_bytes(self) -> int:
        last, shape = list(self.shapes.items())[-1]
        end = self.offsets[last] + _count(shape) * self.dtype.itemsize
        return -(-end // ALIGNMENT) * ALIGNMENT

    def views(self, record: torch.Tensor) -> dict[str, torch.Tensor]:
        """The tensors of an expert inside its record. record: uint8 [record_bytes]"""
        return {
            name: record[at : at + _count(shape) * self.dtype.itemsize].view(self.dtype).view(shape)
            for (name, shape), at in zip(self.shapes.items(), self.offsets.values(), strict=True)
        }

    def pack(self, tensors: Mapping[str, torch.Tensor], expert: int, record: torch.Tensor) -> None:
        """Copies one expert out of a layer's stacked tensors ([expert, ...] each) into a record."""
        for name, view in self.views(record).items():
            view.copy_(tensors[name][expert])


class Store(Protocol):
    """A filled slow tier."""

    layout: Layout
    kind: str
    page_cache_bypassed: bool

    def read(self, layer: int, expert: int, record: torch.Tensor) -> None:
        """Copies one expert's record into `record`, uint8 [record_bytes] in host memory."""

    def close(self) -> None: ...


class HostStore:
    """All experts in host memory, pinned where an accelerator will copy from it."""

    kind = "host"
    page_cache_bypassed = False

    def __init__(self, layout: Layout, layers: Iterable[Mapping[str, torch.Tensor]], pinned: bool) -> None:
        self.layout = layout
        size = (layout.layers, layout.experts, layout.record_bytes)
        self.records = torch.empty(size, dtype=torch.uint8, pin_memory=pinned)
        for layer, tensors in enumerate(layers):
            for expert in range(layout.experts):
                layout.pack(tensors, expert, self.records[layer, expert])

    def read(self, layer: int, expert: int, record: torch.Tensor) -> None:
        record.copy_(self.records[layer, expert])

    def close(self) -> None:
        self.records = torch.empty(0, dtype=torch.uint8)


class DiskStore:
    """All experts in one file that is read past the page cache: O_DIRECT on Linux, F_NOCACHE on macOS.

    Where the file system or the system refuses, reads are buffered, their pages are dropped where the system lets us, and
    `page_cache_bypassed` is False.
    """

    kind = "disk"

    def __init__(self, layout: Layout, path: Path) -> None:
        self.layout = layout
        self.path = path
        self._file, self.page_cache_bypassed = self._open()

    def read(self, layer: int, expert: int, record: torch.Tensor) -> None:
        size = self.layout.record_bytes
        at = (layer * self.layout.experts + expert) * size
        self._file.seek(at)
        done = self._file.readinto(memoryview(record.numpy()))  # type: ignore[attr-defined]
        if done != size:
            raise StoreError(
                f"{self.path} is too short for expert {expert} of MoE layer {layer}. Delete it and load the model again."
            )
        if not self.page_cache_bypassed and hasattr(os, "posix_fadvise"):
            os.posix_fadvise(self._file.fileno(), at, size, os.POSIX_FADV_DONTNEED)

    def close(self) -> None:
        self._file.close()

    def _open(self) -> tuple[BinaryIO, bool]:
        if hasattr(os, "O_DIRECT"):
            try:
                file = open(  # noqa: SIM115
                    self.path, "rb", buffering=0, opener=lambda p, flags: os.open(p, flags | os.O_DIRECT)
                )
            except OSError:  # some file systems refuse it when a file is opened ...
                pass
            else:
                try:
                    file.readinto(aligned(1, ALIGNMENT)[0].numpy())
                    return file, True
                except OSError:  # ... and some when it is read
                    file.close()
        file = open(self.path, "rb", buffering=0)  # noqa: SIM115
        try:
            import fcntl

            fcntl.fcntl(file.fileno(), fcntl.F_NOCACHE, 1)  # type: ignore[attr-defined]
            return file, True
        except (ImportError, AttributeError, OSError):
            return file, False


def write_file(layout: Layout, layers: Iterable[Mapping[str, torch.Tensor]], path: Path) -> None:
    """Packs all experts into one file, beside its place and renamed. Raises StoreError where there is no room."""
    path.parent.mkdir(parents=True, exist_ok=True)
    need = layout.layers * layout.experts * layout.record_bytes
    free = shutil.disk_usage(path.parent).free
    if free < need:
        raise StoreError(
            f"The slow tier needs {need / 1e9:.2f} GB in {path.parent}, where {free / 1e9:.2f} GB are free. "
            "Make room, or set MOEVIZ_CACHE to a folder on a larger disk."
        )
    part = path.with_suffix(f".{os.getpid()}.part")
    record = aligned(1, layout.record_bytes)[0]
    try:
        with open(part, "wb") as file:
            for tensors in layers:
                for expert in range(layout.experts):
                    layout.pack(tensors, expert, record)
                    file.write(record.numpy())
            file.flush()
            os.fsync(file.fileno())  # a record still in memory would be read from there, not from the disk
        os.replace(part, path)
    except OSError as error:
        raise StoreError(
            f"The slow tier cannot be written to {path.parent}: {error.strerror}. Set MOEVIZ_CACHE to another folder."
        ) from None
    finally:
        part.unlink(missing_ok=True)


def is_complete(layout: Layout, path: Path) -> bool:
    """True where `path` holds all experts of this layout."""
    return path.exists() and path.stat().st_size == layout.layers * layout.experts * layout.record_bytes


def aligned(records: int, record_bytes: int) -> torch.Tensor:
    """Page-aligned host memory, uint8 [records, record_bytes], already backed by real pages."""
    memory = mmap.mmap(-1, records * record_bytes)
    return torch.frombuffer(memory, dtype=torch.uint8).zero_().view(records, record_bytes)


def measure(store: Store, repeats: int = 24) -> Tier:
    """Latency and bandwidth of the tier with this model's experts: median of single reads, and reads back to back."""
    layout = store.layout
    record = aligned(1, layout.record_bytes)[0]
    places = [(i * 7 % layout.layers, i * 5 % layout.experts) for i in range(repeats)]
    took = []
    for layer, expert in places:
        start = time.perf_counter_ns()
        store.read(layer, expert, record)
        took.append(time.perf_counter_ns() - start)
    start = time.perf_counter_ns()
    for layer, expert in places:
        store.read(layer, expert, record)
    whole = time.perf_counter_ns() - start
    return Tier(
        kind=store.kind,
        latency_ms=sorted(took)[len(took) // 2] / 1e6,
        gigabytes_per_second=repeats * layout.record_bytes / whole,
        page_cache_bypassed=store.page_cache_bypassed,
    )


def _count(shape: tuple[int, ...]) -> int:
    count = 1
    for size in shape:
        count *= size
    return count

"""The slow tier: every expert of a model as one record of bytes, in a file read past the page cache or in
host memory.

A record holds one expert's tensors one after the other and is padded to 4,096 bytes, so that a miss is one
aligned read. It is read straight into its slot, or, where the slow tier keeps experts packed, into a buffer
from which it is unpacked into its slot. Knows neither slots nor policies. The slow tier is read-only: an
eviction copies nothing back.
"""

from __future__ import annotations

import errno
import math
import mmap
import os
import time
import zlib
from collections.abc import Callable, Iterable, Mapping
from contextlib import suppress
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from statistics import median
from typing import Any, BinaryIO, Protocol

import numpy as np
import torch

from moeviz.core.machines import Machine
from moeviz.core.run import Tier
from moeviz.engine.cachefolder import part_of, read_seal, seal
from moeviz.errors import StoreError

ALIGNMENT = 4_096  # of O_DIRECT: offset, length and memory
_TENSOR_ALIGNMENT = 64  # of tensors within a record
_PIECE = 16  # records at least in a piece of host memory: a sixteenth of it at most is left over


Tensors = Mapping[str, torch.Tensor]
"""Tensors of one expert by name: its parameters, or what a record holds of them."""
LayerOf = Callable[[int], Tensors]
"""What the records of one MoE layer hold, by expert."""


class Row:
    """Tensors that stand one after the other in a row of bytes."""

    def __init__(self, tensors: Mapping[str, tuple[torch.dtype, tuple[int, ...]]]) -> None:
        self.tensors = tensors
        self._places: list[tuple[str, int, int, torch.dtype, tuple[int, ...]]] = []
        at = end = self.weights = 0  # weights: bytes of the tensors alone
        for name, (dtype, shape) in tensors.items():
            size = math.prod(shape) * dtype.itemsize
            self._places.append((name, at, at + size, dtype, shape))
            end, self.weights = at + size, self.weights + size
            at = -(-end // _TENSOR_ALIGNMENT) * _TENSOR_ALIGNMENT
        self.bytes = -(-end // ALIGNMENT) * ALIGNMENT  # with what is between them and after them

    def views(self, row: torch.Tensor) -> dict[str, torch.Tensor]:
        """The tensors in a row of so many bytes. row: uint8 [bytes]"""
        return {
            name: row[start:end].view(dtype).view(shape) for name, start, end, dtype, shape in self._places
        }


class Packing(Protocol):
    """How the slow tier holds an expert where that is not as a slot does."""

    name: str  # for people, and to tell files apart
    tensors: Mapping[str, tuple[torch.dtype, tuple[int, ...]]]  # of a record

    def unpack(self, record: Tensors) -> Tensors:
        """The parameters of an expert, on the device where its record is."""


@dataclass(frozen=True, eq=False)
class Layout:
    """Where an expert's tensors stand in its record in the slow tier, and in a slot of the fast tier.

    The two are the same unless the experts are packed: then the record is what the slow tier holds and the
    link copies, and `arrive` makes the slot of it.
    """

    layers: int
    experts: int
    dtype: torch.dtype  # of the parameters as they are computed
    shapes: Mapping[str, tuple[int, ...]]  # parameter name -> shape of one expert's tensor
    packing: Packing | None = None

    @cached_property
    def _slot(self) -> Row:
        return Row({name: (self.dtype, shape) for name, shape in self.shapes.items()})

    @cached_property
    def _record(self) -> Row:
        return Row(self.packing.tensors) if self.packing is not None else self._slot

    @property
    def expert_bytes(self) -> int:
        """Weights of one expert in a slot, without padding."""
        return self._slot.weights

    @property
    def link_bytes(self) -> int:
        """Weights of one expert in the slow tier, without padding: what crosses the link."""
        return self._record.weights

    @property
    def slot_bytes(self) -> int:
        """Room for one expert in the fast tier."""
        return self._slot.bytes

    @property
    def record_bytes(self) -> int:
        """Room for one expert in the slow tier."""
        return self._record.bytes

    @property
    def bytes(self) -> int:
        """All records."""
        return self.layers * self.experts * self.record_bytes

    def about(self) -> dict[str, Any]:
        """What a file's seal says of its records."""
        tensors = self._record.tensors.items()
        return {
            "layers": self.layers,
            "experts": self.experts,
            "dtype": self.packing.name if self.packing else str(self.dtype).removeprefix("torch."),
            "tensors": {n: [str(dtype).removeprefix("torch."), *shape] for n, (dtype, shape) in tensors},
            "record_bytes": self.record_bytes,
        }

    def views(self, slot: torch.Tensor) -> dict[str, torch.Tensor]:
        """The parameters of the expert in a slot. slot: uint8 [slot_bytes]"""
        return self._slot.views(slot)

    def pack(self, tensors: Tensors, record: torch.Tensor) -> None:
        """Writes what a record holds of one expert. record: uint8 [record_bytes]"""
        for name, view in self._record.views(record).items():
            view.copy_(tensors[name])

    def arrive(self, record: torch.Tensor, slot: torch.Tensor) -> None:
        """Unpacks an expert that has come over the link into its slot; both on one device.

        record: uint8 [record_bytes], slot: uint8 [slot_bytes]. Only where there is a packing.
        """
        assert self.packing is not None
        with torch.inference_mode():
            made = self.packing.unpack(self._record.views(record))
            for name, view in self.views(slot).items():
                view.copy_(made[name])


class Store(Protocol):
    """A filled slow tier."""

    layout: Layout
    kind: str
    page_cache_bypassed: bool

    def read(self, layer: int, expert: int, record: torch.Tensor) -> None:
        """Copies one expert's record into `record`, uint8 [record_bytes] in host memory."""

    def check(self, layer: int, expert: int, record: torch.Tensor) -> None:
        """Raises StoreError where `record`, just read, is not what was written. Apart from `read`, whose
        time is measured."""

    def close(self) -> None: ...


class HostStore:
    """All experts in host memory, pinned where an accelerator will copy from it.

    `memory` gives so many bytes of it, `let_go` is called when they are no longer used. It is taken in pieces
    of so many records as nearly fill a power of two, because torch rounds every pinned allocation up to one
    and 90 GB at once would take 128.
    """

    kind = "host"
    page_cache_bypassed = False

    def __init__(
        self,
        layout: Layout,
        layers: Iterable[LayerOf],
        memory: Callable[[int], torch.Tensor],
        let_go: Callable[[], None] = lambda: None,
    ) -> None:
        self.layout = layout
        self._let_go = let_go
        record = layout.record_bytes
        self._in_piece = 2 ** (_PIECE * record - 1).bit_length() // record  # records
        self._pieces: list[torch.Tensor] = []  # uint8 [records, record_bytes]
        everyone = layout.layers * layout.experts
        filled = 0
        for tensors_of in layers:  # `enumerate` would hold the layer before while the next is read
            for expert in range(layout.experts):
                number, at = divmod(filled, self._in_piece)
                if not at:
                    count = min(self._in_piece, everyone - filled)
                    self._pieces.append(memory(count * record).view(count, record))
                layout.pack(tensors_of(expert), self._pieces[number][at])
                filled += 1
            del tensors_of

    def record(self, layer: int, expert: int) -> torch.Tensor:
        """Where an expert stands, uint8 [record_bytes]."""
        number, at = divmod(layer * self.layout.experts + expert, self._in_piece)
        return self._pieces[number][at]

    def read(self, layer: int, expert: int, record: torch.Tensor) -> None:
        record.copy_(self.record(layer, expert))

    def check(self, layer: int, expert: int, record: torch.Tensor) -> None:
        """Nothing: this process itself has just filled this memory."""

    def close(self) -> None:
        self._pieces.clear()
        self._let_go()


class DiskStore:
    """All experts in one file that is read past the page cache: O_DIRECT on Linux, F_NOCACHE on macOS.

    The file may be older than this process: each record's checksum is compared when the record is first read.
    Where the file system or the system refuses, reads are buffered, their pages are dropped where the system
    lets us, and `page_cache_bypassed` is False.
    """

    kind = "disk"

    def __init__(self, layout: Layout, path: Path) -> None:
        self.layout = layout
        self.path = path
        found = read_seal(path)
        if found is None:
            raise StoreError(f"{path} is damaged or was not written to its end. Load the model again.")
        self._checksums = found.checksums
        self._checked = np.zeros(len(found.checksums), bool)
        with suppress(OSError):  # a folder that may only be read
            os.utime(path)  # used now: a size limit removes what was not used for longest
        self._file, self.page_cache_bypassed = self._open()

    def read(self, layer: int, expert: int, record: torch.Tensor) -> None:
        size = self.layout.record_bytes
        at = (layer * self.layout.experts + expert) * size
        try:
            self._file.seek(at)
            done = self._file.readinto(memoryview(record.numpy()))  # type: ignore[attr-defined]
        except OSError as error:
            if not self.page_cache_bypassed or error.errno not in (errno.EINVAL, errno.EFAULT):
                raise
            # A driver may refuse direct reads into memory that it has pinned.
            self._file.close()
            self._file = open(self.path, "rb", buffering=0)  # noqa: SIM115
            self.page_cache_bypassed = False
            return self.read(layer, expert, record)
        if done != size:
            raise StoreError(
                f"{self.path} is too short for expert {expert} of MoE layer {layer}. Delete it and load the "
                "model again."
            )
        if not self.page_cache_bypassed and hasattr(os, "posix_fadvise"):
            os.posix_fadvise(self._file.fileno(), at, size, os.POSIX_FADV_DONTNEED)

    def check(self, layer: int, expert: int, record: torch.Tensor) -> None:
        number = layer * self.layout.experts + expert
        if self._checked[number]:
            return
        if zlib.crc32(record.numpy()) != self._checksums[number]:
            self.path.unlink(missing_ok=True)
            raise StoreError(
                f"The slow tier's file {self.path.name} is damaged: expert {expert} of MoE layer {layer} "
                "does not have the bytes that were written. It has been deleted; run again, and it is made "
                "anew from the checkpoint."
            )
        self._checked[number] = True

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


def write_file(layout: Layout, layers: Iterable[LayerOf], path: Path, model: str = "") -> None:
    """Packs all experts into one file, beside its place and renamed, with a checksum of each. Raises
    StoreError.

    Whether there is room is for the caller to ask before (`cachefolder.make_room`); `model`: the name that
    `cache list` shows.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    part = part_of(path)
    record = aligned(1, layout.record_bytes)[0]
    checksums = []
    try:
        with open(part, "wb") as file:
            for tensors_of in layers:
                for expert in range(layout.experts):
                    layout.pack(tensors_of(expert), record)
                    file.write(record.numpy())
                    checksums.append(zlib.crc32(record.numpy()))
            seal(file, np.array(checksums, np.uint32), layout.about() | {"model": model})
            file.flush()
            os.fsync(file.fileno())  # a record still in memory would be read from there, not from the disk
        os.replace(part, path)
    except OSError as error:
        raise StoreError(
            f"The slow tier's file {path.name} cannot be written to {path.parent}: {error.strerror}. "
            "Make room there, or set MOEVIZ_CACHE to another folder."
        ) from None
    finally:
        part.unlink(missing_ok=True)


def is_complete(layout: Layout, path: Path) -> bool:
    """True where `path` holds all experts of this layout, as far as can be seen without reading them."""
    found = read_seal(path)
    if found is None or len(found.checksums) != layout.layers * layout.experts:
        return False
    return found.about | layout.about() == found.about


def pages(size: int) -> torch.Tensor:
    """Page-aligned host memory, uint8 [size], in huge pages where Linux has them to give: a matrix that is
    read through pages of 4 KB needs a walk through the page tables for each of them. Backed by real pages
    when it is written.
    """
    huge = 2**21 if size >= 2**21 and hasattr(mmap, "MADV_HUGEPAGE") else 1
    # private: the shared memory that python maps by default has no huge pages
    private = {"flags": mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS} if hasattr(mmap, "MAP_ANONYMOUS") else {}
    memory = mmap.mmap(-1, size + huge - 1, **private)
    if huge > 1:
        with suppress(OSError):  # a kernel without them
            memory.madvise(mmap.MADV_HUGEPAGE)
    found = torch.frombuffer(memory, dtype=torch.uint8)
    return found[-found.data_ptr() % huge :][:size]


def aligned(records: int, record_bytes: int) -> torch.Tensor:
    """Page-aligned host memory, uint8 [records, record_bytes], already backed by real pages."""
    return pages(records * record_bytes).zero_().view(records, record_bytes)


def measure(
    store: Store,
    copy: Callable[[int, int], None],
    unpack: Callable[[], None] | None = None,
    pace: Machine | None = None,
    overlaps: bool = True,
    repeats: int = 24,
) -> Tier:
    """Latency and bandwidth of the tier with this model's experts: median of single reads until the expert
    can be used, and reads back to back.

    copy: what copies (layer, expert) over the link as a run does; unpack: what unpacks one that has arrived,
    None where they come as a slot has them; pace: the link that every copy is slowed down to; overlaps:
    whether copies run beside compute. Raises StoreError where a record is damaged.
    """
    layout = store.layout
    record = aligned(1, layout.record_bytes)[0]
    least = least_ns(pace, layout)
    places = [(i * 7 % layout.layers, i * 5 % layout.experts) for i in range(repeats)]
    for layer, expert in set(places):  # before the clock runs: a checksum is no part of a copy
        store.read(layer, expert, record)
        store.check(layer, expert, record)
    took, unpacking = [], []
    for layer, expert in places:
        start = time.perf_counter_ns()
        copy(layer, expert)
        took.append(max(least, time.perf_counter_ns() - start))
    for _ in range(3 if unpack is not None else 0):
        start = time.perf_counter_ns()
        unpack()
        unpacking.append(time.perf_counter_ns() - start)
    whole = 0
    for layer, expert in places:
        start = time.perf_counter_ns()
        copy(layer, expert)
        whole += max(least, time.perf_counter_ns() - start)
    usual, unpacked = median(took), median(unpacking or [0])
    return Tier(
        kind=store.kind,
        latency_ms=(usual + unpacked) / 1e6,
        gigabytes_per_second=repeats * layout.record_bytes / whole,
        page_cache_bypassed=store.page_cache_bypassed,
        pace=pace,
        keeps_pace=pace is None or usual <= least * 1.1,
        unpack_ms=unpacked / 1e6,
        overlaps=overlaps,
    )


def least_ns(pace: Machine | None, layout: Layout) -> int:
    """Nanoseconds that a copy of one expert takes at least on a paced link; 0 on one that is not."""
    return round(pace.copy_ms(layout.link_bytes) * 1e6) if pace else 0

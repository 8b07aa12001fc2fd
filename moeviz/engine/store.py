"""The slow tier: every expert of a model as one record of bytes, in a file read past the page cache or in
host memory.

A record is read straight into its slot, or, where the slow tier keeps experts packed, into a buffer from
which it is unpacked into its slot. Knows neither slots nor policies. The slow tier is read-only: an eviction
copies nothing back.
"""

from __future__ import annotations

import errno
import os
import zlib
from collections.abc import Callable, Iterable
from contextlib import suppress
from pathlib import Path
from typing import BinaryIO, Protocol

import numpy as np
import torch

from moeviz.engine.aligned import aligned
from moeviz.engine.cachefolder import part_of, read_seal, seal
from moeviz.engine.layout import Layout, Tensors
from moeviz.engine.tiers import ALIGNMENT
from moeviz.errors import StoreError

_PIECE = 16  # records at least in a piece of host memory: a sixteenth of it at most is left over

LayerOf = Callable[[int], Tensors]
"""What the records of one MoE layer hold, by expert."""


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

"""The folder of packed experts: what is in it, how large it may grow, who may write. Imports no torch.

A file holds one record per expert, then what `seal` writes: a checksum of every record, and what the file is
of. One process at a
time fills a file (`alone_at`); what a dead process left half-written is swept when the next one begins.

    for entry in entries(): print(entry.model, entry.bytes)
"""

from __future__ import annotations

import json
import os
import shutil
import struct
import zlib
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np
import platformdirs
from filelock import FileLock, Timeout
from numpy.typing import NDArray

from moeviz.amounts import size
from moeviz.errors import StoreError
from moeviz.files.moetrace import write_atomically

SUFFIX = ".experts"
ASK_AGAIN = 0.2  # seconds between two tries to get a lock that another process holds
_MAGIC = b"moevizX2"
_TAIL = struct.Struct("<QI8s")  # bytes of the seal without this tail, their checksum, magic
_LIMIT = "limit"  # name of the file that holds the size limit


@dataclass(frozen=True, slots=True)
class Seal:
    """What stands after the records of a file."""

    checksums: NDArray[np.uint32]  # [record]
    about: dict[str, Any]  # model, dtype, record_bytes, ...


@dataclass(frozen=True, slots=True)
class Entry:
    """One file of packed experts."""

    path: Path
    bytes: int
    model: str  # empty where the file cannot be read
    dtype: str
    used: float  # seconds since 1970 when a model last ran from it


def cache_folder() -> Path:
    """Where packed experts are kept between runs: MOEVIZ_CACHE, or the user's cache folder."""
    return Path(os.environ.get("MOEVIZ_CACHE") or platformdirs.user_cache_dir("moeviz")) / "experts"


def seal(file: BinaryIO, checksums: NDArray[np.uint32], about: dict[str, Any]) -> None:
    """Writes what stands after the records. about: at least model, dtype and record_bytes."""
    words = json.dumps(about).encode()
    body = checksums.astype("<u4").tobytes() + words + struct.pack("<I", len(words))
    file.write(body + _TAIL.pack(len(body), zlib.crc32(body), _MAGIC))


def read_seal(path: Path) -> Seal | None:
    """The seal of a file; None where there is none, it is damaged, or the file is not as long as its
    records."""
    try:
        size = path.stat().st_size
        with open(path, "rb") as file:
            file.seek(max(0, size - _TAIL.size))
            length, checksum, magic = _TAIL.unpack(file.read(_TAIL.size))
            if magic != _MAGIC or length > size - _TAIL.size:
                return None
            file.seek(size - _TAIL.size - length)
            body = file.read(length)
        if zlib.crc32(body) != checksum:
            return None
        (words,) = struct.unpack("<I", body[-4:])
        checksums = np.frombuffer(body[: length - 4 - words], "<u4")
        found = Seal(checksums, json.loads(body[length - 4 - words : length - 4]))
        records = len(checksums) * int(found.about["record_bytes"])
    except (OSError, ValueError, KeyError, TypeError, struct.error):
        return None
    return found if records + length + _TAIL.size == size else None


def entries() -> list[Entry]:
    """Every file of packed experts, the least recently used first."""
    found = []
    for path in cache_folder().glob(f"*{SUFFIX}"):
        with suppress(OSError):  # another process may have removed it
            status = path.stat()
            about = one.about if (one := read_seal(path)) else {}
            found.append(
                Entry(path, status.st_size, about.get("model", ""), about.get("dtype", ""), status.st_mtime)
            )
    return sorted(found, key=lambda entry: entry.used)


def remove(entry: Entry) -> bool:
    """False where the system keeps a file that is in use; elsewhere a run goes on with what it has open."""
    try:
        entry.path.unlink(missing_ok=True)
    except OSError:
        return False
    return True


def limit() -> int | None:
    """Bytes that the folder may hold; None where there is no limit."""
    try:
        return int((cache_folder() / _LIMIT).read_text())
    except (OSError, ValueError):
        return None


def set_limit(most: int | None) -> list[Entry]:
    """Keeps the limit for all later runs and removes what is above it now; gives what was removed. Raises
    StoreError."""
    path = cache_folder() / _LIMIT
    try:
        if most is None:
            path.unlink(missing_ok=True)
        else:
            write_atomically(path, str(most).encode())
    except OSError as error:
        raise StoreError(
            f"The limit cannot be kept in {path}: {error.strerror}. Make room there, or set MOEVIZ_CACHE to "
            "another folder."
        ) from None
    return _shrink(0)


def make_room(packed: int, path: Path) -> None:
    """Before the first byte of `path` is written: room for so many. Raises StoreError.

    Where a limit is set, the least recently used files go first.
    """
    most = limit()
    if most is not None and packed > most:
        raise StoreError(
            f"The slow tier needs {size(packed)}, but the cache in {path.parent} is limited to "
            f"{size(most)}. Raise the limit with `python -m moeviz cache limit`, or choose "
            "--tier host."
        )
    _shrink(packed)
    free = shutil.disk_usage(path.parent).free
    if free < packed:
        raise StoreError(
            f"The slow tier needs {size(packed)} in {path.parent}, where "
            f"{size(free)} are free. Make room, or set MOEVIZ_CACHE to a folder on a larger disk. "
            "`python -m moeviz cache list` shows what can go."
        )


@contextmanager
def alone_at(path: Path, waiting: Callable[[], None]) -> Iterator[None]:
    """Only one process at a time is within this block for one `path`.

    `waiting` is called every ASK_AGAIN seconds while another process is within; what it raises ends the
    waiting. Raises StoreError where the folder cannot be written.
    """
    _make(path.parent)
    _sweep(path.parent)
    lock = _lock(path)
    try:
        while True:
            try:
                lock.acquire(timeout=ASK_AGAIN, poll_interval=ASK_AGAIN / 2)
                break
            except Timeout:
                waiting()
    except OSError as error:
        raise StoreError(
            f"The slow tier cannot be written to {path.parent}: {error.strerror}. "
            "Set MOEVIZ_CACHE to another folder."
        ) from None
    try:
        part_of(path).unlink(missing_ok=True)
        yield
    finally:
        part_of(path).unlink(missing_ok=True)
        lock.release()


def part_of(path: Path) -> Path:
    """Where `path` is written before it is renamed, by the one process that is filling it."""
    return path.with_suffix(".part")


def _lock(path: Path) -> FileLock:
    return FileLock(path.with_suffix(".lock"))


def _sweep(folder: Path) -> None:
    """Removes what processes that are dead have left half-written: the system freed their locks."""
    for left in folder.glob("*.part"):
        with suppress(Timeout, OSError), _lock(left).acquire(timeout=0):
            left.unlink(missing_ok=True)


def _shrink(coming: int) -> list[Entry]:
    """Removes the least recently used files until they and `coming` bytes are within the limit."""
    most, kept = limit(), entries()
    gone: list[Entry] = []
    if most is None:
        return gone
    total = sum(entry.bytes for entry in kept) + coming
    for entry in kept:
        if total <= most:
            break
        if remove(entry):
            gone.append(entry)
            total -= entry.bytes
    return gone


def _make(folder: Path) -> None:
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise StoreError(
            f"The slow tier cannot be written to {folder}: {error.strerror}. "
            "Set MOEVIZ_CACHE to another folder."
        ) from None

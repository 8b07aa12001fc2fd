"""What this machine has: free memory and disk, and how fast they are. Imports no torch, so that a plan needs
none.

host_free()                                        # bytes measure_disk(1_179_648, cache_folder()).label
# "this disk, measured past the page cache (1.7 GB/s, 0.07 ms)"
"""

from __future__ import annotations

import mmap
import os
import platform
import shutil
import subprocess
import tempfile
import time
from contextlib import suppress
from pathlib import Path
from statistics import median

import numpy as np
import psutil

from moeviz.core.machines import Machine
from moeviz.errors import StoreError

_MOST_WRITTEN = 256 * 2**20  # bytes, to measure a disk
ALIGNMENT = 4_096  # of O_DIRECT: offset, length and memory


def host_free() -> int:
    """Bytes of RAM that the system and its container leave."""
    return min(int(psutil.virtual_memory().available), _container())


def disk_free(folder: Path) -> tuple[int, Path]:
    """Free bytes where a folder is or would be made, and the nearest folder above it that there is."""
    where = next((one for one in (folder, *folder.parents) if one.is_dir()), Path("/"))
    return shutil.disk_usage(where).free, where


def accelerator_free(kind: str = "auto", number: int = 0) -> int | None:
    """Free bytes of an accelerator, as its driver tells without torch; None where there is none, or none that
    is known. kind: auto or torch's name of it; number: among those of its kind, as torch counts them.
    """
    if kind == "mps":  # which shares the host's
        apple = platform.system() == "Darwin" and platform.machine() == "arm64"
        return host_free() if apple and not number else None
    if kind not in ("auto", "cuda"):
        return None
    driver = shutil.which("nvidia-smi")
    if driver is not None:
        asked = [driver, "--query-gpu=memory.free", "--format=csv,noheader,nounits"]
        with suppress(OSError, ValueError, IndexError, subprocess.SubprocessError):
            said = subprocess.run(asked, capture_output=True, text=True, timeout=10, check=True).stdout
            return int(said.splitlines()[_seen("CUDA_VISIBLE_DEVICES", number)]) * 2**20
    cards = []
    for card in sorted(Path("/sys/class/drm").glob("card*/device")):  # amdgpu
        with suppress(OSError, ValueError):
            total, used = (int((card / f"mem_info_vram_{kind}").read_text()) for kind in ("total", "used"))
            cards.append(total - used)
    with suppress(IndexError, ValueError):
        return cards[_seen("HIP_VISIBLE_DEVICES", number)]
    return None


def _seen(variable: str, number: int) -> int:
    """The driver's number of a card that torch calls by another, where the environment hides some. Raises
    IndexError where it hides this one too, ValueError where it names cards otherwise than by number."""
    shown = os.environ.get(variable)
    return number if shown is None else int(shown.split(",")[number])


def measure_disk(expert_bytes: int, folder: Path) -> Machine:
    """Reads records of one expert's size back from `folder`, past the page cache where the system allows.
    Raises StoreError.

    Writes at most 256 MiB there, and removes them.
    """
    record = max(-(-expert_bytes // ALIGNMENT) * ALIGNMENT, ALIGNMENT)
    count = max(2, min(64, _MOST_WRITTEN // record))
    try:
        folder.mkdir(parents=True, exist_ok=True)
        with tempfile.NamedTemporaryFile(dir=folder, prefix="measure-", suffix=".part") as file:
            piece = np.random.default_rng(0).bytes(record)  # a disk may press zeros together
            for _ in range(count):
                file.write(piece)
            file.flush()
            os.fsync(file.fileno())
            return _timed(file.name, record, count)
    except OSError as error:
        raise StoreError(
            f"The disk cannot be measured in {folder}: {error.strerror}. Set MOEVIZ_CACHE to another folder, "
            "or give --link a name or figures."
        ) from None


def _timed(path: str, record: int, count: int) -> Machine:
    direct = getattr(os, "O_DIRECT", 0)
    try:
        handle = os.open(path, os.O_RDONLY | direct)
    except OSError:  # a file system that refuses it
        handle, direct = os.open(path, os.O_RDONLY), 0
    with mmap.mmap(-1, record) as memory:

        def took(size: int) -> float:
            """Median seconds of reading so many bytes of each record."""
            times = []
            for at in range(count):
                if not direct and hasattr(os, "posix_fadvise"):
                    os.posix_fadvise(handle, at * record, size, os.POSIX_FADV_DONTNEED)
                with memoryview(memory)[:size] as view:
                    start = time.perf_counter()
                    os.preadv(handle, [view], at * record)
                    times.append(time.perf_counter() - start)
            return median(times)

        try:
            one, whole = took(ALIGNMENT), took(record)
        finally:
            os.close(handle)
    rest = max(record - ALIGNMENT, 1)
    past = "past the page cache" if direct else "perhaps from the page cache"
    return Machine(
        f"this disk, measured {past}", one * 1e3, rest / 1e9 / max(whole - one, 1e-9), nominal=False
    )


def memory_speed() -> float:
    """GB/s at which one thread reads RAM."""
    held = np.ones(16 * 2**20, np.float32)
    times = []
    for _ in range(3):
        start = time.perf_counter()
        held.sum()
        times.append(time.perf_counter() - start)
    return held.nbytes / 1e9 / min(times)


def _container() -> int:
    """What a control group of Linux leaves; no bound where there is none."""
    try:
        most, now = (int(Path(f"/sys/fs/cgroup/memory.{name}").read_text()) for name in ("max", "current"))
    except (OSError, ValueError):  # another system, or "max": no bound
        return 1 << 62
    return most - now

"""Peak memory of loading a model, against what has to be in memory, the bytes that are written for it, and
what it costs that the file of its slow tier is not trusted.

Memory and bytes on Linux only: they are read in /proc.

python -m moeviz bench loading
"""

from __future__ import annotations

import os
import select
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from moeviz.bench.rounds import ROOT, spread

LAYERS, EXPERTS, SLOTS = 6, 8, 2
HIDDEN, INNER = 512, 2048
_LOADING = """
import sys
from moeviz.engine.loader import load, use_threads
from moeviz.engine.session import Options, generate
from moeviz.core.settings import Settings
use_threads(1)
load(sys.argv[2], dtype="float32")  # what importing and loading anything costs
for turn in range(2):
    print("begin", flush=True)
    sys.stdin.readline()
    model = load(sys.argv[1], dtype="float32")
    list(generate(model, "hello", Settings(slots=2), Options(2, 0.0, stop_at_end=False)))
    print("end", flush=True)
    sys.stdin.readline()
    model.store.close()
    del model
"""


def _read(process: subprocess.Popen[str], file: str, *names: str) -> int:
    """The sum of these numbers of a process in /proc."""
    lines = Path(f"/proc/{process.pid}/{file}").read_text().splitlines()
    return sum(int(line.split()[1]) for line in lines if line.partition(":")[0] in names)


def _memory(process: subprocess.Popen[str]) -> int:
    """Bytes of a process's own memory now.

    Pages of a mapped checkpoint are not counted: the system drops them when it needs room.
    """
    return _read(process, "status", "RssAnon", "RssShmem") * 1024


def _watched(command: list[str], environment: dict[str, str]) -> list[tuple[int, int]]:
    """For each time that a process says "begin" and "end": the most memory that it takes between, beyond what
    it had before, looked up all the time; and the bytes that it writes.
    """
    found = []
    with subprocess.Popen(
        command, cwd=ROOT, env=environment, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    ) as process:
        assert process.stdin is not None
        assert process.stdout is not None
        try:
            while (line := process.stdout.readline()) == "begin\n":
                before = most = _memory(process)
                written = _read(process, "io", "wchar")
                process.stdin.write("go\n")
                process.stdin.flush()
                while not select.select([process.stdout], [], [], 0)[0]:
                    most = max(most, _memory(process))
                if process.stdout.readline() != "end\n":
                    break
                found.append((most - before, _read(process, "io", "wchar") - written))
                process.stdin.write("done\n")
                process.stdin.flush()
        except BaseException:
            process.kill()  # it would go on, and be waited for
            raise
        if line or len(found) != 2:
            raise RuntimeError("the measured process ended early")
    return found


KINDS = {  # how a checkpoint holds its experts -> model type, how they are packed
    "one by one": ("mixtral", ""),
    "stacked": ("gpt_oss", ""),
    "mxfp4": ("gpt_oss", "mxfp4"),
    "fp8": ("qwen3_moe", "fp8"),
}


def loading(kinds: Sequence[str] = tuple(KINDS)) -> dict[str, float]:
    """Loading random models of 6 layers x 8 experts in float32 and a short run with 2 slots a layer, by how
    the checkpoint holds its experts: megabytes at the peak, over those of dense part, slots and one layer's
    experts, and what is written by a first load and a second.

    In a process of its own, beyond what that process held after loading a model of the same shape with almost
    no weights (Linux).
    """
    from moeviz.engine.made import Made, save

    found: dict[str, float] = {}
    for kind in kinds:
        with tempfile.TemporaryDirectory() as folder:
            model, packed = KINDS[kind]
            large = Made(model, LAYERS, EXPERTS, 2, hidden=HIDDEN, inner=INNER)
            small = replace(large, hidden=128, inner=128)
            dense, layer = save(large, Path(folder) / "large", packed)
            save(small, Path(folder) / "small", packed)
            command = [sys.executable, "-c", _LOADING, f"{folder}/large", f"{folder}/small"]
            (peak, written), (_, again) = _watched(command, os.environ | {"MOEVIZ_CACHE": folder})
            slow = next(path for path in Path(folder).rglob("*.experts") if path.stat().st_size > layer // 8)
            room = dense + LAYERS * SLOTS * layer // EXPERTS + layer
            found |= {
                f"{kind}: peak, MB": peak / 1e6,
                f"{kind}: peak / (dense part + slots + one layer)": peak / room,
                f"{kind}: slow tier, MB": slow.stat().st_size / 1e6,
                f"{kind}: written by a first load / slow tier": written / slow.stat().st_size,
                f"{kind}: written by a second load, MB": again / 1e6,
            }
    return found


def checking() -> dict[str, Any]:
    """Milliseconds to read an expert of the bundled model from its slow tier on disk, and to hold it against
    its checksum, which is done when a process reads it for the first time; of all experts in turn.
    """
    from moeviz.engine.aligned import aligned
    from moeviz.engine.loader import load
    from moeviz.engine.store import DiskStore

    known = load(tier="disk", device="cpu").store
    assert isinstance(known, DiskStore)
    known.close()
    store = DiskStore(known.layout, known.path)  # which has read none of them
    (record,) = aligned(1, store.layout.record_bytes)
    read, checked = [], []
    for number in range(store.layout.layers * store.layout.experts):
        place = divmod(number, store.layout.experts)
        begun = time.perf_counter()
        store.read(*place, record)
        there = time.perf_counter()
        store.check(*place, record)
        read.append(1e3 * (there - begun))
        checked.append(1e3 * (time.perf_counter() - there))
    store.close()
    return {
        "ms to read an expert": spread(read),
        "ms to check it, the first time": spread(checked),
    }

"""How long this processor takes to unpack an expert, measured before anything is loaded.

It is measured in a process of its own, by what a run unpacks with, on bytes made at random: so a plan
needs no torch, and what torch takes of memory is given back.

    python -m moeviz.engine.unpack_time mxfp4 bfloat16 5760x2880 2880x2880        # prints milliseconds
"""

from __future__ import annotations

import math
import subprocess
import sys
import time
from collections.abc import Mapping, Sequence
from functools import partial
from pathlib import Path
from statistics import median
from types import SimpleNamespace
from typing import TYPE_CHECKING, Any, cast

from moeviz.numbers.lossy import EXPERTS

if TYPE_CHECKING:
    from moeviz.engine.layout import Packing

_SECONDS = 120  # torch and torchao take seconds to be imported; no expert does to be unpacked
_BLOCK = 128  # rows and columns that share a scale in fp8
_REPEATS = 9
_ROOT = Path(__file__).parents[2]  # whoever asks may be anywhere


def unpack_ms(kept: str, dtype: str, matrices: Sequence[tuple[int, int]]) -> float | None:
    """Milliseconds of one thread. kept: mxfp4, fp8, int8 or int4; dtype: of the run; matrices: (outputs,
    inputs) of each matrix of an expert. None where it cannot be measured here, for want of a package.
    """
    sizes = [f"{outputs}x{inputs}" for outputs, inputs in matrices]
    command = [sys.executable, "-m", "moeviz.engine.unpack_time", kept, dtype, *sizes]
    try:
        said = subprocess.run(
            command, stdin=subprocess.DEVNULL, capture_output=True, timeout=_SECONDS, check=True, cwd=_ROOT
        )
        return float(said.stdout)
    except (OSError, ValueError, subprocess.SubprocessError):
        return None


def _measured(kept: str, dtype: str, matrices: Sequence[tuple[int, int]]) -> float:
    import torch

    from moeviz.engine.aligned import aligned
    from moeviz.engine.layout import Layout, Row

    torch.set_num_threads(1)
    torch.manual_seed(0)
    kind = getattr(torch, dtype)
    packing, shapes = _packing(kept, kind, {str(number): matrix for number, matrix in enumerate(matrices)})
    layout = Layout(1, 1, kind, shapes, packing)
    record, slot = aligned(1, layout.record_bytes)[0], aligned(1, layout.slot_bytes)[0]
    for tensor in Row(packing.tensors).views(record).values():
        if tensor.dtype == torch.float32:
            tensor.fill_(1.0)  # a scale
        else:
            tensor.view(torch.uint8).random_(112, 128)  # a scale of mxfp4 near 1, or any values
    took = []
    for _ in range(_REPEATS):
        start = time.perf_counter()
        layout.arrive(record, slot)
        took.append(time.perf_counter() - start)
    return median(took) * 1e3


def _packing(kept: str, dtype: Any, matrices: Mapping[str, tuple[int, int]]) -> tuple[Packing, Any]:
    """What unpacks an expert of these matrices, and the shapes that it gives them."""
    import torch

    from moeviz.engine.packing import Rounded, quickly, rounded

    if kept in EXPERTS:
        return Rounded(rounded(kept), matrices, dtype, False), matrices
    tensors: dict[str, tuple[torch.dtype, tuple[int, ...]]] = {}
    for name, (outputs, inputs) in matrices.items():
        if kept == "mxfp4":
            tensors[f"{name}.0"] = torch.uint8, (1, outputs, inputs // 32, 16)
            tensors[f"{name}.1"] = torch.uint8, (1, outputs, inputs // 32)
        else:
            scales = outputs // math.gcd(outputs, _BLOCK), inputs // math.gcd(inputs, _BLOCK)
            tensors[f"{name}.0"] = torch.float8_e4m3fn, (outputs, inputs)
            tensors[f"{name}.1"] = torch.float32, scales
    turned = kept == "mxfp4"  # so transformers loads it
    shapes = {name: matrix[::-1] if turned else matrix for name, matrix in matrices.items()}
    unpack = partial(quickly, shapes=shapes, dtype=dtype)
    return cast("Packing", SimpleNamespace(name=kept, tensors=tensors, unpack=unpack)), shapes


if __name__ == "__main__":
    matrices = [tuple(map(int, size.split("x"))) for size in sys.argv[3:]]
    print(_measured(sys.argv[1], sys.argv[2], [(outputs, inputs) for outputs, inputs in matrices]))

"""Which dtype a model is computed in: the one that was named, or the one that this machine is faster in."""

from __future__ import annotations

import time
from collections.abc import Sequence
from typing import Any

import torch
from torch import nn

from moeviz.amounts import milliseconds
from moeviz.engine.experts import stacked

DTYPES = ("auto", "float32", "bfloat16", "float16")


def dtype_named(name: str, config: Any, device: torch.device, experts: nn.Module) -> tuple[torch.dtype, str]:
    """The dtype to compute in, and in words how it was chosen where it was measured.

    An accelerator computes in the checkpoint's own. On a CPU bfloat16 is the faster on some and ten times the
    slower on others, so one of the model's experts is tried in both; float32 is never given up for less
    precision than the checkpoint has.
    """
    if name != "auto":
        return getattr(torch, name), ""
    found = config.get_text_config().dtype
    own = found if isinstance(found, torch.dtype) else torch.bfloat16
    if device.type != "cpu" or own == torch.float32:
        return own, ""
    took = _expert_ms(experts, (torch.float32, own))
    kind = own if took[own] < 0.9 * took[torch.float32] else torch.float32  # a tie is float32, run after run
    shown = ", ".join(f"{str(one).removeprefix('torch.')} {milliseconds(ms)}" for one, ms in took.items())
    return kind, f"dtype chosen by one expert's time for one token: {shown}"


def _expert_ms(experts: nn.Module, dtypes: Sequence[torch.dtype]) -> dict[torch.dtype, float]:
    """Milliseconds of one token's products with the matrices of one expert, by dtype.

    Experts are taken in turn, as many as fill 32 MB, because one that stays in the processor's cache would
    hide what moving it costs. It is the thread's own time and the least of some rounds, taken in turn: what
    else the machine does should not decide.
    """
    shapes = [tuple(p.shape[1:]) for p in stacked(experts).values() if p.dim() == 3]
    work: dict[torch.dtype, list[tuple[torch.Tensor, torch.Tensor]]] = {}
    for dtype in dtypes:
        size = sum(rows * columns for rows, columns in shapes) * dtype.itemsize
        work[dtype] = [
            (torch.zeros(1, columns, dtype=dtype), weights)
            for rows, columns in shapes
            for weights in torch.zeros(max(1, 32_000_000 // size), rows, columns, dtype=dtype)
        ]
    least = dict.fromkeys(dtypes, float("inf"))
    with torch.inference_mode():
        for _ in range(6):
            for dtype, products in work.items():
                start = time.thread_time_ns()
                for hidden, weights in products:
                    nn.functional.linear(hidden, weights)
                per_expert = (time.thread_time_ns() - start) / (len(products) / len(shapes))
                least[dtype] = min(least[dtype], per_expert / 1e6)
    return least

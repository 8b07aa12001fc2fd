"""Unpacks mxfp4 and block-fp8 as transformers' operations do, in a tenth of their time on a CPU.

Every pair of values that fit in one or two bytes is looked up at once, and a scale multiplies what was looked
up. What comes out is the same to the bit, which the caller has to try on an expert (`packing.as_stored`): it
holds because each number is made by one multiplication and one rounding. Knows neither checkpoints nor slots.
"""

from __future__ import annotations

from functools import cache

import torch
from transformers.integrations.mxfp4 import FP4_VALUES

_ROWS = 64  # that are unpacked at once on a CPU, so that what is between stays in its cache


def mxfp4(blocks: torch.Tensor, scales: torch.Tensor, out: torch.Tensor) -> None:
    """blocks: uint8 [row, block, byte], two values in a byte; scales: uint8 [row, block], powers of two with
    127 for 1; out: [block x byte x 2, row]
    """
    table = _pairs(out.dtype, out.device)
    step = _ROWS if out.device.type == "cpu" else len(blocks)
    for first in range(0, len(blocks), step):
        piece = blocks[first : first + step]
        values = table.index_select(0, piece.flatten().int()).view(out.dtype).view(*piece.shape[:2], -1)
        power = torch.pow(2.0, scales[first : first + step].int() - 128)
        if out.dtype == torch.bfloat16:
            power = power.to(out.dtype)  # which holds every power that float32 does
        out[:, first : first + step] = (values * power[:, :, None]).flatten(1).T


def fp8(values: torch.Tensor, scales: torch.Tensor, out: torch.Tensor) -> None:
    """values: float8_e4m3fn [row, column]; scales: float [rows of blocks, columns of blocks]; out: the shape
    of values
    """
    table = _fp8_pairs(out.device)
    high, wide = len(values) // len(scales), values.shape[1] // scales.shape[1]
    bytes_ = values.view(torch.uint8)
    for n, factors in enumerate(scales.float()):
        piece = bytes_[n * high : (n + 1) * high]
        found = table.index_select(0, piece.view(torch.uint16).flatten().int()).view(torch.float32)
        product = found.view(high, -1, wide) * factors[:, None]
        out[n * high : (n + 1) * high] = product.view(high, -1)


@cache
def _pairs(dtype: torch.dtype, device: torch.device) -> torch.Tensor:
    """Twice the two values of every byte of mxfp4, as the integer that both fill.

    Twice, because the largest scale is 2^128, of which float32 holds the half.
    """
    byte = torch.arange(256)
    both = 2 * torch.tensor(FP4_VALUES, dtype=dtype)[torch.stack([byte & 15, byte >> 4], 1)]
    return both.view(torch.int64 if dtype.itemsize == 4 else torch.int32).flatten().to(device)


@cache
def _fp8_pairs(device: torch.device) -> torch.Tensor:
    """The two float32 values of every two bytes of fp8, as the integer that both fill."""
    every = torch.arange(1 << 16, dtype=torch.int32).to(torch.uint16)
    return every.view(torch.float8_e4m3fn).float().view(torch.int64).to(device)

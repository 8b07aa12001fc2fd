"""Whether one way of multiplying has the bits of another, on this machine.

A product of a row with a matrix is a sum for each number of the result, and the order of its terms is the
kernel's, which may choose it by shape, dtype, processor and whether the row stands in one piece. Kernels also
differ in what they make of numbers near zero and of those too large to hold. Knows no modules.

    alike((256, 128, 128), 256, torch.bfloat16)
"""

from __future__ import annotations

from functools import lru_cache

import torch
from torch.nn import Parameter
from torch.nn.functional import linear

_MOST = 2**27  # elements of a matrix that is tried: a quarter of a gigabyte in 16 bits


def exact_zeros(
    rows: int, width: int, dtype: torch.dtype, generator: torch.Generator
) -> tuple[torch.Tensor, torch.Tensor]:
    """A matrix [rows, width] and a vector [width] whose products are zero but for rounding.

    What is left of them is rounding alone, so another order of the same sum shows. Of other sums, 16 bits
    would hide it in all but one of ten thousand.
    """
    half = torch.randn(rows, width // 2, generator=generator, dtype=dtype)
    vector = torch.randn(width // 2, generator=generator, dtype=dtype)
    odd = half.new_zeros(rows, width % 2)
    return torch.cat([half, half, odd], 1), torch.cat([vector, -vector, odd[0]])


def alike(rows: tuple[int, ...], width: int, dtype: torch.dtype, gradient: bool = False) -> bool:
    """Whether the product of matrices of so many rows, one below the other, with a vector has on a CPU the
    bits of `linear` for each of them and a row. `gradient`: whether they require one, which `linear` heeds.

    Of a vector and a row in one piece. False for what is too large to try. Each kind is tried once, and again
    with another number of threads.
    """
    return sum(rows) * width <= _MOST and _tried(rows, width, dtype, gradient, torch.get_num_threads())


@lru_cache(maxsize=256)
def _tried(rows: tuple[int, ...], width: int, dtype: torch.dtype, gradient: bool, threads: int) -> bool:
    generator = torch.Generator().manual_seed(0)
    with torch.inference_mode():
        whole, zeros = exact_zeros(sum(rows), width, dtype, generator)
        parts = whole.split(rows) if len(rows) > 1 else (whole,)
        each = [Parameter(one.clone() if len(rows) > 1 else one, gradient) for one in parts]
        some = torch.randn(5, width, generator=generator, dtype=dtype)
        some[3] *= torch.finfo(dtype).tiny  # which some kernels take for zero
        some[4] *= torch.finfo(dtype).max / 8  # sums of which overflow
        for vector in (zeros, *some):
            found = torch.mv(whole, vector)
            for row in (vector[None], vector[None, None]):
                if not same_bits(found, torch.cat([linear(row, one).view(-1) for one in each])):
                    return False
    return True


def same_bits(one: torch.Tensor, other: torch.Tensor) -> bool:
    """Whether two tensors hold the same numbers, of which zero and minus zero are two and all that are none
    (NaN) are one.
    """
    bits = torch.int32 if one.dtype.itemsize == 4 else torch.int16
    none = one.isnan() & other.isnan()
    return bool(((one.view(bits) == other.view(bits)) | none).all())

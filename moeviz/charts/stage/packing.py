"""Arrays as text for the browser: base64 of little-endian numbers of the smallest type that holds them.

Knows nothing of traces. `stage_js/decode.js` reads what `packed` writes.

    packed(np.array([0, 3, 250]))       # {"type": "u8", "data": "AAP6"}
"""

from __future__ import annotations

import base64
from typing import Any

import numpy as np
from numpy.typing import NDArray

_TYPES = {  # name that the browser knows -> numpy's, the smallest first
    "u8": "<u1",
    "i8": "<i1",
    "u16": "<u2",
    "i16": "<i2",
    "u32": "<u4",
    "i32": "<i4",
}


def packed(array: NDArray[Any]) -> dict[str, str]:
    """Whole numbers in the smallest of u8, i8, u16, i16, u32, i32 that holds all of them; floats as f32.

    Raises ValueError where a whole number needs more than 32 bits.
    """
    flat = np.ascontiguousarray(array).reshape(-1)
    if flat.dtype.kind == "f":
        return {"type": "f32", "data": _base64(flat.astype("<f4"))}
    if flat.dtype.kind == "b":
        flat = flat.astype(np.uint8)
    least, most = (int(flat.min()), int(flat.max())) if flat.size else (0, 0)
    for name, kind in _TYPES.items():
        limits = np.iinfo(kind)
        if limits.min <= least and most <= limits.max:
            return {"type": name, "data": _base64(flat.astype(kind))}
    raise ValueError(f"numbers from {least} to {most} do not fit in 32 bits.")


def pairs_of_bits(array: NDArray[Any]) -> dict[str, str]:
    """Numbers from 0 to 3, four in a byte, the first in the lowest bits."""
    flat = np.zeros(-(-array.size // 4) * 4, np.uint8)
    flat[: array.size] = array.reshape(-1)
    quads = flat.reshape(-1, 4)
    return packed(quads[:, 0] | quads[:, 1] << 2 | quads[:, 2] << 4 | quads[:, 3] << 6)


def _base64(array: NDArray[Any]) -> str:
    return base64.b64encode(array.tobytes()).decode("ascii")

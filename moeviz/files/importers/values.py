"""Values that stand in a field of JSON, a cell or a line of text: each is checked, and named if it is wrong.

ids = expert_list(source, line["topk_ids"], "line 2", "topk_ids")
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np

from moeviz.core.trace import MAX_EXPERTS, MAX_K, MAX_LAYERS
from moeviz.files.importers.names import layer_in
from moeviz.files.importers.source import Source

MOST = 2**31 - 1
_MOST_WEIGHT = float(np.finfo(np.float32).max)  # of what a trace keeps weights in


def whole(source: Source, value: object, place: str, what: str, least: int = 0, most: int = MOST) -> int:
    """A whole number; 3.0 counts, True does not. Raises TraceError."""
    if type(value) is float and value.is_integer():
        value = int(value)
    if type(value) is not int:
        raise source.error(f"{place}: {what} is {str(value)[:40]!r}; expected a whole number.")
    if not least <= value <= most:
        raise source.error(f"{place}: {what} is {str(value)[:40]}; expected {least} to {most}.")
    return value


def expert_list(source: Source, value: object, place: str, what: str) -> list[int]:
    """Expert ids, perhaps none. Raises TraceError."""
    if not isinstance(value, list):
        raise source.error(f"{place}: {what} is {str(value)[:40]!r}; expected a list of expert ids.")
    if len(value) > MAX_K:
        raise source.error(f"{place}: {what} has {len(value)} entries; a token uses at most {MAX_K} experts.")
    return [whole(source, one, place, f"an entry of {what}", -1, MAX_EXPERTS - 1) for one in value]


def weight_list(
    source: Source, value: object, ids: Sequence[int], experts: int, place: str, what: str
) -> list[float] | None:
    """A weight for each id; None where there is none. Numbers of all E experts are read for the chosen ones.
    Raises TraceError.
    """
    if value is None or (value == [] and ids):
        return None
    if not isinstance(value, list) or not all(type(one) in (int, float) for one in value):
        raise source.error(f"{place}: {what} must be a list of numbers.")
    if experts and len(value) == experts > len(ids) and all(0 <= one < experts for one in ids):
        value = [value[one] for one in ids]
    if len(value) != len(ids):
        raise source.error(
            f"{place}: {what} has {len(value)} entries; expected a number for each of {len(ids)} experts."
        )
    try:
        found = [float(one) for one in value]
    except OverflowError:
        found = [_MOST_WEIGHT * 2]
    if any(math.isfinite(one) and abs(one) > _MOST_WEIGHT for one in found):
        raise source.error(f"{place}: {what} holds a number that is beyond floating point.")
    return found


def layer_number(source: Source, value: object, place: str, what: str = "layer") -> int:
    """A number, or a name that holds it. Raises TraceError."""
    if isinstance(value, str) and (found := layer_in(value)) is not None:
        value = found
    return whole(source, value, place, what, 0, 4 * MAX_LAYERS)

"""Counts without order, from whatever array or rows: made into a `Counts`, with a line that says what they
are not.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
from numpy.typing import NDArray

from moeviz.core.trace import MAX_EXPERTS, MAX_LAYERS
from moeviz.errors import TraceError
from moeviz.files.importers.registry import Counted
from moeviz.files.importers.source import Source
from moeviz.files.moecounts import Counts

ONLY_COUNTS = "these are counts without order: which token used which expert is not said"


def counted(source: Source, array: NDArray[Any], format: str, report: list[str]) -> Counted:
    """array: [layer, expert]. Raises TraceError."""
    layers, experts = array.shape
    if not (1 <= layers <= MAX_LAYERS and 1 <= experts <= MAX_EXPERTS):
        raise source.error(
            f"holds an array {array.shape}; expected routes [token, layer, k], or counts of up to "
            f"{MAX_LAYERS} layers of {MAX_EXPERTS:,} experts."
        )
    lines = [ONLY_COUNTS, *report]
    try:
        counts = array.astype(np.float64)
        if not counts.any(1).all():
            lines.append(f"{int((~counts.any(1)).sum())} layers used no expert; they are kept")
        return Counted(Counts(counts, model=source.name, notes=tuple(lines)), format, lines)
    except TraceError as error:
        raise source.error(str(error)) from None


def counted_rows(
    source: Source, rows: Mapping[tuple[int, int], float], experts: int, format: str, report: list[str]
) -> Counted:
    """rows: (layer, expert) -> uses. Raises TraceError."""
    layers = sorted({layer for layer, _ in rows})
    most = max(expert for _, expert in rows) + 1
    if experts and most > experts:
        raise source.error(f"counts expert {most - 1}, but there are {experts}.")
    lines = [ONLY_COUNTS, *report]
    if not experts:
        lines.append(
            f"how many experts a layer has is not said; it is taken to be {most}, the largest id + 1 "
            "(--experts sets it)"
        )
    if not 1 <= len(layers) <= MAX_LAYERS or (experts or most) > MAX_EXPERTS:
        raise source.error(
            f"counts {len(layers)} layers of {most} experts; expected up to {MAX_LAYERS} of {MAX_EXPERTS}."
        )
    array = np.zeros((len(layers), experts or most))
    at = {layer: number for number, layer in enumerate(layers)}
    for (layer, expert), uses in rows.items():
        array[at[layer], expert] = uses
    try:
        return Counted(Counts(array, tuple(layers), source.name, tuple(lines)), format, lines)
    except TraceError as error:
        raise source.error(str(error)) from None

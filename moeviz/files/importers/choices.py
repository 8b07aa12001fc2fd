"""What the numbers of an array [token, layer, ...] mean as a choice: ids, marks, logits or probabilities.

Knows one array and how many experts there are; not which file it stands in, nor what else stands beside it.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from moeviz.core.trace import MAX_EXPERTS, MAX_K
from moeviz.files.importers.routed import check_shape, narrow
from moeviz.files.importers.source import Source

Array = NDArray[Any]
_CHUNK = 1 << 20  # numbers looked at in one go


def are_marks(array: Array) -> bool:
    """True of 0 and 1 for each of three experts or more, which as ids would name one expert twice."""
    if array.dtype.kind == "b":
        return bool(array.shape[2] > 2)
    return bool(array.shape[2] > 2 and array.max() == 1 and ((array == 0) | (array == 1)).all())


def of_marks(
    source: Source, marks: Array, shares: Array | None, report: list[str]
) -> tuple[NDArray[np.int16], NDArray[np.float32] | None, int]:
    """Ids of the experts that are marked with 1, by id, their weights, and how many experts there are.

    marks, shares (of all experts): [token, layer, expert]. Raises TraceError.
    """
    tokens, layers, experts = marks.shape
    k = int(marks.sum(2, dtype=np.int64).max())
    check_shape(source, (tokens, layers, k), shares is not None)
    if experts > MAX_EXPERTS:
        raise source.error(f"marks {experts:,} experts; a layer has at most {MAX_EXPERTS:,}.")
    ids = np.full((tokens, layers, k), -1, np.int16)
    weights = None if shares is None else np.zeros(ids.shape, np.float32)
    rows = max(_CHUNK // (layers * experts), 1)
    for start in range(0, tokens, rows):
        token, layer, expert = np.nonzero(marks[start : start + rows])
        event = token * layers + layer
        rank = np.arange(len(event)) - event.searchsorted(event)
        ids[start + token, layer, rank] = expert
        if weights is not None and shares is not None:
            weights[start + token, layer, rank] = shares[start + token, layer, expert]
    report.append(f"0 and 1 mark which of {experts} experts were chosen; their order is that of the ids")
    return ids, weights, experts


def whole_numbers(array: Array) -> bool:
    """True where every number is finite and whole, whatever its type."""
    flat = array.reshape(-1)
    return all(
        bool((np.isfinite(part) & (np.floor(part) == part)).all())
        for start in range(0, flat.size, _CHUNK)
        for part in (flat[start : start + _CHUNK],)
    )


def highest(
    source: Source, k: int, logits: Array, report: list[str]
) -> tuple[NDArray[np.int16], NDArray[np.float32], int]:
    """The k highest of all experts' numbers, strongest first, their softmax, and how many experts there are.

    logits: [token, layer, expert]; where they already are probabilities, these are the weights. Raises
    TraceError.
    """
    tokens, layers, experts = logits.shape
    if not 1 <= k <= min(experts, MAX_K) or experts > MAX_EXPERTS:
        raise source.error(f"--top-k is {k}, but the array has {experts:,} numbers for each token and layer.")
    check_shape(source, (tokens, layers, k), True)
    ids = np.empty((tokens, layers, k), np.int16)
    weights = np.empty(ids.shape, np.float32)
    rows = max(_CHUNK // (layers * experts), 1)
    shares = _are_shares(logits[:rows])
    for start in range(0, tokens, rows):
        part = logits[start : start + rows].astype(np.float64)
        if not np.isfinite(part).all():
            raise source.error("holds logits that are not finite numbers.")
        order = np.argsort(-part, axis=2, kind="stable")[:, :, :k]
        if not shares:
            part = np.exp(part - part.max(2, keepdims=True))
            part /= part.sum(2, keepdims=True)
        ids[start : start + rows] = order
        weights[start : start + rows] = np.take_along_axis(part, order, 2)
    if shares:
        report.append(
            f"the numbers of a layer sum to 1, as probabilities do: the {k} highest of {experts} are the "
            "choice and the weights"
        )
    else:
        report.append(
            f"the numbers are taken for router logits: the {k} highest of {experts} are the choice, their "
            "softmax the weights"
        )
    return ids, weights, experts


def _are_shares(numbers: Array) -> bool:
    """True of probabilities, which are positive and sum to 1: a router's softmax rather than its logits. All
    may be 0 where nothing was routed.
    """
    part = numbers.astype(np.float64)
    total = part.sum(2)
    return bool((part >= 0).all() and total.any() and ((np.abs(total - 1) < 0.02) | (total == 0)).all())


def without_sentinels(source: Source, ids: Array, experts: int, report: list[str]) -> NDArray[np.int16]:
    """The ids with sentinels of unused places as -1.

    Two are in use: -1 in an unsigned type, which is its largest number, and the number of experts, one past
    the last id. A number that could be an expert counts only where a whole event holds nothing else, or where
    an event holds it twice beside others, which no event of a whole layer or token without routes does.
    """
    largest = int(np.iinfo(ids.dtype).max) if ids.dtype.kind == "u" else 0
    for sentinel in sorted({largest, experts} - {0}):
        if int(ids.max()) < sentinel:
            continue
        mask = ids == sentinel
        whole = mask.all(2, keepdims=True)
        if sentinel < MAX_EXPERTS and not ((mask.sum(2, keepdims=True) > 1) & ~whole).any():
            mask &= whole & (ids.shape[2] > 1 or 0 < experts <= sentinel)
        if mask.any():
            report.append(
                f"{int(mask.any((1, 2)).sum()):,} tokens hold the id {sentinel}, which stands for an unused "
                "place"
            )
            rest = ids[~mask]
            narrow(source, rest)
            return np.where(mask, np.int16(-1), ids.astype(np.int16))
    return narrow(source, ids)

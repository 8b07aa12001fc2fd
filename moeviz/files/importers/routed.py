"""From what a file says to a checked trace: places that are not used, layers and rows without routes, phases
and passes.

An importer fills a `Routed` with what its file holds, in the order of requests and of the tokens in them, and
`finish` does the rest the same way for all formats. What the file does not say is assumed here, and every
assumption is a line of the report.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from moeviz.core.run import ExpertBytes
from moeviz.core.trace import (
    DECODE,
    MAX_EXPERTS,
    MAX_K,
    MAX_LAYERS,
    MAX_SEQUENCES,
    MAX_TOKENS,
    PREFILL,
    Trace,
)
from moeviz.errors import TraceError
from moeviz.files.importers.registry import Imported, Options
from moeviz.files.importers.source import Source
from moeviz.words import many

Ints = NDArray[np.int64]


@dataclass(eq=False, slots=True)
class Routed:
    """What a file says of T tokens, L layers and up to k experts. Tokens of one request stand together."""

    ids: NDArray[np.int16]  # [T, L, k], -1 where a place is not used
    weights: NDArray[np.float32] | None = None  # [T, L, k]
    layers: Sequence[int] = ()  # numbers of the layers in the model; () where the file has none
    phase: NDArray[np.uint8] | None = None  # [T]
    forward_pass: Ints | None = (
        None  # [T] whatever numbers; neighbours of one request with one number are one pass
    )
    sequence: Ints | None = None  # [T] whatever numbers
    token_ids: Ints | None = None  # [T]
    texts: Sequence[str] | None = None  # [T]
    experts: int = 0  # E, 0 where the file does not say
    expert_bytes: int | Mapping[int, int] = 0  # of one expert, or by the layer's number
    model: str = ""
    prompt: str = ""
    prompt_tokens: int = -1  # of each request, where no phase is said; -1: not known
    recorded: dict[str, str] = field(default_factory=dict)
    report: list[str] = field(default_factory=list)


def finish(source: Source, options: Options, routed: Routed, format: str) -> Imported:
    """The trace. Raises TraceError with the file's name."""
    report = list(routed.report)
    try:
        trace = _trace(source, options, _together(routed, report), report)
    except TraceError as error:
        text = str(error)
        raise (error if text.startswith(source.name) else source.error(text)) from None
    return Imported(trace, None, format, report)


def _together(routed: Routed, report: list[str]) -> Routed:
    """With the tokens of each request together, in its own order, the requests as they begin in the file."""
    if routed.sequence is None or len(routed.sequence) != len(routed.ids):
        return routed
    own = _numbered(routed.sequence)
    if (np.diff(own) >= 0).all():
        return routed
    order = np.argsort(own, kind="stable")
    report.append("tokens of several requests alternate in the file; each request's now follow each other")
    per_token = {
        name: values[order]
        for name in ("ids", "weights", "phase", "forward_pass", "sequence", "token_ids")
        if (values := getattr(routed, name)) is not None
    }
    texts = None if routed.texts is None else [routed.texts[token] for token in order.tolist()]
    return replace(routed, texts=texts, **per_token)


def check_shape(source: Source, shape: Sequence[int], weights: bool) -> None:
    """[token, layer, k]. Raises TraceError where no trace can have this shape, before anything of that size
    is made.
    """
    tokens, layers, k = shape
    if tokens > MAX_TOKENS or layers > MAX_LAYERS or k > MAX_K or 0 in (tokens, layers, k):
        raise source.error(
            f"holds {tokens:,} tokens x {layers:,} layers x {k:,} experts per token; expected up to "
            f"{MAX_TOKENS:,} x {MAX_LAYERS} x {MAX_K}, and none of them 0."
        )
    source.places(tokens, layers, k, weights)


def _trace(source: Source, options: Options, routed: Routed, report: list[str]) -> Trace:
    ids, weights = routed.ids, routed.weights
    check_shape(source, ids.shape, weights is not None)
    if routed.texts is not None:
        source.afford(6 * sum(map(len, routed.texts)), "its texts")  # as JSON escapes them, at worst
    ids = _mark_unrouted(ids, report)
    ids, weights = _pack(ids, weights)
    rows = _routed_rows(ids, routed.sequence, report)
    layers: NDArray[np.bool_] = np.any(ids >= 0, axis=(0, 2))
    width = max(int((ids >= 0).sum(2).max()), 1)
    if not layers.any() or not rows.any():
        raise source.error("holds no routes: every place is -1, or every id is 0.")
    numbers = list(routed.layers) or list(range(ids.shape[1]))
    indices = tuple(int(number) for number, kept in zip(numbers, layers, strict=True) if kept)
    if not layers.all():
        left = [str(number) for number, kept in zip(numbers, layers, strict=True) if not kept]
        report.append(f"layers without routes (dense) were left out: {_some(left)}")
    elif not routed.layers:
        indices = ()
    _name_doubtful(ids[rows], report)
    if not rows.all() or not layers.all() or width < ids.shape[2]:
        ids = ids[rows][:, layers, :width]
        weights = None if weights is None else weights[rows][:, layers, :width]
    if fewer := int((ids < 0).any(2).sum()):
        report.append(
            f"fewer than {many(width, 'expert')} in {fewer:,} of {ids.shape[0] * ids.shape[1]:,} choices; "
            "nothing is put in their place"
        )
    experts = _experts(ids, options.experts or routed.experts, bool(options.experts), report)
    sequence = None if routed.sequence is None else _numbered(routed.sequence[rows])
    phase, forward_pass = _passes(options, routed, rows, sequence, len(ids), report)
    if weights is None:
        report.append("the file holds no router weights; the order of the choices stands for their strength")
    elif (np.diff(weights, axis=2) > 0)[ids[:, :, 1:] >= 0].any():
        report.append("weights do not fall within a token's choices; the order of the file is kept")
    tokens = np.flatnonzero(rows)
    if routed.token_ids is not None:
        _check_ids(routed.token_ids)
    return Trace(
        experts=np.ascontiguousarray(ids),
        weights=None if weights is None else np.ascontiguousarray(weights),
        token_ids=None if routed.token_ids is None else routed.token_ids[rows].astype(np.int32),
        phase=phase,
        forward_pass=forward_pass,
        guess=np.full((*ids.shape[:2], 0, 0), -1, np.int16),
        num_experts=experts,
        texts=("",) * len(tokens)
        if routed.texts is None
        else tuple(routed.texts[token] for token in tokens.tolist()),
        model=routed.model or source.name,
        layer_indices=indices,
        expert_bytes=_sizes(routed.expert_bytes, indices, report),
        prompt=routed.prompt,
        recorded=routed.recorded,
        sequence=None if sequence is None or not sequence.any() else sequence.astype(np.int16),
        notes=tuple(report),
    )


def _mark_unrouted(ids: NDArray[np.int16], report: list[str]) -> NDArray[np.int16]:
    """-1 for events whose places all hold 0, and for tokens whose places hold one id in all of several
    layers: nothing was routed there.
    """
    if ids.shape[2] == 1:
        return ids
    equal = (ids == ids[:, :, :1]).all(2) & (ids[:, :, 0] >= 0)
    zero = equal & (ids[:, :, 0] == 0)
    same = equal.all(1) & (ids[:, :, 0] == ids[:, :1, 0]).all(1) & (ids.shape[1] > 1)
    blank = zero | same[:, None]
    if not blank.any():
        return ids
    within = blank & ~blank.all(0) & ~blank.all(1)[:, None]
    if within.any():
        report.append(f"{int(within.sum()):,} events hold 0 in all places: nothing was routed there")
    return np.where(blank[:, :, None], np.int16(-1), ids)


def _pack(
    ids: NDArray[np.int16], weights: NDArray[np.float32] | None
) -> tuple[NDArray[np.int16], NDArray[np.float32] | None]:
    """Unused places stand last, and have the weight 0."""
    unused = ids < 0
    if not unused.any():
        return ids, weights
    if (unused[:, :, :-1] & ~unused[:, :, 1:]).any():
        order = np.argsort(unused, axis=2, kind="stable").astype(np.int8)
        ids = np.take_along_axis(ids, order, 2)
        weights = None if weights is None else np.take_along_axis(weights, order, 2)
        unused = ids < 0
    return ids, None if weights is None else np.where(unused, np.float32(0), weights)


def _routed_rows(ids: NDArray[np.int16], sequence: Ints | None, report: list[str]) -> NDArray[np.bool_]:
    """False for the rows at the end of each request that were never routed. [T]"""
    has: NDArray[np.bool_] = np.any(ids >= 0, axis=(1, 2))
    keep = np.ones(len(ids), np.bool_)
    if sequence is None:
        ends = np.array([len(ids)])
    else:
        ends = np.append(np.flatnonzero(np.diff(sequence)) + 1, len(ids))
    first = 0
    for end in ends.tolist():
        used = np.flatnonzero(has[first:end])
        keep[first + int(used[-1]) + 1 if used.size else first : end] = False
        first = end
    if not keep.all():
        report.append(f"dropped {many(int((~keep).sum()), 'row')} at the end, never routed")
    if not has[keep].all():
        report.append(
            f"without an expert in any layer: {many(int((~has[keep]).sum()), 'token')}, kept without events"
        )
    return keep


def _name_doubtful(ids: NDArray[np.int16], report: list[str]) -> None:
    """Rows that may be none of the text's, and are kept."""
    k = ids.shape[2]
    if not len(ids):
        return
    used = (ids[-1] >= 0).any(1)
    if k > 1 and used.any() and (ids[-1][used] == np.arange(k)).all():
        report.append(f"the last token chose 0 to {k - 1} in every layer, as an unused row may; it is kept")
    if k == 1 and len(ids) > 1 and (ids[-1][used] == 0).all():
        zeros = len(ids) - 1 - int(np.flatnonzero((ids > 0).any((1, 2)))[-1]) if (ids > 0).any() else len(ids)
        report.append(
            f"the last {zeros:,} tokens chose expert 0 in every layer, as unused rows may; they are kept"
        )


def _experts(ids: NDArray[np.int16], said: int, asked: bool, report: list[str]) -> int:
    """E. Raises TraceError where an id is beyond it."""
    most = int(ids.max())
    if said and most >= said:
        token, layer, _ = np.argwhere(ids >= said)[0]
        whose = "--experts says" if asked else "the file says"
        advice = ""
        if most == said and not (ids == 0).any():
            advice = " If the file counts from 1, subtract 1."
        raise TraceError(
            f"token {token} in layer {layer} chose expert {ids[ids >= said][0]}, but {whose} {said}.{advice}"
        )
    if not said:
        report.append(
            f"how many experts a layer has is not said; it is taken to be {most + 1}, the largest id + 1 "
            "(--experts sets it)"
        )
        if most and not (ids == 0).any():
            report.append(
                f"no token chose expert 0: if the file counts experts from 1, there are {most}, and every id "
                "is one too large; subtract 1 and import again"
            )
    return said or most + 1


def _numbered(sequence: Ints) -> Ints:
    """0, 1, ... in the order in which the requests begin. Raises TraceError."""
    found, first, inverse = np.unique(sequence, return_index=True, return_inverse=True)
    if len(found) > MAX_SEQUENCES:
        raise TraceError(f"{len(found):,} requests; expected up to {MAX_SEQUENCES:,}.")
    place = np.empty(len(found), np.int64)
    place[np.argsort(first)] = np.arange(len(found))
    numbers: Ints = place[inverse]
    return numbers


def _passes(
    options: Options,
    routed: Routed,
    rows: NDArray[np.bool_],
    sequence: Ints | None,
    tokens: int,
    report: list[str],
) -> tuple[NDArray[np.uint8], NDArray[np.int32]]:
    """Phase and number of the forward pass of each token."""
    own = np.zeros(tokens, np.int64) if sequence is None else sequence
    phase = None if routed.phase is None else routed.phase[rows]
    step = None if routed.forward_pass is None else routed.forward_pass[rows]
    new = np.diff(own, prepend=own[:1] - 1) != 0
    first = np.flatnonzero(new)
    place = np.arange(tokens) - np.repeat(first, np.diff(np.append(first, tokens)))
    if options.prompt_tokens >= 0:
        longest = int(place.max()) + 1
        if options.prompt_tokens > longest:
            raise TraceError(
                f"--prompt-tokens says {options.prompt_tokens:,}, but the longest request has {longest:,} "
                "tokens. Give at most as many."
            )
        phase = (place >= options.prompt_tokens).astype(np.uint8)
        step = None
        asked = "as was asked" if routed.phase is None else "as was asked instead of the file's own phases"
        report.append(f"the first {options.prompt_tokens:,} tokens of each request are its prompt, {asked}")
    elif phase is None and routed.prompt_tokens >= 0:
        phase = (place >= routed.prompt_tokens).astype(np.uint8)
        report.append(
            f"the first {routed.prompt_tokens:,} tokens of each request are its prompt, as the file says"
        )
    if step is not None:
        new |= np.diff(step, prepend=step[:1] - 1) != 0
        number = np.cumsum(new) - 1
        if phase is None:
            several = np.bincount(number) > 1
            phase = np.where(several[number], PREFILL, DECODE).astype(np.uint8)
            report.append(
                "phases are not said: forward passes of several tokens are taken for prefill, those of one "
                "for decode"
            )
        return phase, number.astype(np.int32)
    if phase is None:
        report.append(
            "phases are not said: every token is taken for a forward pass of its own, in decode "
            "(--prompt-tokens sets it)"
        )
        return np.full(tokens, DECODE, np.uint8), np.arange(tokens, dtype=np.int32)
    new |= (phase == DECODE) | (np.diff(phase, prepend=phase[:1]) != 0)
    return phase, (np.cumsum(new) - 1).astype(np.int32)


def _sizes(sizes: int | Mapping[int, int], indices: tuple[int, ...], report: list[str]) -> ExpertBytes:
    if isinstance(sizes, int):
        return sizes
    found = tuple(sizes.get(index, 0) for index in indices)
    if len(set(found)) == 1:
        return found[0]
    if not all(found) and any(found):
        report.append("bytes of an expert are said of some layers only")
    return found


def _check_ids(token_ids: Ints) -> None:
    if token_ids.size and not -(2**31) <= int(token_ids.min()) <= int(token_ids.max()) < 2**31:
        raise TraceError("a token id is beyond 32 bits.")


def narrow(source: Source, ids: NDArray[Any], what: str = "ids") -> NDArray[np.int16]:
    """Ids as int16, once their range is known to fit. Raises TraceError."""
    if ids.size and (int(ids.min()) < -1 or int(ids.max()) >= MAX_EXPERTS):
        bad = ids.min() if ids.min() < -1 else ids.max()
        raise source.error(f"{what} hold {bad}; expected 0 to {MAX_EXPERTS - 1}, or -1 for an unused place.")
    return ids.astype(np.int16, copy=False)


def _some(names: list[str], most: int = 12) -> str:
    return ", ".join(names[:most]) + (f" and {len(names) - most} more" if len(names) > most else "")

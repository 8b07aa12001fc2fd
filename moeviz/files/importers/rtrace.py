"""fitz-tec's RTRACE01: 8 bytes of magic, int32 n_experts, int32 0, then records int32 token, int32 layer,
float32 softmax[n_experts].

How many experts a token uses is not in the file: `--top-k` says it, and the highest of each softmax are the
choice.
"""

from __future__ import annotations

import numpy as np

from moeviz.core.trace import MAX_EXPERTS, MAX_K, MAX_LAYERS, MAX_TOKENS
from moeviz.files.importers.collect import scatter
from moeviz.files.importers.registry import Found, Options, importer
from moeviz.files.importers.routed import Routed, check_shape, finish
from moeviz.files.importers.source import Source

NAME = "rtrace"
MAGIC = b"RTRACE01"


@importer(NAME, "fitz-tec's RTRACE01 (with --top-k)", lambda source: 2 * source.content.startswith(MAGIC))
def read(source: Source, options: Options) -> Found:
    """Raises TraceError."""
    content = source.content
    if len(content) < 16:
        raise source.error("is only a part of an RTRACE01 file.")
    experts = int(np.frombuffer(content, "<i4", 1, 8)[0])
    if not 1 <= experts <= MAX_EXPERTS:
        raise source.error(f"has {experts} experts; expected 1 to {MAX_EXPERTS}.")
    record = np.dtype([("token", "<i4"), ("layer", "<i4"), ("softmax", "<f4", (experts,))])
    if (len(content) - 16) % record.itemsize or len(content) == 16:
        raise source.error(
            f"has {len(content) - 16:,} bytes of records; expected a multiple of {record.itemsize:,}, and "
            "some."
        )
    k = options.top_k
    if not 1 <= k <= min(experts, MAX_K):
        raise source.error(
            f"does not say how many of its {experts} experts a token uses. Give --top-k, 1 to "
            f"{min(experts, MAX_K)}."
        )
    records = np.frombuffer(content, record, -1, 16)
    tokens, token = np.unique(records["token"], return_inverse=True)
    layers, layer = np.unique(records["layer"], return_inverse=True)
    if (
        int(tokens[0]) < 0
        or int(layers[0]) < 0
        or int(layers[-1]) >= 4 * MAX_LAYERS
        or len(tokens) > MAX_TOKENS
    ):
        raise source.error("numbers a token or a layer below 0, or more of them than can be.")
    check_shape(source, (len(tokens), len(layers), k), True)
    event = token.astype(np.int64) * len(layers) + layer
    if len(np.unique(event)) < len(event):
        raise source.error("has a token more than once in a layer; one request at a time is read.")
    chosen = np.empty((len(records), k), np.int16)
    weight = np.empty((len(records), k), np.float32)
    step = max((1 << 20) // experts, 1)
    for start in range(0, len(records), step):
        part = records["softmax"][start : start + step]
        if not np.isfinite(part).all():
            raise source.error("holds a softmax that is no finite number.")
        order = np.argsort(-part, axis=1, kind="stable")[:, :k]
        chosen[start : start + step] = order
        weight[start : start + step] = np.take_along_axis(part, order, 1)
    ids, weights = scatter(
        source,
        token.astype(np.int64),
        layer.astype(np.int64),
        np.full(len(records), k, np.int16),
        chosen.ravel(),
        weight.ravel(),
        (len(tokens), len(layers)),
    )
    routed = Routed(ids, weights, [int(one) for one in layers], experts=experts)
    routed.report.append(f"the {k} highest of each softmax are taken for the choice, as --top-k says")
    return finish(source, options, routed, NAME)

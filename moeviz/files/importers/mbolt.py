"""mbolt's expert trace (MBLT, a patched llama.cpp): little-endian int32.

`0x544C424D, 1, n_expert`, then for each call of a layer `layer, k, n_tokens, ids[n_tokens * k]`. Passes are
not marked: one ends where a layer comes again. In prefill the last layer has only the last token.
"""

from __future__ import annotations

import numpy as np

from moeviz.core.trace import MAX_EXPERTS, MAX_K, MAX_LAYERS, MAX_TOKENS
from moeviz.files.importers.calls import Calls
from moeviz.files.importers.registry import Found, Options, importer
from moeviz.files.importers.routed import finish
from moeviz.files.importers.source import Source

NAME = "mbolt"
MAGIC = b"MBLT"


@importer(NAME, "mbolt's MBLT", lambda source: 2 * source.content.startswith(MAGIC))
def read(source: Source, options: Options) -> Found:
    """Raises TraceError."""
    if len(source.content) % 4 or len(source.content) < 12:
        raise source.error(
            f"has {len(source.content):,} bytes; expected whole numbers of 4 bytes, 3 of them a head."
        )
    numbers = np.frombuffer(source.content, "<i4")
    version, experts = int(numbers[1]), int(numbers[2])
    if version != 1 or not 1 <= experts <= MAX_EXPERTS:
        raise source.error(
            f"has version {version} and {experts} experts; expected version 1 and 1 to {MAX_EXPERTS} experts."
        )
    calls = Calls(source)
    at = 3
    while at < len(numbers):
        place = f"the record at byte {4 * at}"
        if at + 3 > len(numbers):
            raise source.error(f"{place} is cut short.")
        layer, k, tokens = numbers[at : at + 3].tolist()
        if not (0 <= layer < 4 * MAX_LAYERS and 1 <= k <= MAX_K and 0 <= tokens <= MAX_TOKENS):
            raise source.error(f"{place} says layer {layer}, k {k}, {tokens} tokens, which cannot be.")
        end = at + 3 + k * tokens
        if end > len(numbers):
            raise source.error(f"{place} is cut short: it says {tokens:,} tokens of {k}.")
        ids = numbers[at + 3 : end].reshape(tokens, k)
        if ids.size and not -1 <= int(ids.min()) <= int(ids.max()) < experts:
            raise source.error(f"{place} names an expert outside 0 to {experts - 1}.")
        if tokens:
            calls.add(place, layer, ids.tolist())
        at = end
    routed = calls.routed(experts=experts)
    routed.report.append("passes are not marked: one ends where a layer comes again")
    return finish(source, options, routed, NAME)

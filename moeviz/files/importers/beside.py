"""What other arrays of a file say of each token, beside its routes: phase, pass, request, text, a mask."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
from numpy.typing import NDArray

from moeviz.core.trace import MAX_TOKENS
from moeviz.files.importers.names import about, phase_of, plain, unused
from moeviz.files.importers.routed import Routed
from moeviz.files.importers.source import Source
from moeviz.words import many

Array = NDArray[Any]


def describe(
    source: Source, routed: Routed, arrays: Mapping[str, Array], found: Mapping[str, str], tokens: int
) -> set[str]:
    """Fills in what other arrays say of each of the `tokens` rows; gives the names of those that were used.

    arrays: all of the file, by name; found: what `meanings` made of the names. Raises TraceError.
    """
    used: set[str] = set()
    for meaning in ("sequence", "request", "phase", "step", "token_id"):
        name = found.get(meaning, "")
        array = arrays.get(name)
        if array is None or array.shape != (tokens,):
            continue
        if meaning == "phase":
            known, inverse = np.unique(array, return_inverse=True)
            phases = [phase_of(one, source.name, name) for one in known.tolist()]
            routed.phase = np.array(phases, np.uint8)[inverse]
            used.add(name)
            continue
        if array.dtype.kind == "U" and meaning in ("sequence", "request"):
            array = np.unique(array, return_inverse=True)[1]
        if array.dtype.kind not in "iub":
            continue
        used.add(name)
        values = array.astype(np.int64)
        if meaning == "step":
            routed.forward_pass = values
        elif meaning == "token_id":
            routed.token_ids = values
        else:
            routed.sequence = values
    for name, array in arrays.items():
        key = plain(name)
        if (
            array.dtype.kind == "U"
            and array.shape == (tokens,)
            and key in ("tokens", "text", "texts", "token")
        ):
            routed.texts = [str(text) for text in array.tolist()]
            used.add(name)
        elif key in ("tokens", "token") and array.shape == (tokens,) and array.dtype.kind in "iu":
            routed.token_ids = array.astype(np.int64)
            used.add(name)
        elif key in ("layer_indices", "layer_ids", "layers") and array.shape == (routed.ids.shape[1],):
            if array.dtype.kind in "iu" and array.size and array.min() >= 0 and array.max() < MAX_TOKENS:
                routed.layers = [int(one) for one in array]
                used.add(name)
        elif array.ndim == 0 and name in (found.get("num_experts"), found.get("prompt_tokens")):
            said = about({name: array.item()}, source.name)
            routed.experts = said.experts or routed.experts
            routed.prompt_tokens = max(said.prompt_tokens, routed.prompt_tokens)
            used |= {name} - set(said.unused)
        elif array.ndim == 0 and array.dtype.kind == "U" and key in ("header", "meta", "metadata"):
            header = source.json(str(array.item()), f"the array {name}")
            if isinstance(header, dict):
                said = about(header, f"{source.name}: {name}")
                routed.experts, routed.model, routed.prompt = said.experts, said.model, said.prompt
                routed.prompt_tokens = max(said.prompt_tokens, routed.prompt_tokens)
                if "phase" in said.unused and routed.phase is None:
                    phase = phase_of(header["phase"], f"{source.name}: {name}")
                    routed.phase = np.full(tokens, phase, np.uint8)
                    said.unused.remove("phase")
                routed.report += unused(said.unused, f"keys of {name}")
                used.add(name)
    mask = next((name for name in arrays if plain(name) in ("attention_mask", "mask", "token_mask")), "")
    if mask and arrays[mask].shape == (tokens,) and arrays[mask].dtype.kind in "biu":
        _apply_mask(routed, arrays[mask].astype(np.bool_))
        used.add(mask)
    return used


def _apply_mask(routed: Routed, mask: NDArray[np.bool_]) -> None:
    """Padding is no text: its rows go, wherever they stand."""
    if mask.all() or not mask.any():
        return
    routed.report.append(f"left out {many(int((~mask).sum()), 'row')} of padding, by the mask")
    routed.ids = routed.ids[mask]
    for name in ("weights", "phase", "forward_pass", "sequence", "token_ids"):
        values = getattr(routed, name)
        if values is not None:
            setattr(routed, name, values[mask])
    if routed.texts is not None:
        routed.texts = [text for text, kept in zip(routed.texts, mask.tolist(), strict=True) if kept]

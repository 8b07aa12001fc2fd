"""moeviz's own JSON lines, as `moeviz export --format jsonl` writes them: a header, then a line for each
token and layer.

The names are those that other tools read (req_id, token_idx, layer, topk_ids, topk_weights); the header has
all else that a trace file has.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from moeviz.core.trace import MAX_LOOKAHEAD, Trace
from moeviz.errors import TraceError
from moeviz.files.importers.objects import json_lines
from moeviz.files.importers.registry import Found, Imported, Options, importer
from moeviz.files.importers.routed import check_shape, narrow
from moeviz.files.importers.source import Source
from moeviz.files.importers.values import expert_list, weight_list, whole

NAME = "moeviz-lines"
FORMAT, VERSION = "moeviz routes", 1
_PHASES = {"prefill": 0, "decode": 1}


@importer(NAME, "moeviz's own JSON lines", lambda source: 4 * (b'"moeviz routes"' in source.head[:200]))
def read(source: Source, options: Options) -> Found:
    """Raises TraceError."""
    rows = json_lines(source)
    place, head = next(rows)
    if head.get("format") != FORMAT or head.get("version") != VERSION:
        raise source.error(f"{place} is no header of version {VERSION}.")
    try:
        tokens, layers, k = (whole(source, head.get(name), place, name) for name in ("tokens", "layers", "k"))
        check_shape(source, (tokens, layers, k), True)
        trace = _trace(source, head, rows, (tokens, layers, k))
    except (KeyError, TypeError, AttributeError, OverflowError) as error:
        raise source.error(f"lacks a field, or one is of a wrong type: {str(error)[:60]}.") from None
    except TraceError as error:
        text = str(error)
        raise (error if text.startswith(source.name) else source.error(text)) from None
    return Imported(trace, None, NAME, list(trace.notes))


def _trace(source: Source, head: dict[str, Any], rows: Any, shape: tuple[int, int, int]) -> Trace:
    tokens, layers, _ = shape
    ids = np.full(shape, -1, np.int64)
    weights = np.zeros(shape, np.float32) if head["weights"] else None
    guess_shape = tuple(whole(source, one, "the header", "guesses", 0, 4_096) for one in head["guesses"])
    if len(guess_shape) != 2 or guess_shape[0] > MAX_LOOKAHEAD:
        raise source.error(f"the header says guesses {list(guess_shape)}; expected lookaheads and width.")
    source.places(tokens, layers, guess_shape[0] * guess_shape[1], True)
    guess = np.full((tokens, layers, *guess_shape), -1, np.int64)
    probability = np.zeros(guess.shape, np.float16) if head["guess_probability"] else None
    about: dict[str, NDArray[np.int64]] = {
        name: np.zeros(tokens, np.int64) for name in ("phase", "forward_pass", "token_id", "req_id")
    }
    texts = [""] * tokens
    number = -1
    for number, (place, row) in enumerate(rows):
        token, layer = divmod(number, layers)
        if token >= tokens or (row["token_idx"], row["layer"]) != (token, layer):
            raise source.error(
                f"{place} is token {row['token_idx']}, layer {row['layer']}; expected {token}, {layer}."
            )
        own = expert_list(source, row["topk_ids"], place, "topk_ids")
        ids[token, layer, : len(own)] = own
        if weights is not None:
            weights[token, layer, : len(own)] = weight_list(
                source, row["topk_weights"], own, 0, place, "topk_weights"
            )
        if guess.size:
            guess[token, layer] = np.array(row["guess"], np.int64).reshape(guess_shape)
        if probability is not None and probability.size:
            probability[token, layer] = np.array(row["guess_probability"], np.float16).reshape(guess_shape)
        if layer == 0:
            texts[token] = str(row["text"])
            about["phase"][token] = _PHASES[row["phase"]]
            for name in ("forward_pass", "token_id", "req_id"):
                about[name][token] = whole(source, row.get(name, 0), place, name, -(2**31))
    if number + 1 != tokens * layers:
        raise source.error(
            f"has {number + 1:,} routes; its header says {tokens:,} tokens x {layers:,} layers."
        )
    if int(about["req_id"].max()) >= 2**15:
        raise source.error("numbers more requests than a trace can have.")
    expert_bytes, link_bytes = (
        tuple(one) if isinstance(one := head[name], list) else one for name in ("expert_bytes", "link_bytes")
    )
    for name, size in (("expert_bytes", expert_bytes), ("link_bytes", link_bytes)):
        if not all(type(one) is int for one in (size if isinstance(size, tuple) else (size,))):
            raise source.error(f"the header's {name} is no whole number.")
    recorded, notes = head["recorded"], head["notes"]
    if not all(
        isinstance(one, str)
        for one in [*recorded.values(), *notes, head["model"], head["revision"], head["prompt"]]
    ):
        raise source.error("the header holds something else than text where text belongs.")
    return Trace(
        experts=narrow(source, ids),
        weights=weights,
        token_ids=about["token_id"].astype(np.int32) if head["token_ids"] else None,
        phase=about["phase"].astype(np.uint8),
        forward_pass=about["forward_pass"].astype(np.int32),
        guess=narrow(source, guess, "guesses"),
        num_experts=whole(source, head["num_experts"], "the header", "num_experts"),
        texts=tuple(texts),
        model=head["model"],
        revision=head["revision"],
        layer_indices=tuple(
            whole(source, one, "the header", "layer_indices") for one in head["layer_indices"]
        ),
        expert_bytes=expert_bytes,
        link_bytes=link_bytes,
        prompt=head["prompt"],
        seed=whole(source, head["seed"], "the header", "seed", 0, 2**62),
        recorded=recorded,
        guess_probability=probability,
        sequence=about["req_id"].astype(np.int16) if head["sequences"] else None,
        notes=tuple(notes),
    )

"""JSON lines of routes: all that a trace file holds but the run, in names that other tools read.

A header, then a line for each token and MoE layer. `moeviz import` gives the same trace again, guesses
included.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from typing import Any

from moeviz.core.trace import Trace
from moeviz.files.exporters.registry import Export, exporter

_PHASES = ("prefill", "decode")


@exporter("jsonl", ".jsonl", "a JSON line per token and MoE layer, in the names that other tools read", True)
def write(export: Export) -> bytes:
    """The run is not in it."""
    return "".join(json.dumps(line) + "\n" for line in _lines(export.trace)).encode()


def _lines(trace: Trace) -> Iterator[dict[str, Any]]:
    yield {
        "type": "meta",
        "format": "moeviz routes",
        "version": 1,
        "tokens": trace.tokens,
        "layers": trace.layers,
        "k": trace.k,
        "num_experts": trace.num_experts,
        "weights": trace.weights is not None,
        "token_ids": trace.token_ids is not None,
        "sequences": trace.sequence is not None,
        "guesses": list(trace.guess.shape[2:]),
        "guess_probability": trace.guess_probability is not None,
        "model": trace.model,
        "revision": trace.revision,
        "layer_indices": list(trace.layer_indices),
        "expert_bytes": trace.expert_bytes,
        "link_bytes": trace.link_bytes,
        "prompt": trace.prompt,
        "seed": trace.seed,
        "recorded": trace.recorded,
        "notes": list(trace.notes),
    }
    for token in range(trace.tokens):
        about: dict[str, Any] = {
            "token_idx": token,
            "req_id": 0 if trace.sequence is None else int(trace.sequence[token]),
            "forward_pass": int(trace.forward_pass[token]),
            "phase": _PHASES[trace.phase[token]],
        }
        if trace.token_ids is not None:
            about["token_id"] = int(trace.token_ids[token])
        about["text"] = trace.texts[token]
        for layer in range(trace.layers):
            ids = [int(one) for one in trace.experts[token, layer] if one >= 0]
            route = about | {"layer": layer, "topk_ids": ids}
            if trace.weights is not None:
                route["topk_weights"] = [float(one) for one in trace.weights[token, layer, : len(ids)]]
            if trace.guess.size:
                route["guess"] = trace.guess[token, layer].tolist()
                if trace.guess_probability is not None:
                    route["guess_probability"] = trace.guess_probability[token, layer].tolist()
            yield route

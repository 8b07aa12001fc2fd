"""The names that tools give to the same things: one table, for JSON keys, columns and arrays alike.

Names are compared in lower case, with spaces and hyphens as underscores; a row's names stand in the order in
which they are preferred. Two depend on what else is there: `token_id` is the vocabulary's id where another
column numbers the tokens, and their number otherwise; `token` is the token's text where another column
numbers them.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any

from moeviz.core.trace import MAX_EXPERTS, MAX_K, MAX_TOKENS
from moeviz.errors import TraceError

NEGATED = ("is_prefill", "is_prompt")  # phases that say true of a prompt's tokens

ALIASES: dict[str, tuple[str, ...]] = {
    "token": (
        *("token", "token_idx", "token_index", "token_position", "token_pos", "token_number", "token_no"),
        *("position", "pos", "tok", "tok_idx", "t"),
    ),
    "layer": (
        *("layer", "layer_id", "layer_idx", "layer_index", "layer_number", "layer_name", "moe_layer"),
        *("block", "l"),
    ),
    "experts": (
        *("experts", "expert_ids", "expert_idx", "expert_indices", "selected_experts", "selected_ids"),
        *(
            "topk_ids",
            "top_k_ids",
            "topk_experts",
            "top_k_experts",
            "topk_indices",
            "top_k_index",
            "topk_idx",
        ),
        *("routed_experts", "router_indices", "activated_experts", "activated_expert_ids", "active_experts"),
        *("chosen_experts", "fired", "e"),
    ),
    "weights": (
        *("weights", "topk_weights", "top_k_weights", "gate_weights", "gates", "router_scores"),
        *("router_weights", "routing_weights", "expert_weights", "selected_weights", "topk_scores"),
        *("selected_probabilities", "selected_probs", "topk_probs", "scores", "probs", "s"),
    ),
    "expert": ("expert", "expert_id", "expert_index", "expert_number"),
    "weight": (
        *("weight", "gate_weight", "gate", "router_weight", "router_score", "routing_weight"),
        *("score", "prob", "probability", "expert_weight"),
    ),
    "rank": ("rank", "slot", "choice", "topk_rank", "k_idx", "expert_rank"),
    "phase": ("phase", "phases", "stage", "ph", "is_decode", *NEGATED),
    "step": ("forward_pass", "forward_pass_id", "pass", "pass_id", "step", "step_id", "iteration", "iter"),
    "request": (
        *("req_id", "request_id", "request", "rid", "sequence", "sequence_id", "seq", "seq_id"),
        *("prompt_id", "prompt_idx", "sample_id", "sample_idx", "trace_id", "conversation_id", "p"),
        *("request_ids", "req_ids", "sequence_ids", "seq_ids"),
    ),
    "token_id": ("token_id", "token_ids", "input_id", "input_ids", "vocab_id", "ti"),
    "text": ("text", "texts", "token_text", "token_str", "token_string", "tokens_text", "piece"),
    "num_experts": (
        *("num_experts", "n_experts", "n_expert", "num_local_experts", "n_routed_experts"),
        *("num_routed_experts", "experts_per_layer", "expert_count"),
    ),
    "model": ("model", "model_id", "model_name"),
    "prompt_tokens": (
        *("prompt_tokens", "num_prompt_tokens", "n_prompt_tokens", "prompt_len", "prompt_length", "n_prompt"),
    ),
    "count": ("count", "counts", "hits", "activations", "activation_count", "frequency", "freq", "uses"),
}

_IN_NAME = re.compile(r"(?:layers?|blk|blocks?)[._ -]?(\d+)")

PHASES = {
    **dict.fromkeys(("prefill", "prompt", "extend", "context", "0", "0.0", "false"), 0),
    **dict.fromkeys(("decode", "generation", "generate", "generated", "gen", "1", "1.0", "true"), 1),
}


def plain(name: object) -> str:
    """A name as it is compared."""
    return str(name).strip().lower().replace(" ", "_").replace("-", "_")


def meanings(names: Iterable[object], where: str) -> dict[str, str]:
    """Which of a file's names has which meaning: {"token": "token_idx", ...}; what has none is left out.

    Of several names with one meaning the one that stands first in its row of the table counts. Raises
    TraceError where a name stands twice; `where` is for its message.
    """
    known: dict[str, str] = {}
    for name in names:
        if plain(name) in known:
            raise TraceError(f"{where}: {str(name)[:40]!r} stands twice.")
        known[plain(name)] = str(name)
    found = {
        meaning: known[next(alias for alias in aliases if alias in known)]
        for meaning, aliases in ALIASES.items()
        if not known.keys().isdisjoint(aliases)
    }
    if "token" not in found and "token_id" in known:  # it numbers the tokens where nothing else does
        found["token"] = found.pop("token_id")
    numbered = [alias for alias in ALIASES["token"] if alias in known and alias != "token"]
    if "token" in known and numbered and "text" not in found:  # then `token` is the token itself
        found["token"], found["text"] = known[numbered[0]], known["token"]
    return found


def phase_of(value: object, where: str, name: object = "phase") -> int:
    """PREFILL or DECODE; `name` is the column's, since is_prefill says the opposite of is_decode. Raises
    TraceError.
    """
    found = PHASES.get(plain(value))
    if found is None:
        raise TraceError(f"{where}: {str(name)[:40]} is {str(value)[:40]!r}; expected prefill or decode.")
    return 1 - found if plain(name) in NEGATED else found


def layer_in(text: str) -> int | None:
    """The number of the layer in a module's or tensor's name, as model.layers.3.mlp.gate or blk.3.ffn_gate;
    None where it cannot be told.
    """
    if not any(letter.isalpha() for letter in text):
        return None
    found = _IN_NAME.findall(text) or re.findall(r"\d+", text)
    return int(found[0]) if len(found) == 1 and len(found[0]) < 7 else None


@dataclass(slots=True)
class About:
    """What a file's header says of the model."""

    experts: int = 0
    model: str = ""
    prompt: str = ""
    top_k: int = 0
    prompt_tokens: int = -1  # of each request; -1: not said
    unused: list[str] = field(default_factory=list)  # keys


_ABOUT = {
    **dict.fromkeys(ALIASES["num_experts"], "experts"),
    **dict.fromkeys(ALIASES["model"], "model"),
    **dict.fromkeys(ALIASES["prompt_tokens"], "prompt_tokens"),
    **dict.fromkeys(("prompt", "prompt_text"), "prompt"),
    **dict.fromkeys(
        ("top_k", "topk", "k", "num_experts_per_tok", "experts_per_token", "n_expert_used"), "top_k"
    ),
}

_MOST = {"experts": MAX_EXPERTS, "top_k": MAX_K, "prompt_tokens": MAX_TOKENS}  # of a header's numbers


_NEEDS_NO_USE = {  # said again by the routes themselves, or of the file
    *("num_layers", "n_layers", "n_layer", "num_hidden_layers", "num_entries", "n_tokens", "num_tokens"),
    *("format", "format_version", "version", "records_full_softmax", "layers_logged"),
}


def about(header: Mapping[str, Any], where: str) -> About:
    """A header's own words. Raises TraceError where a number cannot be."""
    found = About()
    for key, value in header.items():
        meaning = _ABOUT.get(plain(key))
        if meaning == "prompt_tokens" and type(value) is not int:  # the tokens themselves, for example
            found.unused.append(str(key))
        elif meaning in _MOST:
            most = _MOST[meaning]
            if type(value) is not int or not 0 <= value <= most:
                raise TraceError(
                    f"{where}: {key} is {str(value)[:40]!r}; expected a whole number up to {most}."
                )
            setattr(found, meaning, value)
        elif meaning in ("model", "prompt") and isinstance(value, str):
            setattr(found, meaning, value)
        elif plain(key) not in _NEEDS_NO_USE:
            found.unused.append(str(key))
    return found


def unused(names: Iterable[object], what: str) -> list[str]:
    """A line of the report that names what was not used; none where everything was."""
    texts = [str(name)[:40] or "(without a name)" for name in names]
    if not texts:
        return []
    rest = f" and {len(texts) - 12} more" if len(texts) > 12 else ""
    return [f"{what} not used: {', '.join(texts[:12])}{rest}"]

"""What a trace or counts say of themselves, as rows of (name, text)."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from moeviz.amounts import many, percent, size
from moeviz.core.trace import Trace
from moeviz.numbers import routing as numbers_of_routing


def _expert(found: Trace) -> str:
    """How large one expert is, and how many bytes of it are copied where that is fewer."""
    if not found.mean_bytes:
        return "of unknown size"
    packed = f", packed {size(found.mean_copied)} over the link" if found.link_bytes else ""
    least, most = int(found.layer_bytes.min()), int(found.layer_bytes.max())
    if least < most:
        return f"{size(least)} to {size(most)}, by layer{packed}"
    return f"{size(found.mean_bytes)}{packed}"


def trace(found: Trace) -> list[tuple[str, str]]:
    """What a trace says of itself, (name, text) each."""
    lengths = [tokens.stop - tokens.start for tokens in found.passes()]
    requests = len(found.sequences())
    several = f" of {requests:,} requests" if requests > 1 else ""
    machine = found.recorded.get("machine", "a machine that is not named")
    layers, experts = many(found.layers, "MoE layer"), many(found.num_experts, "expert")
    passes = many(len(lengths), "forward pass")
    rows = [
        ("Model", found.model or "unknown"),
        ("Shape", f"{layers} of {experts}, {found.k} for each token"),
        ("Tokens", f"{found.tokens:,}{several} in {passes}, the longest of {max(lengths):,}"),
        ("Expert", _expert(found)),
        ("Recorded", f"{found.recorded.get('time', 'unknown when')}, on {machine}"),
    ]
    rows += [("Note", note) for note in found.notes]
    return [*rows, ("Prompt", found.prompt[:1_000])] if found.prompt else rows


def only_counts(model: str, uses: NDArray[np.float64]) -> list[tuple[str, str]]:
    """What counts without order say, (name, text) each. uses: [L, E]"""
    layers, experts = many(uses.shape[0], "MoE layer"), many(uses.shape[1], "expert")
    quarter = float(numbers_of_routing.top_share(uses).mean())
    return [
        ("Model", model or "unknown"),
        ("Shape", f"{layers} of {experts}"),
        ("Uses", f"{uses.sum():,.6g} in all"),
        ("Busiest quarter", f"the busiest quarter of a layer's experts gets {percent(quarter)} of the uses"),
    ]


def routing(found: Trace) -> list[tuple[str, str]]:
    """How a trace's routers choose, (name, text) each."""
    use = numbers_of_routing.usage(found)
    again = numbers_of_routing.reuse(found)
    quarter = float(numbers_of_routing.top_share(use).mean())
    rows = [
        (
            "Busiest quarter",
            f"the busiest quarter of a layer's experts gets {percent(quarter)} of the choices",
        )
    ]
    if not np.isnan(again).all():
        share, chance = percent(float(np.nanmean(again))), percent(found.k / found.num_experts)
        rows.append(
            ("Reuse", f"{share} of a token's experts were used by the token before (by chance {chance})")
        )
    if found.lookaheads:
        rows.append(("Guesses", f"the routers', for up to {found.lookaheads} layers ahead"))
    return rows


def choices(a: Trace, b: Trace) -> tuple[str, str]:
    """Whether the routers of two traces chose alike: the same word twice, or what each chose first that the
    other did not.
    """
    if a.experts.shape[1:] != b.experts.shape[1:]:
        return "of another model", "of another shape"
    tokens = min(a.tokens, b.tokens)
    other = np.argwhere((a.experts[:tokens] != b.experts[:tokens]).any(2))
    if not other.size:
        return (
            ("the same", "the same")
            if a.tokens == b.tokens
            else (many(a.tokens, "token"), many(b.tokens, "token"))
        )
    token, layer = (int(number) for number in other[0])
    return tuple(  # type: ignore[return-value]
        f"first other one: token {token}, layer {layer}: {', '.join(map(str, one.experts[token, layer]))}"
        for one in (a, b)
    )

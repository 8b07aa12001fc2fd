"""The slow tier in words: how fast it is, how it keeps experts, and what rounding them changes."""

from __future__ import annotations

from moeviz.amounts import many, milliseconds, percent, rate
from moeviz.core.run import Tier
from moeviz.numbers.lossy import Lossy
from moeviz.numbers.plan import break_even

NO_OVERLAP = (
    "The accelerator has one stream: copies and compute take turns, so that no copy is hidden behind compute."
)


def link_rate(found: Tier | None) -> str:
    """How fast a link was that was slowed down; empty where it was as fast as it goes."""
    return rate(found.pace.gigabytes_per_second) if found is not None and found.pace is not None else ""


def pace(found: Tier) -> str:
    """What the link was slowed down to; empty where it was as fast as it goes."""
    if found.pace is None:
        return ""
    return f"link paced to {found.pace.label}{'' if found.keeps_pace else ', which this tier does not reach'}"


def tier(found: Tier | None) -> str:
    """The slow tier as it was measured; empty where there was none."""
    if found is None:
        return ""
    bypassed = "past the page cache" if found.page_cache_bypassed else "not past the page cache"
    past = "in RAM" if found.kind == "host" else bypassed
    return (
        f"Slow tier {found.kind}, {past}: {milliseconds(found.latency_ms)} per expert"
        + (f" ({milliseconds(found.unpack_ms)} of it to unpack it)" if found.unpack_ms else "")
        + f", {rate(found.gigabytes_per_second)}{'; ' if found.pace else ''}{pace(found)}."
        + ("" if found.overlaps else f" {NO_OVERLAP}")
    )


def lossless(same: bool | None) -> str:
    """Whether the logits are those of transformers' own model; empty where nobody compared."""
    if same is None:
        return ""
    whose = "those" if same else "NOT those"
    return f"{whose} of transformers' own model with every expert in memory, bit for bit"


def tier_row(found: Tier | None) -> str:
    """What `tier` says, for a row that names the slow tier already."""
    return tier(found).removeprefix("Slow tier ").removesuffix(".")


KEPT = (
    "lossless: the slow tier keeps experts as the checkpoint holds them. unpacked: lossless too, and sooner "
    "on a fast link, where the checkpoint packs them. int8 and int4: rounded, so that fewer bytes cross the "
    "link; lossy, and what it changes is measured."
)


def rounded(experts: str) -> str:
    """That a model's experts are rounded, for every place where its numbers are shown."""
    return f"Lossy: the experts are rounded to {experts}; text, logits and choices are the rounded model's."


def unpacking(ms: float, packed: int, unpacked: int) -> str:
    """What it costs that experts are unpacked as they arrive, and on which links it does not pay. packed,
    unpacked: bytes of an expert.
    """
    return (
        f"Experts are unpacked as they arrive, {milliseconds(ms)} each: on a link faster than "
        f"{rate(break_even(packed, unpacked, ms))} they come sooner with --experts unpacked, for "
        f"{unpacked / packed:.1f} times the bytes on disk and link."
    )


def lossy(found: Lossy) -> str:
    """What the rounding of experts changed."""
    return (
        f"Lossy: with experts in {found.experts}, logits differ by {found.mean:.2g} in the mean and "
        f"{found.largest:.2g} at most (they spread by {found.spread:.2g}), {percent(found.rerouted)} of the "
        f"chosen experts are others, and the likeliest next token is the same after "
        f"{percent(found.same_token)} of {many(found.tokens, 'token')}, against the same model without "
        "rounding."
    )

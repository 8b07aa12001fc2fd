"""What would fit and how fast it would be, before anything is loaded: arithmetic on sizes, memory, hit ratios
and a link.

Knows no file, no machine and no model; whoever calls brings the numbers. What is assumed stands in
`ASSUMPTIONS`, in words, and is shown with every plan.

    slots_that_fit(size, 8 * 2**30, context=4_096)
    speed(size, hit_ratio=0.7, link=find("SATA SSD"), compute_ms=20.0)
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray

from moeviz.amounts import many
from moeviz.core.machines import Machine
from moeviz.core.settings import Settings
from moeviz.core.trace import Trace
from moeviz.errors import SettingsError
from moeviz.numbers.curves import curve
from moeviz.numbers.routing import coverage
from moeviz.numbers.sizes import ModelSize

POLICIES = ("lru", "lfu", "belady")
BUSIEST = "busiest experts resident"  # what counts without order can tell of, in a policy's place
EVEN = "even routing"  # stands in a policy's place where there is no trace
USABLE = 0.9  # of a tier: the rest is left to activations, libraries and other programs

ASSUMPTIONS = (
    f"{USABLE:.0%} of a tier is used; the rest is left to activations, libraries and other programs.",
    "One text at a time; prefill is not in the speed.",
    "ms a token in copies = misses x (latency + bytes / bandwidth); "
    "misses = (1 - hit ratio) x experts of a token x MoE layers. "
    "Where experts are packed, what unpacking one takes is added to its copy.",
    "tokens/s at most: copies run wholly beside compute, 1000 / max(copies, compute). "
    "At least: nothing runs beside anything, 1000 / (copies + compute), where a run has measured compute.",
)


@dataclass(frozen=True, slots=True)
class Memory:
    """Bytes that are free in the three tiers."""

    fast: int
    fast_what: str  # in words, for example "RAM of this machine"
    fast_is_host: bool  # the slots then take their room from the host's memory too
    host: int
    disk: int
    disk_where: str


@dataclass(frozen=True, slots=True)
class Band:
    """Time of an output token in decode."""

    misses: float  # experts copied for a token, in all layers
    copies_ms: float  # what the link takes for them
    most: float | None  # tokens/s if copies and compute overlap wholly; None where neither takes a known time
    least: float | None  # tokens/s if nothing overlaps; None where compute is not known, or only a part of it


@dataclass(frozen=True, slots=True)
class Expected:
    """What to expect of one policy at one number of slots."""

    policy: str  # or EVEN
    hit_ratio: float  # of decode
    band: Band | None  # None where no link is known


@dataclass(frozen=True, slots=True)
class Row:
    """What one number of slots takes and gives."""

    slots: int  # in each MoE layer
    fast: int  # bytes that the fast tier needs: dense part, slots, keys and values
    fits: bool
    host_fits: (
        bool  # as the slow tier all experts fit in the host's memory, beside the slots that may be there
    )
    expected: tuple[Expected, ...]


@dataclass(frozen=True, slots=True)
class Compute:
    """What a token takes when nothing has to be copied; or what an expert takes to be unpacked."""

    ms: float
    source: str  # in words
    at_least: bool = False  # it takes longer, and how much longer is not known


@dataclass(frozen=True, slots=True)
class Plan:
    """What is expected of a model on a machine."""

    model: str
    size: ModelSize
    context: int
    cache_bytes: int | None  # keys and values
    memory: Memory
    slots: int  # most that fit in each MoE layer; 0 where not even one does
    disk_fits: bool  # all experts, packed once more for reading past the page cache
    link: Machine | None
    compute: Compute | None
    unpacking: Compute | None  # of an expert that has arrived; None where none is packed, or it is not known
    rows: tuple[Row, ...]
    notes: tuple[str, ...]  # what holds for this plan only; ASSUMPTIONS hold for all


def fast_bytes(size: ModelSize, slots: int, context: int) -> int:
    """Bytes of the fast tier with so many slots in each MoE layer."""
    return size.dense + size.slot_bytes(slots) + (size.cache_bytes(context) or 0)


def slots_that_fit(size: ModelSize, fast: int, context: int) -> int:
    """The most slots in each MoE layer; every expert's number where all fit, 0 where not one does."""
    low, high = 0, size.num_experts
    while low < high:  # the need grows with the slots
        middle = (low + high + 1) // 2
        low, high = (
            (middle, high) if fast_bytes(size, middle, context) <= USABLE * fast else (low, middle - 1)
        )
    return low


def unlike(size: ModelSize, trace: Trace) -> str:
    """Why a trace's hit ratios say nothing about a model, in words; empty where they may."""
    if (trace.num_experts, trace.k) == (size.num_experts, size.k):
        return ""
    theirs, ours = f"{trace.k} of {trace.num_experts}", f"{size.k} of {size.num_experts}"
    return (
        f"The trace is of another model{f', {trace.model}' if trace.model else ''}: it chooses {theirs} "
        f"experts and this model {ours}. Its hit ratios do not carry over. "
        "Take a trace of a model with the same numbers, or record one of this: "
        "python -m moeviz run MODEL --prompt TEXT --out FILE."
    )


def hit_ratios(
    size: ModelSize, trace: Trace | None, counts: NDArray[np.float64] | None, slots: Sequence[int]
) -> list[dict[str, float]]:
    """Hit ratio of decode by policy at each slot count: a trace's, and what counts [L, E] say; or that of
    routing without any pattern.

    Counts say nothing of order: with each layer's busiest experts resident, their share of the choices hits.
    Where every expert of a layer is as likely as the next whatever came before, no policy hits more than
    slots / E.
    """
    found: dict[str, Sequence[float]] = {}
    if trace is not None:
        found = {policy: list(curve(trace, Settings(policy), slots).hit_ratio) for policy in POLICIES}
    if counts is not None:
        busiest = np.average(coverage(counts), axis=0, weights=counts.sum(1))
        found[BUSIEST] = [busiest[min(count, len(busiest)) - 1] for count in slots]
    if not found:
        found[EVEN] = [min(1.0, count / size.num_experts) for count in slots]
    return [{policy: float(ratios[at]) for policy, ratios in found.items()} for at in range(len(slots))]


def speed(
    size: ModelSize, hit_ratio: float, link: Machine, compute_ms: float | None, unpack_ms: float = 0.0
) -> Band:
    """Band of decode speed, as ASSUMPTIONS say. compute_ms: of a token when nothing has to be copied; None
    where unknown; unpack_ms: of an expert that has come over the link.
    """
    misses = (1 - hit_ratio) * size.k * len(size.layers)
    copy = sum(link.copy_ms(layer.moved) for layer in size.layers) / len(size.layers) + unpack_ms
    copies = misses * copy
    longest = max(copies, compute_ms or 0.0)
    return Band(
        misses,
        copies,
        1_000 / longest if longest else None,
        None if compute_ms is None or not copies + compute_ms else 1_000 / (copies + compute_ms),
    )


def plan(
    model: str,
    size: ModelSize,
    memory: Memory,
    *,
    context: int,
    slots: Sequence[int] = (),
    trace: Trace | None = None,
    counts: NDArray[np.float64] | None = None,
    link: Machine | None = None,
    compute: Compute | None = None,
    unpacking: Compute | None = None,
) -> Plan:
    """What to expect at each of `slots` (left out: the most that fit, or what a token needs where they do
    not). counts: uses [L, E] of the model's experts; unpacking: of one expert, where the slow tier packs them
    and it is known.

    Raises SettingsError for slots that a token's experts do not fit in, and for counts of another number of
    experts.
    """
    if counts is not None and counts.shape[1] != size.num_experts:
        raise SettingsError(
            f"The counts are of {counts.shape[1]:,} experts a layer and this model has {size.num_experts:,}. "
            "Give counts of this model."
        )
    most = slots_that_fit(size, memory.fast, context)
    least = min(size.k, size.num_experts)
    if too_few := [count for count in slots if count < least]:
        raise SettingsError(
            f"slots {too_few[0]}: a token uses {least} experts of a layer at once. "
            f"Choose at least {least} slots."
        )
    tried = sorted({min(count, size.num_experts) for count in slots or [max(most, least)]})
    why = unlike(size, trace) if trace is not None else "There is no trace to tell hit ratios from (--trace)."
    notes = _notes(size, trace, counts, why, unpacking)
    if why:
        trace = None

    def row(count: int, ratios: dict[str, float]) -> Row:
        fast = fast_bytes(size, count, context)
        compute_ms = compute.ms if compute else None
        unpack_ms = unpacking.ms if unpacking else 0.0

        def band(ratio: float) -> Band | None:
            if link is None:
                return None
            found = speed(size, ratio, link, compute_ms, unpack_ms)
            return replace(found, least=None) if compute and compute.at_least else found

        return Row(
            count,
            fast,
            count <= most,
            size.slow_tier + (fast if memory.fast_is_host else 0) <= USABLE * memory.host,
            tuple(Expected(policy, ratio, band(ratio)) for policy, ratio in ratios.items()),
        )

    return Plan(
        model,
        size,
        context,
        size.cache_bytes(context),
        memory,
        most,
        size.slow_tier <= USABLE * memory.disk,
        link,
        compute,
        unpacking,
        tuple(map(row, tried, hit_ratios(size, trace, counts, tried))),
        tuple(notes),
    )


def _notes(
    size: ModelSize,
    trace: Trace | None,
    counts: NDArray[np.float64] | None,
    why: str,
    unpacking: Compute | None,
) -> list[str]:
    """What holds for one plan only. why: the trace, if there is one, tells no hit ratios of this model."""
    notes = list(size.notes)
    if counts is not None:
        notes.append(
            f"{BUSIEST.capitalize()}: never evicted, their share of the counted choices hits. A cache that "
            "takes in every miss keeps fewer of them, and a text of another kind uses others."
        )
    if why and counts is not None:
        notes.append(f"{why} Counts have no order, so that nothing is told of lru, lfu and belady.")
    elif why:
        notes.append(
            f"{why} Until then the hit ratio is that of routing without any pattern, slots / experts; "
            "real routing has patterns, and mostly hits more."
        )
    elif trace is not None and trace.layers != len(size.layers):
        notes.append(
            f"The trace is of another model, or of a part of one ({trace.model or 'it names none'}): it has "
            f"{many(trace.layers, 'MoE layer')} of {trace.num_experts} experts, and this one "
            f"{len(size.layers)}. Its hit ratios, the mean over its layers, are not this model's."
        )
    if size.kept and unpacking is None:
        notes.append("What unpacking an expert takes there is not known and not counted.")
    return notes


def break_even(packed: int, unpacked: int, unpack_ms: float) -> float:
    """GB/s of the link at which an expert takes as long packed as unpacked; a faster link is held up by
    unpacking.
    """
    return (unpacked - packed) / unpack_ms / 1e6 if unpack_ms else math.inf


def as_measured(name: str, latency_ms: float, gigabytes_per_second: float, expert_bytes: int) -> Machine:
    """A link from what a run measured: one expert alone takes `latency_ms`, bytes and all but without
    unpacking; many in a row go at the bandwidth.
    """
    first = max(0.0, latency_ms - expert_bytes / (gigabytes_per_second * 1e6))
    return replace(Machine(name, first, gigabytes_per_second), nominal=False)

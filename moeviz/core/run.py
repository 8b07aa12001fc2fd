"""What a cache did: the `Run`, tables of columns, written by `moeviz.core.recorder`.

    passes     a forward pass               phase, tokens
    events     a MoE layer in a pass        forward_pass, layer, dropped
    accesses   an expert that it needs      event, expert, outcome
    loads      an expert that came          event, layer, expert, slot, victim_layer, victim_expert,
                                            speculative, used
    leavers    who left besides the victim  load, layer, expert

A load takes the slot of its victim. Where a budget in bytes holds experts of different sizes, others may have
to leave for it too: those stand in `leavers`, which has no rows otherwise. `Run.departures` is all of them.
Rows stand in the order in which they happened; `event` and `forward_pass` are row numbers of the table above.
An event changes its form once: the cache appends it, everything later reads columns. A replay and a live run
give the same type; only a measured run has times. Knows neither policies nor models nor files.

    run = replay(trace, Settings("lfu", slots=4))
    run.loads.expert[run.loads.victim_expert >= 0]      # who came over somebody else
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from dataclasses import asdict, dataclass, fields
from typing import Any, Protocol, get_args, get_type_hints

import numpy as np
from numpy.typing import NDArray

from moeviz.amounts import many
from moeviz.core.machines import Machine
from moeviz.core.settings import Room, Settings

HIT, LATE, MISS = 0, 1, 2  # outcome of an access: resident and loaded; still in flight when demanded; neither

ExpertBytes = (
    int | tuple[int, ...]
)  # of one expert: the same in all layers, or one number a layer; 0 where unknown


@dataclass(frozen=True, slots=True)
class Tier:
    """The slow tier as measured when the model was loaded, with this model's expert size."""

    kind: str  # disk or host
    latency_ms: float  # one expert, nothing else under way
    gigabytes_per_second: float  # many experts, one after the other
    page_cache_bypassed: bool  # False for host
    pace: Machine | None = None  # what copies were slowed down to; the figures above are the paced ones
    keeps_pace: bool = True  # False: this tier itself is slower than the link that was asked for
    unpack_ms: float = 0.0  # the part of latency_ms that unpacks an expert, where the slow tier packs them
    overlaps: bool = True  # False: the accelerator has one stream, in which copies and compute take turns

    def to_dict(self) -> dict[str, Any]:
        """For JSON; what is of the pace only where there is one, and no word of what is usual."""
        usual = {
            "pace": self.pace is None,
            "keeps_pace": self.pace is None,
            "unpack_ms": not self.unpack_ms,
            "overlaps": self.overlaps,
        }
        left_out = {name for name, so in usual.items() if so}
        return {name: value for name, value in asdict(self).items() if name not in left_out}

    @classmethod
    def from_dict(cls, values: dict[str, Any]) -> Tier:
        """Raises TypeError where a field is missing, unknown, of another type or no figure of a link."""
        pace = values.get("pace")
        tier = cls(**{**values, "pace": Machine(**pace) if pace is not None else None})
        numbers = [getattr(one, name) for one in (tier, tier.pace or tier) for name in _FIGURES]
        numbers.append(tier.unpack_ms)
        if not all(isinstance(number, float) and 0 <= number < 1e12 for number in numbers):
            raise TypeError
        if not all(one.gigabytes_per_second for one in (tier, tier.pace or tier)):  # nothing would ever cross
            raise TypeError
        if not all(isinstance(text, str) for text in (tier.kind, tier.pace.name if tier.pace else "")):
            raise TypeError
        if not isinstance(tier.keeps_pace, bool) or not isinstance(tier.overlaps, bool):
            raise TypeError
        return tier


_FIGURES = ("latency_ms", "gigabytes_per_second")


@dataclass(frozen=True, eq=False, slots=True)
class Passes:
    """F forward passes."""

    phase: NDArray[np.uint8]  # 0 prefill, 1 decode
    tokens: NDArray[np.int32]  # that went in


@dataclass(frozen=True, eq=False, slots=True)
class Events:
    """N events: one for each pass and MoE layer that needs any expert."""

    forward_pass: NDArray[np.int32]
    layer: NDArray[np.int16]
    dropped: NDArray[np.int16]  # guesses made here that found no slot


@dataclass(frozen=True, eq=False, slots=True)
class Accesses:
    """M accesses: the distinct experts of each event, by ascending id."""

    event: NDArray[np.int32]
    expert: NDArray[np.int16]
    outcome: NDArray[np.uint8]  # HIT, LATE, MISS


@dataclass(frozen=True, eq=False, slots=True)
class Loads:
    """P loads, in the order of their copies."""

    event: NDArray[np.int32]  # that issued it
    layer: NDArray[np.int16]  # who came; a pre-fetch is of a later layer than its event
    expert: NDArray[np.int16]
    slot: NDArray[np.int32]  # in its pool
    victim_layer: NDArray[np.int16]  # who left for it; -1 nobody
    victim_expert: NDArray[np.int16]
    speculative: NDArray[np.bool_]
    used: NDArray[np.bool_]  # demanded while it was resident; always for a load on demand


@dataclass(frozen=True, eq=False, slots=True)
class Leavers:
    """Q experts that left for a load, in order."""

    load: NDArray[np.int32]  # row of the load
    layer: NDArray[np.int16]
    expert: NDArray[np.int16]

    def rows(self) -> list[tuple[int, int, int]]:
        """(load, layer, expert) of each."""
        return list(zip(self.load.tolist(), self.layer.tolist(), self.expert.tolist(), strict=True))


@dataclass(frozen=True, eq=False, slots=True)
class Residents:
    """W experts that were resident when the run began, and where."""

    layer: NDArray[np.int16]
    expert: NDArray[np.int16]
    slot: NDArray[np.int32]


@dataclass(frozen=True, eq=False, slots=True)
class Times:
    """Nanoseconds of a measured run."""

    event_start: NDArray[np.int64]  # [N] since the run began
    event_stall: NDArray[np.int64]  # [N] compute waited for copies
    event_compute: NDArray[np.int64]  # [N] experts were computed
    load_start: NDArray[np.int64]  # [P] since the run began; -1: the copy was called off
    load_end: NDArray[np.int64]  # [P]
    pass_wall: NDArray[np.int64]  # [F] a forward pass and the choice of its token


TABLES: dict[str, type] = {
    "passes": Passes,
    "events": Events,
    "accesses": Accesses,
    "loads": Loads,
    "leavers": Leavers,
    "start": Residents,
    "times": Times,
}
COLUMNS: dict[str, np.dtype[Any]] = {  # "loads.expert" -> its type, as annotated
    f"{table}.{name}": np.dtype(get_args(get_args(hint)[1])[0])
    for table, kind in TABLES.items()
    for name, hint in get_type_hints(kind).items()
}


class _OfExperts(Protocol):
    @property
    def layers(self) -> int: ...
    @property
    def expert_bytes(self) -> ExpertBytes: ...
    @property
    def link_bytes(self) -> ExpertBytes: ...


class Sizes:
    """What the bytes of an expert come to, for a trace and a run alike."""

    @property
    def layer_bytes(self: _OfExperts) -> NDArray[np.int64]:
        """Bytes of one expert of each MoE layer, 0 where unknown. [L]"""
        return layer_bytes(self.expert_bytes, self.layers)

    @property
    def mean_bytes(self: _OfExperts) -> int:
        """Bytes of one expert, the mean over layers; 0 where unknown."""
        return round(float(layer_bytes(self.expert_bytes, self.layers).mean()))

    @property
    def copied_bytes(self: _OfExperts) -> NDArray[np.int64]:
        """Bytes that cross the link for one expert of each MoE layer, 0 where unknown. [L]"""
        return layer_bytes(self.link_bytes or self.expert_bytes, self.layers)

    @property
    def mean_copied(self: _OfExperts) -> int:
        """Bytes that cross the link for one expert, the mean over layers; 0 where unknown."""
        return round(float(layer_bytes(self.link_bytes or self.expert_bytes, self.layers).mean()))


@dataclass(frozen=True, eq=False)
class Run(Sizes):
    """What a cache with these Settings did: F forward passes, N events, M accesses, P loads."""

    settings: Settings
    layers: int
    experts: int
    k: int
    expert_bytes: ExpertBytes
    passes: Passes
    events: Events
    accesses: Accesses
    loads: Loads
    leavers: Leavers
    start: Residents
    times: Times | None = None
    tier: Tier | None = None
    output_ids: tuple[int, ...] = ()  # the tokens generated, pass by pass, where the run generated any
    link_bytes: ExpertBytes = 0  # that cross the link for one expert, where they are packed; 0: expert_bytes

    @classmethod
    def of_columns(cls, columns: Mapping[str, NDArray[Any]], settings: Settings, **others: Any) -> Run:
        """From the columns of TABLES by their names; without "times.*" the run was not measured."""
        made = {
            table: kind(**{c.name: columns[f"{table}.{c.name}"] for c in fields(kind)})
            for table, kind in TABLES.items()
            if table != "times" or "times.pass_wall" in columns
        }
        return cls(settings=settings, **made, **others)

    def columns(self) -> dict[str, NDArray[Any]]:
        """Every column by its name in COLUMNS; those of times only where the run was measured."""
        return {
            name: getattr(getattr(self, table), column)
            for name in COLUMNS
            for table, _, column in [name.partition(".")]
            if getattr(self, table) is not None
        }

    def outputs(self, prompts: int = 1) -> list[tuple[int, ...]]:
        """The tokens generated for each prompt of a batch: a pass brings one to each."""
        return [self.output_ids[number::prompts] for number in range(prompts)]

    @property
    def digest(self) -> str:
        """Tells runs apart by their settings and what happened in them, times aside."""
        found = hashlib.blake2b(repr((self.settings, self.layers, self.experts)).encode(), digest_size=16)
        for name, column in self.columns().items():
            if not name.startswith("times."):
                found.update(np.ascontiguousarray(column).data)
        return found.hexdigest()

    @property
    def measured(self) -> bool:
        return self.times is not None

    @property
    def token_by_token(self) -> bool:
        """Whether each pass after the prompt takes in one token."""
        decoded = self.passes.tokens[self.passes.phase == 1]
        return bool(decoded.size and (decoded == 1).all())

    @property
    def hit_ratio(self) -> float:
        """Hits / accesses of decode, or of the whole run where nothing was decoded; late hits are not
        counted."""
        decode = self.passes.phase[self.events.forward_pass[self.accesses.event]] == 1
        outcome = self.accesses.outcome[decode] if decode.any() else self.accesses.outcome
        return float((outcome == HIT).mean())

    @property
    def misses(self) -> int:
        """Accesses whose expert was not there, of the whole run."""
        return int((self.accesses.outcome == MISS).sum())

    @property
    def tokens_per_second(self) -> float | None:
        """Of decode, those of every prompt of a batch together; None where the run was not measured or
        nothing was decoded."""
        decode = self.passes.phase == 1
        if self.times is None or not decode.any():
            return None
        return float(self.passes.tokens[decode].mean() * 1e9 / self.times.pass_wall[decode].mean())

    def __repr__(self) -> str:
        layers, of = many(self.layers, "MoE layer"), many(self.experts, "expert")
        passes, accesses = many(len(self.passes.phase), "forward pass"), len(self.accesses.event)
        what = f"{passes}, {layers} x {of}, top-{self.k}, misses {self.misses:,} of {accesses:,}"
        kind = "measured" if self.measured else "replayed"
        return f"<Run: {kind}, {self.settings.label[:80]!r}, {what}>"

    def _repr_html_(self) -> str:
        """What a notebook shows."""
        from moeviz.charts import inline

        return inline.run(self)

    @property
    def room(self) -> Room:
        """How the fast tier is divided."""
        return self.settings.room(self.layers, self.experts, self.k, self.expert_bytes)

    @property
    def fast_tier_bytes(self) -> int:
        """Room for experts in the fast tier; a slot that layers share has to hold the largest of them."""
        room, sizes = self.room, self.layer_bytes
        if room.bytes:
            return room.bytes
        if room.pools == self.layers:
            return int((np.array(room.limits) * sizes).sum())
        return int(room.slots * sizes.max())

    @property
    def departures(self) -> Leavers:
        """Everyone who left: the victim of each load, then those who left besides it."""
        loads, more = self.loads, self.leavers
        out = np.flatnonzero(loads.victim_expert >= 0).astype(np.int32)
        if not len(more.load):
            return Leavers(out, loads.victim_layer[out], loads.victim_expert[out])
        load = np.concatenate([out, more.load])
        order = np.argsort(load, kind="stable")
        return Leavers(
            load[order],
            np.concatenate([loads.victim_layer[out], more.layer])[order],
            np.concatenate([loads.victim_expert[out], more.expert])[order],
        )

    @property
    def pass_at(self) -> NDArray[np.int64]:
        """First event of each forward pass, and the number of events at the end. [F + 1]"""
        return np.searchsorted(self.events.forward_pass, np.arange(len(self.passes.phase) + 1))

    @property
    def access_at(self) -> NDArray[np.int64]:
        """First access of each event, and the number of accesses at the end. [N + 1]"""
        return np.searchsorted(self.accesses.event, np.arange(len(self.events.layer) + 1))

    @property
    def load_at(self) -> NDArray[np.int64]:
        """First load of each event, and the number of loads at the end. [N + 1]"""
        return np.searchsorted(self.loads.event, np.arange(len(self.events.layer) + 1))

    def event(self, step: int, layer: int) -> int | None:
        """Row of the event of a MoE layer in forward pass `step`; None where it needed no expert."""
        own = np.flatnonzero((self.events.forward_pass == step) & (self.events.layer == layer))
        return int(own[0]) if own.size else None

    def same_decisions(self, other: Run) -> bool:
        """True where both had the same hits, misses, evictions and pre-fetches, event for event.

        Times do not count, nor do they say which hits were late.
        """
        mine, theirs = self.columns(), other.columns()
        for name in COLUMNS:
            if name.startswith("times."):
                continue
            a, b = mine[name], theirs[name]
            if name == "accesses.outcome":
                a, b = a == MISS, b == MISS
            if not np.array_equal(a, b):
                return False
        return True


def layer_bytes(expert_bytes: ExpertBytes, layers: int) -> NDArray[np.int64]:
    """Bytes of one expert of each MoE layer. [layers]"""
    return np.broadcast_to(np.asarray(expert_bytes, np.int64), layers)

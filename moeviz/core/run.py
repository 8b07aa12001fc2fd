"""What a cache did: the `Run`, event by event, and the `Recorder` that builds it.

A replay and a live run give the same type; only a measured run has times. Knows neither policies nor models.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Iterator
from dataclasses import asdict, dataclass, field, fields
from itertools import pairwise
from typing import Any

import numpy as np
from numpy.typing import NDArray

from moeviz.core.machines import Machine
from moeviz.core.settings import Settings, SettingsError

HIT, LATE, MISS = 0, 1, 2  # outcome of an access: resident and loaded; still in flight when demanded; neither


class RunError(ValueError):
    """A recorded run that is not valid; the message names the field."""


@dataclass(frozen=True, slots=True)
class Tier:
    """The slow tier as measured when the model was loaded, with this model's expert size."""

    kind: str  # disk or host
    latency_ms: float  # one expert, nothing else under way
    gigabytes_per_second: float  # many experts, one after the other
    page_cache_bypassed: bool  # False for host
    pace: Machine | None = None  # what copies were slowed down to; the figures above are the paced ones

    def to_dict(self) -> dict[str, Any]:
        """For JSON; `pace` only where there is one."""
        values = asdict(self)
        return values if self.pace else {name: value for name, value in values.items() if name != "pace"}

    @classmethod
    def from_dict(cls, values: dict[str, Any]) -> Tier:
        """Raises TypeError where a field is missing, unknown or of another type."""
        pace = values.get("pace")
        tier = cls(**{**values, "pace": Machine(**pace) if pace is not None else None})
        for figure in (tier, tier.pace or tier):
            if not isinstance(figure.latency_ms, float) or not isinstance(figure.gigabytes_per_second, float):
                raise TypeError
        if not isinstance(tier.kind, str) or not isinstance(tier.pace and tier.pace.name, str | None):
            raise TypeError
        return tier


@dataclass(frozen=True, slots=True)
class ModelFacts:
    """What a trace and a page need to know of a loaded model."""

    name: str
    revision: str
    layer_indices: tuple[int, ...]  # of the MoE layers among the model's layers
    experts: int  # E
    k: int
    expert_bytes: int
    context: int  # tokens that fit
    device: str
    dtype: str
    tier: Tier
    versions: dict[str, str]  # of torch, transformers, moeviz, python; and the machine

    @property
    def layers(self) -> int:
        return len(self.layer_indices)

    @classmethod
    def from_json(cls, values: dict[str, Any]) -> ModelFacts:
        return cls(
            **{
                **values,
                "tier": Tier.from_dict(values["tier"]),
                "layer_indices": tuple(values["layer_indices"]),
            }
        )


@dataclass(slots=True)
class EventRecord:
    """One event: a MoE layer in a forward pass."""

    layer: int
    hits: list[int]  # experts
    late: list[int]
    misses: list[int]
    loads: list[
        tuple[int, int, int, int, int, bool]
    ]  # layer, expert, slot, victim's layer, victim, speculative
    used: list[int] = field(default_factory=list)  # indices of pre-fetches first used here
    dropped: int = 0  # guesses that found no slot
    start_ns: int = 0  # since the run began
    stall_ns: int = 0
    compute_ns: int = 0


@dataclass(slots=True)
class PassRecord:
    """One forward pass: what went in, what the routers chose, what the cache did."""

    phase: int
    token_ids: list[int]
    texts: list[str]
    experts: list[list[list[int]]]  # [token, layer, rank]
    weights: list[list[list[float]]]
    guess: list[list[list[list[int]]]]  # [token, layer, lookahead, rank]
    guess_probability: list[list[list[list[float]]]]  # the same, rounded to float16
    events: list[EventRecord]
    next_id: int = -1  # the token that came out
    next_text: str = ""
    wall_ns: int = 0
    copies: list[tuple[int, int, int]] = field(
        default_factory=list
    )  # load, start and end since the run began
    initial: list[tuple[int, int, int]] = field(
        default_factory=list
    )  # first pass: layer, expert, slot of who was resident before it

    def to_json(self) -> dict[str, Any]:
        return asdict(self)

    @classmethod
    def from_json(cls, values: dict[str, Any]) -> PassRecord:
        return cls(**{**values, "events": [EventRecord(**event) for event in values["events"]]})


@dataclass(frozen=True, eq=False, slots=True)
class Times:
    """Nanoseconds of a measured run."""

    event_start: NDArray[np.int64]  # [N] since the run began
    event_stall: NDArray[np.int64]  # [N] compute waited for copies
    event_compute: NDArray[np.int64]  # [N] experts were computed
    load_start: NDArray[np.int64]  # [P] since the run began; -1 where the copy was called off
    load_end: NDArray[np.int64]  # [P]
    pass_wall: NDArray[np.int64]  # [F] a forward pass and the choice of its token


@dataclass(frozen=True, eq=False, slots=True)
class Run:
    """N events of F forward passes with M accesses and P loads, in the order in which they happened."""

    settings: Settings
    layers: int
    experts: int
    k: int
    expert_bytes: int
    pass_phase: NDArray[np.uint8]  # [F] 0 prefill, 1 decode
    pass_tokens: NDArray[np.int32]  # [F] tokens that went in
    event_pass: NDArray[np.int32]  # [N]
    event_layer: NDArray[np.int16]  # [N]
    event_dropped: NDArray[np.int16]  # [N] guesses that found no slot
    access_event: NDArray[np.int32]  # [M]
    access_expert: NDArray[np.int16]  # [M]
    access_outcome: NDArray[np.uint8]  # [M] HIT, LATE, MISS
    load_event: NDArray[np.int32]  # [P] the event that issued it
    load_layer: NDArray[np.int16]  # [P] layer and expert that came
    load_expert: NDArray[np.int16]  # [P]
    load_slot: NDArray[np.int32]  # [P]
    victim_layer: NDArray[np.int16]  # [P] who left for it; -1 nobody
    victim_expert: NDArray[np.int16]  # [P]
    load_speculative: NDArray[np.bool_]  # [P]
    load_used: NDArray[np.bool_]  # [P] demanded while it was resident; True for every load on demand
    start_layer: NDArray[np.int16]  # [W] who was resident when the run began, and where
    start_expert: NDArray[np.int16]  # [W]
    start_slot: NDArray[np.int32]  # [W]
    times: Times | None = None
    tier: Tier | None = None
    output_ids: tuple[int, ...] = ()  # the tokens generated, where the run generated any

    @property
    def digest(self) -> str:
        """Tells runs apart by their settings and what happened in them, times aside."""
        found = hashlib.blake2b(repr((self.settings, self.layers, self.experts)).encode(), digest_size=16)
        for f in fields(self):
            if isinstance(array := getattr(self, f.name), np.ndarray):
                found.update(np.ascontiguousarray(array).data)
        return found.hexdigest()

    @property
    def measured(self) -> bool:
        return self.times is not None

    @property
    def fast_tier_bytes(self) -> int:
        """Room for experts in the fast tier."""
        shared = self.settings.scope == "model"
        match self.settings.baseline:
            case "resident":
                slots = self.layers * self.experts
            case "on-demand":
                slots = self.k
            case "whole-layer":
                slots = self.experts
            case _:
                slots = self.settings.slots * (1 if shared else self.layers)
        return slots * self.expert_bytes

    def same_decisions(self, other: Run) -> bool:
        """True where both had the same hits, misses, evictions and pre-fetches, event for event; times do not count."""
        if (self.access_outcome == MISS).tolist() != (other.access_outcome == MISS).tolist():
            return False
        names = [
            f.name
            for f in fields(self)
            if f.name.startswith(("event_", "load_", "victim_", "pass_", "start_"))
        ]
        names += ["access_event", "access_expert"]
        return all(np.array_equal(getattr(self, name), getattr(other, name)) for name in names)

    def to_parts(self) -> tuple[dict[str, NDArray[Any]], dict[str, Any]]:
        """Arrays and header of the run as they stand in a trace file."""
        arrays = {f.name: getattr(self, f.name) for f in fields(self) if f.name.startswith(_ARRAYS)}
        if self.times is not None:
            arrays |= {f"times.{f.name}": getattr(self.times, f.name) for f in fields(self.times)}
        header = {
            "settings": self.settings.to_dict(),
            "layers": self.layers,
            "experts": self.experts,
            "k": self.k,
            "expert_bytes": self.expert_bytes,
            "tier": self.tier.to_dict() if self.tier else None,
            "output_ids": list(self.output_ids),
        }
        return {name: np.ascontiguousarray(array) for name, array in arrays.items()}, header

    @classmethod
    def from_parts(cls, arrays: dict[str, NDArray[Any]], header: Any) -> Run:
        """Raises RunError."""
        names = {f.name for f in fields(cls) if f.name.startswith(_ARRAYS)}
        times = {f"times.{f.name}" for f in fields(Times)}
        if arrays.keys() not in (names, names | times):
            odd = sorted(arrays.keys() ^ names)
            raise RunError(f"the recorded run lacks or adds arrays: {', '.join(odd)[:200]}.")
        for name, array in arrays.items():
            if array.ndim != 1 or array.dtype != _DTYPES[name.removeprefix("times.")]:
                raise RunError(
                    f"run.{name} is {array.dtype} with {array.ndim} dimensions; expected {_DTYPES[name.removeprefix('times.')]} with 1."
                )
        try:
            tier = header["tier"]
            numbers: dict[str, Any] = {
                name: header[name] for name in ("layers", "experts", "k", "expert_bytes")
            }
            output_ids = header["output_ids"]
            if not all(type(value) is int for value in [*numbers.values(), *output_ids]):
                raise TypeError
            return cls(
                settings=Settings.from_dict(header["settings"]),
                **(numbers | {name: arrays[name] for name in names}),
                times=Times(**{f.name: arrays[f"times.{f.name}"] for f in fields(Times)})
                if times <= arrays.keys()
                else None,
                tier=None if tier is None else Tier.from_dict(tier),
                output_ids=tuple(output_ids),
            )
        except SettingsError as error:
            raise RunError(f"the recorded run's {error}") from None
        except (KeyError, TypeError, AttributeError):
            raise RunError("the recorded run's header lacks a field or has one of a wrong type.") from None

    def passes(self) -> Iterator[list[EventRecord]]:
        """The events of each forward pass, as plain records."""
        loads = list(
            zip(
                self.load_layer.tolist(),
                self.load_expert.tolist(),
                self.load_slot.tolist(),
                self.victim_layer.tolist(),
                self.victim_expert.tolist(),
                self.load_speculative.tolist(),
                strict=True,
            )
        )
        accesses = list(zip(self.access_expert.tolist(), self.access_outcome.tolist(), strict=True))
        numbers = np.arange(len(self.event_pass) + 1)
        load_at = np.searchsorted(self.load_event, numbers).tolist()
        access_at = np.searchsorted(self.access_event, numbers).tolist()
        bounds = np.searchsorted(self.event_pass, np.arange(len(self.pass_phase) + 1)).tolist()
        layers = self.event_layer.tolist()
        for first, last in pairwise(bounds):
            events = []
            for n in range(first, last):
                own = accesses[access_at[n] : access_at[n + 1]]
                hits, late, misses = (
                    [expert for expert, outcome in own if outcome == kind] for kind in (HIT, LATE, MISS)
                )
                events.append(EventRecord(layers[n], hits, late, misses, loads[load_at[n] : load_at[n + 1]]))
            yield events

    def check_against(self, layers: int, experts: int, k: int, passes: int) -> None:
        """Raises RunError where the run cannot belong to a trace of this shape or contradicts itself."""
        if (self.layers, self.experts, self.k) != (layers, experts, k):
            raise RunError("the recorded run is of another shape (layers, experts, k) than the trace.")
        try:
            self.settings.check(layers, experts, k)
        except SettingsError as error:
            raise RunError(f"the recorded run's settings do not fit: {error}") from None
        sizes = {
            "pass": passes,
            "event": passes * layers,
            "access": len(self.access_event),
            "load": len(self.load_event),
            "victim": len(self.load_event),
            "start": len(self.start_layer),
        }
        for f in fields(self):
            kind = f.name.partition("_")[0]
            if f.name.startswith(_ARRAYS) and len(getattr(self, f.name)) != sizes[kind]:
                raise RunError(
                    f"run.{f.name} has {len(getattr(self, f.name))} entries; expected {sizes[kind]}."
                )
        if self.times is not None:
            for f in fields(self.times):
                if len(getattr(self.times, f.name)) != sizes[f.name.partition("_")[0]]:
                    raise RunError(f"run.times.{f.name} has not one entry per {f.name.partition('_')[0]}.")
        events = passes * layers
        for name, least, most in (
            ("pass_phase", 0, 2),
            ("event_pass", 0, passes),
            ("event_layer", 0, layers),
            ("access_event", 0, events),
            ("access_expert", 0, experts),
            ("access_outcome", HIT, MISS + 1),
            ("load_event", 0, events),
            ("load_layer", 0, layers),
            ("load_expert", 0, experts),
            ("load_slot", 0, max(experts, self.settings.slots)),
            ("start_layer", 0, layers),
            ("start_expert", 0, experts),
            ("start_slot", 0, max(experts, self.settings.slots)),
            ("victim_layer", -1, layers),
            ("victim_expert", -1, experts),
        ):
            array = getattr(self, name)
            if array.size and not least <= int(array.min()) <= int(array.max()) < most:
                raise RunError(f"run.{name} holds a number outside {least} to {most - 1}.")
        for name in ("event_pass", "access_event", "load_event"):
            if (np.diff(getattr(self, name)) < 0).any():
                raise RunError(f"run.{name} goes down; events must be in order.")


_LOAD = (
    "load_layer",
    "load_expert",
    "load_slot",
    "victim_layer",
    "victim_expert",
    "load_speculative",
)  # as in EventRecord.loads
_ARRAYS = ("pass_", "event_", "access_", "load_", "victim_", "start_")
_DTYPES = {
    "pass_phase": np.uint8,
    "pass_tokens": np.int32,
    "event_pass": np.int32,
    "event_layer": np.int16,
    "event_dropped": np.int16,
    "access_event": np.int32,
    "access_expert": np.int16,
    "access_outcome": np.uint8,
    "load_event": np.int32,
    "load_layer": np.int16,
    "load_expert": np.int16,
    "load_slot": np.int32,
    "victim_layer": np.int16,
    "victim_expert": np.int16,
    "load_speculative": np.bool_,
    "load_used": np.bool_,
    "start_layer": np.int16,
    "start_expert": np.int16,
    "start_slot": np.int32,
    **{f.name: np.int64 for f in fields(Times)},
}


class Recorder:
    """Collects forward passes into a Run."""

    def __init__(
        self,
        settings: Settings,
        layers: int,
        experts: int,
        k: int,
        expert_bytes: int,
        initial: Iterable[tuple[int, int, int]] = (),
    ) -> None:
        """`initial`: (layer, expert, slot) of who is resident when the run begins."""
        self._shape = (settings, layers, experts, k, expert_bytes)
        self._columns: dict[str, list[int]] = {name: [] for name in _DTYPES}
        for place in initial:
            self._start(*place)
        self._measured = False
        self.output_ids: list[int] = []

    def _start(self, layer: int, expert: int, slot: int) -> None:
        for name, value in (("start_layer", layer), ("start_expert", expert), ("start_slot", slot)):
            self._columns[name].append(value)

    def add(self, phase: int, tokens: int, events: Iterable[EventRecord]) -> None:
        """One forward pass of a replay."""
        c = self._columns
        number = len(c["pass_phase"])
        c["pass_phase"].append(phase)
        c["pass_tokens"].append(tokens)
        access_event, access_expert, access_outcome = (
            c["access_event"],
            c["access_expert"],
            c["access_outcome"],
        )
        for event in events:
            at = len(c["event_pass"])
            c["event_pass"].append(number)
            c["event_layer"].append(event.layer)
            c["event_dropped"].append(event.dropped)
            c["event_start"].append(event.start_ns)
            c["event_stall"].append(event.stall_ns)
            c["event_compute"].append(event.compute_ns)
            outcome = dict.fromkeys(event.hits, HIT)
            outcome.update(dict.fromkeys(event.late, LATE))
            outcome.update(dict.fromkeys(event.misses, MISS))
            experts = sorted(outcome)
            access_event.extend([at] * len(experts))
            access_expert.extend(experts)
            access_outcome.extend([outcome[expert] for expert in experts])
            for place in event.loads:
                c["load_event"].append(at)
                for name, value in zip(_LOAD, place, strict=True):
                    c[name].append(value)
                c["load_used"].append(not place[5])
                c["load_start"].append(-1)
                c["load_end"].append(-1)
            for index in event.used:
                c["load_used"][index] = True

    def add_measured(self, record: PassRecord) -> None:
        """One forward pass of a live run, with its times."""
        self._measured = True
        for layer, expert, slot in record.initial:
            self._start(layer, expert, slot)
        self.add(record.phase, len(record.token_ids), record.events)
        self._columns["pass_wall"].append(record.wall_ns)
        for index, start, end in record.copies:
            self._columns["load_start"][index] = start
            self._columns["load_end"][index] = end
        if record.next_id >= 0:
            self.output_ids.append(record.next_id)

    def run(self, tier: Tier | None = None) -> Run:
        """The Run so far."""
        settings, layers, experts, k, expert_bytes = self._shape
        arrays: dict[str, NDArray[Any]] = {
            name: np.array(column, _DTYPES[name]) for name, column in self._columns.items()
        }
        times = Times(**{f.name: arrays.pop(f.name) for f in fields(Times)})
        return Run(
            settings,
            layers,
            experts,
            k,
            expert_bytes,
            **arrays,
            times=times if self._measured else None,
            tier=tier,
            output_ids=tuple(self.output_ids),
        )

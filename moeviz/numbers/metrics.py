"""Numbers of a Run, each with its formula. Those of time, which only a measured run has, are made in
`moeviz.numbers.timing`.

Numbers only: `moeviz.words` says them to people, `moeviz.numbers.output` to programs.

    summary(replay(trace, Settings())).decode.hit_ratio
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from moeviz.core.run import HIT, LATE, MISS, Run, Tier
from moeviz.core.trace import DECODE, PREFILL
from moeviz.numbers.timing import Timed, achieved_gigabytes_per_second, overlap, timed


@dataclass(frozen=True, slots=True)
class Counts:
    """Accesses: one for each expert that an event needs."""

    accesses: int
    hits: int
    late_hits: int | None  # None where the run was not measured: only time can tell
    misses: int

    @property
    def hit_ratio(self) -> float | None:
        """hits / accesses, late hits not counted; None without accesses."""
        return self.hits / self.accesses if self.accesses else None


def counts(run: Run, phase: int | None = None) -> Counts:
    """Of a whole run, or of its PREFILL or DECODE."""
    outcome = run.accesses.outcome
    if phase is not None:
        outcome = outcome[run.passes.phase[run.events.forward_pass[run.accesses.event]] == phase]
    late = int((outcome == LATE).sum())
    return Counts(
        len(outcome),
        int((outcome == HIT).sum()),
        late if run.measured else None,
        int((outcome == MISS).sum()),
    )


def hit_ratio_over_time(run: Run) -> NDArray[np.float64]:
    """Hits / accesses of each forward pass. [F]"""
    passes = run.events.forward_pass[run.accesses.event]
    hits = np.bincount(passes, run.accesses.outcome == HIT, len(run.passes.phase))
    return hits / np.maximum(np.bincount(passes, minlength=len(run.passes.phase)), 1)


@dataclass(frozen=True, slots=True)
class MissKinds:
    """Why experts that were demanded were not there; they add up to the misses."""

    cold: int  # never loaded before
    capacity: int  # evicted in an earlier forward pass
    collision: int  # evicted earlier in the same forward pass
    pollution: int  # evicted by a pre-fetch that was never used


def miss_kinds(run: Run) -> MissKinds:
    """Classifies each miss.

    Where both fit, pollution wins over collision; a baseline without a cache has cold and capacity only.
    """
    kinds = miss_kind_of_access(run)
    return MissKinds(*(int((kinds == kind).sum()) for kind in range(1, 5)))


def miss_kind_of_access(run: Run) -> NDArray[np.uint8]:
    """0 for hits, else 1 cold, 2 capacity, 3 collision, 4 pollution. [M]"""
    kinds = np.zeros(len(run.accesses.event), np.uint8)
    missed = np.flatnonzero(run.accesses.outcome == MISS)
    event = run.accesses.event[missed].astype(np.int64)
    place = run.events.layer[event].astype(np.int64) * run.experts + run.accesses.expert[missed]
    loads, gone, passes = run.loads, run.departures, run.events.forward_pass
    first = np.full(run.layers * run.experts, len(passes))  # the event that first loaded each expert
    np.minimum.at(first, loads.layer.astype(np.int64) * run.experts + loads.expert, loads.event)
    first[run.start.layer.astype(np.int64) * run.experts + run.start.expert] = -1
    # departures of one expert stand together, in time: the last before its load is why it is missed
    span = len(loads.event) + 1
    left = (gone.layer.astype(np.int64) * run.experts + gone.expert) * span + gone.load
    order = np.argsort(left, kind="stable")
    last = left[order].searchsorted(place * span + _loads_of(run, event, place))  # one further
    known = np.append(-1, left[order])[last] // span == place
    by, of_known = gone.load[order[last[known] - 1]], missed[known]  # the load that it left for
    kinds[missed] = 2
    kinds[of_known[passes[loads.event[by]] == passes[event[known]]]] = 3
    kinds[of_known[(loads.speculative & ~loads.used)[by]]] = 4
    kinds[missed[first[place] >= event]] = 1
    return kinds


def _loads_of(run: Run, event: NDArray[np.int64], place: NDArray[np.int64]) -> NDArray[np.intp]:
    """Rows of the loads on demand that misses led to. event, place: of each; place: layer x experts + expert.

    Under the rule one-by-one an expert may leave for another that its own event needs, before its turn comes:
    so not the event but the row says what came first.
    """
    loads, cells = run.loads, run.layers * run.experts
    demand = np.flatnonzero(~loads.speculative)
    of_load = loads.layer[demand].astype(np.int64) * run.experts + loads.expert[demand]
    key = loads.event[demand] * np.int64(cells) + of_load
    order = np.argsort(key, kind="stable")
    return demand[order[key[order].searchsorted(event * cells + place)]]


@dataclass(frozen=True, slots=True)
class Whole:
    """What was served without waiting: a token waits for its slowest expert, so one miss among all layers
    costs it the hit.
    """

    passes: int  # forward passes with any event: in decode of one sequence, tokens
    whole_passes: int  # that found every expert of every layer
    events: int  # (forward pass, MoE layer)
    whole_events: int  # that found every expert

    @property
    def pass_ratio(self) -> float | None:
        return self.whole_passes / self.passes if self.passes else None

    @property
    def event_ratio(self) -> float | None:
        return self.whole_events / self.events if self.events else None


def whole(run: Run, phase: int | None = None) -> Whole:
    """Of a whole run, or of its PREFILL or DECODE. Late hits are waited for and do not count."""
    missed = np.bincount(run.accesses.event, run.accesses.outcome != HIT, len(run.events.layer)) > 0
    passes = run.events.forward_pass
    if phase is not None:
        own = run.passes.phase[passes] == phase
        missed, passes = missed[own], passes[own]
    waited = int((np.bincount(passes[missed]) > 0).sum())
    count = int((np.bincount(passes) > 0).sum())
    return Whole(count, count - waited, len(missed), int((~missed).sum()))


def gap_captured(hits: int, lru: int, belady: int) -> float | None:
    """How much of what is possible beyond lru a policy gets: (policy - lru) / (belady - lru); None
    where nothing is possible.

    After gajsanders/moe-trace. All three are hits on the same accesses, at the same slots and under the same
    rule.
    """
    return (hits - lru) / (belady - lru) if belady != lru else None


@dataclass(frozen=True, slots=True)
class CacheAsPredictor:
    """The paper's precision and recall: how well what is resident foretells what an event needs.

    Means over decode events.

    precision = |A and resident| / residents, recall = |A and resident| / |A|. With every slot full, precision
    = recall x k / slots, so with k = 2 of 4 slots precision can never pass one half.
    """

    precision: float
    recall: float


def cache_as_predictor(run: Run) -> CacheAsPredictor | None:
    """None where no event of the phase had anything resident.

    Scope layer counts the layer's own residents, scope model the layer's too.
    """
    decode = run.passes.phase == DECODE if (run.passes.phase == DECODE).any() else run.passes.phase == PREFILL
    residents = residents_before(run)
    chosen = decode[run.events.forward_pass] & (residents > 0)
    if not chosen.any():
        return None
    events = len(run.events.forward_pass)
    hits = np.bincount(run.accesses.event, run.accesses.outcome != MISS, events)[chosen]
    needed = np.bincount(run.accesses.event, minlength=events)[chosen]
    return CacheAsPredictor(float((hits / residents[chosen]).mean()), float((hits / needed).mean()))


def residents_before(run: Run) -> NDArray[np.int64]:
    """Experts of the event's layer that are resident before it. [N]"""
    if run.settings.baseline in ("on-demand", "whole-layer"):
        return np.zeros(len(run.events.forward_pass), np.int64)
    change = np.zeros((len(run.events.forward_pass) + 1, run.layers), np.int64)  # by the loads of each event
    np.add.at(change, (run.loads.event + 1, run.loads.layer), 1)
    gone = run.departures
    np.add.at(change, (run.loads.event[gone.load] + 1, gone.layer), -1)
    change[0] += np.bincount(run.start.layer, minlength=run.layers)
    return np.asarray(change.cumsum(0)[np.arange(len(run.events.forward_pass)), run.events.layer])


@dataclass(frozen=True, slots=True)
class Ledger:
    """What became of the pre-fetches, in experts. useful + wasted = issued."""

    issued: int
    useful: int  # demanded before they were evicted
    late: int | None  # of the useful: still on their way when demanded; None where the run was not measured
    wasted: int
    dropped: int  # guesses that found no slot; not issued


def ledger(run: Run) -> Ledger:
    used = int((run.loads.speculative & run.loads.used).sum())
    issued = int(run.loads.speculative.sum())
    late = int((run.accesses.outcome == LATE).sum()) if run.measured else None
    return Ledger(issued, used, late, issued - used, int(run.events.dropped.sum()))


@dataclass(frozen=True, slots=True)
class Moved:
    """Bytes that went over the link.

    A pre-fetch is useful where its expert was demanded before it was evicted.
    """

    demand: int
    prefetch_useful: int
    prefetch_wasted: int

    @property
    def total(self) -> int:
        return self.demand + self.prefetch_useful + self.prefetch_wasted


def bytes_moved(run: Run) -> Moved:
    """Copies x bytes that cross the link for an expert of their layer.

    A pre-fetch that was called off before it began moved nothing.
    """
    began = np.ones(len(run.loads.event), bool)
    if run.times is not None:
        began = ~run.loads.speculative | (run.times.load_start >= 0) | run.loads.used
    sizes = run.copied_bytes[run.loads.layer]
    useful = run.loads.speculative & run.loads.used
    wasted = run.loads.speculative & ~run.loads.used & began
    return Moved(*(int(sizes[chosen].sum()) for chosen in (~run.loads.speculative, useful, wasted)))


@dataclass(frozen=True, slots=True)
class Summary:
    """The numbers of one run, or of repeats of it."""

    whole: Counts
    prefill: Counts
    decode: Counts
    decoded: int  # tokens that went in while tokens were generated; `decode` counts their accesses
    evictions: int
    moved: Moved
    bytes_per_token: float
    fast_tier_bytes: int
    tier: Tier | None  # the slow tier as it was measured; None for a replay
    miss_kinds: MissKinds
    cache_as_predictor: CacheAsPredictor | None
    ledger: Ledger
    served: Whole  # in decode, what did not wait for its slowest expert
    times: Timed | None  # None where the run was not measured
    overlap: float | None
    achieved_gigabytes_per_second: float | None

    @property
    def phase(self) -> str:
        """The phase that a single number is of: decode, or prefill where nothing was decoded."""
        return "decode" if self.decode.accesses else "prefill"

    @property
    def main(self) -> Counts:
        """Counts of that phase."""
        return self.decode if self.decode.accesses else self.prefill


def summary(run: Run) -> Summary:
    """All numbers of a run."""
    moved = bytes_moved(run)
    return Summary(
        whole=counts(run),
        prefill=counts(run, PREFILL),
        decode=counts(run, DECODE),
        decoded=int(run.passes.tokens[run.passes.phase == DECODE].sum()),
        evictions=len(run.departures.load),
        moved=moved,
        bytes_per_token=moved.total / max(int(run.passes.tokens.sum()), 1),
        fast_tier_bytes=run.fast_tier_bytes,
        tier=run.tier,
        miss_kinds=miss_kinds(run),
        cache_as_predictor=cache_as_predictor(run),
        ledger=ledger(run),
        served=whole(run, DECODE),
        times=timed(run),
        overlap=overlap(run),
        achieved_gigabytes_per_second=achieved_gigabytes_per_second(run),
    )

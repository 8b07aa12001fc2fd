"""What a run would cost per token: a model of compute, link and waiting, fitted on one measured run and
checked on others.

The rule is the engine's (`moeviz.engine.link`): one link copies one expert at a time, demand before
guesses; an event computes its ready experts first and then waits for the others in the order of their copies;
whatever is neither expert compute nor waiting is a constant per token and per copy.

    costs = fit(measured_run)
    predict(replay(trace, Settings("lfu", 6)), costs)      # ms per output token
"""

from __future__ import annotations

from collections import deque
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, fields, replace
from itertools import pairwise

import numpy as np

from moeviz.core.machines import MACHINES as MACHINES
from moeviz.core.machines import Machine as Machine
from moeviz.core.run import MISS, Run
from moeviz.core.settings import Settings
from moeviz.core.trace import DECODE
from moeviz.numbers import timing
from moeviz.numbers.lanes import Segment


@dataclass(frozen=True, slots=True)
class Costs:
    """What things take, ms."""

    expert: float  # one expert's compute for one token
    other: float  # per token: the dense part, the routers, the choice of the token, bookkeeping
    per_copy: float  # added to `other` by every copy: bookkeeping, and the memory that copy and compute share
    copy: float  # one expert over the link
    wake: float  # from a copy's end until waiting compute goes on

    def on(self, machine: Machine, expert_bytes: int) -> Costs:
        """The same compute with another slow tier."""
        return replace(self, copy=machine.copy_ms(expert_bytes))


def fit(*runs: Run) -> Costs:
    """Costs of the machine of a measured run from its decode passes; of repeats of one, the median of each
    cost: a slow tier drifts from run to run. Raises ValueError where a run was not measured or decoded
    nothing.
    """
    found = [_fitted(run) for run in runs]
    return Costs(*(float(np.median([getattr(one, f.name) for one in found])) for f in fields(Costs)))


def _fitted(run: Run) -> Costs:
    times = run.times
    decode = run.passes.phase == DECODE
    if times is None or not decode.any():
        raise ValueError("costs are fitted on a measured run with decoded tokens.")
    events = decode[run.events.forward_pass]
    accesses = events[run.accesses.event]
    expert = times.event_compute[events].sum() / max(int(accesses.sum()), 1) / 1e6
    passes = len(run.passes.phase)
    per_pass_compute = np.bincount(run.events.forward_pass, times.event_compute, passes)
    per_pass_stall = np.bincount(run.events.forward_pass, times.event_stall, passes)
    other = (times.pass_wall - per_pass_compute - per_pass_stall)[decode] / 1e6
    copies = np.bincount(run.events.forward_pass[run.loads.event], minlength=passes)[decode]
    slope, level = 0.0, float(np.median(other))
    if np.ptp(copies) > 0:
        # robust against passes that the system held up: the slope between the medians of the passes with few
        # and with many copies
        few, many = copies <= np.quantile(copies, 0.35), copies >= np.quantile(copies, 0.65)
        apart = float(np.median(copies[many]) - np.median(copies[few]))
        if apart > 0:
            slope = max(0.0, float((np.median(other[many]) - np.median(other[few])) / apart))
            level = float(np.median(other - slope * copies))
    level += float(
        other.mean() - np.median(other)
    )  # what the system takes now and then comes on top of every run
    began = (times.load_start >= 0) & events[run.loads.event]
    took = (times.load_end - times.load_start)[began] / 1e6
    copy = float(took.mean()) if len(took) else (run.tier.latency_ms if run.tier else 0.0)
    costs = Costs(float(expert), max(0.0, level), slope, copy, 0.0)  # of a short run the line may cut below 0
    waits = int((run.accesses.outcome[accesses] == MISS).sum())
    if waits:
        stalls = times.event_stall[events].sum() / 1e6
        modelled = sum(stall for stall, _ in _passes(run, costs, decode))
        costs = replace(costs, wake=max(0.0, float(stalls - modelled) / waits))
    return costs


def predict(run: Run, costs: Costs) -> float:
    """Modelled ms per output token of a run, replayed or measured; its times are not looked at.

    nan where it decoded nothing.
    """
    parts = stack(run, costs)
    return parts.compute + parts.stall + parts.other if parts else float("nan")


def stack(run: Run, costs: Costs) -> timing.Stack | None:
    """Modelled parts of the time per output token, ms; None where nothing was decoded."""
    decode = run.passes.phase == DECODE
    count = int(decode.sum())
    if not count:
        return None
    walk = list(_passes(run, costs, decode))
    copies = np.bincount(run.events.forward_pass[run.loads.event], minlength=len(decode))[decode].sum()
    compute = decode[run.events.forward_pass[run.accesses.event]].sum() * costs.expert / count
    return timing.Stack(
        float(compute),
        sum(stall for stall, _ in walk) / count,
        float(costs.other + costs.per_copy * copies / count),
    )


def _passes(
    run: Run, costs: Costs, chosen: Sequence[bool] | np.ndarray, lanes: list[Segment] | None = None
) -> Iterable[tuple[float, float]]:
    """(stall, wall) of every chosen forward pass, ms; the link's queue goes on between passes.

    `lanes` takes what happens in them.
    """
    now = link = 0.0
    arrival: dict[tuple[int, int], float] = {}  # of copies under way or done
    waiting: deque[tuple[tuple[int, int], int]] = deque()  # guesses whose copy has not begun, and their loads
    used = run.loads.used.tolist()
    pass_at, access_at, load_at = run.pass_at.tolist(), run.access_at.tolist(), run.load_at.tolist()
    layers, needed, outcomes = (
        run.events.layer.tolist(),
        run.accesses.expert.tolist(),
        run.accesses.outcome.tolist(),
    )
    came = list(zip(run.loads.layer.tolist(), run.loads.expert.tolist(), strict=True))
    gone = run.departures
    left = [(layer, expert) for _, layer, expert in gone.rows()]
    left_at = np.searchsorted(gone.load, np.arange(len(came) + 1)).tolist()
    speculative = run.loads.speculative.tolist()
    share = costs.other / max(run.layers, 1)
    start = 0.0

    def draw(lane: str, kind: str, begin: float, end: float, layer: int, expert: int) -> None:
        if lanes is not None and drawing and end > begin:
            lanes.append(Segment(lane, kind, begin - start, end - start, layer, expert))

    def send(key: tuple[int, int], kind: str) -> None:
        nonlocal link
        begin = max(link, now) if kind == "demand" else link
        link = begin + costs.copy
        arrival[key] = link
        draw("link", kind, begin, link, *key)

    for number, (first, last) in enumerate(pairwise(pass_at)):
        start, stalled, drawing = now, 0.0, bool(chosen[number])
        for event in range(first, last):
            layer = layers[event]
            draw("compute", "other", now, now + share, layer, -1)
            now += share
            while waiting and link < now:  # no demand is queued meanwhile
                key, index = waiting.popleft()
                send(key, "guess used" if used[index] else "guess wasted")
            loads = range(load_at[event], load_at[event + 1])
            demand = [came[load] for load in loads if not speculative[load]]
            for key in demand:
                send(key, "demand")
            ready: list[tuple[int, int]] = []
            late: list[tuple[int, int]] = []
            queued = [key for key, _ in waiting]
            accesses = range(access_at[event], access_at[event + 1])
            for access in sorted(accesses, key=outcomes.__getitem__):
                key = layer, needed[access]
                if outcomes[access] == MISS:
                    continue
                if key in queued:  # demanded before its turn: it goes next
                    del waiting[queued.index(key)]
                    queued.remove(key)
                    link = max(link, now)
                    send(key, "guess used")
                (late if arrival.get(key, now) > now else ready).append(key)
            waiting.extend((came[load], load) for load in loads if speculative[load])
            missed = {needed[access] for access in accesses if outcomes[access] == MISS}
            for key in ready:
                draw("compute", "expert", now, now + costs.expert, *key)
                now += costs.expert
            for key in [*late, *demand]:
                if arrival[key] > now:
                    draw("compute", "stall", now, arrival[key] + costs.wake, *key)
                    stalled += arrival[key] + costs.wake - now
                    now = arrival[key] + costs.wake
                if key in late or key[1] in missed:
                    draw("compute", "expert", now, now + costs.expert, *key)
                    now += costs.expert
            draw("compute", "other", now, now + costs.per_copy * len(loads), layer, -1)
            now += costs.per_copy * len(loads)
            for key in left[left_at[loads.start] : left_at[loads.stop]]:  # evicted: it has to come again
                arrival.pop(key, None)
                waiting = deque(item for item in waiting if item[0] != key) if waiting else waiting
        if chosen[number]:
            yield stalled, now - start


def modelled_lanes(run: Run, costs: Costs, step: int) -> list[Segment]:
    """What compute and link do in one forward pass, by the model; the run's own times are not looked at."""
    lanes: list[Segment] = []
    chosen = np.zeros(len(run.passes.phase), bool)
    chosen[step] = True
    for _ in _passes(run, costs, chosen, lanes):
        break
    return lanes


def modelled_passes(run: Run, costs: Costs) -> Iterable[tuple[float, list[Segment]]]:
    """(wall in ms, what compute and link do) of every forward pass, by the model; the run's own times are not
    looked at.
    """
    lanes: list[Segment] = []
    for _, wall in _passes(run, costs, np.ones(len(run.passes.phase), bool), lanes):
        yield wall, lanes.copy()
        lanes.clear()


@dataclass(frozen=True, slots=True)
class Check:
    """Modelled against measured, for settings that the fit has not seen."""

    settings: Settings
    measured_ms: float
    modelled_ms: float

    @property
    def error(self) -> float:
        """|modelled - measured| / measured"""
        return abs(self.modelled_ms - self.measured_ms) / self.measured_ms


def check(fitted_on: Sequence[Run], others: Iterable[Sequence[Run]]) -> list[Check]:
    """Fits on the measured repeats of one settings and predicts those of others, which it has not seen:
    medians over repeats.
    """
    costs = fit(*fitted_on)
    checks = []
    for repeats in others:
        measured = [
            parts.compute + parts.stall + parts.other
            for run in repeats
            if (parts := timing.stack(run)) is not None
        ]
        if measured:  # what the cache decides is the same in every repeat
            checks.append(Check(repeats[0].settings, float(np.median(measured)), predict(repeats[0], costs)))
    return checks


def median_error(checks: Sequence[Check]) -> float:
    """nan where nothing was checked."""
    return float(np.median([one.error for one in checks])) if checks else float("nan")


def break_even(slots: int, scope: str, experts: int, layers: int, k: int) -> float:
    """Hit ratio from which a cache pays against keeping whole layers resident in the same memory.

    The memory of the slots (of each layer, or of all, by `scope`) also holds every expert of some layers for
    good, and k slots for the others to compute from: (slots of all - k) / experts of them, rounded down to
    whole ones. Their share of the layers is the share of accesses that never miss, and a cache has to hit
    more often than that; 0 where not one layer fits. Against on-demand any hit pays, as long as nothing is
    pre-fetched in vain.
    """
    held = slots * layers if scope == "layer" else slots
    return max(0, (held - k) // experts) / layers if held < experts * layers else 1.0

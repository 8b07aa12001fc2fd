"""The cost model: exact on a machine that follows its rule, and its walk adds up."""

from __future__ import annotations

import itertools
import math
from dataclasses import replace

import numpy as np
import pytest
from conftest import random_trace
from test_metrics import timed

from moeviz.core.replay import replay
from moeviz.core.run import HIT, Run, Tier
from moeviz.core.settings import BASELINES, Settings
from moeviz.files import moetrace
from moeviz.numbers import cost, timing
from moeviz.numbers.lanes import measured_lanes

COSTS = cost.Costs(expert=0.2, other=3.0, per_copy=0.1, copy=1.0, wake=0.0)


def as_if_measured(run: Run, costs: cost.Costs) -> Run:
    """A run whose times are the model's own."""
    events, loads, passes = len(run.events.forward_pass), len(run.loads.event), len(run.passes.phase)
    stall = np.zeros(events)
    wall = np.zeros(passes)
    start = np.full(loads, -1, np.int64)
    for step in range(passes):
        lanes = cost.modelled_lanes(run, costs, step)
        compute = [s for s in lanes if s.lane == "compute"]
        wall[step] = max(s.end for s in compute)
        for s in compute:
            if s.kind == "stall":
                stall[step * run.layers + s.layer] += s.end - s.start
    accesses = np.bincount(run.accesses.event, minlength=events)
    start[:] = np.arange(loads) * 1_000_000
    times = timed(run).times
    assert times is not None
    return replace(
        run,
        times=replace(
            times,
            event_stall=(stall * 1e6).astype(np.int64),
            event_compute=(accesses * costs.expert * 1e6).astype(np.int64),
            load_start=start,
            load_end=start + int(costs.copy * 1e6),
            pass_wall=(wall * 1e6).astype(np.int64),
        ),
        tier=Tier("disk", 1.0, 1.0, True),
    )


def test_the_fit_finds_the_costs_of_a_machine_that_follows_the_rule() -> None:
    trace = random_trace(3, tokens=80)
    found = cost.fit(as_if_measured(replay(trace, Settings("lru", 3)), COSTS))
    assert found.expert == pytest.approx(COSTS.expert, rel=0.01)
    assert found.copy == pytest.approx(COSTS.copy, rel=0.01)
    assert found.other == pytest.approx(COSTS.other, rel=0.05)
    assert found.per_copy == pytest.approx(COSTS.per_copy, rel=0.3)


def test_a_short_run_whose_line_cuts_below_nothing_is_still_a_machine() -> None:
    """The rest of a pass grows with its copies faster than in proportion; no pass takes less than no time."""
    run = timed(replay(random_trace(1, tokens=40), Settings("lru", 3)))
    assert run.times is not None
    copies = np.bincount(run.events.forward_pass[run.loads.event], minlength=len(run.passes.phase))
    told = np.bincount(run.events.forward_pass, run.times.event_compute + run.times.event_stall)
    steep = (told + 4_000_000 * (copies - copies.min())).astype(np.int64)
    costs = cost.fit(replace(run, times=replace(run.times, pass_wall=steep)))
    assert costs.other >= 0
    for one in (Settings("lfu", 3), Settings("lru", 4), Settings(baseline="resident")):
        assert 0 < cost.predict(replay(random_trace(1, tokens=40), one), costs) < math.inf


def test_it_predicts_settings_that_it_has_not_seen() -> None:
    trace = random_trace(3, tokens=80)
    fitted = as_if_measured(replay(trace, Settings("lru", 3)), COSTS)
    others = [
        Settings("lfu", 5),
        Settings("lru", 4, prefetch="next-gate"),
        *(Settings(baseline=name) for name in BASELINES),
    ]
    checks = cost.check([fitted], [[as_if_measured(replay(trace, one), COSTS)] for one in others])
    assert [one.settings for one in checks] == others
    assert cost.median_error(checks) < 0.05
    assert math.isnan(cost.median_error([]))


def test_repeats_make_up_for_a_slow_tier_that_drifts() -> None:
    trace = random_trace(3, tokens=80)
    drifting = [replace(COSTS, copy=COSTS.copy * factor) for factor in (1.0, 1.9, 0.95, 1.05, 1.0)]

    def repeats(settings: Settings) -> list[Run]:
        return [as_if_measured(replay(trace, settings), costs) for costs in drifting]

    others = [
        repeats(Settings("lfu", 5)),
        repeats(Settings("lru", 2)),
        repeats(Settings(baseline="on-demand")),
    ]
    own = repeats(Settings("lru", 3))
    assert cost.fit(*own).copy == pytest.approx(COSTS.copy, rel=0.01)
    assert cost.median_error(cost.check(own, others)) < 0.05
    assert cost.median_error(cost.check(own[1:2], others)) > 0.2  # the slow repeat alone misleads


def test_resident_never_waits_and_on_demand_waits_for_all() -> None:
    trace = random_trace(1, tokens=30, prompt=1)
    resident = cost.stack(replay(trace, Settings(baseline="resident")), COSTS)
    demand = cost.stack(replay(trace, Settings(baseline="on-demand")), COSTS)
    assert resident is not None
    assert demand is not None
    assert (resident.stall, resident.other) == (0, pytest.approx(COSTS.other))
    # of each event's two copies the first is waited for whole, the second while the first expert is
    # computed: 2 x 1.0 - 0.2
    assert demand.stall == pytest.approx(trace.layers * (2 * COSTS.copy - COSTS.expert))


@pytest.mark.parametrize("prefetch", ["none", "next-gate", "oracle"])
def test_lanes_do_not_overlap_and_end_with_the_pass(prefetch: str) -> None:
    trace = random_trace(2, tokens=30)
    run = replay(trace, Settings(slots=4, prefetch=prefetch))
    for step in (0, 5, len(trace.passes()) - 1):
        lanes = cost.modelled_lanes(run, COSTS, step)
        for lane in ("compute", "link"):
            own = sorted((s.start, s.end) for s in lanes if s.lane == lane)
            assert all(end <= start + 1e-9 for (_, end), (start, _) in itertools.pairwise(own))
        assert sum(s.end - s.start for s in lanes if s.lane == "compute") == pytest.approx(
            max(s.end for s in lanes if s.lane == "compute")
        )


def test_a_faster_link_is_never_slower() -> None:
    trace = random_trace(2, tokens=40)
    run = replay(trace, Settings(slots=3, prefetch="next-gate"))
    times = [cost.predict(run, COSTS.on(machine, 100_000_000)) for machine in cost.MACHINES[:3]]
    assert times == sorted(times, reverse=True)
    assert cost.MACHINES[0].copy_ms(15_800_000) == pytest.approx(1.01)


def test_measured_lanes_are_the_runs_times() -> None:
    run = timed(replay(random_trace(2), Settings(slots=4)))
    lanes = measured_lanes(run, 3)
    assert sum(s.end - s.start for s in lanes if s.kind == "stall") == pytest.approx(0.5 * run.layers)
    with pytest.raises(ValueError, match="measured"):
        measured_lanes(replay(random_trace(2), Settings(slots=4)), 3)
    with pytest.raises(ValueError, match="measured"):
        cost.fit(replay(random_trace(2), Settings(slots=4)))


def test_a_measured_wait_ends_as_the_copy_arrives_that_it_waited_for() -> None:
    run = moetrace.load(moetrace.SAMPLES / "change-of-subject.moetrace")[1]
    assert run is not None
    for step in (80, 131):
        lanes = measured_lanes(run, step)
        came = [s.end for s in lanes if s.lane == "link"]
        waited = [s.end for s in lanes if s.kind == "stall"]
        assert waited
        assert all(min(abs(end - one) for one in came) < 0.03 for end in waited)  # ms, to wake up


def test_break_even() -> None:
    assert cost.break_even(4, "layer", 8, 8, 2) == 3 / 8  # 30 of 64 experts: three layers, and six over
    assert cost.break_even(4, "layer", 8, 1, 2) == 0  # half of the only layer is no layer
    assert cost.break_even(8, "layer", 8, 8, 2) == 1
    assert cost.break_even(34, "model", 8, 8, 2) == 4 / 8  # 32 of 64; by layers, 34 / 8 would be 4 and hold 3
    assert cost.break_even(64, "model", 8, 8, 2) == 1


def test_the_bandwidth_bound() -> None:
    run = as_if_measured(replay(random_trace(3, tokens=40), Settings("lru", 3)), COSTS)
    bound = replay(random_trace(3, tokens=40), Settings("belady", 3))
    misses = int(
        (
            bound.accesses.outcome[bound.passes.phase[bound.events.forward_pass[bound.accesses.event]] == 1]
            != HIT
        ).sum()
    )
    least = timing.bandwidth_bound_ms(run, misses)
    stack = timing.stack(run)
    assert least is not None
    assert stack is not None
    assert stack.compute + stack.other <= least <= stack.compute + stack.stall + stack.other

"""Numbers of a run, checked by hand on small ones."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
from conftest import make_trace, ragged_trace, random_trace
from hypothesis import given
from hypothesis import strategies as st

from moeviz.core.replay import replay
from moeviz.core.run import LATE, MISS, Run, Times
from moeviz.core.settings import Settings
from moeviz.numbers import metrics, timing


def timed(
    run: Run, wall: int = 10_000_000, stall: int = 500_000, compute: int = 200_000, copy: int = 300_000
) -> Run:
    """A replay as if it had been measured: every event and copy took the same."""
    events, loads, passes = len(run.events.forward_pass), len(run.loads.event), len(run.passes.phase)
    start = np.arange(loads, dtype=np.int64) * copy
    return replace(
        run,
        times=Times(
            event_start=np.arange(events, dtype=np.int64),
            event_stall=np.full(events, stall, np.int64),
            event_compute=np.full(events, compute, np.int64),
            load_start=start,
            load_end=start + copy,
            pass_wall=np.full(passes, wall, np.int64),
        ),
    )


def test_counts_by_phase() -> None:
    trace = random_trace(1, tokens=20, prompt=5)
    run = replay(trace, Settings(slots=3))
    whole, prefill, decode = (metrics.counts(run, phase) for phase in (None, 0, 1))
    assert decode.accesses == 15 * trace.layers * trace.k
    assert prefill.accesses + decode.accesses == whole.accesses
    assert whole.hits + whole.misses == whole.accesses
    assert whole.late_hits is None  # a replay cannot know


def test_late_hits_are_counted_apart() -> None:
    run = timed(replay(random_trace(1), Settings(slots=4)))
    outcome = run.accesses.outcome.copy()
    at = np.flatnonzero(outcome == 0)[:3]
    outcome[at] = LATE
    late = metrics.counts(replace(run, accesses=replace(run.accesses, outcome=outcome)))
    plain = metrics.counts(run)
    assert late.late_hits == 3
    assert late.hits == plain.hits - 3
    assert late.misses == plain.misses


def test_hit_ratio_over_time() -> None:
    run = replay(make_trace([[[0]], [[1]], [[0]], [[2]]]), Settings(slots=2))
    assert metrics.hit_ratio_over_time(run).tolist() == [0, 0, 1, 0]


def test_bytes_moved() -> None:
    trace = make_trace([[[0, 1], [0, 1]]] * 4, guess=[[[[-1, -1]], [[6, 7]]]] * 4)
    moved = metrics.bytes_moved(replay(trace, Settings(slots=2, prefetch="next-gate")))
    assert (moved.demand, moved.prefetch_useful, moved.prefetch_wasted) == (2_000 + 4 * 2_000, 0, 8_000)


def test_a_prefetch_that_was_called_off_moved_nothing() -> None:
    trace = make_trace([[[0, 1], [0, 1]]] * 4, guess=[[[[-1, -1]], [[6, 7]]]] * 4)
    run = timed(replay(trace, Settings(slots=2, prefetch="next-gate")))
    assert run.times is not None
    run.times.load_start[run.loads.speculative] = -1
    assert metrics.bytes_moved(run).prefetch_wasted == 0


def test_the_stack_adds_up_to_the_time_per_token() -> None:
    run = timed(replay(random_trace(2, layers=3), Settings(slots=3)))
    stack = timing.stack(run)
    assert stack is not None
    assert stack.compute == pytest.approx(3 * 0.2)
    assert stack.stall == pytest.approx(3 * 0.5)
    assert stack.compute + stack.stall + stack.other == pytest.approx(10)


def test_summary_of_a_measured_run() -> None:
    run = timed(replay(random_trace(2), Settings(slots=3)))
    times = metrics.summary(run).times
    assert times is not None
    assert times.tokens_per_second == pytest.approx(100)
    assert times.ttft_ms == times.tpot_ms_median == times.tpot_ms_p95 == pytest.approx(10)
    loads = (run.passes.phase[run.events.forward_pass[run.loads.event]] == 1).sum()
    assert times.transfer_ms_per_token == pytest.approx(0.3 * loads / (run.passes.phase == 1).sum())


def test_a_pass_brings_a_token_to_every_prompt_of_a_batch() -> None:
    run = timed(replay(random_trace(2), Settings(slots=3)))
    batch = replace(run, passes=replace(run.passes, tokens=run.passes.tokens * 3))
    times = metrics.summary(batch).times
    assert times is not None
    assert times.tokens_per_second == batch.tokens_per_second == pytest.approx(300)
    assert times.tpot_ms_median == pytest.approx(10)


def test_a_token_waits_for_its_slowest_expert() -> None:
    # layer 0 hits from the second token on, layer 1 misses expert 5 at the third
    trace = make_trace([[[0], [1]], [[0], [1]], [[0], [5]], [[0], [5]]])
    found = metrics.whole(replay(trace, Settings(slots=1)))
    assert (found.passes, found.whole_passes, found.events, found.whole_events) == (4, 2, 8, 5)
    assert (found.pass_ratio, found.event_ratio) == (0.5, 0.625)
    assert metrics.whole(replay(trace, Settings(slots=1)), phase=0).pass_ratio is None


def test_gap_captured() -> None:
    assert metrics.gap_captured(60, 50, 90) == 0.25
    assert metrics.gap_captured(50, 50, 50) is None


def test_one_by_one_an_expert_can_leave_for_another_of_its_own_event() -> None:
    """It is missed because of what this pass loaded, which is a collision and no lack of room."""
    trace = make_trace([[[0, 1]], [[2, 0]]])
    found = replay(trace, Settings(slots=2, rule="one-by-one"))
    assert found.loads.victim_expert.tolist() == [-1, -1, 0, 1]
    assert metrics.miss_kind_of_access(found).tolist() == [1, 1, 3, 1]


@given(seed=st.integers(0, 3_000))
def test_numbers_of_any_trace_add_up(seed: int) -> None:
    run = replay(trace := ragged_trace(seed), Settings(slots=trace.k, scope="model"))
    found, kinds = metrics.counts(run), metrics.miss_kinds(run)
    assert found.accesses == found.hits + found.misses == len(trace.events().expert)
    assert kinds.cold + kinds.capacity + kinds.collision + kinds.pollution == found.misses
    assert (metrics.residents_before(run) <= trace.k).all()
    assert metrics.bytes_moved(run).demand == run.layer_bytes[run.loads.layer].sum()
    assert metrics.summary(run).whole == found


@given(
    seed=st.integers(0, 3_000),
    prefetch=st.sampled_from(["none", "previous-token", "frequency"]),
    warm=st.sampled_from(["cold", "first"]),
    scope=st.sampled_from(["layer", "model"]),
    rule=st.sampled_from(["pinned", "one-by-one"]),
)
def test_why_an_expert_is_missed_as_a_walk_through_the_run_finds(
    seed: int, prefetch: str, warm: str, scope: str, rule: str
) -> None:
    trace = ragged_trace(seed)
    guesses = prefetch if trace.layers > 1 else "none"
    run = replay(trace, Settings(slots=trace.k, scope=scope, warm=warm, prefetch=guesses, rule=rule))
    passes, layers, loads = run.events.forward_pass, run.events.layer, run.loads
    row = {
        (event, layer, expert): number
        for number, (event, layer, expert, guess) in enumerate(
            zip(
                *(c.tolist() for c in (loads.event, loads.layer, loads.expert, loads.speculative)),
                strict=True,
            )
        )
        if not guess
    }
    loaded = set(zip(run.start.layer.tolist(), run.start.expert.tolist(), strict=True))
    left: dict[tuple[int, int], int] = {}  # the load that an expert left for last
    found = [0] * len(run.accesses.event)
    misses, done = [], 0
    for access in np.flatnonzero(run.accesses.outcome == MISS).tolist():
        event = int(run.accesses.event[access])
        key = int(layers[event]), int(run.accesses.expert[access])
        misses.append((row[event, *key], access, event, key))
    for own, access, event, key in sorted(misses):
        for load in range(done, own):
            loaded.add((int(loads.layer[load]), int(loads.expert[load])))
            left[int(loads.victim_layer[load]), int(loads.victim_expert[load])] = load
        done, by = own, left.get(key, -1)
        collision = by >= 0 and passes[loads.event[by]] == passes[event]
        wasted = by >= 0 and loads.speculative[by] and not loads.used[by]
        found[access] = 1 if key not in loaded else 4 if wasted else 3 if collision else 2
    assert metrics.miss_kind_of_access(run).tolist() == found

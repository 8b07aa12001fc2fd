"""Replay: what a trace says about guesses, baselines and fields that do not fit."""

import numpy as np
import pytest
from conftest import make_trace, random_trace, told
from hypothesis import given
from hypothesis import strategies as st

from moeviz.core.predictors import PREDICTORS
from moeviz.core.replay import replay
from moeviz.core.run import HIT, MISS
from moeviz.core.settings import BASELINES, Settings
from moeviz.errors import SettingsError


def test_perfect_guesses_leave_only_the_first_layer_to_miss() -> None:
    trace = random_trace(0, tokens=30, layers=3, prompt=1, lookaheads=1)
    guess = np.full((30, 3, 1, 2), -1, np.int16)
    guess[:, 1:, 0] = trace.experts[:, 1:]
    perfect = make_trace(trace.experts.tolist(), guess=guess, weights=trace.weights.tolist())
    run = replay(perfect, Settings(slots=4, prefetch="next-gate"))
    missed = run.events.layer[run.accesses.event[run.accesses.outcome == MISS]]
    assert set(missed.tolist()) <= {0}
    assert run.loads.used.all()


def test_wrong_guesses_are_wasted_and_counted_once() -> None:
    trace = make_trace([[[0, 1], [0, 1]]] * 4, guess=[[[[-1, -1]], [[6, 7]]]] * 4)
    run = replay(trace, Settings(slots=2, prefetch="next-gate"))
    assert int(run.loads.speculative.sum()) == 2 * 4
    assert not run.loads.used[run.loads.speculative].any()


@given(seed=st.integers(0, 10_000), lookahead=st.integers(1, 2), width=st.integers(0, 4))
def test_a_prefetch_is_useful_exactly_when_it_was_demanded_before_it_left(
    seed: int, lookahead: int, width: int
) -> None:
    run = replay(
        random_trace(seed, tokens=25),
        Settings(slots=3, prefetch="next-gate", lookahead=lookahead, width=width),
    )
    live: dict[tuple[int, int], int] = {}
    used = run.loads.used.tolist()
    found = [not speculative for speculative in run.loads.speculative.tolist()]
    number = 0
    for events in told(run):
        for event in events:
            for expert in event.hits:
                if (event.layer, expert) in live:
                    found[live.pop((event.layer, expert))] = True
            for layer, expert, _, victim_layer, victim, speculative in event.loads:
                live.pop((victim_layer, victim), None)
                if speculative:
                    live[layer, expert] = number
                number += 1
    assert found == used


def test_baselines() -> None:
    trace = random_trace(4)
    need = {name: replay(trace, Settings(baseline=name)) for name in BASELINES}
    assert (need["resident"].accesses.outcome == HIT).all()
    assert len(need["resident"].loads.event) == 0
    assert (need["on-demand"].accesses.outcome == MISS).all()
    assert len(need["on-demand"].loads.event) == len(need["on-demand"].accesses.event)
    assert len(need["whole-layer"].loads.event) == 8 * len(need["whole-layer"].events.forward_pass)


@pytest.mark.parametrize("prefetch", PREDICTORS)
def test_a_cache_between_the_baselines(prefetch: str) -> None:
    trace = random_trace(6)
    run = replay(trace, Settings(slots=4, prefetch=prefetch))
    assert 0 < (run.accesses.outcome == HIT).sum() < len(run.accesses.outcome)


def test_guesses_that_the_trace_lacks_are_refused() -> None:
    trace = random_trace(0, lookaheads=1)
    with pytest.raises(SettingsError, match="1 lookahead, not for 2"):
        replay(trace, Settings(prefetch="next-gate", lookahead=2))
    with pytest.raises(SettingsError, match="4 next-gate guesses per layer, not 5"):
        replay(trace, Settings(prefetch="next-gate", width=5))

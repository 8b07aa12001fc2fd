"""Repeats of one Settings: medians, spread, and the run in the middle."""

from __future__ import annotations

import pytest
from conftest import random_trace
from test_metrics import timed

from moeviz.core.replay import replay
from moeviz.core.settings import Settings
from moeviz.numbers import medians, timing


def test_repeats_give_medians_and_spread() -> None:
    run = replay(random_trace(2), Settings(slots=3))
    found = medians.repeated([timed(run, wall=wall) for wall in (20_000_000, 10_000_000, 40_000_000)])
    assert found.median.times is not None
    assert found.median.times.tokens_per_second == pytest.approx(50)
    assert found.least is not None
    assert found.least.tokens_per_second == pytest.approx(25)
    assert found.most is not None
    assert found.most.tokens_per_second == pytest.approx(100)
    assert medians.median_stack(
        [timed(run, wall=wall) for wall in (20_000_000, 10_000_000, 40_000_000)]
    ) == timing.stack(timed(run, wall=20_000_000))
    assert medians.repeated([run]).median.times is None


def test_of_an_even_number_of_repeats_stack_and_speed_are_of_the_mean_of_the_two_in_the_middle() -> None:
    run = replay(random_trace(2), Settings(slots=3))
    four = [timed(run, wall=wall) for wall in (90_000_000, 10_000_000, 30_000_000, 5_000_000)]
    stack, speed = medians.median_stack(four), medians.repeated(four).median.times
    assert stack is not None
    assert stack.compute + stack.stall + stack.other == pytest.approx(20)
    assert speed is not None
    assert speed.tokens_per_second == pytest.approx(50)
    assert medians.median_run(four) is four[1]  # one of them, which no mean is
    assert medians.median_stack([run, run]) is None

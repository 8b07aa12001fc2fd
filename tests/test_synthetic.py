"""Made-up traces do what their arguments say."""

from __future__ import annotations

import numpy as np
import pytest

from moeviz.core.synthetic import synthetic
from moeviz.errors import SettingsError
from moeviz.numbers import routing


def test_the_same_arguments_give_the_same_trace_and_another_seed_another() -> None:
    assert synthetic(30, seed=1).digest == synthetic(30, seed=1).digest != synthetic(30, seed=2).digest


def test_skew_gives_favourites() -> None:
    shares = [
        routing.top_share(routing.usage(synthetic(300, 4, 16, 2, skew=skew, reuse=0))).mean()
        for skew in (0.0, 1.0, 3.0)
    ]
    assert shares[0] == pytest.approx(0.3, abs=0.05)  # a quarter of alike experts, chosen after the fact
    assert shares[0] < shares[1] < shares[2]


def test_reuse_keeps_experts_of_the_last_token() -> None:
    found = [routing.reuse(synthetic(300, 4, 32, 2, skew=0, reuse=reuse)).mean() for reuse in (0.0, 0.5, 1.0)]
    assert found[0] == pytest.approx(2 / 32, abs=0.03)
    assert found[1] == pytest.approx(0.5 + 0.5 * 2 / 32, abs=0.05)
    assert found[2] == 1


def test_a_change_of_subject_brings_other_favourites() -> None:
    trace = synthetic(400, 3, 32, 2, skew=2, reuse=0, change=200)
    first, second = routing.usage(trace, tokens=slice(0, 200)), routing.usage(trace, tokens=slice(200, 400))
    same = routing.usage(synthetic(400, 3, 32, 2, skew=2, reuse=0), tokens=slice(200, 400))
    assert routing.similarity(first, second).mean() < 0.5 < routing.similarity(first, same).mean()


def test_weights_are_shares_strongest_first() -> None:
    weights = synthetic(20).weights
    assert weights is not None
    assert np.allclose(weights.sum(2), 1, atol=1e-5)
    assert (np.diff(weights, axis=2) <= 0).all()


@pytest.mark.parametrize("wrong", [{"reuse": 1.5}, {"skew": -1.0}, {"k": 40}, {"change": -1}])
def test_arguments_that_make_no_trace_are_refused(wrong: dict[str, float]) -> None:
    with pytest.raises(SettingsError, match=next(iter(wrong)) if "k" not in wrong else "40 of 32 experts"):
        synthetic(10, **wrong)  # type: ignore[arg-type]

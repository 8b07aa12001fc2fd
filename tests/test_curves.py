"""Curves against replays: the same hits at every slot count, for every policy and scope."""

from __future__ import annotations

import numpy as np
import pytest
from conftest import random_trace
from hypothesis import given, settings
from hypothesis import strategies as st

from moeviz.core.policies import POLICIES
from moeviz.core.replay import replay
from moeviz.core.run import HIT
from moeviz.core.settings import WARM, Settings
from moeviz.numbers.curves import curve, slot_counts


def check(trace: object, wanted: Settings, counts: list[int]) -> None:
    found = curve(trace, wanted, counts)  # type: ignore[arg-type]
    for number, slots in enumerate(counts):
        one = Settings(**{**wanted.to_dict(), "slots": slots})  # type: ignore[arg-type]
        run = replay(trace, one)  # type: ignore[arg-type]
        phase = run.passes.phase[run.events.forward_pass[run.accesses.event]]
        hit = run.accesses.outcome == HIT
        assert found.hits[number].tolist() == [int(hit[phase == p].sum()) for p in (0, 1)], (one.label, slots)
        assert found.accesses.tolist() == [int((phase == p).sum()) for p in (0, 1)]


@pytest.mark.parametrize("policy", POLICIES)
@pytest.mark.parametrize("scope", ["layer", "model"])
@settings(max_examples=12, deadline=None)
@given(
    seed=st.integers(0, 10_000),
    prompt=st.sampled_from([1, 6]),
    k=st.integers(1, 3),
    warm=st.sampled_from(list(WARM)),
)
def test_a_curve_is_the_replays(policy: str, scope: str, seed: int, prompt: int, k: int, warm: str) -> None:
    trace = random_trace(seed, tokens=30, prompt=prompt, k=k)
    counts = list(range(k, 9)) if scope == "layer" else [k, 2 * k + 1, 3 * k, 13, 24]
    check(
        trace,
        Settings(policy, counts[0], scope, warm=warm, calibration="itself", seed=seed, half_life=5),
        counts,
    )


def test_passes_of_several_tokens_in_the_middle_are_replayed() -> None:
    trace = random_trace(3, tokens=30, prompt=1)
    numbers = np.minimum(np.arange(30) // 2, 14).astype(np.int32)
    again = type(trace)(
        **{
            **{f: getattr(trace, f) for f in trace.__dataclass_fields__},
            "forward_pass": numbers,
            "phase": np.ones(30, np.uint8),
        }
    )
    check(again, Settings(), [2, 4, 8])


def test_slot_counts() -> None:
    trace = random_trace(0, k=2, layers=3)
    assert slot_counts(trace, "layer") == [2, 3, 4, 5, 6, 7, 8]
    counts = slot_counts(trace, "model", most=5)
    assert (counts[0], counts[-1], len(counts)) == (6, 24, 5)

"""The board's pictures against the residency that they picture."""

from __future__ import annotations

import numpy as np
import pytest
from conftest import random_trace
from hypothesis import given
from hypothesis import strategies as st

from moeviz.charts.board import EMPTY, HIT, MISS, PREFETCHED, RESIDENT, frames
from moeviz.core.cache import ExpertCache
from moeviz.core.oracle import knowledge
from moeviz.core.predictors import RouterGuess
from moeviz.core.replay import replay
from moeviz.core.settings import BASELINES, WARM, Settings


@given(
    seed=st.integers(0, 500),
    scope=st.sampled_from(["layer", "model"]),
    prefetch=st.sampled_from(["none", "next-gate", "frequency"]),
    warm=st.sampled_from(list(WARM)),
)
def test_frames_show_residency_before_each_event(seed: int, scope: str, prefetch: str, warm: str) -> None:
    trace = random_trace(seed, tokens=16, prompt=1)
    settings = Settings("lru", 5, scope, prefetch, warm=warm, calibration="itself")
    cache = ExpertCache(settings, trace.layers, trace.num_experts, trace.k, knowledge(settings, trace))
    for token, frame in enumerate(frames(replay(trace, settings))):
        cache.begin_pass(1, 1)
        for layer in range(trace.layers):
            residents, unused = set(cache.residents(layer)), set(cache.unused(layer))
            chosen = trace.experts[token, layer].tolist()
            for expert, state in enumerate(frame.state[layer].tolist()):
                if expert in chosen:
                    assert state == (HIT if expert in residents else MISS)
                elif expert in residents:
                    assert state == (PREFETCHED if expert in unused else RESIDENT)
                else:
                    assert state == EMPTY
            if scope == "layer":
                slots = frame.slots[layer]
                assert {int(e) for e in slots if e >= 0} == residents
            cache.demand(layer, [chosen], [trace.weights[token, layer].tolist()])
            routers = (
                RouterGuess([trace.guess[token, layer + 1, 0].tolist()]) if layer + 1 < trace.layers else None
            )
            cache.speculate(layer, routers)


@pytest.mark.parametrize("baseline", BASELINES)
def test_baselines_have_frames_too(baseline: str) -> None:
    trace = random_trace(2)
    pictures = frames(replay(trace, Settings(baseline=baseline)))
    assert len(pictures) == len(trace.passes())
    outcome = HIT if baseline == "resident" else MISS
    need = np.zeros_like(pictures[-1].state, bool)
    need[np.arange(trace.layers)[:, None], trace.experts[-1]] = True
    assert (pictures[-1].state[need] == outcome).all()

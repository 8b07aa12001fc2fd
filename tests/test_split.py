"""Dividing slots over layers: each layer's hits are those of a replay, and the division is the best where
curves are concave."""

from __future__ import annotations

from dataclasses import replace
from itertools import product

import numpy as np
import pytest
from conftest import random_trace

from moeviz.core.replay import replay
from moeviz.core.run import HIT
from moeviz.core.settings import Settings
from moeviz.core.trace import DECODE
from moeviz.errors import SettingsError
from moeviz.numbers import metrics
from moeviz.numbers.curves import hits_by
from moeviz.numbers.split import greedy, of_layers, split


@pytest.mark.parametrize("policy", ["lru", "lfu-resident", "random", "belady"])
@pytest.mark.parametrize("scope", ["layer", "model"])
@pytest.mark.parametrize("rule", ["pinned", "one-by-one", "batch:3"])
def test_hits_counted_apart_are_those_of_a_replay(policy: str, scope: str, rule: str) -> None:
    trace = random_trace(5, tokens=40, prompt=6)
    stretch = (np.arange(trace.tokens) * 4 // trace.tokens)[:, None]
    labels = stretch * trace.layers + np.arange(trace.layers)
    slots = 6 if scope == "layer" else 14
    settings = Settings(policy, slots, scope, rule=rule)
    found, accesses = hits_by(trace, settings, labels, [slots, slots + 1])
    run = replay(trace, settings)
    event = run.accesses.event
    first = np.cumsum(run.passes.tokens) - run.passes.tokens  # token of each pass
    label = labels[first[run.events.forward_pass[event]], run.events.layer[event]]
    assert accesses.tolist() == np.bincount(label, minlength=labels.max() + 1).tolist()
    hit = run.accesses.outcome == HIT
    assert found[0].tolist() == np.bincount(label[hit], minlength=labels.max() + 1).tolist()


def test_no_other_division_of_concave_curves_hits_more() -> None:
    trace = random_trace(3, layers=3, experts=5, k=1, tokens=60, prompt=1)
    settings = Settings("lru", 2)
    counts = np.arange(1, 6)
    hits, accesses = of_layers(trace, settings, counts)
    assert (np.diff(hits, 2, axis=0) <= 0).all(), "greedy is exact here"
    found = split(trace, settings)
    best = max(
        sum(int(hits[n - 1, layer]) for layer, n in enumerate(slots))
        for slots in product(counts.tolist(), repeat=3)
        if sum(slots) <= 6
    )
    assert (found.hits, sum(found.slots), found.equal) == (best, 6, (2, 2, 2))
    decode = metrics.counts(replay(trace, settings), DECODE)
    assert (found.equal_hits, found.accesses) == (decode.hits, decode.accesses)
    assert found.accesses == accesses.sum()


def test_greedy_looks_past_a_dip_and_counts_bytes() -> None:
    cliff = np.array([[0, 10], [0, 14], [60, 18]])  # the first layer hits nothing until everybody is there
    one = np.array([1, 1])
    assert greedy(cliff, np.arange(1, 4), one, 4).tolist() == [3, 1]
    assert greedy(cliff, np.arange(1, 4), one, 3).tolist() == [1, 2], "there is no room to pass the dip"
    assert greedy(cliff, np.arange(1, 4), np.array([20, 1]), 23).tolist() == [1, 3], "dear and worth less"


def test_only_layers_own_slots_can_be_divided() -> None:
    trace = random_trace(1)
    for settings in (Settings("lru", 6, "model"), Settings(baseline="resident")):
        with pytest.raises(SettingsError, match="Choose scope layer"):
            split(trace, settings)


def test_layers_of_differing_size_share_a_budget() -> None:
    trace = replace(random_trace(2), expert_bytes=(100, 300, 100))
    found = split(trace, Settings("lru", budget=2_000))
    assert found.equal == (6, 2, 6)
    assert sum(n * size for n, size in zip(found.slots, (100, 300, 100), strict=True)) <= 1_800
    assert found.gain >= 0

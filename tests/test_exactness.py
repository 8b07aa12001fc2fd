"""Lossless means transformers' own model."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest

from moeviz.core.settings import Settings
from moeviz.engine import exactness, measure
from moeviz.engine.loader import Loaded, load
from moeviz.engine.session import Options
from moeviz.engine.store import HostStore

GREEDY = Options(max_new_tokens=6, temperature=0.0, stop_at_end=False)
PROMPT = "How many experts?"
TinyModel = Callable[[str], Path]


@pytest.fixture(scope="module")
def model(tiny_model: TinyModel) -> Loaded:
    return load(tiny_model("mixtral"), tier="host", device="cpu")


@pytest.mark.parametrize("name", ["mixtral", "gpt_oss"])
@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
@pytest.mark.parametrize("temperature", [0.0, 0.8])
def test_a_run_gives_the_logits_of_transformers_own_model(
    name: str, dtype: str, temperature: float, tiny_model: TinyModel
) -> None:
    loaded = load(tiny_model(name), tier="host", device="cpu", dtype=dtype)
    options = Options(max_new_tokens=6, temperature=temperature, stop_at_end=False)
    with exactness.logits_seen(loaded) as seen:
        trace, _ = measure.record(loaded, PROMPT, Settings(slots=loaded.k), options)
    assert exactness.reference(loaded, trace) == seen
    assert len(seen) == 6


def test_an_engine_that_is_wrong_whatever_the_slots_is_not_lossless(model: Loaded) -> None:
    """Wrong weights in the slow tier give the same wrong tokens with every expert in a slot: only
    transformers can tell."""
    store = model.store
    assert isinstance(store, HostStore)
    kept = [store.record(0, expert).clone() for expert in range(8)]
    for view in store.layout.views(store.record(0, 0)).values():
        view.mul_(1.5)
    for expert in range(1, 8):
        store.record(0, expert).copy_(store.record(0, 0))
    with exactness.logits_seen(model) as seen:
        trace, run = measure.record(model, PROMPT, Settings(), GREEDY)
        _, resident = measure.record(model, PROMPT, measure.RESIDENT, GREEDY)
    for expert in range(8):
        store.record(0, expert).copy_(kept[expert])
    assert resident.output_ids == run.output_ids
    assert seen[:6] == seen[6:]
    assert exactness.reference(model, trace) != seen[:6]

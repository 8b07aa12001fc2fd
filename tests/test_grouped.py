"""One product for the experts of a layer: the same numbers but for rounding, and never called lossless."""

from __future__ import annotations

import re
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from accelerator import Double

from moeviz.core.replay import replay
from moeviz.core.settings import Settings
from moeviz.engine import exactness, measure
from moeviz.engine.loader import load
from moeviz.engine.session import Options
from moeviz.errors import ModelError

PROMPT = "How many experts?"
GREEDY = Options(max_new_tokens=4, temperature=0.0, stop_at_end=False, compute="grouped")


@pytest.mark.parametrize("name", ["mixtral", "gpt_oss"])  # the second has biases and transposed weights
def test_one_product_differs_by_rounding_alone_and_says_by_how_much(
    name: str, tiny_model: Callable[[str], Path]
) -> None:
    model = load(tiny_model(name), tier="host", device="cpu", dtype="float32")
    expected = measure.record(
        model, PROMPT, Settings(slots=model.k + 1), replace(GREEDY, compute="one-by-one")
    )[1]
    for settings in (
        Settings(slots=model.k + 1),  # the prompt in waves
        Settings(slots=8, prefetch="next-gate"),
        Settings(slots=12, scope="model"),
        Settings(baseline="whole-layer"),
    ):
        trace, run = measure.record(model, PROMPT, settings, GREEDY)
        assert run.output_ids == expected.output_ids, settings.label
        assert replay(trace, settings).same_decisions(run), settings.label
        assert trace.recorded["compute"] == "grouped, not lossless"
        said = exactness.grouped_difference(model, PROMPT, settings, GREEDY)
        found = re.search(r"by at most (\S+), where the largest is", said)
        assert found is not None
        assert float(found[1]) < 1e-4


def test_one_product_waits_for_its_slots(tiny_model: Callable[[str], Path]) -> None:
    model = load(tiny_model("mixtral"), tier="host", device="cpu", dtype="float32")
    settings = Settings(slots=3, prefetch="next-gate")
    expected = measure.record(model, PROMPT, settings, GREEDY)[0]
    double = Double()
    with double.computing():
        found = measure.record(replace(model, hardware=double), PROMPT, settings, GREEDY)[0]
    assert torch.equal(torch.from_numpy(found.weights), torch.from_numpy(expected.weights))


def test_another_way_of_computing_is_refused(tiny_model: Callable[[str], Path]) -> None:
    model = load(tiny_model("mixtral"), tier="host", device="cpu")
    with pytest.raises(ModelError, match=r"compute 'magic' is not known\. Choose one of one-by-one, grouped"):
        measure.record(model, PROMPT, Settings(), replace(GREEDY, compute="magic"))

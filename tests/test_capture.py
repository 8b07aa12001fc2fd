"""Capturing while somebody else's code runs the model: the same routing as the engine's."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from conftest import ARCHITECTURES
from transformers import AutoModelForCausalLM, AutoTokenizer

import moeviz
from moeviz.engine import measure
from moeviz.engine.loader import load
from moeviz.engine.session import Options
from moeviz.errors import ModelError

TinyModel = Callable[[str], Path]
PROMPT = "What do the routers choose?"


@pytest.mark.parametrize("name", ARCHITECTURES)
def test_it_sees_what_the_engine_sees(name: str, tiny_model: TinyModel) -> None:
    folder = tiny_model(name)
    tokenizer = AutoTokenizer.from_pretrained(folder)
    model = AutoModelForCausalLM.from_pretrained(
        folder, dtype=torch.float32, experts_implementation="eager"
    ).eval()
    with moeviz.capture(model, tokenizer) as captured:
        ids = tokenizer(PROMPT, return_tensors="pt")["input_ids"]
        model.generate(ids, max_new_tokens=6, min_new_tokens=6, do_sample=False)
    trace = captured.trace()
    expected, _ = measure.record(
        load(folder, device="cpu"), PROMPT, measure.RESIDENT, Options(6, 0.0, stop_at_end=False)
    )
    for field in ("experts", "token_ids", "phase", "forward_pass"):
        assert (getattr(trace, field) == getattr(expected, field)).all(), field
    assert trace.weights == pytest.approx(expected.weights, abs=1e-6)
    assert (trace.num_experts, trace.expert_bytes, trace.texts) == (
        expected.num_experts,
        expected.expert_bytes,
        expected.texts,
    )
    assert not model._forward_hooks
    assert not model._forward_pre_hooks


def test_what_cannot_be_captured_is_refused(tiny_model: TinyModel) -> None:
    llama = AutoModelForCausalLM.from_pretrained(tiny_model("llama"))
    with pytest.raises(ModelError, match="LlamaForCausalLM has no experts"), moeviz.capture(llama):
        pass
    model = AutoModelForCausalLM.from_pretrained(tiny_model("mixtral"), experts_implementation="eager")
    with moeviz.capture(model) as captured:
        with pytest.raises(ModelError, match="nothing was captured"):
            captured.trace()
        with pytest.raises(ModelError, match="a batch of 2"):
            model(input_ids=torch.ones((2, 3), dtype=torch.long))

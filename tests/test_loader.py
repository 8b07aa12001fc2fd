"""Where a model may be loaded to, and what it takes there."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest
import torch

from moeviz.core.settings import Settings
from moeviz.engine import measure
from moeviz.engine.loader import load
from moeviz.engine.session import Options
from moeviz.errors import ModelError


def test_a_device_that_computes_nothing_is_refused_in_words(tiny_model: Callable[[str], Path]) -> None:
    with pytest.raises(ModelError, match="device 'meta' computes nothing"):
        load(tiny_model("mixtral"), device="meta")


@pytest.mark.gpu
@pytest.mark.skipif(not torch.accelerator.is_available(), reason="no accelerator")
@pytest.mark.parametrize("tier", ["disk", "host"])
def test_an_accelerator_holds_the_dense_part_and_the_slots_and_no_layer_of_experts(
    tier: str,
) -> None:
    ones = torch.ones(8, 8, device=torch.accelerator.current_accelerator())
    (ones @ ones).sum().item()  # a library's workspace is no part of it
    torch.accelerator.empty_cache()
    before = torch.accelerator.memory_allocated()
    torch.accelerator.reset_peak_memory_stats()
    model = load(tier=tier, device="auto", dtype="float32")
    layout = model.store.layout
    dense = sum(p.nbytes for p in model.model.parameters() if p.device.type != "meta")
    measure.record(model, "hello", Settings(slots=2), Options(2, 0.0, stop_at_end=False))
    slots = layout.layers * 2 * layout.record_bytes
    trials = 4 * layout.expert_bytes  # two experts on which the way of computing is tried, and a copy's slot
    peak = torch.accelerator.max_memory_allocated() - before
    layer = layout.experts * layout.record_bytes
    assert peak <= dense + slots + trials + layer // 2  # what a short prompt computes is less

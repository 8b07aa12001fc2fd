"""Where a model may be loaded to, and what it takes there."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path

import numpy as np
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


def test_what_a_checkpoint_would_generate_in_another_way_is_said_and_left_out(
    tiny_model: Callable[[str], Path], tmp_path: Path
) -> None:
    """Beams and drafts would be other passes than those that a run shows."""
    folder = tmp_path / "beams"
    shutil.copytree(tiny_model("mixtral"), folder)
    asked = {"num_beams": 4, "prompt_lookup_num_tokens": 3, "use_mtp": True, "top_p": 1.0, "top_k": 20}
    (folder / "generation_config.json").write_text(json.dumps(asked))
    found, traces = [], []
    for one in (tiny_model("mixtral"), folder):
        model = load(one, tier="host", device="cpu")
        found.append(model.notes)
        options = Options(5, 0.0, stop_at_end=False)
        traces.append(measure.record(model, "Which beam?", Settings(slots=3), options)[0])
    assert not any("generation_config" in note for note in found[0])
    (note,) = set(found[1]) - set(found[0])
    assert "num_beams 4, prompt_lookup_num_tokens 3, use_mtp True, top_k 20 of generation_config" in note
    assert np.array_equal(traces[0].token_ids, traces[1].token_ids)
    assert traces[1].passes()[1:] == traces[0].passes()[1:]


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

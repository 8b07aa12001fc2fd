"""Experts reach the slow tier by way of the host, one layer at a time, whatever the model's device."""

from __future__ import annotations

import weakref
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path

import pytest
import torch
from accelerate.utils.offload import OffloadedWeightsLoader, PrefixedDataset
from safetensors.torch import save_file

from moeviz.core.settings import Settings
from moeviz.engine import loader, measure
from moeviz.engine.loader import load
from moeviz.engine.session import Options
from moeviz.engine.store import HostStore, Layout, write_file
from moeviz.errors import ModelError

LAYOUT = Layout(3, 4, torch.float32, {"up_proj": (8, 8)})


def test_experts_are_read_on_the_host_though_the_model_is_elsewhere(tmp_path: Path) -> None:
    file = tmp_path / "model.safetensors"
    save_file({"layer.up_proj": torch.ones(4, 8, 8)}, file)
    index = {"layer.up_proj": {"safetensors_file": str(file), "weight_name": "layer.up_proj"}}
    everything = OffloadedWeightsLoader(index=index, device="cuda:7")
    weights = {"layer": loader._on_host(PrefixedDataset(everything, "layer."))}
    layout = Layout(1, 4, torch.float32, {"up_proj": (8, 8)})
    (tensors,) = loader._layers_of(weights, layout, lambda share: None)
    assert tensors["up_proj"].device.type == "cpu"


class _Fresh(Mapping[str, torch.Tensor]):
    """Tensors made when they are asked for, which must not stay when the next are."""

    alive: weakref.ref[torch.Tensor] | None = None

    def __getitem__(self, name: str) -> torch.Tensor:
        assert _Fresh.alive is None or _Fresh.alive() is None, "the layer before is still held"
        tensor = torch.ones(4, 8, 8)
        _Fresh.alive = weakref.ref(tensor)
        return tensor

    def __iter__(self) -> Iterator[str]:
        return iter(("up_proj",))

    def __len__(self) -> int:
        return 1


@pytest.mark.parametrize("kind", ["host", "disk"])
def test_a_layer_is_let_go_before_the_next_is_read(kind: str, tmp_path: Path) -> None:
    layers = loader._layers_of({str(n): _Fresh() for n in range(3)}, LAYOUT, lambda share: None)
    if kind == "host":
        HostStore(LAYOUT, layers, lambda size: torch.empty(size, dtype=torch.uint8))
    else:
        write_file(LAYOUT, layers, tmp_path / "file.experts")
    assert _Fresh.alive is not None
    assert _Fresh.alive() is None


def test_a_device_that_computes_nothing_is_refused_in_words(tiny_model: Callable[[str], Path]) -> None:
    with pytest.raises(ModelError, match="device 'meta' computes nothing"):
        load(tiny_model("mixtral"), device="meta")


def test_what_safetensors_refuses_is_one_message(
    tiny_model: Callable[[str], Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    class SafetensorError(Exception):
        pass

    def refuse(*args: object) -> Iterator[object]:
        raise SafetensorError("device abacus is invalid")
        yield  # a generator, as that which it replaces

    monkeypatch.setattr(loader, "_layers_of", refuse)
    with pytest.raises(ModelError, match="cannot be loaded: device abacus is invalid"):
        load(tiny_model("mixtral"), tier="host", device="cpu")


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

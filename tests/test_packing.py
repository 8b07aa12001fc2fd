"""Experts that the slow tier keeps packed: the checkpoint's own, to the bits of transformers; rounded ones,
lossy and said so.
"""

from __future__ import annotations

import sys
from collections.abc import Callable
from pathlib import Path

import pytest
import tiny_models
import torch
from transformers.integrations.finegrained_fp8 import Fp8Dequantize
from transformers.integrations.mxfp4 import convert_moe_packed_tensors

from moeviz import words
from moeviz.core.replay import replay
from moeviz.core.settings import Settings
from moeviz.core.trace import Trace
from moeviz.engine import exactness, filling, measure, unpacking
from moeviz.engine.aligned import aligned
from moeviz.engine.layout import Row
from moeviz.engine.loader import load
from moeviz.engine.packing import Rounded, as_stored
from moeviz.engine.session import Options
from moeviz.engine.sources import same_bits
from moeviz.errors import ModelError
from moeviz.files import headers
from moeviz.numbers import metrics
from moeviz.numbers.sizes import sizes

PROMPT = "How many experts does this prompt need at once?"
GREEDY = Options(max_new_tokens=5, temperature=0.0, stop_at_end=False)
PACKED: dict[str, Callable[[Path], Path]] = {
    "gpt-oss in mxfp4": tiny_models.save_mxfp4,
    "Qwen3 in fp8": lambda folder: tiny_models.save_fp8("qwen3_moe", folder),
    "DeepSeek-V3 in fp8": lambda folder: tiny_models.save_fp8("deepseek_v3", folder),
}


@pytest.fixture(autouse=True)
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A slow tier of each test's own."""
    monkeypatch.setenv("MOEVIZ_CACHE", str(tmp_path / "cache"))
    return tmp_path / "cache" / "experts"


@pytest.mark.parametrize("name", PACKED)
def test_a_packed_checkpoint_stays_packed_and_runs_to_the_bits_of_transformers(
    name: str, tmp_path: Path, cache: Path
) -> None:
    folder = PACKED[name](tmp_path / "model")
    settings = Settings(slots=3, prefetch="next-gate")
    for dtype, tier in (("float32", "disk"), ("bfloat16", "disk"), ("bfloat16", "host")):
        loaded = load(folder, device="cpu", dtype=dtype, tier=tier)
        layout = loaded.store.layout
        with exactness.logits_seen(loaded) as logits:
            trace, run = measure.record(loaded, PROMPT, settings, GREEDY)
        assert logits == exactness.reference(loaded, trace), (dtype, tier)
        assert (trace.expert_bytes, trace.link_bytes) == (layout.expert_bytes, layout.link_bytes)
        assert layout.packing is not None
        assert layout.packing._fast, "the quick way of unpacking is not taken"
        assert 1.5 * layout.link_bytes < layout.expert_bytes, "nothing is gained"
        (planned,) = {layer.moved for layer in sizes(headers.read(str(folder)), dtype).layers}
        assert planned == layout.link_bytes
        assert 0 < loaded.tier.unpack_ms < loaded.tier.latency_ms, "unpacking is part of what a copy takes"
        assert "--experts unpacked" in loaded.notes[-1]
        again = replay(trace, settings)
        assert again.same_decisions(run)
        assert metrics.bytes_moved(again).total == len(run.loads.layer) * layout.link_bytes
        loaded.store.close()
    assert len(list(cache.glob("*.experts"))) == 1, "the packed bytes are the same for every dtype"
    loaded = load(folder, device="cpu", dtype="bfloat16", experts="unpacked")
    with exactness.logits_seen(loaded) as unpacked:
        trace, _ = measure.record(loaded, PROMPT, settings, GREEDY)
    assert unpacked == logits
    assert loaded.store.layout.packing is None
    assert (trace.link_bytes, loaded.tier.unpack_ms, loaded.rounding) == (0, 0, "")
    assert sizes(headers.read(str(folder)), "bfloat16", "unpacked").mean_moved == trace.expert_bytes
    loaded.store.close()


@pytest.mark.parametrize("name", ["gpt-oss in mxfp4", "mixtral"])
def test_experts_are_written_once_and_nothing_beside_them(
    name: str, tmp_path: Path, cache: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = PACKED.get(name, lambda folder: tiny_models.save(name, folder))(tmp_path / "model")
    seen: list[str] = []
    monkeypatch.setattr(filling, "make_room", lambda size, path: seen.extend(p.name for p in cache.iterdir()))
    load(folder, device="cpu").store.close()
    assert [name.partition(".")[2] for name in seen] == ["lock"], "something is written before there is room"
    monkeypatch.setattr(filling, "write_file", None)
    load(folder, device="cpu").store.close()
    assert sorted(path.suffix for path in cache.iterdir()) == [".experts", ".lock"]


def test_layers_that_are_quantised_differently_are_kept_unpacked(tmp_path: Path) -> None:
    folder = tiny_models.save_fp8("qwen3_moe", tmp_path / "model", but="layers.0.")
    loaded = load(folder, device="cpu")
    assert loaded.store.layout.packing is None
    with exactness.logits_seen(loaded) as logits:
        trace, _ = measure.record(loaded, PROMPT, Settings(slots=3), GREEDY)
    assert logits == exactness.reference(loaded, trace)
    assert trace.link_bytes == 0
    planned = sizes(headers.read(str(folder)), str(loaded.dtype).removeprefix("torch."))
    assert (planned.mean_moved, planned.kept) == (trace.expert_bytes, "")
    assert any("not in the same way in all layers" in note for note in planned.notes)


def test_experts_that_cannot_be_unpacked_alone_are_kept_unpacked(tmp_path: Path) -> None:
    folder = tiny_models.save_fp8("qwen3_moe", tmp_path / "model")
    loaded = load(folder, device="cpu")
    packing = loaded.store.layout.packing
    assert packing is not None

    class Tied:
        """A layer whose experts are all needed for one."""

        quantised, form, one_by_one = True, (), lambda self: False

    assert as_stored([Tied()], loaded.store.layout, loaded.model.config) is None


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16])
def test_every_byte_under_every_scale_is_unpacked_to_the_bits_of_transformers(dtype: torch.dtype) -> None:
    blocks = torch.arange(256).byte().view(1, 1, 16, 16).expand(1, 256, 16, 16).contiguous()
    scales = torch.arange(256).byte().view(1, 256, 1).expand(1, 256, 16).contiguous()
    out = torch.empty(512, 256, dtype=dtype)
    unpacking.mxfp4(blocks[0], scales[0], out)
    assert same_bits(out, convert_moe_packed_tensors(blocks, scales, dtype=dtype)[0])

    values = torch.arange(256).byte().repeat(64, 1).view(torch.float8_e4m3fn)
    factors = 10 ** torch.linspace(-42, 34, 8 * 16).view(8, 16)
    out = torch.empty(64, 256, dtype=dtype)
    unpacking.fp8(values, factors, out)
    assert same_bits(out, Fp8Dequantize(None)._dequantize_one(values, factors, dtype))


# rounded


def test_rounding_is_lossy_and_says_so_and_by_how_much(tmp_path: Path) -> None:
    pytest.importorskip("torchao")
    folder = tiny_models.save("mixtral", tmp_path / "model")
    apart = {}
    for experts in ("int8", "int4"):
        loaded = load(folder, device="cpu", dtype="float32", experts=experts)
        assert loaded.store.layout.link_bytes < loaded.store.layout.expert_bytes / (
            3 if experts == "int8" else 5
        )
        trace, run = measure.record(loaded, PROMPT, Settings(slots=3), GREEDY)
        trace.save(tmp_path / "t.moetrace", run)
        assert Trace.load(tmp_path / "t.moetrace").notes == (words.rounded(experts),)
        assert "rounded to" in exactness.not_verifiable(loaded)
        found = exactness.lossy(loaded, trace)
        assert experts in words.lossy(found)
        assert found.tokens == trace.tokens
        apart[experts] = found
        loaded.store.close()
    assert 0 < apart["int8"].mean < apart["int4"].mean < apart["int4"].spread
    assert apart["int8"].rerouted <= apart["int4"].rerouted


@pytest.mark.parametrize("transposed", [False, True])
@pytest.mark.parametrize(("bits", "steps"), [(8, 127), (4, 7)])
def test_a_rounded_weight_is_off_by_at_most_half_a_step(bits: int, steps: int, transposed: bool) -> None:
    pytest.importorskip("torchao")
    shapes = {"up_proj": (12, 96), "up_proj_bias": (5,)}
    if transposed:
        shapes["up_proj"] = (96, 12)
    expert = {name: torch.randn(shape) for name, shape in shapes.items()}
    packing = Rounded(bits, shapes, torch.float32, transposed)
    row = Row(packing.tensors)
    record = aligned(1, row.bytes)[0]
    held = row.views(record)
    for name, tensor in packing.pack(expert).items():
        held[name].copy_(tensor)
    back = packing.unpack(held)
    assert torch.equal(back["up_proj_bias"], expert["up_proj_bias"])
    weights, rounded = expert["up_proj"], back["up_proj"]
    if transposed:
        weights, rounded = weights.T, rounded.T
    groups = weights.reshape(12, 1 if bits == 8 else 3, -1)
    most = groups.abs().amax(-1, keepdim=True) / steps / 2
    assert ((rounded.reshape(groups.shape) - groups).abs() <= most * 1.001).all()
    assert not torch.equal(weights, rounded)


@pytest.mark.parametrize("name", ["gpt_oss", "gpt-oss in mxfp4", "Qwen3 in fp8", "granitemoe"])
def test_a_plan_knows_the_bytes_of_rounded_experts(name: str, tmp_path: Path) -> None:
    pytest.importorskip("torchao")
    folder = PACKED.get(name, lambda folder: tiny_models.save(name, folder))(tmp_path / "model")
    for experts in ("int8", "int4"):
        layout = load(folder, device="cpu", dtype="float32", tier="host", experts=experts).store.layout
        planned = sizes(headers.read(str(folder)), "float32", experts)
        assert (planned.mean_moved, planned.kept) == (layout.link_bytes, experts)


def test_a_rounding_that_is_not_there_is_told(monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(
        ModelError, match=r"experts 'int3' is not known\. Choose one of lossless, unpacked, int8"
    ):
        load(experts="int3")
    monkeypatch.setitem(sys.modules, "torchao", None)
    monkeypatch.setitem(sys.modules, "torchao.quantization", None)
    with pytest.raises(ModelError, match="needs the package torchao"):
        Rounded(8, {}, torch.float32, False)

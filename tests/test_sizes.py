"""Bytes of a model told from headers are those that the loaded model has."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from moeviz.errors import ModelError
from moeviz.files.headers import read
from moeviz.numbers.sizes import Headers, ModelSize, Tensor, checkpoint_dtype, sizes

BUNDLED = Path(__file__).parent.parent / "moeviz" / "demo_model"
TEXT = {"num_hidden_layers": 2, "num_experts_per_tok": 2}


def of(
    config: dict[str, Any], tensors: dict[str, tuple[str, tuple[int, ...]]], dtype: str = "bfloat16"
) -> ModelSize:
    return sizes(Headers(config, {name: Tensor(*about) for name, about in tensors.items()}), dtype)


@pytest.mark.parametrize("name", ["mixtral", "qwen2_moe", "gpt_oss", "granitemoe", "deepseek_v3", "phimoe"])
def test_sizes_are_those_of_transformers_model(name: str, tiny_model: Callable[[str], Path]) -> None:
    import torch
    import transformers

    folder = tiny_model(name)
    found = sizes(read(str(folder)), "float32")
    model = transformers.AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32)
    modules = [m for m in model.modules() if hasattr(m, "_is_expert_parallel") and hasattr(m, "has_gate")]
    experts = [sum(p.numel() * 4 for p in module.parameters()) for module in modules]
    kept = {
        tensor.data_ptr(): tensor.numel() * 4 for tensor in model.state_dict().values()
    }  # a tied one once
    assert [layer.experts * layer.unpacked for layer in found.layers] == experts
    assert found.dense == sum(kept.values()) - sum(experts)
    assert {layer.experts for layer in found.layers} == {8}
    assert found.all_unpacked == sum(kept.values())
    with torch.no_grad():
        cache = model(torch.arange(20)[None], use_cache=True).past_key_values
    states = [one for layer in cache.layers for one in (layer.keys, layer.values)]
    assert found.cache_bytes(20) == sum(one.numel() * 4 for one in states)


def test_the_bundled_model_is_known_to_the_byte() -> None:
    found = sizes(read(str(BUNDLED)), "float32")
    assert (len(found.layers), found.num_experts, found.k) == (8, 8, 2)
    expert = 3 * 384 * 256
    assert {(one.packed, one.unpacked, one.moved) for one in found.layers} == {
        (expert * 2, expert * 4, expert * 4)
    }
    file = BUNDLED / "model.safetensors"
    header = int.from_bytes(file.read_bytes()[:8], "little") + 8
    assert found.all_packed == file.stat().st_size - header
    assert found.all_unpacked == 2 * found.all_packed
    assert (
        found.cache_bytes(2_048) == 2_048 * 8 * 2 * 2 * 64 * 4
    )  # tokens, layers, keys and values, heads, wide


def test_mxfp4_is_four_bits_packed_and_so_it_moves() -> None:
    tensors = {
        f"model.layers.{layer}.mlp.experts.{name}": about
        for layer in range(2)
        for name, about in {
            "gate_up_proj_blocks": ("U8", (4, 128, 2, 16)),
            "gate_up_proj_scales": ("U8", (4, 128, 2)),
            "gate_up_proj_bias": ("BF16", (4, 128)),
        }.items()
    }
    found = of(TEXT | {"quantization_config": {"quant_method": "mxfp4"}}, tensors)
    layer = found.layers[0]
    assert layer.packed == 128 * 2 * 16 + 128 * 2 + 128 * 2
    assert layer.unpacked == 2 * (128 * 64 + 128)
    assert layer.moved == layer.packed
    (note,) = (note for note in found.notes if "quantised (mxfp4)" in note)
    assert "a slot unpacks them" in note


def test_fp8_drops_its_scales_and_its_dense_part_is_unpacked_too() -> None:
    tensors = {
        f"model.layers.1.mlp.experts.{expert}.up_proj.{name}": about
        for expert in range(3)
        for name, about in {
            "weight": ("F8_E4M3", (256, 128)),
            "weight_scale_inv": ("F32", (2, 1)),
        }.items()
    }
    tensors |= {
        "model.layers.0.self_attn.k_proj.weight": ("F8_E4M3", (64, 128)),
        "model.layers.0.self_attn.k_proj.weight_scale_inv": ("F32", (1, 1)),
    }
    found = of(TEXT | {"quantization_config": {"quant_method": "fp8"}}, tensors)
    (layer,) = found.layers
    assert (layer.layer, layer.experts) == (1, 3)
    assert (layer.packed, layer.unpacked) == (256 * 128 + 8, 2 * 256 * 128)
    assert (found.dense_packed, found.dense) == (64 * 128 + 4, 2 * 64 * 128)


def test_layers_that_predict_further_tokens_and_a_tied_output_are_not_counted_and_said() -> None:
    plain = {
        "model.embed_tokens.weight": ("BF16", (10, 4)),
        "model.layers.0.mlp.experts.0.up_proj.weight": ("BF16", (8, 4)),
        "model.layers.0.mlp.experts.1.up_proj.weight": ("BF16", (8, 4)),
        "visual.layers.7.mlp.weight": ("BF16", (3, 3)),  # a tower of its own, with more layers
    }
    more = {
        "lm_head.weight": ("BF16", (10, 4)),
        "model.layers.2.mlp.experts.0.up_proj.weight": ("BF16", (8, 4)),
        "mtp.fc.weight": ("BF16", (8, 8)),
    }
    config = TEXT | {"tie_word_embeddings": True}
    few, many = of(config, plain), of(config, plain | more)
    assert (many.dense, many.layers) == (few.dense, few.layers)
    assert few.dense == 2 * (40 + 9)
    assert any("predict further tokens" in note for note in many.notes)
    assert any("tie_word_embeddings" in note for note in many.notes)


def test_shared_experts_are_dense_and_layers_may_differ_in_size() -> None:
    found = of(
        {"text_config": TEXT},
        {
            "model.layers.0.mlp.shared_experts.up_proj.weight": ("BF16", (5, 2)),
            "model.layers.0.mlp.experts.0.up_proj.weight": ("BF16", (8, 4)),
            "model.layers.1.mlp.experts.0.up_proj.weight": ("BF16", (6, 4)),
            "model.layers.1.mlp.experts.1.up_proj.weight": ("BF16", (6, 4)),
        },
    )
    assert found.dense == 20
    assert [(one.layer, one.experts, one.unpacked) for one in found.layers] == [(0, 1, 64), (1, 2, 48)]
    assert found.slot_bytes(2) == 64 + 2 * 48  # the first layer has no use for a second slot


@pytest.mark.parametrize(
    ("config", "kept"),
    [  # keys and values are 2 x 2 heads x 8 wide where only the configuration says so
        ({"num_attention_heads": 4, "num_key_value_heads": 2, "hidden_size": 32}, 2 * 100 * 32),
        (
            {
                "num_attention_heads": 4,
                "num_key_value_heads": 2,
                "head_dim": 8,
                "sliding_window": 10,
                "layer_types": ["sliding_attention", "full_attention"],
            },
            (10 + 100) * 32,
        ),
        (
            {"num_attention_heads": 2, "head_dim": 8, "sliding_window": 10, "use_sliding_window": False},
            2 * 100 * 32,
        ),
        ({"kv_lora_rank": 16, "qk_rope_head_dim": 4}, 2 * 100 * 20),
    ],
)
def test_keys_and_values_by_configuration(config: dict[str, Any], kept: int) -> None:
    expert = {"model.layers.0.mlp.experts.0.up_proj.weight": ("BF16", (8, 4))}
    assert of(TEXT | config, expert).cache_bytes(100) == kept * 2


def test_what_attention_keeps_is_left_out_and_said_where_nothing_tells() -> None:
    found = of(TEXT, {"model.layers.0.mlp.experts.0.up_proj.weight": ("BF16", (8, 4))})
    assert found.cache_bytes(100) is None
    assert any("keys and values are not counted" in note for note in found.notes)


EXPERT = "model.layers.0.mlp.experts."


@pytest.mark.parametrize(
    ("config", "tensors", "words"),
    [
        (TEXT, {"model.layers.0.mlp.up_proj.weight": ("BF16", (8, 4))}, "No experts were found"),
        ({}, {EXPERT + "0.w1.weight": ("BF16", (8, 4))}, "does not say how many experts a token uses"),
        (
            TEXT | {"quantization_config": {"quant_method": "gptq"}},
            {EXPERT + "0.w1.qweight": ("I32", (8, 4))},
            "quantised as gptq, which moeviz does not unpack",
        ),
        (TEXT, {EXPERT + "0.w1.weight": ("U8", (8, 4))}, "names no quantisation"),
        (
            TEXT,
            {EXPERT + "0.w1.weight": ("BF16", (8, 4)), EXPERT + "2.w1.weight": ("BF16", (8, 4))},
            "not all there",
        ),
        (
            TEXT,
            {EXPERT + "0.w1.weight": ("BF16", (8, 4)), EXPERT + "1.w1.weight": ("BF16", (9, 4))},
            "not all of one size",
        ),
        (
            TEXT,
            {
                EXPERT + "gate_up_proj": ("BF16", (4, 8, 4)),
                EXPERT + "down_proj": ("BF16", (4, 4, 8)),
                EXPERT + "bias": ("BF16", (7,)),
            },
            r"bias has the shape \[7\]",
        ),
    ],
)
def test_what_cannot_be_told_is_refused_by_name(config: Any, tensors: Any, words: str) -> None:
    with pytest.raises(ModelError, match=words):
        of(config, tensors)


@pytest.mark.parametrize(
    ("config", "dtype"),
    [
        ({"dtype": "float16"}, "float16"),
        ({"torch_dtype": "torch.float32"}, "float32"),
        ({"text_config": {"dtype": "float32"}, "dtype": "float16"}, "float32"),
        ({"dtype": "float8"}, "bfloat16"),
        ({}, "bfloat16"),
    ],
)
def test_the_dtype_of_a_checkpoint(config: dict[str, Any], dtype: str) -> None:
    assert checkpoint_dtype(config) == dtype


def test_square_matrices_that_stand_the_other_way_round_are_rounded_along_their_inputs() -> None:
    tensors = {
        "model.layers.0.mlp.experts.gate_up_proj": Tensor("BF16", (4, 64, 128)),  # inputs first, as GPT-OSS
        "model.layers.0.mlp.experts.down_proj": Tensor("BF16", (4, 64, 64)),
        "model.layers.0.mlp.router.weight": Tensor("BF16", (4, 64)),
    }
    config = {"num_hidden_layers": 1, "num_experts_per_tok": 2, "hidden_size": 64}
    found = sizes(Headers(config, tensors), "bfloat16", "int8")
    assert found.matrices == ((128, 64), (64, 64))
    assert found.layers[0].moved == 192 * 64 + 4 * (128 + 64)  # a scale for each output

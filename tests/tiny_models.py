"""Tiny random models of every MoE type that the installed transformers serves through its experts interface.

The types are discovered, so that a new release of transformers brings its new models into the tests by
itself. A configuration starts from the type's own defaults and is shrunk by the names of its fields; what a
type needs beside that stands in NEEDS.
"""

from __future__ import annotations

import json
import re
import textwrap
from collections.abc import Callable
from functools import cache
from pathlib import Path
from typing import Any

import torch
import transformers
from safetensors.torch import load_file, save_file
from tokenizers import Tokenizer, models, pre_tokenizers
from transformers import AutoConfig, AutoModelForCausalLM, AutoModelForMultimodalLM
from transformers.models.auto import configuration_auto, modeling_auto

from moeviz.engine.kinds import text_part
from moeviz.engine.sources import own

LAYERS, EXPERTS, K = 4, 8, 3
HIDDEN = 32

# What a field of this name becomes, wherever it stands. Only fields that a type has are set.
SIZES: dict[str, Any] = {
    **dict.fromkeys(("vocab_size", "vocab_size_per_layer_input", "unpadded_vocab_size"), 128),
    **dict.fromkeys(
        ("hidden_size", "d_model", "moe_hidden_size", "out_hidden_size", "text_hidden_size"), HIDDEN
    ),
    **dict.fromkeys(
        ("output_dim", "projector_hidden_size", "adapter_out_dim", "thinker_hidden_size"), HIDDEN
    ),
    **dict.fromkeys(("intermediate_size", "dense_intermediate_size", "encoder_ffn_dim", "mlp_dim"), 48),
    **dict.fromkeys(
        ("moe_intermediate_size", "shared_intermediate_size", "shared_expert_intermediate_size"), 24
    ),
    **dict.fromkeys(("shared_experts_intermediate_size", "moe_shared_expert_intermediate_size"), 24),
    **dict.fromkeys(("num_hidden_layers", "depth", "encoder_layers", "n_layers"), LAYERS),
    **dict.fromkeys(
        ("num_attention_heads", "num_heads", "encoder_attention_heads", "swa_num_attention_heads"), 4
    ),
    **dict.fromkeys(("index_n_heads", "linear_num_heads", "linear_num_value_heads", "mamba_num_heads"), 4),
    **dict.fromkeys(("num_key_value_heads", "swa_num_key_value_heads", "linear_num_key_heads"), 2),
    **dict.fromkeys(("head_dim", "swa_head_dim", "linear_head_dim", "linear_key_head_dim"), 8),
    **dict.fromkeys(("linear_value_head_dim", "mamba_head_dim", "qk_nope_head_dim", "qk_rope_head_dim"), 8),
    **dict.fromkeys(("v_head_dim", "rotary_dim", "mamba_d_state", "ssm_state_size", "gated_norm_rank"), 8),
    **dict.fromkeys(("qk_head_dim", "index_head_dim", "kv_lora_rank", "q_lora_rank", "o_lora_rank"), 16),
    **dict.fromkeys(("d_rel", "router_hidden_size", "hc_lowrank", "hidden_size_per_layer_input"), 16),
    **dict.fromkeys(("max_position_embeddings", "model_max_length"), 256),
    **dict.fromkeys(
        ("sliding_window", "sliding_window_size", "block_size", "mamba_chunk_size", "chunk_size"), 16
    ),
    **dict.fromkeys(("num_experts", "num_local_experts", "n_routed_experts", "moe_num_experts"), EXPERTS),
    **dict.fromkeys(
        ("num_experts_per_tok", "num_experts_per_token", "moe_topk", "top_k_experts", "moe_k"), K
    ),
    **dict.fromkeys(("n_group", "num_expert_group", "o_groups", "n_groups"), 2),
    **dict.fromkeys(("topk_group", "first_k_dense_replace", "num_dense_layers", "n_shared_experts"), 1),
    **dict.fromkeys(("num_shared_experts", "moe_num_shared_experts", "mamba_n_groups"), 1),
    **dict.fromkeys(("image_size", "window_size", "num_position_embeddings", "max_source_positions"), 16),
    **dict.fromkeys(("patch_size",), 8),
    **dict.fromkeys(("bos_token_id", "eos_token_id", "pad_token_id"), None),
    "index_topk": 8,
}
"""Ids of special tokens must be within the vocabulary, below which the prompt's stand."""
PACKAGES = {
    "inkling_mm_model": "scipy"
}  # what transformers' code of a type imports beside its own requirements

GEMMA = {"enable_moe_block": True, "num_experts": EXPERTS, "top_k_experts": K, "moe_intermediate_size": 24}
QWEN4 = {"indexer_n_heads": 4, "indexer_kv_heads": 1, "indexer_head_dim": 16, "indexer_budget": 16}
QWEN4 |= {"indexer_compress_ratio": 4}
DOTS3: dict[str, Any] = {"swa_num_attention_heads": 4, "swa_num_key_value_heads": 4}
DOTS3 |= {"swa_q_lora_rank": 16, "swa_kv_lora_rank": 16, "swa_head_dim": 16, "swa_qk_nope_head_dim": 8}
DOTS3 |= {"swa_v_head_dim": 8}
SAM = {"output_channels": 16, "downsample_channels": [16, 16], "mlp_dim": 48}
NEEDS: dict[str, dict[str, Any]] = {
    "dbrx": {"attn_config": {"rope_theta": 1e4}},
    "doge": {"is_moe": True},
    "step3p7": {"text_config": {"pad_token_id": 0}, "pad_token_id": 0},
    "bailing_hybrid": {"layer_group_size": 2},
    "deepseek_ocr2": {
        "text_config": {"num_experts_per_tok": K, "mlp_layer_types": ["dense", "sparse", "sparse", "sparse"]},
        "vision_config": {"sam_config": SAM},
    },
    "dots1": {"n_routed_experts": EXPERTS, "n_shared_experts": 1, "num_experts_per_tok": K},
    "deepseek_v2": {"num_experts_per_tok": K},
    "mistral4": {"head_dim": 16},
    "dots3_note": {
        "text_config": DOTS3,
        "vision_config": {"adapter_in_dim": HIDDEN},
        "audio_config": {"adapter_input_size": HIDDEN, "downsample_hidden_size": 8},
    },
    "dots3_note_text": DOTS3,
    "ernie4_5_vl_moe": {
        "text_config": {
            "moe_intermediate_size": [24, 16],
            "rope_parameters": {"rope_type": "default", "rope_theta": 1e4, "mrope_section": [1, 1, 2]},
        }
    },
    "gemma4": {"text_config": GEMMA},
    "gemma4_text": GEMMA,
    "diffusion_gemma": {"text_config": GEMMA},
    "glm4v_moe": {
        "text_config": {
            "rope_parameters": {"rope_type": "default", "rope_theta": 1e4, "mrope_section": [1, 1, 2]}
            | {"partial_rotary_factor": 1.0}
        }
    },
    "glm5_next": {"text_config": {"index_kpool": 4}},
    "granitemoehybrid": {
        "mamba_n_heads": 8,
        "mamba_d_head": 8,
        "layer_types": ["linear_attention", "full_attention"] * 2,
    },
    "hunyuan_v1_moe": {"head_dim": 8},
    "jamba": {"attn_layer_period": 2, "attn_layer_offset": 1, "expert_layer_offset": 0},
    "kimi_linear": {"layer_types": ["linear_attention", "full_attention"] * 2},
    "lfm2_moe": {"layer_types": ["conv", "full_attention", "conv", "full_attention"]},
    "muse_spark": {"audio_config": {"depths": [1] * 4, "hidden_sizes": [8] * 4}},
    "nemo_speechlm": {
        "audio_config": {"diarization_config": {"head_config": {"audio_hidden_size": HIDDEN}}},
        "text_config": {"layer_types": ["linear_attention", "moe", "full_attention", "moe"]},
    },
    "nemotron_h_omni": {"text_config": {"layer_types": ["linear_attention", "moe", "full_attention", "moe"]}},
    "nemotron_h": {"layer_types": ["linear_attention", "moe", "full_attention", "moe"]},
    "qwen3_omni_moe": {
        "talker_config": {"spatial_merge_size": 2, "text_config": {"shared_expert_intermediate_size": 24}},
        "thinker_config": {"audio_config": {"downsample_hidden_size": 8, "num_mel_bins": 16}},
    },
    "qwen3_omni_moe_thinker": {"audio_config": {"downsample_hidden_size": 8, "num_mel_bins": 16}},
    "qwen4_exp": {"text_config": QWEN4},
    "qwen4_exp_text": QWEN4,
    "unlimited_ocr": {"vision_config": {"sam_config": SAM}},
    "zaya": {"num_experts_per_tok": 1},
}


@cache
def writers() -> tuple[str, ...]:
    """Model types that write text, alone or about pictures and sounds."""
    return tuple(
        sorted(
            {
                **modeling_auto.MODEL_FOR_CAUSAL_LM_MAPPING_NAMES,
                **modeling_auto.MODEL_FOR_MULTIMODAL_LM_MAPPING_NAMES,
            }
        )
    )


@cache
def types() -> tuple[str, ...]:
    """Writers whose code, or whose text part's, uses the experts interface."""
    return tuple(kind for kind in writers() if _served(kind) or _served(_text_type(kind)))


@cache
def own_code() -> tuple[str, ...]:
    """Writers that are a MoE and compute their experts themselves."""
    named = r"class \w*(TextExperts|Experts|SparseMoeBlock|MoE|CDMoE|MoeMoE)\("
    return tuple(kind for kind in writers() if kind not in types() and re.search(named, _code(kind)))


def _served(kind: str) -> bool:
    return "use_experts_implementation" in _code(kind)


def _text_type(kind: str) -> str:
    """Type of a composite's text part, by its own defaults."""
    name = configuration_auto.model_type_to_module_name(kind)
    if not (Path(transformers.__file__).parent / "models" / name / f"modeling_{name}.py").exists():
        return kind
    try:
        return str(AutoConfig.for_model(kind).get_text_config().model_type)
    except Exception:  # a type that has no defaults
        return kind


def _code(kind: str) -> str:
    """The modelling code of a type, empty where there is none of its own."""
    name = configuration_auto.model_type_to_module_name(kind)
    path = Path(transformers.__file__).parent / "models" / name / f"modeling_{name}.py"
    return path.read_text() if path.exists() else ""


def shrink(values: dict[str, Any], layers: int = LAYERS) -> dict[str, Any]:
    """A configuration's values made small."""
    per_layer = values.get("num_hidden_layers")
    small: dict[str, Any] = {}
    for name, value in values.items():
        if name == "per_layer_config":
            continue
        if isinstance(value, dict) and name.endswith("config"):
            small[name] = shrink(value, layers)
        elif name == "mlp_layer_types" and "sparse" in (value or ()):
            small[name] = ["dense" if value[0] == "dense" else "sparse", *["sparse"] * (LAYERS - 1)]
        elif isinstance(value, list) and per_layer and len(value) == per_layer:
            continue  # one entry a layer: left to the configuration to derive
        elif name in SIZES and value not in (None, 0):
            small[name] = SIZES[name]
        elif name.endswith(("token_id", "token_index")) and isinstance(value, int):
            small[name] = 100 + sum(map(ord, name)) % 27
        else:
            small[name] = value
    if values.get("num_attention_heads") == values.get("num_key_value_heads") is not None:
        small["num_key_value_heads"] = small["num_attention_heads"]  # an architecture may need as many
    return small


def merge(values: dict[str, Any], changes: dict[str, Any]) -> dict[str, Any]:
    for name, change in changes.items():
        if isinstance(change, dict) and isinstance(values.get(name), dict):
            merge(values[name], change)
        else:
            values[name] = change
    return values


def config_of(kind: str, **changes: Any) -> Any:
    values = shrink(AutoConfig.for_model(kind).to_dict())
    return type(AutoConfig.for_model(kind)).from_dict(merge(values, NEEDS.get(kind, {}) | changes))


def auto_class(kind: str) -> Any:
    """The class whose checkpoints this type's are: with images where there are any."""
    both = kind in modeling_auto.MODEL_FOR_MULTIMODAL_LM_MAPPING_NAMES
    return AutoModelForMultimodalLM if both else AutoModelForCausalLM


def save(kind: str, folder: Path, **changes: Any) -> Path:
    """Writes a tiny random model of this type, as its checkpoints are laid out, with a tokenizer of single
    letters. changes: to its configuration
    """
    torch.manual_seed(7)
    model = auto_class(kind).from_config(config_of(kind, **changes))
    with torch.no_grad():
        for parameter in model.parameters():
            if parameter.dim() > 1:
                torch.nn.init.normal_(parameter, std=0.2)
        for name, buffer in model.named_buffers():
            if name.endswith("tid2eid"):  # a router that looks its experts up by the token's id
                buffer.copy_(torch.stack([torch.randperm(EXPERTS)[:K] for _ in buffer]))
    model.save_pretrained(folder)
    save_tokenizer(folder)
    return folder


def save_mxfp4(folder: Path) -> Path:
    """Writes a tiny random gpt-oss whose experts are in mxfp4, as OpenAI's checkpoints hold them."""
    save("gpt_oss", folder, intermediate_size=64)  # a scale serves 32 weights
    generator = torch.Generator().manual_seed(1)

    def change(name: str, tensor: torch.Tensor) -> dict[str, torch.Tensor]:
        if not name.endswith(("gate_up_proj", "down_proj")):
            return {name: tensor.bfloat16()}
        experts, wide, out = tensor.shape
        blocks = torch.randint(0, 256, (experts, out, wide // 32, 16), generator=generator)
        scales = torch.randint(120, 126, (experts, out, wide // 32), generator=generator)
        return {f"{name}_blocks": blocks.byte(), f"{name}_scales": scales.byte()}

    return _quantised(folder, change, {"quant_method": "mxfp4", "modules_to_not_convert": ["lm_head"]})


def save_fp8(kind: str, folder: Path, side: int = 8, but: str = "nothing") -> Path:
    """Writes a tiny random model with fp8 weights in blocks of so many rows and columns, as DeepSeek's and
    Qwen's checkpoints hold them. but: what stands in the names of tensors that stay as they are
    """
    save(kind, folder)

    def change(name: str, tensor: torch.Tensor) -> dict[str, torch.Tensor]:
        plain = tensor.dim() != 2 or but in name or name.endswith(("gate.weight", "embed_tokens.weight"))
        if plain or name == "lm_head.weight":
            return {name: tensor.bfloat16()}
        rows, columns = tensor.shape
        blocks = tensor.float().reshape(rows // side, side, columns // side, side)
        scales = blocks.abs().amax((1, 3), keepdim=True) / 448
        values = (blocks / scales).to(torch.float8_e4m3fn).reshape(rows, columns)
        return {name: values, f"{name}_scale_inv": scales.reshape(rows // side, columns // side)}

    about = {"quant_method": "fp8", "weight_block_size": [side, side], "activation_scheme": "dynamic"}
    return _quantised(folder, change, about)


def _quantised(
    folder: Path, change: Callable[[str, torch.Tensor], dict[str, torch.Tensor]], about: dict[str, Any]
) -> Path:
    """Changes the tensors of a checkpoint, and says in its configuration how they are quantised."""
    tensors: dict[str, torch.Tensor] = {}
    for name, tensor in load_file(folder / "model.safetensors").items():
        tensors |= change(name, tensor)
    save_file(tensors, folder / "model.safetensors", {"format": "pt"})
    values = json.loads((folder / "config.json").read_text())
    values |= {"quantization_config": about, "dtype": "bfloat16"}
    (folder / "config.json").write_text(json.dumps(values))
    return folder


def save_bare(kind: str, folder: Path) -> Path:
    """Writes the configuration of a type and a tokenizer, no weights: enough to be refused."""
    config = config_of(kind)
    known = {
        **modeling_auto.MODEL_FOR_CAUSAL_LM_MAPPING_NAMES,
        **modeling_auto.MODEL_FOR_MULTIMODAL_LM_MAPPING_NAMES,
    }
    config.architectures = [known[kind]] if kind in known else None
    config.save_pretrained(folder)
    save_tokenizer(folder)
    return folder


def save_tokenizer(folder: Path) -> None:
    letters = {chr(33 + n): n for n in range(90)}
    tokenizer = Tokenizer(models.WordLevel(letters | {"?": 90}, unk_token="?"))
    tokenizer.pre_tokenizer = pre_tokenizers.Split("", "isolated")
    transformers.PreTrainedTokenizerFast(tokenizer_object=tokenizer, unk_token="?").save_pretrained(folder)


def reference(kind: str, folder: Path, dtype: torch.dtype) -> Any:
    """What transformers alone makes of a checkpoint: all experts in memory, its own eager code."""
    config = text_part(AutoConfig.from_pretrained(folder))
    model = auto_class(kind).from_pretrained(
        folder, config=config, dtype=dtype, experts_implementation="eager"
    )
    own(model)
    return model.eval()


def listed(guesses: dict[str, str], refused: dict[str, str]) -> str:
    """The list of moeviz/engine/README.md. guesses: type -> all, some or none of its layers; refused: type
    -> why.
    """
    rows = {
        "runs": [kind for kind, what in guesses.items() if what == "all" and kind not in PACKAGES],
        "runs; some of its layers without router guesses": [
            k for k, what in guesses.items() if what == "some"
        ],
        "runs without router guesses": [kind for kind, what in guesses.items() if what == "none"],
    }
    for kind, package in PACKAGES.items():
        rows.setdefault(f"runs where the package {package} is installed", []).append(kind)
    for kind, why in refused.items():
        rows.setdefault(f"refused: {why}", []).append(kind)
    return "\n".join(
        textwrap.fill(
            f"- **{what}**: {', '.join(sorted(kinds))}", 110, subsequent_indent="  ", break_on_hyphens=False
        )
        for what, kinds in rows.items()
    )

"""Which checkpoints the engine can run, from the configuration alone, and in words why not another.

Also what they would generate in another way. Knows neither weights nor tokenizers. What it lets through may
still turn out to have no experts that transformers serves.
"""

from __future__ import annotations

import re
from typing import Any

import transformers
from torch import nn
from transformers import AutoModelForCausalLM, AutoModelForMultimodalLM
from transformers.models.auto import modeling_auto

READ_AS_PLAIN = (
    "mxfp4",
    "fp8",
)  # quantised checkpoints that transformers turns into plain tensors as it loads
_PACKAGES = {
    "gptq": "gptqmodel",
    "awq": "gptqmodel",
    "bitsandbytes": "bitsandbytes",
    "compressed-tensors": "compressed-tensors",
}


def no_text_model(name: object, config: Any) -> str:
    """Why a checkpoint of this configuration cannot generate text here; empty where it may."""
    architecture = ", ".join(config.architectures or [type(config).__name__])
    if config.is_encoder_decoder:
        return (
            f"{name} is an encoder-decoder model ({architecture}); moeviz runs decoder-only models, whose "
            "one stack of layers "
            "reads the prompt and writes the answer. Choose one, for example a Mixtral."
        )
    found = _class_name(config)
    if not found:
        return (
            f"{name} does not generate text ({architecture} is an encoder, or made for something else). "
            "Choose a MoE that does, "
            "for example a Mixtral."
        )
    if "Diffusion" in found:
        return (
            f"{name} does not write one token after the other ({found}), and an expert cache is about what "
            "each token needs. "
            "Choose a causal MoE, for example a Mixtral."
        )
    return ""


def no_plain_weights(name: object, config: Any) -> str:
    """Why a quantised checkpoint is not served; empty where it is, or is not quantised."""
    quantised = getattr(config, "quantization_config", None)
    if quantised is None:
        return ""
    values = quantised if isinstance(quantised, dict) else quantised.to_dict()
    method = str(values.get("quant_method") or ("bitsandbytes" if "load_in_4bit" in values else "unknown"))
    if method in READ_AS_PLAIN:
        return ""
    package = f" (it takes the package {_PACKAGES[method]})" if method in _PACKAGES else ""
    return (
        f"{name} is quantised with {method}{package}, and its experts are no plain tensors that could be "
        "moved one at a time. "
        f"moeviz serves unquantised checkpoints and those quantised with {' or '.join(READ_AS_PLAIN)}: "
        "choose one of these."
    )


def no_experts(name: object, config: Any, skeleton: nn.Module) -> str:
    """The message for a model in which transformers' experts interface has nothing to serve."""
    architecture = ", ".join(config.architectures or [type(config).__name__])
    own = sorted(
        {
            type(m).__name__
            for m in skeleton.modules()
            if re.search(r"Experts|MoE|Moe(Block|$)|Router", type(m).__name__)
        }
    )
    if own:
        return (
            f"{name} ({architecture}) is a MoE that transformers {transformers.__version__} does not serve "
            "through its experts "
            f"interface: its code computes the experts itself ({', '.join(own)}). Choose a MoE that it "
            "serves, for example a Mixtral."
        )
    return (
        f"{name} is not a mixture-of-experts model that transformers {transformers.__version__} serves "
        "through its experts "
        f"interface (its architecture is {architecture}). Choose a MoE, for example a Mixtral."
    )


_OTHER_WAYS = (
    "num_beams",
    "prompt_lookup_num_tokens",
    "assistant_early_exit",
    "use_mtp",
    "penalty_alpha",
    "guidance_scale",
    "repetition_penalty",
    "no_repeat_ngram_size",
    "top_k",
    "top_p",
    "min_p",
    "typical_p",
)


def not_followed(generation: Any) -> str:
    """What a checkpoint's generation configuration asks for and moeviz does not do, in words; empty where
    that is nothing. 0 and 1, which for most of them change nothing, are not named.
    """
    asked = {name: getattr(generation, name, None) for name in _OTHER_WAYS}
    named = [f"{name} {value}" for name, value in asked.items() if value is True or value not in (None, 0, 1)]
    if not named:
        return ""
    return (
        f"{', '.join(named)} of generation_config.json is not followed: each token is the likeliest, or "
        "drawn at the temperature that you choose, one after the other"
    )


def text_part(config: Any) -> Any:
    """The configuration of the part that writes: all of it, or the thinker of a model that also speaks."""
    return getattr(config, "thinker_config", config)


def model_class(config: Any) -> Any:
    """The auto class that has a place for all of a checkpoint: for text and images if there is one."""
    both = config.model_type in modeling_auto.MODEL_FOR_MULTIMODAL_LM_MAPPING_NAMES
    return AutoModelForMultimodalLM if both else AutoModelForCausalLM


def _class_name(config: Any) -> str:
    for names in (
        modeling_auto.MODEL_FOR_MULTIMODAL_LM_MAPPING_NAMES,
        modeling_auto.MODEL_FOR_CAUSAL_LM_MAPPING_NAMES,
    ):
        if found := names.get(config.model_type):
            return str(found)
    return ""

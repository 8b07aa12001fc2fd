"""What is known of a model before any weight is read: its configuration, its tokenizer, the modules that it
is made of, and what computes them in which dtype.

outline_of("moeviz/demo_model", "auto", "auto", [])      # raises ModelError for what cannot be run
"""

from __future__ import annotations

import os
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import nn
from transformers import AutoConfig, AutoTokenizer, PreTrainedConfig

from moeviz import words
from moeviz.engine.architectures import check_own_code, no_code, no_type
from moeviz.engine.bare import sooner
from moeviz.engine.checkpoint import check_files, guarded, needs_code
from moeviz.engine.dtypes import DTYPES, dtype_named
from moeviz.engine.experts import stacked
from moeviz.engine.hardware import Hardware, device_named, hardware_of
from moeviz.engine.kinds import model_class, no_experts, no_plain_weights, no_text_model, text_part
from moeviz.engine.layout import Layout
from moeviz.engine.memory import Wanted, check_fit, lacking
from moeviz.engine.probe import is_experts
from moeviz.engine.tiers import disk_free
from moeviz.errors import ModelError, StoreError
from moeviz.files.headers import CHECKPOINT, CHOOSE, no_folder, no_hub_id
from moeviz.numbers.sizes import K_FIELDS


@dataclass(frozen=True, eq=False, slots=True)
class Outline:
    """What is known of a model before any weight is read."""

    folder: Path
    config: Any
    tokenizer: Any
    skeleton: nn.Module  # on the meta device
    device: torch.device
    hardware: Hardware
    dtype: torch.dtype
    notes: tuple[str, ...]


def outline_of(name: str | os.PathLike[str], device: str, dtype: str, wanted: Wanted) -> Outline:
    """Of a folder or hub id. Raises ModelError for what cannot be run, SettingsError for settings that do not
    fit it, StoreError where the disk has no room for a download. Its files are checked too: their headers are
    all that is read of the weights."""
    place = device_named(device)
    hardware = hardware_of(place)
    config = configuration(name)
    for why in (no_text_model(name, config), no_plain_weights(name, config)):
        if why:
            raise ModelError(why)
    folder = _downloaded(str(name))
    tokenizer = _tokenizer(name, folder)
    if dtype not in DTYPES:
        raise ModelError(f"dtype {dtype!r} is not known. Choose one of {', '.join(DTYPES)}.")
    with torch.device("meta"):
        skeleton = guarded(
            name, lambda: sooner(lambda: model_class(config).from_config(config, trust_remote_code=False))
        )
    every = [module for module in skeleton.modules() if is_experts(module)]
    if not every:
        raise ModelError(no_experts(name, config, skeleton))
    kind, why = dtype_named(dtype, config, place, every[0])
    dense = _dense_bytes(skeleton, kind)
    if (early := _layout(every, config, kind)) is not None:
        check_fit(wanted, *early, place, dense)
    check_files(folder)
    if short := lacking(place, dense):
        raise ModelError(
            f"The dense part of {name}, which stays in the fast tier, {short}. Choose a smaller model, or a "
            "dtype of fewer bytes."
        )
    notes = (why,) if why else ()
    return Outline(folder, config, tokenizer, skeleton, place, hardware, kind, notes)


def configuration(name: str | os.PathLike[str]) -> Any:
    """The configuration of the part of a model that writes.

    Packed weights are to be unpacked as they load, whatever kernels for them this machine may have. Raises
    ModelError.
    """
    config = text_part(_config(str(name)))
    if isinstance(quantised := getattr(config, "quantization_config", None), dict):
        config.quantization_config = quantised | {"dequantize": True}
    return config


def unlike_tokenizer(config: Any, ids: Sequence[int]) -> str:
    """Why the tokenizer that gave these ids is not the model's own, in words; empty where it may be."""
    words_known = getattr(config.get_text_config(), "vocab_size", None)
    if not isinstance(words_known, int) or max(ids) < words_known:
        return ""
    return (
        f"its tokenizer gives the id {max(ids):,}, but the model knows {words_known:,} tokens: they are of "
        "different models. Put the model's own tokenizer files beside config.json."
    )


def _config(name: str) -> Any:
    if why := no_folder(name):
        raise ModelError(why)
    try:
        values, _ = PreTrainedConfig.get_config_dict(name)
        check_own_code(name, values)
        return AutoConfig.from_pretrained(name, trust_remote_code=False)
    except ModelError:
        raise
    except (OSError, ValueError) as error:
        if needs_code(error):
            raise no_code(name) from None
        first = str(error).strip().splitlines()[0]
        if "does not recognize this architecture" in first or "Unrecognized model" in first:
            raise no_type(name, str(values.get("model_type", ""))) from None
        if not Path(name).is_dir():
            raise ModelError(no_hub_id(name, first)) from None
        raise ModelError(f"{name} cannot be read as a model: {first} {CHOOSE}") from None
    except Exception as error:  # a field of another type, which each architecture's own checks tell of
        told = " ".join(str(error).split()) or type(error).__name__
        raise ModelError(f"{name} cannot be read as a model: {told[:200]}. {CHOOSE}") from None


def _downloaded(name: str) -> Path:
    """The folder of a model; of a hub id once its checkpoint is here. Raises StoreError where there is no
    room for it, ModelError where it cannot be reached."""
    if Path(name).is_dir():
        return Path(name)
    from huggingface_hub import constants, snapshot_download
    from huggingface_hub.errors import DryRunError

    try:
        with suppress(DryRunError):  # without the hub, what was downloaded before does
            coming: Any = snapshot_download(name, dry_run=True, **CHECKPOINT)
            need = sum(file.file_size for file in coming if file.will_download)
            free, _ = disk_free(Path(constants.HF_HUB_CACHE))
            if need > free:
                raise StoreError(
                    f"The download of {name} needs {words.memory(need)} in {constants.HF_HUB_CACHE}, where "
                    f"{words.memory(free)} are free. Make room, or set HF_HOME to a folder on a larger disk."
                )
        return Path(snapshot_download(name, **CHECKPOINT))
    except OSError as error:
        raise ModelError(no_hub_id(name, str(error).strip().splitlines()[0])) from None


def _tokenizer(name: object, folder: Path) -> Any:
    """Read first of all: without one no prompt can be run, and nothing should have been packed by then."""
    try:
        found = AutoTokenizer.from_pretrained(str(folder), trust_remote_code=False)
        if not found("In the beginning")["input_ids"]:  # what transformers makes up where there are no files
            raise ValueError("what transformers makes of this folder gives no token for any text")
        return found
    except Exception as error:
        first = (str(error).strip() or type(error).__name__).splitlines()[0].rstrip(".: ")
        raise ModelError(
            f"{name} has no tokenizer that can be read ({first}). Put the tokenizer's files (tokenizer.json, "
            "tokenizer_config.json) beside config.json."
        ) from None


def _dense_bytes(skeleton: nn.Module, dtype: torch.dtype) -> int:
    """What everything but the experts takes."""
    experts = {id(p) for m in skeleton.modules() if is_experts(m) for p in m.parameters()}
    return sum(p.numel() for p in skeleton.parameters() if id(p) not in experts) * dtype.itemsize


def _layout(every: list[nn.Module], config: Any, dtype: torch.dtype) -> tuple[Layout, int] | None:
    """Layout of the slots and k as the configuration tells them; None where only a pass can tell."""
    text = config.get_text_config()
    k = next((value for field in K_FIELDS if isinstance(value := getattr(text, field, None), int)), None)
    kinds = {tuple((key, tuple(p.shape)) for key, p in stacked(module).items()) for module in every}
    if not k or len(kinds) > 1:
        return None
    shapes = dict(kinds.pop())
    counts = {shape[0] for shape in shapes.values()}
    if len(counts) > 1:
        return None
    return Layout(len(every), counts.pop(), dtype, {key: shape[1:] for key, shape in shapes.items()}), k

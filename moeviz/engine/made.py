"""Models of random weights, made in a folder to be measured, and experts by themselves.

with made(Made("mixtral", layers=2, experts=4, k=2, hidden=64, inner=64)) as folder: ...
"""

from __future__ import annotations

import json
import os
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import torch
from safetensors.torch import load_file, save_file
from tokenizers import Tokenizer, models
from torch.nn.functional import linear, silu
from transformers import AutoConfig, AutoModelForCausalLM, PreTrainedTokenizerFast

from moeviz import amounts

_ROTATED = 32  # experts computed in turn: more than a processor's cache holds


@dataclass(frozen=True, slots=True)
class Made:
    """The shape of a model that is made."""

    kind: str  # transformers' model type
    layers: int
    experts: int
    k: int
    hidden: int
    inner: int  # of an expert
    dtype: str = "float32"

    @property
    def expert_bytes(self) -> int:
        """Of one expert: gate, up and down."""
        return 3 * self.hidden * self.inner * (2 if self.dtype == "bfloat16" else 4)

    @property
    def all_bytes(self) -> int:
        """Of all experts."""
        return self.layers * self.experts * self.expert_bytes

    @property
    def label(self) -> str:
        """In words."""
        return f"{self.layers} x {self.experts} of {amounts.size(self.expert_bytes)}, {self.dtype}"


@contextmanager
def made(size: Made) -> Iterator[str]:
    """A folder with a model of this shape and a tokenizer that knows no word. What is packed of it meanwhile
    is kept in a folder of its own and removed with it."""
    # on Windows a file that is still mapped cannot be removed; that is no reason to lose the figures
    with tempfile.TemporaryDirectory(ignore_cleanup_errors=True) as temporary:
        save(size, Path(temporary) / "model")
        before = os.environ.get("MOEVIZ_CACHE", "")
        os.environ["MOEVIZ_CACHE"] = f"{temporary}/packed"
        try:
            yield f"{temporary}/model"
        finally:
            os.environ["MOEVIZ_CACHE"] = before


def save(size: Made, folder: Path, packed: str = "") -> tuple[int, int]:
    """Writes a model of this shape and a tokenizer that knows no word; `packed`: how its experts are packed,
    of PACKED, or as they are. Bytes of its dense part and of one layer's experts before they are packed."""
    config = AutoConfig.for_model(
        size.kind,
        vocab_size=4_096,
        hidden_size=size.hidden,
        num_hidden_layers=size.layers,
        num_attention_heads=8,
        num_key_value_heads=4,
        head_dim=size.hidden // 8,
        intermediate_size=size.inner,
        moe_intermediate_size=size.inner,
        num_local_experts=size.experts,
        num_experts=size.experts,
        num_experts_per_tok=size.k,
        bos_token_id=None,
        eos_token_id=None,
    )
    torch.manual_seed(0)
    model = AutoModelForCausalLM.from_config(
        config, dtype=getattr(torch, size.dtype), trust_remote_code=False
    )
    model.save_pretrained(folder)
    layer = _bytes(model.model.layers[0].mlp.experts)
    dense = _bytes(model) - size.layers * layer
    del model
    if packed:
        _pack(folder, packed)
    words = Tokenizer(models.WordLevel({"?": 0}, unk_token="?"))
    PreTrainedTokenizerFast(tokenizer_object=words, unk_token="?").save_pretrained(folder)
    return dense, layer


def _bytes(module: torch.nn.Module) -> int:
    return sum(parameter.nbytes for parameter in module.parameters())


def _pack(folder: Path, packed: str) -> None:
    change, about = PACKED[packed]
    tensors: dict[str, torch.Tensor] = {}
    for name, tensor in load_file(folder / "model.safetensors").items():
        tensors |= change(name, tensor)
    save_file(tensors, folder / "model.safetensors", {"format": "pt"})
    values = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps(values | {"quantization_config": about}))


def _mxfp4(name: str, tensor: torch.Tensor) -> dict[str, torch.Tensor]:
    """Experts of as many values as `tensor` has, in mxfp4."""
    if not name.endswith(("gate_up_proj", "down_proj")):
        return {name: tensor}
    experts, wide, out = tensor.shape
    blocks = torch.randint(0, 256, (experts, out, wide // 32, 16)).byte()
    return {f"{name}_blocks": blocks, f"{name}_scales": torch.full(blocks.shape[:3], 121).byte()}


def _fp8(name: str, tensor: torch.Tensor) -> dict[str, torch.Tensor]:
    """A tensor of an expert in fp8, in blocks of 128 by 128; any other as it is."""
    if ".experts." not in name:
        return {name: tensor}
    scales = torch.full([size // 128 for size in tensor.shape], 2.0**-9)
    return {name: (tensor * 512).to(torch.float8_e4m3fn), f"{name}_scale_inv": scales}


Change = Callable[[str, torch.Tensor], dict[str, torch.Tensor]]
PACKED: dict[str, tuple[Change, dict[str, object]]] = {  # how, and what config.json says of it
    "mxfp4": (_mxfp4, {"quant_method": "mxfp4"}),
    "fp8": (_fp8, {"quant_method": "fp8", "weight_block_size": [128, 128]}),
}


def computing_us(k: int, hidden: int, inner: int, events: int = 40) -> float:
    """Microseconds of a thread's time that k experts of made-up weights in bfloat16 take for one token, one
    by one: the median event."""
    dtype = torch.bfloat16
    ups = [torch.full((2 * inner, hidden), 0.01, dtype=dtype) for _ in range(_ROTATED)]
    downs = [torch.full((hidden, inner), 0.01, dtype=dtype) for _ in range(_ROTATED)]
    token, took = torch.full((1, hidden), 0.01, dtype=dtype), []
    with torch.inference_mode():
        for event in range(events):
            start = time.thread_time()
            for n in range(event * k, event * k + k):
                half, up = linear(token, ups[n % _ROTATED]).chunk(2, -1)
                linear(silu(half) * up, downs[n % _ROTATED])
            took.append(time.thread_time() - start)
    return 1e6 * sorted(took)[len(took) // 2]

"""Models of random weights, made in a temporary folder for a bench and removed after it.

with made(Made("mixtral", layers=2, experts=4, k=2, hidden=64, inner=64)) as folder: ...
"""

from __future__ import annotations

import os
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path


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
        return f"{self.layers} x {self.experts} of {self.expert_bytes / 1e6:.1f} MB, {self.dtype}"


@contextmanager
def made(size: Made) -> Iterator[str]:
    """A folder with a model of this shape and a tokenizer that knows no word. What is packed of it meanwhile
    is kept in a folder of its own and removed with it."""
    import torch
    import transformers
    from tokenizers import Tokenizer, models

    config = transformers.AutoConfig.for_model(
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
    words = Tokenizer(models.WordLevel({"?": 0}, unk_token="?"))
    # on Windows a file that is still mapped cannot be removed; that is no reason to lose the figures
    with tempfile.TemporaryDirectory(ignore_cleanup_errors=True) as temporary:
        folder = Path(temporary) / "model"
        torch.manual_seed(0)
        model = transformers.AutoModelForCausalLM.from_config(
            config, dtype=getattr(torch, size.dtype), trust_remote_code=False
        )
        model.save_pretrained(folder)
        del model
        transformers.PreTrainedTokenizerFast(tokenizer_object=words, unk_token="?").save_pretrained(folder)
        before = os.environ.get("MOEVIZ_CACHE", "")
        os.environ["MOEVIZ_CACHE"] = f"{temporary}/packed"
        try:
            yield str(folder)
        finally:
            os.environ["MOEVIZ_CACHE"] = before

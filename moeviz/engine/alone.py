"""transformers alone: a model with all its experts in memory, or offloaded to disk by accelerate, and no part
of moeviz in it, to be compared with.

model = Alone("moeviz/demo_model", "float32")
model.pass_ns("grouped_mm", "In the beginning", tokens=50)
"""

from __future__ import annotations

import logging
import time
from pathlib import Path

import torch
from torch import nn
from transformers import AutoConfig, AutoTokenizer

from moeviz.engine.kinds import model_class, text_part
from moeviz.engine.probe import is_experts
from moeviz.engine.session import only_the_last_logits
from moeviz.engine.sources import own

BACKENDS = ("eager", "grouped_mm", "batched_mm")  # of transformers' experts interface, those that a CPU has


class Alone:
    """A checkpoint as `from_pretrained` loads it."""

    def __init__(
        self, folder: str | Path, dtype: str, device: str = "cpu", offload: Path | None = None
    ) -> None:
        """`folder`: of a model; `dtype`, `device`: their names in torch; `offload`: where accelerate, which
        transformers offloads with, puts the experts and reads a layer's when it is reached; None: all are in
        the device's memory.
        """
        config = text_part(AutoConfig.from_pretrained(folder, trust_remote_code=False))
        kind = model_class(config)
        where = {}
        if offload is not None:
            with torch.device("meta"):
                skeleton = kind.from_config(config, trust_remote_code=False)
            # that it offloads is no news
            logging.getLogger("accelerate.big_modeling").setLevel(logging.ERROR)
            where = {"device_map": _experts_on_disk(skeleton, device), "offload_folder": offload}
        self.model = kind.from_pretrained(
            folder, config=config, dtype=getattr(torch, dtype), trust_remote_code=False, **where
        )
        self._device = device
        if offload is None:
            self.model.to(device)
        self.model.eval()
        own(self.model)
        self._tokenizer = AutoTokenizer.from_pretrained(folder, trust_remote_code=False)

    def pass_ns(self, backend: str, prompt: str, tokens: int) -> list[int]:
        """Nanoseconds of each forward pass of a greedy generation of `tokens` tokens, the choice of its token
        included.

        The first pass is that of the prompt.
        """
        self.model.set_experts_implementation(backend)
        last_only = only_the_last_logits(self.model)
        ids, past, took = list(self._tokenizer(prompt)["input_ids"]), None, []
        for _ in range(tokens):
            start = time.perf_counter_ns()
            with torch.inference_mode():
                inputs = torch.tensor([ids], device=self._device)
                output = self.model(input_ids=inputs, past_key_values=past, use_cache=True, **last_only)
            past = output.past_key_values
            ids = [int(output.logits[0, -1].argmax())]
            took.append(time.perf_counter_ns() - start)
        return took


def _experts_on_disk(module: nn.Module, device: str, path: str = "") -> dict[str, str]:
    """Where accelerate puts what: experts on disk, all else on the device, in as few pieces as there can be,
    since each costs a hook's time."""
    if is_experts(module):
        return {path: "disk"}
    if not any(map(is_experts, module.modules())):
        return {path: device}
    found: dict[str, str] = {}
    for name, child in module.named_children():
        found |= _experts_on_disk(child, device, f"{path}.{name}".removeprefix("."))
    return found

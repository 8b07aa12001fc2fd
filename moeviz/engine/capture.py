"""Records the routing of a transformers model while your own code runs it, without moeviz's engine.

with capture(model, tokenizer) as captured:
    model.generate(**tokenizer("In the beginning", return_tensors="pt"), max_new_tokens=50)
captured.trace().save("mine.moetrace")
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import numpy as np
import torch
import transformers
from torch import nn

from moeviz.core.trace import DECODE, PREFILL, Trace
from moeviz.engine.experts import stacked
from moeviz.engine.probe import is_experts
from moeviz.errors import ModelError


class Captured:
    """Forward passes as they were seen; one sequence at a time."""

    def __init__(self, model: nn.Module, tokenizer: Any) -> None:
        self._model, self._tokenizer = model, tokenizer
        self.modules = [module for _, module in model.named_modules() if is_experts(module)]
        self._ids: list[list[int]] = []  # of each complete pass
        self._chosen: list[
            list[tuple[np.ndarray, np.ndarray]]
        ] = []  # [pass][layer] experts and weights, [token, k] each
        self._open: dict[int, tuple[np.ndarray, np.ndarray]] = {}
        self._now: list[int] = []
        self._reached: list[int] = []  # numbers of the modules that text reaches, in that order

    def begin_pass(self, module: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
        ids = kwargs.get("input_ids", args[0] if args else None)
        if not isinstance(ids, torch.Tensor) or ids.dim() != 2:
            raise ModelError("capture needs input_ids [1, tokens]; the model was called without them.")
        if len(ids) != 1:
            raise ModelError(
                f"capture records one sequence at a time; the model was called with a batch of {len(ids)}. "
                "Run them one by one."
            )
        self._now, self._open = ids[0].tolist(), {}

    def take(self, number: int, index: torch.Tensor, weights: torch.Tensor) -> None:
        ids, strength = index.cpu().numpy(), weights.detach().float().cpu().numpy()
        order = np.lexsort((ids, -strength), axis=1)
        self._open[number] = np.take_along_axis(ids, order, 1), np.take_along_axis(strength, order, 1)

    def end_pass(self, *_: Any) -> None:
        if not self._ids:
            self._reached = list(self._open)
        if list(self._open) == self._reached and all(
            len(ids) == len(self._now) for ids, _ in self._open.values()
        ):
            self._ids.append(self._now)
            self._chosen.append(list(self._open.values()))

    def trace(self) -> Trace:
        """What was captured so far. Raises ModelError where that is nothing."""
        if not self._ids:
            raise ModelError("nothing was captured: the model was not called within the with block.")
        lengths = [len(ids) for ids in self._ids]
        parts = [
            np.concatenate([np.stack([layer[kind] for layer in layers], 1) for layers in self._chosen])
            for kind in (0, 1)
        ]
        token_ids = [token for ids in self._ids for token in ids]
        phase = [PREFILL if number == 0 or length > 1 else DECODE for number, length in enumerate(lengths)]
        module = self.modules[self._reached[0]]
        weights = stacked(module).values()
        count = len(next(iter(weights)))
        return Trace(
            experts=parts[0].astype(np.int16),
            weights=parts[1].astype(np.float32),
            token_ids=np.array(token_ids, np.int32),
            phase=np.repeat(np.array(phase, np.uint8), lengths),
            forward_pass=np.repeat(np.arange(len(lengths), dtype=np.int32), lengths),
            guess=np.full((len(token_ids), len(self._reached), 0, 0), -1, np.int16),
            num_experts=count,
            texts=tuple(
                self._tokenizer.decode([token]) if self._tokenizer else f"{token} " for token in token_ids
            ),
            model=str(getattr(self._model, "name_or_path", "") or type(self._model).__name__),
            expert_bytes=sum(p.numel() * p.element_size() for p in weights) // count,
            prompt=self._tokenizer.decode(self._ids[0]) if self._tokenizer else "",
            recorded={"torch": torch.__version__, "transformers": transformers.__version__},
        )


@contextmanager
def capture(model: nn.Module, tokenizer: Any = None) -> Iterator[Captured]:
    """Within the block every forward pass of `model` is recorded; `tokenizer` gives the tokens their text.

    Raises ModelError where the model is no MoE that transformers' experts interface serves, or is called with
    a batch.
    """
    captured = Captured(model, tokenizer)
    if not captured.modules:
        raise ModelError(
            f"{type(model).__name__} has no experts that transformers {transformers.__version__} serves "
            "through its experts interface."
        )
    hooks = [
        model.register_forward_pre_hook(captured.begin_pass, with_kwargs=True),
        model.register_forward_hook(captured.end_pass),
    ]
    for number, module in enumerate(captured.modules):

        def before(
            module: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any], number: int = number
        ) -> None:
            given = dict(zip(("hidden_states", "top_k_index", "top_k_weights"), args, strict=False)) | kwargs
            captured.take(number, given["top_k_index"], given["top_k_weights"])

        hooks.append(module.register_forward_pre_hook(before, with_kwargs=True))
    try:
        yield captured
    finally:
        for hook in hooks:
            hook.remove()

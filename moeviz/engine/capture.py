"""Records the routing of a transformers model while your own code runs it, without moeviz's engine.

with capture(model, tokenizer) as captured:
    model.generate(**tokenizer("In the beginning", return_tensors="pt"), max_new_tokens=50)
captured.trace().save("mine.moetrace")

Every sequence of a batch is a request of the trace, and so is every new call; what is no routing of the text
is left out (`moeviz.engine.captured`). A pass that loads experts for drafts needs more of them than its text
does, so transformers' own assisted generation is refused, as are beam search and texts that are packed in one
row. `capture(model, verify=True)` also compares the experts that ran with the highest of each router's own
output.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import torch
import transformers
from torch import nn

from moeviz.core.given import shown
from moeviz.engine.captured import Captured, Generation
from moeviz.errors import ArgumentError, ModelError

# what asks generate for drafts, which the model checks several at a time
_DRAFTS = ("assistant_model", "prompt_lookup_num_tokens", "assistant_early_exit", "use_mtp")


@contextmanager
def capture(model: nn.Module, tokenizer: Any = None, *, verify: bool = False) -> Iterator[Captured]:
    """Within the block every forward pass of `model` is recorded; `tokenizer` gives the tokens their text.

    `verify` compares the experts that run with the highest of each router's output; `captured.report` names
    where they differ. Raises ArgumentError where `model` is none, ModelError where it is no MoE that
    transformers' experts interface serves, or where sequences cannot be told apart or hold more than the
    text.
    """
    if not isinstance(model, nn.Module):
        raise ArgumentError(
            f"capture takes a loaded transformers model, and {shown(model)} is none: "
            "AutoModelForCausalLM.from_pretrained(name) gives one."
        )
    captured = Captured(model, tokenizer, verify)
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
        hooks.append(module.register_forward_pre_hook(_before(captured, number), with_kwargs=True))
        if verify:
            for child in captured.blocks[number].children():
                if child is not module:
                    hooks.append(child.register_forward_hook(_beside(captured, number)))
    own = model.__dict__.get("generate")
    if hasattr(model, "generate"):
        model.generate = _generating(captured, model.generate)
    try:
        yield captured
    finally:
        for hook in hooks:
            hook.remove()
        model.__dict__.pop("generate", None)
        if own is not None:
            model.generate = own


def _before(captured: Captured, number: int) -> Callable[..., None]:
    def before(module: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
        index = args[1] if len(args) > 1 else kwargs["top_k_index"]
        captured.take(number, index, args[2] if len(args) > 2 else kwargs["top_k_weights"])

    return before


def _beside(captured: Captured, number: int) -> Callable[..., None]:
    def beside(module: nn.Module, args: tuple[Any, ...], output: Any) -> None:
        captured.logits(number, output)

    return beside


def _generating(captured: Captured, generate: Callable[..., Any]) -> Callable[..., Any]:
    """`generate`, which says what kind of generation this is."""

    def generating(*args: Any, **kwargs: Any) -> Any:
        given = kwargs.get("generation_config") or (args[1] if len(args) > 1 else None)
        own = captured._model.generation_config

        def asked(name: str) -> Any:
            found = kwargs.get(name, getattr(given, name, None))
            return getattr(own, name, None) if found is None else found

        if (asked("num_beams") or 1) > 1:
            raise ModelError(
                f"capture cannot follow beam search ({asked('num_beams')} beams): the beams change places "
                "between passes. Generate with num_beams=1."
            )
        for name in _DRAFTS:
            if asked(name):
                raise ModelError(
                    f"capture cannot follow assisted generation ({name}): a pass then loads experts for "
                    "drafts that are no text. Generate without it; greedy text is the same."
                )
        ends = asked("eos_token_id")
        prompt = kwargs.get("input_ids", kwargs.get("inputs", args[0] if args else None))
        captured.generation = Generation(
            first=True,
            prompt=prompt.shape[1] if isinstance(prompt, torch.Tensor) and prompt.dim() == 2 else 0,
            ends=frozenset(() if ends is None else torch.as_tensor(ends).flatten().tolist()),
        )
        try:
            return generate(*args, **kwargs)
        finally:
            captured.generation = Generation()

    return generating

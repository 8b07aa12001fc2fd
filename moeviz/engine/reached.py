"""The MoE layers that text reaches, and whether they can be served together: one number and one size of
experts, one way of computing them.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import nn

from moeviz.engine.checkpoint import guarded
from moeviz.engine.experts import Recipe, RecipeError, recipe_for, stacked
from moeviz.engine.layout import Layout
from moeviz.engine.outline import unlike_tokenizer
from moeviz.engine.probe import Reached, Router, probe
from moeviz.errors import ModelError


@dataclass(frozen=True, eq=False, slots=True)
class MoELayer:
    """One MoE layer of a loaded model."""

    index: int  # among the model's layers
    experts: nn.Module  # its stacked parameters are on the meta device
    chooser: nn.Module | None  # the module that chooses among them
    router: Router | None  # None where it cannot be asked ahead: then no next-gate guesses for this layer
    same_hidden: bool  # the experts are given the very hidden state that the chooser was given


def reached_layers(name: object, model: nn.Module, tokenizer: Any, device: torch.device) -> list[Reached]:
    """The MoE layers that text reaches. Raises ModelError where there are none, or they are not alike."""
    ids = list(tokenizer("In the beginning")["input_ids"])[:4] or [0]
    if why := unlike_tokenizer(model.config, ids):
        raise ModelError(f"{name}: {why}")
    reached: list[Reached] = guarded(name, lambda: probe(model, ids, device))
    if not reached:
        raise ModelError(
            f"No experts of {name} are reached by text. Choose a model whose text layers are a MoE."
        )
    if not min(one.k for one in reached):
        raise ModelError(
            f"The configuration of {name} says that a token uses no expert at all. Save or download the "
            "checkpoint again."
        )
    modules = [id(one.experts) for one in reached]
    if len(set(modules)) < len(modules):
        raise ModelError(
            f"{name} uses the same experts more than once for a token, which moeviz cannot tell apart. "
            "Choose another MoE."
        )
    if len({one.k for one in reached}) > 1:
        raise ModelError(
            f"The MoE layers of {name} use different numbers of experts per token "
            f"({', '.join(str(one.k) for one in reached)}), which moeviz cannot serve. Choose another MoE."
        )
    return reached


def layout_of(name: object, modules: list[nn.Module], dtype: torch.dtype) -> Layout:
    """The record of one expert, from the stacked parameters of every layer. Raises ModelError where layers
    differ.
    """
    kinds = {tuple((key, tuple(value.shape)) for key, value in stacked(module).items()) for module in modules}
    counts = {shape[0] for kind in kinds for _, shape in kind}
    if len(kinds) > 1 or len(counts) > 1:
        raise ModelError(
            f"The MoE layers of {name} differ in the number or the size of their experts, which moeviz "
            "cannot serve. "
            "Choose another MoE."
        )
    return Layout(len(modules), counts.pop(), dtype, {key: shape[1:] for key, shape in kinds.pop()})


def recipe_of(name: object, reached: Reached, layout: Layout, device: torch.device) -> Recipe:
    try:
        with torch.inference_mode():
            return recipe_for(reached.experts, layout, device, reached.hidden_dtype, reached.weights_dtype)
    except RecipeError as error:
        raise ModelError(f"{name} cannot be run: {error}. Choose another MoE, or another dtype.") from None


def notes_of(reached: list[Reached]) -> tuple[str, ...]:
    """What is said of layers whose routers cannot be asked ahead."""
    blind = [one for one in reached if one.router is None]
    if not blind:
        return ()
    return (
        f"no router guesses for {len(blind)} of {len(reached)} MoE layers: "
        + " and ".join(sorted({one.why_not for one in blind})),
    )


def layers_of(reached: Sequence[Reached], paths: Mapping[int, str]) -> tuple[MoELayer, ...]:
    """The layers as a loaded model has them. paths: of the model's modules, by their identity."""
    return tuple(
        MoELayer(
            _layer_index(paths[id(one.experts)], number),
            one.experts,
            one.chooser,
            one.router,
            one.same_hidden,
        )
        for number, one in enumerate(reached)
    )


def _layer_index(path: str, number: int) -> int:
    """Index of an experts module's layer among the model's layers, from its path."""
    return next((int(part) for part in path.split(".") if part.isdigit()), number)

"""Computes one expert on the weights that stand in a slot, and says how the contributions of a token's
experts are added.

Knows neither slots' contents nor time. Equal means bit for bit: `recipe_for` tries each way on random weights
against the architecture's own forward and takes the first that gives the same bits, so that an architecture
that adds in another dtype, or has no gate, or a norm after each expert, is served as it computes.
"""

from __future__ import annotations

import copy
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import nn
from torch.nn.functional import linear, silu
from transformers.activations import SiLUActivation
from transformers.integrations.moe import _default_apply_gate

from moeviz.engine.bits import alike
from moeviz.engine.layout import Layout

Expert = Callable[[torch.Tensor, torch.Tensor], torch.Tensor]
"""(hidden [n, hidden], weights [n, 1]) -> contribution [n, hidden], as it is before it is added."""
Way = Callable[[nn.Module, Mapping[str, torch.Tensor]], Expert]
"""(experts module, one expert's tensors by parameter name) -> that expert."""


SILU = (nn.SiLU, SiLUActivation)


class RecipeError(ValueError):
    """No way of computing these experts one at a time gives the bits of their own forward."""


@dataclass(frozen=True, slots=True)
class Recipe:
    """How the experts of one architecture are computed one at a time."""

    way: Way
    sum_dtype: (
        torch.dtype
    )  # in which a token's contributions are added; the sum is then rounded to the hidden state's
    together: type[Together] | None = (
        None  # what gives the same bits for all experts of a token as `way` for each
    )


def stacked(module: nn.Module) -> dict[str, nn.Parameter]:
    """The parameters of an experts module that hold one entry per expert. Those of its children, a norm's,
    are shared by all.
    """
    return dict(module.named_parameters(recurse=False))


def recipe_for(
    module: nn.Module,
    layout: Layout,
    device: torch.device,
    hidden_dtype: torch.dtype,
    weights_dtype: torch.dtype,
) -> Recipe:
    """The fastest way that equals the module's own forward on random weights. Raises RecipeError where none
    does.

    `hidden_dtype` and `weights_dtype` are those of the hidden state and of the router's weights in this
    model.
    """
    generator = torch.Generator().manual_seed(0)
    pair = {
        name: (torch.randn(2, *shape, generator=generator) * 0.1).to(device, layout.dtype)
        for name, shape in layout.shapes.items()
    }
    module = with_weights(module, pair)
    size = next(shape for name, shape in layout.shapes.items() if name in ("gate_up_proj", "up_proj"))
    width = size[0 if module.is_transposed else -1]
    trials = []
    for tokens in (1, 2, 7):
        hidden = torch.randn(tokens, width, generator=generator).to(device, hidden_dtype)
        weights = torch.rand(tokens, 2, generator=generator).to(device, weights_dtype)
        trials.append((hidden, weights, _of_class(module, hidden, weights)))
    for way in (direct, of_class):
        for sum_dtype in dict.fromkeys((hidden_dtype, weights_dtype, torch.float32)):
            try:
                experts = [way(module, {name: both[e] for name, both in pair.items()}) for e in (0, 1)]
                if all(
                    torch.equal(_added(experts, hidden, weights, sum_dtype), expected)
                    for hidden, weights, expected in trials
                ):
                    return Recipe(way, sum_dtype, _together(experts, *trials[0][:2]))
            except (RuntimeError, AttributeError, TypeError, KeyError):
                break
    raise RecipeError(f"{type(module).__name__} cannot be computed one expert at a time to the same bits")


def direct(module: Any, tensors: Mapping[str, torch.Tensor]) -> Expert:
    """An expert on plain tensors, without its class's search for its tokens, which costs as much as the
    expert for one token.
    """
    gated = module.has_gate
    up_name = "gate_up_proj" if gated else "up_proj"
    up, down = tensors[up_name], tensors["down_proj"]
    if tensors.keys() - {up_name, "down_proj", f"{up_name}_bias", "down_proj_bias"}:
        raise KeyError("parameters that this way does not know")
    inner = _gate(module) if gated else module.act_fn
    norm = module.post_expert_norm if module.has_post_expert_norm else None
    multiply: Callable[..., torch.Tensor] = torch.matmul if module.is_transposed else linear
    if not module.has_bias and norm is None:
        return Plain(inner, multiply, up, down)
    up_bias, down_bias = tensors.get(f"{up_name}_bias"), tensors.get("down_proj_bias")

    def full(hidden: torch.Tensor, weights: torch.Tensor) -> torch.Tensor:
        wide = multiply(hidden, up)
        if up_bias is not None:
            wide = wide + up_bias
        out = multiply(inner(wide), down)
        if down_bias is not None:
            out = out + down_bias
        return (out if norm is None else norm(out)) * weights

    return full


class Plain:
    """An expert of two matrices and what is between them. up, down: [in, out] for `matmul`, [out, in] for
    `linear`.
    """

    __slots__ = ("_multiply", "down", "inner", "up")

    def __init__(
        self,
        inner: Callable[[torch.Tensor], torch.Tensor],
        multiply: Callable[..., torch.Tensor],
        up: torch.Tensor,
        down: torch.Tensor,
    ) -> None:
        self.inner, self._multiply, self.up, self.down = inner, multiply, up, down

    def __call__(self, hidden: torch.Tensor, weights: torch.Tensor) -> torch.Tensor:
        return self._multiply(self.inner(self._multiply(hidden, self.up)), self.down) * weights

    def multiplied_by(self) -> tuple[torch.Tensor, torch.Tensor]:
        """Both matrices as [in, out]."""
        return (self.up.T, self.down.T) if self._multiply is linear else (self.up, self.down)

    @property
    def by_rows(self) -> bool:
        """Whether its matrices are [out, in] on a CPU, so that `torch.mv` takes them as they stand."""
        return self._multiply is linear and self.up.device.type == "cpu"


class Together:
    """The experts of one token, each multiplied with its own matrices, and what is between and after the
    products done for all of them at once: half the calls. Of one layer after the other: what it computes in
    is used again.
    """

    def __init__(self) -> None:
        self._rooms: dict[int, tuple[Any, ...]] = {}  # experts -> rows for the products

    def __call__(
        self, experts: Sequence[Any], hidden: torch.Tensor, weights: torch.Tensor
    ) -> tuple[torch.Tensor, ...]:
        """The contribution of each, [1, hidden], as `Plain` gives it.

        hidden: [1, hidden]; weights: [n] or [1, n], in the order of `experts`.
        """
        count = len(experts)
        if count not in self._rooms:
            first_up, first_down = experts[0].multiplied_by()
            wide = hidden.new_empty(count, 1, first_up.shape[1])
            out = hidden.new_empty(count, 1, first_down.shape[1])
            self._rooms[count] = wide, out, *map(self._rows, (wide, out))
        wide, out, up_rows, down_rows = self._rooms[count]
        self._up(experts, hidden, up_rows)
        self._down(experts, experts[0].inner(wide), down_rows)
        return (out * weights.view(count, 1, 1)).unbind()

    def _rows(self, room: torch.Tensor) -> Sequence[torch.Tensor]:
        """Where each product goes. room: [n, 1, width]"""
        return room.unbind()

    def _up(self, experts: Sequence[Any], hidden: torch.Tensor, rows: Sequence[torch.Tensor]) -> None:
        for expert, row in zip(experts, rows, strict=True):
            torch.mm(hidden, expert.multiplied_by()[0], out=row)

    def _down(self, experts: Sequence[Any], inner: torch.Tensor, rows: Sequence[torch.Tensor]) -> None:
        for expert, given, row in zip(experts, inner.unbind(), rows, strict=True):
            torch.mm(given, expert.multiplied_by()[1], out=row)


class AsVectors(Together):
    """The same with each row as a vector, which spares a CPU a new order of every matrix of 16 bits."""

    def _rows(self, room: torch.Tensor) -> Sequence[torch.Tensor]:
        return room.squeeze(1).unbind()

    def _up(self, experts: Sequence[Any], hidden: torch.Tensor, rows: Sequence[torch.Tensor]) -> None:
        vector = hidden.view(-1)
        for expert, row in zip(experts, rows, strict=True):
            torch.mv(expert.up, vector, out=row)

    def _down(self, experts: Sequence[Any], inner: torch.Tensor, rows: Sequence[torch.Tensor]) -> None:
        for expert, given, row in zip(experts, inner.squeeze(1).unbind(), rows, strict=True):
            torch.mv(expert.down, given, out=row)


def _together(
    experts: Sequence[Expert], hidden: torch.Tensor, weights: torch.Tensor
) -> type[Together] | None:
    """What serves all experts of a token to the same bits; hidden: [1, hidden], weights: [1, n]"""
    if not all(isinstance(one, Plain) for one in experts):
        return None
    each = [one(hidden, weights[:, n : n + 1]) for n, one in enumerate(experts)]
    for way in (AsVectors, Together):
        if way is AsVectors and not _by_vectors(experts[0]):
            continue
        both = way()(experts, hidden, weights)
        alone = [way()([one], hidden, weights[:, n]) for n, one in enumerate(experts)]
        if all(torch.equal(a, b) and torch.equal(a, c[0]) for a, b, c in zip(each, both, alone, strict=True)):
            return way
    return None


def _by_vectors(expert: Any) -> bool:
    """Whether an expert's products with a vector have the bits of those with a row."""
    return expert.by_rows and all(
        alike((len(one),), one.shape[1], one.dtype) for one in (expert.up, expert.down)
    )


def _gate(module: Any) -> Callable[[torch.Tensor], torch.Tensor]:
    """The module's own gate, or what it comes to for the most common one, without three calls of Python."""
    if type(module)._apply_gate is not _default_apply_gate or not isinstance(module.act_fn, SILU):
        return module._apply_gate  # type: ignore[no-any-return]

    def gate(wide: torch.Tensor) -> torch.Tensor:
        half, up = wide.chunk(2, -1)
        return silu(half) * up

    return gate


def of_class(module: nn.Module, tensors: Mapping[str, torch.Tensor]) -> Expert:
    """An expert through its class's own forward, beneath transformers' dispatch, on a module that has no
    other.
    """
    one = with_weights(module, {name: tensor[None] for name, tensor in tensors.items()})
    return lambda hidden, weights: _of_class(one, hidden, weights)


def _of_class(module: nn.Module, hidden: torch.Tensor, weights: torch.Tensor) -> torch.Tensor:
    """Sends every token to the first n experts, n being the columns of `weights`."""
    forward: Any = type(module).forward.__wrapped__  # type: ignore[attr-defined]
    index = torch.arange(weights.shape[1], device=hidden.device).expand(len(hidden), -1)
    return forward(module, hidden, index, weights)  # type: ignore[no-any-return]


def _added(
    experts: list[Expert], hidden: torch.Tensor, weights: torch.Tensor, sum_dtype: torch.dtype
) -> torch.Tensor:
    parts = [expert(hidden, weights[:, n : n + 1]).to(sum_dtype) for n, expert in enumerate(experts)]
    return (parts[0] + parts[1]).to(hidden.dtype)


def with_weights(module: nn.Module, tensors: Mapping[str, torch.Tensor]) -> Any:
    """The same module, its children and settings, on other stacked weights."""
    other = copy.copy(module)
    other._parameters = {name: nn.Parameter(tensor, requires_grad=False) for name, tensor in tensors.items()}
    return other

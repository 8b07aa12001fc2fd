"""Asks a model, in one short pass, which experts its text reaches and which module routes to each.

Nothing is guessed from names: the pass runs the model's own code with experts that answer zeros, so it needs
none of their weights. What it finds is what the engine relies on: the order of the MoE layers, how many
experts a token uses, which module chose them, what else that module was given, and where in its result the
choice stands. Knows neither slots nor policies.

    reached = probe(model, [5, 6])
    reached[0].k
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import torch
from torch import nn
from torch.nn.functional import linear
from transformers.integrations.moe import ALL_EXPERTS_FUNCTIONS

LOOKAHEADS = 3  # guesses that a trace holds: for 1, 2 and 3 layers ahead


@dataclass(frozen=True, eq=False, slots=True)
class Product:
    """What a plain router does to a hidden state: hidden [token, hidden] -> logits [token, expert]"""

    weight: torch.Tensor  # [expert, hidden]
    precise: bool  # in float32

    def __call__(self, hidden: torch.Tensor) -> torch.Tensor:
        if self.precise:
            return linear(hidden.float(), self.weight.float())
        return linear(hidden, self.weight)

    def of(self, layers: range, experts: int) -> Product:
        """Of some of the layers whose routers stand in it side by side; experts: of each layer."""
        return Product(self.weight[layers.start * experts : layers.stop * experts], self.precise)


@dataclass(frozen=True, eq=False, slots=True)
class Router:
    """A layer's router as something that can be asked about any hidden state.

    Most routers multiply the hidden state with a matrix and choose the largest: these need no more than the
    product, a third of the time. It is used where it gave the router's own logits, bit for bit, and its own
    choice, on random hidden states.
    """

    module: nn.Module
    args: tuple[Any, ...]  # what it is given beside the hidden state, by position ...
    kwargs: dict[str, Any]  # ... and by name; all of it belongs to the model, not to the token
    logits: int  # places in what it returns
    weights: int
    chosen: int
    product: Product | None = None  # where it chooses the largest

    def ask(self, hidden: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """Logits [token, expert], and what experts are to be ranked by, the same size.

        Its own choice ranks first: some routers add biases or groups to their logits before they choose. No
        hook of the module is called.
        """
        if self.product is not None:
            logits = self.product(hidden if hidden.dim() == 2 else hidden.flatten(0, -2))
            return logits, logits
        logits, weights, chosen = self.choose(hidden)
        return logits, logits.float().scatter(1, chosen, 1e6 * (1 + weights.float()))

    def choose(self, hidden: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
        """Logits [token, expert], weights [token, k] and ids [token, k] of its choice."""
        found = self.module.forward(hidden, *self.args, **self.kwargs)
        logits, weights, chosen = found[self.logits], found[self.weights], found[self.chosen]
        return logits.flatten(0, -2), weights.flatten(0, -2), chosen.flatten(0, -2)


@dataclass(eq=False, slots=True)
class Reached:
    """One MoE layer that text reaches."""

    experts: nn.Module
    k: int
    hidden_dtype: torch.dtype
    weights_dtype: torch.dtype  # of the router's weights, which may be more precise than the hidden state
    chooser: nn.Module | None = None  # the module whose result the experts were given ...
    same_hidden: bool = False  # ... from the very hidden state that they were given too
    router: Router | None = None  # None where it cannot be asked about another layer's hidden state ...
    why_not: str = ""  # ... and why


@dataclass(slots=True)
class _Pass:
    """What one pass did, in the order in which it did it."""

    reached: list[Reached] = field(default_factory=list)
    results: list[tuple[nn.Module, tuple[Any, ...], dict[str, Any], Any]] = field(default_factory=list)


def is_experts(module: nn.Module) -> bool:
    """transformers' `use_experts_implementation` leaves these marks on an experts module."""
    return hasattr(module, "_is_expert_parallel") and hasattr(module, "has_gate")


def probe(model: nn.Module, ids: list[int], device: torch.device | str = "cpu") -> list[Reached]:
    """The MoE layers that a pass over the token `ids` reaches, in order. Raises what the model raises."""
    seen = _Pass()
    parents = {id(module): parent for parent in model.modules() for module in parent.children()}
    experts = [module for module in model.modules() if is_experts(module)]
    beside = {id(child): child for module in experts for child in parents[id(module)].children()}
    owned = {id(tensor) for tensor in [*model.parameters(), *model.buffers()]}

    def keep(module: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any], result: Any) -> None:
        if isinstance(result, tuple):
            seen.results.append((module, args, kwargs, result))

    def take(module: nn.Module, hidden: torch.Tensor, index: torch.Tensor, weights: torch.Tensor) -> Any:
        one = Reached(module, index.shape[-1], hidden.dtype, weights.dtype)
        one.chooser, one.router, one.why_not = _find_router(module, index, weights, seen.results, owned)
        asked = next(
            (args for other, args, _, _ in reversed(seen.results) if other is one.chooser and args), None
        )
        one.same_hidden = asked is not None and asked[0] is hidden
        seen.reached.append(one)
        return torch.zeros_like(hidden)

    hooks = [
        child.register_forward_hook(keep, with_kwargs=True)
        for child in beside.values()
        if not is_experts(child)
    ]
    ALL_EXPERTS_FUNCTIONS.register("moeviz-probe", take)
    model.set_experts_implementation("moeviz-probe")
    try:
        with torch.inference_mode():
            model(input_ids=torch.tensor([ids], device=device), use_cache=False)
    finally:
        model.set_experts_implementation("eager")
        for hook in hooks:
            hook.remove()
    return seen.reached


def _find_router(
    module: nn.Module,
    index: torch.Tensor,
    weights: torch.Tensor,
    results: list[tuple[nn.Module, tuple[Any, ...], dict[str, Any], Any]],
    owned: set[int],
) -> tuple[nn.Module | None, Router | None, str]:
    """The module among `results` that returned these very tensors."""
    for chooser, args, kwargs, result in reversed(results):
        places = {id(value): place for place, value in enumerate(result)}
        if id(index) not in places or id(weights) not in places:
            continue
        others = [*args[1:], *kwargs.values()]
        if not args or any(isinstance(value, torch.Tensor) and id(value) not in owned for value in others):
            return chooser, None, "its router also looks at something of the token beside the hidden state"
        count = next(module.parameters(recurse=False)).shape[0]
        logits = next(
            (
                place
                for place, value in enumerate(result)
                if isinstance(value, torch.Tensor) and value.is_floating_point() and value.shape[-1] == count
                if place not in (places[id(index)], places[id(weights)])
            ),
            None,
        )
        if logits is None:
            return chooser, None, "its router does not return a logit for every expert"
        router = Router(chooser, args[1:], kwargs, logits, places[id(weights)], places[id(index)])
        return chooser, replace(router, product=_product(router, args[0])), ""
    return None, None, "no module beside its experts returns their choice"


def _product(router: Router, like: torch.Tensor) -> Product | None:
    """The product alone, where it gives the logits and choice for hidden states such as `like`."""
    weight = getattr(router.module, "weight", None)
    if not isinstance(weight, torch.Tensor) or weight.dim() != 2 or weight.shape[1] != like.shape[-1]:
        return None
    generator = torch.Generator().manual_seed(0)
    shape = (1, *([1] * (like.dim() - 2)), like.shape[-1])
    trials = [torch.randn(shape, generator=generator).to(like.device, like.dtype) for _ in range(32)]
    trials += [torch.cat(trials[:7])]
    for precise in (False, True):
        product = Product(weight, precise)
        try:
            if all(_agree(product(hidden.flatten(0, -2)), *router.choose(hidden)) for hidden in trials):
                return product
        except RuntimeError:  # dtypes that do not fit
            continue
    return None


def _agree(product: torch.Tensor, logits: torch.Tensor, weights: torch.Tensor, chosen: torch.Tensor) -> bool:
    """Whether a product is a router's logits, and its choice the largest of them, strongest first."""
    by_weight = chosen.gather(1, weights.float().argsort(dim=1, descending=True, stable=True))
    largest = product.topk(chosen.shape[1], 1).indices
    return torch.equal(product, logits) and torch.equal(by_weight, largest)


def side_by_side(routers: Sequence[Router | None], hidden_dtype: torch.dtype) -> Product | None:
    """The products of all layers' routers as one matrix, [layer x expert, hidden], with which one hidden
    state is multiplied for the next layers at once. None where a router is no product, or where what comes
    out is not what each gives, bit for bit, on random hidden states.

    The routers' own weights become parts of the matrix, which takes no further memory.
    """
    products = [router.product for router in routers if router is not None and router.product is not None]
    first = next(iter(products), None)
    if first is None or len(products) < len(routers):
        return None
    weights = [one.weight for one in products]
    kinds = {(one.precise, one.weight.shape, one.weight.dtype, one.weight.device) for one in products}
    if len(kinds) > 1 or any(not isinstance(one, nn.Parameter) for one in weights):
        return None
    if first.weight.device.type == "cpu" and first.weight.dtype != torch.float32 and not first.precise:
        return None  # a CPU takes twice as long for one larger matrix of 16 bits as for several
    weight = torch.cat([one.detach() for one in weights])
    whole = Product(weight, first.precise)
    generator = torch.Generator().manual_seed(0)
    experts, width = first.weight.shape
    for source in range(len(products) - 1):
        targets = range(source + 1, min(source + 1 + LOOKAHEADS, len(products)))
        for _ in range(4):
            hidden = torch.randn(1, width, generator=generator).to(weight.device, hidden_dtype)
            together = whole.of(targets, experts)(hidden).view(len(targets), experts)
            if not torch.equal(together, torch.cat([products[target](hidden) for target in targets])):
                return None
    for number, own in enumerate(weights):
        own.data = weight[number * experts : (number + 1) * experts]
    return whole

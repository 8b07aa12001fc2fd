"""Makes the dense part of a model (all but its experts) faster: while a run lasts, its modules give the same
bits by fewer and shorter calls.

One token's pass through a small model spends more time around the products than in them. So matrices that
multiply the same row and stand side by side in memory are one product; a row is multiplied as a vector, which
spares a CPU a new order of a matrix of 16 bits; a root-mean-square norm is one call; and what a module
reaches by name is found at once. Each of these is used only where it gave the bits of the module's own
forward on random numbers. The model's own code still runs and has its own modules back when the run is over.
Knows neither experts nor how a token is chosen.

    with same_inputs(model) as together:
        model(input_ids)
    dense = Dense(model, together)
    dense.begin()
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from inspect import signature
from typing import Any

import torch
from torch import nn
from torch.nn.functional import linear, rms_norm

from moeviz.engine.bits import alike
from moeviz.engine.experts import with_weights
from moeviz.engine.probe import is_experts

Forward = Callable[[torch.Tensor], torch.Tensor]


@contextmanager
def same_inputs(model: nn.Module) -> Iterator[list[list[nn.Linear]]]:
    """The list that it gives is filled, while the model runs in this block, with its linear modules in the
    order of their calls; those together that were given the very same tensor one after the other.
    """
    found: list[list[nn.Linear]] = []
    last: list[torch.Tensor] = []  # the tensor that was given last, and what it held

    def see(module: nn.Linear, args: tuple[Any, ...]) -> None:
        given = args[0] if args else None
        if last and given is last[0] and torch.equal(given, last[1]):
            found[-1].append(module)
        else:
            found.append([module])
            last[:] = [] if given is None else [given, given.clone()]

    hooks = [one.register_forward_pre_hook(see) for one in model.modules() if type(one) is nn.Linear]
    try:
        yield found
    finally:
        for hook in hooks:
            hook.remove()


class Dense:
    """Stands in for linear modules and norms of a model between `begin` and `end`.

    `together`: what `same_inputs` found of a pass.
    """

    def __init__(self, model: nn.Module, together: Sequence[Sequence[nn.Linear]]) -> None:
        self._model, self._given = model, together
        self._shortened: list[tuple[nn.Module, list[str]]] = []
        self.stand_ins: dict[nn.Module, Forward] = {}  # module -> what is called in its place
        self._find()

    def _find(self) -> None:
        """What stands in for modules with as many threads as there are now: kernels share a matrix out among
        them."""
        self._threads = torch.get_num_threads()
        self.stand_ins.clear()
        with torch.inference_mode():
            calls = [one for modules in self._given for one in modules]
            for modules in self._given:
                self._stand_in_for([one for one in modules if calls.count(one) == 1 and _is_plain(one)])
            for module in self._model.modules():
                if (norm := _norm(module)) is not None:
                    self.stand_ins[module] = norm

    def _stand_in_for(self, modules: Sequence[nn.Linear]) -> None:
        """Of linear modules that are given the same input."""
        for neighbours in _side_by_side(modules):
            if alike(*_kind(neighbours)):
                joint = _Joint(neighbours)
                self.stand_ins |= {one: joint.part(n) for n, one in enumerate(neighbours)}
            elif len(neighbours) > 1:
                for one in neighbours:
                    self._stand_in_for([one])

    def begin(self) -> None:
        """A run begins. Modules that somebody listens to through a hook are called themselves."""
        if torch.get_num_threads() != self._threads:
            self._find()
        for module in self._model.modules():
            if is_experts(module):  # copies of which have other weights under the same names
                continue
            # no buffers: some code of transformers replaces them while it runs
            names: dict[str, Any] = dict(module._parameters)
            for name, child in module._modules.items():
                plain = child is not None and not (child._forward_hooks or child._forward_pre_hooks)
                names[name] = self.stand_ins.get(child, child) if plain else child  # type: ignore[arg-type]
            names = {name: value for name, value in names.items() if name not in module.__dict__}
            module.__dict__.update(names)
            self._shortened.append((module, list(names)))

    def end(self) -> None:
        """The run is over."""
        for module, names in self._shortened:
            for name in names:
                module.__dict__.pop(name, None)
        self._shortened.clear()


class _Joint:
    """Linear modules that are given the same row one after the other, as one product of the row with all of
    their matrices. What it computed for the first of them is there for the others, if they are given the same
    tensor.
    """

    def __init__(self, modules: Sequence[nn.Linear]) -> None:
        self._modules = modules
        first = modules[0].weight.detach()
        self._rows = [len(one.weight) for one in modules]
        self._whole = first.as_strided((sum(self._rows), first.shape[1]), first.stride())
        self._given: torch.Tensor | None = None
        self._parts: tuple[torch.Tensor, ...] = ()

    def part(self, number: int) -> Forward:
        """What is called in place of one of them."""
        module = self._modules[number]
        weight, whole, rows = module.weight, self._whole, self._rows
        width, last = whole.shape[1], len(rows) - 1

        def alone(given: torch.Tensor) -> torch.Tensor:
            if given.numel() != width or not given.is_contiguous():
                return linear(given, weight)
            return torch.mv(whole, given.view(-1)).view(*given.shape[:-1], -1)

        def first(given: torch.Tensor) -> torch.Tensor:
            if given.numel() != width or not given.is_contiguous():
                return linear(given, weight)
            found = torch.mv(whole, given.view(-1)).view(*given.shape[:-1], -1)
            self._given, self._parts = given, found.split(rows, -1)
            return self._parts[0]

        def other(given: torch.Tensor) -> torch.Tensor:
            if given is not self._given:
                return linear(given, weight)
            found = self._parts[number]
            if number == last:
                self._given, self._parts = None, ()
            return found

        return _like(module, alone if not last else other if number else first)


def _like(module: nn.Module, forward: Forward) -> Forward:
    """The function, with the module's attributes for code that asks for them."""
    forward.__dict__.update({**module.__dict__, **module._parameters, "forward": forward})
    return forward


def _is_plain(module: nn.Linear) -> bool:
    """Whether it does nothing but multiply, on a CPU, with a matrix that stands row by row."""
    weight = module.weight
    plain = module.bias is None and "forward" not in vars(module)  # which a library may have replaced
    return plain and weight.device.type == "cpu" and weight.is_contiguous()


def _side_by_side(modules: Sequence[nn.Linear]) -> list[list[nn.Linear]]:
    """Modules together whose matrices make one in memory as they stand."""
    found: list[list[nn.Linear]] = []
    for one in modules:
        before = found[-1][-1].weight if found else None
        if (
            before is not None
            and before.untyped_storage().data_ptr() == one.weight.untyped_storage().data_ptr()
            and before.data_ptr() + before.nbytes == one.weight.data_ptr()
            and (before.shape[1], before.dtype) == (one.weight.shape[1], one.weight.dtype)
        ):
            found[-1].append(one)
        else:
            found.append([one])
    return found


def _kind(modules: Sequence[nn.Linear]) -> tuple[tuple[int, ...], int, torch.dtype, bool]:
    """Rows of each matrix, their columns and dtype, and whether they require a gradient."""
    weight = modules[0].weight
    return tuple(len(one.weight) for one in modules), weight.shape[1], weight.dtype, weight.requires_grad


def _norm(module: nn.Module) -> Forward | None:
    """A root-mean-square norm as one call; None where the module is none, or has other bits."""
    weight = module._parameters.get("weight")
    epsilons = [value for name, value in vars(module).items() if "eps" in name and isinstance(value, float)]
    if len(module._parameters) != 1 or weight is None or weight.dim() != 1 or len(epsilons) != 1:
        return None
    if module._modules or module._buffers or "forward" in vars(module) or weight.device.type != "cpu":
        return None
    if len(signature(module.forward).parameters) != 1:  # some are given a gate too
        return None
    epsilon, shape, own, dtype = epsilons[0], tuple(weight.shape), module.forward, weight.dtype

    def whole(given: torch.Tensor, weight: torch.Tensor = weight) -> torch.Tensor:
        return rms_norm(given, shape, weight, epsilon)

    def rounded(given: torch.Tensor, weight: torch.Tensor = weight) -> torch.Tensor:
        return weight * rms_norm(given.float(), shape, None, epsilon).to(given.dtype)

    precise = with_weights(module, {"weight": weight.float()})  # 16 bits would hide another order of sums
    generator = torch.Generator().manual_seed(0)
    trials = [
        torch.randn(*lead, *shape, generator=generator) * scale
        for lead, scale in (((1,), 1), ((1, 1), 1e-3), ((1, 7), 30), ((1, 3, 5), 1))
    ]
    trials.append(trials[-1].transpose(1, 2))
    for way in (whole, rounded):
        try:
            if all(
                torch.equal(own(one.to(dtype)), way(one.to(dtype)))
                and torch.equal(precise.forward(one), way(one, precise.weight))
                for one in trials
            ):
                forward = way
                break
        except (RuntimeError, TypeError, AttributeError, IndexError):
            return None
    else:
        return None

    def norm(given: torch.Tensor) -> torch.Tensor:
        return forward(given) if given.dtype is dtype else own(given)

    return _like(module, norm)

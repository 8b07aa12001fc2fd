"""What the experts of a checkpoint are made of, and how transformers makes their parameters of it.

A checkpoint may hold experts one by one or stacked, and packed into few bits. transformers knows for each
architecture which tensors become which parameter and through which operations. Here these very operations are
run for one expert at a time, on tensors that are read when they are needed. Nothing else of the model is
loaded for it, and nothing is written. Knows neither slots nor tiers.

    model, sources, report = load_dense(cls, folder, config, device, dtype)     # its experts stay on meta
    sources.layer("model.layers.0.mlp.experts").one(5)      # what the checkpoint holds of expert 5
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from copy import deepcopy
from dataclasses import dataclass, field
from itertools import zip_longest
from pathlib import Path
from typing import Any

import torch
from safetensors import safe_open
from torch import nn
from transformers.core_model_loading import (
    WeightConverter,
    WeightRenaming,
    dot_natural_key,
    rename_source_key,
)
from transformers.modeling_utils import load_state_dict

from moeviz.engine.aligned import pages
from moeviz.engine.bare import sooner
from moeviz.engine.checkpoint import AGAIN, named
from moeviz.engine.experts import stacked, with_weights
from moeviz.engine.layout import Row
from moeviz.engine.probe import is_experts
from moeviz.errors import ModelError

Raw = Mapping[str, torch.Tensor]
"""What a checkpoint holds of one expert, by a name that is the same in every layer."""


@dataclass(slots=True)
class _Group:
    """Tensors of a checkpoint of which transformers makes one parameter, or several that belong together."""

    parameter: str  # the first of these parameters, by its full name
    converter: WeightConverter | None  # None where the one tensor is the parameter
    sources: dict[str, list[str]] = field(default_factory=dict)  # pattern -> names, in the experts' order
    dtypes: dict[str, torch.dtype | None] = field(default_factory=dict)  # pattern -> what it is cast to first

    @property
    def parameters(self) -> list[str]:
        """Full names of all parameters that are made of it."""
        if self.converter is None:
            return [self.parameter]
        first, *others = self.converter.target_patterns
        return [self.parameter, *(self.parameter.replace(first, other) for other in others)]

    @property
    def absent(self) -> list[str]:
        """Tensors of which a checkpoint like this one has none at all, though the converter asks for them, by
        the names of those that it has."""
        patterns = [] if self.converter is None else self.converter.source_patterns
        pattern, names = next(iter(self.sources.items()))
        found = [re.search(re.escape(pattern).replace(r"\*", "([^.]+)"), name) for name in names]
        return [
            f"{one.string[: one.start()]}{_filled(other, one.groups())}{one.string[one.end() :]}"
            for other in patterns
            if other not in self.sources
            for one in found
            if one is not None
        ]


class Sources:
    """The checkpoint's tensors of every experts module of a model."""

    def __init__(self, model: Any, files: list[str], transforms: list[Any], quantizer: Any) -> None:
        self._model = model
        self._files: dict[str, str] = {}  # tensor -> its file
        self._open: dict[str, Any] = {}
        self._plain: dict[str, torch.Tensor] = {}  # of files that are not safetensors
        for file in files:
            if file.endswith(".safetensors"):
                self._files |= dict.fromkeys(self._handle(file).keys(), file)
            else:
                self._plain |= load_state_dict(file)
        self.quantised = quantizer is not None
        self._groups: dict[str, _Group] = {}  # full name of a parameter -> what it is made of
        self.dense = self._divide(transforms, quantizer)

    @property
    def missing(self) -> set[str]:
        """Parameters of experts for which the checkpoint holds nothing."""
        return expert_parameters(self._model) - self._groups.keys()

    def layer(self, path: str) -> LayerSources:
        """Of the experts module at this path."""
        names = [f"{path}.{key}" for key in stacked(self._model.get_submodule(path))]
        groups = {id(self._groups[name]): self._groups[name] for name in names}
        return LayerSources(self, self._model, path, list(groups.values()))

    def tensor(self, name: str) -> Any:
        """A tensor of the checkpoint that is read when it is indexed."""
        if name in self._plain:
            return self._plain[name]
        return self._handle(self._files[name]).get_slice(name)

    def about(self, name: str) -> list[Any]:
        """Type and sizes of a tensor of the checkpoint."""
        if name in self._plain:
            return [str(self._plain[name].dtype), *self._plain[name].shape]
        found = self.tensor(name)
        return [found.get_dtype(), *found.get_shape()]

    def let_go(self) -> None:
        """Gives back what the system keeps of the files that were read; they are opened again at need."""
        self._open.clear()

    def _handle(self, file: str) -> Any:
        if file not in self._open:
            self._open[file] = safe_open(file, "pt")
        return self._open[file]

    def _divide(self, transforms: list[Any], quantizer: Any) -> dict[str, Any]:
        """Finds the groups of the experts' parameters as transformers' own loader does; gives all other
        tensors.
        """
        model = self._model
        renamings = [one for one in transforms if isinstance(one, WeightRenaming)]
        converters = [one for one in transforms if isinstance(one, WeightConverter)]
        by_pattern = {pattern: one for one in converters for pattern in one.source_patterns}
        ours, state = expert_parameters(model), model.state_dict()
        dense = {}
        for name in sorted([*self._files, *self._plain], key=dot_natural_key):
            target, pattern = rename_source_key(name, renamings, converters, model.base_model_prefix, state)
            if target not in state and name in state:
                target, pattern = rename_source_key(name, [], [], model.base_model_prefix, state)
            if target not in ours:
                dense[name] = self.tensor(name)
                continue
            if target not in self._groups:
                group = _Group(target, deepcopy(by_pattern[pattern]) if pattern is not None else None)
                self._groups |= dict.fromkeys(group.parameters, group)
            group = self._groups[target]
            key = pattern or ""
            if key not in group.sources:
                dtype = state[target].dtype
                if quantizer is not None:
                    dtype = quantizer.get_new_dtype(group.converter, self.tensor(name), dtype)
                group.dtypes[key] = dtype
            group.sources.setdefault(key, []).append(name)
        return dense


class LayerSources:
    """The checkpoint's tensors of one layer's experts."""

    def __init__(self, sources: Sources, model: Any, path: str, groups: list[_Group]) -> None:
        self._sources, self._model, self.path, self._groups = sources, model, path, groups
        self.quantised = sources.quantised
        self.experts = len(next(iter(stacked(model.get_submodule(path)).values())))

    @property
    def lacking(self) -> list[int]:
        """Experts of which the checkpoint holds nothing, where it numbers them."""
        names = [name for _, names in self._all() for name in names]
        there = {int(found[1]) for name in names if (found := re.search(r"\.experts\.(\d+)\.", name))}
        return sorted(set(range(self.experts)) - there) if there else []

    @property
    def form(self) -> dict[str, Any]:
        """Types and shapes of the checkpoint's tensors, from headers alone. Layers of one form are made
        alike.
        """
        return {name: [len(names), *self._sources.about(names[0])] for name, names in self._all()}

    def whole(self) -> dict[str, torch.Tensor]:
        """The stacked parameters of all experts, by their names in the module."""
        every = {name: [self._sources.tensor(n)[...] for n in names] for name, names in self._all()}
        return self._made(every, self.experts)

    def one(self, expert: int) -> Raw:
        """What the checkpoint holds of one expert. Only where `one_by_one` says so."""
        return {name: self._piece(names, expert, expert + 1)[0] for name, names in self._all()}

    def make(self, raw: Raw) -> dict[str, torch.Tensor]:
        """The parameters of one expert of what the checkpoint holds of it, on the same device.

        Needs no checkpoint and serves every layer whose tensors are of the same types and shapes.
        """
        made = self._made({name: [tensor] for name, tensor in raw.items()}, 1)
        return {name: tensor[0] for name, tensor in made.items()}

    def one_by_one(self) -> bool:
        """Whether what `make` makes of one expert is, bit for bit, what is made of it among others.

        It is tried on two experts: an architecture may do with all experts of a layer what it does not do
        with each, as ERNIE 4.5 VL, which divides one list among two modules.
        """
        for _, names in self._all():
            _, *shape = self._sources.about(names[0])
            alone = len(names) == 1 and shape[:1] == [self.experts]
            if self.experts < 2 or not (alone or len(names) == self.experts):
                return False
        try:
            both = self._made({name: self._piece(names, 0, 2) for name, names in self._all()}, 2)
            each = [self.make(self.one(expert)) for expert in (0, 1)]
        except Exception:  # an operation that needs all experts; `whole` says what is wrong, if anything is
            return False
        return all(
            both[name].shape == (2, *value.shape[1:])
            and same_bits(both[name], torch.stack([one[name] for one in each]))
            for name, value in stacked(self._model.get_submodule(self.path)).items()
        )

    def _all(self) -> list[tuple[str, list[str]]]:
        """(name that is the same in every layer, the checkpoint's names) of all tensors."""
        return [
            (f"{group.parameter.rpartition('.')[2]}.{n}", names)
            for group in self._groups
            for n, names in enumerate(group.sources.values())
        ]

    def _piece(self, names: list[str], start: int, stop: int) -> list[torch.Tensor]:
        """What one pattern holds of some experts: a piece of the one stacked tensor, or a tensor for each."""
        if len(names) == 1:
            return [self._sources.tensor(names[0])[start:stop]]
        return [self._sources.tensor(name)[...] for name in names[start:stop]]

    def _made(self, tensors: Mapping[str, list[torch.Tensor]], experts: int) -> dict[str, torch.Tensor]:
        """Runs transformers' operations on tensors, named as by `_all`, of so many experts."""
        model, found = _WithExperts(self._model, experts), {}
        left = iter(tensors.values())
        for group in self._groups:
            given = {
                pattern: [one if dtype is None else one.to(dtype) for one in next(left)]
                for pattern, dtype in group.dtypes.items()
            }
            made: Mapping[str, Any] = {group.parameter: given.get("")}
            if group.converter is not None:
                group.converter.collected_tensors.update(given)
                try:
                    made = group.converter.convert(group.parameter, model, self._model.config)
                except Exception:
                    if absent := group.absent:
                        raise ModelError(f"the checkpoint lacks {named(absent)}. {AGAIN}") from None
                    raise
            for name, value in made.items():
                path, _, key = name.rpartition(".")
                if path == self.path:
                    found[key] = value[0] if isinstance(value, list) else value
        return found


def _filled(pattern: str, names: Sequence[str]) -> str:
    """A pattern with these names in the places of its stars."""
    return "".join(map("".join, zip_longest(pattern.split("*"), names, fillvalue="")))


class _WithExperts:
    """A model as an operation sees it that looks at its parameters, with so many experts in each layer."""

    def __init__(self, model: Any, experts: int) -> None:
        self._model, self._experts = model, experts

    def get_submodule(self, path: str) -> nn.Module:
        module = self._model.get_submodule(path)
        if not is_experts(module):
            return module
        weights = {
            name: torch.empty(self._experts, *value.shape[1:], dtype=value.dtype, device="meta")
            for name, value in stacked(module).items()
        }
        return with_weights(module, weights)

    def get_parameter(self, name: str) -> nn.Parameter:
        path, _, key = name.rpartition(".")
        return self.get_submodule(path).get_parameter(key)


def expert_parameters(model: nn.Module) -> set[str]:
    """Full names of the stacked parameters of every experts module."""
    return {
        f"{path}.{key}"
        for path, module in model.named_modules()
        if is_experts(module)
        for key in stacked(module)
    }


def load_dense(
    cls: type[Any], folder: Path, config: Any, device: torch.device, dtype: torch.dtype
) -> tuple[Any, Sources, dict[str, Any]]:
    """The model of a checkpoint with everything but its experts, which stay on the meta device; what these
    are made of; and transformers' report of what it missed or did not expect.

    It is `from_pretrained` but for the tensors that it is given to load. Raises what that raises.
    """
    found: list[Sources] = []

    def load(
        model: Any, state_dict: Any, files: list[str], how: Any, expected: Any = None
    ) -> tuple[Any, Any]:
        sources = Sources(model, files, how.weight_mapping or [], how.hf_quantizer)
        found.append(sources)
        dtypes = {name: value.dtype for name, value in model.state_dict().items()}
        for name in expert_parameters(model):
            model.get_parameter(name)._is_hf_initialized = True  # no values are drawn for what has none
        report, index = cls._load_pretrained_model(model, sources.dense, None, how, expected)
        if how.hf_quantizer is not None:
            cast(model, dtypes)
        report.missing_keys -= expert_parameters(model)  # which of them are missing, `missing` says
        return report, index

    def make(self: Any, *values: Any, **named: Any) -> None:
        sooner(lambda: cls.__init__(self, *values, **named))

    # a class of its own, so that nothing else that loads such a model meanwhile is changed
    members = {"__module__": cls.__module__, "__init__": make, "_load_pretrained_model": staticmethod(load)}
    model, report = type(cls.__name__, (cls,), members).from_pretrained(
        str(folder),
        config=config,
        device_map={"": str(device)},
        dtype=dtype,
        experts_implementation="eager",
        trust_remote_code=False,
        output_loading_info=True,
        ignore_mismatched_sizes=True,  # so that the report names them, for the caller to refuse
    )
    model.__class__ = cls
    (sources,) = found
    sources.dense.clear()
    return model, sources, report


def cast(model: nn.Module, dtypes: Mapping[str, torch.dtype]) -> None:
    """Gives parameters of 16 bits the dtypes that the model was made with.

    Of an fp8 checkpoint transformers leaves what is not quantised in the checkpoint's own, so that a model in
    another dtype does not run. What is kept in float32 on purpose stays.
    """
    for name, parameter in model.named_parameters():
        if parameter.dtype in (torch.bfloat16, torch.float16):
            parameter.data = parameter.data.to(dtypes.get(name, parameter.dtype))


def same_bits(a: torch.Tensor, b: torch.Tensor) -> bool:
    """Whether two tensors are of one dtype and shape and equal, a NaN too."""
    return (a.dtype, a.shape) == (b.dtype, b.shape) and torch.equal(
        a.contiguous().view(torch.uint8), b.contiguous().view(torch.uint8)
    )


def own(model: nn.Module, in_pages: bool = False) -> None:
    """Moves parameters out of the mapped checkpoint into memory of their own, one at a time.

    A mapping would stay as long as one of them stands in it; and a CPU's matrix kernels may round differently
    by address, so that the bits of a run would depend on the layout of a file. `in_pages`: all in one block
    of huge pages, where there are any.
    """
    held = [one for one in model.parameters() if one.device.type == "cpu"]
    if not in_pages:
        for parameter in held:
            parameter.data = parameter.data.clone()
        return
    row = Row({str(number): (one.dtype, tuple(one.shape)) for number, one in enumerate(held)})
    places = row.views(pages(row.bytes)) if held else {}
    for parameter, place in zip(held, places.values(), strict=True):
        if parameter.is_contiguous():
            parameter.data = place.copy_(parameter.data)
        else:  # its strides decide which kernel multiplies with it
            parameter.data = parameter.data.clone()

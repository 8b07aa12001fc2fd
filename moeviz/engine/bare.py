"""Makes models without values sooner.

On its device for tensors without values, meta, torch computes in Python, and that imports sympy and all that
torch knows of symbols: a tenth of the time to the first token of a run. What a model computes there as it is
made is little: it draws its parameters, which have no values to draw, and takes the frequencies of rotary
positions out of ranges.

    with torch.device("meta"):
        model = sooner(lambda: AutoModelForCausalLM.from_config(config))
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch.overrides import TorchFunctionMode


def sooner(make: Callable[[], Any]) -> Any:
    """What `make` gives, which makes a model on the meta device; it is called again where that does not go
    this way."""
    try:
        with _Bare():
            return make()
    except RuntimeError:  # a range on the host has met a tensor without values
        return make()


class _Bare(TorchFunctionMode):
    """Within this block nothing is drawn for a tensor without values, and `torch.arange` gives values on the
    host unless its call names a device, as transformers itself has `torch.linspace` do.

    What is computed of a range becomes a buffer, which transformers gives its place and its values when it
    loads the parameters.
    """

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = kwargs or {}
        if func is torch.arange and kwargs.get("device") is None:
            return func(*args, **{**kwargs, "device": "cpu"})
        if getattr(func, "__module__", "") == torch.nn.init.__name__:
            drawn: torch.Tensor = args[0] if args else kwargs["tensor"]
            if drawn.is_meta:
                return drawn
        return func(*args, **kwargs)

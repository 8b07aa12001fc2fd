"""Imports what the engine stands on sooner, in processes of moeviz's own: the command line and the worker.

    import_engine()         # then: from moeviz.engine.loader import load

Importing torch and transformers makes a million objects that stay, through which the garbage collector goes
again and again meanwhile: a quarter of the time. And transformers imports what moeviz never uses: torchao and
scipy wherever they are installed (for checkpoints that moeviz does not serve, with warnings of kernels for
machines that this is not, and for losses of image models), torch's compiler and its tensors of many machines.
That is half of the rest, and none of it happens here. A program that uses moeviz as a library imports as it
likes: what transformers finds there is not moeviz's to decide.
"""

from __future__ import annotations

import gc
import importlib
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from types import ModuleType
from typing import Any


def import_engine() -> None:
    """Imports all that loading and running a model takes."""
    with _no_collections(), _without("torchao"), _without("scipy"), _compiler_later(), _one_machine():
        # every model's code imports these
        from transformers import GenerationMixin, masking_utils, modeling_layers

        from moeviz.engine import measure

        del GenerationMixin, masking_utils, modeling_layers, measure


@contextmanager
def _no_collections() -> Iterator[None]:
    """What is made within this block is taken to stay: it is never searched for garbage."""
    collects = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        gc.freeze()
        if collects:
            gc.enable()


@contextmanager
def _without(package: str) -> Iterator[None]:
    """Within this block a package that is not imported yet cannot be found. transformers, which remembers
    what it did not find, looks again after it."""
    if package in sys.modules:
        yield
        return
    sys.modules[package] = None  # type: ignore[assignment]  # as python itself marks what cannot be imported
    try:
        yield
    finally:
        del sys.modules[package]
        from transformers.utils import import_utils

        getattr(import_utils, f"is_{package}_available").cache_clear()


@contextmanager
def _one_machine() -> Iterator[None]:
    """Within this block torch says that it was built without what joins many machines, as some builds are.
    transformers remembers that."""
    import torch

    plain = torch.distributed.is_available
    torch.distributed.is_available = lambda: False
    try:
        yield
        from transformers.utils import is_torch_distributed_available

        is_torch_distributed_available()  # which is remembered from now on, if it was not asked yet
    finally:
        torch.distributed.is_available = plain


_COMPILER = "torch._dynamo"
_MASKS = f"{_COMPILER}._trace_wrapped_higher_order_op"


@contextmanager
def _compiler_later() -> Iterator[None]:
    """Within this block torch's compiler is not imported, and after it not before it is asked for something.

    transformers and torch ask it for marks on functions, which say something to the compiler alone and are
    left out, and for one class of attention masks, which is imported with all the rest when it is used.
    """
    import torch

    if _COMPILER in sys.modules:
        yield
        return
    masks = ModuleType(_MASKS)
    masks.TransformGetItemToIndex = _Later  # type: ignore[attr-defined]
    compiler = _Compiler(_COMPILER)
    sys.modules |= {_COMPILER: compiler, _MASKS: masks}
    torch._dynamo = compiler
    try:
        yield
    finally:
        compiler.marks = {"disable"}  # which torch asks for whenever it computes without values
        del sys.modules[_MASKS]


class _Compiler(ModuleType):
    """Stands for torch's compiler until it is asked for more than a mark; then that takes its place."""

    marks = {"disable", "allow_in_graph", "assume_constant_result"}  # noqa: RUF012

    def __getattr__(self, name: str) -> Any:
        if name in self.marks:
            return _mark
        if sys.modules.get(_COMPILER) is self:
            if name.startswith("__") and name != "__path__":  # which a module inside it is looked for by
                raise AttributeError(name)
            import torch

            del sys.modules[_COMPILER], torch._dynamo
            torch._dynamo = importlib.import_module(_COMPILER)
        return getattr(sys.modules[_COMPILER], name)


def _mark(function: Any = None, *values: Any, **named: Any) -> Any:
    """Marks nothing, whether it is called with a function or with settings."""
    return (lambda one: one) if function is None else function


class _Later:
    """`TransformGetItemToIndex`, imported when one is made."""

    def __new__(cls) -> Any:
        return importlib.import_module(_MASKS).TransformGetItemToIndex()

"""Imports what the engine stands on sooner, in processes of moeviz's own: the command line and the worker.

    import_engine()         # then: from moeviz.engine.loader import load

Importing torch and transformers makes a million objects that stay, through which the garbage collector goes
again and again meanwhile: a quarter of the time. And transformers imports torchao wherever it is installed,
for checkpoints that moeviz does not serve, which takes half a second and prints warnings of kernels for
machines that this is not. Neither happens here. A program that uses moeviz as a library imports as it likes:
what transformers finds there is not moeviz's to decide.
"""

from __future__ import annotations

import gc
import sys
from collections.abc import Iterator
from contextlib import contextmanager


def import_engine() -> None:
    """Imports all that loading and running a model takes."""
    with _no_collections(), _without("torchao"):
        from moeviz.engine import measure as measure


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

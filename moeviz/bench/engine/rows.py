"""The rows of `bench engine`: what the engine costs beside transformers, beside its own copies, and by
itself.

A row is a file of this folder with a function `measure(Work)`. It gives figures by name, each with the
median, the least and the most of its rounds and, where there is one, its goal; or a sentence where it cannot
be measured here.

    python -m moeviz bench engine --only bundled --only cache
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from importlib import import_module
from typing import Any

import click

ROWS = {
    "bundled": "decoding beside transformers with every expert in memory: all experts in slots, and half",
    "many-experts": "the same on random models of 64 and 128 experts in 16 layers",
    "mixtral": "a random Mixtral of 1.3 GB at half the slots, beside transformers and disk offload",
    "on-demand": "copying every expert every time, beside decoding from slots and the copies' own time",
    "oracle": "stall with pre-fetches that are always right, beside the least that there can be",
    "recording": "what recording trace and guesses costs",
    "cache": "cache and policy work of every policy, beside an event's time",
    "prefill": "a prompt of 1,000 tokens with half the slots on disk, beside all experts in slots",
    "first-token": "from the start of `run` to its first token",
}
PROMPT = "And it came to pass"
DTYPES = ("float32", "bfloat16")


@dataclass(frozen=True, slots=True)
class Work:
    """How much a row measures."""

    repeats: int = 5  # rounds, interleaved
    tokens: int = 100  # generated in each
    model: str = ""  # folder of the model instead of the bundled one, where a row makes none of its own
    device: str = "cpu"  # the fast tier, and where transformers computes; as torch names it

    @property
    def folder(self) -> str:
        from moeviz.engine.loader import BUNDLED

        return self.model or str(BUNDLED)


def engine(work: Work, only: Sequence[str] = ()) -> Iterator[dict[str, Any]]:
    """The figures of each row named, or of all, on one thread; which row it is at goes to stderr. On an
    accelerator a row that needs a CPU is left out in words.

    Raises ModelError and what loading raises.
    """
    from moeviz.engine.imports import import_engine

    import_engine()
    from moeviz.engine.hardware import device_named
    from moeviz.engine.loader import use_threads

    use_threads(1)
    work = replace(work, device=str(device_named(work.device)))
    names = list(only or ROWS)
    for at, name in enumerate(names, start=1):
        click.echo(f"row {at} of {len(names)}: {ROWS[name]}", err=True)
        row = import_module(f"moeviz.bench.engine.{name.replace('-', '_')}")
        yield row.measure(work)

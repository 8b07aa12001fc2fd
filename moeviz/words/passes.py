"""What forward passes are called."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from moeviz.core.run import Run
from moeviz.core.trace import DECODE, Trace


def pass_names(phase: NDArray[np.uint8], tokens: NDArray[np.integer[Any]]) -> list[str]:
    """What each forward pass is called, as on the stage: "the prompt", "token 12", or, where it takes in
    several tokens, "pass 12". phase, tokens: [F] of each pass, and how many go in
    """
    decoded = np.flatnonzero(phase == DECODE)
    begins = int(decoded[0]) if decoded.size else len(phase)
    names = ["the prompt"] if begins == 1 else [f"prompt, pass {number}" for number in range(begins)]
    return names + [
        f"token {number}" if one == 1 else f"pass {number}"
        for number, one in enumerate(tokens[begins:].tolist(), begins)
    ]


def passes_of(found: Run | Trace) -> list[str]:
    """What each forward pass of a run or a trace is called."""
    if isinstance(found, Trace):
        sizes = np.array([tokens.stop - tokens.start for tokens in found.passes()], np.int64)
        return pass_names(found.pass_phase, sizes)
    return pass_names(found.passes.phase, found.passes.tokens)


def from_to(names: Sequence[str]) -> str:
    """Several that follow each other: "tokens 3 to 9", "the prompt to token 2"."""
    first, last = names[0], names[-1]
    if first == last:
        return first
    what, _, number = last.rpartition(" ")
    if first.startswith(f"{what} "):
        return f"{what}{'es' if what.endswith('s') else 's'} {first.rpartition(' ')[2]} to {number}"
    return f"{first} to {last}"

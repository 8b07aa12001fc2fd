"""What rounding a model's experts changes: the same text with and without, number by number.

Knows no engine: whoever runs the text brings logits and choices. Imports no numpy: the command line's help
names what is in EXPERTS.

    difference("int8", logits, exact_logits, experts, exact_experts).rerouted        # 0.012
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

LOSSLESS = "lossless"
UNPACKED = "unpacked"  # lossless too: as a slot does, where the checkpoint packs them
EXPERTS = {LOSSLESS: 0, UNPACKED: 0, "int8": 8, "int4": 4}
"""How the slow tier keeps experts -> bits of a weight; 0: they are not rounded."""
GROUP = 64  # weights that share a scale in int4
SCALE_BYTES = 4  # of float32


@dataclass(frozen=True, slots=True)
class Lossy:
    """Rounded experts against the same model without rounding, both given the same tokens."""

    experts: str  # a name of EXPERTS
    tokens: int  # that were compared
    largest: float  # difference of a logit, of all tokens
    mean: float  # difference of a logit, absolute
    spread: float  # standard deviation of the logits without rounding, to hold a difference against
    same_token: float  # share of tokens after which the likeliest next token is the same
    rerouted: float  # share of chosen experts that are not chosen without rounding


def rounded_bytes(bits: int, outputs: int, inputs: int) -> int:
    """What a matrix takes with so many bits a weight, its scales included: one for each output in 8 bits, one
    for each group of an output's weights in 4.
    """
    scales = outputs if bits == 8 else outputs * (inputs // math.gcd(inputs, GROUP))
    return -(-bits * outputs * inputs // 8) + SCALE_BYTES * scales


def difference(
    name: str,
    logits: NDArray[np.float32],
    exact_logits: NDArray[np.float32],
    experts: NDArray[np.integer[Any]],
    exact_experts: NDArray[np.integer[Any]],
) -> Lossy:
    """logits: [token, vocabulary]; experts: [token, layer, k], in any order."""
    apart = abs(logits - exact_logits)
    kept = (experts[..., :, None] == exact_experts[..., None, :]).any(-1)
    return Lossy(
        name,
        len(logits),
        float(apart.max()),
        float(apart.mean()),
        float(exact_logits.std()),
        float((logits.argmax(-1) == exact_logits.argmax(-1)).mean()),
        float(1 - kept.mean()),
    )

"""A made-up trace of controlled size for benchmarks.

made_up(100_000).tokens
"""

from __future__ import annotations

import numpy as np

from moeviz.core.trace import Trace


def made_up(tokens: int, layers: int = 24, experts: int = 32, k: int = 4, seed: int = 0) -> Trace:
    """A trace of skewed routing that repeats itself with noise: half of a token's experts are those of one of
    the last tokens.
    """
    rng = np.random.default_rng(seed)
    skew = np.log(rng.dirichlet(np.full(experts, 0.5), layers) + 1e-4)
    noise = rng.gumbel(size=(tokens, layers, experts)).astype(np.float32)
    score = skew[None] + noise
    for back in (1, 3):  # what was wanted lately is wanted more
        score[back:] += 0.7 * noise[:-back]
    chosen = np.argpartition(-score, k, 2)[:, :, :k]
    weights = np.take_along_axis(score, chosen, 2)
    order = np.argsort(-weights, 2)
    weights = -np.sort(-rng.random((tokens, layers, k)).astype(np.float32), 2)
    return Trace(
        experts=np.take_along_axis(chosen, order, 2).astype(np.int16),
        weights=weights,
        token_ids=np.zeros(tokens, np.int32),
        phase=np.ones(tokens, np.uint8),
        forward_pass=np.arange(tokens, dtype=np.int32),
        guess=np.full((tokens, layers, 0, 0), -1, np.int16),
        num_experts=experts,
        texts=tuple(f"t{n}" for n in range(tokens)),
        model="made up",
        expert_bytes=1_000_000,
    )

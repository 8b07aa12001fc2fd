"""Made-up traces of controlled skew, reuse and change of subject, for lessons, tests and benchmarks. Knows no
model.

synthetic(511, layers=24, experts=32, k=4, skew=1.0, reuse=0.5).tokens
"""

from __future__ import annotations

import numpy as np

from moeviz.core import given
from moeviz.core.trace import Trace
from moeviz.errors import SettingsError

PIECE = 1_024  # tokens whose draws are made together


def synthetic(
    tokens: int,
    layers: int = 24,
    experts: int = 32,
    k: int = 4,
    skew: float = 1.0,
    reuse: float = 0.5,
    change: int = 0,
    seed: int = 0,
) -> Trace:
    """A decode trace in which every layer has favourites of its own.

    `skew`: the expert that is drawn n-th most has a weight of n ** -skew (Zipf); 0 draws all alike. `reuse`:
    the chance that an expert of the last token is kept; the others are drawn anew and may come back by
    chance. `change`: after so many tokens the subject changes and every layer gets other favourites; 0:
    never. The same arguments give the same trace. Raises SettingsError or TraceError where they make no
    trace.
    """
    counts = {"tokens": tokens, "layers": layers, "experts": experts, "k": k, "change": change, "seed": seed}
    given.whole("synthetic", **counts)
    given.number("synthetic", skew=skew, reuse=reuse)
    if not 0 <= reuse <= 1:
        raise SettingsError(f"reuse is {reuse!r}; it must be a number from 0 to 1.")
    if not 0 <= skew <= 100:
        raise SettingsError(f"skew is {skew!r}; it must be a number from 0 to 100.")
    if min(tokens, layers, experts, k) < 1 or change < 0 or seed < 0 or k > experts:
        raise SettingsError(
            f"{tokens} tokens, {layers} layers, {k} of {experts} experts, change {change} and seed {seed} "
            "make no trace: tokens, "
            "layers, experts and k are at least 1, change and seed at least 0, and k is at most experts."
        )
    rng = np.random.default_rng(seed)
    zipf = -skew * np.log(np.arange(1, experts + 1))
    rows = np.arange(layers)[:, None]
    chosen = np.empty((tokens, layers, k), np.int16)
    strength = np.empty((tokens, layers, k), np.float32)
    favour = np.empty((layers, experts))
    for token in range(tokens):
        if token % PIECE == 0:
            # the largest of log weight + Gumbel noise are a draw without replacement (Vieira 2014)
            noise = rng.gumbel(size=(min(PIECE, tokens - token), layers, experts))
            kept = rng.random((len(noise), layers, k)) < reuse
        if token == 0 or (change and token % change == 0):
            favour = zipf[rng.random((layers, experts)).argsort(1)]
        drawn = favour + noise[token % PIECE]
        wanted = drawn.copy()
        if token:
            wanted[rows, chosen[token - 1]] += np.where(kept[token % PIECE], 1e6, 0.0)
        most = np.argpartition(-wanted, k - 1, 1)[:, :k]
        order = np.argsort(-drawn[rows, most], 1)
        chosen[token] = most[rows, order]
        strength[token] = drawn[rows, chosen[token]]
    weights = np.exp(strength - strength.max(2, keepdims=True))  # softmax over the chosen
    return Trace(
        experts=chosen,
        weights=weights / weights.sum(2, keepdims=True),
        token_ids=None,
        phase=np.ones(tokens, np.uint8),
        forward_pass=np.arange(tokens, dtype=np.int32),
        guess=np.full((tokens, layers, 0, 0), -1, np.int16),
        num_experts=experts,
        texts=tuple(f"t{number}" for number in range(tokens)),
        model="made up",
        seed=seed,
        expert_bytes=1_000_000,
        notes=(f"made up: skew {skew:g}, reuse {reuse:g}, change {change}",),
    )

"""Differences between two settings over several prompts, paired prompt by prompt, with a bootstrap interval.

paired([0.40, 0.55, 0.61], [0.44, 0.57, 0.66]).clear      # whether the second is really better or worse
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

DRAWS = 10_000


@dataclass(frozen=True, slots=True)
class Difference:
    """Second minus first, the mean over prompts, and where it lies in 95 of 100 redrawn sets of prompts."""

    mean: float
    low: float
    high: float
    prompts: int

    @property
    def clear(self) -> bool:
        """False where the interval holds 0: no difference can be told from these prompts."""
        return self.low > 0 or self.high < 0


def paired(first: Sequence[float], second: Sequence[float], seed: int = 0) -> Difference | None:
    """The same number of the same prompts under two settings. None with fewer than two prompts.

    Percentile bootstrap over prompts (Efron 1979), with a fixed seed: the same numbers give the same
    interval. Raises ValueError where the two are not of the same prompts.
    """
    if len(first) != len(second):
        raise ValueError(f"{len(first)} values cannot be paired with {len(second)}.")
    change = np.asarray(second, np.float64) - np.asarray(first, np.float64)
    if len(change) < 2:
        return None
    drawn = np.random.default_rng(seed).choice(change, (DRAWS, len(change))).mean(1)
    low, high = np.percentile(drawn, [2.5, 97.5])
    return Difference(float(change.mean()), float(low), float(high), len(change))

"""Differences: between two runs, number by number, and between repeats of two settings, with an interval.

speed_ratio(repeated(runs_of_lru), repeated(runs_of_lfu)).low > 1       # lfu is faster, outside the spread
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from moeviz.core.run import Run
from moeviz.numbers import output
from moeviz.numbers.medians import Repeated
from moeviz.numbers.metrics import summary

DRAWS = 2_000  # of the bootstrap


@dataclass(frozen=True, slots=True)
class Interval:
    """A median and where it lies in 95 of 100 redrawn samples; without ends where there is one value only."""

    middle: float
    low: float | None
    high: float | None


def bootstrap(values: Sequence[float]) -> Interval:
    """Percentile bootstrap of the median (Efron 1979), drawn with a fixed seed so that the same values give
    the same interval.
    """
    found = np.asarray(values, np.float64)
    middle = float(np.median(found))
    if len(found) < 2:
        return Interval(middle, None, None)
    drawn = np.random.default_rng(0).choice(found, (DRAWS, len(found)))
    low, high = np.percentile(np.median(drawn, axis=1), [2.5, 97.5])
    return Interval(middle, float(low), float(high))


def in_stretches(apart: NDArray[np.int64], accesses: NDArray[np.int64]) -> Interval:
    """Hits of one cache less those of another, over accesses, on one text: its ratio, and where it lies when
    stretches of the text are redrawn, since neighbouring tokens hit alike (a block bootstrap, after Carlstein
    1986). apart, accesses: [stretch]. Without ends where fewer than four stretches have accesses.
    """
    held = accesses > 0
    apart, accesses = apart[held], accesses[held]
    middle = float(apart.sum() / max(int(accesses.sum()), 1))
    if len(apart) < 4:
        return Interval(middle, None, None)
    drawn = np.random.default_rng(0).integers(0, len(apart), (DRAWS, len(apart)))
    low, high = np.percentile(apart[drawn].sum(1) / accesses[drawn].sum(1), [2.5, 97.5])
    return Interval(middle, float(low), float(high))


def speed_ratio(a: Repeated, b: Repeated) -> Interval | None:
    """Tokens per second of b / those of a, paired round by round, since a slow spell of the machine meets
    both.

    None where one of them was not measured.
    """
    pairs = [
        (one.tokens_per_second, other.tokens_per_second)
        for one, other in zip(a.each, b.each, strict=False)
        if one.tokens_per_second and other.tokens_per_second
    ]
    return bootstrap([second / first for first, second in pairs]) if pairs else None


def gains(floor: Repeated, cache: Repeated) -> list[float]:
    """Tokens per second that a cache makes more than `floor`, for each byte of its fast memory, round by
    round. Empty where one of them was not measured, or holds nobody knows how much.
    """
    held = cache.median.fast_tier_bytes
    if not held:
        return []
    return [
        (one.tokens_per_second - least.tokens_per_second) / held
        for least, one in zip(floor.each, cache.each, strict=False)
        if least.tokens_per_second and one.tokens_per_second
    ]


@dataclass(frozen=True, slots=True)
class Pair:
    """One number of two runs."""

    first: float
    second: float

    @property
    def changed(self) -> bool:
        return self.first != self.second


def between(first: Run, second: Run) -> dict[str, Pair]:
    """Every number that `--json` gives of a run, where both runs have it; those of a phase are named
    `decode.hit_ratio`.
    """
    a, b = (_flat(output.summary(summary(run))) for run in (first, second))
    return {name: Pair(a[name], b[name]) for name in a if name in b}


def _flat(values: Mapping[str, Any], place: str = "") -> dict[str, float]:
    found: dict[str, float] = {}
    for name, value in values.items():
        if isinstance(value, Mapping):
            found |= _flat(value, f"{place}{name}.")
        elif isinstance(value, int | float) and not isinstance(value, bool):
            found[place + name] = float(value)
    return found

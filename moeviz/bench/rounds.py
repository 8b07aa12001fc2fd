"""Repeats for benchmarks: interleaved, so that a slow spell of the machine meets every candidate, and told
with their spread.

spread(interleaved({"a": time_a, "b": time_b}, repeats=5)["a"])
"""

from __future__ import annotations

import statistics
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, TypeVar

T = TypeVar("T")
ROOT = Path(__file__).parents[2]  # of the checkout; measured processes run there


def spread(values: Sequence[float], goal: str = "") -> dict[str, Any]:
    """Median, least and most; and what the median should be, where that is said."""
    found = {"median": statistics.median(values), "least": min(values), "most": max(values)}
    return found | ({"goal": goal} if goal else {})


def interleaved(work: dict[str, Callable[[], T]], repeats: int) -> dict[str, list[T]]:
    """Every piece of work once, all again, each round starting one further, so that a slow spell of the
    machine meets all of them.
    """
    names = list(work)
    found: dict[str, list[T]] = {name: [] for name in names}
    for number in range(repeats):
        for name in names[number % len(names) :] + names[: number % len(names)]:
            found[name].append(work[name]())
    return found

"""Eviction policies: a score for every resident expert; the lowest leaves.

A policy sees one expert's record of use and the moment, nothing else, so the app can show every score at every eviction.
Ties leave by least recent use, then by lower expert id. A new policy is one function under `@policy`:

    @policy("mru")
    def mru(use: Use, now: Moment) -> float:
        "Most recently used leaves."
        return -use.last_touch
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass


@dataclass(slots=True)
class Use:
    """One expert's history in a run, kept by the cache."""

    layer: int
    expert: int
    last_touch: int = -1  # clock of the last touch, or of the arrival of a pre-fetched expert not touched yet
    loaded: int = -1  # clock of the last load
    touches: int = 0  # since the run began, kept when the expert is evicted
    touches_resident: int = 0  # since the last load


@dataclass(slots=True)
class Moment:
    """When a score is asked for."""

    clock: int  # grows by one with every touch and every load
    seed: int


Score = Callable[[Use, Moment], float]
POLICIES: dict[str, Score] = {}


def policy(name: str) -> Callable[[Score], Score]:
    """Registers a score under a name."""

    def register(score: Score) -> Score:
        POLICIES[name] = score
        return score

    return register


@policy("lru")
def lru(use: Use, now: Moment) -> float:
    """Least recently used leaves: the clock of the last touch. Source: mixtral-offloading, arXiv 2312.17238."""
    return use.last_touch


@policy("lfu")
def lfu(use: Use, now: Moment) -> float:
    """Least frequently used leaves, counts kept: touches since the run began. arXiv 2511.05814 proposes LFU; the flavour is ours."""
    return use.touches


@policy("lfu-resident")
def lfu_resident(use: Use, now: Moment) -> float:
    """Least frequently used leaves, counts lost on eviction: touches since the last load. As MoE-Infinity, libCacheSim, cachetools."""
    return use.touches_resident


@policy("fifo")
def fifo(use: Use, now: Moment) -> float:
    """First in, first out: the clock of the load."""
    return use.loaded


@policy("random")
def random(use: Use, now: Moment) -> float:
    """Uniform: a hash of seed, clock and expert, so that a replay draws what the live run drew.

    SplitMix64 (Steele, Lea, Flood, OOPSLA 2014).
    """
    z = (now.seed << 48) ^ (now.clock << 24) ^ (use.layer << 12) ^ use.expert
    z = (z + 0x9E3779B97F4A7C15) & 0xFFFFFFFFFFFFFFFF
    z = ((z ^ (z >> 30)) * 0xBF58476D1CE4E5B9) & 0xFFFFFFFFFFFFFFFF
    z = ((z ^ (z >> 27)) * 0x94D049BB133111EB) & 0xFFFFFFFFFFFFFFFF
    return float(z ^ (z >> 31))

"""Settings beside the shape of a model: slots that nobody named, and the bound of several settings.

suited(Settings(), trace.shape)      # 4 slots of a layer, or as many as suit the model
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

from moeviz.core.settings import Settings

Shape = tuple[int, int, int, int | tuple[int, ...]]  # MoE layers, experts, k, bytes of an expert


def named(text: str) -> list[str]:
    """Fields that a text such as `policy=lru,slots=4` names."""
    return [item.partition("=")[0].strip() for item in text.split(",") if item.strip()]


def usual_slots(experts: int, k: int) -> int:
    """Slots of a layer to begin with: a third of its experts, and more than a token needs, since with no
    more than that all policies do the same."""
    return min(experts, max(k + 1, round(experts / 3)))


def suited(settings: Settings, shape: Shape) -> Settings:
    """Settings whose slots nobody named, with as many as suit a model of this shape: as many as they have, in
    every layer; or the usual ones where a token needs those, so that all policies would do the same, or a
    layer has fewer experts.
    """
    if settings.baseline or settings.budget:
        return settings
    layers, experts, k, _ = shape
    slots = settings.slots if k < settings.slots <= experts else usual_slots(experts, k)
    return replace(settings, slots=slots if settings.scope == "layer" else slots * layers)


def bounding(several: Sequence[Settings], shape: Shape) -> Settings:
    """Belady's Settings that none of these beats, without pre-fetching: the slots of the one that has most.
    A baseline has none of its own and counts only where there is nothing else. `shape`: `Trace.shape`.
    """
    most = max(several, key=lambda one: (not one.baseline, sum(one.room(*shape).limits)))
    return replace(most, policy="belady", baseline="", prefetch="none")

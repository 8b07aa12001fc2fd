"""What fits: bytes that a device has left against bytes that a run, or transformers' own resident model,
would take."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING

import torch

from moeviz import words
from moeviz.core.settings import Settings
from moeviz.core.suiting import Shape
from moeviz.engine.layout import Layout
from moeviz.engine.tiers import host_free
from moeviz.errors import ModelError

if TYPE_CHECKING:
    from moeviz.engine.loader import Loaded

Wanted = Callable[[Shape], Sequence[Settings]]  # of runs to come, of a model of this shape
_SPARE = 1.1  # what else a process takes while it holds so many bytes


def left(device: torch.device) -> int:
    """Bytes that can still be taken: free memory of an accelerator; of a CPU what the system and its
    container leave."""
    if device.type != "cpu":
        return int(torch.accelerator.get_memory_info(device)[0])
    return host_free()


def resident_bytes(loaded: Loaded) -> int:
    """What transformers' own model takes with every expert, and one layer's experts more while it loads."""
    layout = loaded.store.layout
    dense = sum(p.numel() * p.element_size() for p in loaded.model.parameters() if p.device.type != "meta")
    return int(dense + (layout.layers + 1) * layout.experts * layout.expert_bytes)


def slot_bytes(layout: Layout, k: int, settings: Settings) -> int:
    """What the slots of a run take in the fast tier. k: experts chosen for a token"""
    room = settings.room(layout.layers, layout.experts, k, layout.expert_bytes)
    return room.pools * room.slots * layout.slot_bytes


def fitting(
    settings: Sequence[Settings], layout: Layout, k: int, device: torch.device, dense: int = 0
) -> tuple[list[Settings], list[str]]:
    """Settings whose slots fit in what a device has left, and a sentence for every baseline that is left out
    because its slots do not. dense: bytes of the dense part, where it has still to be read.

    Raises ModelError where settings that are no baseline do not fit, or none at all.
    """
    kept, left_out, refused = [], [], ""
    for one in settings:
        why = lacking(device, slot_bytes(layout, k, one) + dense)
        if not why:
            kept.append(one)
        elif one.baseline:
            left_out.append(f"The baseline {one.baseline!r} is left out: it {why}.")
            refused = f"The baseline {one.baseline!r} {why}. Choose slots instead, or a smaller model."
        else:
            raise ModelError(f"{one.label}: it {why}. Choose fewer slots.")
    if refused and not kept:
        raise ModelError(refused)
    return kept, left_out


def lacking(device: torch.device, need: int) -> str:
    """Empty where `need` bytes fit, else what is needed and what is there, in words."""
    there = left(device)
    if need * _SPARE <= there:
        return ""
    return f"needs {words.memory(need * _SPARE)} of memory on {device}, where {words.memory(there)} are left"


def check_fit(wanted: Wanted, layout: Layout, k: int, device: torch.device, dense: int = 0) -> None:
    """Raises SettingsError for settings that do not fit a model of this shape, ModelError where their slots
    do not fit in memory, beside a dense part that has still to be read."""
    shape = layout.layers, layout.experts, k, layout.expert_bytes
    settings = wanted(shape)
    for one in settings:
        one.check(*shape)
    fitting(settings, layout, k, device, dense)

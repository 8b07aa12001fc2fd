"""What fits: bytes that a device has left against bytes that a run, or transformers' own resident model,
would take."""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch

from moeviz.core.settings import Settings
from moeviz.engine.tiers import host_free

if TYPE_CHECKING:
    from moeviz.engine.loader import Loaded

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


def slot_bytes(loaded: Loaded, settings: Settings) -> int:
    """What the slots of a run take in the fast tier."""
    layout = loaded.store.layout
    room = settings.room(layout.layers, layout.experts, loaded.k, layout.expert_bytes)
    return room.pools * room.slots * layout.slot_bytes


def lacking(device: torch.device, need: int) -> str:
    """Empty where `need` bytes fit, else what is needed and what is there, in words."""
    there = left(device)
    if need * _SPARE <= there:
        return ""
    return f"needs {need * _SPARE / 1e9:,.1f} GB of memory on {device}, where {there / 1e9:,.1f} GB are left"

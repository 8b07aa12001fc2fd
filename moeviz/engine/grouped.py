"""Computes the experts of a layer by one product over the slots that they stand in, instead of one by one.

Faster on an accelerator, where every product of its own has to be started, and not lossless: the sum of a
token's experts is made in another order. The forward is transformers' own `grouped_mm`, on the slots as if
they were the experts of the module.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
import torch
from torch import nn
from transformers.integrations.moe import ALL_EXPERTS_FUNCTIONS

from moeviz.engine.experts import with_weights
from moeviz.engine.hardware import Hardware
from moeviz.engine.layout import Layout
from moeviz.engine.rows import Rows


def over_slots(module: nn.Module, layout: Layout, slots: torch.Tensor) -> Any:
    """The module with a pool of slots in place of its stacked weights. slots: uint8 [slots, slot_bytes]"""
    stacked = {}
    for name, first in layout.views(slots[0]).items():
        start = first.storage_offset() * first.element_size()
        stacked[name] = slots[:, start : start + first.nbytes].view(first.dtype).unflatten(1, first.shape)
    other = with_weights(module, stacked)
    other.num_experts = len(slots)
    return other


def grouped(on_slots: Any, hardware: Hardware, rows: Rows, slot_of: Mapping[int, int]) -> torch.Tensor:
    """What the experts in `slot_of` (expert -> slot) contribute to every token, summed; [token, hidden]."""
    forward = ALL_EXPERTS_FUNCTIONS["grouped_mm"]
    place = np.full(max(int(rows.ids.max()), *slot_of) + 1, -1)
    place[list(slot_of)] = list(slot_of.values())
    slots = place[rows.ids]
    if (slots >= 0).all():
        found: torch.Tensor = forward(on_slots, rows.hidden, hardware.upload(slots), rows.weights)
        return found
    total = torch.zeros_like(rows.hidden)
    token, rank = np.nonzero(slots >= 0)  # of the other waves' experts this one has none
    if len(token):
        row, column, slot = hardware.upload(np.stack([token, rank, slots[token, rank]]))
        part = forward(on_slots, rows.hidden[row], slot[:, None], rows.weights[row, column, None])
        total.index_add_(0, row, part)
    return total

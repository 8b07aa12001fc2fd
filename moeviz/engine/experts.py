"""Computes one expert on the weights that stand in a slot, with the architecture's own code or a faster equal one.

Knows neither slots' contents nor time. Equal means bit for bit: the faster way is used for a class of modules only after it gave
the same bits as the architecture's own forward on random weights.
"""

from __future__ import annotations

import copy
from collections.abc import Callable
from typing import Any

import torch
from torch import nn

from moeviz.engine.store import Layout

Forward = Callable[[nn.Module, torch.Tensor, torch.Tensor], torch.Tensor]


def on_slot(module: nn.Module, layout: Layout, record: torch.Tensor) -> nn.Module:
    """The layer's experts module as if it had one expert, whose weights are those in `record`, uint8 [record_bytes]."""
    one = copy.copy(module)
    one._parameters = {
        name: nn.Parameter(view[None], requires_grad=False) for name, view in layout.views(record).items()
    }
    return one


def forward_for(module: nn.Module, layout: Layout, device: torch.device) -> Forward:
    """How to compute one expert of this module: (module from `on_slot`, hidden [n, hidden], weights [n, 1]) -> [n, hidden]."""
    if not (getattr(module, "has_gate", False) and {"gate_up_proj", "down_proj"} <= layout.shapes.keys()):
        return _own_forward
    generator = torch.Generator().manual_seed(0)
    record = torch.empty(layout.record_bytes, dtype=torch.uint8, device=device)
    for view in layout.views(record).values():
        view.copy_(torch.randn(view.shape, generator=generator) * 0.1)
    one = on_slot(module, layout, record)
    size = layout.shapes["gate_up_proj"][0 if module.is_transposed else -1]
    for tokens in (1, 2, 7):
        hidden = torch.randn(tokens, size, generator=generator).to(device, layout.dtype)
        weights = torch.rand(tokens, 1, generator=generator).to(device, layout.dtype)
        try:
            if not torch.equal(_direct(one, hidden, weights), _own_forward(one, hidden, weights)):
                return _own_forward
        except (RuntimeError, AttributeError, TypeError):
            return _own_forward
    return _direct


def _own_forward(one: nn.Module, hidden: torch.Tensor, weights: torch.Tensor) -> torch.Tensor:
    """The architecture's forward, beneath transformers' dispatch, with every token sent to expert 0."""
    forward: Any = type(one).forward.__wrapped__  # type: ignore[attr-defined]
    index = torch.zeros((len(hidden), 1), dtype=torch.long, device=hidden.device)
    return forward(one, hidden, index, weights)  # type: ignore[no-any-return]


def _direct(one: Any, hidden: torch.Tensor, weights: torch.Tensor) -> torch.Tensor:
    """Gated expert without the search for its tokens, which costs as much as the expert when there is one token."""
    up = (
        hidden @ one.gate_up_proj[0]
        if one.is_transposed
        else nn.functional.linear(hidden, one.gate_up_proj[0])
    )
    if one.has_bias:
        up = up + one.gate_up_proj_bias[0]
    inner = one._apply_gate(up)
    out = inner @ one.down_proj[0] if one.is_transposed else nn.functional.linear(inner, one.down_proj[0])
    if one.has_bias:
        out = out + one.down_proj_bias[0]
    return (out * weights).to(hidden.dtype)

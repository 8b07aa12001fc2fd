"""Where an expert's tensors stand: in its record in the slow tier, and in a slot of the fast tier.

A record holds one expert's tensors one after the other and is padded to 4,096 bytes, so that a miss is one
aligned read. Knows neither where records are kept nor who reads them.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property
from typing import Any, Protocol

import torch

from moeviz.engine.tiers import ALIGNMENT

_TENSOR_ALIGNMENT = 64  # of tensors within a record

Tensors = Mapping[str, torch.Tensor]
"""Tensors of one expert by name: its parameters, or what a record holds of them."""


class Row:
    """Tensors that stand one after the other in a row of bytes."""

    def __init__(self, tensors: Mapping[str, tuple[torch.dtype, tuple[int, ...]]]) -> None:
        self.tensors = tensors
        self._places: list[tuple[str, int, int, torch.dtype, tuple[int, ...]]] = []
        at = end = self.weights = 0  # weights: bytes of the tensors alone
        for name, (dtype, shape) in tensors.items():
            size = math.prod(shape) * dtype.itemsize
            self._places.append((name, at, at + size, dtype, shape))
            end, self.weights = at + size, self.weights + size
            at = -(-end // _TENSOR_ALIGNMENT) * _TENSOR_ALIGNMENT
        self.bytes = -(-end // ALIGNMENT) * ALIGNMENT  # with what is between them and after them

    def views(self, row: torch.Tensor) -> dict[str, torch.Tensor]:
        """The tensors in a row of so many bytes. row: uint8 [bytes]"""
        return {
            name: row[start:end].view(dtype).view(shape) for name, start, end, dtype, shape in self._places
        }


class Packing(Protocol):
    """How the slow tier holds an expert where that is not as a slot does."""

    name: str  # for people, and to tell files apart
    tensors: Mapping[str, tuple[torch.dtype, tuple[int, ...]]]  # of a record

    def unpack(self, record: Tensors) -> Tensors:
        """The parameters of an expert, on the device where its record is."""


@dataclass(frozen=True, eq=False)
class Layout:
    """Where an expert's tensors stand in its record in the slow tier, and in a slot of the fast tier.

    The two are the same unless the experts are packed: then the record is what the slow tier holds and the
    link copies, and `arrive` makes the slot of it.
    """

    layers: int
    experts: int
    dtype: torch.dtype  # of the parameters as they are computed
    shapes: Mapping[str, tuple[int, ...]]  # parameter name -> shape of one expert's tensor
    packing: Packing | None = None

    @cached_property
    def _slot(self) -> Row:
        return Row({name: (self.dtype, shape) for name, shape in self.shapes.items()})

    @cached_property
    def _record(self) -> Row:
        return Row(self.packing.tensors) if self.packing is not None else self._slot

    @property
    def expert_bytes(self) -> int:
        """Weights of one expert in a slot, without padding."""
        return self._slot.weights

    @property
    def link_bytes(self) -> int:
        """Weights of one expert in the slow tier, without padding: what crosses the link."""
        return self._record.weights

    @property
    def slot_bytes(self) -> int:
        """Room for one expert in the fast tier."""
        return self._slot.bytes

    @property
    def record_bytes(self) -> int:
        """Room for one expert in the slow tier."""
        return self._record.bytes

    @property
    def bytes(self) -> int:
        """All records."""
        return self.layers * self.experts * self.record_bytes

    def about(self) -> dict[str, Any]:
        """What a file's seal says of its records."""
        tensors = self._record.tensors.items()
        return {
            "layers": self.layers,
            "experts": self.experts,
            "dtype": self.packing.name if self.packing else str(self.dtype).removeprefix("torch."),
            "tensors": {n: [str(dtype).removeprefix("torch."), *shape] for n, (dtype, shape) in tensors},
            "record_bytes": self.record_bytes,
        }

    def views(self, slot: torch.Tensor) -> dict[str, torch.Tensor]:
        """The parameters of the expert in a slot. slot: uint8 [slot_bytes]"""
        return self._slot.views(slot)

    def pack(self, tensors: Tensors, record: torch.Tensor) -> None:
        """Writes what a record holds of one expert. record: uint8 [record_bytes]"""
        for name, view in self._record.views(record).items():
            view.copy_(tensors[name])

    def arrive(self, record: torch.Tensor, slot: torch.Tensor) -> None:
        """Unpacks an expert that has come over the link into its slot; both on one device.

        record: uint8 [record_bytes], slot: uint8 [slot_bytes]. Only where there is a packing.
        """
        assert self.packing is not None
        with torch.inference_mode():
            made = self.packing.unpack(self._record.views(record))
            for name, view in self.views(slot).items():
                view.copy_(made[name])

"""A record gives back what was packed, and a slot what its packing made of the record."""

from __future__ import annotations

from collections.abc import Mapping

import torch

from moeviz.engine.layout import Layout
from moeviz.engine.tiers import ALIGNMENT

SHAPES = {"up_proj": (5, 3), "down_proj": (3, 5)}
TENSORS = {name: torch.arange(15.0).view(shape) for name, shape in SHAPES.items()}


def test_a_record_gives_back_what_was_packed_and_is_read_at_once() -> None:
    layout = Layout(2, 4, torch.float32, SHAPES)
    record = torch.empty(layout.record_bytes, dtype=torch.uint8)
    layout.pack(TENSORS, record)
    for name, view in layout.views(record).items():
        assert torch.equal(view, TENSORS[name])
        assert (view.data_ptr() - record.data_ptr()) % 64 == 0  # faster for compute than anywhere
    assert layout.expert_bytes == layout.link_bytes == 2 * 15 * 4
    assert layout.slot_bytes == layout.record_bytes == ALIGNMENT
    assert layout.bytes == 2 * 4 * ALIGNMENT


class Halved:
    """A packing that keeps one tensor for two."""

    name = "halved"
    tensors: Mapping[str, tuple[torch.dtype, tuple[int, ...]]] = {"both": (torch.uint8, (15,))}

    def unpack(self, record: Mapping[str, torch.Tensor]) -> Mapping[str, torch.Tensor]:
        return {name: record["both"].float().view(shape) for name, shape in SHAPES.items()}


def test_a_packed_record_arrives_in_its_slot_as_its_packing_says() -> None:
    layout = Layout(2, 4, torch.float32, SHAPES, Halved())
    record, slot = (torch.empty(size, dtype=torch.uint8) for size in (layout.record_bytes, layout.slot_bytes))
    layout.pack({"both": torch.arange(15, dtype=torch.uint8)}, record)
    layout.arrive(record, slot)
    assert all(torch.equal(view, TENSORS[name]) for name, view in layout.views(slot).items())
    assert (layout.link_bytes, layout.expert_bytes) == (15, 2 * 15 * 4)
    assert layout.about()["dtype"] == "halved"

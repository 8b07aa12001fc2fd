"""The tier's figures are of copies as a run makes them."""

from __future__ import annotations

import pytest
import torch

from moeviz.core.machines import find
from moeviz.engine.layout import Layout
from moeviz.engine.store import HostStore
from moeviz.engine.tier_time import measure
from moeviz.errors import StoreError

LAYOUT = Layout(2, 3, torch.float32, {"up_proj": (4, 4)})


@pytest.fixture
def store() -> HostStore:
    layers = [lambda expert: {"up_proj": torch.zeros(4, 4)}] * 2
    return HostStore(LAYOUT, layers, lambda size: torch.zeros(size, dtype=torch.uint8))


def test_a_paced_tier_is_as_slow_as_the_link_that_was_asked_for(store: HostStore) -> None:
    asked = find("0.001,7")
    assert asked is not None
    copied: list[tuple[int, int]] = []
    tier = measure(store, lambda *place: copied.append(place), pace=asked)
    assert set(copied) == {(layer, expert) for layer in range(2) for expert in range(3)}
    assert tier.latency_ms == pytest.approx(asked.copy_ms(LAYOUT.link_bytes))
    assert tier.pace == asked
    assert tier.keeps_pace


def test_unpacking_counts_as_waiting_and_is_told_apart(store: HostStore) -> None:
    unpacked: list[None] = []
    tier = measure(store, lambda *place: None, lambda: unpacked.append(None))
    assert unpacked
    assert 0 < tier.unpack_ms <= tier.latency_ms


def test_a_damaged_record_is_told_and_nothing_is_timed(
    store: HostStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    def damaged(layer: int, expert: int, record: torch.Tensor) -> None:
        raise StoreError("is damaged")

    monkeypatch.setattr(store, "check", damaged)
    copied: list[tuple[int, int]] = []
    with pytest.raises(StoreError, match="is damaged"):
        measure(store, lambda *place: copied.append(place))
    assert not copied

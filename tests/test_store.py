"""The slow tier's file: damage is told, never used."""

from __future__ import annotations

import errno
from collections.abc import Callable
from pathlib import Path

import pytest
import torch

from moeviz.core.settings import Settings
from moeviz.engine import measure
from moeviz.engine.aligned import aligned
from moeviz.engine.layout import Layout
from moeviz.engine.loader import Loaded, load
from moeviz.engine.session import Options
from moeviz.engine.store import DiskStore, HostStore
from moeviz.errors import StoreError

GREEDY = Options(max_new_tokens=4, temperature=0.0, stop_at_end=False)
TinyModel = Callable[[str], Path]


@pytest.fixture
def model(tiny_model: TinyModel, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[[], Loaded]:
    """Loads one model again and again, with a slow tier of this test's own."""
    monkeypatch.setenv("MOEVIZ_CACHE", str(tmp_path))
    return lambda: load(tiny_model("mixtral"), device="cpu")


def damage(loaded: Loaded) -> Path:
    """Zeroes where every record is, but not where the file ends."""
    assert isinstance(loaded.store, DiskStore)
    path = loaded.store.path
    with open(path, "r+b") as file:
        file.write(bytes(loaded.store.layout.bytes))
    return path


def test_a_file_that_was_damaged_between_two_loads_is_told_and_then_made_anew(
    model: Callable[[], Loaded],
) -> None:
    before = measure.record(model(), "x", Settings(), GREEDY)[1].output_ids
    path = damage(model())
    with pytest.raises(StoreError, match=r"is damaged: expert \d of MoE layer \d .* It has been deleted"):
        model()
    assert not path.exists()
    assert measure.record(model(), "x", Settings(), GREEDY)[1].output_ids == before


def test_a_record_that_is_damaged_in_use_ends_the_run_with_a_message(model: Callable[[], Loaded]) -> None:
    loaded = model()
    assert isinstance(loaded.store, DiskStore)
    loaded.store._checked[:] = (
        False  # as after a start: measuring has read records of this small model already
    )
    damage(loaded)
    with pytest.raises(StoreError, match="is damaged"):
        measure.record(loaded, "x", Settings(), GREEDY)


def test_a_file_that_was_cut_is_made_anew(model: Callable[[], Loaded]) -> None:
    loaded = model()
    assert isinstance(loaded.store, DiskStore)
    path, size = loaded.store.path, loaded.store.path.stat().st_size
    with open(path, "r+b") as file:
        file.truncate(size - 5_000)
    assert measure.record(model(), "x", Settings(), GREEDY)[1].measured
    assert path.stat().st_size == size


def test_memory_that_direct_reads_are_refused_into_is_filled_through_the_page_cache_and_said(
    model: Callable[[], Loaded],
) -> None:
    store = model().store
    assert isinstance(store, DiskStore)
    expected, found = (aligned(1, store.layout.record_bytes)[0] for _ in range(2))
    store.read(1, 2, expected)

    class Refuses:
        def seek(self, at: int) -> None: ...

        def readinto(self, memory: object) -> int:
            raise OSError(errno.EFAULT, "Bad address")

        def close(self) -> None: ...

    store._file, store.page_cache_bypassed = Refuses(), True  # type: ignore[assignment]
    store.read(1, 2, found)
    assert torch.equal(found, expected)
    assert not store.page_cache_bypassed
    store._file = Refuses()  # type: ignore[assignment]
    with pytest.raises(OSError, match="Bad address"):  # nothing is left to fall back to
        store.read(1, 2, found)


def test_host_memory_is_taken_in_pieces_that_nearly_fill_a_power_of_two_and_given_back() -> None:
    layout = Layout(3, 20, torch.float32, {"up_proj": (40, 40)})
    taken: list[int] = []
    given: list[bool] = []

    def memory(size: int) -> torch.Tensor:
        taken.append(size)
        return torch.zeros(size, dtype=torch.uint8)

    layers = [
        lambda expert, layer=layer: {"up_proj": torch.full((40, 40), float(layer))} for layer in range(3)
    ]
    store = HostStore(layout, layers, memory, lambda: given.append(True))
    assert sum(taken) == layout.bytes
    rounded = sum(1 << (size - 1).bit_length() for size in taken[:-1])
    assert rounded <= sum(taken[:-1]) * 17 / 16
    record = torch.empty(layout.record_bytes, dtype=torch.uint8)
    for layer in range(3):
        for expert in (0, 19):
            store.read(layer, expert, record)
            assert (layout.views(record)["up_proj"] == layer).all()
    store.close()
    assert given == [True]

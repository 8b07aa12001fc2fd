"""The slow tier's file: damage is told, never used."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest

from moeviz.core.settings import Settings
from moeviz.engine import measure
from moeviz.engine.loader import Loaded, load
from moeviz.engine.session import Options
from moeviz.engine.store import DiskStore
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

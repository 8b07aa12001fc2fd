"""What this machine has is said as it is, and measuring a disk leaves it as it was."""

from __future__ import annotations

from pathlib import Path

import pytest

from moeviz.engine import tiers
from moeviz.errors import StoreError


def test_this_disk_is_measured_and_left_as_it_was(tmp_path: Path) -> None:
    found = tiers.measure_disk(100_000, tmp_path / "cache")
    assert found.gigabytes_per_second > 0
    assert found.copy_ms(100_000) > found.latency_ms > 0
    assert not list((tmp_path / "cache").iterdir())


def test_a_disk_that_cannot_be_written_is_one_message(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(StoreError, match="cannot be measured"):
        tiers.measure_disk(100_000, tmp_path / "file")


def test_a_folder_that_is_not_there_yet_is_on_the_disk_of_the_one_above(tmp_path: Path) -> None:
    free, where = tiers.disk_free(tmp_path / "not" / "yet")
    assert where == tmp_path
    assert free > 0


def test_a_driver_that_answers_is_believed_and_one_that_is_not_there_is_no_accelerator(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    assert tiers.accelerator_free() is None
    driver = tmp_path / "nvidia-smi"
    driver.write_text("#!/bin/sh\necho 24000\necho 80000\n")
    driver.chmod(0o755)
    assert tiers.accelerator_free() == 24_000 * 2**20
    assert tiers.accelerator_free("cuda", 1) == 80_000 * 2**20
    assert tiers.accelerator_free("cuda", 2) is None
    assert tiers.accelerator_free("xpu") is None  # another maker's
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "1")  # which torch then counts from 0
    assert tiers.accelerator_free("cuda", 0) == 80_000 * 2**20
    assert tiers.accelerator_free("cuda", 1) is None
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "GPU-5f")
    assert tiers.accelerator_free("cuda", 0) is None
    monkeypatch.delenv("CUDA_VISIBLE_DEVICES")
    driver.write_text("#!/bin/sh\necho No devices were found\nexit 6\n")
    assert tiers.accelerator_free() is None


def test_a_mac_s_accelerator_has_the_host_s_memory_and_another_machine_has_none(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(tiers, "host_free", lambda: 2**33)
    for system, free in (("Darwin", 2**33), ("Linux", None)):
        monkeypatch.setattr(tiers.platform, "system", lambda system=system: system)
        monkeypatch.setattr(tiers.platform, "machine", lambda: "arm64")
        assert tiers.accelerator_free("mps") == free
    assert tiers.accelerator_free("mps", 1) is None


def test_the_memory_that_is_free_is_no_more_than_there_is() -> None:
    import psutil

    assert 0 < tiers.host_free() <= psutil.virtual_memory().total

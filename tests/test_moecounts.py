"""Counts without order: what goes in comes out, calibrates, and is no trace."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from click.testing import CliRunner
from conftest import random_trace
from test_importers import CASES

from moeviz.cli.main import main
from moeviz.core.oracle import usage
from moeviz.core.replay import replay
from moeviz.core.settings import Settings
from moeviz.errors import SettingsError, TraceError
from moeviz.files import moecounts, moetrace
from moeviz.files.moecounts import Counts, from_bytes, load, to_bytes

GOOD = Counts(np.arange(24.0).reshape(3, 8), (2, 3, 5), "m", ("assumed",))


def test_bytes_and_back() -> None:
    again = from_bytes(to_bytes(GOOD))
    assert (again.counts == GOOD.counts).all()
    assert (again.layer_indices, again.model, again.notes) == ((2, 3, 5), "m", ("assumed",))


@pytest.mark.parametrize("settings", [Settings("static", 4), Settings("lru", 4, warm="calibrated")])
def test_counts_calibrate_as_the_trace_that_they_were_counted_on(settings: Settings, tmp_path: Path) -> None:
    trace = random_trace(0)
    path = tmp_path / "popular.moecounts"
    path.write_bytes(to_bytes(Counts(np.array(usage(trace), np.float64))))
    from dataclasses import replace

    own = replay(trace, replace(settings, calibration="itself"))
    assert replay(trace, replace(settings, calibration=str(path))).same_decisions(own)
    other = random_trace(0, layers=2)
    with pytest.raises(SettingsError, match="is of another model: 3 MoE layers of 8 experts, not 2 of 8"):
        replay(other, replace(settings, calibration=str(path)))


@pytest.mark.parametrize(
    ("array", "words"),
    [
        (np.zeros((2, 3)), "nothing but 0"),
        (np.full((2, 3), -1.0), "not 0 or more"),
        (np.full((2, 3), np.nan), "not 0 or more"),
        (np.ones(3), "1 dimensions"),
        (np.ones((2, 5_000)), "expected up to"),
    ],
)
def test_what_cannot_be_counts_is_refused(array: np.ndarray, words: str) -> None:
    with pytest.raises(TraceError, match=words):
        Counts(array)


def test_a_file_that_is_damaged_is_refused(tmp_path: Path) -> None:
    content = to_bytes(GOOD)
    for wrong in (
        content[:-1],
        content[:40],
        b"",
        content.replace(b"counts", b"countz"),
        content.replace(b"F64", b"I64"),
    ):
        with pytest.raises(TraceError, match=r"is not a \.moecounts file|counts is int64"):
            from_bytes(wrong, "x.moecounts")
    with pytest.raises(TraceError, match="is a folder"):
        load(tmp_path)


def test_no_cache_can_be_replayed_on_counts(tmp_path: Path) -> None:
    path = tmp_path / "a.moecounts"
    path.write_bytes(to_bytes(GOOD))
    with pytest.raises(TraceError, match=r"holds counts without order.*Give it as calibration"):
        moetrace.load(path)
    result = CliRunner().invoke(main, ["replay", str(path)])
    assert result.exit_code == 2
    assert "holds counts without order" in result.stderr


def test_import_makes_them_where_a_source_only_counts(tmp_path: Path) -> None:
    source, out = str(CASES / "a07_sglang_count.csv"), tmp_path / "out.moecounts"
    result = CliRunner().invoke(main, ["import", source, "--experts", "8", "--out", str(out)])
    assert result.exit_code == 0, result.output
    assert load(out).counts[0].tolist() == [24, 39, 0, 0, 0, 0, 0, 0]
    refused = CliRunner().invoke(main, ["import", source, "--out", str(tmp_path / "out.moetrace")])
    assert refused.exit_code == 2
    assert "holds counts, not a trace (table)" in refused.stderr
    assert "--out out.moecounts" in refused.stderr
    two = tmp_path / "two.npy"
    np.save(two, np.array([[0, 1], [2, 1], [3, 0]]))
    refused = CliRunner().invoke(main, ["import", str(two), "--out", str(tmp_path / "out.moetrace")])
    assert "--axes token,k" in refused.stderr
    assert out.suffix == moecounts.SUFFIX

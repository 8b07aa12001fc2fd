"""Exports: what goes out can come back, and a timeline keeps the format's rules."""

from __future__ import annotations

import io
import json
from pathlib import Path
from typing import Any

import pandas as pd
import pytest
from click.testing import CliRunner
from conftest import random_trace

from moeviz import cost
from moeviz.cli import main
from moeviz.exchange import exports
from moeviz.exchange.imports import read
from moeviz.knowledge import SAMPLES
from moeviz.replay import replay
from moeviz.settings import Settings
from moeviz.trace import load_file

COSTS = cost.Costs(0.2, 3.0, 0.1, 1.0, 0.0)


@pytest.mark.parametrize("kind", ["csv", "parquet"])
def test_a_table_comes_back_as_the_same_choices(kind: str) -> None:
    trace = random_trace(2, prompt=1)
    run = replay(trace, Settings(slots=3))
    table = exports.table(trace, run)
    buffer = io.BytesIO()
    table.to_csv(buffer, index=False) if kind == "csv" else table.to_parquet(buffer)
    again = read("back", buffer.getvalue(), experts=8).trace
    assert (again.experts == trace.experts).all()
    assert again.weights == pytest.approx(trace.weights)
    assert (table["outcome"] == "miss").sum() == (run.access_outcome == 2).sum()
    first = table[table["evicted"] != ""].iloc[0]
    event = int(first["token"]) * trace.layers + int(first["layer"])
    gone = run.victim_expert[(run.load_event == event) & (run.victim_expert >= 0)]
    assert first["evicted"].split(" ") == [f"{first['layer']}/{expert}" for expert in gone]


def test_formulas_are_disarmed() -> None:
    table = pd.DataFrame({"text": ["=1+1", "-x", "@a", "+1", "\tx", "plain", "a=b"], "number": [-1.5] * 7})
    safe = exports.formula_safe(table)
    assert safe["text"].tolist() == ["'=1+1", "'-x", "'@a", "'+1", "'\tx", "plain", "a=b"]
    assert safe["number"].tolist() == [-1.5] * 7


def check_chrome(content: str) -> list[dict[str, Any]]:
    """The rules of Chrome's trace event format that Perfetto relies on."""
    events: list[dict[str, Any]] = json.loads(content)["traceEvents"]
    assert all(event["ph"] in "MXsf" and {"pid", "tid", "name"} <= event.keys() for event in events)
    slices = [event for event in events if event["ph"] == "X"]
    assert all(event["ts"] >= 0 and event["dur"] >= 0 for event in slices)
    for track in {event["tid"] for event in slices}:
        own = sorted((event for event in slices if event["tid"] == track), key=lambda event: (event["ts"], -event["dur"]))
        ends: list[float] = []
        for event in own:
            while ends and ends[-1] <= event["ts"] + 1e-6:
                ends.pop()
            assert not ends or event["ts"] + event["dur"] <= ends[-1] + 1e-3, "slices of a track nest"
            ends.append(event["ts"] + event["dur"])
    starts = {event["id"]: event["ts"] for event in events if event["ph"] == "s"}
    finishes = {event["id"]: event["ts"] for event in events if event["ph"] == "f"}
    assert finishes.keys() <= starts.keys()
    assert all(event["bp"] == "e" for event in events if event["ph"] == "f")
    return events


@pytest.mark.parametrize("prefetch", ["none", "next-gate", "oracle"])
def test_a_modelled_timeline_keeps_the_rules(prefetch: str) -> None:
    trace = random_trace(3, tokens=25)
    run = replay(trace, Settings(slots=4, prefetch=prefetch))
    events = check_chrome(exports.perfetto(trace, run, COSTS))
    assert any(event["ph"] == "s" for event in events) == (prefetch != "none")
    assert sum(event["name"] == "token" for event in events) == len(trace.passes())
    with pytest.raises(ValueError, match="give costs"):
        exports.perfetto(trace, run)


def test_a_measured_timeline_keeps_the_rules() -> None:
    trace, run = load_file(SAMPLES / "bible.moetrace")
    assert run is not None
    check_chrome(exports.perfetto(trace, run))


@pytest.mark.parametrize("kind", exports.FORMATS)
@pytest.mark.parametrize("recorded", [True, False])
def test_the_command_writes_each_format(kind: str, recorded: bool, tmp_path: Path) -> None:
    arguments = ["export", str(SAMPLES / "bible.moetrace"), "--format", kind, "--out", str(tmp_path / "out"), "--policy", "lfu"]
    result = CliRunner().invoke(main, arguments + ["--recorded"] * recorded)
    assert result.exit_code == 0, result.output
    assert ("measured" if recorded else "lfu, 4 slots, replayed") in result.output
    assert (tmp_path / "out").stat().st_size > 1_000


def test_what_cannot_be_exported_is_one_message(tmp_path: Path) -> None:
    random_trace(0).save(tmp_path / "plain.moetrace")
    for extra, words in ((["--recorded"], "holds no recorded run"), ([], "holds no measured run to take times from")):
        arguments = ["export", str(tmp_path / "plain.moetrace"), "--format", "perfetto", "--out", str(tmp_path / "out"), *extra]
        result = CliRunner().invoke(main, arguments)
        assert result.exit_code == 2
        assert words in result.stderr

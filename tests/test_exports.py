"""Exports: what goes out can come back, and a timeline keeps the format's rules."""

from __future__ import annotations

import html
import io
import json
import re
import struct
from dataclasses import replace
from pathlib import Path
from typing import Any

import nbformat
import pandas as pd
import pytest
from click.testing import CliRunner
from conftest import random_trace

from moeviz.cli.main import main
from moeviz.core.replay import replay
from moeviz.core.settings import Settings
from moeviz.files import exports
from moeviz.files.imports import read
from moeviz.files.moetrace import SAMPLES
from moeviz.files.moetrace import load as load_file
from moeviz.numbers import cost, metrics

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
    assert (table["outcome"] == "miss").sum() == (run.accesses.outcome == 2).sum()
    first = table[table["evicted"] != ""].iloc[0]
    event = int(first["token"]) * trace.layers + int(first["layer"])
    gone = run.loads.victim_expert[(run.loads.event == event) & (run.loads.victim_expert >= 0)]
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
        own = sorted(
            (event for event in slices if event["tid"] == track),
            key=lambda event: (event["ts"], -event["dur"]),
        )
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


@pytest.mark.parametrize("policy", ["lru", "belady"])
def test_libcachesim_reads_the_requests_and_hits_as_often(policy: str, tmp_path: Path) -> None:
    """With one expert a token nothing is pinned beside it, and in scope model there is one cache: then both tools simulate the same."""
    libcachesim = pytest.importorskip("libcachesim", reason="its wheels are for Linux")
    trace = random_trace(5, tokens=120, layers=4, experts=6, k=1, prompt=1)
    run = replay(trace, Settings(policy, 7, "model"))
    (tmp_path / "requests.oracleGeneral.bin").write_bytes(exports.content("oracle-general", trace, run))
    reader = libcachesim.TraceReader(
        str(tmp_path / "requests.oracleGeneral.bin"), libcachesim.TraceType.ORACLE_GENERAL_TRACE
    )
    requests = list(reader)
    assert len(requests) == len(run.accesses.event)
    ids = [int(request.obj_id) for request in requests]
    assert ids == (run.events.layer[run.accesses.event] * 6 + run.accesses.expert).tolist()
    reader.reset()
    cache = (libcachesim.LRU if policy == "lru" else libcachesim.Belady)(7 * run.expert_bytes, reader=reader)
    miss_ratio, _ = cache.process_trace(reader)
    assert round(miss_ratio * len(requests)) == (run.accesses.outcome == 2).sum()


def test_the_next_request_is_named_by_its_number() -> None:
    run = replay(random_trace(1, tokens=20), Settings(slots=4))
    packed = exports.oracle_general(run)
    assert len(packed) == 24 * len(run.accesses.event)
    requests = list(struct.iter_unpack("<IQIq", packed))
    for number, (time, expert, size, following) in enumerate(requests):
        later = [n for n in range(number + 1, len(requests)) if requests[n][1] == expert]
        assert following == (later[0] if later else -1)
        assert (time, size) == (run.events.forward_pass[run.accesses.event[number]], run.expert_bytes or 1)


def run_cells(content: str) -> dict[str, Any]:
    """Runs the notebook's code as Jupyter would, in one namespace."""
    found = nbformat.reads(content, 4)
    nbformat.validate(found)
    space: dict[str, Any] = {}
    for cell in found.cells:
        if cell.cell_type == "code":
            exec(compile(cell.source, cell.id, "exec"), space)
    return space


@pytest.mark.parametrize(
    "settings", [Settings("lfu", 3, prefetch="next-gate"), Settings(baseline="on-demand")]
)
def test_the_notebook_computes_the_same_numbers_from_the_file(
    settings: Settings, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    trace, own = load_file(SAMPLES / "bible.moetrace")
    trace.save(tmp_path / "it's mine.moetrace", own)
    monkeypatch.chdir(tmp_path)
    run = replay(trace, settings)
    space = run_cells(exports.content("notebook", trace, run, own, "it's mine.moetrace").decode())
    assert space["run"].same_decisions(run)
    assert space["now"]["hits"] == (run.accesses.outcome == 0).sum()
    other = exports.content(
        "notebook", trace, replay(trace, Settings(slots=5)), own, "it's mine.moetrace"
    ).decode()
    with pytest.raises(AssertionError, match="now, but"):
        run_cells(other.replace("slots': 5", "slots': 4"))


def test_the_notebook_of_a_recorded_run_is_the_recorded_run(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(SAMPLES)
    trace, own = load_file(SAMPLES / "change-of-subject.moetrace")
    assert own is not None
    space = run_cells(exports.content("notebook", trace, own, own, "change-of-subject.moetrace").decode())
    assert space["run"].tokens_per_second > 0


def test_the_report_says_what_the_replay_says_and_asks_nobody() -> None:
    trace, _ = load_file(SAMPLES / "bible.moetrace")
    run = replay(trace, Settings("lfu", 3))
    page = exports.content("report", trace, run).decode()
    head, _, rest = page.partition("<script>")
    assert "default-src 'none'" in head
    body = rest.partition("</script>")[2]
    decode = metrics.counts(run, 1)
    assert f"{decode.hit_ratio:.1%} of {decode.accesses:,} accesses hit" in body
    assert html.escape("".join(trace.texts[:3])) in html.unescape(body) or trace.texts[0] in body
    assert not re.search(r"""(src|href)\s*=""", body)
    figures = [json.loads(one) for one in re.findall(r'<script type="application/json">(.*?)</script>', body)]
    assert len(figures) == 4
    curves = {line["name"]: line for line in figures[-1]["data"]}
    assert set(curves) == {"lfu", "lru", "belady: the bound"}
    assert "more tokens" not in body


def test_a_report_of_a_hostile_trace_holds_only_text() -> None:
    evil = "</script><script>window.pwned=1</script><img src=x onerror=window.pwned=1>"
    trace = replace(
        random_trace(0, tokens=24),
        texts=(evil,) * 24,
        prompt=evil,
        model=evil,
        recorded={"time": evil, "machine": evil},
    )
    run = replay(trace, Settings(slots=3))
    run = replace(run, settings=replace(run.settings, policy="static", calibration=evil))
    page = exports.content("report", trace, run).decode()
    assert "<script>window" not in page
    assert "<img" not in page.partition("</script>")[2]


@pytest.mark.parametrize("kind", exports.FORMATS)
@pytest.mark.parametrize("recorded", [True, False])
def test_the_command_writes_each_format(kind: str, recorded: bool, tmp_path: Path) -> None:
    arguments = [
        "export",
        str(SAMPLES / "bible.moetrace"),
        "--format",
        kind,
        "--out",
        str(tmp_path / "out"),
        "--policy",
        "lfu",
    ]
    result = CliRunner().invoke(main, arguments + ["--recorded"] * recorded)
    assert result.exit_code == 0, result.output
    assert ("measured" if recorded else "lfu, 4 slots, replayed") in result.output
    assert (tmp_path / "out").stat().st_size > 1_000


def test_what_cannot_be_exported_is_one_message(tmp_path: Path) -> None:
    random_trace(0).save(tmp_path / "plain.moetrace")
    for extra, words in (
        (["--recorded"], "holds no recorded run"),
        ([], "holds no measured run to take times from"),
    ):
        arguments = [
            "export",
            str(tmp_path / "plain.moetrace"),
            "--format",
            "perfetto",
            "--out",
            str(tmp_path / "out"),
            *extra,
        ]
        result = CliRunner().invoke(main, arguments)
        assert result.exit_code == 2
        assert words in result.stderr

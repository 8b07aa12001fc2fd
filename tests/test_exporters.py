"""Exports: what goes out can come back, and a timeline keeps the format's rules."""

from __future__ import annotations

import ast
import csv
import html
import io
import json
import re
import struct
from dataclasses import replace
from pathlib import Path
from typing import Any

import nbformat
import numpy as np
import pandas as pd
import pytest
from click.testing import CliRunner
from conftest import random_trace
from hypothesis import given, settings
from hypothesis import strategies as st

from moeviz import words
from moeviz.cli.main import main
from moeviz.core.predictors import PREDICTORS, load_predictor
from moeviz.core.replay import replay
from moeviz.core.run import Run
from moeviz.core.settings import Settings
from moeviz.core.trace import Trace
from moeviz.errors import ExportError, TraceError
from moeviz.files import exporters
from moeviz.files.exporters import tables
from moeviz.files.exporters.oracle_general import oracle_general
from moeviz.files.exporters.perfetto import perfetto
from moeviz.files.formulas import formula_safe
from moeviz.files.importers import read
from moeviz.files.moetrace import SAMPLES, to_bytes
from moeviz.files.moetrace import load as load_file
from moeviz.numbers import cost, metrics

COSTS = cost.Costs(0.2, 3.0, 0.1, 1.0, 0.0)


TEXTS = (
    "a",
    " b",
    "=1+1",
    "'=x",
    "''",
    '"',
    "\n",
    "\r\n,",
    "\x00",
    "1",
    " 2",
    "",
    "é🙂",
    "-",
    "@",
    "\u2028",
    "None",
    "nan",
)


@st.composite
def any_trace(draw: st.DrawFn) -> Trace:
    """Version 2 in all its freedom: ragged, several requests, without weights, without ids, with guesses or
    without.
    """
    rng = np.random.default_rng(draw(st.integers(0, 2**32)))
    tokens, layers, k, experts = (int(rng.integers(1, most)) for most in (9, 4, 4, 9))
    experts += k
    ids = np.array([[rng.permutation(experts)[:k] for _ in range(layers)] for _ in range(tokens)], np.int16)
    if rng.random() < 0.7:
        used = rng.integers(0, k + 1, (tokens, layers))
        used[0, 0] = k
        ids[np.arange(k) >= used[:, :, None]] = -1
    weights = rng.random(ids.shape).astype(rng.choice(["float16", "float32"])) * (ids >= 0)
    passes = np.sort(rng.integers(0, 6, tokens)).astype(np.int32)
    lookaheads, width = int(rng.integers(0, 3)), int(rng.integers(1, 3))
    guess = rng.integers(-1, experts, (tokens, layers, lookaheads, width)).astype(np.int16)
    return Trace(
        experts=ids,
        weights=weights if rng.random() < 0.7 else None,
        token_ids=rng.integers(-5, 2**31 - 1, tokens).astype(np.int32) if rng.random() < 0.7 else None,
        phase=(passes % 2).astype(np.uint8),
        forward_pass=passes,
        guess=guess,
        guess_probability=rng.random(guess.shape).astype(np.float16) if rng.random() < 0.5 else None,
        num_experts=experts,
        texts=tuple(str(text) for text in rng.choice(np.array(TEXTS, object), tokens)),
        model=draw(st.text(st.characters(exclude_categories=["Cs"]), max_size=8)),
        prompt=draw(st.text(st.characters(exclude_categories=["Cs"]), max_size=8)),
        layer_indices=tuple(range(3, 3 + layers)) if rng.random() < 0.5 else (),
        expert_bytes=tuple(int(one) for one in rng.integers(0, 2**40, layers)) if rng.random() < 0.5 else 5,
        link_bytes=int(rng.integers(0, 9)),
        sequence=rng.integers(0, 3, tokens).astype(np.int16) if rng.random() < 0.5 else None,
        recorded={"machine": "m"},
        seed=3,
        notes=("assumed",),
    )


IN_TABLES = ("experts", "weights", "token_ids", "phase", "forward_pass", "sequence")
IN_LINES = (*IN_TABLES, "guess", "guess_probability")


@pytest.mark.parametrize("kind", ["csv", "parquet", "jsonl", "moetrace"])
@given(trace=any_trace())
@settings(deadline=None)
def test_what_goes_out_comes_back(kind: str, trace: Trace) -> None:
    """Tables hold no guesses, and of the header only what replays need; lines and the trace file hold
    everything.
    """
    run = replay(trace, Settings(slots=trace.k))
    content = to_bytes(trace, run) if kind == "moetrace" else exporters.content(kind, trace, run)
    again = read("back", content).trace
    whole = kind in ("jsonl", "moetrace")
    for name in IN_LINES if whole else IN_TABLES:
        mine, other = getattr(trace, name), getattr(again, name)
        assert (mine is None) == (other is None), name
        assert mine is None or np.array_equal(mine, other), name
    shared = ("num_experts", "texts", "layer_indices")
    for name in (*shared, *(("model", "prompt", "link_bytes", "recorded", "seed", "notes") if whole else ())):
        assert getattr(trace, name) == getattr(again, name), name
    assert (trace.layer_bytes == again.layer_bytes).all()
    assert replay(again, Settings(slots=trace.k)).same_decisions(run)


def test_a_table_says_what_the_cache_did() -> None:
    trace = random_trace(2, prompt=1)
    run = replay(trace, Settings(slots=3))
    table = tables.table(trace, run)
    assert (table["outcome"] == "miss").sum() == (run.accesses.outcome == 2).sum()
    first = table[table["evicted"] != ""].iloc[0]
    event = int(first["token"]) * trace.layers + int(first["layer"])
    gone = run.loads.victim_expert[(run.loads.event == event) & (run.loads.victim_expert >= 0)]
    assert first["evicted"].split(" ") == [f"{first['layer']}/{expert}" for expert in gone]


def test_a_table_with_rows_moved_is_refused() -> None:
    trace = random_trace(2, tokens=6)
    lines = exporters.content("csv", trace, replay(trace, Settings(slots=3))).splitlines()
    for wrong in ([*lines[:3], *lines[4:]], [*lines, lines[-1]], [lines[0], lines[2], lines[1], *lines[3:]]):
        with pytest.raises(TraceError, match="rows added, missing or moved"):
            read("t.csv", b"\n".join(wrong))


def test_formulas_are_disarmed() -> None:
    formulas = ["=1+1", "-x", "@a", "+1", "\tx", "\n=cmd|'/C calc'!A0", "＝1", "'=1"]
    table = pd.DataFrame({"text": [*formulas, "plain", "a=b"], "number": [-1.5] * 10})
    safe = formula_safe(table)
    assert safe["text"].tolist() == [*(f"'{one}" for one in formulas), "plain", "a=b"]
    assert safe["number"].tolist() == [-1.5] * 10


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
    events = check_chrome(perfetto(trace, run, COSTS))
    assert any(event["ph"] == "s" for event in events) == (prefetch != "none")
    assert sum(event["name"] == "token" for event in events) == len(trace.passes())
    with pytest.raises(ValueError, match="give costs"):
        perfetto(trace, run)


def test_a_measured_timeline_keeps_the_rules() -> None:
    trace, run = load_file(SAMPLES / "bible.moetrace")
    assert run is not None
    check_chrome(perfetto(trace, run))


@pytest.mark.parametrize("policy", ["lru", "belady"])
def test_libcachesim_reads_the_requests_and_hits_as_often(policy: str, tmp_path: Path) -> None:
    """With one expert a token nothing is pinned beside it, and in scope model there is one cache: then both
    tools simulate the same.
    """
    libcachesim = pytest.importorskip("libcachesim", reason="its wheels are for Linux")
    trace = random_trace(5, tokens=120, layers=4, experts=6, k=1, prompt=1)
    run = replay(trace, Settings(policy, 7, "model"))
    (tmp_path / "requests.oracleGeneral.bin").write_bytes(exporters.content("oracle-general", trace, run))
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
    packed = oracle_general(run)
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
    "chosen",
    [
        Settings("lfu", 3, prefetch="next-gate"),
        Settings("lru-2", 20, "model", rule="one-by-one"),
        Settings(baseline="on-demand"),
    ],
)
def test_the_notebook_computes_the_same_numbers_from_the_file(
    chosen: Settings, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    trace, own = load_file(SAMPLES / "bible.moetrace")
    trace.save(tmp_path / "it's mine.moetrace", own)
    monkeypatch.chdir(tmp_path)
    run = replay(trace, chosen)
    space = run_cells(exporters.content("notebook", trace, run, own, "it's mine.moetrace").decode())
    assert space["run"].same_decisions(run)
    assert space["now"]["hits"] == (run.accesses.outcome == 0).sum()
    drawn = [one.settings for one in space["curves"]]  # of the cache that is told of, its own policy first
    assert drawn[0].policy == chosen.policy
    assert {(one.scope, one.rule) for one in drawn} == {(chosen.scope, chosen.rule)}
    other = exporters.content(
        "notebook", trace, replay(trace, Settings(slots=5)), own, "it's mine.moetrace"
    ).decode()
    with pytest.raises(AssertionError, match="now, but"):
        run_cells(other.replace("slots': 5", "slots': 4"))


def test_the_notebook_loads_a_predictor_of_one_s_own(
    same_again: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    trace, own = load_file(SAMPLES / "bible.moetrace")
    trace.save(tmp_path / "bible.moetrace", own)  # beside the predictor's file
    run = replay(trace, Settings(prefetch=load_predictor(same_again)))
    content = exporters.content("notebook", trace, run, own, "bible.moetrace").decode()
    assert str(tmp_path) not in content  # a notebook is passed on
    monkeypatch.chdir(tmp_path)
    try:
        assert run_cells(content)["run"].same_decisions(run)
    finally:
        PREDICTORS.pop("mine.py:same-again", None)


def test_the_notebook_of_a_recorded_run_is_the_recorded_run(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(SAMPLES)
    trace, own = load_file(SAMPLES / "change-of-subject.moetrace")
    assert own is not None
    space = run_cells(exporters.content("notebook", trace, own, own, "change-of-subject.moetrace").decode())
    assert space["run"].tokens_per_second > 0


def test_the_report_says_what_the_replay_says_and_asks_nobody() -> None:
    trace, _ = load_file(SAMPLES / "bible.moetrace")
    run = replay(trace, Settings("lfu", 3))
    page = exporters.content("report", trace, run).decode()
    head, _, rest = page.partition("<script>")
    assert "default-src 'none'" in head
    body = rest.partition("</script>")[2]
    decode = metrics.counts(run, 1)
    assert f"{decode.hit_ratio:.1%} of {decode.accesses:,} accesses hit" in body
    assert html.escape("".join(trace.texts[:3])) in html.unescape(body) or trace.texts[0] in body
    assert not re.search(r"""(src|href)\s*=""", body)
    figures = [json.loads(one) for one in re.findall(r'<script type="application/json">(.*?)</script>', body)]
    assert len(figures) == 5
    curves = {line["name"]: line for line in figures[-1]["data"]}
    assert set(curves) == {"LFU (counts kept)", "LRU", "Belady: the bound"}
    assert "more tokens" not in body
    assert html.escape(words.GLOSSARY["collision"]) in body


EVIL = (
    "</script><script>window.pwned=1</script><img src=x onerror=window.pwned=1>",
    "=cmd|'/C calc'!A0",
    '";import os;os.abort()#',
    "\x1b]0;pwned\x07\x1b[2J\u202egpj.exe",
    "x" * 100_000,
)


def hostile() -> tuple[Trace, Run]:
    """A trace that would like to be more than text wherever it holds text."""
    trace = replace(
        random_trace(0, tokens=24),
        texts=tuple(EVIL[n % len(EVIL)] for n in range(24)),
        prompt="".join(EVIL[:4]),
        model=EVIL[0] + EVIL[3],
        recorded={"time": EVIL[0], "machine": EVIL[3]},
        notes=EVIL[:4],
    )
    return trace, replay(trace, Settings(slots=3))


def test_a_report_of_a_hostile_trace_holds_only_text() -> None:
    trace, run = hostile()
    run = replace(run, settings=replace(run.settings, policy="static", calibration=EVIL[0]))
    page = exporters.content("report", trace, run).decode()
    assert "<script>window" not in page
    assert "<img" not in page.partition("</script>")[2]


def test_a_stage_of_a_hostile_trace_holds_only_text() -> None:
    trace, run = hostile()
    page = exporters.content("stage", trace, run).decode()
    assert page.count("<script") == page.count("</script>") == 2  # its data and its own code
    assert "<img" not in page
    assert "default-src 'none'" in page


def test_a_table_of_a_hostile_trace_has_no_formula() -> None:
    trace, run = hostile()
    head, *rows = csv.reader(io.StringIO(exporters.content("csv", trace, run).decode(), newline=""))
    at = head.index("text")
    assert {row[at].removeprefix("'") for row in rows} == set(EVIL)
    assert not [cell for row in rows for cell in row if cell.startswith(("=", "@", "+"))]


def test_a_notebook_of_a_hostile_trace_runs_nothing_of_it() -> None:
    trace, run = hostile()
    own = nbformat.reads(exporters.content("notebook", trace, run, None, EVIL[2]).decode(), 4)
    plain = nbformat.reads(exporters.content("notebook", random_trace(0, tokens=24), run).decode(), 4)
    assert len(own.cells) == len(plain.cells)
    for cell, as_usual in zip(own.cells, plain.cells, strict=True):
        if cell.cell_type == "code":  # the same statements, with other literals in them
            kinds = [[type(node) for node in ast.walk(ast.parse(one.source))] for one in (cell, as_usual)]
            assert kinds[0] == kinds[1]
        else:
            assert "pwned" not in cell.source


def test_a_terminal_is_shown_text(tmp_path: Path) -> None:
    trace, run = hostile()
    trace.save(tmp_path / "evil.moetrace", run)
    for command in (["show"], ["diff", str(SAMPLES / "bible.moetrace")], ["replay", "--slots", "3"]):
        done = CliRunner().invoke(main, [command[0], str(tmp_path / "evil.moetrace"), *command[1:]])
        assert done.exit_code == 0, done.output
        assert not re.search("[\x00-\x08\x0b-\x1f\x7f\u202e]", done.output), command


@pytest.mark.parametrize("kind", exporters.EXPORTERS)
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
    said = "measured" if recorded else "lfu, 4 slots, replayed"
    said = {"stage": "lru, lfu, replayed", "jsonl": "out: the trace"}.get(kind, said)
    assert said in result.output
    assert (tmp_path / "out").stat().st_size > 1_000


def test_what_cannot_be_exported_is_one_message(tmp_path: Path) -> None:
    random_trace(0).save(tmp_path / "plain.moetrace")
    for extra, said in (
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
        assert said in result.stderr


def test_an_exporter_of_the_trace_alone_that_asks_for_a_run_is_told() -> None:
    exporters.exporter("mine", ".mine", "for me", alone=True)(lambda export: bytes(export.run.layers))
    with pytest.raises(ExportError, match="declared to write the trace alone asks for a run"):
        exporters.content("mine", random_trace(2), None)
    del exporters.EXPORTERS["mine"]

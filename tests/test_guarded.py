"""The limited child: what it hands back, and what a hostile file cannot do through it."""

from __future__ import annotations

import os
import sys
from pathlib import Path

import numpy as np
import pytest
from click.testing import CliRunner
from conftest import random_trace
from test_importers import BOMBS, CASES, npz, routes

import moeviz as mv
from moeviz.cli.main import main
from moeviz.core.replay import replay
from moeviz.core.settings import Settings
from moeviz.errors import TraceError
from moeviz.files import guarded
from moeviz.files.guarded import open_file, open_guarded
from moeviz.files.importers import Counted, Imported, Options, registry
from moeviz.files.moetrace import SAMPLES, to_bytes

IMPORTER = """
import os, signal, time
import numpy as np
from moeviz.files.importers.registry import importer

def register(name):
    return importer(name, name, sniff=lambda source: 0)

@register("hungry")
def hungry(source, options):
    return bytearray(2**30)

@register("slow")
def slow(source, options):
    while True:
        pass

@register("dead")
def dead(source, options):
    os.abort()

@register("killed")
def killed(source, options):
    os.kill(os.getpid(), signal.SIGKILL)

@register("leaving")
def leaving(source, options):
    os._exit(3)

@register("silent")
def silent(source, options):
    return None

@register("stumbling")
def stumbling(source, options):
    print("noise")
    return {}["x"]
"""


def test_a_trace_with_its_report_comes_back() -> None:
    found = open_guarded("r.jsonl", routes(), Options())
    assert isinstance(found, Imported)
    assert (found.trace.experts == random_trace(3, tokens=12, prompt=1).experts).all()
    assert found.report == list(found.trace.notes)
    trace = random_trace(1)
    run = replay(trace, Settings(slots=3))
    own = open_guarded("a.moetrace", to_bytes(trace, run))
    assert isinstance(own, Imported)
    assert own.run is not None
    assert own.run.same_decisions(run)


def test_counts_come_back_as_counts() -> None:
    found = open_file(CASES / "a08_sglang_stat.pt")
    assert isinstance(found, Counted)
    assert found.counts.counts.shape == (2, 8)


def test_a_refusal_is_the_importers_own_sentence() -> None:
    with pytest.raises(TraceError, match=r"^x: 'token' stands twice\."):
        open_guarded("x", (CASES / "hostile" / "table-dup-col.csv").read_bytes())
    with pytest.raises(TraceError, match="would take"):
        open_guarded("bomb.npz", BOMBS["npz"][0]())


@pytest.mark.skipif(sys.platform != "linux", reason="macOS does not enforce limits on address space")
@pytest.mark.parametrize(
    ("name", "words"),
    [
        ("hungry", "more memory than reading a file may take|MiB"),
        ("slow", "more than 5 s of processor time"),
        ("dead", "the process that read it ended with -6"),
        ("killed", "killed from outside, most likely because this machine ran out of memory"),
        ("leaving", "ended the process with code 3 and without an answer"),
        ("silent", r"importer .*own\.py:silent gave NoneType, neither Imported nor Counted"),
        ("stumbling", "cannot be read: KeyError"),
    ],
)
def test_a_reader_that_runs_away_ends_in_a_sentence(name: str, words: str, tmp_path: Path) -> None:
    (tmp_path / "own.py").write_text(IMPORTER)
    with pytest.raises(TraceError, match=words):
        open_guarded("x.bin", b"content", format=f"{tmp_path / 'own.py'}:{name}")


def test_a_file_that_ends_its_reader_ends_no_program(tmp_path: Path) -> None:
    """pyarrow calls abort() where a footer's statistics do not add up."""
    path = CASES / "hostile" / "ends-the-reader.parquet"
    for read in (mv.load, lambda path: open_guarded(path.name, path.read_bytes())):
        with pytest.raises(TraceError, match=r"ends-the-reader\.parquet cannot be read: the process"):
            read(path)
    out = tmp_path / "out.moetrace"
    for command in (["show", path], ["diff", path, path], ["import", path, "--out", out]):
        done = CliRunner().invoke(main, [str(word) for word in command])
        assert done.exit_code == 2
        assert "Error: " in done.stderr
    assert not out.exists()


def test_own_files_and_own_readers_need_no_other_process(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A child costs a third of a second, and knows no reader that a notebook registered."""
    monkeypatch.setattr(guarded.subprocess, "Popen", lambda *_, **__: pytest.fail("a process was started"))
    trace = random_trace(1)
    trace.save(tmp_path / "a.moetrace")
    (tmp_path / "b.mine").write_bytes(b"MINE")

    @mv.importer("mine-here", "mine", sniff=lambda source: 9 * source.content.startswith(b"MINE"))
    def read(source: object, options: Options) -> Imported:
        return Imported(trace)

    try:
        for path, format in (("a.moetrace", ""), ("b.mine", ""), ("b.mine", "mine-here")):
            assert mv.load(tmp_path / path, format=format)[0].digest == trace.digest
    finally:
        del registry.IMPORTERS["mine-here"]


def test_a_system_that_starts_no_process_is_one_message(monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*_: object, **__: object) -> None:
        raise OSError(11, "Resource temporarily unavailable")

    monkeypatch.setattr(guarded.subprocess, "Popen", refuse)
    with pytest.raises(TraceError, match="no process could be started for it: Resource temporarily"):
        open_guarded("r.jsonl", routes())


def test_only_regular_files_are_read(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe")
    for path in (Path("/dev/zero"), tmp_path / "pipe"):
        with pytest.raises(TraceError, match="is no regular file; expected a trace file"):
            open_file(path)
    with pytest.raises(TraceError, match="is a folder"):
        open_file(tmp_path)


@pytest.mark.parametrize("sample", ["bible", "change-of-subject", "python-long"])
def test_a_sample_is_read_from_its_own_parquet_each_time(sample: str, tmp_path: Path) -> None:
    """The reader's threads once took so much address space that some tries were refused."""
    path = tmp_path / "a.parquet"
    file = SAMPLES / f"{sample}.moetrace"
    done = CliRunner().invoke(main, ["export", str(file), "--format", "parquet", "--out", str(path)])
    assert done.exit_code == 0, done.output
    trace = mv.load(file)[0]
    for _ in range(4):
        again = mv.load(path)[0]
        assert (again.experts == trace.experts).all()
        assert (again.phase == trace.phase).all()


def test_a_large_array_fits_beside_its_file() -> None:
    """What the readers' own bounds allow is not refused by the child's limit."""
    rng = np.random.default_rng(0)
    ids = rng.integers(0, 32, (60_000, 48, 1)).astype(np.uint8)
    ids = np.concatenate([ids, ids + 32, ids + 64, ids + 96], 2)
    found = open_guarded("large.npz", npz(experts=ids, weights=np.ones(ids.shape, np.float16)), Options(128))
    assert isinstance(found, Imported)
    assert found.trace.experts.shape == ids.shape

"""Every command ends with 130 when it is interrupted in the midst of its work, says what it keeps, and leaves
no file that is not whole; and with silence when whoever reads what it prints has left.

The signal is a real one. It comes when the command calls what its work is done by, so that nothing waits for
a moment. What it does to processes that a command starts is tried with processes of their own.
"""

from __future__ import annotations

import os
import re
import signal
import subprocess
import sys
from collections.abc import Callable
from contextlib import suppress
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import psutil
import pytest
from click.testing import CliRunner
from conftest import random_trace
from test_invocations import ROOT, options_of

from moeviz.cli.main import main

pytestmark = [
    pytest.mark.usefixtures("plain_main"),
    pytest.mark.skipif(sys.platform == "win32", reason="signals"),
]
T = "trace.moetrace"
RUN = "--prompt x --max-new-tokens 2"
COMMANDS = {  # command -> what is being called when the signal comes
    f"replay {T}": "moeviz.core.replay.replay",
    f"show {T}": "moeviz.words.routing",
    "show routed.npy": "moeviz.files.guarded._answer",
    f"diff {T} {T} --replay": "moeviz.numbers.differences.between",
    "import routed.npy --experts 8 --out out/a.moetrace": "moeviz.files.guarded._answer",
    f"import {T} --out out/a.moetrace": "os.fsync",
    "split requests.moetrace --into out": "os.fsync",
    f"export {T} --format csv --out out/a.csv": "moeviz.files.exporters.content",
    f"export {T} --format jsonl --out out/a.jsonl": "os.fsync",
    f"export {T} --format report --out out/a.html": "moeviz.files.report.report",
    f"export {T} --format stage --out out/a.html": "moeviz.charts.stage.stage",
    "lessons --sheet out/a.html": "moeviz.lessons.sheet.students",
    "plan": "moeviz.engine.plan.make",
    "cache list": "moeviz.engine.cachefolder.entries",
    "cache clean": "moeviz.engine.cachefolder.entries",
    "cache limit 1GB": "moeviz.engine.cachefolder.set_limit",
    f"run {RUN} --out out/a.moetrace": "moeviz.engine.loader.load",
    f"compare {RUN}": "moeviz.engine.loader.load",
    f"sweep {T} --jobs 1 --slots 3 --out out/a.parquet": "moeviz.sweeps.sweep",
    "bench engine --only cache": "moeviz.bench.engine.cache.measure",
    "bench link": "moeviz.bench.pacing.pacing",
    "bench loading": "moeviz.engine.made.save",
    "bench replay --tokens 2 --repeats 1": "moeviz.bench.replay.interleaved",
    "bench pages": "subprocess.run",
    "bench capture": "moeviz.bench.capturing.capturing",
    "bench fuzz --files 1": "fuzz.tried",
    "bench soak": "moeviz.bench.serving.subprocess.Popen",
    "bench stage": "moeviz.bench.stage.stage",
    "bench all": "moeviz.bench.engine.rows.engine",
}


@pytest.fixture
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    random_trace(3).save(tmp_path / T)
    requests = np.arange(40, dtype=np.int16) % 2
    replace(random_trace(2, tokens=40), sequence=requests).save(tmp_path / "requests.moetrace")
    np.save(tmp_path / "routed.npy", random_trace(1, prompt=1).experts)
    (tmp_path / "out").mkdir()
    return tmp_path


def called_off(*_: object, **__: object) -> Any:
    """What a command's work is done by: the signal comes, and nothing else is done."""
    signal.raise_signal(signal.SIGINT)
    raise AssertionError("the command went on")


def test_every_command_is_among_them() -> None:
    for words, _ in options_of(main, []):
        assert any(command.split()[: len(words)] == words for command in COMMANDS), words


@pytest.mark.parametrize(("command", "work"), COMMANDS.items(), ids=[one[:40] for one in COMMANDS])
def test_an_interruption_ends_it_with_130_and_leaves_nothing_half_written(
    command: str, work: str, here: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with monkeypatch.context() as patched:
        patched.setattr(work, called_off)
        result = CliRunner().invoke(main, command.split())
    assert result.exit_code == 130, (result.output, result.exception)
    assert "Interrupted. " in result.stderr
    assert "Traceback" not in result.output
    assert not list((here / "out").iterdir())


def test_figures_that_were_measured_before_an_interruption_are_printed(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr("moeviz.bench.engine.cache.measure", lambda work: {"speed": 7.0})
    monkeypatch.setattr("moeviz.bench.engine.oracle.measure", called_off)
    command = ["bench", "engine", "--only", "cache", "--only", "oracle"]
    for more, printed in (([], f"{'speed':52} 7\n"), (["--json"], '{"speed": 7.0}\n')):
        result = CliRunner().invoke(main, [*command, *more])
        assert (result.exit_code, result.stdout) == (130, printed)
        assert "Interrupted. What was measured by then is printed." in result.stderr
    monkeypatch.setattr("moeviz.bench.cli.MEASURES", {"engine": called_after({"speed": 7.0}), "link": dict})
    result = CliRunner().invoke(main, ["bench", "all", "--json"])
    assert (result.exit_code, result.stdout) == (130, '{"engine": {"speed": 7.0}}\n')


def called_after(found: dict[str, float]) -> Callable[..., Any]:
    def measure(**options: object) -> Any:
        yield found
        called_off()

    return measure


PRINT = (  # commands that print
    *("--help", "bench --help", f"replay {T}", f"replay {T} --json", f"show {T}", f"show {T} --json"),
    *(f"diff {T} {T}", "lessons", "plan", "cache list", "cache limit"),
    "import routed.npy --experts 8 --out out/file",
    f"export {T} --format csv --out out/file",
    f"export {T} --format stage --out out/file",
    "split requests.moetrace --into out",
    f"sweep {T} --jobs 1 --slots 3 --policies lru --out out/file.parquet",
    f"run {RUN} --no-verify --out out/file",
    f"compare {RUN} --repeats 1 --setting policy=lru --baselines ,",
    "bench fuzz --files 1",
)


PROGRESS = re.compile(r"curves replayed|^\d+ runs of up to |^\d+ of \d+ runs")


@pytest.mark.parametrize("command", PRINT)
def test_a_reader_that_has_left_is_met_with_silence_and_the_file_is_written(
    command: str, here: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    reading, writing = os.pipe()
    os.close(reading)
    with suppress(BrokenPipeError), os.fdopen(writing, "w") as closed, monkeypatch.context() as patched:
        patched.setattr(sys, "stdout", closed)
        with pytest.raises(SystemExit) as ended:
            main(command.split())
    assert ended.value.code == 1
    lines = capfd.readouterr().err.splitlines()
    assert [line for line in lines if not PROGRESS.search(line)] == []
    assert any((here / "out").iterdir()) == (" out" in command)


@pytest.mark.parametrize(
    "command", ["import table.csv --out out/a.moetrace", "bench pages --tokens 511", "bench fuzz --files 300"]
)
def test_processes_that_it_has_started_end_with_it_in_silence(command: str, here: Path) -> None:
    rows = "\n".join(f"{token},{layer},0,{token % 8}" for token in range(20_000) for layer in range(4))
    (here / "table.csv").write_text(f"token,layer,rank,expert\n{rows}\n")
    with subprocess.Popen(
        [sys.executable, "-m", "moeviz", *command.split()],
        stdout=subprocess.DEVNULL,
        stderr=subprocess.PIPE,
        env=os.environ | {"PYTHONPATH": str(ROOT)},
        text=True,
        start_new_session=True,  # a signal to it is none to the test
    ) as process:
        watched = psutil.Process(process.pid)
        while not (family := watched.children(recursive=True)):
            assert process.poll() is None
            with suppress(psutil.TimeoutExpired):
                watched.wait(0.02)
        os.killpg(process.pid, signal.SIGINT)  # as a terminal does: to all of them
        _, said = process.communicate(timeout=300)
    assert process.returncode == 130
    assert said.strip() == "Interrupted. Nothing was kept."
    assert not psutil.wait_procs(family, timeout=300)[1]
    assert not list((here / "out").iterdir())

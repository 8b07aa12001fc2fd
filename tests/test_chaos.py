"""Commands and the worker are killed, stopped, interrupted and run out of disk at random moments: no
traceback, no partial file, and the next command works.

The seed is fixed. CI gives it two minutes; MOEVIZ_CHAOS_SECONDS=3600 python -m pytest tests/test_chaos.py
gives it an hour, and MOEVIZ_CHAOS_SEED other moments.
"""

from __future__ import annotations

import itertools
import os
import random
import re
import resource
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import pandas as pd
import psutil
import pytest
from conftest import random_trace

from moeviz.core.settings import Settings
from moeviz.engine.client import Client, Job
from moeviz.files import moetrace

SECONDS = float(os.environ.get("MOEVIZ_CHAOS_SECONDS", "120" if os.environ.get("CI") else "0"))
pytestmark = [
    pytest.mark.skipif(not SECONDS, reason="takes minutes: CI, or MOEVIZ_CHAOS_SECONDS"),
    pytest.mark.skipif(os.name != "posix", reason="signals and limits of POSIX"),
]
ROOT = Path(__file__).parent.parent
SEED = int(os.environ.get("MOEVIZ_CHAOS_SEED", "20"))
PATIENCE = 900  # seconds that a command may take on a busy machine before it counts as hung


@dataclass
class Command:
    """A command with a file that it writes, and how that file is read."""

    name: str
    arguments: list[str]
    out: Path | None
    read: Callable[[Path], object]
    took: float = 0.0  # seconds, undisturbed

    def start(self, largest: int | None = None) -> subprocess.Popen[str]:
        """largest: bytes that any file may grow to, as on a full disk."""

        def limit() -> None:
            if largest is not None:
                resource.setrlimit(resource.RLIMIT_FSIZE, (largest, largest))

        return subprocess.Popen(
            [sys.executable, "-m", "moeviz", *self.arguments],
            cwd=ROOT,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.PIPE,
            text=True,
            preexec_fn=limit,
            start_new_session=True,  # a signal to it is none to the test
        )

    def works(self) -> object:
        """What an undisturbed run of it gives."""
        start = time.monotonic()
        process = self.start()
        _, said = process.communicate(timeout=PATIENCE)
        self.took = time.monotonic() - start
        assert process.returncode == 0, f"{self.name}: {said}"
        return self.read(self.out) if self.out else None


def rows(path: Path) -> list[tuple[object, ...]]:
    """A sweep's table, whatever the order in which its rows came."""
    table = pd.read_parquet(path)
    return sorted(map(tuple, table[["digest", "policy", "slots", "hit_ratio"]].itertuples(index=False)))


def chosen(path: Path) -> list[object]:
    return list(moetrace.load(path)[0].experts.tolist())


@pytest.fixture
def commands(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> list[Command]:
    monkeypatch.setenv("MOEVIZ_CACHE", str(tmp_path / "cache"))
    monkeypatch.setenv("MOEVIZ_DATA", str(tmp_path / "data"))
    for number in range(3):
        random_trace(number, tokens=300, layers=6).save(tmp_path / "in" / f"{number}.moetrace")
    lines = ["token,layer,rank,expert"]
    lines += [
        f"{token},{layer},{rank},{(token * 7 + layer + rank * 3) % 8}"
        for token in range(2_000)
        for layer in range(4)
        for rank in range(2)
    ]
    (tmp_path / "table.csv").write_text("\n".join(lines))
    out = tmp_path / "out"
    out.mkdir()
    ran, imported, swept = out / "ran.moetrace", out / "imported.moetrace", out / "swept.parquet"
    source = str(tmp_path / "table.csv")
    return [
        Command("replay", ["replay", str(tmp_path / "in" / "1.moetrace"), "--policy", "lfu"], None, chosen),
        Command("import", ["import", source, "--out", str(imported), "--force"], imported, chosen),
        Command("sweep", ["sweep", str(tmp_path / "in"), "--jobs", "2", "--out", str(swept)], swept, rows),
        Command(
            "run",
            [
                "run",
                "--prompt",
                "And it",
                "--max-new-tokens",
                "8",
                "--no-verify",
                "--out",
                str(ran),
                "--force",
            ],
            ran,
            chosen,
        ),
    ]


def rounds(until: float) -> Iterator[tuple[int, random.Random]]:
    """(number, its own draw) until that time of time.monotonic(); at least one."""
    for number in itertools.count():
        yield number, random.Random(SEED * 1_000_003 + number)
        if time.monotonic() > until:
            return


def test_commands_survive_what_happens_to_them(commands: list[Command], tmp_path: Path) -> None:
    """After any disturbance a file is either what it was, or whole; and the same command, given again, gives
    what it always gave.
    """
    until = time.monotonic() + SECONDS * 0.7
    whole = {command.name: command.works() for command in commands}
    pairs = list(itertools.product(commands, ("kill", "terminate", "interrupt", "pause", "full")))
    for number, draw in rounds(until):
        if number % len(pairs) == 0:
            draw.shuffle(pairs)  # every disturbance of every command comes once before any comes again
        command, what = pairs[number % len(pairs)]
        if command.out is not None and draw.random() < 0.5:
            command.out.unlink(missing_ok=True)
        if draw.random() < 0.3:  # the slow tier is filled again
            for file in (tmp_path / "cache").rglob("*.experts"):
                file.unlink()
        about = f"round {number}: {what} {command.name}"
        print(about)  # what came before is shown where it fails
        process = command.start(draw.choice([0, 100, 5_000]) if what == "full" else None)
        family = disturb(process, what, draw.uniform(0, command.took))
        _, said = process.communicate(timeout=PATIENCE)
        early = what == "interrupt" and before_its_own_code(said)
        assert early or "Traceback" not in said, f"{about}: {said}"
        match what:
            case "pause":
                assert process.returncode == 0, f"{about}: {said}"
            case "interrupt":
                ends = (0, 130, -signal.SIGINT)  # the last is the system's, before Python is there
                assert early or process.returncode in ends, f"{about}: {process.returncode} {said}"
            case "full":
                assert process.returncode in (0, 2), f"{about}: {process.returncode} {said}"
                assert process.returncode == 0 or "Error: " in said, f"{about}: {said}"
        _, alive = psutil.wait_procs(family, timeout=PATIENCE)
        assert not alive, f"{about}: {alive} outlived their parent"
        if command.out is not None and command.out.exists():
            command.read(command.out)  # whole, whichever it is
        assert command.works() == whole[command.name], about
        left = [path.name for path in (tmp_path / "cache").rglob("*") if path.suffix == ".part"]
        assert not left, f"{about}: {left}"


def before_its_own_code(said: str) -> bool:
    """Whether Python was interrupted while it started, and said so in its own way: no line of moeviz, but for
    what stands before its handler, had been run.
    """
    files = set(re.findall(rf'File "{re.escape(str(ROOT))}/(?!\.venv/)([^"]+)"', said))
    return "KeyboardInterrupt" in said and files <= {"moeviz/__init__.py", "moeviz/__main__.py"}


def disturb(process: subprocess.Popen[str], what: str, after: float) -> list[psutil.Process]:
    """Does it to a command that has run for `after` seconds; gives the processes that this had started."""
    try:
        process.wait(after)
    except subprocess.TimeoutExpired:
        pass
    else:
        return []
    try:
        family = psutil.Process(process.pid).children(recursive=True)
    except psutil.NoSuchProcess:
        return []
    match what:
        case "kill":
            process.kill()
        case "terminate":
            process.terminate()
        case "interrupt":
            process.send_signal(signal.SIGINT)
        case "pause":
            process.send_signal(signal.SIGSTOP)
            process.send_signal(signal.SIGCONT)
    return family


def test_the_worker_is_killed_stopped_and_hung_and_the_queue_goes_on() -> None:
    """Whatever happens to the worker, its job ends with a message or its result, what it captured stays, and
    the next job runs.
    """
    client = Client()
    kinds = ["kill", "hang", "stop"]
    try:
        for number, draw in rounds(time.monotonic() + SECONDS * 0.3):
            job = client.submit(watch(draw.choice([2, 200])))
            if number % len(kinds) == 0:
                draw.shuffle(kinds)  # each of them comes before any comes again
            what = kinds[number % len(kinds)]
            about = f"round {number}: {what}"
            print(about)
            if not job.over.wait(draw.uniform(0, 3)):
                if what != "stop" and client.pid is not None:
                    os.kill(client.pid, signal.SIGKILL if what == "kill" else signal.SIGSTOP)
                if what != "kill":
                    client.stop(job)
            assert job.over.wait(PATIENCE), about
            assert job.state in ("done", "stopped", "failed"), about
            assert job.state != "failed" or job.message, about
            assert "Traceback" not in job.message, about
            if (captured := job.recording()) is not None:
                assert len(captured[1].output_ids) == len(job.passes), about
            after = client.submit(watch(2))
            assert after.over.wait(PATIENCE), about
            assert after.state == "done", f"{about}: {after.message}"
    finally:
        client.kill()


def watch(tokens: int) -> Job:
    return Job("watch", "And it", [Settings("lru", 3)], max_new_tokens=tokens, stop_at_end=False)

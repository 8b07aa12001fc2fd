"""The soak visits what it says, in a real browser, and what it tells is about the server and its worker."""

from __future__ import annotations

import asyncio
import signal
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import psutil
import pytest
from click.testing import CliRunner
from test_browser import pytestmark as pytestmark

from moeviz.bench import soak
from moeviz.cli.main import main
from moeviz.errors import MoevizError

PAGES = len(list((Path(__file__).parent.parent / "pages").glob("*.py")))


def test_every_page_is_opened_and_the_runs_are_made(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(soak, "IDLE", 0)
    monkeypatch.setattr(soak, "TELL", 0.05)
    seen: list[str] = []
    real = soak.Seen
    monkeypatch.setattr(soak, "Seen", lambda page, *rest: seen.append(page) or real(page, *rest))
    (found,) = soak.visits(1, 0.0)
    once, again = seen[: len(seen) // 2], seen[len(seen) // 2 :]  # one before the class, one of it
    assert len(set(once)) == len(set(again)) == PAGES
    assert found["the slowest"].split(",")[0] in again
    assert found["seconds to a page, 95th percentile"] <= found["seconds to a page, 1 sessions"]["most"]
    assert found["server after one session saw every page, MiB"] > found["server at its start, MiB"] > 0
    (found,) = soak.runs(2)
    assert found["worker after 2 runs, MiB"] > found["server after 2 runs, MiB"] > 0
    said = capsys.readouterr().err
    assert "1 of 1 browsers have seen all" in said
    assert "1 of 2 runs made" in said


@pytest.mark.skipif(sys.platform == "win32", reason="signals")
@pytest.mark.parametrize(
    "gone", [None, MoevizError("The browser cannot go on: closed"), psutil.NoSuchProcess(1)], ids=type
)
def test_what_was_seen_is_told_when_it_is_cut_off(gone: Exception | None) -> None:
    """A terminal interrupts browser and server too; that they are gone is no fault."""
    first = soak.Seen("Stage", 1, 0, 3.0, 0.2, 4.0)
    found = soak.Class(psutil.Process(), 2, [first])

    async def cut() -> None:
        found.seen.append(soak.Seen("Timeline", 3, 1, 2.0, 0.1, 0.2))
        signal.raise_signal(signal.SIGINT)
        try:
            await asyncio.Event().wait()
        finally:
            if gone is not None:
                raise gone

    parts = soak._told(cut(), found)
    assert next(parts)["the slowest"].startswith("Timeline, page 3 of its browser")
    with pytest.raises(KeyboardInterrupt):
        next(parts)


@pytest.mark.skipif(sys.platform == "win32", reason="signals")
def test_an_interruption_while_the_server_starts_is_one(monkeypatch: pytest.MonkeyPatch) -> None:
    @contextmanager
    def dying(data: Path) -> Iterator[Any]:
        signal.raise_signal(signal.SIGINT)  # as a terminal's, which ends the server too
        raise MoevizError("The server ended at once.")
        yield

    monkeypatch.setattr(soak, "serving", dying)
    result = CliRunner().invoke(main, ["bench", "soak"])
    assert result.exit_code == 130
    assert "Interrupted. Nothing was kept." in result.stderr

"""The soak visits what it says, in a real browser, and what it tells is about the server and its worker."""

from __future__ import annotations

import signal
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner
from test_browser import pytestmark as pytestmark

from moeviz.bench import soak
from moeviz.cli.main import main
from moeviz.errors import MoevizError

PAGES = len(list((Path(__file__).parent.parent / "pages").glob("*.py")))


def test_every_page_is_opened_and_the_runs_are_made(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(soak, "IDLE", 0)
    taken: list[float] = []
    monkeypatch.setattr(soak, "spread", lambda seconds: taken.extend(seconds))
    found = soak.visits(1, 0.0)
    assert len(taken) in (PAGES, PAGES + 1)  # the first page is seen again where it is not drawn first
    assert found["server after one session saw every page, MiB"] > found["server at its start, MiB"] > 0
    found = soak.runs(2)
    assert found["worker after 2 runs, MiB"] > found["server after 2 runs, MiB"] > 0


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

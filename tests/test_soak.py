"""The soak visits what it says, in a real browser, and what it tells is about the server and its worker."""

from __future__ import annotations

from pathlib import Path

import pytest
from test_browser import pytestmark as pytestmark

from moeviz.bench import soak

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

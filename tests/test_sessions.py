"""Twenty sessions at once on one server: each keeps to itself, runs wait their turn, and a closed tab frees
its run. Two of them are real browsers; the others say what a browser says, and draw nothing.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from contextlib import ExitStack
from dataclasses import replace
from pathlib import Path

import pytest
from conftest import random_trace
from playwright.sync_api import Browser, Page, expect
from test_browser import PATIENCE, browser, goto, see, settle, staged, turn, verdict  # noqa: F401
from test_browser import pytestmark as pytestmark
from visitor import Visitor

BROWSERS = ("apple", "birch")
VISITORS = (
    *("cedar", "dates", "elder", "figs", "grape", "hazel", "iris", "junco", "kelp"),
    *("lilac", "maple", "nut", "olive", "plum", "quince", "rose", "sage", "thyme"),
)


@pytest.fixture
def closing() -> Iterator[ExitStack]:
    with ExitStack() as stack:
        yield stack


def test_twenty_sessions(
    app: str,
    browser: Browser,  # noqa: F811
    closing: ExitStack,
    tmp_path: Path,
) -> None:
    for word in (*BROWSERS, *VISITORS):
        trace = random_trace(len(word), tokens=24)
        trace = replace(trace, prompt=f"secret of {word}", texts=(f"{word} ",) * 24)
        trace.save(tmp_path / f"{word}.moetrace")
    wrong: list[str] = []
    pages: dict[str, Page] = {}
    for word in BROWSERS:
        context = browser.new_context(viewport={"width": 1000, "height": 1300})
        closing.callback(context.close)
        pages[word] = context.new_page()
        pages[word].set_default_timeout(PATIENCE)
        pages[word].on("pageerror", lambda error: wrong.append(str(error)))
        pages[word].goto(app)
    visitors = {word: closing.enter_context(Visitor(app)) for word in VISITORS}
    for visitor in visitors.values():
        visitor.open()
    each_uploads(pages, visitors, tmp_path)
    each_explores(pages, visitors)
    each_runs(app, pages, visitors)
    assert wrong == []
    assert [visitor.wrong for visitor in visitors.values()] == [[]] * len(visitors)
    assert pages[BROWSERS[1]].get_by_test_id("stException").count() == 0


def each_uploads(pages: dict[str, Page], visitors: dict[str, Visitor], folder: Path) -> None:
    for word, page in pages.items():
        turn(page, "Library")
        see(page, "Drop traces anywhere")
        page.locator("input[type=file]").set_input_files(folder / f"{word}.moetrace")
    for word, visitor in visitors.items():
        visitor.turn("Library")
        visitor.upload(folder / f"{word}.moetrace")
        assert f"Opened {word}: 24 tokens" in visitor.texts()
        assert f"Prompt: secret of {word}" in visitor.texts()
        assert uploads(visitor.options("Trace")) == [f"upload: {word}"]  # nobody else's
    for word, page in pages.items():
        see(page, f"Opened {word}")
        settle(page)
        box = page.get_by_role("combobox", name="Trace", exact=True)
        expect(box).to_have_value(f"upload: {word}")
        box.fill("upload")
        expect(page.get_by_role("option")).to_have_text([f"upload: {word}"])
        box.press("Enter")
        see(page, f"Prompt: secret of {word}")


def uploads(names: list[str]) -> list[str]:
    return [name for name in names if name.startswith("upload")]


def each_explores(pages: dict[str, Page], visitors: dict[str, Visitor]) -> None:
    for page in pages.values():
        turn(page, "Experts")
    for word, visitor in visitors.items():
        visitor.turn("Experts")
        assert visitor.component("moeviz_strip")["texts"][0] == f"{word} " * 5  # the prompt's tokens
        assert len(visitor.elements("plotly_chart")) == 1
    for word, page in pages.items():
        expect(page.locator(".strip span").first).to_have_text(f"{word} " * 5)
        expect(page.locator(".js-plotly-plot")).to_have_count(1)


def each_runs(app: str, pages: dict[str, Page], visitors: dict[str, Visitor]) -> None:
    """The first asks for more than anyone can wait for and closes its tab; everyone else's turn comes."""
    first, last = pages.values()
    goto(first, app, "tokens=1500&tier=SD+card%2C+paced")  # it waits for its link: others need the cores
    first.keyboard.press("m")
    see(first, re.compile(r"Getting the model ready|Measured \d+ of"))
    for number, (word, visitor) in enumerate(visitors.items(), start=1):
        visitor.open("tokens=8")
        visitor.write("Prompt", f"And {word} said")
        visitor.event("run")
        assert re.match(
            rf"{number} other runs? before yours", visitor.component("moeviz_stage")["payload"]["verdict"]
        )
    goto(last, app, "tokens=8")
    last.keyboard.press("r")
    verdict(staged(last), re.compile(rf"^{len(visitors) + 1} other runs before yours"))
    first.close()
    for word, visitor in visitors.items():
        while "live = replay, event for event" not in visitor.texts():
            visitor.look()
        assert f"And {word} said" in visitor.texts()
    see(last, "live = replay, event for event")


def test_whoever_clears_streamlits_caches_takes_nothing_from_others(app: str) -> None:
    """Any browser can ask for that, by a message that no page of moeviz sends."""
    with Visitor(app) as one, Visitor(app) as other:
        one.open("tokens=1500&tier=SD+card%2C+paced")
        one.event("run")
        other.clear_caches()
        other.open("tokens=8")
        other.event("run")
        assert "1 other run before yours" in other.component("moeviz_stage")["payload"]["verdict"]
        while "Live: " not in one.component("moeviz_stage")["payload"]["verdict"]:
            one.look()
        one.event("stop")
        for visitor in (one, other):
            while "live = replay, event for event" not in visitor.texts():
                visitor.look()
        one.open()
        assert "my latest run" in one.options("Trace")


def test_two_tabs_of_a_browser_share_what_it_opened_and_one_may_close_it(app: str, tmp_path: Path) -> None:
    random_trace(1).save(tmp_path / "shared.moetrace")
    with Visitor(app) as one, Visitor(app, of=one) as other:
        for tab in (one, other):
            tab.open()
            tab.turn("Library")
        one.upload(tmp_path / "shared.moetrace")
        other.choose("Trace", "upload: shared")
        other.turn("Timeline")
        assert "upload: shared" in other.query.replace("+", " ").replace("%3A", ":")
        one.press("Close")
        other.turn("Experts")
        assert other.options("Trace") == one.options("Trace")
        assert "upload: shared" not in other.options("Trace")
        assert one.wrong == other.wrong == []

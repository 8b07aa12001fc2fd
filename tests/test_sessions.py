"""Twenty browser sessions at once on one server: each keeps to itself, runs wait their turn, and a closed tab
frees its run.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest
from conftest import random_trace
from playwright.sync_api import Browser, BrowserContext, Page, expect
from test_browser import PATIENCE, app, browser, see, settle, staged, turn, verdict  # noqa: F401
from test_browser import pytestmark as pytestmark

SESSIONS = 20
WORDS = (
    "apple",
    "birch",
    "cedar",
    "dates",
    "elder",
    "figs",
    "grape",
    "hazel",
    "iris",
    "junco",
    "kelp",
    "lilac",
    "maple",
    "nut",
    "olive",
    "plum",
    "quince",
    "rose",
    "sage",
    "thyme",
)


@pytest.fixture
def contexts(browser: Browser) -> Iterator[list[BrowserContext]]:  # noqa: F811
    contexts = [browser.new_context(viewport={"width": 1000, "height": 1300}) for _ in range(SESSIONS)]
    yield contexts
    for context in contexts:
        context.close()


def test_twenty_sessions(app: str, contexts: list[BrowserContext], tmp_path: Path) -> None:  # noqa: F811
    expect.set_options(timeout=PATIENCE)
    pages = [context.new_page() for context in contexts]
    wrong: list[str] = []
    for page, word in zip(pages, WORDS, strict=True):
        page.set_default_timeout(PATIENCE)
        page.on("pageerror", lambda error: wrong.append(str(error)))
        page.goto(app, wait_until="commit")
        trace = replace(
            random_trace(len(word), tokens=24), prompt=f"secret of {word}", texts=(f"{word} ",) * 24
        )
        trace.save(tmp_path / f"{word}.moetrace")
    each_uploads(pages, tmp_path)
    each_explores(pages)
    each_runs(app, pages)
    assert wrong == []
    for page in pages[1:]:
        assert page.get_by_test_id("stException").count() == 0


def each_uploads(pages: list[Page], folder: Path) -> None:
    for page in pages:
        turn(page, "Library")
    for page, word in zip(pages, WORDS, strict=True):
        see(page, "Drop traces anywhere")
        page.locator("input[type=file]").set_input_files(folder / f"{word}.moetrace")
    for page, word in zip(pages, WORDS, strict=True):
        see(page, f"Opened {word}")
        settle(page)
        box = page.get_by_role("combobox", name="Trace", exact=True)
        expect(box).to_have_value(f"upload: {word}")
        box.fill("upload")
        expect(page.get_by_role("option")).to_have_text([f"upload: {word}"])  # nobody else's
        box.press("Enter")
        see(page, f"Prompt: secret of {word}")


def each_explores(pages: list[Page]) -> None:
    for page in pages:
        turn(page, "Experts")
    for page, word in zip(pages, WORDS, strict=True):
        expect(page.locator(".strip span").first).to_have_text(f"{word} " * 5)  # the prompt's tokens
        expect(page.locator(".js-plotly-plot")).to_have_count(1)


def each_runs(app: str, pages: list[Page]) -> None:  # noqa: F811
    """The first asks for more than anyone can wait for and closes its tab; everyone else's turn comes."""
    first, others = pages[0], pages[1:]
    first.goto(f"{app}/?tokens=1500")
    staged(first)
    first.keyboard.press("m")
    see(first, "Getting the model ready")
    for page in others:
        page.goto(f"{app}/?tokens=8", wait_until="commit")
    for number, (page, word) in enumerate(zip(others, WORDS[1:], strict=True), start=1):
        staged(page)
        page.get_by_role("button", name="More").click()
        page.get_by_label("Prompt", exact=True).fill(f"And {word} said")
        page.get_by_label("Prompt", exact=True).press("Control+Enter")
        settle(page)
        page.keyboard.press("Escape")
        page.locator("h1").first.click()
        page.keyboard.press("r")
        verdict(staged(page), re.compile(rf"^{number} other runs? before yours"))
    first.close()
    for page, word in zip(others, WORDS[1:], strict=True):
        see(page, "live = replay, event for event")
        page.get_by_text("without the browser").click()
        see(page, re.compile(f"And {word} said"))

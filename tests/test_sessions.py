"""Twenty browser sessions at once on one server: each keeps to itself, runs wait their turn, and a closed tab frees its run."""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest
from conftest import random_trace
from playwright.sync_api import Browser, BrowserContext, Page, expect
from test_browser import SECONDS, app, browser, see, settle  # noqa: F401
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
    expect.set_options(timeout=90 * SECONDS)
    pages = [context.new_page() for context in contexts]
    wrong: list[str] = []
    for page, word in zip(pages, WORDS, strict=True):
        page.set_default_timeout(90 * SECONDS)
        page.on("pageerror", lambda error: wrong.append(str(error)))
        page.goto(app, wait_until="commit")
        trace = replace(
            random_trace(len(word), tokens=24), prompt=f"secret of {word}", texts=(f"{word} ",) * 24
        )
        trace.save(tmp_path / f"{word}.moetrace")
    each_uploads(pages, tmp_path)
    each_explores(pages)
    each_runs(pages)
    assert wrong == []
    for page in pages[1:]:
        assert page.get_by_test_id("stException").count() == 0


def each_uploads(pages: list[Page], folder: Path) -> None:
    for page in pages:
        page.get_by_role("link", name="Library").click()
    for page, word in zip(pages, WORDS, strict=True):
        see(page, "Nothing in a file is run")
        page.locator("input[type=file]").set_input_files(folder / f"{word}.moetrace")
    for page, word in zip(pages, WORDS, strict=True):
        see(page, f"{word}.moetrace")
        settle(page)
        page.get_by_test_id("stFormSubmitButton").get_by_role("button").click()
    for page, word in zip(pages, WORDS, strict=True):
        see(page, f"Opened {word}")
        settle(page)
        box = page.get_by_role("combobox", name="Trace", exact=True)
        box.fill("upload")
        expect(page.get_by_role("option")).to_have_text([f"upload: {word}"])  # nobody else's
        box.press("Enter")
        see(page, f"Prompt: secret of {word}")


def each_explores(pages: list[Page]) -> None:
    for page in pages:
        page.get_by_test_id("stMain").get_by_role("button", name="Activations").click()
    for page, word in zip(pages, WORDS, strict=True):
        expect(page.locator(".strip-of-tokens span").first).to_have_text(
            f"{word} " * 5
        )  # the prompt's tokens
        expect(page.locator(".js-plotly-plot")).to_have_count(2)


def each_runs(pages: list[Page]) -> None:
    """The first asks for more than anyone can wait for and closes its tab; everyone else's turn comes, one after the other."""
    first, others = pages[0], pages[1:]
    first.get_by_role("link", name="Compare").click()
    first.get_by_label("New tokens").fill("1500")
    first.get_by_label("New tokens").press("Enter")
    first.get_by_role("button", name="Measure").click()
    see(first, "Getting the model ready")
    for page in others:
        page.get_by_role("link", name="Live").click()
    for number, (page, word) in enumerate(zip(others, WORDS[1:], strict=True), start=1):
        page.get_by_label("New tokens").fill("8")
        page.get_by_label("New tokens").press("Enter")
        page.get_by_label("Prompt", exact=True).fill(f"And {word} said")
        page.get_by_label("Prompt", exact=True).press("Control+Enter")
        settle(page)
        page.get_by_role("button", name="Run").click()
        see(page, re.compile(rf"^{number} other runs? before yours"))
    first.close()
    for page, word in zip(others, WORDS[1:], strict=True):
        see(page, "live = replay, event for event")
        expect(page.locator(".board .token").first).to_have_text(f"And {word} said")
        expect(page.locator(".board")).to_have_attribute("data-frames", "8")

"""Text that would like to be more than text, through every page, in a real browser."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest
from conftest import random_trace
from playwright.sync_api import Page, expect
from test_browser import SECONDS, app, browser, page, settle  # noqa: F401
from test_browser import pytestmark as pytestmark

from moeviz.replay import replay
from moeviz.settings import Settings

EVIL = (
    "<script>window.pwned=1</script>", "<img src=x onerror=window.pwned=1>", "[link](javascript:window.pwned=1)", "![x](http://evil.example/x.png)",
    "**bold** $x^2$ :red[x] <b>b</b>", "=HYPERLINK(\"http://evil.example\")", "`code` | table | *", "<a href='http://evil.example'>a</a>",
)  # fmt: skip


@pytest.fixture(scope="module")
def evil_file(tmp_path_factory: pytest.TempPathFactory) -> Path:
    trace = random_trace(0, tokens=24)
    texts = tuple(EVIL[n % len(EVIL)] for n in range(24))
    trace = replace(trace, texts=texts, prompt=" ".join(EVIL), model=EVIL[1], recorded={"machine": EVIL[0], "time": EVIL[3]})
    path = tmp_path_factory.mktemp("evil") / "__[x](y)__ <b>.moetrace"
    trace.save(path, replay(trace, Settings(slots=3)))
    return path


def choose_upload(page: Page) -> None:  # noqa: F811
    settle(page)
    page.get_by_test_id("stSelectbox").last.locator("input").click()
    page.get_by_role("option", name="upload:").click()
    expect(page.get_by_text("Prompt: <script>").first).to_be_visible()


def test_it_stays_text(page: Page, evil_file: Path) -> None:  # noqa: F811
    page.get_by_role("link", name="Library").click()
    page.locator("input[type=file]").set_input_files(evil_file)
    page.get_by_test_id("stFormSubmitButton").get_by_role("button").click()
    expect(page.get_by_text("Opened").first).to_be_visible()
    for button in ("Activations", "Cache timeline", "Prefetch", "What if"):
        page.get_by_role("link", name="Library").click()
        choose_upload(page)
        page.get_by_test_id("stMain").get_by_role("button", name=button).click()
        expect(page.locator(".js-plotly-plot").first).to_be_visible(timeout=60 * SECONDS)
        assert page.locator("[data-testid=stException]").count() == 0
        assert page.evaluate("window.pwned") is None
        assert (
            page.locator(
                "[data-testid=stMain] a[href*=evil], [data-testid=stMain] img[src*=evil], [data-testid=stMain] a[href^=javascript]"
            ).count()
            == 0
        )

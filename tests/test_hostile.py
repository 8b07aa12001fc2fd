"""Text that would like to be more than text, through every page, in a real browser."""

from __future__ import annotations

import re
from dataclasses import replace
from pathlib import Path

import pytest
from conftest import random_trace
from playwright.sync_api import Page, expect
from test_browser import SECONDS, app, browser, page, settle  # noqa: F401
from test_browser import pytestmark as pytestmark

from moeviz.core.replay import replay
from moeviz.core.settings import Settings
from moeviz.files import exporters
from moeviz.files.moetrace import load as load_file

EVIL = (
    "<script>window.pwned=1</script>",
    "<img src=x onerror=window.pwned=1>",
    "[link](javascript:window.pwned=1)",
    "![x](http://evil.example/x.png)",
    "**bold** $x^2$ :red[x] <b>b</b>",
    '=HYPERLINK("http://evil.example")',
    "`code` | table | *",
    "<a href='http://evil.example'>a</a>",
)


@pytest.fixture(scope="module")
def evil_file(tmp_path_factory: pytest.TempPathFactory) -> Path:
    trace = random_trace(0, tokens=24)
    texts = tuple(EVIL[n % len(EVIL)] for n in range(24))
    trace = replace(
        trace,
        texts=texts,
        prompt=" ".join(EVIL),
        model=EVIL[1],
        recorded={"machine": EVIL[0], "time": EVIL[3]},
    )
    path = tmp_path_factory.mktemp("evil") / "__[x](y)__ <b>.moetrace"
    run = replay(trace, Settings(slots=3))
    trace.save(path, replace(run, settings=replace(run.settings, policy="static", calibration=EVIL[2])))
    return path


def choose(page: Page, label: str, text: str) -> None:  # noqa: F811
    """By typing, in a window in which nothing scrolls: an open list closes when the page is drawn or scrolled."""
    settle(page)
    box = page.get_by_role("combobox", name=label, exact=True)
    box.click(trial=True)  # waits until it stands still
    box.fill(text)
    box.press("Enter")
    expect(box).to_have_value(re.compile(f"^{text}"))


def choose_upload(page: Page) -> None:  # noqa: F811
    page.get_by_role("link", name="Library").click()
    expect(page.get_by_role("heading", name="Which traces are there")).to_be_visible()
    choose(page, "Trace", "upload")
    expect(page.get_by_text("Prompt: <script>").first).to_be_visible()
    settle(page)


def check_inert(page: Page) -> None:  # noqa: F811
    assert page.locator("[data-testid=stException]").count() == 0
    assert page.evaluate("window.pwned") is None
    made = [
        f"[data-testid=stMain] {one}"
        for one in ("a[href*=evil]", "img[src*=evil]", "a[href^=javascript]", "script")
    ]
    assert page.locator(", ".join(made)).count() == 0


@pytest.mark.parametrize(("link", "button"), [("Live", "Run"), ("Compare", "Measure")])
def test_a_prompt_stays_text(link: str, button: str, page: Page) -> None:  # noqa: F811
    page.get_by_role("link", name=link).click()
    page.get_by_label("New tokens").fill("4")
    page.get_by_label("New tokens").press("Enter")
    page.get_by_label("Prompt", exact=True).fill(" ".join(EVIL))
    page.get_by_role("button", name=button).click()
    expect(page.get_by_text(re.compile("live = replay|measured = replayed")).first).to_be_visible()
    expect(page.get_by_text("without the browser")).to_be_visible()  # the page's last line
    page.get_by_text("without the browser").click()
    expect(page.get_by_test_id("stCode").get_by_text("<script>")).to_be_visible()
    check_inert(page)


def test_it_stays_text(page: Page, evil_file: Path) -> None:  # noqa: F811
    page.set_viewport_size({"width": 1440, "height": 3000})
    page.get_by_role("link", name="Library").click()
    page.locator("input[type=file]").set_input_files(evil_file)
    page.get_by_test_id("stFormSubmitButton").get_by_role("button").click()
    expect(page.get_by_text("Opened").first).to_be_visible()
    for button in ("Activations", "Cache timeline", "Prefetch", "What if"):
        choose_upload(page)
        page.get_by_test_id("stMain").get_by_role("button", name=button).click()
        expect(page.locator(".js-plotly-plot").first).to_be_visible(timeout=60 * SECONDS)
        check_inert(page)


def test_a_report_stays_text(page: Page, evil_file: Path, tmp_path: Path) -> None:  # noqa: F811
    trace, run = load_file(evil_file)
    assert run is not None
    (tmp_path / "report.html").write_bytes(exporters.content("report", trace, run))
    report = page.context.new_page()
    asked: list[str] = []
    report.on("request", lambda request: asked.append(request.url))
    report.on("console", lambda message: asked.append(message.text))
    report.goto((tmp_path / "report.html").as_uri())
    expect(report.locator(".js-plotly-plot")).to_have_count(4)
    expect(report.get_by_text("<script>").first).to_be_visible()
    assert report.evaluate("window.pwned") is None
    assert report.locator("body a[href], body img[src*=evil]").count() == 0
    assert asked == [(tmp_path / "report.html").as_uri()]

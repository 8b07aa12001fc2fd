"""Text that would like to be more than text, through every page, in a real browser."""

from __future__ import annotations

import re
from dataclasses import replace
from pathlib import Path
from urllib.parse import quote, urlencode

import pytest
from conftest import random_trace
from playwright.sync_api import Page, expect
from test_browser import PATIENCE, browser, context, drawn, page, see, settle, staged, turn  # noqa: F401
from test_browser import pytestmark as pytestmark
from test_links import LINKED, SHARED

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
    "\u202egpj.exe \x1b[2J",
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


def check_inert(page: Page) -> None:  # noqa: F811
    assert page.locator("[data-testid=stException]").count() == 0
    assert page.evaluate("window.pwned") is None
    made = [
        f"[data-testid=stMain] {one}"
        for one in ("a[href*=evil]", "img[src*=evil]", "a[href^=javascript]", "script")
    ]
    assert page.locator(", ".join(made)).count() == 0


@pytest.mark.parametrize(("key", "badge"), [("r", "live = replay"), ("m", "measured = replayed")])
def test_a_prompt_stays_text(key: str, badge: str, app: str, page: Page) -> None:  # noqa: F811
    page.goto(f"{app}/?tokens=4")
    staged(page)
    page.get_by_role("button", name="More").click()
    page.get_by_label("Prompt", exact=True).fill(" ".join(EVIL))
    page.get_by_label("Prompt", exact=True).press("Control+Enter")
    settle(page)
    page.keyboard.press("Escape")
    page.locator("h1").first.click()
    page.keyboard.press(key)
    see(page, re.compile(badge))
    expect(page.get_by_text("without the browser")).to_be_visible()  # the page's last line
    page.get_by_text("without the browser").click()
    expect(page.get_by_test_id("stCode").get_by_text("<script>")).to_be_visible()
    check_inert(page)


def test_it_stays_text(app: str, page: Page, evil_file: Path) -> None:  # noqa: F811
    page.goto(f"{app}/library")
    page.locator("input[type=file]").set_input_files(evil_file)
    expect(page.get_by_text("Opened").first).to_be_visible()
    expect(page.get_by_text("Prompt: <script>").first).to_be_visible()
    check_inert(page)
    for name in ("Experts", "Timeline", "Prefetch", "What if"):
        turn(page, name)
        expect(page.locator(".js-plotly-plot").first).to_be_visible()
        check_inert(page)
    turn(page, "Stage")
    staged(page)
    check_inert(page)
    page.goto(f"{app}/?lesson={quote(EVIL[0])}&progress={quote(EVIL[1])}&trace={quote(EVIL[2])}")
    staged(page)
    check_inert(page)
    turn(page, "Lessons")
    check_inert(page)


@pytest.mark.parametrize("name", LINKED)
def test_a_bent_link_runs_nothing(page: Page, app: str, name: str) -> None:  # noqa: F811
    """Each of a page's names with a text that would like to be a script."""
    said: list[str] = []
    page.on("dialog", lambda one: (said.append(one.message), one.dismiss()))
    names = [one for one in (*LINKED[name], *SHARED) if one != "presenter"]  # which hides what is waited for
    link = {one: EVIL[number % len(EVIL)] for number, one in enumerate(names)}
    page.goto(f"{app}/{'' if name == 'stage' else name}?{urlencode(link)}")
    drawn(page, name.replace("_", " ").capitalize())
    check_inert(page)
    assert said == []


def test_a_report_stays_text(page: Page, evil_file: Path, tmp_path: Path) -> None:  # noqa: F811
    trace, _ = load_file(evil_file)  # a run whose calibration is not here is not opened with it
    run = replay(trace, Settings(slots=3))
    run = replace(run, settings=replace(run.settings, policy="static", calibration=EVIL[2]))
    (tmp_path / "report.html").write_bytes(exporters.content("report", trace, run))
    report = opened(page, tmp_path / "report.html")
    expect(report.locator(".js-plotly-plot")).to_have_count(5)
    expect(report.get_by_text("<script>").first).to_be_visible()
    check_file(report)


def test_a_stage_in_a_file_stays_text(page: Page, evil_file: Path, tmp_path: Path) -> None:  # noqa: F811
    trace, _ = load_file(evil_file)
    (tmp_path / "stage.html").write_bytes(exporters.content("stage", trace, replay(trace, Settings(slots=3))))
    stage = opened(page, tmp_path / "stage.html")
    for key, at in (("End", re.compile(r"[1-9]\d*")), ("Home", "0")):  # over every text
        stage.keyboard.press(key)
        expect(stage.locator(".moeviz-stage")).to_have_attribute("data-pass", at)
        check_file(stage)


ASKED: dict[Page, list[str]] = {}  # what a page asked the network for, or said


def opened(page: Page, file: Path) -> Page:  # noqa: F811
    other = page.context.new_page()
    other.set_default_timeout(PATIENCE)
    asked = ASKED[other] = []
    other.on("request", lambda request: asked.append(request.url))
    other.on("console", lambda message: asked.append(message.text))
    other.goto(file.as_uri())
    return other


def check_file(page: Page) -> None:  # noqa: F811
    assert page.evaluate("window.pwned") is None
    assert page.locator("body a[href], body img[src*=evil]").count() == 0
    assert ASKED[page] == [page.url]

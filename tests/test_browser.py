"""The app in a real browser, from the first page to a saved trace. Needs Chromium; never skipped in CI."""

from __future__ import annotations

import os
import re
import shutil
import socket
import subprocess
import sys
import urllib.error
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
from playwright.sync_api import Browser, Locator, Page, expect, sync_playwright

from moeviz.files.moetrace import load as load_file

ROOT = Path(__file__).parent.parent
CHROMIUM = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")
QUIET = [
    "--no-sandbox",
    "--disable-gpu",
    "--disable-quic",
    "--no-first-run",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
]
SECONDS = 1_000
pytestmark = [
    pytest.mark.browser,
    pytest.mark.skipif(
        CHROMIUM is None and not os.environ.get("CI"), reason="no Chromium (Debian: apt install chromium)"
    ),
]


@contextmanager
def serving(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """The app's own server on a free port of this machine."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    command = [
        sys.executable,
        "-m",
        "streamlit",
        "run",
        "app.py",
        "--server.port",
        str(port),
        "--server.headless",
        "true",
    ]
    environment = os.environ | {"MOEVIZ_DATA": str(tmp_path_factory.mktemp("data"))}
    process = subprocess.Popen(
        command, cwd=ROOT, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, env=environment
    )
    address = f"http://127.0.0.1:{port}"
    try:
        while process.poll() is None:
            try:
                urllib.request.urlopen(f"{address}/_stcore/health").read()
                break
            except (urllib.error.URLError, ConnectionError):
                continue
        yield address
    finally:
        process.terminate()
        process.wait()


@pytest.fixture(scope="module")
def app(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    with serving(tmp_path_factory) as address:
        yield address


@pytest.fixture(scope="module")
def browser() -> Iterator[Browser]:
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=CHROMIUM, args=QUIET)
        yield browser
        browser.close()


@pytest.fixture
def page(app: str, browser: Browser) -> Iterator[Page]:
    """A page that fails the test on a console error or a request to another host."""
    context = browser.new_context(viewport={"width": 1440, "height": 900}, accept_downloads=True)
    page = context.new_page()
    page.set_default_timeout(60 * SECONDS)
    expect.set_options(timeout=60 * SECONDS)
    wrong: list[str] = []
    page.on("console", lambda message: wrong.append(message.text) if message.type == "error" else None)
    page.on("pageerror", lambda error: wrong.append(str(error)))
    page.on(
        "request",
        lambda request: (
            wrong.append(request.url) if not request.url.startswith((app, "data:", "blob:")) else None
        ),
    )
    page.goto(app)
    yield page
    context.close()
    assert wrong == []


def see(page: Page, text: str | re.Pattern[str]) -> None:
    """A badge holds its text twice: in itself and in the span around it."""
    expect(page.get_by_text(text).first).to_be_visible()


def settle(page: Page) -> None:
    """Waits until no script runs: a page that is drawn anew closes an open list and gives a download button another file."""
    expect(page.get_by_test_id("stApp")).to_have_attribute("data-test-script-state", "notRunning")


def saved(page: Page, button: Locator) -> Path:
    """The file of a download button. What the last click or key led to has to be on the page already: then its script has begun."""
    settle(page)
    with page.expect_download() as download:
        button.click()
    return Path(download.value.path())


def test_live_opens_on_a_sample_runs_steps_and_saves(page: Page) -> None:
    board = page.locator(".board")
    expect(board).to_have_attribute("data-frames", "240")
    page.get_by_label("New tokens").fill("24")
    page.get_by_label("New tokens").press("Enter")
    page.get_by_role("button", name="Run").click()
    see(page, "live = replay, event for event")
    expect(board).to_have_attribute("data-frames", "24")
    expect(
        page.get_by_role("button", name="Run")
    ).to_be_visible()  # instead of Stop: the page has been drawn to its end
    board.press("Home")
    expect(board).to_have_attribute("data-step", "0")
    for step in ("1", "2", "3"):
        board.press("ArrowRight")
        expect(board).to_have_attribute("data-step", step)
    board.press("ArrowLeft")
    expect(board).to_have_attribute("data-step", "2")
    see(page, "Pass 3: who was needed")  # the step has come back to Python
    board.press("Space")
    expect(board).to_have_attribute("data-step", "23")
    see(page, "Pass 24: who was needed")
    trace, run = load_file(saved(page, page.get_by_role("button", name="Save trace")))
    assert run is not None
    assert len(run.output_ids) == 24
    assert trace.prompt == "And it came to pass in those days, that"


def test_a_run_is_stopped_and_keeps_what_it_captured(page: Page) -> None:
    page.get_by_label("New tokens").fill("1500")
    page.get_by_label("New tokens").press("Enter")
    page.get_by_role("button", name="Run").click()
    see(page, "of 1500 tokens")
    page.get_by_role("button", name="Stop").click()
    see(page, "stopped after")
    assert 0 < int(page.locator(".board").get_attribute("data-frames") or 0) < 1500
    see(page, "live = replay, event for event")


def test_the_board_follows_a_live_run(page: Page) -> None:
    page.get_by_label("New tokens").fill("60")
    page.get_by_label("New tokens").press("Enter")
    page.get_by_role("button", name="Run").click()
    see(page, "so these speeds are no measurement")
    before = int(page.locator(".board").get_attribute("data-drawn") or 0)
    see(page, "live = replay, event for event")
    expect(page.locator(".board")).to_have_attribute("data-step", "59")  # it played all that came
    assert int(page.locator(".board").get_attribute("data-drawn") or 0) > before


def test_compare_measures_lru_against_lfu(page: Page) -> None:
    page.get_by_role("link", name="Compare").click()
    page.get_by_label("New tokens").fill("16")
    page.get_by_label("New tokens").press("Enter")
    page.get_by_role("button", name="Measure").click()
    for badge in ("same tokens in every run", "measured = replayed"):
        see(page, badge)
    for chart in (
        "Tokens per second",
        "Where the time of a token goes",
        "Hit ratio",
        "What went over the link",
    ):
        expect(page.get_by_role("heading", name=chart)).to_be_visible()
    expect(page.locator(".js-plotly-plot")).to_have_count(4)
    see(page, "The same comparison without the browser")  # the page has been drawn to its end
    lines = saved(page, page.get_by_role("button", name="Table as CSV")).read_text().splitlines()
    assert [line.split(",")[0].strip('"') for line in lines] == [
        "settings",
        "lru",
        "lfu",
        "resident",
        "on-demand",
        "whole-layer",
    ]


def test_a_page_fits_a_phone(page: Page) -> None:
    page.set_viewport_size({"width": 390, "height": 844})
    expect(page.locator(".board canvas.experts")).to_be_visible()
    wide = page.evaluate("document.querySelector('[data-testid=stMain]').scrollWidth")
    assert wide <= 390


def test_a_bad_link_opens_the_page_all_the_same(page: Page, app: str) -> None:
    page.goto(f"{app}/?slots=abc&policy=nonsense&seed=-4")
    expect(page.locator(".board")).to_be_visible()
    assert page.locator("[data-testid=stException]").count() == 0


def test_the_timeline_steps_and_jumps(page: Page) -> None:
    page.get_by_role("link", name="Cache timeline").click()
    board = page.locator(".board")
    expect(board).to_have_attribute("data-step", "60")
    expect(page.locator(".js-plotly-plot")).to_have_count(2)
    board.press("ArrowRight")
    expect(board).to_have_attribute("data-step", "61")
    see(page, "Pass 61, MoE layer 0")
    board.press("ArrowLeft")
    see(page, "Pass 60, MoE layer 0")
    page.get_by_role("button", name="Next regretted eviction").click()
    see(page, "Belady would have dropped")
    moved = page.get_by_text("Belady would have dropped").first
    expect(moved).to_be_visible()
    page.get_by_role("button", name="Next miss").click()
    see(page, "missed (")
    expect(page).to_have_url(re.compile(r"step=\d+"))


def test_the_strip_of_tokens_steps(page: Page) -> None:
    page.get_by_role("link", name="Activations").click()
    strip = page.locator(".strip-of-tokens")
    expect(strip).to_have_attribute("data-step", "239")
    strip.press("Home")
    expect(page).to_have_url(re.compile(r"token=0\b"))
    for step in ("1", "2"):
        strip.press("ArrowRight")
        expect(strip).to_have_attribute("data-step", step)
    see(page, "Pass 2:")
    strip.locator("span").nth(30).click()
    see(page, "Pass 30:")
    strip.press("ArrowLeft")
    see(page, "Pass 29:")


def test_a_link_to_a_page_opens_it_within_the_app(
    browser: Browser, tmp_path_factory: pytest.TempPathFactory
) -> None:
    """The very first request that a server sees, for a page other than the first."""
    with serving(tmp_path_factory) as address:
        page = browser.new_page()
        page.goto(f"{address}/what_if")
        expect(
            page.get_by_role("heading", name="How many slots, which policy, which machine?")
        ).to_be_visible(timeout=60 * SECONDS)
        expect(page.get_by_role("link", name="Cache timeline")).to_be_visible()
        page.close()


def test_prefetch_and_what_if_draw_their_charts(page: Page) -> None:
    page.get_by_role("link", name="Prefetch").click()
    expect(page.locator(".js-plotly-plot")).to_have_count(5)
    page.get_by_role("link", name="What if").click()
    for chart in ("Hit ratio over slots", "Time per output token"):
        expect(page.get_by_role("heading", name=chart)).to_be_visible()
    expect(page.locator(".js-plotly-plot")).to_have_count(2)
    expect(page.get_by_text("not checked on this machine yet")).to_be_visible()  # the last line of the page
    page.get_by_test_id("stExpander").first.get_by_text("Table").click()
    button = page.get_by_test_id("stDownloadButton").first.get_by_role("button")
    expect(button).to_be_visible()
    assert saved(page, button).read_text().startswith("slots,lru,lfu")

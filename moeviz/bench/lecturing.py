"""The lecturer's clock in headless Chromium: seconds from opening the app to a verdict, and to a live run's
first token. Nothing is scrolled.

lecturing(repeats=3)["s to LRU against LFU with a verdict, 2 clicks"]
"""

from __future__ import annotations

import shutil
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

from moeviz.bench.answering import STILL
from moeviz.bench.rounds import spread
from moeviz.bench.serving import serving

if TYPE_CHECKING:
    from playwright.sync_api import Page

PATIENCE = 300_000  # ms
_TOKEN = "Live: "  # how the stage's verdict begins once a run has a token
_CLICKED = "addEventListener('click', () => { window.clicked = performance.now() }, true)"
_SINCE = """async ([there, begins]) => {
  const found = (root) => [...root.querySelectorAll("*")].some((one) =>
    (one.matches(there) && one.innerText.startsWith(begins)) || (one.shadowRoot && found(one.shadowRoot)))
  while (!found(document)) {
    if (performance.now() - clicked > 300000) throw new Error(`${begins}is not there after 300 s`)
    await new Promise(requestAnimationFrame)
  }
  return performance.now() - clicked
}"""  # ms from the last click until it is there; a locator looks twice a second only
_STAGE = ".moeviz-stage[data-runs]"
_COMPARED = {  # sample -> its row: the default comparison of its text, as long as its preset says
    "change-of-subject": "s to a measured verdict, 1 click, 240 tokens",
    "bible": "s to a measured verdict, 1 click, 120 tokens",
}
_GOALS = {_COMPARED["bible"]: "<= 30, on two quiet cores"}


def lecturing(repeats: int) -> dict[str, Any]:
    """Seconds as a lecturer waits for them; each repeat has a server and a browser of its own. The measured
    comparisons, a minute and half of one of ten runs each, are waited for in the first alone. Needs
    playwright and Chromium, and the bundled model.
    """
    from playwright.sync_api import sync_playwright

    chromium = shutil.which("chromium") or shutil.which("google-chrome")
    found: dict[str, list[float]] = {}
    with sync_playwright() as playwright:
        for number in range(repeats):
            with tempfile.TemporaryDirectory() as folder, serving(Path(folder)) as (_, address):
                browser = playwright.chromium.launch(
                    executable_path=chromium, args=["--no-sandbox", "--disable-gpu"]
                )
                page = browser.new_page(viewport={"width": 1440, "height": 900})
                page.set_default_timeout(PATIENCE)
                took = [*_run(page, address), *_led(page, address)]
                took += [] if number else _measured(page, address)
                for name, value in took:
                    found.setdefault(name, []).append(value)
                browser.close()
    return {name: spread(values, _GOALS.get(name, "")) for name, values in found.items()}


def _run(page: Page, address: str) -> list[tuple[str, float]]:
    """From the click on Run to its first token: as soon as the stage stands, and once more when the page has
    come to rest after it.
    """
    page.goto(f"{address}/?tokens=120")  # long enough to be seen while it runs
    page.locator(_STAGE).wait_for()
    page.evaluate(_CLICKED)
    took = []
    for which in ("cold", "warm"):
        page.get_by_role("button", name="Run it live").click()
        ms = page.evaluate(_SINCE, [".verdict", _TOKEN])
        took.append((f"s from Run to its first token, {which}", ms / 1e3))
        page.get_by_role("button", name="Stop").click()  # the rest of the run is no figure's
        page.get_by_role("button", name="Run it live").wait_for()
        page.evaluate(STILL)
    return took


def _led(page: Page, address: str) -> list[tuple[str, float]]:
    """The first visit, by a click on "Show me" and one on a prediction."""
    begun = time.perf_counter()
    page.goto(address)
    page.get_by_role("button", name="Show me").click()
    page.get_by_role("button", name="LRU").click()
    page.locator(".verdict", has_text="points").wait_for()
    return [("s to LRU against LFU with a verdict, 2 clicks", time.perf_counter() - begun)]


def _measured(page: Page, address: str) -> Iterator[tuple[str, float]]:
    """The default comparison of a text, by one click: of the one that changes its subject, and of one that
    does not.
    """
    browser = page.context.browser
    assert browser is not None
    for sample, row in _COMPARED.items():
        with browser.new_context(viewport=page.viewport_size) as own:  # who holds no earlier results
            new = own.new_page()
            new.set_default_timeout(PATIENCE)
            new.goto(f"{address}/?trace=sample: {sample}")
            new.locator(_STAGE).wait_for()
            begun = time.perf_counter()
            new.get_by_role("button", name="Measure").click()
            new.locator(".moeviz-stage .results:not(.stale) .says").wait_for()
            yield row, time.perf_counter() - begun

"""How soon the app answers in headless Chromium: first picture, page change, a changed setting, a lesson.

answering(repeats=5)["ms from a changed setting to changed boards, the sample"]
"""

from __future__ import annotations

import shutil
import tempfile
from pathlib import Path
from typing import TYPE_CHECKING, Any

from moeviz.bench.rounds import spread
from moeviz.bench.serving import serving
from moeviz.bench.stage import FIRST_PICTURE
from moeviz.core.synthetic import synthetic
from moeviz.files import moetrace

if TYPE_CHECKING:
    from playwright.sync_api import Page

LONG = (512, 24, 32, 4)  # tokens, layers, experts, k
SAMPLE, LARGE = "sample: change-of-subject", "library: large"
_SHELL = """new MutationObserver((_, own) => {
  if (!document.querySelector("[data-testid=stApp]")) return
  window.shell = performance.now()
  own.disconnect()
}).observe(document, { childList: true, subtree: true })"""  # when Streamlit's own scripts have started
_STAGE = ".moeviz-stage[data-runs]"
_CHANGE = """async (root, value) => {
  const select = root.querySelector(".board.a [aria-label=slots]"), before = root.dataset.runs
  select.value = value
  const start = performance.now()
  select.dispatchEvent(new Event("change"))
  while (root.dataset.runs === before && performance.now() - start < 60000)
    await new Promise(requestAnimationFrame)
  return performance.now() - start
}"""
STILL = """async () => {
  const app = document.querySelector("[data-testid=stApp]")
  for (let since = performance.now(); performance.now() - since < 500;) {
    await new Promise(requestAnimationFrame)
    if (app.dataset.testScriptState !== "notRunning") since = performance.now()
  }
}"""  # until nothing has run for half a second
_TURN = """async ([name, there]) => {
  const links = [...document.querySelectorAll("[data-testid=stTopNavLink]")]
  const link = links.find((one) => one.innerText === name)
  const found = (root) => [...root.querySelectorAll("*")].some((one) =>
    one.matches(there) || (one.shadowRoot && found(one.shadowRoot)))
  const start = performance.now()
  link.click()
  while ((!document.querySelector(`[data-testid=stTopNavLink][aria-current=page]`)?.innerText.includes(name)
    || !found(document)) && performance.now() - start < 60000) await new Promise(requestAnimationFrame)
  return performance.now() - start
}"""
_SLIDE = """(root) => {
  const before = root.dataset.runs
  window.redrawn = new Promise((done) => addEventListener("keydown", () => {
    const start = performance.now()
    const look = () => {
      const took = performance.now() - start
      if (root.dataset.runs === before && took < 60000) requestAnimationFrame(look)
      else done(took)
    }
    look()
  }, { once: true, capture: true }))
}"""  # from the next key to other boards
SLIDER = "ms from a slider of the made-up text to its boards"
GOALS = {SLIDER: "<= 500"}
_PICTURES = {  # what stands on a page once its picture does
    "Experts": ".js-plotly-plot .main-svg",
    "Timeline": ".js-plotly-plot .main-svg",
    "Prefetch": ".js-plotly-plot .main-svg",
    "What if": ".js-plotly-plot .main-svg",
    "Lessons": ".st-key-lesson-picture",
    "Stage": _STAGE,
}


def answering(repeats: int) -> dict[str, Any]:
    """Milliseconds as a visitor waits for them, of a server whose pages have been seen once. Each setting is
    one that nobody asked for before. Needs playwright and Chromium.
    """
    from playwright.sync_api import sync_playwright

    chromium = shutil.which("chromium") or shutil.which("google-chrome")
    found: dict[str, list[float]] = {}
    with tempfile.TemporaryDirectory() as folder:
        kept = Path(folder) / "traces"
        kept.mkdir()
        (kept / "large.moetrace").write_bytes(moetrace.to_bytes(synthetic(*LONG)))
        with serving(Path(folder)) as (_, address), sync_playwright() as playwright:
            browser = playwright.chromium.launch(
                executable_path=chromium, args=["--no-sandbox", "--disable-gpu"]
            )
            for number in range(repeats + 1):  # the first is not counted
                page = browser.new_page(viewport={"width": 1440, "height": 900})
                took = _visit(page, address, number)
                page.close()
                for name, value in took.items() if number else ():
                    found.setdefault(name, []).append(value)
            browser.close()
    return {name: spread(values, GOALS.get(name, "")) for name, values in found.items()}


def _visit(page: Page, address: str, number: int) -> dict[str, float]:
    """One visitor, and what he waited for; `number` tells the settings that he asks for from the others'."""
    took = {}
    page.add_init_script(_SHELL)
    for name, trace, most in (
        ("the sample in a new browser", SAMPLE, 8),
        ("the sample", SAMPLE, 8),
        ("512 x 24 x 32, top-4", LARGE, 32),
    ):
        page.goto(f"{address}/?trace={trace}&a=policy=lru,slots={most // 2}")
        stage = page.locator(_STAGE)
        stage.wait_for(timeout=60_000)
        took[f"ms to the first picture, {name}"] = page.evaluate(FIRST_PICTURE)
        took[f"ms of them since Streamlit's page stood, {name}"] = page.evaluate(f"{FIRST_PICTURE} - shell")
        page.wait_for_timeout(700)  # of a visitor who looks; what the page still does is not waited for
        if "new browser" in name:
            continue
        policy = ("fifo", "random", "lfru", "lfu-resident", "lfuda", "lru-2", "lfu-aged")[number % 7]
        stage.evaluate(_CHANGE.replace("slots", "policy"), policy)
        page.evaluate(STILL)
        took[f"ms from a changed setting to changed boards, {name}"] = stage.evaluate(
            _CHANGE, str(most // 2 + 1 + number % 3)
        )
        page.evaluate(STILL)
        if trace == SAMPLE:
            for again in ("", ", again"):  # the first time it is of settings that nobody has seen yet
                for title, there in _PICTURES.items():
                    took[f"ms to another page, {title}{again}"] = page.evaluate(_TURN, [title, there])
                    page.wait_for_timeout(700)
    page.goto(f"{address}/lessons?lesson=7&progress=.......1&skew={number % 9 * 0.2 + 1:.1f}")
    stage = page.locator(_STAGE)
    stage.wait_for(timeout=60_000)
    page.evaluate(STILL)
    stage.evaluate(_SLIDE)
    page.get_by_role("slider", name="Skew").press("ArrowRight")
    took[SLIDER] = page.evaluate("redrawn")
    return took

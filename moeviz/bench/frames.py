"""How late a picture of a live run is, in headless Chromium: from a forward pass to the picture of it.

frames(repeats=3)["ms from a pass to its picture"]
"""

from __future__ import annotations

import shutil
import tempfile
from collections.abc import Sequence
from itertools import pairwise
from pathlib import Path
from typing import TYPE_CHECKING, Any

from moeviz.bench.answering import STILL
from moeviz.bench.noting import NOTES
from moeviz.bench.rounds import spread
from moeviz.bench.serving import serving

if TYPE_CHECKING:
    from playwright.sync_api import Page

PATIENCE = 300_000  # ms
TOKENS = 240
GOAL = "<= 300"
_STAGE = ".moeviz-stage[data-runs]"
_LOOK = """(root) => {
  const seen = (window.seen = []), verdict = root.querySelector(".verdict")
  const look = () => {
    const pass = Number(root.dataset.pass), live = verdict.textContent.startsWith("Live: ")
    if (live && pass !== seen.at(-1)?.[0]) seen.push([pass, performance.timeOrigin + performance.now()])
    requestAnimationFrame(look)
  }
  look()
}"""  # what the stage shows of a live run, and when first: [pass, ms since the epoch]


def frames(repeats: int) -> dict[str, Any]:
    """Milliseconds from when a pass came to the server, which it does as soon as it is computed, to the first
    picture that shows it or a later one: of every pass, and of those alone that a picture ended with, so
    without the wait for the next look. And between two pictures. Needs playwright and Chromium, and the
    bundled model.
    """
    from playwright.sync_api import sync_playwright

    chromium = shutil.which("chromium") or shutil.which("google-chrome")
    every: list[float] = []
    newest: list[float] = []
    apart: list[float] = []
    with (
        tempfile.TemporaryDirectory() as folder,
        serving(Path(folder), "moeviz.bench.noting") as (_, address),
        sync_playwright() as playwright,
    ):
        browser = playwright.chromium.launch(executable_path=chromium, args=["--no-sandbox", "--disable-gpu"])
        page = browser.new_page(viewport={"width": 1440, "height": 900})
        page.set_default_timeout(PATIENCE)
        page.goto(f"{address}/?tokens={TOKENS}")
        notes = Path(folder) / NOTES
        for _ in range(repeats):
            notes.unlink(missing_ok=True)
            seen = _watched(page)
            came = [1_000 * float(line) for line in notes.read_text(encoding="ascii").split()]
            every += [at - came[number] for number, at in first_shown(seen, len(came))]
            newest += [at - came[number] for number, at in seen if number < len(came)]
            apart += [after - before for (_, before), (_, after) in pairwise(seen)]
        browser.close()
    return {
        "ms from a pass to its picture": spread(every, GOAL),
        "ms from a picture's newest pass to it": spread(newest),
        "ms between two pictures of a run": spread(apart),
    }


def _watched(page: Page) -> list[tuple[int, float]]:
    """Runs the model live until it ends; gives the last pass of every picture, and when it stood."""
    stage = page.locator(_STAGE)
    stage.wait_for()
    page.evaluate(STILL)
    stage.evaluate(_LOOK)
    page.get_by_role("button", name="Run it live").click()
    page.get_by_role("button", name="Stop").wait_for()
    page.get_by_role("button", name="Run it live").wait_for()
    return [(int(number), float(at)) for number, at in page.evaluate("window.seen")]


def first_shown(seen: Sequence[tuple[int, float]], passes: int) -> list[tuple[int, float]]:
    """Each pass with the time of the first picture that holds it; without those that none did. A picture that
    stands behind the one before it is of no new pass.
    """
    found: list[tuple[int, float]] = []
    for last, at in seen:
        found += [(number, at) for number in range(len(found), min(last + 1, passes))]
    return found

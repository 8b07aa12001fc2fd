"""How fast the stage is in headless Chromium: pictures a second, key to picture, file to first picture.

stage(seconds=3.0, repeats=3)["pictures per second, 8 x 8"]
"""

from __future__ import annotations

import shutil
import tempfile
from pathlib import Path
from typing import Any

from moeviz.bench.rounds import spread
from moeviz.core.synthetic import synthetic

SHAPES = ((8, 8, 2, 11), (24, 32, 4, 16), (48, 128, 8, 43))  # layers, experts, k, slots
TOKENS = 128
LEAD = 2.0  # seconds
FIRST_PICTURE = "performance.getEntriesByName('moeviz-stage')[0].startTime"  # ms since the page was opened
_PLAY = """async ([lead, seconds]) => {
  const stage = window.moevizStage
  stage.go(0)
  stage.setSpeed("16")
  stage.toggle()
  const opened = performance.now()
  while (performance.now() - opened < lead * 1000) await new Promise(requestAnimationFrame)
  const before = stage.pictures, start = performance.now()
  while (performance.now() - start < seconds * 1000) {
    await new Promise(requestAnimationFrame)
    if (!stage.playing) { stage.go(0); stage.toggle() }
  }
  const found = (stage.pictures - before) / ((performance.now() - start) / 1000)
  stage.stop()
  return found
}"""
_EMPTY = """async (seconds) => {
  const start = performance.now()
  let count = 0
  while (performance.now() - start < seconds * 1000) {
    await new Promise(requestAnimationFrame)
    count++
  }
  return count / ((performance.now() - start) / 1000)
}"""
_PRESS = """async () => {
  const stage = window.moevizStage
  const took = []
  for (let i = 0; i < 20; i++) {
    await new Promise(requestAnimationFrame)
    const before = stage.pictures, start = performance.now()
    window.dispatchEvent(new KeyboardEvent("keydown", { key: i % 2 ? "ArrowRight" : ".", bubbles: true }))
    while (stage.pictures === before) await new Promise(requestAnimationFrame)
    took.push(performance.now() - start)
  }
  took.sort((a, b) => a - b)
  return took[10]
}"""


def stage(seconds: float, repeats: int) -> dict[str, Any]:
    """Two boards, lru and lfu, of made-up traces at 1440 x 900, from a file. Needs playwright and Chromium.

    Pictures per second while it plays 16 tokens a second, once it has played for LEAD seconds, in which the
    browser still compiles, and of an empty page, which has as many as this browser gives; ms from a key to
    its picture, the median of 20; ms from opening the file to the first picture.
    """
    from playwright.sync_api import sync_playwright

    from moeviz.charts.stage import stage as make
    from moeviz.core.settings import Settings

    chromium = shutil.which("chromium") or shutil.which("google-chrome")
    found: dict[str, list[float]] = {}
    with tempfile.TemporaryDirectory() as folder, sync_playwright() as playwright:
        files = {}
        for layers, experts, k, slots in SHAPES:
            trace = synthetic(TOKENS, layers, experts, k)
            path = Path(folder) / f"{layers}x{experts}.html"
            make(trace, [Settings(name, min(slots, experts - 1)) for name in ("lru", "lfu")]).save(path)
            files[f"{layers} x {experts}"] = path
        browser = playwright.chromium.launch(executable_path=chromium, args=["--no-sandbox", "--disable-gpu"])
        for _ in range(repeats):
            page = browser.new_page(viewport={"width": 1440, "height": 900})
            found.setdefault("pictures per second, an empty page", []).append(page.evaluate(_EMPTY, seconds))
            page.close()
            for name, path in files.items():
                page = browser.new_page(viewport={"width": 1440, "height": 900})
                page.goto(path.as_uri())
                page.locator(".moeviz-stage[data-pictures]").wait_for()
                measured = {
                    f"ms to the first picture, {name}": page.evaluate(FIRST_PICTURE),
                    f"pictures per second, {name}": page.evaluate(_PLAY, [LEAD, seconds]),
                    f"ms from key to picture, {name}": page.evaluate(_PRESS),
                }
                for what, value in measured.items():
                    found.setdefault(what, []).append(value)
                page.close()
        browser.close()
    return {name: spread(values) for name, values in sorted(found.items())}

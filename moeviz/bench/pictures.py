"""README's pictures, made anew from the real app in headless Chromium: a still of the Stage, and a moving one
of LRU against LFU where the text changes its subject. Needs playwright, Pillow and Chromium.

python -m moeviz.bench.pictures
"""

from __future__ import annotations

import io
import re
import shutil
import tempfile
from pathlib import Path
from typing import TYPE_CHECKING

from moeviz.bench.rounds import ROOT
from moeviz.bench.serving import serving
from moeviz.errors import MoevizError

if TYPE_CHECKING:
    from PIL.Image import Image
    from playwright.sync_api import Page

FOLDER = ROOT / "pages"
STILLS = {  # file -> address and the keys that lead there
    "stage": ("?trace=sample%3A+change-of-subject&step=131", ["b", "g"]),
}
SIZE = (1440, 900)
SMALL = (1080, 675)  # of the moving picture
PLAYED = range(100, 160)  # tokens; the subject changes at 120
TOKEN_MS, READ_MS = 200, 2_800  # how long a token, and a page to be read, is shown
MOST_BYTES = 3_000_000


def pictures(folder: Path = FOLDER) -> list[Path]:
    """Makes every picture; gives their files. Raises MoevizError where there is no Chromium, or where the
    moving one is too large.
    """
    from playwright.sync_api import sync_playwright

    chromium = shutil.which("chromium") or shutil.which("google-chrome")
    if chromium is None:
        raise MoevizError("There is no Chromium. On Debian: apt install chromium.")
    with (
        tempfile.TemporaryDirectory() as data,
        serving(Path(data)) as (_, address),
        sync_playwright() as playwright,
    ):
        browser = playwright.chromium.launch(executable_path=chromium, args=["--no-sandbox", "--disable-gpu"])
        page = browser.new_page(viewport={"width": SIZE[0], "height": SIZE[1]}, color_scheme="light")
        page.set_default_timeout(120_000)
        made = [_still(page, address, name, *how, folder) for name, how in STILLS.items()]
        made.append(_moving(page, address, folder / "tour.webp"))
        browser.close()
    return made


def _still(page: Page, address: str, name: str, where: str, keys: list[str], folder: Path) -> Path:
    _open(page, f"{address}/{where}")
    for key in keys:
        page.keyboard.press(key)
        _ready(page)
    path = folder / f"{name}.webp"
    _shot(page).save(path, lossless=True)
    return path


def _moving(page: Page, address: str, path: Path) -> Path:
    """A question, a prediction, its answer, and the two caches on the text token by token."""
    shots: list[tuple[Image, int]] = []
    _open(page, f"{address}/lessons?lesson=1")
    page.locator(".st-key-choice-1").wait_for()
    shots.append((_small(page), READ_MS))
    page.keyboard.press("3")
    page.locator(".moeviz-stage[data-pass]").wait_for()
    _ready(page)
    shots.append((_small(page), READ_MS))
    _open(page, f"{address}/?trace=sample%3A+change-of-subject&step={PLAYED[0]}")
    for token in PLAYED:
        page.locator(f".moeviz-stage[data-pass='{token}']").wait_for()
        shots.append((_small(page), TOKEN_MS))
        page.keyboard.press("ArrowRight")
    page.keyboard.press("End")
    page.locator(".moeviz-stage .where").filter(has_text=re.compile(r"token (\d+) of \1\b")).wait_for()
    _ready(page)
    shots.append((_small(page), READ_MS))
    images, times = zip(*shots, strict=True)
    images[0].save(
        path, save_all=True, append_images=images[1:], duration=list(times), loop=0, quality=70, method=4
    )
    if (size := path.stat().st_size) > MOST_BYTES:
        raise MoevizError(f"{path} has {size:,} bytes; at most {MOST_BYTES:,} are wanted. Play fewer tokens.")
    return path


def _open(page: Page, address: str) -> None:
    page.goto(address)
    _ready(page)
    if page.locator(".js-plotly-plot").count():
        page.locator(".js-plotly-plot .main-svg").first.wait_for()


def _ready(page: Page) -> None:
    """Waits until nothing is drawn any more."""
    page.locator("h1, .moeviz-stage[data-pass]").first.wait_for()
    page.locator("[data-testid=stApp][data-test-script-state=notRunning]").wait_for()
    page.wait_for_timeout(400)  # for what moves into its place


def _shot(page: Page) -> Image:
    from PIL import Image

    return Image.open(io.BytesIO(page.screenshot()))


def _small(page: Page) -> Image:
    from PIL import Image

    return _shot(page).convert("RGB").resize(SMALL, Image.Resampling.LANCZOS)


if __name__ == "__main__":
    for one in pictures():
        print(f"{one.relative_to(ROOT)}  {one.stat().st_size:,} bytes")

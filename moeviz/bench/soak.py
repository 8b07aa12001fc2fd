"""A classroom on one server: how long a page takes when many look at once, what they leave behind, and
whether runs add up.

Sessions are contexts of one headless Chromium on the server's own machine. A class brings its own machines,
so the processor time of a page is told apart: the server's, and that of everything else here, which is the
browsers. Memory is resident memory of the server's process; handles and threads are counted by the system.

python -m moeviz bench soak --sessions 20 --runs 500
"""

from __future__ import annotations

import asyncio
import shutil
import tempfile
import time
from collections.abc import AsyncIterator, Iterator, Sequence
from contextlib import asynccontextmanager, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import psutil

from moeviz.bench.rounds import spread
from moeviz.bench.serving import serving
from moeviz.errors import MoevizError

if TYPE_CHECKING:
    from playwright.async_api import Browser, Page

IDLE = 60  # seconds after all have left until the server's memory is read
ARRIVE = 20  # seconds within which all come
LONGEST = 300_000  # ms that a page may take before the bench gives up
_LINKS = "[data-testid=stTopNavLink]"
_DRAWN = """before => {
    const app = document.querySelector("[data-testid=stApp]");
    const here = document.querySelector("[data-testid=stTopNavLink][aria-current=page]");
    return here && here.innerText !== before && app.dataset.testScriptState === "notRunning";
}"""


@dataclass(frozen=True, slots=True)
class Held:
    """What a process holds."""

    mib: float  # resident memory
    handles: int  # open files and sockets
    threads: int

    @classmethod
    def by(cls, process: psutil.Process) -> Held:
        handles = process.num_fds() if hasattr(process, "num_fds") else process.num_handles()
        return cls(process.memory_info().rss / 2**20, handles, process.num_threads())


def visits(sessions: int, pause: float, seed: int = 0) -> dict[str, Any]:
    """So many people who each open every page, about `pause` seconds apart, and leave.

    A page is done when the bar names it and no script runs. Raises MoevizError where there is no
    Chromium.
    """
    with _served() as (server, address):
        return asyncio.run(_visits(server, address, sessions, pause, seed))


def runs(count: int) -> dict[str, Any]:
    """So many runs of the bundled model in one session. Raises MoevizError where there is no Chromium."""
    with _served() as (server, address):
        return asyncio.run(_runs(server, address, count))


@contextmanager
def _served() -> Iterator[tuple[psutil.Process, str]]:
    """A server with an empty library. It is waited for outside asyncio, which would put off an interruption
    until the server is there, or has died of the same one.
    """
    with tempfile.TemporaryDirectory() as data, serving(Path(data)) as server:
        yield server


async def _visits(
    server: psutil.Process, address: str, sessions: int, pause: float, seed: int
) -> dict[str, Any]:
    draws = np.random.default_rng(seed).spawn(sessions)
    async with _browser() as browser:
        start = Held.by(server)
        await _visit(browser, address, np.random.default_rng(seed), 0, 0)
        one = Held.by(server)
        before = _worked(server)
        each = [_visit(browser, address, draw, draw.uniform(0, ARRIVE), pause) for draw in draws]
        seconds = [taken for visit in await asyncio.gather(*each) for taken in visit]
        own, all_ = (now - then for now, then in zip(_worked(server), before, strict=True))
        most = Held.by(server)
    await asyncio.sleep(IDLE)  # with the browser gone, whose connections are left open when its tabs close
    left = Held.by(server)
    return {
        f"seconds to a page, {sessions} sessions": spread(seconds),
        "processor seconds of the server a page": own / len(seconds),
        "processor seconds of all else here a page": (all_ - own) / len(seconds),
        "server at its start, MiB": start.mib,
        "server after one session saw every page, MiB": one.mib,
        f"server after {sessions} sessions, MiB": most.mib,
        f"server {IDLE} s after all have left, MiB": left.mib,
        "grown since its start, MiB": left.mib - start.mib,
        "threads then, more than after the first session": left.threads - one.threads,
        "handles then, more than after the first session": left.handles - one.handles,
    }


def _worked(server: psutil.Process) -> tuple[float, float]:
    """Processor seconds so far, of the server and of the whole machine."""
    own, machine = server.cpu_times(), psutil.cpu_times()
    return own.user + own.system, machine.user + machine.system + getattr(machine, "nice", 0.0)


async def _visit(
    browser: Browser, address: str, draw: np.random.Generator, wait: float, pause: float
) -> list[float]:
    """Seconds to each page of one who looks at all of them in an order of his own."""
    await asyncio.sleep(wait)
    context = await browser.new_context(viewport={"width": 1440, "height": 900})
    page = await context.new_page()
    page.set_default_timeout(LONGEST)
    seconds = [await _timed(page, lambda: page.goto(address))]
    for link in draw.permutation(await page.locator(_LINKS).count()):
        await asyncio.sleep(pause * draw.uniform(0.5, 1.5))
        place = page.locator(_LINKS).nth(int(link))
        if await place.get_attribute("aria-current") != "page":
            seconds.append(await _timed(page, place.click))
    await context.close()
    return seconds


async def _timed(page: Page, do: Any) -> float:
    """Seconds until another page than before has been drawn."""
    from playwright.async_api import TimeoutError

    here = page.locator(f"{_LINKS}[aria-current=page]")
    before = await here.inner_text() if await here.count() else ""
    start = time.perf_counter()
    try:
        await do()
        await page.wait_for_function(_DRAWN, arg=before)
    except TimeoutError:
        raise MoevizError(
            f"A page took longer than {LONGEST / 1_000:.0f} s. Try fewer --sessions or a longer --pause."
        ) from None
    return time.perf_counter() - start


async def _runs(server: psutil.Process, address: str, count: int) -> dict[str, Any]:
    """What server and worker hold after a tenth of the runs and after all, and what each run between them
    added: 0 where nothing stays, whatever single readings do.
    """
    early = max(1, count // 10)
    held: list[tuple[Held, Held]] = []  # from the early run on
    async with _browser() as browser:
        page = await browser.new_page(viewport={"width": 1440, "height": 900})
        page.set_default_timeout(LONGEST)
        # long enough that the button which stops it is seen
        await _timed(page, lambda: page.goto(f"{address}/?tokens=40"))
        for number in range(count):
            await _run(page, number + 1)
            if number + 1 >= early:
                worker = server.children(recursive=True)[0]
                held.append((Held.by(server), Held.by(worker)))
    found: dict[str, Any] = {}
    for name, each in zip(("server", "worker"), zip(*held, strict=True), strict=True):
        first, last = each[0], each[-1]
        found |= {
            f"{name} after {early} runs, MiB": first.mib,
            f"{name} after {count} runs, MiB": last.mib,
            f"{name}: handles after {early} and after {count}": f"{first.handles} and {last.handles}",
            f"{name}: threads after {early} and after {count}": f"{first.threads} and {last.threads}",
        }
        if len(each) > 1:
            mib = _slope([one.mib for one in each])
            handles, threads = _slope([one.handles for one in each]), _slope([one.threads for one in each])
            found[f"{name}: a run adds"] = (
                f"{mib * 1_024:+.1f} KiB, {handles:+.3f} handles, {threads:+.3f} threads"
            )
    return found


async def _run(page: Page, number: int) -> None:
    """One run, from the click that asks for it to its end."""
    from playwright.async_api import TimeoutError

    try:
        await page.get_by_role("button", name="Run it live").click()
        await page.get_by_role("button", name="Stop").wait_for()
        await page.get_by_role("button", name="Run it live").wait_for()
    except TimeoutError:
        raise MoevizError(
            f"Run {number} was not seen to begin and to end within {LONGEST / 1_000:.0f} s each."
        ) from None


def _slope(values: Sequence[float]) -> float:
    """What is added from one value to the next, by least squares."""
    return float(np.polynomial.Polynomial.fit(range(len(values)), values, 1).convert().coef[-1])


@asynccontextmanager
async def _browser() -> AsyncIterator[Browser]:
    from playwright.async_api import async_playwright

    chromium = shutil.which("chromium") or shutil.which("google-chrome")
    if chromium is None:
        raise MoevizError("bench soak needs Chromium, and there is none. On Debian: apt install chromium.")
    async with async_playwright() as playwright:
        browser = await playwright.chromium.launch(
            executable_path=chromium, args=["--no-sandbox", "--disable-gpu"]
        )
        yield browser
        await browser.close()

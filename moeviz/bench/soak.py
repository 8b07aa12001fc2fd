"""A classroom on one server: how long a page takes when many look at once, what they leave behind, and
whether runs add up.

Sessions are contexts of one headless Chromium on the server's own machine, each with nothing kept, as 20
browsers that were never here. A class brings its own machines, so the processor time of a page is told apart:
the server's, and that of everything else here, which is the browsers. To start and to read the app's scripts
for the first time takes a browser far longer than the server takes for a page, and where many do it at once
on one machine they wait for each other: first pages are told apart from later ones, beside what one alone
takes. Memory is resident memory of the server's process; handles and threads are counted by the system.

How far it is goes to standard error. What is known when it is interrupted, or when a page or a run does not
come, is told all the same.

python -m moeviz bench soak --sessions 20 --runs 500
"""

from __future__ import annotations

import asyncio
import shutil
import tempfile
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Coroutine, Iterator, Sequence
from contextlib import asynccontextmanager, contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click
import numpy as np
import psutil

from moeviz.bench.rounds import spread
from moeviz.bench.serving import serving
from moeviz.errors import MoevizError

if TYPE_CHECKING:
    from playwright.async_api import Browser, Page

IDLE = 60  # seconds after all have left until the server's memory is read
ARRIVE = 20  # seconds within which all come
LONGEST = 300  # seconds that a page or a run may take before the bench gives up
TELL = 15.0  # seconds between two lines on standard error
START, ONE = "at its start", "after one session saw every page"
LEFT = f"{IDLE} s after all have left"
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


@dataclass(frozen=True, slots=True)
class Seen:
    """A page that somebody opened."""

    page: str  # as the bar names it
    turn: int  # 1: the first page of its browser
    others: int  # pages that others waited for when this one was asked for
    seconds: float  # from the click to the page
    own: float  # processor seconds meanwhile, of the server
    rest: float  # and of all else here


@dataclass(slots=True)
class Class:
    """What is known of a class so far."""

    server: psutil.Process
    sessions: int
    alone: list[Seen] = field(default_factory=list)  # by the one who comes before it
    seen: list[Seen] = field(default_factory=list)
    waiting: int = 0  # pages that were asked for and are not there yet
    left: int = 0  # browsers that have seen every page
    own: float = 0.0  # processor seconds of the server, and of all else here, for what was seen
    rest: float = 0.0
    held: dict[str, Held] = field(default_factory=dict)  # the server, by when that was

    def __str__(self) -> str:
        return (
            f"{len(self.seen)} pages seen, {self.waiting} waited for, {self.left} of {self.sessions} "
            "browsers have seen all"
        )

    def figures(self) -> dict[str, Any]:
        found: dict[str, Any] = {}
        if self.seen:
            seconds = [one.seconds for one in self.seen]
            slow = max(self.seen, key=lambda one: one.seconds)
            found = {
                f"seconds to a page, {self.sessions} sessions": spread(seconds),
                "seconds to a page, 95th percentile": float(np.percentile(seconds, 95)),
                "the slowest": f"{slow.page}, page {slow.turn} of its browser, asked for while {slow.others} "
                "others were waited for",
                **_by_turn(self.seen),
                "processor seconds of a first page alone, server": self.alone[0].own,
                "processor seconds of a first page alone, all else": self.alone[0].rest,
                "processor seconds of the server a page": self.own / len(seconds),
                "processor seconds of all else here a page": self.rest / len(seconds),
            }
        found |= {f"server {when}, MiB": one.mib for when, one in self.held.items()}
        if LEFT in self.held:
            start, one, left = self.held[START], self.held[ONE], self.held[LEFT]
            found |= {
                "grown since its start, MiB": left.mib - start.mib,
                "threads then, more than after the first session": left.threads - one.threads,
                "handles then, more than after the first session": left.handles - one.handles,
            }
        return found


def _by_turn(seen: Sequence[Seen]) -> dict[str, Any]:
    """First pages, for which a browser fetches the app, apart from those that follow."""
    first = [one.seconds for one in seen if one.turn == 1]
    later = [one.seconds for one in seen if one.turn > 1]
    found = {"seconds to the first page of a browser": first, "seconds to a later page": later}
    return {name: spread(values) for name, values in found.items() if values}


@dataclass(slots=True)
class Runs:
    """What is known of runs in one session so far."""

    count: int
    held: list[tuple[Held, Held]] = field(default_factory=list)  # server and worker, after each run

    def __str__(self) -> str:
        return f"{len(self.held)} of {self.count} runs made"

    def figures(self) -> dict[str, Any]:
        """What server and worker hold after a tenth of the runs and after the last one, and what each run
        between them added: 0 where nothing stays, whatever single readings do.
        """
        last = len(self.held)
        early = min(max(1, self.count // 10), last)
        found: dict[str, Any] = {}
        for name, each in zip(("server", "worker"), zip(*self.held[early - 1 :], strict=True), strict=False):
            then, now = each[0], each[-1]
            found |= {
                f"{name} after {early} runs, MiB": then.mib,
                f"{name} after {last} runs, MiB": now.mib,
                f"{name}: handles after {early} and after {last}": f"{then.handles} and {now.handles}",
                f"{name}: threads after {early} and after {last}": f"{then.threads} and {now.threads}",
            }
            if len(each) > 1:
                mib = _slope([one.mib for one in each])
                handles = _slope([one.handles for one in each])
                threads = _slope([one.threads for one in each])
                found[f"{name}: a run adds"] = (
                    f"{mib * 1_024:+.1f} KiB, {handles:+.3f} handles, {threads:+.3f} threads"
                )
        return found


def visits(sessions: int, pause: float, seed: int = 0) -> Iterator[dict[str, Any]]:
    """So many people who each open every page, about `pause` seconds apart, and leave.

    A page is done when the bar names it and no script runs. Raises MoevizError where there is no Chromium, or
    a page does not come; what was seen by then is given before.
    """
    with _served() as (server, address):
        found = Class(server, sessions)
        yield from _told(_visits(address, pause, seed, found), found)


def runs(count: int) -> Iterator[dict[str, Any]]:
    """So many runs of the bundled model in one session. Raises MoevizError where there is no Chromium, or a
    run does not begin or end; what was seen by then is given before.
    """
    with _served() as (server, address):
        found = Runs(count)
        yield from _told(_runs(server, address, found), found)


@contextmanager
def _served() -> Iterator[tuple[psutil.Process, str]]:
    """A server with an empty library. It is waited for outside asyncio, which would put off an interruption
    until the server is there, or has died of the same one.
    """
    with tempfile.TemporaryDirectory() as data, serving(Path(data)) as server:
        yield server


def _told(work: Coroutine[Any, Any, None], found: Class | Runs) -> Iterator[dict[str, Any]]:
    """Does the work, and says on standard error how far it is; gives the figures, also of what is cut off."""

    async def watched() -> None:
        telling = asyncio.create_task(_tell(found))
        try:
            await work
        except (psutil.NoSuchProcess, MoevizError) as error:
            task = asyncio.current_task()
            if task is not None and task.cancelling():  # they were interrupted too
                raise asyncio.CancelledError from None
            if isinstance(error, MoevizError):
                raise
            raise MoevizError(f"The server or its worker is gone; {found}.") from None
        finally:
            telling.cancel()

    try:
        asyncio.run(watched())
    except (KeyboardInterrupt, MoevizError):
        yield found.figures()
        raise
    click.echo(str(found), err=True)
    yield found.figures()


async def _tell(found: Class | Runs) -> None:
    while True:
        await asyncio.sleep(TELL)
        click.echo(str(found), err=True)


async def _visits(address: str, pause: float, seed: int, found: Class) -> None:
    server, alone = found.server, Class(found.server, 1, seen=found.alone)
    draws = np.random.default_rng(seed).spawn(found.sessions)
    async with _browser() as browser:
        found.held[START] = Held.by(server)
        await _visit(browser, address, np.random.default_rng(seed), 0, 0, alone)
        found.held[ONE] = Held.by(server)
        before = _worked(server)
        each = [_visit(browser, address, draw, draw.uniform(0, ARRIVE), pause, found) for draw in draws]
        try:
            await asyncio.gather(*each)
        finally:
            with suppress(psutil.NoSuchProcess):  # an interruption is the server's too
                own, all_ = (now - then for now, then in zip(_worked(server), before, strict=True))
                found.own, found.rest = own, all_ - own
        found.held[f"after {found.sessions} sessions"] = Held.by(server)
    await asyncio.sleep(IDLE)  # with the browser gone, whose connections are left open when its tabs close
    found.held[LEFT] = Held.by(server)


def _worked(server: psutil.Process) -> tuple[float, float]:
    """Seconds of processor time that the server and the whole machine have used so far."""
    own, machine = server.cpu_times(), psutil.cpu_times()
    return own.user + own.system, machine.user + machine.system + getattr(machine, "nice", 0.0)


async def _visit(
    browser: Browser, address: str, draw: np.random.Generator, wait: float, pause: float, found: Class
) -> None:
    """One who looks at all pages in an order of his own."""
    await asyncio.sleep(wait)
    context = await browser.new_context(viewport={"width": 1440, "height": 900})
    page = await context.new_page()
    page.set_default_timeout(1e3 * LONGEST)
    await _seen(page, lambda: page.goto(address), 1, found)
    turn = 1
    for link in draw.permutation(await page.locator(_LINKS).count()):
        await asyncio.sleep(pause * draw.uniform(0.5, 1.5))
        place = page.locator(_LINKS).nth(int(link))
        if await place.get_attribute("aria-current") != "page":
            turn += 1
            await _seen(page, place.click, turn, found)
    await context.close()
    found.left += 1


async def _seen(page: Page, do: Callable[[], Awaitable[object]], turn: int, found: Class) -> None:
    """Waits until another page than before has been drawn."""
    from playwright.async_api import TimeoutError

    here = page.locator(f"{_LINKS}[aria-current=page]")
    before = await here.inner_text() if await here.count() else ""
    others, worked, start = found.waiting, _worked(found.server), time.perf_counter()
    found.waiting += 1
    try:
        await do()
        await page.wait_for_function(_DRAWN, arg=before)
    except TimeoutError:
        raise MoevizError(
            f"Page {turn} of a browser took over {LONGEST} s. Try fewer --sessions or a longer --pause."
        ) from None
    finally:
        found.waiting -= 1
    seconds = time.perf_counter() - start
    own, all_ = (now - then for now, then in zip(_worked(found.server), worked, strict=True))
    found.seen.append(Seen(await here.inner_text(), turn, others, seconds, own, all_ - own))


async def _runs(server: psutil.Process, address: str, found: Runs) -> None:
    async with _browser() as browser:
        page = await browser.new_page(viewport={"width": 1000, "height": 600})  # drawn in less time
        page.set_default_timeout(1e3 * LONGEST)
        # long enough that the button which stops it is seen
        await _seen(page, lambda: page.goto(f"{address}/?tokens=40"), 1, Class(server, 1))
        for number in range(found.count):
            await _run(page, number + 1)
            for worker in server.children(recursive=True)[:1]:
                found.held.append((Held.by(server), Held.by(worker)))
            if len(found.held) <= number:
                raise MoevizError(f"The worker is gone after run {number + 1}.")


async def _run(page: Page, number: int) -> None:
    """One run, from the click that asks for it to its end."""
    from playwright.async_api import TimeoutError

    try:
        await page.get_by_role("button", name="Run it live").click()
        await page.get_by_role("button", name="Stop").wait_for()
        await page.get_by_role("button", name="Run it live").wait_for()
    except TimeoutError:
        raise MoevizError(f"Run {number} was not seen to begin and to end within {LONGEST} s each.") from None


def _slope(values: Sequence[float]) -> float:
    """What is added from one value to the next, by least squares."""
    return float(np.polynomial.Polynomial.fit(range(len(values)), values, 1).convert().coef[-1])


@asynccontextmanager
async def _browser() -> AsyncIterator[Browser]:
    from playwright.async_api import Error, async_playwright

    chromium = shutil.which("chromium") or shutil.which("google-chrome")
    if chromium is None:
        raise MoevizError("bench soak needs Chromium, and there is none. On Debian: apt install chromium.")
    async with async_playwright() as playwright:
        try:
            browser = await playwright.chromium.launch(
                executable_path=chromium, args=["--no-sandbox", "--disable-gpu"]
            )
            yield browser
            await browser.close()
        except Error as error:
            raise MoevizError(f"The browser cannot go on: {error.message.splitlines()[0]}") from None

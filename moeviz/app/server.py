"""The server around the pages: what it loads before anybody comes, whom it lets in, and what it gives back
when all have left.
"""

from __future__ import annotations

import asyncio
import ctypes
import gc
import importlib
import logging
import pkgutil
from collections.abc import AsyncIterator, Iterable
from contextlib import asynccontextmanager, suppress

from starlette.middleware import Middleware
from starlette.requests import Request
from starlette.responses import PlainTextResponse
from starlette.types import ASGIApp, Receive, Scope, Send
from streamlit.runtime import get_instance
from streamlit.runtime.scriptrunner_utils import script_run_context
from streamlit.web.server.starlette.starlette_websocket import is_host_allowed

import moeviz.app
import moeviz.charts
import moeviz.lessons
from moeviz.app import early, gate, kept, sending
from moeviz.app.gate import OTHER_NAME, RIGHT_NAME
from moeviz.core import machines
from moeviz.core.replay import replay
from moeviz.core.settings import Settings
from moeviz.files import moetrace
from moeviz.files.moetrace import SAMPLES, sample_names
from moeviz.numbers.curves import curve

PATIENCE = 60.0  # seconds in which the server's own thread has closed all sessions
_M_ARENA_MAX = -8  # of glibc's mallopt
_loop: asyncio.AbstractEventLoop | None = None  # of the server, once it runs


class OwnHosts:
    """Answers 403 to a request whose Host is none of `server.allowedHosts`.

    Streamlit holds WebSocket handshakes against that list and nothing else. By the same rule every other
    request is held against it here, so that a page elsewhere that has its own name point at this machine (DNS
    rebinding) gets nothing.
    """

    def __init__(self, app: ASGIApp) -> None:
        self._app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] == "http" and not is_host_allowed(Request(scope).headers.get("host")):
            answer = PlainTextResponse(f"{OTHER_NAME}. {RIGHT_NAME}", 403)
            await answer(scope, receive, send)
        else:
            await self._app(scope, receive, send)


MIDDLEWARE = (Middleware(OwnHosts), Middleware(early.Early))


def warm() -> None:
    """Loads what the pages need, so that the first visitor does not wait for it: their modules, the first
    sample with what the stage shows of it, and what plotly and pyarrow load when they are first used.
    """
    import PIL.Image  # noqa: F401
    import plotly.colors  # noqa: F401
    import pyarrow

    _one_pool()
    early.files()
    sending.at_once()
    sending.whole_pages()
    for package in (moeviz.app, moeviz.charts, moeviz.lessons):
        for one in pkgutil.iter_modules(package.__path__, f"{package.__name__}."):
            importlib.import_module(one.name)
    from moeviz.charts import curves, residency, shares, usage

    trace = moetrace.sample(sample_names()[0])
    run = replay(trace, Settings(slots=trace.k))
    for chart in (
        residency.raster(run, [""] * len(trace.passes())),
        usage.now_and_so_far(trace, 0),
        shares.skew(trace),
        curves.over_slots([curve(trace, run.settings)], trace.k),
    ):
        chart.figure.to_json()
        pyarrow.Table.from_pandas(chart.table)
    _first_boards()
    gc.collect()
    gc.freeze()  # what is there now stays: looking through all of it, every few pages, held one up by .1 s


def _first_boards() -> None:
    """Computes what the stage begins with."""
    from moeviz.app import asking, boards, traces  # which need this module

    trace, run = traces.read(SAMPLES / f"{traces.FIRST.partition(': ')[2]}.moetrace")
    assert run is not None
    logger = logging.getLogger(script_run_context.__name__)
    logger.disabled = True  # says of each that no session asks for it
    two = [Settings(policy, run.room.slots) for policy in boards.FIRST]
    for settings in two:
        kept.part(trace, settings, [run])
    if (place := machines.find(asking.TIERS[asking.DEFAULTS["tier"]][1])) is not None:
        kept.predicted_each(trace, [*two, Settings(baseline="resident")], run, place)
    kept.bound(trace, two)
    kept.changes(trace)
    logger.disabled = False


def _one_pool() -> None:
    """One pool of memory for all threads: glibc gives each its own, and what is free in the pool of one
    session's thread is of no use to another's.
    """
    with suppress(AttributeError, OSError, TypeError):  # another C library
        ctypes.CDLL(None).mallopt(_M_ARENA_MAX, 1)


@asynccontextmanager
async def running(app: object) -> AsyncIterator[None]:
    """While the server runs: what is to happen in its own thread is known to find it."""
    global _loop
    _loop = asyncio.get_running_loop()
    async with gate.opened(app):
        yield


async def _close(sessions: Iterable[str]) -> None:
    runtime = get_instance()
    for session in sessions:
        if not runtime.is_active_session(session):  # else its browser is back
            runtime.close_session(session)


def tidy(left: Iterable[str] = ()) -> None:
    """Gives memory back to the system when nobody is left: the sessions `left`, which Streamlit would keep
    until the next one ends, are closed, and what pages computed is dropped, and computed anew for whoever
    comes next.
    """
    if _loop is not None and _loop.is_running():  # else the server ends, and all with it
        closing = asyncio.run_coroutine_threadsafe(_close(left), _loop)
        with suppress(TimeoutError):  # it ended meanwhile: what else is due would wait for it for good
            closing.result(PATIENCE)
    kept.forget()
    gc.collect()  # a session holds itself in circles
    with suppress(AttributeError, OSError, TypeError):  # another C library than glibc
        ctypes.CDLL(None).malloc_trim(0)

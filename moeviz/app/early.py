"""What a browser is told to fetch while Streamlit's own page still starts: Streamlit's scripts that it would
ask for one after the other, and the stage's script, which is a file of its own here.

A component's script would else travel with every picture of it, through the session's own connection, and be
read anew each time that the page is loaded; a file is kept by the browser, read and ready, for as long as its
name is the same, which tells its content. So a browser that was here before has all of it, and is told of
nothing: to look each of them up would hold up the page.

All of them are answered from memory. There are more than eighty, and Streamlit takes 3 ms of a processor to
look for one, open it and read it in threads, which a new browser on the same computer waits for.
"""

from __future__ import annotations

import hashlib
import re
from functools import cache
from pathlib import Path

import streamlit as st
from starlette.datastructures import Headers, MutableHeaders
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from moeviz.charts.stage.page import script

STATIC = Path(st.__file__).parent / "static"
FIRST = ("Html", "Selectbox", "Button", "BidiComponent")  # elements of every page, by their scripts' names
_IMPORTS = re.compile(r"""(?:from|import)\s*["'`]\./([\w.-]+\.js)["'`]""")
BEEN_HERE = "_streamlit_xsrf="  # in the cookies that Streamlit gives every browser
KEPT = [  # as long as a browser likes: another content has another name
    (b"content-type", b"text/javascript; charset=utf-8"),
    (b"cache-control", b"public, max-age=31536000, immutable"),
    (b"x-content-type-options", b"nosniff"),
]


@cache
def _stage() -> bytes:
    return f"{script()}export {{ MoevizStage }}\n".encode()


@cache
def stage_file() -> str:
    """The stage's script, as a module that gives `MoevizStage`: its address below the app's own."""
    return f"moeviz/stage.{hashlib.sha256(_stage()).hexdigest()[:16]}.js"


@cache
def scripts() -> list[str]:
    """Streamlit's scripts of FIRST and all that they import, but for what its page asks for itself; by their
    addresses below the app's own. None where its files are others than these.
    """
    folder = STATIC / "static" / "js"
    found: list[str] = []
    asked = [path.name for name in FIRST for path in sorted(folder.glob(f"{name}.*.js"))]
    page = (STATIC / "index.html").read_text(encoding="utf-8")
    while asked:
        name = asked.pop(0)
        if name in found or name in page or not (folder / name).is_file():
            continue
        found.append(name)
        asked += _IMPORTS.findall((folder / name).read_text(encoding="utf-8"))
    return [f"static/js/{name}" for name in found]


@cache
def files() -> dict[str, tuple[str, bytes]]:
    """What is answered from memory, by the file's name: its address below the app's own, and its content."""
    page = (STATIC / "index.html").read_text(encoding="utf-8")
    names = [*scripts(), *re.findall(r"static/js/[\w.-]+\.js", page)]
    found = {Path(name).name: (name, (STATIC / name).read_bytes()) for name in names}
    return found | {Path(stage_file()).name: (stage_file(), _stage())}


@cache
def _links() -> str:
    """As a header says them: fetched after what the page itself asks for."""
    return ", ".join(
        f"<./{name}>; rel=modulepreload; fetchpriority=low" for name in [*scripts(), stage_file()]
    )


class Early:
    """ASGI middleware: says with a page what it will need, and answers with those scripts."""

    def __init__(self, app: ASGIApp) -> None:
        self._app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        name, content = files().get(scope["path"].rpartition("/")[2], ("", b""))
        if name and scope["path"].endswith(f"/{name}") and scope["method"] in ("GET", "HEAD"):
            length = (b"content-length", str(len(content)).encode())
            await send({"type": "http.response.start", "status": 200, "headers": [*KEPT, length]})
            body = b"" if scope["method"] == "HEAD" else content
            await send({"type": "http.response.body", "body": body})
        elif BEEN_HERE in Headers(scope=scope).get("cookie", ""):
            await self._app(scope, receive, send)
        else:

            async def told(message: Message) -> None:
                if message["type"] == "http.response.start" and message["status"] == 200:
                    headers = MutableHeaders(scope=message)
                    if headers.get("content-type", "").startswith("text/html"):
                        headers["link"] = _links()
                await send(message)

            await self._app(scope, receive, told)

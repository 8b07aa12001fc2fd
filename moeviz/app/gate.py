"""Who gets in: this computer gets the app, a class the page of its room, everyone else a refusal.

It stands before Streamlit. Someone is on this computer whose connection comes from its loopback address; a
header that a proxy on this computer adds (uvicorn reads X-Forwarded-For from there alone) takes that away and
never gives it. From elsewhere only three requests are answered, only with --room, and only under an address
of this computer's own: `GET /room`, `GET /room/now` and `POST /room/answer`. They reach no session, no file
and no model.

    streamlit run app.py --server.address 0.0.0.0 -- --room
"""

from __future__ import annotations

import base64
import hashlib
import ipaddress
import json
import re
import secrets
import threading
from collections.abc import AsyncIterator, Awaitable, Callable, MutableMapping
from contextlib import asynccontextmanager
from http.cookies import CookieError, SimpleCookie
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import streamlit as st
from starlette.middleware import Middleware
from streamlit.cli_util import open_browser

from moeviz.app import own
from moeviz.app.room import HALL, Hall

COMMAND = "streamlit run app.py --server.address 0.0.0.0 -- --room"
# values of server.address under which others can ask at all
EVERYWHERE = ("0.0.0.0", "::", "", None)  # nosec B104
PATH = "/room"
COOKIE = "moeviz_student"
MOST_BYTES = 1_000  # of an answer
HERE = Path(__file__).parent
PAGE = (HERE / "students.html").read_text(encoding="utf-8")
SAFE = [
    (b"cache-control", b"no-store"),
    (b"x-content-type-options", b"nosniff"),
    (b"referrer-policy", b"no-referrer"),
]
REFUSED = """<!doctype html>
<html lang="en"><meta charset="utf-8"><meta name="viewport" content="width=device-width">
<title>moeviz</title><meta name="color-scheme" content="light dark">
<body style="font: 1.1rem/1.5 system-ui, sans-serif; max-width: 34rem; margin: 3rem auto; padding: 0 1.25rem">
<h1 style="font-size: 1.5rem">{title}</h1><p>{text}</p></body></html>"""

Scope = MutableMapping[str, Any]
Receive = Callable[[], Awaitable[MutableMapping[str, Any]]]
Send = Callable[[MutableMapping[str, Any]], Awaitable[None]]
App = Callable[[Scope, Receive, Send], Awaitable[None]]


def middleware() -> list[Middleware]:
    """What `st.App` is to put before Streamlit; says to the hall what the command line says."""
    HALL.admits = own.ROOM in own.said()
    return [Middleware(Gate, hall=HALL)]


@asynccontextmanager
async def opened(_: object) -> AsyncIterator[None]:
    """While the server runs. `streamlit run` opens a browser for a plain script, and leaves that to an
    `st.App`.
    """
    if not st.get_option("server.headless"):
        at = st.get_option("server.address")
        name = "localhost" if at in EVERYWHERE else at
        url = f"http://{name}:{st.get_option('server.port')}"
        threading.Timer(0.5, open_browser, [url]).start()  # the server listens right after this
    yield


class Gate:
    """ASGI middleware around Streamlit's server."""

    def __init__(self, app: App, hall: Hall) -> None:
        self.app, self.hall = app, hall

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] not in ("http", "websocket"):
            await self.app(scope, receive, send)
            return
        here, host = _is_here(scope.get("client")), _host(scope)
        path = scope["path"]
        of_room = scope["type"] == "http" and (path == PATH or path.startswith(f"{PATH}/"))
        if here and not of_room:
            await self.app(scope, receive, send)  # Streamlit asks for the host's name itself
        elif scope["type"] == "websocket":
            await send({"type": "websocket.close", "code": 1008})
        elif not here and not self.hall.admits:
            await _refuse(
                send,
                "This moeviz answers to its own computer alone",
                "To let a class predict on its phones, stop it there and start it with <code>"
                f"{COMMAND}</code>",
            )
        elif not (_is_own(host, scope) or (here and _is_local_name(host))):
            await _refuse(
                send, "moeviz is not known by this name", "Use the address that the lecturer shows."
            )
        elif scope["method"] in ("GET", "HEAD") and path == "/":
            await _answer(send, 303, b"", [(b"location", PATH.encode())])
        else:
            await self._serve(scope, receive, send)

    async def _serve(self, scope: Scope, receive: Receive, send: Send) -> None:
        """The three requests that a student's page makes."""
        match scope["method"], scope["path"]:
            case "GET", "/room":
                student = _student(scope) or secrets.token_hex(16)
                cookie = f"{COOKIE}={student}; Path={PATH}; HttpOnly; SameSite=Strict"
                headers = [(b"set-cookie", cookie.encode()), (b"content-security-policy", POLICY)]
                await _answer(
                    send, 200, PAGE.encode(), [(b"content-type", b"text/html; charset=utf-8"), *headers]
                )
            case "GET", "/room/now":
                await _json(send, 200, self.hall.state(_student(scope)))
            case "POST", "/room/answer":
                student, said = _student(scope), _prediction(await _body(receive))
                if not student or said is None or _header(scope, b"content-type") != "application/json":
                    await _json(send, 400, {"error": "This is no answer."})
                    return
                room = self.hall.room
                error = room.answer(student, *said) if room is not None else "The room is closed."
                await _json(send, 409 if error else 200, {"error": error} | self.hall.state(student))
            case _:
                await _refuse(
                    send, "There is nothing here", f'Students predict at <a href="{PATH}">{PATH}</a>.'
                )


def _is_here(client: Any) -> bool:
    """Whether a connection comes from this computer. client: (address, port), or None where it is unknown."""
    address = _address(client[0]) if client else None
    return address is not None and address.is_loopback


def _is_own(host: str, scope: Scope) -> bool:
    """Whether the name under which this server is asked is the address that the connection came in by."""
    server = scope.get("server")
    asked = _address(host)
    return asked is not None and bool(server) and asked == _address(server[0])


def _is_local_name(host: str) -> bool:
    return host in st.get_option("server.allowedHosts")


def _address(text: str) -> ipaddress.IPv4Address | ipaddress.IPv6Address | None:
    try:
        found = ipaddress.ip_address(text)
    except ValueError:
        return None
    return getattr(found, "ipv4_mapped", None) or found  # as a server bound to :: sees them


def _header(scope: Scope, name: bytes) -> str:
    """A header that is there once; "" else."""
    found = [value for key, value in scope["headers"] if key == name]
    return found[0].decode("latin-1") if len(found) == 1 else ""


def _host(scope: Scope) -> str:
    try:
        return urlsplit(f"//{_header(scope, b'host')}").hostname or ""
    except ValueError:
        return ""


def _student(scope: Scope) -> str:
    """The random word of a student's browser; "" where it brought none that this gate gives out."""
    try:
        cookie = SimpleCookie(_header(scope, b"cookie")).get(COOKIE)
    except CookieError:
        return ""
    return cookie.value if cookie is not None and re.fullmatch("[0-9a-f]{32}", cookie.value) else ""


def _prediction(body: bytes) -> tuple[int, float] | None:
    """The question's number and what was predicted; None where it is no such thing."""
    try:
        said = json.loads(body)
        round_, value = said["round"], said["value"]
    except (ValueError, KeyError, TypeError, RecursionError):
        return None
    if type(round_) is not int or type(value) is not int:  # True is an int too
        return None
    return round_, value


async def _body(receive: Receive) -> bytes:
    """At most MOST_BYTES of it; b"" where there is more."""
    found, more = b"", True
    while more:
        message = await receive()
        found += message.get("body", b"")
        more = message.get("more_body", False)
        if len(found) > MOST_BYTES:
            return b""
    return found


async def _answer(send: Send, status: int, body: bytes, headers: list[tuple[bytes, bytes]]) -> None:
    length = (b"content-length", str(len(body)).encode())
    await send({"type": "http.response.start", "status": status, "headers": [*headers, length, *SAFE]})
    await send({"type": "http.response.body", "body": body})


async def _json(send: Send, status: int, found: dict[str, Any]) -> None:
    await _answer(send, status, json.dumps(found).encode(), [(b"content-type", b"application/json")])


async def _refuse(send: Send, title: str, text: str) -> None:
    page = REFUSED.format(title=title, text=text).encode()
    policy = b"default-src 'none'; style-src 'unsafe-inline'"
    await _answer(
        send,
        403,
        page,
        [(b"content-type", b"text/html; charset=utf-8"), (b"content-security-policy", policy)],
    )


def _digest(tag: str) -> str:
    """What the policy calls the page's own script or style, so that no other runs."""
    inside = PAGE.partition(f"<{tag}>")[2].partition(f"</{tag}>")[0]
    return f"'sha256-{base64.b64encode(hashlib.sha256(inside.encode()).digest()).decode()}'"


POLICY = (
    f"default-src 'none'; script-src {_digest('script')}; style-src {_digest('style')}; connect-src 'self'; "
    "img-src data:; base-uri 'none'; form-action 'none'; frame-ancestors 'none'"
).encode()

"""Who gets in: this computer gets the app, a class the page of its room, everyone else a refusal.

It stands before Streamlit. Someone is on this computer whose connection comes from its loopback address and
by no proxy: the server may put in its place what X-Forwarded-For says (whose word it takes, the variable
FORWARDED_ALLOW_IPS tells it), so a request with that header is from elsewhere, whatever it says. From
elsewhere only three requests are answered, only with --room, and only under an address of this computer's
own: `GET /room`, `GET /room/now` and `POST /room/answer`. They reach no session, no file and no model. A
student is a word that this gate gave out: random digits, and what they come to under a key that this process
draws. Someone may ask for many; the room takes in so many of one address.

    streamlit run app.py --server.address 0.0.0.0 -- --room
"""

from __future__ import annotations

import base64
import hashlib
import hmac
import ipaddress
import json
import re
import secrets
import threading
from collections.abc import AsyncIterator, Awaitable, Callable, MutableMapping
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import streamlit as st
from starlette.middleware import Middleware
from streamlit import config
from streamlit.cli_util import open_browser
from streamlit.web.server.server import server_address_is_unix_socket
from streamlit.web.server.server_util import get_display_address, get_url
from streamlit.web.server.starlette.starlette_websocket import is_host_allowed

from moeviz.app import own
from moeviz.app.room import HALL, Hall

COMMAND = "streamlit run app.py --server.address 0.0.0.0 -- --room"
# values of server.address under which others can ask at all
EVERYWHERE = ("0.0.0.0", "::", "", None)  # nosec B104
PATH = "/room"
COOKIE = "moeviz_student"
KEY = secrets.token_bytes(16)
OTHER_NAME = "moeviz does not answer to this name"
RIGHT_NAME = "Open it by the address that it printed, or that the lecturer shows."
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
    if not st.get_option("server.headless") and not server_address_is_unix_socket():
        threading.Timer(0.5, open_browser, [address()]).start()  # the server listens right after this
    yield


def address() -> str:
    """Where a browser on this computer finds the app."""
    at = get_display_address(st.get_option("server.address") or "localhost")
    if config.is_manually_set("browser.serverAddress"):
        at = st.get_option("browser.serverAddress")
    return get_url(f"[{at}]" if ":" in at else at)


class Gate:
    """ASGI middleware around Streamlit's server."""

    def __init__(self, app: App, hall: Hall) -> None:
        self.app, self.hall = app, hall

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] not in ("http", "websocket"):
            await self.app(scope, receive, send)
            return
        here = _is_here(scope)
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
        elif not (_is_own(_host(scope), scope) or (here and is_host_allowed(_header(scope, b"host")))):
            await _refuse(send, OTHER_NAME, RIGHT_NAME)
        elif scope["method"] in ("GET", "HEAD") and path == "/":
            await _answer(send, 303, b"", [(b"location", PATH.encode())])
        else:
            await self._serve(scope, receive, send)

    async def _serve(self, scope: Scope, receive: Receive, send: Send) -> None:
        """The three requests that a student's page makes."""
        student, address = _student(scope), scope["client"][0] if scope.get("client") else ""
        match scope["method"], scope["path"]:
            case "GET", "/room":
                cookie = f"{COOKIE}={student or _word()}; Path={PATH}; HttpOnly; SameSite=Strict"
                headers = [(b"set-cookie", cookie.encode()), (b"content-security-policy", POLICY)]
                await _answer(
                    send, 200, PAGE.encode(), [(b"content-type", b"text/html; charset=utf-8"), *headers]
                )
            case "GET", "/room/now":
                await _json(send, 200, self.hall.state(student, address))
            case "POST", "/room/answer":
                said, room = _prediction(await _body(receive)), self.hall.room
                status, error = 409, "The room is closed."
                if not student:
                    status, error = (
                        400,
                        "Load this page again, with cookies allowed.",
                    )
                elif said is None or _header(scope, b"content-type") != "application/json":
                    status, error = 400, "This is no answer."
                elif room is not None:
                    error = room.answer(student, *said, address)
                    status = 409 if error else 200
                await _json(send, status, {"error": error} | self.hall.state(student, address))
            case _:
                await _refuse(
                    send, "There is nothing here", f'Students predict at <a href="{PATH}">{PATH}</a>.'
                )


def _is_here(scope: Scope) -> bool:
    """Whether a connection comes from this computer, and through nobody else."""
    client = scope.get("client")  # (address, port), or None where it is unknown
    address = _address(client[0]) if client else None
    forwarded = any(name == b"x-forwarded-for" for name, _ in scope["headers"])
    return address is not None and address.is_loopback and not forwarded


def _is_own(host: str, scope: Scope) -> bool:
    """Whether the name under which this server is asked is the address that the connection came in by."""
    server = scope.get("server")
    asked = _address(host)
    return asked is not None and server is not None and asked == _address(server[0])


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
    """The random word of a student's browser; "" where it brought none that this gate gave out."""
    found = re.search(rf"(?:^|;\s*){COOKIE}=([0-9a-f]{{32}})(?:;|$)", _header(scope, b"cookie"))
    word = found[1] if found else ""
    return word if found and hmac.compare_digest(word[16:], _seal(word[:16])) else ""


def _word() -> str:
    """One for a new student."""
    drawn = secrets.token_hex(8)
    return drawn + _seal(drawn)


def _seal(drawn: str) -> str:
    """What only this process can say of a word's random half."""
    return hmac.new(KEY, drawn.encode(), "sha256").hexdigest()[:16]


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

"""The app's server answers to this machine's own names only: no page elsewhere points its name here. When all
have left it gives back what they took.
"""

from __future__ import annotations

import asyncio
import socket
import threading
from collections import deque
from collections.abc import Iterator

import pytest
from conftest import random_trace
from servers import ROOT, listening

from moeviz.app import jobs, kept, server
from moeviz.core.settings import Settings


@pytest.fixture(scope="module", params=["checkout", "elsewhere"])
def port(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[int]:
    """The real server as the README starts it, from the checkout and from another folder."""
    folder = ROOT if request.param == "checkout" else tmp_path_factory.mktemp("elsewhere")
    with listening(
        folder, {"MOEVIZ_DATA": str(tmp_path_factory.mktemp("data"))}, str(ROOT / "app.py")
    ) as number:
        yield number


def answer(port: int, host: str, origin: str) -> int:
    """Status of a WebSocket's handshake with these headers: 101 is let in."""
    return status(
        port,
        "GET /_stcore/stream",
        f"Host: {host}\r\nOrigin: {origin}\r\n"
        "Connection: Upgrade\r\nUpgrade: websocket\r\n"
        "Sec-WebSocket-Version: 13\r\nSec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n"
        "Sec-WebSocket-Protocol: streamlit\r\n",
    )


def status(port: int, what: str, headers: str) -> int:
    """Of the answer to a request as it stands on the wire."""
    request = f"{what} HTTP/1.1\r\n{headers}\r\n"
    with socket.create_connection(("127.0.0.1", port), timeout=300) as connection:
        connection.sendall(request.encode())
        return int(connection.recv(1_000).split()[1])


FOREIGN = (
    "evil.example",
    "127.0.0.1.evil.example",
    "localhost.evil.example",
    "0.0.0.0",
    "evil@localhost",
    "",
)


@pytest.mark.parametrize("name", ["127.0.0.1", "localhost", "LOCALHOST", "[::1]"])
def test_this_machines_own_names_are_let_in(name: str, port: int) -> None:
    assert answer(port, f"{name}:{port}", f"http://{name}:{port}") == 101


@pytest.mark.parametrize("host", FOREIGN)
def test_a_foreign_name_is_not_let_in_whatever_its_origin(host: str, port: int) -> None:
    for origin in (f"http://{host}:{port}", f"http://localhost:{port}"):
        assert answer(port, f"{host}:{port}" if host else "", origin) in (400, 403)


def test_a_foreign_origin_is_not_let_in_by_our_own_name(port: int) -> None:
    assert answer(port, f"localhost:{port}", "http://evil.example") == 403


@pytest.mark.parametrize("host", FOREIGN)
def test_a_foreign_name_is_given_nothing_at_all(host: str, port: int) -> None:
    """Neither the page nor what Streamlit counts, keeps for download or takes as an upload."""
    headers = f"Host: {host}:{port}\r\n" if host else "Host:\r\n"
    for path in ("/", "/library", "/_stcore/health", "/_stcore/metrics", "/_stcore/host-config", "/media/a"):
        assert status(port, f"GET {path}", headers) == 403, path
    for method in ("PUT", "DELETE", "OPTIONS"):
        assert status(port, f"{method} /_stcore/upload_file/a/b", headers + "Content-Length: 0\r\n") == 403


def test_this_machines_own_names_are_given_the_page(port: int) -> None:
    for name in ("127.0.0.1", "localhost", "[::1]"):
        assert status(port, "GET /", f"Host: {name}:{port}\r\n") == 200
        assert status(port, "GET /media/gone", f"Host: {name}:{port}\r\n") == 404


def test_what_the_server_kept_goes_when_the_last_of_all_has_left(monkeypatch: pytest.MonkeyPatch) -> None:
    trace, settings = random_trace(0), Settings(slots=3)
    before = kept.replayed(trace, settings)
    tidied = threading.Event()

    plainly = server.tidy

    def tidy(left: list[str]) -> None:
        plainly(left)
        closed.extend(left)
        tidied.set()

    closed: list[str] = []

    monkeypatch.setattr(jobs, "GRACE", 0.0)
    monkeypatch.setattr(jobs.server, "tidy", tidy)
    monkeypatch.setattr(jobs, "_seated", set())
    monkeypatch.setattr(jobs, "_left", deque())
    one, other = jobs.Desk(jobs.client()), jobs.Desk(jobs.client())
    first, second = jobs.Seat(one, "of one"), jobs.Seat(other, "of the other")
    for seat in (first, second, second):  # it is taken anew each time that its tab looks
        seat.take()
    for _ in range(2):  # whoever is told of the end twice
        first.leave()
    assert kept.replayed(trace, settings) is before  # somebody is left
    second.leave()
    assert tidied.wait(300)
    assert kept.replayed(trace, settings) is not before
    assert closed == ["of one", "of the other"]


class Sessions:
    """Stands in for Streamlit's runtime, in which one session's browser is back."""

    def __init__(self, back: str) -> None:
        self.back = back
        self.closed: list[str] = []

    def is_active_session(self, session: str) -> bool:
        return session == self.back

    def close_session(self, session: str) -> None:
        asyncio.get_running_loop()  # its own thread alone may do this
        self.closed.append(session)


def test_sessions_that_ended_are_closed_at_once_unless_their_browser_is_back(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    sessions = Sessions(back="second")
    monkeypatch.setattr(server, "get_instance", lambda: sessions)

    async def tidied() -> None:
        monkeypatch.setattr(server, "_loop", asyncio.get_running_loop())
        await asyncio.to_thread(server.tidy, ["first", "second", "third"])

    asyncio.run(tidied())
    assert sessions.closed == ["first", "third"]


def test_a_server_that_no_longer_answers_holds_up_nothing_else_that_is_due(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(server, "get_instance", lambda: Sessions(back=""))
    monkeypatch.setattr(server, "PATIENCE", 0.0)
    trace, settings = random_trace(0), Settings(slots=3)
    before = kept.replayed(trace, settings)

    async def stuck() -> None:
        monkeypatch.setattr(server, "_loop", asyncio.get_running_loop())
        tidying = threading.Thread(target=server.tidy, args=[["gone"]], daemon=True)
        tidying.start()
        tidying.join(300)
        assert not tidying.is_alive()

    asyncio.run(stuck())
    assert kept.replayed(trace, settings) is not before

"""The app's server answers to this machine's own names only: no page elsewhere points its name here."""

from __future__ import annotations

import os
import socket
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent


@pytest.fixture(scope="module", params=["checkout", "elsewhere"])
def port(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[int]:
    """The real server as the README starts it, from the checkout and from another folder."""
    folder = ROOT if request.param == "checkout" else tmp_path_factory.mktemp("elsewhere")
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        number = int(probe.getsockname()[1])
    command = [sys.executable, "-m", "streamlit", "run", str(ROOT / "app.py"), "--server.port", str(number)]
    environment = os.environ | {"MOEVIZ_DATA": str(tmp_path_factory.mktemp("data"))}
    server = subprocess.Popen(
        [*command, "--server.headless", "true"],
        cwd=folder,
        stdout=subprocess.PIPE,
        env=environment,
        text=True,
    )
    try:
        assert server.stdout is not None
        for line in server.stdout:
            if str(number) in line:  # it says its address once it listens
                break
        assert server.poll() is None
        yield number
    finally:
        server.terminate()
        server.communicate()


def answer(port: int, host: str, origin: str) -> int:
    """Status of a WebSocket's handshake with these headers: 101 is let in."""
    request = (
        f"GET /_stcore/stream HTTP/1.1\r\nHost: {host}\r\nOrigin: {origin}\r\n"
        "Connection: Upgrade\r\nUpgrade: websocket\r\n"
        "Sec-WebSocket-Version: 13\r\nSec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n"
        "Sec-WebSocket-Protocol: streamlit\r\n\r\n"
    )
    with socket.create_connection(("127.0.0.1", port), timeout=60) as connection:
        connection.sendall(request.encode())
        return int(connection.recv(1_000).split()[1])


@pytest.mark.parametrize("name", ["127.0.0.1", "localhost", "LOCALHOST", "[::1]"])
def test_this_machines_own_names_are_let_in(name: str, port: int) -> None:
    assert answer(port, f"{name}:{port}", f"http://{name}:{port}") == 101


@pytest.mark.parametrize(
    "host",
    ["evil.example", "127.0.0.1.evil.example", "localhost.evil.example", "0.0.0.0", "evil@localhost", ""],
)
def test_a_foreign_name_is_not_let_in_whatever_its_origin(host: str, port: int) -> None:
    for origin in (f"http://{host}:{port}", f"http://localhost:{port}"):
        assert answer(port, f"{host}:{port}" if host else "", origin) in (400, 403)


def test_a_foreign_origin_is_not_let_in_by_our_own_name(port: int) -> None:
    assert answer(port, f"localhost:{port}", "http://evil.example") == 403

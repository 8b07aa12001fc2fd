"""The app's own server, for tests that look at it from outside."""

from __future__ import annotations

import os
import socket
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

ROOT = Path(__file__).parent.parent


@contextmanager
def serving(data: Path, *options: str) -> Iterator[str]:
    """The app's own server on a free port of this machine, with its library in the folder `data`; `options`
    of its command line.
    """
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    command = [
        sys.executable,
        "-m",
        "streamlit",
        "run",
        "app.py",
        "--server.port",
        str(port),
        "--server.headless",
        "true",
        *options,
    ]
    environment = os.environ | {"MOEVIZ_DATA": str(data)}
    process = subprocess.Popen(
        command, cwd=ROOT, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, env=environment, text=True
    )
    try:
        listens(process, port)
        yield f"http://127.0.0.1:{port}"
    finally:
        process.terminate()
        process.communicate()


def listens(process: subprocess.Popen[str], port: int) -> None:
    """Waits until a server says its address, which it does once it listens."""
    assert process.stdout is not None
    assert any(str(port) in line for line in process.stdout), "the server ended at once"

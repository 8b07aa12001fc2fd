"""The app's own server, for tests that look at it from outside."""

from __future__ import annotations

import os
import socket
import subprocess
import sys
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path

ROOT = Path(__file__).parent.parent
TRIES = 5  # a port that was free may be somebody's when the server asks for it


@contextmanager
def serving(data: Path, *options: str) -> Iterator[str]:
    """The app's own server on a free port of this machine, with its library in the folder `data`; `options`
    of its command line.
    """
    with listening(ROOT, {"MOEVIZ_DATA": str(data)}, "app.py", *options) as port:
        yield f"http://127.0.0.1:{port}"


@contextmanager
def listening(folder: Path, environment: Mapping[str, str], script: str, *options: str) -> Iterator[int]:
    """The port of Streamlit's server for a script, started in a folder, once it listens."""
    for _ in range(TRIES):
        with socket.socket() as probe:
            probe.bind(("127.0.0.1", 0))
            port = int(probe.getsockname()[1])
        command = [sys.executable, "-m", "streamlit", "run", script, "--server.port", str(port)]
        process = subprocess.Popen(
            [*command, "--server.headless", "true", *options],
            cwd=folder,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            env={**os.environ, **environment},
            text=True,
        )
        try:
            assert process.stdout is not None
            if any(f":{port}" in line for line in process.stdout):  # it says its address once it listens
                yield port
                return
        finally:
            process.terminate()
            process.communicate()
    raise AssertionError(f"the server ended at once, {TRIES} times")

"""The app's own server on a free port of this machine, for benches that look at it through a browser.

with serving(Path("data")) as (server, address): ...
"""

from __future__ import annotations

import os
import socket
import subprocess
import sys
import time
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import psutil

from moeviz.bench.rounds import ROOT
from moeviz.errors import MoevizError

PATIENCE = 180  # seconds until a server answers, on a busy machine too


@contextmanager
def serving(data: Path, module: str = "streamlit") -> Iterator[tuple[psutil.Process, str]]:
    """A server whose library is in the folder `data`, once it answers, and its address. Raises MoevizError
    where it does not start, or does not answer within `PATIENCE` seconds. `module`: what Python runs.
    """
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    command = [sys.executable, "-m", module, "run", "app.py", "--server.port", str(port)]
    command += ["--server.headless", "true"]  # opens no browser of its own
    server = subprocess.Popen(
        command,
        cwd=ROOT,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
        env=os.environ | {"MOEVIZ_DATA": str(data)},
    )
    try:
        asked = time.monotonic()
        while True:
            if server.poll() is not None:
                raise MoevizError("The server ended at once. Try: python -m streamlit run app.py")
            if time.monotonic() - asked > PATIENCE:
                raise MoevizError(f"The server does not answer after {PATIENCE} s. Is the machine busy?")
            try:
                urllib.request.urlopen(f"http://127.0.0.1:{port}/_stcore/health", timeout=PATIENCE).read()
                break
            except OSError:
                time.sleep(0.1)
        yield psutil.Process(server.pid), f"http://127.0.0.1:{port}"
    finally:
        server.terminate()
        try:
            server.wait(PATIENCE)
        except subprocess.TimeoutExpired:
            server.kill()
            server.wait()

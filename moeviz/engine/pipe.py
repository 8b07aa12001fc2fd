"""The two pipes between the app and its worker process: JSON lines, apart from standard input and output.
Imports no torch.

The worker says that it lives every BEAT seconds, from a thread of its own, whatever else it does; so a
silence means that the process
hangs. What it prints, and what libraries in it ask on standard input, never meets these pipes.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from queue import Queue
from typing import Any

BEAT = 0.5
WAKE = ""  # in `WorkerProcess.news`: nothing came, but look at the clock
_ALIVE = "alive"
_ROOT = Path(__file__).parents[2]


class WorkerProcess:
    """A worker process and the app's ends of its pipes. Raises OSError where the system starts none."""

    def __init__(self, module: str = "moeviz.engine.worker") -> None:
        jobs, self._jobs = os.pipe()
        self._news, news = os.pipe()
        names, options = _handed_down(jobs, news)
        try:
            self.process = subprocess.Popen(
                [sys.executable, "-m", module, *names], stdin=subprocess.DEVNULL, cwd=_ROOT, **options
            )
        except OSError:
            os.close(self._jobs)
            os.close(self._news)
            raise
        finally:
            os.close(jobs)
            os.close(news)
        self.news: Queue[str | None] = Queue()  # lines of the worker; None when it has ended
        self.heard = time.monotonic()  # when it last said anything
        self._out: Queue[dict[str, Any]] = Queue()
        for work in (self._read, self._write):
            threading.Thread(target=work, name=f"moeviz{work.__name__}", daemon=True).start()

    def send(self, message: dict[str, Any]) -> None:
        """Never blocks, not even where the worker does not read."""
        self._out.put(message)

    def _read(self) -> None:
        with os.fdopen(self._news, encoding="utf-8") as pipe:
            for line in pipe:
                self.heard = time.monotonic()
                if line.strip() != _ALIVE:
                    self.news.put(line)
        self.news.put(None)
        self._out.put({})

    def _write(self) -> None:
        try:
            with os.fdopen(self._jobs, "w", encoding="utf-8") as pipe:
                while message := self._out.get():
                    pipe.write(json.dumps(message) + "\n")
                    pipe.flush()
        except OSError:  # the worker died; `_read` says so
            pass


class AppPipe:
    """The worker's ends; `names` are those of its command line."""

    def __init__(self, names: list[str]) -> None:
        jobs, news = _received(names)
        self._jobs = os.fdopen(jobs, encoding="utf-8")
        self._news = os.fdopen(news, "w", encoding="utf-8")
        self._lock = threading.Lock()
        threading.Thread(target=self._beat, name="moeviz-beat", daemon=True).start()

    def send(self, message: dict[str, Any]) -> None:
        self._line(json.dumps(message))

    def messages(self) -> Iterator[dict[str, Any]]:
        """What the app sends, until it ends."""
        for line in self._jobs:
            yield json.loads(line)

    def _line(self, line: str) -> None:
        with self._lock:
            self._news.write(line + "\n")
            self._news.flush()

    def _beat(self) -> None:
        while True:
            try:
                self._line(_ALIVE)
            except (OSError, ValueError):  # the app is gone
                return
            time.sleep(BEAT)


def _handed_down(*ends: int) -> tuple[list[str], dict[str, Any]]:
    """What the child's command line calls these ends, and the options of Popen that hand them to it and to
    nobody else."""
    if sys.platform != "win32":
        return [str(end) for end in ends], {"pass_fds": ends}
    import msvcrt

    handles = [msvcrt.get_osfhandle(end) for end in ends]
    for handle in handles:
        os.set_handle_inheritable(handle, True)
    startup = subprocess.STARTUPINFO(lpAttributeList={"handle_list": handles})
    return [str(handle) for handle in handles], {"startupinfo": startup}


def _received(names: list[str]) -> tuple[int, int]:
    """File descriptors of the ends for reading and for writing."""
    if sys.platform != "win32":
        return int(names[0]), int(names[1])
    import msvcrt

    return msvcrt.open_osfhandle(int(names[0]), os.O_RDONLY), msvcrt.open_osfhandle(
        int(names[1]), os.O_WRONLY
    )

"""What is to happen when some time has passed, all of it in one thread: a thread for each visitor who left
would stand there for a quarter of an hour.

LATER.call(900.0, forget)
"""

from __future__ import annotations

import heapq
import itertools
import logging
import threading
import time
from collections.abc import Callable


class Later:
    """Calls work in the order in which it is due. What is called off by then has to find out itself."""

    def __init__(self) -> None:
        self._due: list[tuple[float, int, Callable[[], None]]] = []  # time.monotonic(), turn, work
        self._turns = itertools.count()
        self._changed = threading.Condition()
        self._thread: threading.Thread | None = None

    def call(self, seconds: float, work: Callable[[], None]) -> None:
        """Calls `work` once, in so many seconds."""
        with self._changed:
            heapq.heappush(self._due, (time.monotonic() + seconds, next(self._turns), work))
            self._changed.notify()
            if self._thread is None:
                self._thread = threading.Thread(target=self._work, name="moeviz-later", daemon=True)
                self._thread.start()

    def _work(self) -> None:
        while True:
            with self._changed:
                while (left := self._left()) is None or left > 0:
                    self._changed.wait(left)
                _, _, work = heapq.heappop(self._due)
            try:
                work()
            except Exception:  # what comes later is due all the same
                logging.getLogger(__name__).exception("what was due could not be done")

    def _left(self) -> float | None:
        """Seconds until the next is due; None where there is none."""
        return self._due[0][0] - time.monotonic() if self._due else None


LATER = Later()

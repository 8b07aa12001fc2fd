"""When things happened in a run: stamps that are taken now and read when they have passed.

Both clocks give whole nanoseconds. Know neither slots nor copies.
"""

from __future__ import annotations

import time
from typing import Any, Protocol


class Clock(Protocol):
    """Stamps of one run."""

    free: bool  # a stamp costs next to nothing, so that one more may be taken for a finer picture

    def start(self) -> None:
        """The run begins now."""

    def begin_pass(self) -> None:
        """A forward pass begins now."""

    def stamp(self) -> Any:
        """Now, as what computes has come to."""

    def ready(self, stamp: Any) -> bool:
        """Whether a stamp was taken and has passed."""

    def since_start(self, stamp: Any) -> int:
        """Nanoseconds from the start of the run to a stamp; it and the beginning of the pass have passed."""

    def between(self, first: Any, second: Any) -> int:
        """Nanoseconds from one stamp to another; both have passed."""

    def end_pass(self) -> None:
        """No stamp of this pass will be read any more."""

    def close(self) -> None:
        """No stamp of the run will be read any more, nor of a pass that was cut short."""


class HostClock:
    """Stamps of a CPU: nanoseconds."""

    free = True

    def start(self) -> None:
        self._zero = time.perf_counter_ns()

    def begin_pass(self) -> None: ...

    def stamp(self) -> int:
        return time.perf_counter_ns()

    def ready(self, stamp: Any) -> bool:
        return stamp is not None and stamp <= time.perf_counter_ns()  # a paced copy's end is known beforehand

    def since_start(self, stamp: int) -> int:
        return stamp - self._zero

    def between(self, first: int, second: int) -> int:
        return second - first

    def end_pass(self) -> None: ...

    def close(self) -> None: ...


class DeviceClock:
    """Stamps of an accelerator: events on its compute stream, so that taking one makes nothing wait.

    `events` makes and takes back events (`moeviz.engine.hardware.Accelerator`). An accelerator gives the time
    between two events in float32 milliseconds, which are 62 microseconds apart after ten minutes. So every
    pass is told from its own beginning, and the beginnings are added up in whole nanoseconds.
    """

    free = False

    def __init__(self, events: Any) -> None:
        self._events = events
        self._taken: list[Any] = []  # of this pass
        self._zero: Any = None
        self._pass: Any = None

    def start(self) -> None:
        self._zero, self._zero_ns = self._events.now(), 0

    def begin_pass(self) -> None:
        self._pass = self._events.now()

    def stamp(self) -> Any:
        self._taken.append(self._events.now())
        return self._taken[-1]

    def ready(self, stamp: Any) -> bool:
        return stamp is not None and bool(stamp.query())

    def since_start(self, stamp: Any) -> int:
        if self._pass is not None:
            self._zero_ns += self.between(self._zero, self._pass)
            self._events.give(self._zero)
            self._zero, self._pass = self._pass, None
        return self._zero_ns + self.between(self._zero, stamp)

    def between(self, first: Any, second: Any) -> int:
        return round(first.elapsed_time(second) * 1e6)

    def end_pass(self) -> None:
        for event in self._taken:
            self._events.give(event)
        self._taken.clear()

    def close(self) -> None:
        self.end_pass()
        for event in (self._zero, self._pass):
            if event is not None:
                self._events.give(event)

"""Times of an accelerator stay exact however long a run is, and its events are used again."""

from __future__ import annotations

import time

import numpy as np

from moeviz.engine.clocks import DeviceClock, HostClock


class Event:
    """Tells times as a driver does: float32 milliseconds."""

    def __init__(self, ns: int) -> None:
        self.ns = ns

    def query(self) -> bool:
        return True

    def elapsed_time(self, other: Event) -> float:
        return float(np.float32((other.ns - self.ns) / 1e6))


class Events:
    def __init__(self) -> None:
        self.ns, self.made = 0, 0
        self.free: list[Event] = []

    def now(self) -> Event:
        if not self.free:
            self.free.append(Event(0))
            self.made += 1
        event = self.free.pop()
        event.ns = self.ns
        return event

    def give(self, event: Event) -> None:
        self.free.append(event)


def test_after_ten_minutes_a_microsecond_is_still_a_microsecond() -> None:
    events = Events()
    clock = DeviceClock(events)
    clock.start()
    for _ in range(6_000):  # passes of a tenth of a second
        clock.begin_pass()
        first = clock.stamp()
        begin = events.ns
        events.ns += 3_000
        second = clock.stamp()
        assert clock.between(first, second) == 3_000
        assert abs(clock.since_start(second) - (begin + 3_000)) <= 1_000
        clock.end_pass()
        events.ns += 99_997_000
    assert events.made <= 5  # of the run, the pass and its two stamps
    assert float(np.spacing(np.float32(600_000))) * 1e6 > 60_000  # ns, which one zero for all would be off by


def test_a_moment_that_is_still_to_come_has_not_passed() -> None:
    """The end of a paced copy is known beforehand: until then it is none of a pass's."""
    clock = HostClock()
    assert clock.ready(time.perf_counter_ns())
    assert not clock.ready(time.perf_counter_ns() + 10**12)
    assert not clock.ready(None)

"""What belongs to a browser: its jobs survive a reload, are stopped when its last tab is gone, and their time
left only shrinks.
"""

from __future__ import annotations

import threading
from collections import deque
from typing import Any

import pytest
import streamlit as st
from streamlit.runtime.scriptrunner import StopException
from streamlit.runtime.state import SessionState
from streamlit.runtime.state.safe_session_state import SafeSessionState

from moeviz.app import jobs
from moeviz.app.jobs import Desk, Seat, browser
from moeviz.app.later import LATER
from moeviz.core.settings import Settings
from moeviz.engine.client import Job


class Told:
    """Stands in for the worker's client, and writes down what it was told."""

    def __init__(self) -> None:
        self.said: list[tuple[str, Any]] = []

    def __getattr__(self, name: str) -> Any:
        def tell(job: Job, *others: Any) -> Job:
            self.said.append((name, job))
            return job

        return tell


@pytest.fixture
def desk() -> Desk:
    return Desk(Told())  # type: ignore[arg-type]


def job() -> Job:
    return Job("watch", "And it", [Settings()])


def told(desk: Desk) -> list[str]:
    return [name for name, _ in desk.client.said]  # type: ignore[attr-defined]


def test_a_reload_keeps_the_run_and_the_last_tab_stops_it(desk: Desk) -> None:
    desk.enter("one")
    desk.submit("live", job())
    desk.enter("other")
    desk.enter("other")  # a tab says so each time that it looks
    desk.leave("one")
    desk.leave("one")  # told of one end twice
    assert "stop_later" not in told(desk)
    desk.leave("other")
    assert told(desk)[-1] == "stop_later"
    desk.enter("other")  # the page was loaded again
    assert told(desk)[-1] == "keep"
    assert desk.jobs["live"] in desk.running


def test_a_new_run_ends_the_one_before_it(desk: Desk) -> None:
    first = desk.submit("live", job())
    desk.submit("live", job())
    assert ("stop", first) in desk.client.said  # type: ignore[attr-defined]


def test_a_comparison_that_was_stopped_early_does_not_displace_one_that_was_not(desk: Desk) -> None:
    run: Any = None
    whole, early = (Job("compare", "And it", [Settings("lru"), Settings("lfu")]) for _ in range(2))
    whole.runs, whole.state = [(0, run), (1, run)], "done"
    early.runs, early.state = [(0, run)], "stopped"
    for one in (early, whole, early, job()):
        desk.submit("measure", one)
    assert desk.earlier["measure"] is whole


def test_an_end_is_told_first_to_one(desk: Desk) -> None:
    one = desk.submit("live", job())
    one.state = "done"
    assert [desk.first_told("live", one) for _ in range(2)] == [True, False]
    desk.submit("live", job())
    assert not desk.first_told("live", one)


def test_a_run_that_is_asked_for_while_the_last_tab_closes_is_stopped_too(desk: Desk) -> None:
    desk.enter("tab")
    desk.leave("tab")
    late = desk.submit("live", job())
    assert desk.client.said[-1] == ("stop_later", late)  # type: ignore[attr-defined]


def test_a_script_that_still_runs_when_its_connection_has_ended_keeps_no_seat(
    desk: Desk, monkeypatch: pytest.MonkeyPatch
) -> None:
    seat = Seat(desk, "gone")

    def told_to_stop() -> None:
        if not desk.empty:  # its connection ends when it has sat down
            raise StopException

    state = SafeSessionState(SessionState(), told_to_stop)
    state["desk"] = desk
    monkeypatch.setattr(st, "session_state", state)
    monkeypatch.setattr(jobs, "_seat", lambda number, desk: seat)
    monkeypatch.setattr(jobs, "_seated", set())
    monkeypatch.setattr(jobs, "_left", deque())
    monkeypatch.setattr(jobs.server, "tidy", lambda left: None)
    monkeypatch.setattr(jobs, "GRACE", 0.0)
    with pytest.raises(StopException):
        jobs.sit_down()
    assert desk.empty
    assert jobs._seated == set()
    due()


def test_what_was_opened_is_forgotten_when_nobody_comes_back(desk: Desk) -> None:
    desk.enter("tab")
    desk.opened["upload: x"] = (None, None)  # type: ignore[assignment]
    threads = threading.active_count()
    for _ in range(20):
        desk.leave("tab")  # which stands in no thread of its own until then
        desk.enter("tab")
    assert threading.active_count() <= threads + 1
    desk.leave("tab", forget=0.0)
    due()
    assert desk.opened == {}


def test_what_was_opened_stays_for_one_who_came_back(desk: Desk) -> None:
    desk.enter("tab")
    desk.opened["upload: x"] = (None, None)  # type: ignore[assignment]
    held = threading.Event()
    LATER.call(0.0, lambda: held.wait(300) and None)
    desk.leave("tab", forget=0.0)
    desk.enter("tab")  # before its things are forgotten
    held.set()
    due()
    assert list(desk.opened) == ["upload: x"]


def due() -> None:
    """Waits until all that is due by now has happened."""
    over = threading.Event()
    LATER.call(0.0, over.set)
    assert over.wait(300)


def test_time_left_never_grows(desk: Desk) -> None:
    shown = [
        desk.left("measure", spent, share) for spent, share in ((5, 0.1), (20, 0.15), (30, 0.6), (31, 0.61))
    ]
    assert shown == sorted(shown, reverse=True)
    assert shown[0] == pytest.approx(45)
    assert shown[2] == pytest.approx(20)
    desk.submit("measure", job())
    assert desk.left("measure", 5, 0.05) == pytest.approx(95)  # another run's time


def test_a_browser_is_known_by_its_cookie_however_it_is_masked() -> None:
    token = bytes(range(16))

    def cookie(mask: bytes) -> str:
        masked = bytes(byte ^ mask[n % 4] for n, byte in enumerate(token))
        return f"2|{mask.hex()}|{masked.hex()}|1700000000"

    assert browser(cookie(b"abcd")) == browser(cookie(b"wxyz")) != ""
    assert browser(cookie(b"abcd")) != browser(cookie(b"abcd").replace("2|61", "2|62"))
    assert browser("") == browser("nonsense") == browser("2||x|") == browser("2|zz|00|1") == ""

"""Runs of the model that a browser asked for: who owns them, when their turn comes, how long they still take.

A browser has one `Desk` on the server, however many tabs it opens and however often they are loaded again:
its jobs and the traces that it opened lie there. It is told by the cookie that Streamlit gives every browser
against forged requests; nothing else is set or kept.

    if jobs.run_or_stop("Measure", "m", desk().jobs.get("measure")): ...
"""

from __future__ import annotations

import hashlib
import threading
from collections import deque
from dataclasses import dataclass, field
from functools import cache

import streamlit as st

from moeviz.app import seats, server
from moeviz.app.later import LATER
from moeviz.core.run import Run
from moeviz.core.trace import Trace
from moeviz.engine.client import Client, Job
from moeviz.files.moecounts import Counts

COOKIE = "_streamlit_xsrf"
GRACE = 30.0  # seconds in which a browser whose last tab went may come back before its jobs are stopped
FORGET = 900.0  # seconds after which what it opened is dropped

_seated: set[Desk] = set()  # those whose browser has a tab open
_left: deque[str] = deque(maxlen=1_000)  # sessions whose connection has ended since the last tidying


@dataclass(eq=False)
class Desk:
    """What belongs to one browser: its jobs by name, and the traces and counts that it opened by theirs."""

    client: Client
    jobs: dict[str, Job] = field(default_factory=dict)
    earlier: dict[str, Job] = field(default_factory=dict)  # the last before it that is whole, or left a trace
    opened: dict[str, tuple[Trace, Run | None]] = field(default_factory=dict)
    counted: dict[str, Counts] = field(default_factory=dict)  # uses without order
    time_left: dict[str, float] = field(default_factory=dict)  # that was last shown, seconds
    unshown: dict[str, Job] = field(default_factory=dict)  # those whose end the stage has not shown yet
    _sessions: set[str] = field(default_factory=set)  # of its tabs
    _came: int = 0  # tabs so far: whether one has come since the last one closed
    _lock: threading.Lock = field(default_factory=threading.Lock)

    def submit(self, name: str, job: Job) -> Job:
        """Runs a job, in place of the last one of this name."""
        with self._lock:
            if (old := self.jobs.get(name)) is not None and not old.finished:
                self.client.stop(old)
            elif old is not None and (whole(old) or (_traced(old) and name not in self.earlier)):
                self.earlier[name] = old
            self.time_left.pop(name, None)
            self.jobs[name] = self.unshown[name] = self.client.submit(job)
            if not self._sessions:  # the tab that asked for it has closed meanwhile
                self.client.stop_later(job, GRACE)
        return job

    def latest(self, name: str) -> Job | None:
        """The last job of this name that is over and left a trace, also while the next one goes on."""
        for job in (self.jobs.get(name), self.earlier.get(name)):
            if job is not None and job.finished and _traced(job):
                return job
        return None

    def first_told(self, name: str, job: Job) -> bool:
        """Whether nobody has asked before after the end of this job, which is over."""
        with self._lock:
            return self.unshown.get(name) is job and self.unshown.pop(name) is job

    @property
    def running(self) -> list[Job]:
        return [job for job in self.jobs.values() if not job.finished]

    def enter(self, session: str) -> bool:
        """A tab opened, or came back; False where it was there."""
        with self._lock:
            if session in self._sessions:
                return False
            self._sessions.add(session)
            self._came += 1
            for job in self.running:
                self.client.keep(job)
            return True

    def leave(self, session: str, grace: float = GRACE, forget: float = FORGET) -> bool:
        """A tab closed; False where it was not there. After the last one the jobs are stopped, so that
        others' turn comes, and in the end all is dropped.
        """
        with self._lock:
            if session not in self._sessions:
                return False
            self._sessions.remove(session)
            if not self._sessions:
                for job in self.running:
                    self.client.stop_later(job, grace)
                came = self._came
                LATER.call(forget, lambda: self._drop() if self._came == came else None)
            return True

    @property
    def empty(self) -> bool:
        """Whether no tab of its browser is open."""
        return not self._sessions

    def _drop(self) -> None:
        self.opened.clear()
        self.counted.clear()
        self.jobs.clear()
        self.earlier.clear()
        self.unshown.clear()

    def left(self, name: str, spent: float, share: float) -> float:
        """Seconds that a job with `share` of its work done in `spent` seconds still takes: an estimate that
        never grows.
        """
        now = spent / share - spent
        self.time_left[name] = min(now, self.time_left.get(name, now))
        return self.time_left[name]


def whole(job: Job) -> bool:
    """Whether a job left what it was asked for: of a comparison, a run of every setting."""
    if job.kind == "watch":
        return bool(job.passes)
    return {number for number, _ in job.runs} == set(range(len(job.settings)))


def _traced(job: Job) -> bool:
    """Whether a job left a trace."""
    return job.trace is not None or bool(job.passes)


# Neither is kept by Streamlit, whose caches any browser can have cleared for all: runs would be left without
# a queue, and pages without what they opened.
_desks: dict[str, Desk] = {}  # by the browser's name
_one = threading.Lock()


@cache
def _client() -> Client:
    return Client()


def client() -> Client:
    """The one worker process of this server, started by its first job."""
    with _one:
        return _client()


def desk() -> Desk:
    """This browser's desk."""
    if "desk" not in st.session_state:
        cookie = st.context.cookies.get(COOKIE)
        name = browser(cookie) if isinstance(cookie, str) else ""  # a test's browser sends none
        st.session_state.desk = _desks.setdefault(name, Desk(client())) if name else Desk(client())
    found: Desk = st.session_state.desk
    return found


def just_ended(name: str) -> Job | None:
    """The job of this name once it is over: once to every tab that saw it go on, and to the first that asks
    where none did.
    """
    state, job = st.session_state, desk().jobs.get(name)
    if job is None:
        return None
    if not job.finished:
        state[f"saw-{name}"] = job
        return None
    first, saw = desk().first_told(name, job), state.pop(f"saw-{name}", None) is job
    return job if first or saw else None


def browser(cookie: str) -> str:
    """A name for the browser that sent this cookie; "" where it is none that tells browsers apart.

    The cookie is "2|mask|masked token|time", in hexadecimal, and is masked anew now and then; its token
    stays.
    """
    parts = cookie.strip('"').split("|")
    try:
        mask, token = bytes.fromhex(parts[1]), bytes.fromhex(parts[2])
    except (IndexError, ValueError):
        return ""
    if not mask or not token:
        return ""
    plain = bytes(byte ^ mask[n % len(mask)] for n, byte in enumerate(token))
    return hashlib.sha256(plain).hexdigest()


@dataclass(frozen=True, slots=True)
class Seat:
    """A session at its browser's desk."""

    desk: Desk
    session: str  # Streamlit's name for it

    def take(self) -> None:
        """Its connection stands. Said again, it changes nothing."""
        with _one:
            self.desk.enter(self.session)
            _seated.add(self.desk)

    def leave(self) -> None:
        """Its connection ended; when it was the last of all, the server's memory is tidied. Said again, it
        changes nothing.
        """
        with _one:
            if not self.desk.leave(self.session):
                return
            _left.append(self.session)
            if self.desk.empty:
                _seated.discard(self.desk)
            last = not _seated
        if last:
            LATER.call(GRACE, _tidy)


def _tidy() -> None:
    if not _seated:
        sessions = [_left.popleft() for _ in range(len(_left))]
        server.tidy(sessions)


@st.cache_resource(scope="session", show_spinner=False, on_release=Seat.leave)
def _seat(number: int, _desk: Desk) -> Seat:
    if isinstance(st.context.cookies.get(COOKIE), str):  # somebody is there: a run may follow
        _desk.client.warm()
    return Seat(_desk, seats.session())


def sit_down() -> None:
    """Ties this session to its browser's desk until its connection ends.

    Said anew by every run of a script, and by what looks again by itself: where another browser has cleared
    Streamlit's caches, this session's seat is gone with them, and its runs would be stopped.
    """
    own = desk()
    seat = _seat(id(own), own)
    seat.take()
    seats.untie_if_gone(seat.leave)


def waiting(job: Job) -> bool:
    """Says so where others' jobs run before this one."""
    place = client().place(job)
    if place:
        runs = "runs" if place > 1 else "run"
        st.info(f"{place} other {runs} before yours; it starts by itself.", icon=":material/hourglass:")
    if job.silent:
        st.warning(job.message, icon=":material/heart_broken:")
    return bool(place)


def run_or_stop(label: str, icon: str, job: Job | None, key: str) -> bool:
    """One button: it starts a job, or stops the one that runs. True where a job is to start."""
    if job is None or job.finished:
        return st.button(label, key=key, icon=icon)
    if st.button("Stop", icon=":material/stop:", key=f"stop-{key}"):
        client().stop(job)
    return False

"""A room: a class predicts on its phones what a lesson asks, the lecturer sees the counts and reveals.

Knows neither Streamlit nor the web. A student is a random word that the browser keeps until it is closed.
What is kept: each word's last predictions and how many words came from an address, in memory, until the room
closes, shortly after the lecturer's last tab. Every thread of the server may use it.

    room = HALL.open()
    room.ask(lesson)
    room.answer("5f3a", 2)
    room.reveal(2)
"""

from __future__ import annotations

import itertools
import statistics
import threading
from collections import Counter
from dataclasses import dataclass
from typing import Any

from moeviz.lessons import Choice, Guess, Lesson

MOST = 1_000  # students that are counted in one room
OF_ONE_ADDRESS = 100  # of them: a class behind one router gets in, one phone is not a crowd
BARS = 10  # at most, of a number that is guessed
GRACE = 30.0  # seconds in which a lecturer whose last tab went may come back: a reload does not end a class


@dataclass(frozen=True, slots=True)
class Bar:
    """How many predicted one of the answers."""

    text: str
    count: int
    right: bool  # known once it is revealed


class Room:
    """One class, from when the lecturer opens the room to when it is closed."""

    _numbers = itertools.count(1)

    def __init__(self) -> None:
        self.number = next(self._numbers)
        self.closed = False
        self._lock = threading.Lock()
        self._joined: set[str] = set()
        self._from: Counter[str] = Counter()  # address -> who joined from there
        self._lesson: Lesson | None = None
        self._round = 0  # a question that is asked again is another one
        self._answers: dict[int, dict[str, float]] = {}  # by lesson: student -> prediction
        self._right: dict[int, float] = {}  # by lesson, once it is revealed
        self._tabs: set[str] = set()  # the lecturer's
        self._timer: threading.Timer | None = None

    @property
    def joined(self) -> int:
        """Phones that were here."""
        return len(self._joined)

    def answered(self, number: int) -> int:
        """Students whose prediction for this lesson counts."""
        with self._lock:
            return len(self._answers.get(number, {}))

    def revealed(self, number: int) -> bool:
        """Whether the class has been told what is right."""
        return number in self._right

    def ask(self, lesson: Lesson) -> None:
        """Puts a lesson's question before the class; what was predicted for it before still counts."""
        with self._lock:
            if self._lesson is None or self._lesson.number != lesson.number:
                self._lesson = lesson
                self._round = next(self._numbers)

    def ask_again(self, lesson: Lesson) -> None:
        """Begins a lesson's count anew."""
        with self._lock:
            self._answers.pop(lesson.number, None)
            self._right.pop(lesson.number, None)
            self._lesson = lesson
            self._round = next(self._numbers)

    def reveal(self, right: float) -> None:
        """Ends the count of the question that is asked, and tells everyone the right answer."""
        with self._lock:
            if self._lesson is not None:
                self._right[self._lesson.number] = right

    def answer(self, student: str, round_: int, value: float, address: str = "") -> str:
        """Counts a student's prediction, in place of an earlier one. Gives "", or why it does not count.

        round_: the question's own number: what comes too late does not count for the next question. address:
        where the student asks from; "" where that is not known.
        """
        with self._lock:
            lesson = self._lesson
            if self.closed or lesson is None or round_ != self._round:
                return "This question is over."
            if lesson.number in self._right:
                return "It is revealed already."
            if not _possible(lesson.predict, value):
                return "This is none of the answers."
            if not self._joins(student, address):
                return f"The room is full: it takes {MOST:,}, and {OF_ONE_ADDRESS} of one address."
            self._answers.setdefault(lesson.number, {})[student] = value
            return ""

    def _joins(self, student: str, address: str) -> bool:
        """Whether a student is in, from now on at the latest. Under the lock."""
        if student in self._joined:
            return True
        full = len(self._joined) >= MOST or (address and self._from[address] >= OF_ONE_ADDRESS)
        if not student or self.closed or full:
            return False
        self._joined.add(student)
        self._from[address] += 1
        return True

    def bars(self, lesson: Lesson) -> list[Bar]:
        """The counts of a lesson's question: a bar for each option, or for each range of a number."""
        with self._lock:
            counts = Counter(self._answers.get(lesson.number, {}).values())
            right = self._right.get(lesson.number)
        return [
            Bar(text, sum(counts[value] for value in values), right is not None and round(right) in values)
            for text, values in _ranges(lesson.predict)
        ]

    def right(self, lesson: Lesson) -> int:
        """How many were right, once it is revealed."""
        right = self._right[lesson.number]
        with self._lock:
            said = list(self._answers.get(lesson.number, {}).values())
        return sum(lesson.predict.right(value, right) for value in said)

    def middle(self, lesson: Lesson) -> float | None:
        """The prediction in the middle of all that were made, of a number; None where none was made."""
        with self._lock:
            said = list(self._answers.get(lesson.number, {}).values())
        return float(statistics.median_low(said)) if said and isinstance(lesson.predict, Guess) else None

    def state(self, student: str, address: str = "") -> dict[str, Any]:
        """What a student's page shows, as JSON takes it; nothing else leaves the room.

        student: "" for someone who is not counted.
        """
        lesson = self._lesson
        with self._lock:
            self._joins(student, address)
            if lesson is None or self.closed:
                return {"closed": self.closed}
            mine = self._answers.get(lesson.number, {}).get(student)
            right = self._right.get(lesson.number)
            round_ = self._round
        question = {"round": round_, "title": lesson.title, "ask": lesson.ask, "mine": mine}
        question |= _asked(lesson.predict)
        if right is None:
            return {"question": question}
        told = {
            "right": lesson.predict.text(right),
            "mine": None if mine is None else lesson.predict.text(mine),
            "good": mine is not None and lesson.predict.right(mine, right),
            "bars": [[bar.text, bar.count, bar.right] for bar in self.bars(lesson)],
        }
        return {"question": question, "told": told}

    def enter(self, tab: str) -> None:
        """A tab of the lecturer's opened, or came back."""
        with self._lock:
            self._tabs.add(tab)
            if self._timer is not None:
                self._timer.cancel()
                self._timer = None

    def leave(self, tab: str, grace: float = GRACE) -> None:
        """A tab of the lecturer's closed. After the last one the room closes, unless one comes back."""
        with self._lock:
            if tab not in self._tabs:
                return
            self._tabs.remove(tab)
            if self._tabs or self.closed:
                return
            self._timer = threading.Timer(grace, self._close_if_left)
            self._timer.daemon = True
            self._timer.start()

    def _close_if_left(self) -> None:
        with self._lock:
            left = not self._tabs
        if left:
            self.close()

    def close(self) -> None:
        """Ends the room; everything that was counted is dropped."""
        with self._lock:
            self.closed = True
            self._answers.clear()
            self._joined.clear()
            self._from.clear()


def _possible(kind: Choice | Guess, value: float) -> bool:
    if value != int(value):
        return False
    if isinstance(kind, Choice):
        return 0 <= value < len(kind.options)
    return kind.least <= value <= kind.most


def _asked(kind: Choice | Guess) -> dict[str, Any]:
    if isinstance(kind, Choice):
        return {"options": list(kind.options)}
    return {"least": kind.least, "most": kind.most, "unit": kind.unit}


def _ranges(kind: Choice | Guess) -> list[tuple[str, range]]:
    """The bars' texts, and the answers that each of them counts."""
    if isinstance(kind, Choice):
        return [(text, range(n, n + 1)) for n, text in enumerate(kind.options)]
    values = range(kind.least, kind.most + 1)
    wide = max(1, -(-(kind.most - kind.least) // BARS))
    parts = [values[first : first + wide] for first in range(0, len(values), wide)]
    if len(parts) > 1 and len(parts[-1]) < wide / 2:  # of 0 to 100 the last bar is 90 to 100
        parts[-2:] = [range(parts[-2][0], kind.most + 1)]
    return [
        (f"{part[0]}{kind.unit}" if len(part) == 1 else f"{part[0]} to {part[-1]}{kind.unit}", part)
        for part in parts
    ]


class Hall:
    """Where the one room of a server is, and whether anyone is let in."""

    def __init__(self, admits: bool = False) -> None:
        self.admits = admits  # the server was started for it
        self._room: Room | None = None

    @property
    def room(self) -> Room | None:
        """The room that is open."""
        return None if self._room is None or self._room.closed else self._room

    def open(self) -> Room:
        """The open room, or a new one."""
        self._room = self.room or Room()
        return self._room

    def state(self, student: str, address: str = "") -> dict[str, Any]:
        """What a student's page shows."""
        if self._room is None:
            return {"waiting": True}
        return self._room.state(student, address)


HALL = Hall()

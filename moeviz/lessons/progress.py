"""How far a learner has come: right or wrong for each lesson, as short as a link can carry it.

record(parse("1.0"), 1, True).text      # '110'
"""

from __future__ import annotations

from dataclasses import dataclass

OPEN, RIGHT, WRONG = ".", "1", "0"
MOST = 64  # lessons that a link may speak of


@dataclass(frozen=True, slots=True)
class Progress:
    """One mark for each lesson, by number; what is not there has not been answered."""

    text: str = ""

    def of(self, number: int) -> bool | None:
        """Whether a lesson was predicted right; None where it is still open."""
        mark = self.text[number] if number < len(self.text) else OPEN
        return None if mark == OPEN else mark == RIGHT

    @property
    def answered(self) -> int:
        return len(self.text) - self.text.count(OPEN)

    @property
    def right(self) -> int:
        return self.text.count(RIGHT)


def parse(text: str, count: int = MOST) -> Progress | None:
    """From a link; None where it is no progress of `count` lessons."""
    known = len(text) <= count and not set(text) - {OPEN, RIGHT, WRONG}
    return Progress(text.rstrip(OPEN)) if known else None


def record(progress: Progress, number: int, right: bool) -> Progress:
    """With the mark of a lesson. The first prediction counts: who has seen the answer predicts no more."""
    if progress.of(number) is not None:
        return progress
    marks = list(progress.text.ljust(number + 1, OPEN))
    marks[number] = RIGHT if right else WRONG
    return Progress("".join(marks))

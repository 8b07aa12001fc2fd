"""What a lesson is, and the registry that finds them all.

@lesson(1, "Which cache suits a text that changes its subject?", ...)
def answer(lab: Lab) -> Answer: ...
"""

from __future__ import annotations

import importlib
import pkgutil
from collections.abc import Callable
from dataclasses import dataclass, field
from functools import cache
from pathlib import Path

from moeviz.core.run import Run
from moeviz.core.settings import Settings
from moeviz.core.trace import Trace
from moeviz.lessons.lab import Lab
from moeviz.numbers.subject import Change


@dataclass(frozen=True, slots=True)
class Choice:
    """A prediction that picks one of several options."""

    options: tuple[str, ...]

    def right(self, given: float, answer: float) -> bool:
        """Whether the option of this number is the answer's."""
        return given == answer

    def text(self, value: float) -> str:
        """A prediction in words."""
        return self.options[int(value)]


@dataclass(frozen=True, slots=True)
class Guess:
    """A prediction that drags a number."""

    least: int
    most: int
    unit: str
    close: float  # how far from the answer a prediction may be and still count as right

    def right(self, given: float, answer: float) -> bool:
        """Whether the number is close enough to the answer."""
        return abs(given - answer) <= self.close

    def text(self, value: float) -> str:
        """A prediction in words."""
        return f"{value:.0f}{self.unit}"


@dataclass(frozen=True, slots=True)
class Said:
    """A sentence with computed numbers, and whether what it claims is so on the traces that it was computed
    from.
    """

    text: str
    holds: bool = True


@dataclass(frozen=True, slots=True)
class Picture:
    """A drawing as inline SVG, and the sentence that goes with it."""

    svg: str
    text: str


@dataclass(frozen=True, eq=False, slots=True)
class Shown:
    """What the stage is to show: a trace under one or two settings, and where the cursor stands."""

    trace: Trace
    settings: tuple[Settings, ...]  # one or two
    title: str
    step: int  # forward pass of the trace
    selected: tuple[int, int, int] | None = None  # board, MoE layer, expert
    measured: Run | None = None  # of the trace, where its times belong to the lesson
    link: str = ""  # for which times are modelled instead, by its name
    changes: tuple[Change, ...] | None = None  # of subject; None: as the experts tell them

    def seek(self) -> dict[str, int]:
        """The cursor as the stage takes it."""
        if self.selected is None:
            return {"step": self.step}
        board, layer, expert = self.selected
        return {"step": self.step, "board": board, "layer": layer, "expert": expert}


@dataclass(frozen=True, eq=False, slots=True)
class Answer:
    """What came out, computed."""

    right: float  # number of the right option, or the number that was asked for
    why: tuple[Said, ...]
    stage: Shown
    picture: Picture | None = None  # beside the sentences, where the stage alone does not say it
    with_guess: Callable[[float, str], Picture] | None = None  # the picture with a prediction and whose it is

    @property
    def parted(self) -> list[str]:
        """Sentences whose claim the computed numbers do not bear out; nobody is shown them."""
        return [one.text for one in self.why if not one.holds]


@dataclass(frozen=True, slots=True)
class Try:
    """Where to go on with every knob: a page, and what the link says to it."""

    page: str  # name of the page's file
    label: str
    link: dict[str, str] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Lesson:
    """One screen of teaching."""

    number: int
    title: str  # a question
    minutes: int
    read: tuple[str, ...]  # paragraphs
    ask: str
    predict: Choice | Guess
    claim: tuple[float, float]  # the least and the most that the texts take for right
    pictures: Callable[
        [Lab], tuple[Picture, ...]
    ]  # before the prediction, one after the other; they give nothing away
    goes_wrong: str  # for the lecturer: what a class stumbles over
    try_it: Try
    answer: Callable[[Lab], Answer]
    extra: str = ""  # what the page draws besides: "game" or "sliders"

    def holds(self, answer: Answer) -> bool:
        """Whether the computed answer is the one that the lesson's texts take for right, and every sentence
        is so.
        """
        least, most = self.claim
        return least <= answer.right <= most and not answer.parted


_FOUND: dict[int, Lesson] = {}


def lesson(
    number: int,
    title: str,
    *,
    minutes: int,
    read: tuple[str, ...],
    ask: str,
    predict: Choice | Guess,
    claim: tuple[float, float],
    pictures: Callable[[Lab], tuple[Picture, ...]],
    goes_wrong: str,
    try_it: Try,
    extra: str = "",
) -> Callable[[Callable[[Lab], Answer]], Callable[[Lab], Answer]]:
    """Makes a lesson of the function that computes its answer. Two lessons of one number are refused with
    ValueError.
    """

    def register(answer: Callable[[Lab], Answer]) -> Callable[[Lab], Answer]:
        if number in _FOUND:
            raise ValueError(f"lesson {number} is there twice: {_FOUND[number].title!r} and {title!r}.")
        _FOUND[number] = Lesson(
            number,
            title,
            minutes,
            read,
            ask,
            predict,
            claim,
            pictures,
            goes_wrong,
            try_it,
            answer,
            extra,
        )
        return answer

    return register


@cache
def lessons() -> tuple[Lesson, ...]:
    """Every lesson of this folder, in the order of their numbers."""
    for module in pkgutil.iter_modules([str(Path(__file__).parent)], "moeviz.lessons."):
        importlib.import_module(module.name)
    return tuple(_FOUND[number] for number in sorted(_FOUND))

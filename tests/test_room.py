"""A class on the shared state: everyone counts once, nobody twice, and nothing outlives the room."""

from __future__ import annotations

import random
import threading
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import pytest

from moeviz.app.room import MOST, OF_ONE_ADDRESS, Hall, Room
from moeviz.lessons import lessons

CHOICE, NUMBER, WHOLE = lessons()[1], lessons()[4], lessons()[6]
STUDENTS = [f"{n:032x}" for n in range(70)]


def asked(lesson: Any = CHOICE) -> Room:
    room = Room()
    room.ask(lesson)
    return room


def number_of(room: Room) -> int:
    return int(room.state("")["question"]["round"])


def counts(room: Room, lesson: Any = CHOICE) -> list[int]:
    return [bar.count for bar in room.bars(lesson)]


def test_seventy_students_at_once_are_counted_once_each_whatever_they_change_and_repeat() -> None:
    room = asked()
    now = number_of(room)
    draw = random.Random(0)
    last = {student: draw.randrange(4) for student in STUDENTS}
    start = threading.Barrier(len(STUDENTS))

    def one(student: str) -> None:
        start.wait()
        for value in (0, 1, 2, 3, last[student], last[student]):
            assert room.answer(student, now, value) == ""
            assert room.state(student)["question"]["mine"] == value

    with ThreadPoolExecutor(len(STUDENTS)) as class_:
        list(class_.map(one, STUDENTS))
    assert counts(room) == [list(last.values()).count(value) for value in range(4)]
    assert room.answered(CHOICE.number) == len(STUDENTS)


def test_nobody_learns_the_counts_or_the_answer_before_it_is_revealed_to_all() -> None:
    room = asked()
    room.answer("a", number_of(room), 2)
    assert set(room.state("a")) == {"question"}
    room.reveal(2.0)
    for student, mine in (("a", CHOICE.predict.text(2)), ("b", None)):
        told = room.state(student)["told"]
        assert (told["mine"], told["good"]) == (mine, mine is not None)
        assert [bar[1:] for bar in told["bars"]] == [[0, False], [0, False], [1, True], [0, False]]
    assert room.right(CHOICE) == 1


def test_what_comes_late_or_is_no_answer_does_not_count() -> None:
    room = asked()
    early = number_of(room)
    for value in (-1, 4, 2.5):
        assert "none of the answers" in room.answer("a", early, value)
    room.reveal(2.0)
    assert "revealed" in room.answer("a", early, 2)
    room.ask(NUMBER)
    assert "over" in room.answer("a", early, 2)
    assert counts(room) == [0, 0, 0, 0]


def test_a_question_that_is_asked_again_begins_anew_and_one_that_is_shown_again_goes_on() -> None:
    room = asked()
    room.answer("a", number_of(room), 2)
    room.ask(NUMBER)
    room.ask(CHOICE)
    assert counts(room) == [0, 0, 1, 0]
    assert room.state("a")["question"]["mine"] == 2
    room.reveal(2.0)
    room.ask_again(CHOICE)
    assert counts(room) == [0, 0, 0, 0]
    assert room.state("a")["question"]["mine"] is None
    assert not room.revealed(CHOICE.number)


def test_numbers_are_counted_in_ranges_that_hold_every_answer_once() -> None:
    room = asked(NUMBER)
    for n in range(101):
        assert room.answer(f"{n:032x}", number_of(room), n) == ""
    assert counts(room, NUMBER) == [*[10] * 9, 11]
    room.reveal(57.4)
    assert [bar.text for bar in room.bars(NUMBER) if bar.right] == ["50 to 59%"]
    assert [bar.text for bar in asked(WHOLE).bars(WHOLE)] == [f"{n} slots" for n in range(2, 9)]


def test_a_room_holds_so_many_students_and_no_more() -> None:
    room = asked()
    now = number_of(room)
    for n in range(MOST):
        room.state(f"{n:032x}")
        assert room.answer(f"{n:032x}", now, 0) == ""
    room.state("one more")
    assert "full" in room.answer("one more", now, 0)
    assert room.answer(f"{0:032x}", now, 1) == ""  # who is in may change
    assert room.joined == room.answered(CHOICE.number) == MOST


def test_the_room_closes_after_the_lecturers_last_tab_and_outlives_a_reload() -> None:
    room, closed = asked(), threading.Event()
    room.answer("a", number_of(room), 2)
    close = room.close
    room.close = lambda: (close(), closed.set())  # type: ignore[method-assign]
    room.enter("one")
    room.enter("other")
    room.enter("other")  # a tab says so each time that it looks
    room.leave("one", grace=0.0)
    room.leave("one", grace=0.0)  # told of one end twice
    room.leave("other", grace=600.0)
    room.enter("other")  # the page was loaded again
    assert not room.closed
    room.leave("other", grace=0.0)
    assert closed.wait(300)
    assert room.state("a") == {"closed": True}
    assert counts(room) == [0, 0, 0, 0]
    assert "over" in room.answer("a", 1, 2)
    assert room.joined == 0  # nobody that a page which still asks would leave behind


def test_one_address_does_not_fill_the_room_and_nobody_is_no_student() -> None:
    room = asked()
    now = number_of(room)
    said = [room.answer(f"{n:032x}", now, 0, "192.168.7.31") for n in range(OF_ONE_ADDRESS + 5)]
    assert [text != "" for text in said] == [False] * OF_ONE_ADDRESS + [True] * 5
    assert room.answer("another", now, 1, "192.168.7.32") == ""
    before = room.joined
    assert room.state("")["question"]["mine"] is None
    assert room.joined == before


def test_a_new_room_takes_the_place_of_a_closed_one() -> None:
    hall = Hall()
    assert hall.state("a") == {"waiting": True}
    first = hall.open()
    assert hall.open() is first
    first.close()
    assert hall.room is None
    assert hall.state("a") == {"closed": True}
    assert hall.open() is not first
    assert hall.state("a") == {"closed": False}


@pytest.mark.parametrize("lesson", lessons(), ids=lambda one: one.title)
def test_every_lesson_can_be_asked(lesson: Any) -> None:
    room = asked(lesson)
    question = room.state("a")["question"]
    value = 0 if "options" in question else question["most"]
    assert room.answer("a", question["round"], value) == ""
    assert sum(counts(room, lesson)) == 1

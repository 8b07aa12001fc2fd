"""The lecturer's part of a room, on the page: the way to open one, and a prediction that the class makes."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
from test_pages import _one_worker, opened, said, texts  # noqa: F401

from moeviz.app import gate, lectern
from moeviz.app.room import HALL, Bar


@pytest.fixture(autouse=True)
def _empty_hall() -> Iterator[None]:
    yield
    if HALL.room is not None:
        HALL.room.close()


def test_a_server_that_answers_to_this_computer_alone_says_how_a_room_is_opened() -> None:
    assert gate.COMMAND in texts(opened("lessons").code)


def test_while_a_room_is_open_the_class_predicts_and_the_lecturer_reveals() -> None:
    room = HALL.open()
    app = opened("lessons", lesson="1")
    question = room.state("a")["question"]
    assert question["ask"] == "Which of the two hits more?"
    room.answer("a", question["round"], 2)
    app.run()
    assert "1** predicted, of 1 phone" in said(app)
    assert "Neither is better" not in said(app)
    app.button(key="choice-1").click().run()
    assert room.state("a")["told"]["good"]
    assert "1 of 1 predicted right" in said(app)
    assert "Neither is better" in said(app)
    app.button(key="again-1").click().run()
    assert "0** predicted" in said(app)
    assert "told" not in room.state("a")


def test_the_classs_own_guess_is_drawn_on_the_curve_once_it_is_revealed() -> None:
    room = HALL.open()
    app = opened("lessons", lesson="6")
    round_ = room.state("a")["question"]["round"]
    for student, value in (("a", 3), ("b", 4), ("c", 8)):
        room.answer(student, round_, value)
    assert "the class's guess" not in said(app)
    app.button(key="choice-1").click().run()
    assert "The ring: the class's guess, 4 slots." in said(app)
    assert "guess: 4 at 4" in " ".join(str(one.proto) for one in app.get("bidi_component"))


def test_bars_hold_text_as_text_and_mark_the_right_one() -> None:
    drawn = lectern.bars([Bar("<b>one", 3, False), Bar("two", 1, True)])
    assert "&lt;b&gt;one" in drawn
    assert drawn.count("✓ two") == 1
    assert "width: 33.3%" in drawn

"""A learner's marks in a link: short, first prediction counts, nonsense is refused."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from moeviz.lessons.progress import Progress, parse, record


def test_marks_go_into_the_link_and_come_back() -> None:
    found = record(record(Progress(), 2, True), 0, False)
    assert found.text == "0.1"
    again = parse(found.text)
    assert again == found
    assert [again.of(number) for number in range(4)] == [False, None, True, None]
    assert (again.right, again.answered) == (1, 2)


def test_the_first_prediction_counts() -> None:
    assert record(Progress("0"), 0, True).text == "0"


def test_a_link_with_anything_else_is_no_progress() -> None:
    assert parse("01x") is None
    assert parse("1" * 10, count=9) is None
    assert parse("") == Progress()


@given(st.lists(st.tuples(st.integers(0, 8), st.booleans())))
def test_any_order_of_lessons_survives_the_link(marks: list[tuple[int, bool]]) -> None:
    found = Progress()
    for number, right in marks:
        found = record(found, number, right)
    assert parse(found.text, 9) == found
    assert found.answered == len({number for number, _ in marks})

"""The lessons' page: predict, reveal, why, score in the link."""

from __future__ import annotations

from typing import Any

from streamlit.testing.v1 import AppTest
from test_pages import _one_worker, opened, said, turned  # noqa: F401

from moeviz.lessons import lessons


def lesson(number: int, **query: str) -> AppTest:
    return opened("lessons", lesson=str(number), **query)


def press(app: AppTest, key: str) -> AppTest:
    app.button(key=key).click().run()
    assert not app.exception, app.exception[0].value
    return app


def linked(app: AppTest, name: str) -> str:
    value: Any = app.query_params.get(name, "")
    return value[0] if isinstance(value, list) else str(value)


def test_a_right_prediction_is_praised_explained_and_kept_by_the_link() -> None:
    app = lesson(1)
    assert "Neither is better" not in said(app)
    press(app, "choice-3")
    assert "Right" in app.success[0].value
    assert "Neither is better" in said(app)
    assert linked(app, "progress") == ".1"
    assert "1 of 1 right" in said(app)


def test_a_wrong_one_is_told_what_is_right_and_a_second_try_changes_no_score() -> None:
    app = press(lesson(1), "choice-1")
    assert "It is" in app.error[0].value
    assert linked(app, "progress") == ".0"
    press(press(app, "again-1"), "choice-3")
    assert "Right" in app.success[0].value
    assert linked(app, "progress") == ".0"


def test_a_number_is_dragged_and_revealed() -> None:
    app = lesson(6)
    app.slider(key="guess-6").set_value(4).run()  # and back to where it began
    app.slider(key="guess-6").set_value(5).run()
    press(app, "choice-1")
    assert "Right" in app.success[0].value
    assert "The ring: your guess, 5 slots." in said(app)


def test_a_slider_that_nobody_moved_is_no_prediction() -> None:
    app = lesson(6)
    assert app.button(key="choice-1").disabled
    assert "Move the slider to your prediction." in said(app)
    app.slider(key="guess-6").set_value(4).run()
    assert not app.button(key="choice-1").disabled
    app = press(press(app, "choice-1"), "again-6")
    assert app.button(key="choice-1").disabled


def test_after_a_reload_the_answer_still_says_who_was_right() -> None:
    assert lesson(1, progress=".1").success[0].value.startswith("You predicted right: **LFU")
    assert lesson(1, progress=".0").error[0].value.startswith("You predicted something else. It is: **LFU")


def test_a_link_with_progress_opens_the_answer_and_a_bad_one_begins_anew() -> None:
    assert "Neither is better" in said(lesson(1, progress=".1"))
    app = lesson(1, progress="nonsense")
    assert "begins anew" in app.toast[0].value
    assert "Neither is better" not in said(app)


def test_next_leads_through_all_lessons() -> None:
    app = lesson(0)
    app.slider(key="guess-0").set_value(40).run()
    press(app, "choice-1")
    press(app, "next")
    assert lessons()[1].title in app.title[0].value.replace("\\", "")


def test_a_walk_has_steps() -> None:
    app = lesson(0)
    assert "Step 1 of 7" in said(app)
    press(app, "picture-0-Next")
    assert "Step 2 of 7" in said(app)
    assert app.button(key="picture-0-Next").disabled is False


def test_trying_leads_to_a_page_with_the_lessons_settings() -> None:
    app = press(lesson(1), "choice-3")
    (link,) = [one for one in app.get("page_link") if "Try other policies" in one.proto.label]
    assert "b=policy%3Dlfu-aged%2Cslots%3D4" in link.proto.query_string
    turned(app, "stage")
    assert linked(turned(app, "lessons"), "progress") == ".1"

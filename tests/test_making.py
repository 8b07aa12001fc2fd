"""A text that the reader makes with three sliders."""

from __future__ import annotations

from test_pages import _one_worker  # noqa: F401
from test_teaching import lesson, press


def test_sliders_make_the_text_anew() -> None:
    app = lesson(7)
    press(app, "choice-2")
    app.slider(key="skew").set_value(2.0).run()
    assert not app.exception
    app.select_slider(key="change").set_value(0).run()
    assert not app.exception

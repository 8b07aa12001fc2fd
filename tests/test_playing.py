"""The game on the lessons' page."""

from __future__ import annotations

from test_pages import _one_worker, said  # noqa: F401
from test_teaching import lesson, press


def test_the_game_is_played_on_the_page() -> None:
    app = lesson(3)
    victim = app.session_state["game"].round.victim
    press(app, f"move-Expert {victim}")
    assert "Right" in said(app)
    assert app.session_state["game"].streak == 1
    press(app, "move-Next round")
    press(app, "move-Hint")
    assert "Last used" in said(app)

"""The game on the lessons' page."""

from __future__ import annotations

from collections.abc import Container
from dataclasses import replace

import pytest
from test_pages import _one_worker, said  # noqa: F401
from test_teaching import lesson, press

from moeviz.core.lists import Arc
from moeviz.core.policies import POLICIES


def test_the_game_is_played_on_the_page() -> None:
    app = lesson(3)
    victim = app.session_state["game"].round.victim
    press(app, f"move-Expert {victim}")
    assert "Right" in said(app)
    assert app.session_state["game"].streak == 1
    press(app, "move-Next round")
    press(app, "move-Hint")
    assert "last used" in said(app)


def test_any_policy_can_be_chosen_and_one_that_fails_is_told() -> None:
    app = lesson(3, against_policy="arc")
    assert "ARC: Adaptive replacement cache" in said(app)
    assert not app.toast
    press(app, "move-Hint")
    assert "Who leaves: " in said(app)
    against = app.selectbox(key="against_policy")
    assert against.options[:4] == ["LRU", "LFU (counts kept)", "LFU (counts lost)", "Belady"]
    assert len(against.options) == len(POLICIES)
    against.set_value("random").run()
    press(app, "move-Hint")
    assert "Nobody can know" in said(app)


def test_a_users_policy_that_goes_wrong_is_told(monkeypatch: pytest.MonkeyPatch) -> None:
    class Nobody(Arc):
        """Lets somebody leave who is not there."""

        def leaves(self, stays: Container[int]) -> int:
            return 99 if stays else super().leaves(stays)

    monkeypatch.setitem(POLICIES, "nobody", replace(POLICIES["arc"], name="nobody", lists=Nobody))
    app = lesson(3, against_policy="nobody")
    assert "lets nobody leave" in app.error[0].value

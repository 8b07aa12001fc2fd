"""The game on the lessons' page."""

from __future__ import annotations

from collections.abc import Container
from dataclasses import replace

import pytest
from test_pages import _one_worker, said  # noqa: F401
from test_teaching import lesson, press

from moeviz.app import playing
from moeviz.core.lists import Arc
from moeviz.core.policies import POLICIES
from moeviz.errors import PolicyError
from moeviz.lessons import game


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


def test_a_policy_that_fails_in_the_next_game_is_told_there_too(monkeypatch: pytest.MonkeyPatch) -> None:
    asked = []

    def made(policy: str, first: int) -> game.Game:
        asked.append(first)
        if first and policy == "arc":
            raise PolicyError("policy 'mine.py:arc' failed at its work")
        return game.start(playing.LAB.trace(), policy, first=first)

    monkeypatch.setattr(playing, "_game", made)
    app = lesson(3, against_policy="arc")
    now = app.session_state["game"]
    last = replace(now, at=len(now.rounds) - 1)
    app.session_state["game"] = replace(last, guessed=last.round.victim)
    press(app.run(), "play-again")
    assert not app.exception
    assert "failed at its work" in app.error[0].value
    assert asked == [0, now.rounds[0].step + 1]
    app.selectbox(key="against_policy").set_value("lru").run()
    assert not app.error
    assert "Round 1 of" in said(app)

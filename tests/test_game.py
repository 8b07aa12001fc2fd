"""The game of evictions without a page: a game and a move in, a game out."""

from __future__ import annotations

from dataclasses import replace

import pytest
from conftest import make_trace

from moeviz.core.replay import replay
from moeviz.core.settings import Settings
from moeviz.errors import SettingsError
from moeviz.files import moetrace
from moeviz.lessons import game
from moeviz.lessons.game import Game, guess, hint, onward, start

NEVER = 10**6  # tokens, of a use that does not come
TRACE = moetrace.load(moetrace.SAMPLES / "change-of-subject.moetrace")[0]


@pytest.fixture(scope="module", params=game.POLICIES)
def fresh(request: pytest.FixtureRequest) -> Game:
    return start(TRACE, request.param)


def wrong(now: Game) -> int:
    return next(one.expert for one in now.round.candidates if one.expert != now.round.victim)


def test_every_round_asks_for_somebody_who_did_leave(fresh: Game) -> None:
    run = replay(TRACE, Settings(fresh.policy, game.SLOTS))
    loads, events = run.loads, run.events
    left = set(
        zip(
            events.forward_pass[loads.event].tolist(),
            loads.victim_layer.tolist(),
            loads.victim_expert.tolist(),
            loads.expert.tolist(),
            strict=True,
        )
    )
    assert len(fresh.rounds) == game.ROUNDS
    for one in fresh.rounds:
        assert (one.step, one.layer, one.victim, one.newcomer) in left
        assert len(one.candidates) > 1
        assert one.victim in [other.expert for other in one.candidates]


def test_the_hint_gives_what_the_policy_goes_by(fresh: Game) -> None:
    """Whoever follows the hint is right: the victim has the least, or the latest next need."""
    for one in fresh.rounds:
        victim = next(other for other in one.candidates if other.expert == one.victim)
        value = {
            "lru": lambda c: -(NEVER if c.last_use is None else c.last_use),
            "lfu": lambda c: c.uses,
            "lfu-resident": lambda c: c.uses_since_load,
            "belady": lambda c: -(NEVER if c.next_use is None else c.next_use),
        }[fresh.policy]
        assert value(victim) == min(value(other) for other in one.candidates)
    assert f"expert {fresh.round.victim}: " in game.hint_text(fresh)


def test_the_rule_that_is_told_is_the_one_that_chose(fresh: Game) -> None:
    """Whom it names has left in every round, or ties with who did."""
    by = {
        "used longest ago": lambda one: -(NEVER if one.last_use is None else one.last_use),
        "least often since the run began": lambda one: one.uses,
        "least often since it was last loaded": lambda one: one.uses_since_load,
        "needed again last, or never": lambda one: -(NEVER if one.next_use is None else one.next_use),
    }
    (number_of,) = [of for said, of in by.items() if game.rule(fresh).endswith(f"{said}.")]
    for one in fresh.rounds:
        (victim,) = [candidate for candidate in one.candidates if candidate.expert == one.victim]
        assert number_of(victim) == min(number_of(candidate) for candidate in one.candidates)


def test_a_right_guess_lengthens_the_streak_and_a_wrong_one_ends_it(fresh: Game) -> None:
    now = onward(guess(fresh, fresh.round.victim))
    now = onward(guess(now, now.round.victim))
    assert (now.at, now.right, now.streak, now.best, now.guessed) == (2, 2, 2, 2, None)
    lost = guess(now, wrong(now))
    assert (lost.right, lost.streak, lost.best) == (2, 0, 2)
    assert game.said(lost).startswith(f"No, expert {now.round.victim} leaves. ")
    assert lost.round.sentence in game.said(lost)
    assert now.streak == 2  # the game before the move is as it was


def test_a_hint_helps_to_be_right_but_not_to_a_streak(fresh: Game) -> None:
    now = guess(hint(fresh), fresh.round.victim)
    assert (now.right, now.streak) == (1, 0)
    assert hint(now) == now  # too late
    assert onward(now).hinted is False


def test_only_one_guess_counts_and_nothing_goes_on_without_one(fresh: Game) -> None:
    assert onward(fresh) == fresh
    once = guess(fresh, wrong(fresh))
    assert guess(once, fresh.round.victim) == once


def test_the_last_round_ends_the_game(fresh: Game) -> None:
    last = replace(fresh, at=len(fresh.rounds) - 1)
    over = guess(last, last.round.victim)
    assert over.over
    assert not last.over
    assert onward(over) == over


def test_the_text_to_come_is_shown_to_belady_alone_until_the_guess(fresh: Game) -> None:
    assert ("what is to come" in game.board(fresh)) == (fresh.policy == "belady")
    assert "what is to come" in game.board(guess(fresh, fresh.round.victim))


def test_an_expert_that_cannot_leave_is_refused(fresh: Game) -> None:
    with pytest.raises(SettingsError, match="cannot leave now"):
        guess(fresh, 99)


def test_what_cannot_be_played_is_said() -> None:
    with pytest.raises(SettingsError, match="not played against 'fifo'"):
        start(TRACE, "fifo")
    with pytest.raises(SettingsError, match="nothing to guess"):
        start(make_trace([[[0, 1]]] * 6), "lru", slots=2)

"""The game of evictions without a page: a game and a move in, a game out."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator
from dataclasses import replace

import pytest
from conftest import make_trace, random_trace

from moeviz.core.lists import Lists
from moeviz.core.policies import POLICIES, policy
from moeviz.core.replay import replay
from moeviz.core.settings import ITSELF, Settings
from moeviz.errors import SettingsError
from moeviz.files import moetrace
from moeviz.lessons import game
from moeviz.lessons.game import Game, guess, hint, onward, start

NEVER = 10**6  # tokens, of a use that does not come
BY_WORDS = {"fifo", "lru-2", "least-stale", "layer-distance", "arc", "s3-fifo"}  # no number for an expert
QUEUE = """
@policy("queue")
class Queue(Lists):
    def __init__(self, slots):
        super().__init__(slots)
        self.there = []

    def leaves(self, stays):
        one = next((one for one in self.there if one not in stays), -1)
        if one >= 0:
            self.there.remove(one)
        return one

    def came(self, one):
        self.there.append(one)

    def used(self, one, again):
        pass

    def why(self, one):
        return "the first that came"
"""
TRACE = moetrace.load(moetrace.SAMPLES / "change-of-subject.moetrace")[0]


@pytest.fixture(scope="module", params=game.choices(TRACE))
def fresh(request: pytest.FixtureRequest) -> Game:
    return start(TRACE, request.param)


@pytest.fixture(scope="module")
def lru() -> Game:
    return start(TRACE, "lru")


@pytest.fixture
def own() -> Iterator[Callable[[str, str], str]]:
    """Registers a policy of the user's own, of so much Python under a name."""
    made: list[str] = []

    def register(name: str, text: str) -> str:
        scope: dict[str, object] = {}
        exec(text, {"policy": policy, "Lists": Lists}, scope)
        made.append(name)
        return name

    yield register
    for name in made:
        del POLICIES[name]


def wrong(now: Game) -> int:
    return next(one.expert for one in now.round.candidates if one.expert != now.round.victim)


def test_every_round_asks_for_somebody_who_did_leave(fresh: Game) -> None:
    calibration = ITSELF if fresh.policy == "static" else ""
    run = replay(TRACE, Settings(fresh.policy, game.SLOTS, calibration=calibration))
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


def test_every_policy_is_played_and_those_of_the_lesson_are_offered_first() -> None:
    assert game.choices(TRACE)[:4] == ("lru", "lfu", "lfu-resident", "belady")
    assert set(game.choices(TRACE)) == set(POLICIES)
    assert set(POLICIES) - set(game.choices(replace(TRACE, weights=None))) == {"weighted-lfu", "score-ema"}


def test_whoever_follows_the_hint_is_right(fresh: Game) -> None:
    """By its numbers the victim comes first; where there are none it names the victim and one more; where
    lots are drawn it names nobody.
    """
    for number in range(len(fresh.rounds)):
        now = replace(fresh, at=number)
        text, victim = game.hint_text(now), now.round.victim
        named = [int(one) for one in re.findall(r"[Ee]xpert (\d+)", text)]
        if fresh.policy == "random":
            assert "drawn at random. Nobody can know" in text
            assert named == []
        elif "Who leaves: " in text:
            assert fresh.policy in BY_WORDS
            assert f"Who leaves: {now.round.why}. It is expert" in text
            assert victim in named
            assert len(named) == len(set(named)) == 2
        else:
            assert fresh.policy not in BY_WORDS
            assert named == [one.expert for one in now.round.candidates]
            values = {one.expert: value_of(one.measure) for one in now.round.candidates}
            best = (max if fresh.policy in ("lru", "belady") else min)(values.values())
            assert values[victim] == best
            tied = sum(value == best for value in values.values()) > 1
            assert ("Of those that tie the least recently used leaves." in text) <= tied


def value_of(measure: str) -> float:
    """The number in words such as "used 4 times so far"."""
    words = {"never": float(NEVER) if "needed" in measure else 0.0, "once": 1.0, "twice": 2.0}
    if "in this pass" in measure:
        return 0.0
    last = [one for one in measure.split() if one in words or one.replace(".", "", 1).isdigit()][-1]
    return words[last] if last in words else float(last)


def test_the_numbers_of_the_hint_are_those_of_the_text(lru: Game) -> None:
    lfu = start(TRACE, "lfu")
    for now in lru.rounds:
        for one in now.candidates:
            if True in one.history:
                assert value_of(one.measure) == list(reversed(one.history)).index(True) + 1
    for now in lfu.rounds:
        before = [TRACE.experts[tokens, now.layer] for tokens in TRACE.passes()[: now.step]]
        for one in now.candidates:
            assert value_of(one.measure) == sum(one.expert in chosen for chosen in before)


def test_the_rule_is_the_policys_own_text(fresh: Game) -> None:
    told = game.rule(fresh).partition(": ")[2].rstrip(".")
    assert POLICIES[fresh.policy].text.startswith(told)
    assert len(told) > 20


def test_a_policy_of_the_users_own_is_played(own: Callable[[str, str], str]) -> None:
    mru = own("mru", '@policy("mru")\ndef mru(use, now):\n    return -use.last_touch')
    now = start(TRACE, mru)
    assert mru in game.choices(TRACE)
    assert game.rule(now).endswith("mru: whose score is lowest leaves.")
    assert "its score was " in game.hint_text(now)
    queue = own("queue", QUEUE)
    now = start(TRACE, queue)
    assert game.hint_text(now).startswith("Who leaves: the first that came. It is expert ")
    assert "left: the first that came; " in game.said(guess(now, now.round.victim))


def test_a_prompt_that_comes_in_waves_can_be_played() -> None:
    """Its passes need more experts than there are slots."""
    trace = random_trace(3, tokens=60, prompt=40)
    for name in ("lru", "arc", "static"):
        assert game.hint_text(start(trace, name, slots=3))


def test_a_right_guess_lengthens_the_streak_and_a_wrong_one_ends_it(lru: Game) -> None:
    now = onward(guess(lru, lru.round.victim))
    now = onward(guess(now, now.round.victim))
    assert (now.at, now.right, now.streak, now.best, now.guessed) == (2, 2, 2, 2, None)
    lost = guess(now, wrong(now))
    assert (lost.right, lost.streak, lost.best) == (2, 0, 2)
    assert game.said(lost).startswith(f"No, expert {now.round.victim} leaves. ")
    assert lost.round.sentence in game.said(lost)
    assert now.streak == 2  # the game before the move is as it was


def test_a_hint_helps_to_be_right_but_not_to_a_streak(lru: Game) -> None:
    now = guess(hint(lru), lru.round.victim)
    assert (now.right, now.streak) == (1, 0)
    assert hint(now) == now  # too late
    assert onward(now).hinted is False


def test_only_one_guess_counts_and_nothing_goes_on_without_one(lru: Game) -> None:
    assert onward(lru) == lru
    once = guess(lru, wrong(lru))
    assert guess(once, lru.round.victim) == once


def test_the_last_round_ends_the_game(lru: Game) -> None:
    last = replace(lru, at=len(lru.rounds) - 1)
    over = guess(last, last.round.victim)
    assert over.over
    assert not last.over
    assert onward(over) == over


def test_the_question_says_whose_choice_is_guessed(lru: Game) -> None:
    assert "Which expert does LRU drop?" in game.board(lru)


def test_the_text_to_come_is_shown_to_belady_alone_until_the_guess(fresh: Game) -> None:
    assert ("now and to come" in game.board(fresh)) == (fresh.policy == "belady")
    assert "now and to come" in game.board(guess(fresh, fresh.round.victim))


def test_an_expert_that_cannot_leave_is_refused(lru: Game) -> None:
    with pytest.raises(SettingsError, match="cannot leave now"):
        guess(lru, 99)


def test_what_cannot_be_played_is_said() -> None:
    with pytest.raises(SettingsError, match="'nothing' is not known"):
        start(TRACE, "nothing")
    with pytest.raises(SettingsError, match="needs the routers' weights"):
        start(replace(TRACE, weights=None), "score-ema")
    with pytest.raises(SettingsError, match="nothing to guess"):
        start(make_trace([[[0, 1]]] * 6), "lru", slots=2)

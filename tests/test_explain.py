"""Explanations: the sentence is about the victim, the victim had the lowest score that could leave, the
regret is real."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from conftest import make_trace, random_trace
from hypothesis import given
from hypothesis import strategies as st

from moeviz.charts import story
from moeviz.core.policies import POLICIES, load_policy, policy
from moeviz.core.settings import Settings
from moeviz.errors import PolicyError
from moeviz.numbers.explain import Explainer


def only(stream: list[int], policy: str, slots: int) -> Explainer:
    return Explainer(make_trace([[[expert]] for expert in stream]), Settings(policy, slots))


def test_an_eviction_in_words() -> None:
    explainer = only([0, 1, 1, 2, 0, 0, 1], "lfu", 2)
    (eviction,) = explainer.evictions(3, 0)
    assert eviction.sentence == (
        "Expert 0 left: used once so far, no other that could leave was used less; next needed 1 token "
        "later. "
        "Belady would have dropped expert 1."
    )
    assert (eviction.belady, eviction.regret) == ((0, 1), 2)
    assert [(one.expert, one.score, one.status) for one in eviction.residents] == [
        (0, 1, "leaves"),
        (1, 2, "could leave"),
    ]


def test_the_table_of_residents_has_what_the_policy_goes_by() -> None:
    def columns(policy: str) -> dict[str, list[str]]:
        explainer = only([0, 1, 1, 2, 0, 0, 1], policy, 2)
        (eviction,) = explainer.evictions(3, 0)
        found: dict[str, list[str]] = story.residents(explainer, eviction).to_dict("list")
        return found

    assert columns("lfu")["what LFU (counts kept) goes by"] == ["used once so far", "used twice so far"]
    for name in ("lru", "fifo"):  # when it was used last stands there already; there are no words for it
        assert not [one for one in columns(name) if one.startswith("what ")]


def test_whoever_came_for_the_same_event_is_among_those_who_stay() -> None:
    """Also one that took the last free slot a moment ago."""
    trace = make_trace([[[0, 1]], [[2, 3]]])
    (eviction,) = Explainer(trace, Settings(slots=3)).evictions(1, 0)
    assert [(one.expert, one.status) for one in eviction.residents] == [
        (1, "leaves"),
        (0, "could leave"),
        (2, "needed now"),
    ]


def test_where_only_guesses_are_left_any_of_them_could_leave() -> None:
    chosen = [[[0, -1, -1], [0, -1, -1], [0, 1, -1]], [[0, -1, -1], [1, 2, 3], [0, 1, -1]]]
    trace = make_trace(chosen, weights=np.array(chosen) >= 0)
    explainer = Explainer(trace, Settings(slots=3, scope="model", prefetch="previous-token", lookahead=2))
    first, second, third = explainer.evictions(1, 1)
    held = [
        [one.expert for one in each.residents if one.status == "held by a guess"] for each in (first, second)
    ]
    assert held == [[1, 0], []]
    assert [(one.layer, one.expert) for one in second.residents if one.status == "could leave"] == [(2, 0)]
    assert "nothing else could leave" not in second.sentence
    assert "nothing else could leave" in third.sentence


def test_aged_uses_are_told_as_their_sum_of_now() -> None:
    """The policy ranks by a logarithm, which would say nothing to a reader."""
    trace = make_trace([[[expert]] for expert in [0, 0, 0, 1, 2]])
    (eviction,) = Explainer(trace, Settings("lfu-aged", 2, half_life=1)).evictions(4, 0)
    assert [one.expert for one in eviction.residents] == [0, 1]
    assert [one.score for one in eviction.residents] == pytest.approx([7 / 16, 1 / 2])
    assert "its uses, old ones counting less, came to 0.44, the least" in eviction.sentence


@pytest.mark.parametrize("name", POLICIES)
@pytest.mark.parametrize("scope", ["layer", "model"])
@given(seed=st.integers(0, 400))
def test_the_victim_had_the_lowest_score_and_the_regret_is_what_belady_would_have_saved(
    name: str, scope: str, seed: int
) -> None:
    trace = random_trace(seed, tokens=14)
    explainer = Explainer(trace, Settings(name, 5, scope, "next-gate", calibration="itself"))
    found = 0
    for step in range(len(trace.passes())):
        for layer in range(trace.layers):
            for eviction in explainer.evictions(step, layer):
                found += 1
                could = [one for one in eviction.residents if one.status in ("leaves", "could leave")]
                assert eviction.residents[0].status == "leaves"
                assert eviction.residents[0].score == min(one.score for one in could)
                assert (eviction.layer, eviction.expert) == (could[0].layer, could[0].expert)
                assert eviction.sentence.startswith(f"Expert {eviction.expert}")
                later = [one.next_use for one in could]
                best = next(one for one in could if (one.layer, one.expert) == eviction.belady)
                known = [use for use in later if use is not None]
                assert best.next_use is None or (len(known) == len(later) and best.next_use == max(known))
                if name == "belady":
                    assert not eviction.regretted
    assert found == int((explainer.run.loads.victim_expert >= 0).sum())


def test_jumps_go_to_the_next_of_their_kind_and_end() -> None:
    explainer = only([0, 1, 2, 0, 0], "lru", 2)
    assert explainer.next_event("miss", 0, 0) == (1, 0)
    assert explainer.next_event("eviction", 0, 0) == (2, 0)
    assert explainer.next_event("regret", 0, 0) == (2, 0)  # 0 left although 1 is never needed again
    assert explainer.next_event("collision", 0, 0) is None
    assert explainer.next_event("miss", 4, 0) is None


def test_a_policy_of_ones_own_is_explained_by_its_score() -> None:
    policy("mine.py:mru")(lambda use, now: -use.last_touch)
    try:
        (eviction,) = only([0, 1, 2], "mine.py:mru", 2).evictions(2, 0)
    finally:
        del POLICIES["mine.py:mru"]
    assert "its score was -" in eviction.sentence


def test_a_policy_that_decides_otherwise_when_it_is_asked_again_is_told(tmp_path: Path) -> None:
    (tmp_path / "mine.py").write_text(
        "from itertools import count\nasked = count()\n"
        "def f(use, now): return use.last_touch * (-1) ** next(asked)\n"
    )
    explainer = Explainer(random_trace(3), Settings(load_policy(f"{tmp_path / 'mine.py'}:f"), 4))
    said = r"^policy 'mine\.py:f' decided otherwise when it was asked again\."
    with pytest.raises(PolicyError, match=said):
        explainer.evictions(8, 0)

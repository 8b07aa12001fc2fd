"""The event rule, told by small examples."""

import pytest

from moeviz.core.cache import NOBODY, Choice, ExpertCache
from moeviz.core.predictors import RouterGuess
from moeviz.core.settings import Settings
from moeviz.errors import SettingsError


def cache(slots: int = 2, layers: int = 1, experts: int = 8, k: int = 2, **fields: object) -> ExpertCache:
    return ExpertCache(Settings(slots=slots, **fields), layers, experts, k)  # type: ignore[arg-type]


def use(
    c: ExpertCache, *experts: int, layer: int = 0, weights: list[float] | None = None
) -> tuple[list[int], list[tuple[int, int]]]:
    """One token's event: (hits, loads as (expert, victim))."""
    c.begin_pass(1, 1)
    waves = c.demand(layer, [list(experts)], [weights or [1.0 - i / 10 for i in range(len(experts))]])
    return [e for wave in waves for e in wave.hits], [
        (load.expert, load.victim[1]) for wave in waves for load in wave.loads
    ]


def test_misses_take_free_slots_strongest_first() -> None:
    assert use(cache(), 5, 3) == ([], [(5, -1), (3, -1)])


def test_no_member_of_an_event_is_evicted_to_admit_another() -> None:
    c = cache(slots=2)
    use(c, 0, 1)
    assert use(c, 1, 2) == (
        [1],
        [(2, 0)],
    )  # 0 is the strongest's older neighbour, 1 is pinned although lru would drop it


def test_the_strongest_expert_is_touched_last() -> None:
    c = cache(slots=2, k=2)
    use(c, 0, 1)
    assert use(c, 2, 0)[1] == [(2, 1)]
    c = cache(slots=3, k=2)
    use(c, 0, 1)  # 0 the stronger: 1 is the least recently used
    use(c, 2)
    assert use(c, 3)[1] == [(3, 1)]


def test_an_expert_that_several_tokens_need_counts_once_with_its_largest_weight() -> None:
    c = cache(slots=3)
    c.begin_pass(1, 3)
    waves = c.demand(0, [[0, 1], [2, 0]], [[0.3, 0.2], [0.9, 0.1]])
    assert [load.expert for load in waves[0].loads] == [2, 0, 1]
    assert sum(len(wave.loads) for wave in waves) == 3


def test_equal_weights_leave_the_router_its_order() -> None:
    assert [load for load, _ in use(cache(), 6, 2, weights=[0.5, 0.5])[1]] == [6, 2]


def test_an_event_larger_than_the_slots_is_served_in_waves_residents_first_then_by_id() -> None:
    c = cache(slots=2)
    use(c, 6, 7)
    c.begin_pass(1, 3)
    waves = c.demand(0, [[6, 1], [0, 7], [5, 6]], [[0.5, 0.5]] * 3)
    assert [sorted(wave.slots) for wave in waves] == [[6, 7], [0, 1], [5]]
    assert sorted(waves[0].hits) == [6, 7]
    assert all(len(wave.slots) <= 2 for wave in waves)
    assert waves[2].loads[0].victim in {(0, 0), (0, 1)}


def test_layers_own_their_slots_or_share_them() -> None:
    own = cache(slots=2, layers=2)
    use(own, 0, 1, layer=0)
    assert use(own, 0, 1, layer=1)[1] == [(0, -1), (1, -1)]
    assert own.residents(0) == own.residents(1) == [0, 1]
    shared = cache(slots=2, layers=2, scope="model")
    use(shared, 0, 1, layer=0)
    use(shared, 4, 5, layer=1)
    assert shared.residents(0) == []
    assert shared.residents(1) == [4, 5]


def test_a_guess_is_admitted_and_held_until_its_event() -> None:
    c = cache(slots=4, layers=2, scope="model", prefetch="next-gate")
    use(c, 0, 1, layer=0)
    loads = c.speculate(0, RouterGuess([[6, 7]]))
    assert [(load.layer, load.expert, load.victim) for load in loads] == [(1, 6, NOBODY), (1, 7, NOBODY)]
    assert c.recorder.columns["events.dropped"] == [0]
    assert c.unused(1) == [6, 7]
    hits, loaded = use(c, 6, 2, layer=1)
    assert hits == [6]
    assert loaded == [(2, 1)]  # 7 was guessed wrongly, but 1 is the least recently used
    assert c.unused(1) == [7]


def test_a_guess_never_evicts_what_the_event_pinned_and_is_dropped_when_all_is_held() -> None:
    c = cache(slots=2, layers=2, scope="model", prefetch="next-gate")
    use(c, 0, 1, layer=0)
    assert c.speculate(0, RouterGuess([[3, 4]])) == []
    assert c.recorder.columns["events.dropped"] == [2]
    assert c.residents(0) == [0, 1]


def test_a_wrong_guess_does_not_block_its_own_event() -> None:
    c = cache(slots=2, layers=2, prefetch="next-gate")
    use(c, 0, 1, layer=0)
    c.speculate(0, RouterGuess([[3, 4]]))
    hits, loads = use(c, 5, 6, layer=1)
    assert hits == []
    assert {victim for _, victim in loads} == {3, 4}


def test_the_first_use_of_a_prefetched_expert_names_its_load() -> None:
    c = cache(slots=3, layers=2, prefetch="next-gate")
    use(c, 0, 1, layer=0)
    load, *_ = c.speculate(0, RouterGuess([[3, 4]]))
    assert not c.recorder.columns["loads.used"][load.index]
    use(c, 3, 5, layer=1)
    assert c.recorder.columns["loads.used"][load.index]
    assert c.recorder.take()["used"] == [load.index]
    use(c, 3, 5, layer=1)
    assert c.recorder.take()["used"] == []


def test_previous_token_guesses_what_the_layer_used_last() -> None:
    c = cache(slots=4, layers=2, prefetch="previous-token")
    use(c, 0, 1, layer=0)
    assert c.speculate(0) == []  # there is no token before
    use(c, 2, 3, layer=1)
    use(c, 4, 5, layer=1)
    use(c, 6, 7, layer=1)
    use(c, 0, 1, layer=0)
    assert c.speculate(0) == []  # 6 and 7 are resident already
    assert c.speculate(1) == []  # the last layer has none to come


def test_on_demand_keeps_nothing_and_whole_layer_copies_everything() -> None:
    c = cache(baseline="on-demand")
    assert use(c, 0, 1) == ([], [(0, -1), (1, -1)])
    assert use(c, 0, 1) == ([], [(0, -1), (1, -1)])
    c = cache(baseline="whole-layer", experts=4)
    assert [expert for expert, _ in use(c, 2, 1)[1]] == [2, 1, 0, 3]


def test_resident_always_hits() -> None:
    c = cache(baseline="resident", layers=2)
    assert use(c, 7, 3, layer=1) == ([7, 3], [])


def test_who_asks_is_told_how_a_victim_is_chosen() -> None:
    c, told = cache(slots=3, policy="lfu"), list[Choice]()
    c.tell_choices(told)
    use(c, 0, 1)
    use(c, 1, 2)
    use(c, 1, 3)
    assert [(one.victim, one.load, list(one.pinned), list(one.held)) for one in told] == [(0, 3, [1, 3], [])]
    assert dict(zip(told[0].residents.tolist(), told[0].scores.tolist(), strict=True)) == {0: 1, 1: 2, 2: 1}


@pytest.mark.parametrize(("slots", "words"), [(1, "too few"), (9, "more than")])
def test_slots_that_do_not_fit_are_refused_with_the_way_out(slots: int, words: str) -> None:
    with pytest.raises(SettingsError, match=f"{words}.*Choose 2 to 8"):
        cache(slots=slots)

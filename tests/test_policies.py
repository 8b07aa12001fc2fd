"""One conformance class for all policies, an oracle of its own for each that has one."""

from collections.abc import Container, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import cachetools
import numpy as np
import pytest
from conftest import check_books, make_trace, random_trace
from hypothesis import given, settings
from hypothesis import strategies as st

import moeviz.core.policies
from moeviz.core.lists import Arc, Lists, S3Fifo
from moeviz.core.policies import POLICIES, load_policy, policy
from moeviz.core.predictors import PREDICTORS
from moeviz.core.replay import replay
from moeviz.core.run import HIT, MISS, Run
from moeviz.core.settings import WARM, Settings
from moeviz.core.trace import Trace
from moeviz.core.use import Moment, Use
from moeviz.errors import PolicyError, SettingsError
from moeviz.numbers.curves import curve
from moeviz.numbers.explain import Explainer

REGISTERS = "from moeviz.policies import policy\n"
requests = st.lists(st.integers(0, 7), min_size=1, max_size=120)


def hits(trace: Trace, policy: str, slots: int, **fields: object) -> int:
    settings = Settings(policy, slots, calibration="itself", **fields)  # type: ignore[arg-type]
    return int((replay(trace, settings).accesses.outcome == HIT).sum())


@pytest.mark.parametrize("policy", POLICIES)
class TestEveryPolicy:
    def test_with_slots_for_one_token_it_hits_what_consecutive_tokens_share(self, policy: str) -> None:
        trace = random_trace(1, prompt=1)
        shared = sum(
            len(set(now) & set(before))
            for layer in range(trace.layers)
            for before, now in zip(
                trace.experts[:-1, layer].tolist(), trace.experts[1:, layer].tolist(), strict=True
            )
        )
        assert hits(trace, policy, slots=trace.k) == shared

    def test_with_slots_for_all_it_misses_each_expert_once(self, policy: str) -> None:
        run = replay(random_trace(2), Settings(policy, slots=8, calibration="itself"))
        missed = [
            (int(run.events.layer[event]), int(expert))
            for event, expert, outcome in zip(
                run.accesses.event, run.accesses.expert, run.accesses.outcome, strict=True
            )
            if outcome == MISS
        ]
        assert len(missed) == len(set(missed))
        assert (run.loads.victim_expert == -1).all()

    def test_no_policy_beats_belady(self, policy: str) -> None:
        for seed in range(6):
            trace = random_trace(seed, tokens=60, prompt=1)
            for slots in range(2, 9):
                assert hits(trace, policy, slots) <= hits(trace, "belady", slots)

    @pytest.mark.parametrize("scope", ["layer", "model"])
    def test_books_balance(self, policy: str, scope: str) -> None:
        """With every predictor; every warm start meets every policy, and every predictor with some policy."""
        first = list(POLICIES).index(policy)
        for number, prefetch in enumerate(PREDICTORS):
            warm = list(WARM)[(first + number) % len(WARM)]
            for seed in range(2):
                trace = random_trace(seed)
                run = replay(
                    trace,
                    Settings(policy, 5, scope, prefetch, lookahead=1 + seed, warm=warm, calibration="itself"),
                )
                check_books(trace, run)

    def test_is_deterministic(self, policy: str) -> None:
        trace = random_trace(5)
        settings = Settings(policy, 3, prefetch="next-gate", seed=9, calibration="itself")
        assert replay(trace, settings).same_decisions(replay(trace, settings))


@given(requests, st.integers(1, 7))
def test_lru_equals_cachetools(stream: list[int], slots: int) -> None:
    assert one_by_one(stream, "lru", slots) == oracle(cachetools.LRUCache(slots), stream)


@given(requests, st.integers(1, 7))
def test_lfu_resident_equals_cachetools(stream: list[int], slots: int) -> None:
    assert one_by_one(stream, "lfu-resident", slots) == oracle(cachetools.LFUCache(slots), stream)


@given(requests, st.integers(1, 7))
def test_fifo_equals_cachetools(stream: list[int], slots: int) -> None:
    assert one_by_one(stream, "fifo", slots) == oracle(cachetools.FIFOCache(slots), stream)


def one_by_one(stream: list[int], policy: str, slots: int) -> list[bool]:
    trace = make_trace([[[expert]] for expert in stream])
    return (replay(trace, Settings(policy, slots)).accesses.outcome == HIT).tolist()


def oracle(cache: cachetools.Cache, stream: list[int]) -> list[bool]:
    outcomes = []
    for expert in stream:
        outcomes.append(expert in cache)
        if expert in cache:
            cache[expert]
        else:
            cache[expert] = True
    return outcomes


events_of_three = st.lists(
    st.lists(st.integers(0, 9), min_size=3, max_size=3, unique=True), min_size=1, max_size=40
)


@given(requests, st.integers(1, 7))
def test_arc_equals_its_paper(stream: list[int], slots: int) -> None:
    assert one_by_one(stream, "arc", slots) == arc_of_the_paper([[one] for one in stream], slots)


@given(events_of_three, st.integers(3, 9))
def test_arc_equals_its_paper_where_members_of_an_event_are_pinned(
    events: list[list[int]], slots: int
) -> None:
    assert together(events, "arc", slots) == arc_of_the_paper(events, slots)


@given(requests, st.integers(1, 7))
def test_s3_fifo_equals_its_paper(stream: list[int], slots: int) -> None:
    assert one_by_one(stream, "s3-fifo", slots) == s3_fifo_of_the_paper([[one] for one in stream], slots)


@given(events_of_three, st.integers(3, 9))
def test_s3_fifo_equals_its_paper_where_members_of_an_event_are_pinned(
    events: list[list[int]], slots: int
) -> None:
    assert together(events, "s3-fifo", slots) == s3_fifo_of_the_paper(events, slots)


@given(events_of_three, st.integers(3, 9))
def test_co_activation_is_what_it_says(events: list[list[int]], slots: int) -> None:
    assert together(events, "co-activation", slots) == co_activation_in_pairs(events, slots)


@given(requests, st.integers(1, 7))
def test_co_activation_of_experts_that_come_alone_is_lru(stream: list[int], slots: int) -> None:
    assert one_by_one(stream, "co-activation", slots) == one_by_one(stream, "lru", slots)


@pytest.mark.parametrize("name", ["arc", "s3-fifo"])
@given(events=events_of_three, slots=st.integers(1, 9))
def test_lists_serve_one_by_one_as_requests_of_one(name: str, events: list[list[int]], slots: int) -> None:
    trace = make_trace([[event] for event in events], experts=10)
    run = replay(trace, Settings(name, slots, rule="one-by-one"))
    found = {(at, expert): outcome == HIT for at, expert, outcome in zip(*in_order(run), strict=True)}
    stream = [expert for event in events for expert in event]
    model = arc_of_the_paper if name == "arc" else s3_fifo_of_the_paper
    wanted = model([[one] for one in stream], slots)
    assert [found[at, expert] for at, event in enumerate(events) for expert in event] == wanted


def in_order(run: Run) -> tuple[list[int], list[int], list[int]]:
    return run.accesses.event.tolist(), run.accesses.expert.tolist(), run.accesses.outcome.tolist()


def together(events: list[list[int]], policy: str, slots: int) -> list[bool]:
    """Which members of each event hit, strongest first."""
    run = replay(make_trace([[event] for event in events], experts=10), Settings(policy, slots))
    found = {(at, expert): outcome == HIT for at, expert, outcome in zip(*in_order(run), strict=True)}
    return [found[at, expert] for at, event in enumerate(events) for expert in event]


def arc_of_the_paper(events: list[list[int]], c: int) -> list[bool]:
    """Megiddo and Modha's figure 4 in lists, least recently used first; of an event everyone is looked up,
    then who is missing comes, then all are used, the strongest last. Members of the event do not leave."""
    t1: list[int] = []
    t2: list[int] = []
    b1: list[int] = []
    b2: list[int] = []
    p, outcomes = 0.0, []

    def give_way(x: int, p: float, event: list[int]) -> None:
        first = bool(t1) and (len(t1) > p or (x in b2 and len(t1) == p))
        for t, b in ((t1, b1), (t2, b2)) if first else ((t2, b2), (t1, b1)):
            could = [one for one in t if one not in event]
            if could:
                t.remove(could[0])
                b.append(could[0])
                return

    for event in events:
        missing = [x for x in event if x not in t1 + t2]
        outcomes += [x not in missing for x in event]
        for x in missing:
            full = len(t1) + len(t2) == c
            if x in b1 or x in b2:
                if x in b1:
                    p = min(c, p + max(len(b2) / len(b1), 1))
                else:
                    p = max(0, p - max(len(b1) / len(b2), 1))
                if full:
                    give_way(x, p, event)
                (b1 if x in b1 else b2).remove(x)
                t2.append(x)
                continue
            if len(t1) + len(b1) == c:
                if len(t1) < c:
                    b1.pop(0)
                    give_way(x, p, event)
                else:
                    t1.remove(next(one for one in t1 if one not in event))
            elif len(t1) + len(t2) + len(b1) + len(b2) >= c:
                if len(t1) + len(t2) + len(b1) + len(b2) == 2 * c:
                    b2.pop(0)
                give_way(x, p, event)
            t1.append(x)
        for x in reversed(event):
            if x in missing:
                own = t1 if x in t1 else t2
                own.remove(x)
                own.append(x)
            else:
                (t1 if x in t1 else t2).remove(x)
                t2.append(x)
    return outcomes


def co_activation_in_pairs(events: list[list[int]], slots: int) -> list[bool]:
    """Counts anew at each miss in how many events so far each resident stood with those needed now."""
    residents: list[int] = []  # least recently used first
    outcomes = []
    for at, event in enumerate(events):
        before = list(residents)
        outcomes += [one in before for one in event]
        for one in event:
            if one in before:
                continue
            if len(residents) == slots:
                could = [who for who in residents if who not in event]
                pairs = {
                    who: sum(who in past and need in past for past in events[:at] for need in event)
                    for who in could
                }
                residents.remove(min(could, key=lambda who: pairs[who]))
            residents.append(one)
        for one in reversed(event):
            residents.remove(one)
            residents.append(one)
    return outcomes


def s3_fifo_of_the_paper(events: list[list[int]], c: int) -> list[bool]:
    """Algorithm 1 of Yang et al. in lists, the tail first, one eviction for each that comes, as their
    libCacheSim does; members of the event are passed over."""
    small: list[int] = []
    main: list[int] = []
    ghost: list[int] = []
    freq: dict[int, int] = {}
    outcomes = []

    def evict(event: list[int]) -> None:
        while True:
            of_small = [one for one in small if one not in event]
            of_main = [one for one in main if one not in event]
            if of_small and (len(small) >= 0.1 * c or not of_main):
                tail = of_small[0]
                small.remove(tail)
                if freq[tail] > 1:
                    main.append(tail)
                    freq[tail] = 0
                    continue
                ghost.append(tail)
                del ghost[: max(len(ghost) - int(0.9 * c), 0)]
                return
            tail = of_main[0]
            main.remove(tail)
            if freq[tail] == 0:
                return
            main.append(tail)
            freq[tail] -= 1

    for event in events:
        missing = [x for x in event if x not in small + main]
        outcomes += [x not in missing for x in event]
        for x in missing:
            known = x in ghost
            if known:
                ghost.remove(x)
            if len(small) + len(main) == c:
                evict(event)
            (main if known else small).append(x)
            freq[x] = 0
        for x in event:
            freq[x] = min(freq[x] + (x not in missing), 3)
    return outcomes


def test_arc_keeps_what_is_used_again_through_a_scan() -> None:
    """Lru would have dropped both for the experts that pass by once."""
    stream = [0, 1, 0, 1, 2, 3, 4, 5, 0, 1]
    assert one_by_one(stream, "arc", 4)[-2:] == [True, True]
    assert one_by_one(stream, "lru", 4)[-2:] == [False, False]


def test_lists_of_a_users_own_decide_and_say_why(tmp_path: Path) -> None:
    """Last in, first out, in a file; live pools as many at once, explained in its own words."""
    file = tmp_path / "lifo.py"
    file.write_text(
        "from moeviz.policies import Lists, policy\n"
        '@policy("lifo")\n'
        "class Lifo(Lists):\n"
        '    "Last in, first out."\n'
        "    def __init__(self, slots):\n        self.there = []\n"
        "    def came(self, one):\n        self.there.append(one)\n"
        "    def used(self, one, again):\n        pass\n"
        "    def leaves(self, stays):\n"
        "        found = next((one for one in reversed(self.there) if one not in stays), -1)\n"
        "        if found >= 0:\n            self.there.remove(found)\n"
        "        return found\n"
        "    def why(self, one):\n        return 'it came last'\n"
    )
    name = load_policy(f"{file}:lifo")
    try:
        assert POLICIES[name].text == "Last in, first out."
        explainer = Explainer(make_trace([[[0]], [[1]], [[2]]]), Settings(name, 2))
        (eviction,) = explainer.evictions(2, 0)
        assert eviction.sentence.startswith("Expert 1 left: it came last; never needed again")
        assert [(one.expert, one.score) for one in eviction.residents] == [(1, 0), (0, 1)]
    finally:
        del POLICIES[name]


@pytest.mark.parametrize(
    ("body", "said"),
    [
        ("    pass\n", "NotImplementedError"),
        (
            "    def came(self, one): pass\n    def used(self, one, again): pass\n"
            "    def why(self, one): return ''\n    def leaves(self, stays): return 7\n",
            "who leaves is 7 and then 7, not 0 and -1",
        ),
    ],
)
def test_lists_that_do_not_work_are_refused(tmp_path: Path, body: str, said: str) -> None:
    file = tmp_path / "own.py"
    file.write_text(f"from moeviz.policies import Lists, policy\n@policy('own')\nclass Own(Lists):\n{body}")
    with pytest.raises(PolicyError, match=said):
        load_policy(f"{file}:own")


def test_lists_that_name_who_has_to_stay_end_in_a_sentence() -> None:
    class Stubborn(Lists):
        """Drops whoever came first, needed or not."""

        def __init__(self, slots: int) -> None:
            super().__init__(slots)
            self.there: list[int] = []

        def came(self, one: int) -> None:
            self.there.append(one)

        def used(self, one: int, again: bool) -> None:
            """Does not count."""

        def leaves(self, stays: Container[int]) -> int:
            return self.there.pop(0) if self.there else -1

        def why(self, one: int) -> str:
            return "it came first"

    trace = make_trace([[[0, 1]], [[0, 2]], [[3, 4]]])
    policy("stubborn")(Stubborn)
    try:
        with pytest.raises(PolicyError, match="lets nobody leave, or somebody who is not resident or has to"):
            replay(trace, Settings("stubborn", 2))
        with pytest.raises(PolicyError, match="Let its leaves"):
            curve(trace, Settings("stubborn", 2), [2])
    finally:
        del POLICIES["stubborn"]


@pytest.mark.parametrize("victim", [10**6, None, "x", 5])
def test_a_wrong_victim_is_refused_in_words(victim: object) -> None:
    class Wrong(Lists):
        """Lets somebody leave who is not there."""

        def came(self, one: int) -> None:
            self.there = [0]

        def used(self, one: int, again: bool) -> None:
            """Does not matter."""

        def leaves(self, stays: Container[int]) -> int:
            if self.slots > 1:
                return victim  # type: ignore[return-value]
            return self.there.pop() if self.there else -1  # right while it is tried

        def why(self, one: int) -> str:
            return "nobody knows"

    policy("wrong")(Wrong)
    try:
        with pytest.raises(PolicyError, match="somebody who is not resident"):
            replay(make_trace([[[0, 1]], [[0, 2]], [[3, 4]]]), Settings("wrong", 2))
    finally:
        del POLICIES["wrong"]


@pytest.mark.parametrize("more", [{"prefetch": "oracle"}, {"warm": "first"}, {}])
def test_lists_are_told_of_everybody_who_comes_before_they_come(more: dict[str, str]) -> None:
    class Careful(Lists):
        """First in, first out; it expects to be asked for whoever comes."""

        def __init__(self, slots: int) -> None:
            super().__init__(slots)
            self.there: list[int] = []
            self.coming = -1

        def missed(self, one: int) -> None:
            self.coming = one

        def came(self, one: int) -> None:
            assert self.coming == one
            self.there.append(one)

        def used(self, one: int, again: bool) -> None:
            assert one in self.there

        def leaves(self, stays: Container[int]) -> int:
            one = next((one for one in self.there if one not in stays), -1)
            if one >= 0:
                self.there.remove(one)
            return one

        def why(self, one: int) -> str:
            return "it came first"

    trace = random_trace(3)
    policy("careful")(Careful)
    try:
        run = replay(trace, Settings("careful", 4, **more))  # type: ignore[arg-type]
        assert run.same_decisions(replay(trace, Settings("fifo", 4, **more)))  # type: ignore[arg-type]
    finally:
        del POLICIES["careful"]


def test_lists_have_no_score_and_count_no_bytes() -> None:
    with pytest.raises(PolicyError, match="has no score for an expert by itself"):
        POLICIES["arc"].score(Use(0, 0), Moment(0, 1, 64))
    trace = replace(make_trace([[[0], [1]]] * 3), expert_bytes=(100, 200))
    with pytest.raises(SettingsError, match="'arc' counts experts, not bytes"):
        replay(trace, Settings("arc", scope="model", budget=400))
    assert replay(trace, Settings("arc", budget=800)).room.limits == (4, 2)


def test_an_eviction_of_arc_in_words() -> None:
    trace = make_trace([[[expert]] for expert in (0, 0, 1, 2)])
    (eviction,) = Explainer(trace, Settings("arc", 2)).evictions(3, 0)
    assert eviction.sentence.startswith(
        "Expert 1 left: last used longest ago of those used once that could leave, as of 2 slots those used "
        "once hold 1, and 0 are meant for them; never needed again"
    )


def test_an_eviction_of_co_activation_in_words() -> None:
    trace = make_trace([[event] for event in ([0, 1], [2, 0], [3, 1])], experts=4)
    (eviction,) = Explainer(trace, Settings("co-activation", 3)).evictions(2, 0)
    assert eviction.sentence.startswith(
        "Expert 2 left: chosen 0 times in the company of those needed here, the fewest times of all that "
    )
    (eviction,) = Explainer(trace, Settings("lru", 3)).evictions(2, 0)
    assert eviction.sentence.startswith("Expert 0 left: ")


@pytest.mark.parametrize("idle", [0, 1, 3])
def test_a_guess_keeps_the_company_of_its_layers_latest_event(idle: int) -> None:
    """However many tokens needed nobody there since: 3 was never needed beside 0 or 1, as 2 was."""
    there = [[0, 2], [3, -1], [0, 1], *[[-1, -1]] * idle, [4, -1]]
    chosen = np.array([[[0, -1], own] for own in there])
    trace = make_trace(chosen.tolist(), weights=chosen >= 0)
    run = replay(trace, Settings("co-activation", 4, prefetch="oracle"))
    assert (run.loads.expert[-1], run.loads.speculative[-1], run.loads.victim_expert[-1]) == (4, True, 3)
    run = replay(trace, Settings("lru", 4, prefetch="oracle"))
    assert run.loads.victim_expert[-1] == 2


@pytest.mark.parametrize("policy", [name for name, one in POLICIES.items() if one.stack])
@settings(max_examples=20)
@given(seed=st.integers(0, 10_000))
def test_stack_algorithms_never_lose_hits_by_more_slots(policy: str, seed: int) -> None:
    trace = random_trace(seed, tokens=30, layers=1, prompt=1)
    found = [hits(trace, policy, slots) for slots in range(2, 9)]
    assert found == sorted(found)


def test_lfu_resident_can_lose_hits_by_more_slots() -> None:
    trace = make_trace([[[expert]] for expert in (2, 1, 2, 3, 1, 3, 0, 2, 0, 2)], experts=4)
    assert [hits(trace, "lfu-resident", slots) for slots in (1, 2, 3, 4)] == [0, 4, 3, 6]


def test_the_two_flavours_of_lfu_differ() -> None:
    """Counts kept protect an old favourite when it comes back; counts lost start it from nothing."""
    stream = [0, 1, 0, 1, 2, 0, 2, 0]
    assert one_by_one(stream, "lfu", 2) != one_by_one(stream, "lfu-resident", 2)


def test_random_depends_on_its_seed_alone() -> None:
    trace = random_trace(3, tokens=80)
    found = {seed: hits(trace, "random", 3, seed=seed) for seed in range(6)}
    assert len(set(found.values())) > 1
    assert found == {seed: hits(trace, "random", 3, seed=seed) for seed in range(6)}


def test_random_is_uniform() -> None:
    """Each of four residents leaves about equally often."""

    def leaves(touches: int) -> int:
        now = Moment(seed=0, layers=1, half_life=64, touches=touches)
        return min(range(4), key=lambda expert: POLICIES["random"].score(Use(0, expert, key=expert), now))

    assert np.bincount([leaves(touches) for touches in range(4_000)]).min() > 850


def test_lfu_aged_forgets() -> None:
    """Expert 0 was used often, long ago; 1 less often, just now."""
    stream = [0] * 6 + [1] * 4 + [2]
    trace = make_trace([[[expert]] for expert in stream])

    def victim(half_life: int, policy: str = "lfu-aged") -> int:
        return int(replay(trace, Settings(policy, 2, half_life=half_life)).loads.victim_expert[-1])

    assert victim(1) == 0
    assert victim(10_000) == victim(1, "lfu") == 1


def test_lfru_weighs_frequency_against_age() -> None:
    # at the end: 0 was touched 4 times, last 5 touches ago: 4 / 6; 1 twice, last 4 ago: 2 / 5; 2 three
    # times, just now: 3 / 1
    stream = [0, 0, 0, 0, 1, 1, 2, 2, 2, 3]
    run = replay(make_trace([[[expert]] for expert in stream]), Settings("lfru", 3))
    assert run.loads.victim_expert.tolist()[-1] == 1


def test_score_ema_keeps_what_the_router_weighed_most() -> None:
    trace = make_trace([[[0]], [[1]], [[2]]], weights=[[[0.9]], [[0.2]], [[0.5]]])
    assert replay(trace, Settings("score-ema", 2)).loads.victim_expert.tolist()[-1] == 1


def test_lru_2_lets_go_of_what_was_used_once() -> None:
    # 1 was used later than 0, but once only; then 0's last but one use lies further back than 1's
    stream = [0, 0, 1, 2, 1, 1, 3]
    run = replay(make_trace([[[expert]] for expert in stream]), Settings("lru-2", 2))
    assert run.loads.victim_expert.tolist() == [-1, -1, 1, 2, 0]


@given(requests, st.integers(1, 7))
def test_lfuda_equals_a_simulation_by_its_paper(stream: list[int], slots: int) -> None:
    assert one_by_one(stream, "lfuda", slots) == lfuda_of_the_paper(stream, slots)


def lfuda_of_the_paper(stream: list[int], slots: int) -> list[bool]:
    """Key = count + age at its last use; the lowest key leaves, of equal ones the least recently used, and
    is the new age."""
    age, outcomes = 0, []
    count: dict[int, int] = {}
    key: dict[int, tuple[int, int]] = {}  # (key, time of the last use)
    for time, expert in enumerate(stream):
        outcomes.append(expert in key)
        if expert not in key:
            if len(key) == slots:
                leaving = min(key, key=lambda one: key[one])
                age = key.pop(leaving)[0]
            count[expert] = 0
        count[expert] += 1
        key[expert] = (count[expert] + age, time)
    return outcomes


def test_weighted_lfu_counts_a_strong_choice_for_more() -> None:
    trace = make_trace([[[0]], [[0]], [[1]], [[2]]], weights=[[[0.2]], [[0.2]], [[0.9]], [[0.5]]])
    assert replay(trace, Settings("weighted-lfu", 2)).loads.victim_expert.tolist()[-1] == 0
    assert replay(trace, Settings("lfu", 2)).loads.victim_expert.tolist()[-1] == 1


def test_layer_distance_drops_whose_layer_comes_round_last() -> None:
    # one expert per event, 3 layers, 3 slots in all: at layer 1 of the second token, layer 0 has just passed
    trace = make_trace([[[0], [0], [0]], [[0], [1], [0]]])
    run = replay(trace, Settings("layer-distance", 3, "model"))
    assert list(zip(run.loads.victim_layer.tolist(), run.loads.victim_expert.tolist(), strict=True))[-1] == (
        0,
        0,
    )


def test_least_stale_drops_what_this_pass_did_not_touch_and_has_passed() -> None:
    # at layer 1 of the second token 0/5 is touched, 0/0 is not and has passed, 2/0 is not and is to come
    trace = make_trace([[[0], [0], [0]], [[5], [1], [0]]])
    run = replay(trace, Settings("least-stale", 4, "model"))
    assert list(zip(run.loads.victim_layer.tolist(), run.loads.victim_expert.tolist(), strict=True))[-1] == (
        0,
        0,
    )


@pytest.mark.parametrize("policy", ["least-stale", "layer-distance"])
def test_policies_of_the_whole_model_are_lru_within_a_layer(policy: str) -> None:
    trace = random_trace(8, tokens=60)
    assert replay(trace, Settings(policy, 4)).same_decisions(replay(trace, Settings("lru", 4)))


def test_static_never_adapts() -> None:
    calibration = make_trace([[[expert]] for expert in (3, 3, 3, 2, 2, 1)])
    trace = make_trace([[[expert]] for expert in (3, 2, 0, 0, 0, 1, 0)])
    run = replay(trace, Settings("static", 2, calibration="past"), find=lambda name: calibration)
    assert run.loads.victim_expert.tolist() == [-1, -1, 2, 0, 1]


def test_belady_equals_an_ordinary_simulator_fed_every_set_twice() -> None:
    """Twice, so that a member just admitted is needed again at once and cannot leave for another member."""
    for seed in range(20):
        trace = random_trace(seed, tokens=50, layers=1, k=3, prompt=1)
        for slots in range(3, 9):
            stream = [expert for row in trace.experts[:, 0].tolist() for _ in range(2) for expert in row]
            assert hits(trace, "belady", slots) + trace.experts.size == ordinary_belady(stream, slots)


def ordinary_belady(stream: list[int], slots: int) -> int:
    """Hits of the textbook algorithm, one request at a time."""
    found, cache = 0, set()
    for at, expert in enumerate(stream):
        if expert in cache:
            found += 1
            continue
        if len(cache) == slots:
            rest = stream[at + 1 :]
            cache.remove(max(cache, key=lambda e: rest.index(e) if e in rest else len(rest)))
        cache.add(expert)
    return found


def test_below_one_tokens_needs_lru_hits_nothing_and_belady_does() -> None:
    """Scope model: layers x k = 6 experts of each token in a loop, 4 slots."""
    trace = make_trace([[[0, 1], [2, 3], [4, 5]]] * 20)
    assert hits(trace, "lru", 4, scope="model") == 0
    assert hits(trace, "belady", 4, scope="model") >= trace.experts.size / 3 - 4


@pytest.fixture(autouse=True)
def _policies_as_they_were() -> Iterator[None]:
    before = dict(POLICIES)
    yield
    POLICIES.clear()
    POLICIES.update(before)


def test_a_policy_of_ones_own(tmp_path: Path) -> None:
    path = tmp_path / "mine.py"
    path.write_text(str(moeviz.core.policies.__doc__).split("asked for:\n")[1].replace("\n    ", "\n"))
    name = load_policy(f"{path}:mru")
    assert "mru" not in POLICIES
    trace = make_trace([[[expert]] for expert in (0, 1, 2)])
    assert replay(trace, Settings(name, 2)).loads.victim_expert.tolist()[-1] == 1


@pytest.mark.parametrize(
    ("content", "function", "words"),
    [
        (None, "f", "there is no file"),
        ("1 / 0", "f", "does not run: ZeroDivisionError"),
        (
            "from moeviz import policy\n@policy('first', needs={'luck'})\ndef a(use, now): return 1\n"
            "@policy('f')\ndef f(use, now): return 1",
            "f",
            "mine.py does not run: policy 'first' needs luck",
        ),
        ("raise SystemExit(3)", "f", "does not run: SystemExit: 3"),
        ("x = 1", "f", "registers no policy 'f'"),
        ("def f(use, now): return max(use.touches, 1)", "f", "does not work on arrays.*np.maximum"),
        ("def f(use): return -use.last_touch", "f", r"'mine\.py:f' is no function of two.*def f\(use, now\)"),
        ("def f(use, now): -use.last_touch", "f", "gives None where a score is wanted.*return a number"),
        ("def f(use, now): return float('nan')", "f", "gives nan where a score is wanted"),
        ("def f(use, now): return use.toches", "f", "there is no 'toches'; there are layer, expert"),
        (f"{REGISTERS}@policy('f', says='{{who}}')\ndef f(use, now): return 0", "f", "may hold {ago}"),
        (f"{REGISTERS}@policy('f', needs=['luck'])\ndef f(use, now): return 0", "f", "needs luck"),
    ],
)
def test_a_policy_file_that_does_not_serve_is_refused(
    content: str | None, function: str, words: str, tmp_path: Path
) -> None:
    path = tmp_path / "mine.py"
    if content is not None:
        path.write_text(content)
    with pytest.raises(PolicyError, match=words):
        load_policy(f"{path}:{function}")


@pytest.mark.parametrize(
    "content",
    [
        "def f(use, now):\n    return use.touches if len(use.touches) == 2 else use.touches[:1][9]\n",
        "from moeviz.core.lists import Arc\nclass f(Arc):\n"
        "    def leaves(self, stays): return [][9] if self.slots > 1 else super().leaves(stays)\n",
    ],
    ids=["a score", "lists"],
)
@pytest.mark.parametrize("rule", ["pinned", "one-by-one"])
def test_a_policy_that_fails_at_its_work_is_one_message(content: str, rule: str, tmp_path: Path) -> None:
    (tmp_path / "mine.py").write_text(content)
    settings = Settings(load_policy(f"{tmp_path / 'mine.py'}:f"), 4, rule=rule)
    for work in (replay, Explainer):
        with pytest.raises(PolicyError, match=r"policy 'mine\.py:f' failed at its work: IndexError: "):
            work(random_trace(3), settings)
    with pytest.raises(PolicyError, match="failed at its work: IndexError: "):
        curve(random_trace(3), settings)


OTHER_LISTS = {
    "a static why": "class f(Arc):\n    @staticmethod\n    def why(one): return 'so'\n",
    "a class method": "class f(Arc):\n    told = []\n    @classmethod\n"
    "    def why(cls, one): return str(cls.told)\n",
    "methods of the object": "class f:\n    def __init__(self, slots):\n        own = self.own = Arc(slots)\n"
    "        self.missed, self.came, self.used = own.missed, own.came, own.used\n"
    "        self.leaves, self.why = own.leaves, own.why\n",
    "methods handed on": "class f:\n    def __init__(self, slots): self.own = Arc(slots)\n"
    "    def __getattr__(self, name):\n        if name.startswith('_') or name == 'own':\n"
    "            raise AttributeError(name)\n        return getattr(self.own, name)\n",
    "subclasses take a tag": "class Base(Arc):\n    def __init_subclass__(cls, tag): cls.tag = tag\n"
    "class f(Base, tag='x'): pass\n",
}


@pytest.mark.parametrize("kind", OTHER_LISTS)
def test_lists_however_they_come_by_their_methods_serve(kind: str, tmp_path: Path) -> None:
    (tmp_path / "mine.py").write_text(f"from moeviz.core.lists import Arc\n{OTHER_LISTS[kind]}")
    settings = Settings(load_policy(f"{tmp_path / 'mine.py'}:f"), 4)
    trace = random_trace(3)
    arc = replace(settings, policy="arc")
    assert replay(trace, settings).loads.victim_expert.tolist() == (
        replay(trace, arc).loads.victim_expert.tolist()
    )
    own, known = Explainer(trace, settings), Explainer(trace, arc)
    event = own.next_event("eviction", 8, 0)
    assert event is not None
    assert [one.residents for one in own.evictions(*event)] == [
        one.residents for one in known.evictions(*event)
    ]


def test_only_lists_of_ones_own_are_watched() -> None:
    assert type(POLICIES["arc"].keep(2)) is Arc
    assert type(POLICIES["s3-fifo"].keep(2)) is S3Fifo


def test_lists_that_cannot_be_copied_are_told(tmp_path: Path) -> None:
    (tmp_path / "mine.py").write_text(
        "from moeviz.core.lists import Arc\nclass f(Arc):\n    def __init__(self, slots):\n"
        "        super().__init__(slots)\n        self.numbers = (one for one in range(9))\n"
    )
    settings = Settings(load_policy(f"{tmp_path / 'mine.py'}:f"), 4)
    assert replay(random_trace(3), settings).loads.victim_expert.max() >= 0
    with pytest.raises(PolicyError, match=r"failed at its work: TypeError: cannot pickle 'generator' object"):
        Explainer(random_trace(3), settings).evictions(8, 0)


@pytest.mark.parametrize(
    ("raises", "said"),
    [
        ("1 / 0", r"ZeroDivisionError: division by zero \(mine\.py, line 5\)\."),
        ("helped()", r"ValueError: two lines \(mine\.py, line 2\)\."),
        ("super().used(-9, again)", r"KeyError: -9 \(mine\.py, line 5\)\."),
        ("raise MemoryError", r"MemoryError \(mine\.py, line 5\)\."),
        ("raise OSError('Full.')", r"OSError: Full \(mine\.py, line 5\)\."),
        ("raise OSError('long ' * 999)", r"OSError: (long ){60}… \(mine\.py, line 5\)\."),
    ],
)
def test_what_a_policy_raises_is_told_on_one_line_with_its_place(
    raises: str, said: str, tmp_path: Path
) -> None:
    (tmp_path / "mine.py").write_text(
        "from moeviz.core.lists import Arc\ndef helped(): raise ValueError('two\\n\\n  lines')\n"
        "class f(Arc):\n    def used(self, one, again):\n"
        f"        if self.slots > 1: {raises}\n        super().used(one, again)\n"
    )
    name = load_policy(f"{tmp_path / 'mine.py'}:f")
    with pytest.raises(PolicyError, match=rf"^policy 'mine\.py:f' failed at its work: {said}$"):
        replay(random_trace(3), Settings(name, 4))


def test_a_policy_that_is_no_file_tells_its_place_too() -> None:
    def fails(use: Use, now: Moment) -> Any:
        return use.touches if len(use.touches) == 2 else [][9]

    policy("own")(fails)
    line = fails.__code__.co_firstlineno + 1
    with pytest.raises(PolicyError, match=rf"IndexError: .* \(test_policies\.py, line {line}\)\.$"):
        replay(random_trace(3), Settings("own", 4))


@pytest.mark.parametrize("reads", ["loaded", "touches_resident", "level"])
def test_a_stack_policy_reads_nothing_that_differs_by_slots(reads: str) -> None:
    with pytest.raises(PolicyError, match=rf"stack=True and reads use\.{reads}, which differs.*Leave stack"):
        policy("mine", stack=True)(lambda use, now: getattr(use, reads) - use.last_touch)
    assert "mine" not in POLICIES


def test_what_a_score_reads_is_needed_without_being_said() -> None:
    """Else it would be told nothing, and every expert would have the same score."""
    trace = random_trace(5, tokens=40)
    for column, need, known in (
        ("next_use", "future", "belady"),
        ("weight", "weights", "weighted-lfu"),
        ("calibrated", "calibration", "static"),
    ):
        policy("mine")(lambda use, now, column=column: getattr(use, column) * (-1) ** (column == "next_use"))
        assert POLICIES["mine"].needs == {need} == POLICIES[known].needs
        own, theirs = (Settings(name, 4, calibration="itself") for name in ("mine", known))
        assert replay(trace, own).hit_ratio == replay(trace, theirs).hit_ratio
    with pytest.raises(SettingsError, match=r"needs a calibration trace.*in a replay itself will do"):
        replay(trace, Settings("mine", 4))
    POLICIES.pop("mine")


def test_a_file_cannot_replace_a_policy_of_moeviz(tmp_path: Path) -> None:
    before = dict(POLICIES)
    path = tmp_path / "mine.py"
    path.write_text(
        "from moeviz.core.policies import policy\n@policy('lru')\ndef lru(use, now):\n    return 0.0\n"
    )
    name = load_policy(f"{path}:lru")
    assert list(POLICIES)[: len(before)] == list(before)
    assert POLICIES["lru"] is before["lru"]
    assert POLICIES[name] is not before["lru"]


def test_lists_may_say_who_leaves_as_a_number_of_numpys() -> None:
    class Own(Lists):
        def __init__(self, slots: int) -> None:
            super().__init__(slots)
            self.order: list[int] = []

        def came(self, one: int) -> None:
            self.order.append(one)

        def used(self, one: int, again: bool) -> None: ...

        def leaves(self, stays: Container[int]) -> int:
            one = next((one for one in self.order if one not in stays), -1)
            self.order = [other for other in self.order if other != one]
            return np.int64(one)

        def why(self, one: int) -> str:
            return "came first"

    policy("own-lists")(Own)
    trace = random_trace(3)
    assert replay(trace, Settings("own-lists", 4)).same_decisions(replay(trace, Settings("fifo", 4)))


def test_a_policy_that_leaves_the_program_or_gives_complex_numbers_is_told_in_words() -> None:
    def leaves(use: Use, now: Moment) -> Any:
        if np.max(use.touches) > 5:
            raise SystemExit(3)
        return use.touches

    policy("leaver")(leaves)
    with pytest.raises(PolicyError, match="failed at its work: SystemExit: 3"):
        replay(random_trace(3), Settings("leaver", 3))
    with pytest.raises(PolicyError, match="gives a complex number where a score is wanted"):
        policy("complex")(lambda use, now: use.touches * 1j)

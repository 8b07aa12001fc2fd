"""One conformance class for all policies, an oracle of its own for each that has one."""

import cachetools
import numpy as np
import pytest
from conftest import make_trace, random_trace
from hypothesis import given
from hypothesis import strategies as st

from moeviz.policies import POLICIES
from moeviz.replay import replay
from moeviz.run import HIT, MISS, Run
from moeviz.settings import Settings
from moeviz.trace import Trace

requests = st.lists(st.integers(0, 7), min_size=1, max_size=120)


def hits(trace: Trace, policy: str, slots: int, **fields: object) -> int:
    return int((replay(trace, Settings(policy, slots, **fields)).access_outcome == HIT).sum())  # type: ignore[arg-type]


@pytest.mark.parametrize("policy", POLICIES)
class TestEveryPolicy:
    def test_with_slots_for_one_token_it_hits_what_consecutive_tokens_share(self, policy: str) -> None:
        trace = random_trace(1, prompt=1)
        shared = sum(
            len(set(now) & set(before))
            for layer in range(trace.layers)
            for before, now in zip(trace.experts[:-1, layer].tolist(), trace.experts[1:, layer].tolist(), strict=True)
        )
        assert hits(trace, policy, slots=trace.k) == shared

    def test_with_slots_for_all_it_misses_each_expert_once(self, policy: str) -> None:
        run = replay(random_trace(2), Settings(policy, slots=8))
        missed = [(int(run.event_layer[event]), int(expert))
                  for event, expert, outcome in zip(run.access_event, run.access_expert, run.access_outcome, strict=True)
                  if outcome == MISS]  # fmt: skip
        assert len(missed) == len(set(missed))
        assert (run.victim_expert == -1).all()

    @pytest.mark.parametrize("scope", ["layer", "model"])
    @pytest.mark.parametrize("prefetch", ["none", "previous-token", "next-gate"])
    def test_books_balance(self, policy: str, scope: str, prefetch: str) -> None:
        for seed in range(4):
            trace = random_trace(seed)
            run = replay(trace, Settings(policy, 5, scope, prefetch))
            check_books(trace, run)

    def test_is_deterministic(self, policy: str) -> None:
        trace = random_trace(5)
        settings = Settings(policy, 3, prefetch="next-gate", seed=9)
        assert replay(trace, settings).same_decisions(replay(trace, settings))


def check_books(trace: Trace, run: Run) -> None:
    """Residency followed load by load agrees with every outcome and never exceeds the slots."""
    shared = run.settings.scope == "model"
    slots: dict[tuple[int, int], tuple[int, int]] = {}
    passes = list(run.passes())
    for tokens, events in zip(trace.passes(), passes, strict=True):
        for event in events:
            need = set(trace.experts[tokens, event.layer].ravel().tolist())
            resident = {key[1] for key in slots.values() if key[0] == event.layer}
            assert sorted(event.hits + event.misses) == sorted(need)
            assert set(event.hits) == need & resident
            for layer, expert, slot, victim_layer, victim, speculative in event.loads:
                place = (0 if shared else layer, slot)
                assert slots.get(place, (-1, -1)) == (victim_layer, victim)
                assert (layer, expert) not in slots.values()
                assert speculative == (layer != event.layer)
                slots[place] = (layer, expert)
                assert 0 <= slot < run.settings.slots


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
    return (replay(trace, Settings(policy, slots)).access_outcome == HIT).tolist()


def oracle(cache: cachetools.Cache, stream: list[int]) -> list[bool]:
    outcomes = []
    for expert in stream:
        outcomes.append(expert in cache)
        if expert in cache:
            cache[expert]
        else:
            cache[expert] = True
    return outcomes


@pytest.mark.parametrize("policy", ["lru", "lfu"])
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
    from moeviz.policies import Moment, Use, random

    uses = [Use(0, expert) for expert in range(4)]
    leaves = [min(range(4), key=lambda e: random(uses[e], Moment(clock, 0))) for clock in range(4_000)]
    assert np.bincount(leaves).min() > 850

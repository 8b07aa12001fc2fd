"""Event by event or many pools at once: the same decisions, whatever the trace, the rule and the policy, a
user's own included."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace

import numpy as np
import pytest
from conftest import check_books, make_trace, ragged_trace
from hypothesis import given, settings
from hypothesis import strategies as st

from moeviz.core import onepool
from moeviz.core.cache import Choice
from moeviz.core.policies import POLICIES, policy
from moeviz.core.pools import Pools
from moeviz.core.replay import replay, served
from moeviz.core.run import HIT
from moeviz.core.settings import WARM, Settings
from moeviz.core.trace import Trace
from moeviz.core.use import Moment, Touch
from moeviz.errors import PolicyError, SettingsError
from moeviz.files.moetrace import from_bytes, to_bytes

OWN = ("mru", "constant", "by-hand", "never a number")


@pytest.fixture(autouse=True, scope="module")
def _own_policies() -> Iterator[None]:
    """Policies as a user writes them: an expression, one number for all, columns that depend on residency,
    and bad numbers."""
    before = dict(POLICIES)
    policy("mru")(lambda use, now: -use.last_touch)
    policy("constant")(lambda use, now: 1)
    policy("by-hand")(lambda use, now: use.touches_resident * 2.0 + (use.layer == now.layer) - use.loaded / 9)
    policy("never a number")(lambda use, now: (use.touches - 2) / (use.touches_resident - 1))
    with pytest.MonkeyPatch.context() as patched:  # small traces take every way
        patched.setattr(onepool, "LAYERS", 1)
        yield
    POLICIES.clear()
    POLICIES.update(before)


def wanted(trace: Trace, name: str, slots: int, **fields: object) -> Settings:
    return Settings(name, slots, calibration="itself", half_life=3, **fields)  # type: ignore[arg-type]


@pytest.mark.parametrize("name", [*POLICIES, *OWN])
@settings(max_examples=25)
@given(
    seed=st.integers(0, 10_000),
    scope=st.sampled_from(["layer", "model"]),
    warm=st.sampled_from(list(WARM)),
    rule=st.sampled_from(["pinned", "in-order", "one-by-one", "batch:3"]),
    more=st.integers(0, 9),
)
def test_many_pools_at_once_decide_as_event_by_event(
    name: str, scope: str, warm: str, rule: str, more: int, seed: int
) -> None:
    trace = ragged_trace(seed)
    if trace.weights is None and "weights" in POLICIES[name].needs:
        return
    most = trace.num_experts * (trace.layers if scope == "model" else 1)
    one = wanted(trace, name, min(trace.k + more, most), scope=scope, warm=warm, rule=rule)
    told: list[Choice] = []
    at_once, by_event = replay(trace, one), replay(trace, one, choices=told)
    assert at_once.same_decisions(by_event)
    check_books(served(trace, one), at_once)
    assert len(told) == (at_once.loads.victim_expert >= 0).sum()
    assert [choice.load for choice in told] == np.flatnonzero(at_once.loads.victim_expert >= 0).tolist()


@pytest.mark.parametrize("name", ["lru", "lfu-resident", "random", "belady", "by-hand"])
@settings(max_examples=25)
@given(
    seed=st.integers(0, 10_000),
    warm=st.sampled_from(list(WARM)),
    prefetch=st.sampled_from(["none", "previous-token", "frequency"]),
    rule=st.sampled_from(["pinned", "in-order", "one-by-one", "batch:3"]),
    more=st.integers(0, 900),
)
def test_a_load_may_cost_several_their_place(
    name: str, seed: int, warm: str, prefetch: str, rule: str, more: int
) -> None:
    """Where sizes differ: at once as event by event, within the bytes, everyone who left told, and the same
    from a file."""
    trace = ragged_trace(seed)
    budget = trace.k * int(trace.layer_bytes.max()) + more
    guesses = prefetch if trace.layers > 1 else "none"
    one = wanted(trace, name, 1, scope="model", warm=warm, rule=rule, budget=budget, prefetch=guesses)
    told: list[Choice] = []
    at_once, by_event = replay(trace, one), replay(trace, one, choices=told)
    assert at_once.same_decisions(by_event)
    check_books(served(trace, one), at_once)
    left = [(choice.load, *divmod(choice.victim, trace.num_experts)) for choice in told]
    assert left == at_once.departures.rows()
    _, kept = from_bytes(to_bytes(served(trace, one), at_once))
    assert kept is not None
    assert kept.same_decisions(at_once)


def toy() -> Trace:
    """What moe-cache-eval tests itself with: 5 tokens of 3 layers, two experts an event."""
    return make_trace([[[0, other]] * 3 for other in (1, 2, 1, 3, 1)], experts=4)


@pytest.mark.parametrize("name", ["lru", "lfu", "belady"])
def test_the_toy_of_moe_cache_eval_has_12_hits_and_18_misses(name: str) -> None:
    outcome = replay(toy(), Settings(name, 2)).accesses.outcome
    assert ((outcome == HIT).sum(), (outcome != HIT).sum()) == (12, 18)


def test_one_by_one_may_drop_a_member_of_the_event_for_the_next() -> None:
    trace = make_trace([[[0, 1]], [[2, 0]]])
    run = replay(trace, Settings("lru", 2, rule="one-by-one"))
    # 0, 1 fill the slots; 2 takes 0's, the older; 0 then takes 1's
    assert run.accesses.outcome.tolist() == [2, 2, 2, 2]
    assert run.loads.victim_expert.tolist() == [-1, -1, 0, 1]
    assert replay(trace, Settings("lru", 2)).accesses.outcome.tolist() == [2, 2, 0, 2]


def test_in_order_the_weakest_of_an_event_counts_as_used_last() -> None:
    trace = make_trace([[[0, 1]], [[2, 3]], [[0, 1]]])
    wanted = Settings("lru", 3)
    assert replay(trace, wanted).loads.victim_expert.tolist() == [-1, -1, -1, 1, 3]
    assert replay(trace, replace(wanted, rule="in-order")).loads.victim_expert.tolist() == [-1, -1, -1, 0, 2]


def test_one_by_one_needs_one_slot_only() -> None:
    assert len(replay(make_trace([[[0, 1]]] * 3), Settings(slots=1, rule="one-by-one")).loads.event) == 6


def test_batches_need_the_union_of_their_tokens_experts() -> None:
    trace = make_trace([[[0, 1]], [[1, 2]], [[3, 0]], [[0, 1]], [[4, 5]]])
    run = replay(trace, Settings(slots=4, rule="batch:2"))
    assert run.passes.tokens.tolist() == [2, 2, 1]
    assert np.bincount(run.accesses.event).tolist() == [3, 3, 2]


def test_a_budget_is_shared_by_layers_or_spent_on_all() -> None:
    trace = make_trace([[[0, 1], [2, 3]]] * 3)
    by_layer = replay(trace, Settings(budget=5_000))
    assert by_layer.room.limits == (2, 2)
    shared = replay(trace, Settings(budget=5_000, scope="model"))
    assert (shared.room.limits, shared.fast_tier_bytes) == ((5,), 5_000)
    assert by_layer.same_decisions(replay(trace, Settings(slots=2)))
    with pytest.raises(SettingsError, match=r"too small: 2 experts of a layer.*at least 3.906 KiB"):
        replay(trace, Settings(budget=3_999))


@pytest.mark.parametrize("name", ["lru", "lfu"])
def test_pools_served_together_notice_what_was_done_to_one_of_them(name: str) -> None:
    """Who left, or came by a guess, is known at the next event of all."""
    pools = Pools(POLICIES[name], Moment(0, 2, 64), 2, 4, [2, 2], own=True)
    rows = np.array([0, 1])

    def serve(expert: int, clock: float) -> list[int]:
        at = rows * 4 + expert
        _, _, _, victims = pools.serve_rows(at, rows, Touch(np.array([clock, clock])), None)
        return victims.tolist()

    assert [serve(0, 2.0), serve(1, 4.0), serve(2, 6.0)] == [[-1, -1], [-1, -1], [0, 4]]
    pools.clear(0)
    assert serve(3, 8.0) == [-1, 5]  # of the first pool, now free, nobody leaves
    assert serve(0, 10.0) == [-1, 6]
    assert pools.admit(1, 5, 12, []) == (1, 7)  # as if touched last
    assert serve(2, 14.0)[1] == (4 if name == "lru" else 5)


def test_a_policy_that_reads_columns_only_now_and_then_is_refused() -> None:
    moody = {"then": False}
    policy("moody")(lambda use, now: use.touches if moody["then"] else use.last_touch)
    moody["then"] = True
    with pytest.raises(PolicyError, match=r"reads use\.touches at some moments"):
        replay(make_trace([[[0]], [[1]], [[2]]]), Settings("moody", 1))

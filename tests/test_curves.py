"""Curves against replays: the same hits at every slot count, for every policy and scope."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from conftest import make_trace, ragged_trace, random_trace
from hypothesis import given, settings
from hypothesis import strategies as st

from moeviz.core import onepool
from moeviz.core.policies import POLICIES, load_policy, policy
from moeviz.core.replay import replay
from moeviz.core.run import HIT
from moeviz.core.settings import WARM, Settings
from moeviz.core.trace import Trace
from moeviz.files.importers import open_content
from moeviz.numbers.curves import Bounds, bounds, curve, slot_counts


def check(trace: object, wanted: Settings, counts: list[int]) -> None:
    found = curve(trace, wanted, counts)  # type: ignore[arg-type]
    for number, slots in enumerate(counts):
        one = Settings(**{**wanted.to_dict(), "slots": slots})  # type: ignore[arg-type]
        run = replay(trace, one, choices=[])  # type: ignore[arg-type]  # event by event, as a live run
        phase = run.passes.phase[run.events.forward_pass[run.accesses.event]]
        hit = run.accesses.outcome == HIT
        assert found.hits[number].tolist() == [int(hit[phase == p].sum()) for p in (0, 1)], (one.label, slots)
        assert found.accesses.tolist() == [int((phase == p).sum()) for p in (0, 1)]


@pytest.mark.parametrize("policy", POLICIES)
@pytest.mark.parametrize("scope", ["layer", "model"])
@settings(max_examples=12)
@given(
    seed=st.integers(0, 10_000),
    prompt=st.sampled_from([1, 6]),
    k=st.integers(1, 3),
    warm=st.sampled_from(list(WARM)),
)
def test_a_curve_is_the_replays(policy: str, scope: str, seed: int, prompt: int, k: int, warm: str) -> None:
    trace = random_trace(seed, tokens=30, prompt=prompt, k=k)
    counts = list(range(k, 9)) if scope == "layer" else [k, 2 * k + 1, 3 * k, 13, 24]
    check(
        trace,
        Settings(policy, counts[0], scope, warm=warm, calibration="itself", seed=seed, half_life=5),
        counts,
    )


@pytest.fixture(scope="module", autouse=True)
def _small_traces_take_every_way() -> Iterator[None]:
    with pytest.MonkeyPatch.context() as patched:
        patched.setattr(onepool, "LAYERS", 1)
        yield


@pytest.fixture(scope="module")
def own_policies() -> Iterator[None]:
    """A user's policies: a stack algorithm that says so, one that is none, and one that does not say that
    it is."""
    before = dict(POLICIES)
    policy("declared", stack=True)(lambda use, now: use.touches * 8 - use.last_touch / 64)
    policy("resident", says="left")(lambda use, now: use.touches_resident - use.loaded / 3)
    policy("mru")(lambda use, now: -use.last_touch)
    policy("moving")(lambda use, now: (use.touches * 7 + use.expert * (now.layer + now.touches)) % 5)
    yield
    POLICIES.clear()
    POLICIES.update(before)


@pytest.mark.parametrize("name", [*POLICIES, "declared", "resident", "mru", "moving"])
@pytest.mark.parametrize("scope", ["layer", "model"])
@settings(max_examples=12)
@given(
    seed=st.integers(0, 10_000),
    rule=st.sampled_from(["pinned", "in-order", "one-by-one", "batch:2"]),
    warm=st.sampled_from(["cold", "first"]),
)
def test_a_curve_is_the_replays_on_any_trace(
    own_policies: None, name: str, scope: str, seed: int, rule: str, warm: str
) -> None:
    trace = ragged_trace(seed)
    if trace.weights is None and "weights" in POLICIES[name].needs:
        return
    most = trace.num_experts * (trace.layers if scope == "model" else 1)
    counts = sorted({1 if rule == "one-by-one" else trace.k, trace.k, (trace.k + most) // 2, most})
    wanted = Settings(
        name, counts[0], scope, rule=rule, warm=warm, calibration="itself", half_life=5, seed=seed
    )
    check(trace, wanted, counts)
    check(trace, wanted, [counts[seed % len(counts)]])


def test_a_policy_of_ones_own_gets_its_own_curve(tmp_path: Path) -> None:
    (tmp_path / "mru.py").write_text(
        'from moeviz.policies import Moment, Use, policy\n\n@policy("mru")\n'
        "def mru(use: Use, now: Moment) -> float:\n    return -use.last_touch\n"
    )
    name = load_policy(f"{tmp_path / 'mru.py'}:mru")
    trace = make_trace([[[expert]] for expert in (0, 1, 2, 0, 1, 2, 0, 1, 2)], experts=3)
    try:
        assert curve(trace, Settings(name, 1), [1, 2, 3]).hits[:, 1].tolist() == [0, 3, 6]
        assert curve(trace, Settings("lru", 1), [1, 2, 3]).hits[:, 1].tolist() == [0, 0, 6]
    finally:
        del POLICIES[name]


def test_bounds_are_those_of_the_rule() -> None:
    trace = random_trace(2, tokens=60, prompt=1)
    for rule in ("pinned", "one-by-one"):
        bound = bounds(trace, Settings(slots=4, rule=rule), None).belady_hit_ratio
        best = replay(trace, Settings("belady", 4, rule=rule))
        decoded = best.passes.phase[best.events.forward_pass[best.accesses.event]] == 1
        assert bound == pytest.approx((best.accesses.outcome[decoded] == HIT).mean())
    assert bounds(trace, Settings(budget=3 * 4 * 1_000), None) == bounds(trace, Settings(slots=4), None)


def test_passes_of_several_tokens_in_the_middle_are_replayed() -> None:
    trace = random_trace(3, tokens=30, prompt=1)
    numbers = np.minimum(np.arange(30) // 2, 14).astype(np.int32)
    again = type(trace)(
        **{
            **{f: getattr(trace, f) for f in trace.__dataclass_fields__},
            "forward_pass": numbers,
            "phase": np.ones(30, np.uint8),
        }
    )
    check(again, Settings(), [2, 4, 8])


def test_slot_counts() -> None:
    trace = random_trace(0, k=2, layers=3)
    assert slot_counts(trace, "layer") == [2, 3, 4, 5, 6, 7, 8]
    counts = slot_counts(trace, "model", most=5)
    assert (counts[0], counts[-1], len(counts)) == (6, 24, 5)


@settings(max_examples=30)
@given(seed=st.integers(0, 10_000), name=st.sampled_from(["lru", "lfu", "lfu-resident", "belady"]))
def test_a_budget_holds_as_many_experts_as_their_sizes_allow(seed: int, name: str) -> None:
    """Against a simulation in plain Python: who leaves, leaves until who comes has room."""
    trace = replace(ragged_trace(seed), expert_bytes=tuple(range(3, 3 + ragged_trace(seed).layers)))
    sizes = trace.layer_bytes.tolist()
    largest = max(trace.k, int(np.diff(trace.events().first).max()))  # so that no event comes in waves
    budget = largest * max(sizes) + seed % 7
    wanted = Settings(name, scope="model")
    assert curve(trace, wanted, budgets=[budget]).hits.sum() == by_bytes(trace, name, budget)


def route_trace(seed: int, steps: int) -> str:
    """BigMoeOnEdge's route trace v1: 5 layers of 24 experts, top 3; a prompt of 12 tokens, of which the last
    layer routes the last one only; experts of each layer of another size."""
    rng = np.random.default_rng(seed)
    layers, experts, k, prompt = 5, 24, 3, 12
    sizes = [1000, 1700, 1200, 2300, 1400]
    lines = [
        "# route_trace v1",
        f"# model=made-up.gguf arch=x n_layer={layers} n_expert={experts} n_expert_used={k}",
    ]
    lines += [f"# layer={layer} expert_bytes={size} dense_bytes=10" for layer, size in enumerate(sizes)]
    lines.append("turn,phase,step,layer,slot,expert,weight,residency,expert_bytes")
    taste = rng.gumbel(size=(layers, experts)) * 1.2
    for step in range(steps):
        if step % 100 == 0:
            taste += rng.gumbel(size=taste.shape)
        for layer in range(layers):
            if step < prompt - 1 and layer == layers - 1:
                continue
            chosen = np.argsort(-(taste[layer] + rng.gumbel(size=experts)))[:k]
            for slot, expert in enumerate(chosen):
                phase = int(step >= prompt)
                lines.append(f"0,{phase},{step},{layer},{slot},{expert},{0.5 - slot / 10},0,{sizes[layer]}")
    return "\n".join(lines) + "\n"


def published(text: str, policy: str, budget: int) -> float:
    """Decode hits in percent as its own replay counts them: the experts that a layer needs come in, strongest
    first, and then others leave until all fit; the prompt is one call a layer."""
    rows = [line.split(",") for line in text.splitlines() if line[0] not in "#t"]
    calls: dict[tuple[int, int, int], list[int]] = {}
    for _, phase, step, layer, _, expert, *_ in rows:
        at = (0, 0, int(layer)) if phase == "0" else (1, int(step), int(layer))
        calls.setdefault(at, []).append(int(expert))
    sizes = {int(row[3]): int(row[8]) for row in rows}
    order = sorted(calls)
    uses: dict[tuple[int, int], list[int]] = {}
    for number, call in enumerate(order):
        for expert in set(calls[call]):
            uses.setdefault((call[2], expert), []).append(number)
    there: set[tuple[int, int]] = set()
    count, last, clock, hits, asked = dict.fromkeys(uses, 0), dict.fromkeys(uses, 0), 0, 0, 0
    for number, call in enumerate(order):
        needed = [(call[2], expert) for expert in calls[call]]
        for key in dict.fromkeys(needed):
            asked += call[0]
            hits += call[0] * (key in there)
            count[key] += 1
        for key in needed:
            clock += 1
            last[key] = clock
        there |= set(needed)
        while sum(sizes[layer] for layer, _ in there) > budget:
            could = there - set(needed)
            if not could:
                break
            if policy == "belady":
                following = {key: next((n for n in uses[key] if n > number), len(order)) for key in could}
                there.remove(max(could, key=lambda key: following[key]))
            else:
                there.remove(min(could, key=lambda key: (count[key] * (policy == "lfu"), last[key])))
    return 100 * hits / asked


@pytest.mark.parametrize("name", ["lru", "lfu", "belady"])
def test_curves_published_from_route_traces_come_out(name: str) -> None:
    """Within a tenth of a point, from replays and from one curve alike, at budgets on both sides of what one
    token needs of all layers (22,800): there lru depends most on who of an event counts as used last."""
    text = route_trace(7, 700)
    trace = open_content("routes.csv", text.encode()).trace
    assert trace.expert_bytes == (1000, 1700, 1200, 2300, 1400)
    budgets = [8_000, 20_000, 30_000, 60_000]  # the first is less than the prompt needs of some layers
    wanted = Settings(name, scope="model", rule="in-order")
    found = curve(trace, wanted, budgets=budgets)
    for number, budget in enumerate(budgets):
        run = replay(trace, replace(wanted, budget=budget))
        assert run.hit_ratio == found.hit_ratio[number]
        assert 100 * run.hit_ratio == pytest.approx(published(text, name, budget), abs=0.1)


def by_bytes(trace: Trace, name: str, budget: int) -> int:
    sizes = trace.layer_bytes.tolist()
    needs = [(layer, experts) for _, layer, experts, _ in trace.events()]
    resident: set[tuple[int, int]] = set()
    touched: dict[tuple[int, int], int] = {}
    count: dict[tuple[int, int], int] = {}
    since: dict[tuple[int, int], int] = {}
    hits = 0
    for at, (layer, experts) in enumerate(needs):
        keys = [(layer, expert) for expert in experts]

        def later(key: tuple[int, int], at: int = at) -> int:
            return next(
                (n for n in range(at + 1, len(needs)) if key[0] == needs[n][0] and key[1] in needs[n][1]),
                10**9,
            )

        score = {
            "lru": lambda key: touched[key],
            "lfu": lambda key: count[key],
            "lfu-resident": lambda key: since[key],
            "belady": lambda key, later=later: -later(key),
        }[name]
        hits += sum(key in resident for key in keys)
        for key in keys:
            if key in resident:
                continue
            while sum(sizes[one[0]] for one in resident) + sizes[layer] > budget:
                resident.remove(min(resident - set(keys), key=lambda one: (score(one), touched[one])))
            resident.add(key)
            since[key] = 0
        for key in reversed(keys):
            touched[key] = len(touched) and max(touched.values()) + 1
            count[key] = count.get(key, 0) + 1
            since[key] += 1
    return hits


def test_belady_is_no_bound_where_sizes_differ() -> None:
    """Room for a small expert (100) and a large one (300). For another large one belady drops the small one,
    needed last, which does not help, and the large one too; lfu drops the large one and keeps the small."""
    small, large = [[[[one], [-1]], [[-1], [one]]] for one in (0, 1)], 1
    events = [small[0][0], small[1][large], small[0][0], small[0][large], small[1][large], small[0][0]]
    weights = [[[float(expert >= 0)] for (expert,) in event] for event in events]
    trace = replace(make_trace(events, weights=weights), expert_bytes=(100, 300))
    belady, lfu = (Settings(name, scope="model", budget=400) for name in ("belady", "lfu"))
    found = [replay(trace, one).accesses.outcome.tolist().count(HIT) for one in (belady, lfu)]
    assert found == [1, 2]
    assert bounds(trace, lfu, None, gap=True) == Bounds()


def test_the_gap_captured_is_none_of_lru_all_of_belady() -> None:
    trace = random_trace(3, tokens=60)

    def gap(wanted: Settings) -> float | None:
        return bounds(trace, wanted, None, gap=True).gap_captured

    assert gap(Settings("lru", 4)) == 0
    assert gap(Settings("belady", 4)) == 1
    assert gap(Settings(baseline="resident")) is None
    assert gap(Settings("lfu", 2)) is None  # with k slots every policy hits alike


@pytest.mark.parametrize("policy", ["lru", "lfu", "belady"])
@pytest.mark.parametrize("prefetch", ["none", "previous-token"])
def test_bounds_are_the_same_where_replays_are_known(policy: str, prefetch: str) -> None:
    trace = random_trace(3, tokens=30, prompt=5)
    wanted = Settings(policy, 4, prefetch=prefetch)
    known = [wanted, Settings("belady", 4), Settings("lru", 4)]
    for count in (1, 3):
        replayed = {one: replay(trace, one) for one in known[:count]}
        told = bounds(trace, wanted, None, gap=True, replayed=replayed)
        assert told == bounds(trace, wanted, None, gap=True)

"""What replays and curves cost, in milliseconds: every policy, and other people's caches and replays on the
same accesses. Counted is the processor's time, which other programs on the machine disturb least; all of it
is work of one thread.

python -m moeviz bench replay
"""

from __future__ import annotations

import time
from collections.abc import Callable
from functools import partial
from typing import TYPE_CHECKING, Any

import numpy as np

from moeviz.bench.rounds import interleaved, spread
from moeviz.core.synthetic import synthetic

if TYPE_CHECKING:
    from moeviz.core.trace import Trace

LAYERS, EXPERTS, K = 48, 128, 8  # of the model whose live policy work is timed, as Qwen3-30B-A3B
EVENTS = 10 * LAYERS
FIRST = (  # the policies that moeviz began with: figures of its versions are compared by them
    *("lru", "lfu", "lfu-resident", "lfu-aged", "lfru", "fifo", "random", "score-ema", "least-stale"),
    *("layer-distance", "static", "belady"),
)
TURNS = 3  # of two replays whose times are compared
RECORDED = 512  # tokens that moe-policylang gets: it holds a list of all experts for each token and layer


def replaying(repeats: int, tokens: int, trace: Trace | None = None) -> dict[str, Any]:
    """Replays, hits alone, curves, and the policy work of a live event; `trace`: instead of a made-up one."""
    import cachetools
    from moe_policylang.benchmark.replay import replay_policies

    from moeviz.core.policies import POLICIES
    from moeviz.core.replay import replay
    from moeviz.core.settings import ITSELF, Settings
    from moeviz.numbers.curves import curve, slot_counts

    known = trace or synthetic(tokens)
    slots = min(2 * known.k, known.num_experts)
    scopes = {"layer": slots, "model": slots * known.layers}
    counts = slot_counts(known, "layer")
    names = [one for one in POLICIES if known.weights is not None or "weights" not in POLICIES[one].needs]
    groups = [[one for one in names if one in FIRST], names]
    streams = known.experts.transpose(1, 0, 2).reshape(known.layers, -1).tolist()
    longer = synthetic(10 * known.tokens, known.layers, known.num_experts, known.k)
    shorter = longer.window(0, known.tokens)
    for one in (known, longer, shorter):  # what a trace keeps is found once, whatever is replayed on it
        replay(one, Settings(slots=one.k))

    def took(work: Callable[[], object]) -> float:
        start = time.process_time()
        work()
        return 1e3 * (time.process_time() - start)

    def settings(policy: str, scope: str) -> Settings:
        return Settings(policy, scopes[scope], scope, calibration=ITSELF)

    def slowest(scope: str, hits_only: bool, several: list[str]) -> Callable[[], float]:
        def one(policy: str) -> object:
            wanted = settings(policy, scope)
            return curve(known, wanted, [wanted.slots]) if hits_only else replay(known, wanted)

        return lambda: max(took(lambda name=policy: one(name)) for policy in several)  # type: ignore[misc]

    def lru_hits(scope: str, count: int) -> float:
        return took(lambda: curve(known, settings("lru", scope), [count]))

    def everything(several: list[str]) -> float:
        return took(lambda: [curve(known, settings(policy, "layer")) for policy in several])

    def others() -> None:
        for stream in streams:  # one expert at a time: no event rule, so its hits are not ours
            cache: cachetools.LRUCache[int, bool] = cachetools.LRUCache(slots)
            for expert in stream:
                if expert in cache:
                    cache[expert]
                else:
                    cache[expert] = True

    part = known.window(0, min(known.tokens, RECORDED))
    recording = _recording(part)

    def of_policylang() -> object:  # one expert at a time too
        return replay_policies(recording, known.k, ["topk_lru"], [slots / known.num_experts])

    def against_policylang() -> float:
        ours = min(took(lambda: replay(part, settings("lru", "layer"))) for _ in range(TURNS))
        return min(took(of_policylang) for _ in range(TURNS)) / ours

    def ten_times() -> float:
        # As much work on both sides, in turns, the least of each: what is short fits into a pause of whatever
        # else the machine does, and a burst of that is not the replay's.
        wanted = settings("lru", "layer")
        sides = [
            (
                took(lambda: [replay(shorter, wanted) for _ in range(10)]) / 10,
                took(lambda: replay(longer, wanted)),
            )
            for _ in range(TURNS)
        ]
        return min(long for _, long in sides) / min(once for once, _ in sides)

    def live(count: int) -> float:
        return max(_live(policy, count) for policy in names)

    work: dict[str, Callable[[], float]] = {
        **{
            f"ms, replay, scope {scope}, {count} slots, slowest of {len(several)}": slowest(
                scope, False, several
            )
            for scope, count in scopes.items()
            for several in groups
        },
        **{
            f"ms, hits only, scope {scope}, {count} slots, slowest of {len(several)}": slowest(
                scope, True, several
            )
            for scope, count in scopes.items()
            for several in groups
        },
        **{
            f"ms, hits only, scope {scope}, {count} slots, lru": partial(lru_hits, scope, count)
            for scope, count in scopes.items()
        },
        **{
            f"ms, {len(several)} policies x {len(counts)} slot counts, scope layer": partial(
                everything, several
            )
            for several in groups
        },
        f"ms, lru replay, scope layer, {slots} slots": lambda: took(
            lambda: replay(known, settings("lru", "layer"))
        ),
        f"ms, the same, event after event, with why each left, {slots} slots": lambda: took(
            lambda: replay(known, settings("lru", "layer"), choices=[])
        ),
        f"ms, cachetools.LRUCache({slots}), same accesses": lambda: took(others),
        "times as fast as moe-policylang's replay_policies, lru": against_policylang,
        "times as long for 10 times the tokens, lru": ten_times,
        **{
            f"us of policy work a live event, {name}, slowest of {len(names)}": partial(live, count)
            for name, count in (
                ("1,024 slots", 1_024),
                ("3,072 slots", 3_072),
                ("6,144 slots, where nobody leaves", LAYERS * EXPERTS),
            )
        },
    }
    return {
        "accesses": float((known.experts >= 0).sum()),
        **{name: spread(values) for name, values in interleaved(work, repeats).items()},
    }


def _live(policy: str, slots: int) -> float:
    """Microseconds that a live event of `K` experts takes in one full pool for 48 x 128 experts: outcomes,
    victims, touches.
    """
    from moeviz.core.cache import start
    from moeviz.core.oracle import knowledge
    from moeviz.core.settings import ITSELF, Settings

    wanted = Settings(policy, slots, "model", calibration=ITSELF, warm="first")
    trace = synthetic(EVENTS // LAYERS, LAYERS, EXPERTS, K, skew=0.3, reuse=0.3)
    pools = start(trace, wanted, knowledge(wanted, trace), [wanted.room(LAYERS, EXPERTS, K)])
    weight, never = [0.1] * K, [float("inf")] * K
    begun = time.process_time()
    for _, layer, experts, _ in trace.events():
        pools.now.layer = layer
        pools.serve_together(0, [layer * EXPERTS + expert for expert in experts], weight, never)
    return 1e6 * (time.process_time() - begun) / EVENTS


def _recording(trace: Trace) -> Any:
    """A trace as moe-policylang records one."""
    from moe_policylang.integrations.trace_recorder import TraceEntry, TraceRecording

    found = TraceRecording("", trace.layers, trace.num_experts, trace.k)
    for token, rows in enumerate(trace.experts):
        for layer, row in enumerate(rows):
            own = row[row >= 0]
            shares = np.zeros(trace.num_experts)
            shares[own] = range(len(own), 0, -1)
            found.entries.append(TraceEntry(0, token, layer, own.tolist(), router_softmax=shares.tolist()))
    return found

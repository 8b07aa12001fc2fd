"""Cache and policy work beside an event's time: who hits, who leaves, and the record of it, for every policy
in one pool of 48 layers x 128 experts, at 8 to 6,144 slots.

An event's time depends on the experts, the work of the cache hardly does. So the share is given twice. The
first is over the least time that an event of a model of this shape takes on this machine: Qwen3-30B-A3B's
experts of 9.4 MB in bfloat16, eight for one token, computed, none copied. The second is over the events of
the bundled model, two experts of a megabyte, which take a fifth of a millisecond. The first is of processor
time: what else the machine does should not decide.

python -m moeviz bench engine --only cache
"""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from typing import Any

from moeviz.bench.engine.racing import greedy, recorded
from moeviz.bench.engine.rows import DTYPES, Work
from moeviz.bench.replay import EXPERTS, LAYERS, K
from moeviz.bench.rounds import spread
from moeviz.core.cache import ExpertCache
from moeviz.core.oracle import knowledge
from moeviz.core.policies import POLICIES
from moeviz.core.settings import ITSELF, Settings
from moeviz.core.synthetic import synthetic
from moeviz.core.trace import DECODE, Trace
from moeviz.engine.loader import Loaded, load
from moeviz.engine.made import computing_us
from moeviz.engine.serving import Serving

SLOTS = (K, 64, 512, 1_024, 3_072, LAYERS * EXPERTS)
PASSES = 10
HIDDEN, INNER = 2_048, 768  # of Qwen3-30B-A3B's experts


def measure(work: Work, slots: Sequence[int] = SLOTS, passes: int = PASSES) -> dict[str, Any]:
    """Microseconds of an event by slots and by policy, and both shares."""
    trace = synthetic(passes, LAYERS, EXPERTS, K, skew=0.3, reuse=0.3)
    rounds = [
        {(name, count): event_us(trace, name, count) for name in POLICIES for count in slots}
        for _ in range(work.repeats)
    ]
    least = computing_us(K, HIDDEN, INNER)
    figures: dict[str, Any] = {"cache: us of an event of 8 experts of 9.4 MB, none copied": least}
    for count in slots:
        slowest = [max(one[name, count] for name in POLICIES) for one in rounds]
        name = f"cache, {count:,} slots, slowest of {len(POLICIES)}"
        figures[f"{name}: us an event"] = spread(slowest)
        figures[f"{name}: share of that event"] = spread([us / least for us in slowest], "<= 0.01")
    for policy in POLICIES:
        slowest = [max(one[policy, count] for count in slots) for one in rounds]
        figures[f"cache, {policy}: us an event, at its slowest slots"] = spread(slowest)
    for dtype in DTYPES:
        loaded = load(work.folder, tier="host", device=work.device, dtype=dtype)
        half = Settings("lru", max(loaded.k, loaded.experts // 2))
        shares = [live_share(loaded, half, work.tokens) for _ in range(work.repeats)]
        figures[f"{dtype}: cache, lru, half the slots: share of an event"] = spread(shares)
        loaded.store.close()
    return figures


def event_us(trace: Trace, policy: str, slots: int) -> float:
    """Microseconds that the expert cache takes of an event of a trace, from full slots."""
    wanted = Settings(policy, slots, "model", calibration=ITSELF, warm="first")
    known = knowledge(wanted, trace)
    cache = ExpertCache(wanted, trace.layers, trace.num_experts, trace.k, known)
    assert trace.weights is not None
    experts, weights = trace.experts.tolist(), trace.weights.tolist()
    start = time.thread_time()
    for chosen, strengths in zip(experts, weights, strict=True):
        cache.begin_pass(DECODE, 1)
        for layer in range(trace.layers):
            cache.demand(layer, chosen[layer : layer + 1], strengths[layer : layer + 1])
            cache.speculate(layer)
    return 1e6 * (time.thread_time() - start) / (trace.tokens * trace.layers)


def live_share(loaded: Loaded, settings: Settings, tokens: int) -> float:
    """The part of its events' time that a run spends in its cache."""
    spent = {"cache": 0, "event": 0}

    def timed(owner: type, name: str, what: str) -> Callable[[], None]:
        plain = getattr(owner, name)

        def call(*args: Any, **others: Any) -> Any:
            start = time.perf_counter_ns()
            try:
                return plain(*args, **others)
            finally:
                spent[what] += time.perf_counter_ns() - start

        setattr(owner, name, call)
        return lambda: setattr(owner, name, plain)

    undo = [
        timed(ExpertCache, "demand", "cache"),
        timed(ExpertCache, "speculate", "cache"),
        timed(Serving, "serve", "event"),
    ]
    try:
        recorded(loaded, settings, greedy(tokens, guesses=False))
    finally:
        for one in undo:
            one()
    return spent["cache"] / spent["event"]

"""What replays and curves cost, in milliseconds: every policy, and other people's caches and replays on the
same accesses. Counted is the processor's time, which other programs on the machine disturb least; all of it
is work of one thread.

python -m moeviz bench replay
"""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from functools import partial
from typing import Any

import numpy as np

from moeviz.bench.rounds import interleaved, spread
from moeviz.core.cache import start
from moeviz.core.oracle import knowledge
from moeviz.core.policies import POLICIES
from moeviz.core.replay import replay
from moeviz.core.settings import ITSELF, Settings
from moeviz.core.synthetic import synthetic
from moeviz.core.trace import Trace
from moeviz.numbers.curves import curve, slot_counts

LAYERS, EXPERTS, K = 48, 128, 8  # of the model whose live policy work is timed, as Qwen3-30B-A3B
EVENTS = 10 * LAYERS
POOLS = {  # of that model
    "1,024 slots": 1_024,
    "3,072 slots": 3_072,
    "6,144 slots, where nobody leaves": LAYERS * EXPERTS,
}
FIRST = (  # the policies that moeviz began with: figures of its versions are compared by them
    *("lru", "lfu", "lfu-resident", "lfu-aged", "lfru", "fifo", "random", "score-ema", "least-stale"),
    *("layer-distance", "static", "belady"),
)
TURNS = 3  # of two replays whose times are compared
RECORDED = 512  # tokens that moe-policylang gets: it holds a list of all experts for each token and layer
Timed = Callable[[], float]  # does some work, and gives what it took


def replaying(repeats: int, tokens: int, trace: Trace | None = None) -> dict[str, Any]:
    """Replays, hits alone, curves, and the policy work of a live event; `trace`: instead of a made-up one."""
    known = trace or synthetic(tokens)
    replay(known, Settings(slots=known.k))  # what a trace keeps is found once, whatever is replayed on it
    slots = min(2 * known.k, known.num_experts)
    names = [one for one in POLICIES if known.weights is not None or "weights" not in POLICIES[one].needs]
    rows: dict[str, Timed] = {}
    for several in [one for one in names if one in FIRST], names:
        rows |= _of_policies(known, slots, several)
    rows |= _of_lru(known, slots)
    for name, count in POOLS.items():
        row = f"us of policy work a live event, {name}, slowest of {len(names)}"
        rows[row] = partial(_slowest, partial(_live, slots=count), names)
    return {
        "accesses": float((known.experts >= 0).sum()),
        **{name: spread(values) for name, values in interleaved(rows, repeats).items()},
    }


def _of_policies(trace: Trace, slots: int, names: Sequence[str]) -> dict[str, Timed]:
    """Of these policies the slowest, and all of them at every slot count."""
    rows: dict[str, Timed] = {}
    slowest, counts = f"slowest of {len(names)}", len(slot_counts(trace, "layer"))
    for scope, count in _scopes(trace, slots).items():
        for what, work in {"replay": replay, "hits only": _hits}.items():

            def one(policy: str, work: Any = work, scope: str = scope, count: int = count) -> float:
                wanted = _settings(policy, count, scope)
                return _took(lambda: work(trace, wanted))

            rows[f"ms, {what}, scope {scope}, {count} slots, {slowest}"] = partial(_slowest, one, names)
    rows[f"ms, {len(names)} policies x {counts} slot counts, scope layer"] = partial(
        _took, lambda: [curve(trace, _settings(policy, slots)) for policy in names]
    )
    return rows


def _of_lru(trace: Trace, slots: int) -> dict[str, Timed]:
    """Of lru alone, which other libraries have too."""
    wanted = _settings("lru", slots)
    rows: dict[str, Timed] = {}
    for scope, count in _scopes(trace, slots).items():
        own = _settings("lru", count, scope)
        rows[f"ms, hits only, scope {scope}, {count} slots, lru"] = partial(_took, partial(_hits, trace, own))
    rows[f"ms, lru replay, scope layer, {slots} slots"] = partial(_took, lambda: replay(trace, wanted))
    rows[f"ms, the same, event after event, with why each left, {slots} slots"] = partial(
        _took, lambda: replay(trace, wanted, choices=[])
    )
    rows[f"ms, cachetools.LRUCache({slots}), same accesses"] = partial(_took, _cachetools(trace, slots))
    rows["times as fast as moe-policylang's replay_policies, lru"] = _against_policylang(trace, wanted)
    rows["times as long for 10 times the tokens, lru"] = _ten_times(trace, wanted)
    return rows


def _took(work: Callable[[], object]) -> float:
    """Milliseconds of the processor."""
    begun = time.process_time()
    work()
    return 1e3 * (time.process_time() - begun)


def _slowest(one: Callable[[str], float], names: Sequence[str]) -> float:
    return max(map(one, names))


def _scopes(trace: Trace, slots: int) -> dict[str, int]:
    """As much memory in both scopes."""
    return {"layer": slots, "model": slots * trace.layers}


def _settings(policy: str, slots: int, scope: str = "layer", warm: str = "cold") -> Settings:
    return Settings(policy, slots, scope, calibration=ITSELF, warm=warm)


def _hits(trace: Trace, wanted: Settings) -> object:
    return curve(trace, wanted, [wanted.slots])


def _cachetools(trace: Trace, slots: int) -> Callable[[], None]:
    """A cache a layer, one expert at a time: no event rule, so its hits are not ours."""
    import cachetools

    streams = trace.experts.transpose(1, 0, 2).reshape(trace.layers, -1).tolist()

    def work() -> None:
        for stream in streams:
            cache: cachetools.LRUCache[int, bool] = cachetools.LRUCache(slots)
            for expert in stream:
                if expert in cache:
                    cache[expert]
                else:
                    cache[expert] = True

    return work


def _against_policylang(trace: Trace, wanted: Settings) -> Timed:
    """How many of our replays one of moe-policylang's takes, which serves one expert at a time too."""
    from moe_policylang.benchmark.replay import replay_policies
    from moe_policylang.integrations.trace_recorder import TraceEntry, TraceRecording

    part = trace.window(0, min(trace.tokens, RECORDED))
    recording = TraceRecording("", part.layers, part.num_experts, part.k)
    for token, rows in enumerate(part.experts):
        for layer, row in enumerate(rows):
            own = row[row >= 0]
            weights = np.zeros(part.num_experts)
            weights[own] = range(len(own), 0, -1)
            entry = TraceEntry(0, token, layer, own.tolist(), router_softmax=weights.tolist())
            recording.entries.append(entry)
    share = wanted.slots / part.num_experts
    return partial(
        _times,
        lambda: replay_policies(recording, part.k, ["topk_lru"], [share]),
        lambda: replay(part, wanted),
    )


def _ten_times(trace: Trace, wanted: Settings) -> Timed:
    """How many times as long a replay of ten times the tokens takes: as much work on both sides, since what
    is short fits into a pause of whatever else the machine does."""
    longer = synthetic(10 * trace.tokens, trace.layers, trace.num_experts, trace.k)
    shorter = longer.window(0, trace.tokens)
    for one in (longer, shorter):
        replay(one, wanted)

    def ten_short() -> None:
        for _ in range(10):
            replay(shorter, wanted)

    return lambda: 10 * _times(lambda: replay(longer, wanted), ten_short)


def _times(theirs: Callable[[], object], ours: Callable[[], object]) -> float:
    """Their time over ours, in turns, the least of each, since a burst of other work is neither's."""
    sides = [(_took(theirs), _took(ours)) for _ in range(TURNS)]
    return min(one for one, _ in sides) / min(one for _, one in sides)


def _live(policy: str, slots: int) -> float:
    """Microseconds that a live event of `K` experts takes in one full pool for 48 x 128 experts: outcomes,
    victims, touches.
    """
    wanted = _settings(policy, slots, "model", warm="first")
    trace = synthetic(EVENTS // LAYERS, LAYERS, EXPERTS, K, skew=0.3, reuse=0.3)
    pools = start(trace, wanted, knowledge(wanted, trace), [wanted.room(LAYERS, EXPERTS, K)])
    weight, never = [0.1] * K, [float("inf")] * K
    begun = time.process_time()
    for _, layer, experts, _ in trace.events():
        pools.now.layer = layer
        pools.serve_together(0, [layer * EXPERTS + expert for expert in experts], weight, never)
    return 1e6 * (time.process_time() - begun) / EVENTS

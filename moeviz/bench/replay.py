"""Event-by-event replay and curves over all slot counts, beside another cache library on the same accesses.

python -m moeviz bench replay
"""

from __future__ import annotations

import time
from collections.abc import Callable
from functools import partial
from typing import TYPE_CHECKING, Any

from moeviz.bench.made_up import made_up
from moeviz.bench.rounds import interleaved, spread

if TYPE_CHECKING:
    from moeviz.core.trace import Trace


def replaying(repeats: int, tokens: int, trace: Trace | None = None) -> dict[str, Any]:
    """Milliseconds for all policies at all slot counts, for one policy at one, for the event-by-event replay,
    and for cachetools.
    """
    import cachetools

    from moeviz.core.policies import POLICIES
    from moeviz.core.replay import replay
    from moeviz.core.settings import ITSELF, Settings
    from moeviz.numbers.curves import curve

    known = trace or made_up(tokens)
    slots = min(2 * known.k, known.num_experts)
    streams = known.experts.transpose(1, 0, 2).reshape(known.layers, -1).tolist()

    def timed(work: Callable[[], object]) -> Callable[[], float]:
        def once() -> float:
            start = time.perf_counter()
            work()
            return 1e3 * (time.perf_counter() - start)

        return once

    def everything() -> None:
        for policy in POLICIES:
            curve(known, Settings(policy, slots, calibration=ITSELF))

    def oracle() -> None:
        for stream in streams:  # one expert at a time: no event rule, so its hits are not ours
            cache: cachetools.LRUCache[int, bool] = cachetools.LRUCache(slots)
            for expert in stream:
                if expert in cache:
                    cache[expert]
                else:
                    cache[expert] = True

    work: dict[str, Callable[[], object]] = {
        f"ms, {len(POLICIES)} policies x {known.num_experts - known.k + 1} slot counts": everything,
        **{
            f"ms, hits of {policy} at {slots} slots": partial(curve, known, Settings(policy, slots), [slots])
            for policy in ("lru", "lfu", "lfu-resident")
        },
        f"ms, lru at {slots} slots event by event": lambda: replay(known, Settings("lru", slots)),
        f"ms, cachetools.LRUCache({slots}) on the same accesses": oracle,
    }
    found = interleaved({name: timed(one) for name, one in work.items()}, repeats)
    return {"accesses": float(known.experts.size), **{name: spread(values) for name, values in found.items()}}

"""How fast a filled slow tier gives this model's experts: what the page says of the tier, and what models of
time begin with.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from statistics import median

from moeviz.core.machines import Machine
from moeviz.core.run import Tier
from moeviz.engine.aligned import aligned
from moeviz.engine.link import least_ns
from moeviz.engine.store import Store


def measure(
    store: Store,
    copy: Callable[[int, int], None],
    unpack: Callable[[], None] | None = None,
    pace: Machine | None = None,
    overlaps: bool = True,
    repeats: int = 24,
) -> Tier:
    """Latency and bandwidth of the tier with this model's experts: median of single reads until the expert
    can be used, and reads back to back.

    copy: what copies (layer, expert) over the link as a run does; unpack: what unpacks one that has arrived,
    None where they come as a slot has them; pace: the link that every copy is slowed down to; overlaps:
    whether copies run beside compute. Raises StoreError where a record is damaged.
    """
    layout = store.layout
    record = aligned(1, layout.record_bytes)[0]
    least = least_ns(pace, layout)
    places = [(i * 7 % layout.layers, i * 5 % layout.experts) for i in range(repeats)]
    for layer, expert in set(places):  # before the clock runs: a checksum is no part of a copy
        store.read(layer, expert, record)
        store.check(layer, expert, record)
    took, unpacking = [], []
    for layer, expert in places:
        start = time.perf_counter_ns()
        copy(layer, expert)
        took.append(max(least, time.perf_counter_ns() - start))
    for _ in range(3 if unpack is not None else 0):
        start = time.perf_counter_ns()
        unpack()
        unpacking.append(time.perf_counter_ns() - start)
    whole = 0
    for layer, expert in places:
        start = time.perf_counter_ns()
        copy(layer, expert)
        whole += max(least, time.perf_counter_ns() - start)
    usual, unpacked = median(took), median(unpacking or [0])
    return Tier(
        kind=store.kind,
        latency_ms=(usual + unpacked) / 1e6,
        gigabytes_per_second=repeats * layout.record_bytes / whole,
        page_cache_bypassed=store.page_cache_bypassed,
        pace=pace,
        keeps_pace=pace is None or usual <= least * 1.1,
        unpack_ms=unpacked / 1e6,
        overlaps=overlaps,
    )

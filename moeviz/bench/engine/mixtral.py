"""A random Mixtral of 30 layers x 8 experts of 5.3 MB in bfloat16, with half of its experts in slots: beside
transformers with all of them in memory, and beside accelerate's disk offload of the same checkpoint.

accelerate copies every expert of a layer when the layer is reached, out of the page cache as long as memory
holds the file. So the engine is measured with both of its slow tiers: host memory, where what both read is in
memory, and disk, which it reads past the page cache. Takes 4 GB of disk and as much memory.

python -m moeviz bench engine --only mixtral
"""

from __future__ import annotations

import tempfile
from pathlib import Path
from typing import Any

from moeviz.amounts import size as bytes_of
from moeviz.bench.engine.racing import (
    alone,
    faster,
    fastest,
    greedy,
    race,
    recorded,
    sampled,
    served,
    speeds,
)
from moeviz.bench.engine.rows import Work
from moeviz.core.settings import Settings
from moeviz.engine.alone import Alone
from moeviz.engine.loader import TIERS, load
from moeviz.engine.made import Made, made
from moeviz.engine.tiers import disk_free, host_free
from moeviz.numbers import metrics

SIZE = Made("mixtral", 30, 8, 2, hidden=1_024, inner=864, dtype="bfloat16")
OFFLOADED = "accelerate's disk offload"


def measure(work: Work, size: Made = SIZE) -> dict[str, Any]:
    """Tokens per second of all of them, and the engine's ratios to transformers' fastest backend and to
    accelerate; a fifth of the tokens, and a tenth where accelerate generates them."""
    name = f"Mixtral of {size.label}"
    disk = disk_free(Path(tempfile.gettempdir()))[0]
    need, there = 3.2 * size.all_bytes, {"memory": host_free(), "disk": disk}
    for what, free in there.items():
        if need > free:
            return {name: f"left out: it needs {bytes_of(need)} of {what}, of {bytes_of(free)} left"}
    tokens, few = max(2, work.tokens // 5), max(2, work.tokens // 10)
    half, options = Settings("lru", size.experts // 2), sampled(greedy(tokens))
    with made(size) as folder:
        models = {tier: load(folder, tier=tier, device=work.device, dtype=size.dtype) for tier in TIERS}
        offloaded = Alone(folder, size.dtype, work.device, Path(folder).parent / "offloaded")
        hits = metrics.summary(recorded(models["host"], half, options)).decode.hit_ratio
        found = race(
            {
                **alone(Alone(folder, size.dtype, work.device), tokens),
                **{f"half the slots, {tier}": served(one, half, options) for tier, one in models.items()},
                OFFLOADED: alone(offloaded, few, ("eager",))["transformers, eager"],
            },
            work.repeats,
        )
        for one in models.values():
            one.store.close()
    rival, (disked, host) = fastest(found), (f"half the slots, {tier}" for tier in TIERS)
    return {
        **speeds(name, found),
        f"{name}: hit ratio of decode at half the slots": hits,
        **faster(name, found, host, rival, ">= 1"),
        **faster(name, found, host, OFFLOADED, ">= 1.6"),
        **faster(name, found, disked, OFFLOADED, ">= 1.6"),
    }

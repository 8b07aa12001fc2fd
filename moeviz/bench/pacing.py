"""How well a paced link keeps its time, in a real run: beside compute, with guesses in its queue."""

from __future__ import annotations

import statistics
from typing import Any

import numpy as np

from moeviz.core.machines import MACHINES, TYPED, Machine
from moeviz.core.settings import Settings

LINKS = (*MACHINES, Machine(TYPED, 0.0, 0.5), Machine(TYPED, 1.0, 0.05))


def pacing(tokens: int = 100) -> dict[str, Any]:
    """Time of a copy over the time that was asked for, on the bundled model in host memory: median [5th to
    95th percentile].

    Above 1 throughout: the link was asked to be faster than this machine's memory.
    """
    from moeviz.engine import measure
    from moeviz.engine.loader import load, use_threads
    from moeviz.engine.session import Options

    use_threads(1)
    loaded = load(tier="host", device="cpu")
    options = Options(max_new_tokens=tokens, temperature=0.0, stop_at_end=False, guesses=False)
    values: dict[str, Any] = {}
    for machine in LINKS:
        figures = f"{machine.gigabytes_per_second:g},{machine.latency_ms:g}"
        model = measure.paced(loaded, figures)
        settings = Settings("lru", 3, prefetch="next-gate")
        times = measure.record(model, "In the beginning", settings, options)[1].times
        assert times is not None
        took = (times.load_end - times.load_start)[times.load_start >= 0]
        asked = machine.copy_ms(loaded.store.layout.link_bytes)
        over = took / 1e6 / asked
        low, high = np.quantile(over, [0.05, 0.95])
        name = f"{machine.label if machine.name == TYPED else machine.name}, {asked:.3f} ms"
        values[name] = {"median": statistics.median(over), "least": float(low), "most": float(high)}
    return values

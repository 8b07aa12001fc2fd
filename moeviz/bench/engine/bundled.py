"""Decoding beside transformers with every expert in memory, in float32 and bfloat16: with every expert in a
slot, and with half the slots and the slow tier in host memory. Trace and guesses are recorded.

python -m moeviz bench engine --only bundled
"""

from __future__ import annotations

from typing import Any

from moeviz.bench.engine.racing import alone, faster, fastest, greedy, race, served, speeds
from moeviz.bench.engine.rows import DTYPES, Work
from moeviz.core.settings import Settings
from moeviz.engine.alone import Alone
from moeviz.engine.loader import load
from moeviz.engine.measure import RESIDENT

GOALS = {"resident": ">= 1.1", "half the slots": ">= 1"}


def measure(work: Work) -> dict[str, Any]:
    """Tokens per second of both and of each of transformers' experts backends, and the ratios to the fastest
    of these."""
    figures: dict[str, Any] = {}
    options = greedy(work.tokens)
    for dtype in DTYPES:
        loaded = load(work.folder, tier="host", device=work.device, dtype=dtype)
        half = Settings("lru", max(loaded.k, loaded.experts // 2))
        candidates = {
            **alone(Alone(work.folder, dtype, work.device), work.tokens),
            "resident": served(loaded, RESIDENT, options),
            "half the slots": served(loaded, half, options),
        }
        found = race(candidates, work.repeats)
        loaded.store.close()
        rival = fastest(found)
        figures |= speeds(dtype, found)
        for name, goal in GOALS.items():
            figures |= faster(dtype, found, name, rival, goal)
    return figures

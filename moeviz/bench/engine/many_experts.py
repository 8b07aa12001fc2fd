"""Decoding beside transformers on random models of many small experts, as those of Qwen3-30B-A3B in kind:
top-8 of 64 and of 128 experts in 16 layers, float32.

python -m moeviz bench engine --only many-experts
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from moeviz.bench.engine.racing import alone, faster, fastest, greedy, race, sampled, served, speeds
from moeviz.bench.engine.rows import Work
from moeviz.engine.alone import Alone
from moeviz.engine.loader import load
from moeviz.engine.made import Made, made
from moeviz.engine.measure import RESIDENT

# 0.2 MB an expert: 0.2 and 0.4 GB of experts, thrice in memory
SIZES = [Made("qwen3_moe", 16, experts, 8, hidden=256, inner=64) for experts in (64, 128)]


def measure(work: Work, sizes: Sequence[Made] = SIZES) -> dict[str, Any]:
    """Tokens per second with every expert in a slot, trace and guesses recorded, and of each of transformers'
    experts backends, and the ratio to the fastest of these."""
    figures: dict[str, Any] = {}
    for size in sizes:
        with made(size) as folder:
            loaded = load(folder, tier="host", device=work.device, dtype=size.dtype)
            candidates = {
                **alone(Alone(folder, size.dtype, work.device), work.tokens),
                "resident": served(loaded, RESIDENT, sampled(greedy(work.tokens))),
            }
            found = race(candidates, work.repeats)
            loaded.store.close()
        rival = fastest(found)
        figures |= speeds(size.label, found)
        figures |= faster(size.label, found, "resident", rival, ">= 1.05")
    return figures

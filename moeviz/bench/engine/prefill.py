"""A prompt of 1,000 tokens with half the slots and the slow tier on disk, beside every expert in a slot.

python -m moeviz bench engine --only prefill
"""

from __future__ import annotations

from typing import Any

from moeviz.bench.engine.racing import greedy, over
from moeviz.bench.engine.rows import PROMPT, Work
from moeviz.bench.rounds import interleaved, spread
from moeviz.core.settings import Settings
from moeviz.engine.loader import Loaded, load
from moeviz.engine.measure import RESIDENT, record

TOKENS = 1_000


def measure(work: Work, tokens: int = TOKENS) -> dict[str, Any]:
    """Milliseconds of the prompt's pass both ways, and their ratio."""
    loaded = load(work.folder, tier="disk", device=work.device, dtype="float32")
    half, prompt = Settings("lru", max(loaded.k, loaded.experts // 2)), _prompt(loaded, tokens)

    def took(settings: Settings) -> float:
        times = record(loaded, prompt, settings, greedy(1))[1].times
        assert times is not None
        return float(times.pass_wall[0]) / 1e6

    for settings in (RESIDENT, half):
        took(settings)  # warms up
    both = {"half the slots": lambda: took(half), "resident": lambda: took(RESIDENT)}
    found = interleaved(both, work.repeats)
    loaded.store.close()
    name = f"prefill of {tokens:,} tokens"
    ratio = spread(over(found["half the slots"], found["resident"]), "<= 1.05")
    return {f"{name}: ms, {what}": spread(values) for what, values in found.items()} | {
        f"{name}: time at half the slots on disk / resident": ratio
    }


def _prompt(loaded: Loaded, tokens: int) -> str:
    """A text of about so many tokens."""
    ids = loaded.tokenizer(PROMPT)["input_ids"]
    return str(loaded.tokenizer.decode((ids * tokens)[:tokens]))

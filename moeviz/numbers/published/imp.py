"""kekzl/imp on GitHub, pull request 2061 of 2026-09-21: Qwen3.8-Flash-Next in NVFP4.

One generation of 300 tokens, replayed by its tools/analysis/expert_cache_sim.py, which gave 62.0% at 186
slots where the engine itself had counted 62.7%. Slots are per layer, 512 of them are all experts.
"""

from moeviz.numbers.published.publication import publish

publish(
    "imp",
    "github.com/kekzl/imp, pull request 2061",
    "Qwen3.8-Flash-Next",
    (48, 512, 10),
    "layer",
    "One text of 300 tokens, so that misses of experts never seen before count for much.",
    (93, 186, 279, 372, 512),
    lru=(43.5, 62.0, 72.0, 78.9, 85.0),
)

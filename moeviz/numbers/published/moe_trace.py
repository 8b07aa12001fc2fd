"""gajsanders/moe-trace on GitHub, docs/findings/007_cache_policy_headroom.md at b8393fa: Qwen3-30B-A3B in 4
bits (MLX).

25 prompts of five kinds, 3,225 decoded tokens; a cache of its own for each MoE layer, emptied before each
prompt. Its "oracle" keeps what is needed soonest, as belady does. Whether its LFU keeps counts of who left
is not said there.
"""

from moeviz.numbers.published.publication import publish

publish(
    "moe-trace",
    "github.com/gajsanders/moe-trace, finding 007",
    "Qwen3-30B-A3B",
    (48, 128, 8),
    "layer",
    "25 prompts, decode alone, a cold cache for each; its oracle is shown as belady, the flavour of its LFU "
    "is not said.",
    (8, 16, 32, 64),
    lru=(42.4, 64.7, 81.0, 91.8),
    lfu=(42.5, 61.5, 79.5, 91.7),
    random=(36.5, 58.2, 76.7, 90.6),
    belady=(60.8, 78.4, 88.8, 92.9),
)

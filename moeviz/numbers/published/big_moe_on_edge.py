"""Helldez/BigMoeOnEdge on GitHub, docs/bench-data/2026-07-20-cache-replay/*-curve.txt of 2026-07-20: three
models, 4 bits.

Replays of one recorded text of 64 to 128 tokens each, decode alone, cold, the experts of a layer needed at
once. Budgets are in MiB; an expert's mean size makes slots of them. Its columns "layer" and "layerlfu"
share the budget equally over the layers, with LRU and LFU in each; budgets in which a layer does not hold
one token's experts are left out of those.
"""

from moeviz.numbers.published.publication import publish

_BUDGETS = (250, 500, 750, 1_000, 1_500, 2_000, 2_500, 3_000, 4_000, 6_000, 8_000)  # MiB
_TOLD = "One text, decode alone, cold; slots are what a budget in MiB has room for."


def _curves(
    model: str,
    shape: tuple[int, int, int],
    expert: float,
    one_pool: dict[str, tuple[float, ...]],
    in_layers: dict[str, tuple[float, ...]],
) -> None:
    """expert: its mean size in MiB; in_layers: for the largest budgets."""
    slots = [budget / expert for budget in _BUDGETS]
    source = "github.com/Helldez/BigMoeOnEdge, docs/bench-data/2026-07-20-cache-replay"
    publish("BigMoeOnEdge", source, model, shape, "model", _TOLD, slots, **one_pool)
    count = len(in_layers["lru"])
    shared = [one / shape[0] for one in slots[-count:]]
    publish("BigMoeOnEdge", source, model, shape, "layer", _TOLD, shared, **in_layers)


_curves(
    "Qwen3-30B-A3B",
    (48, 128, 6),
    2.92,
    {
        "belady": (27.5, 45.3, 55.4, 62.7, 72.7, 79.4, 84.1, 87.8, 92.7, 96.6, 97.1),
        "lru": (0.0, 0.0, 0.0, 37.7, 47.0, 56.5, 65.1, 70.6, 80.3, 92.1, 96.0),
        "lfu": (17.1, 26.6, 34.1, 40.2, 50.3, 58.6, 65.5, 71.3, 80.8, 92.0, 96.0),
        "random": (1.5, 9.8, 18.9, 26.7, 39.3, 49.1, 56.9, 63.6, 74.0, 86.6, 93.1),
    },
    {
        "lru": (42.3, 50.5, 59.4, 65.4, 71.1, 79.7, 90.3, 95.0),
        "lfu": (45.1, 55.2, 63.3, 68.9, 74.2, 81.7, 91.0, 95.2),
    },
)
_curves(
    "gpt-oss-120b",
    (36, 128, 2),
    12.61,
    {
        "belady": (17.9, 29.4, 37.2, 43.5, 53.2, 59.9, 64.5, 67.8, 73.0, 81.0, 85.0),
        "lru": (0.0, 0.0, 0.0, 17.7, 18.0, 30.9, 41.7, 44.8, 51.7, 59.5, 65.9),
        "lfu": (8.2, 14.2, 18.7, 23.3, 29.6, 35.0, 39.7, 43.6, 49.8, 59.7, 66.1),
        "random": (0.3, 3.4, 7.7, 11.3, 19.2, 26.5, 31.7, 37.1, 42.1, 52.1, 58.6),
    },
    {
        "lru": (19.1, 25.9, 34.5, 41.2, 45.9, 52.1, 61.6, 67.7),
        "lfu": (19.1, 27.4, 34.2, 40.2, 44.5, 50.8, 61.8, 67.7),
    },
)
_curves(
    "gemma-4-26B-A4B",
    (30, 128, 6),
    4.14,
    {
        "belady": (29.3, 48.2, 58.1, 65.7, 74.9, 80.6, 85.1, 88.6, 92.9, 96.4, 96.4),
        "lru": (0.0, 0.0, 35.4, 36.1, 51.1, 62.2, 67.8, 73.1, 81.9, 93.3, 96.2),
        "lfu": (18.4, 30.5, 39.0, 45.8, 56.4, 64.1, 70.3, 75.5, 83.4, 93.6, 96.2),
        "random": (2.5, 12.5, 22.2, 30.8, 43.3, 52.8, 60.0, 66.6, 75.9, 88.2, 94.9),
    },
    {
        "lru": (37.5, 43.0, 55.0, 63.9, 69.9, 74.8, 82.2, 92.3, 95.5),
        "lfu": (38.8, 47.7, 59.8, 67.6, 73.7, 78.1, 84.3, 92.9, 95.6),
    },
)

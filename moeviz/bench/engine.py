"""What recording the routers' guesses costs the bundled model.

python -m moeviz bench engine
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from moeviz.bench.rounds import interleaved, spread


def engine(repeats: int, tokens: int) -> dict[str, Any]:
    """What recording the routers' guesses costs: tokens per second with and without, and their ratio, round by round."""
    from moeviz.core.settings import Settings
    from moeviz.engine import measure
    from moeviz.engine.loader import load, use_threads
    from moeviz.engine.session import Options

    use_threads(1)
    loaded = load()

    def speed(guesses: bool) -> Callable[[], float]:
        options = Options(max_new_tokens=tokens, stop_at_end=False, guesses=guesses)

        def once() -> float:
            _, run = measure.record(loaded, "And it came to pass", Settings("lru"), options)
            assert run.times is not None
            return float(len(run.passes.phase[1:]) / (run.times.pass_wall[1:].sum() / 1e9))

        return once

    speed(True)()  # warms up
    found = interleaved({"guesses recorded": speed(True), "guesses not recorded": speed(False)}, repeats)
    ratio = [b / a for a, b in zip(*found.values(), strict=True)]
    return {
        **{f"tokens/s, {name}": spread(values) for name, values in found.items()},
        "time with / without": spread(ratio),
    }

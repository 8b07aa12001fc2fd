"""How fast the engine decodes, beside transformers with all experts in memory.

python -m moeviz bench engine
"""

from __future__ import annotations

import statistics
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

from moeviz.bench.rounds import interleaved, spread

if TYPE_CHECKING:
    from moeviz.engine.loader import Loaded

PROMPT = "And it came to pass"
DTYPES = ("float32", "bfloat16")


def engine(repeats: int, tokens: int, name: str = "") -> dict[str, Any]:
    """How fast the engine decodes beside transformers with all experts in memory, on one thread, in both
    dtypes.

    `name` is the folder of a model, empty the bundled one. Gives tokens per second of transformers with each
    of its experts backends, of the engine with every expert in a slot (with and without recording the
    routers' guesses), and with half the slots and the host tier; and the engine's ratios to the fastest
    backend, round by round.
    """
    from moeviz.engine.loader import BUNDLED, load, use_threads

    use_threads(1)
    folder = name or str(BUNDLED)
    answer: dict[str, Any] = {}
    for dtype in DTYPES:
        loaded = load(folder, tier="host", device="cpu", dtype=dtype)
        work = {
            **{f"transformers, {backend}": one for backend, one in _alone(folder, dtype, tokens).items()},
            **_served(loaded, tokens),
        }
        for one in work.values():
            one()  # warms up
        found = interleaved(work, repeats)
        fastest = max(
            (backend for backend in found if backend.startswith("transformers")),
            key=lambda backend: statistics.median(found[backend]),
        )
        for what, speeds in found.items():
            answer[f"{dtype}: tokens/s, {what}"] = spread(speeds)
        for what in work:
            if not what.startswith("transformers"):
                ratio = [ours / theirs for ours, theirs in zip(found[what], found[fastest], strict=True)]
                answer[f"{dtype}: {what} / {fastest}"] = spread(ratio)
        pairs = zip(found["resident"], found["resident, no guesses"], strict=True)
        answer[f"{dtype}: time with guesses / without"] = spread(
            [without / with_ for with_, without in pairs]
        )
        loaded.store.close()
    return answer


def _served(loaded: Loaded, tokens: int) -> dict[str, Callable[[], float]]:
    """Tokens per second by the median decode pass of the engine, by setting."""
    from moeviz.core.settings import Settings
    from moeviz.engine import measure
    from moeviz.engine.session import Options

    def speed(settings: Settings, guesses: bool = True) -> Callable[[], float]:
        options = Options(max_new_tokens=tokens, temperature=0.0, stop_at_end=False, guesses=guesses)

        def once() -> float:
            _, run = measure.record(loaded, PROMPT, settings, options)
            assert run.times is not None
            return float(1e9 / statistics.median(run.times.pass_wall[1:].tolist()))

        return once

    return {
        "resident": speed(measure.RESIDENT),
        "resident, no guesses": speed(measure.RESIDENT, guesses=False),
        "half the slots": speed(Settings("lru", max(loaded.k, loaded.experts // 2))),
    }


def _alone(folder: str, dtype: str, tokens: int) -> dict[str, Callable[[], float]]:
    """Tokens per second by the median decode pass of transformers with all experts in memory, by experts
    backend.
    """
    from moeviz.engine.alone import BACKENDS, Alone

    model = Alone(folder, dtype)

    def speed(backend: str) -> Callable[[], float]:
        return lambda: 1e9 / statistics.median(model.pass_ns(backend, PROMPT, tokens)[1:])

    return {backend: speed(backend) for backend in BACKENDS}

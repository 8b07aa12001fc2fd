"""How fast the engine decodes, beside transformers with all experts in memory.

python -m moeviz bench engine
"""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

from moeviz.bench.rounds import interleaved, spread

if TYPE_CHECKING:
    from moeviz.core.settings import Settings
    from moeviz.engine.loader import Loaded
    from moeviz.engine.session import Options

PROMPT = "And it came to pass"
DTYPES = ("float32", "bfloat16")


def engine(repeats: int, tokens: int, name: str = "") -> dict[str, Any]:
    """How fast the engine decodes beside transformers with all experts in memory, on one thread, in both
    dtypes.

    `name` is the folder of a model, empty the bundled one. Gives tokens per second of transformers with each
    of its experts backends, of the engine with every expert in a slot (with and without recording the
    routers' guesses), and with half the slots and the host tier; and the engine's ratios to the fastest
    backend, round by round. Then what offloading costs beside its copies (`_overhead`).
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
        for what, found_each in _overhead(loaded, tokens, repeats).items():
            answer[f"{dtype}: {what}"] = spread(found_each)
        loaded.store.close()
    return answer


def _overhead(loaded: Loaded, tokens: int, repeats: int) -> dict[str, list[float]]:
    """What offloading costs beside its copies, round by round, without guesses: decoding on demand over
    decoding from slots and the copies' own time; how long a miss takes beside its copy; and the part of an
    event that the cache and its policy take, at half the slots.
    """
    from moeviz.core.settings import Settings
    from moeviz.engine import measure
    from moeviz.engine.session import Options

    options = Options(max_new_tokens=tokens, temperature=0.0, stop_at_end=False, guesses=False)
    found: dict[str, list[float]] = {
        "on demand, time / resident's and its copies'": [],
        "on demand, microseconds of a miss beside its copy": [],
        "cache and policy / time of an event, half the slots": [],
    }
    on_demand, by_slots, share = found.values()
    for _ in range(repeats):
        resident = measure.record(loaded, PROMPT, measure.RESIDENT, options)[1]
        run = measure.record(loaded, PROMPT, Settings(baseline="on-demand"), options)[1]
        assert run.times is not None
        assert resident.times is not None
        decoded = run.events.forward_pass[run.loads.event] > 0
        copies = float((run.times.load_end - run.times.load_start)[decoded].sum())
        plain = float(resident.times.pass_wall[1:].sum()) + copies
        wall = float(run.times.pass_wall[1:].sum())
        on_demand.append(wall / plain)
        by_slots.append((wall - plain) / max(int(decoded.sum()), 1) / 1e3)
        share.append(_cache_share(loaded, Settings("lru", max(loaded.k, loaded.experts // 2)), options))
    return found


def _cache_share(loaded: Loaded, settings: Settings, options: Options) -> float:
    """The part of its events' time that a run spends in its cache."""
    from moeviz.core.cache import ExpertCache
    from moeviz.engine import measure
    from moeviz.engine.serving import Serving

    spent = {"cache": 0, "event": 0}

    def timed(owner: type, name: str, what: str) -> Callable[[], None]:
        plain = getattr(owner, name)

        def call(*args: Any, **others: Any) -> Any:
            start = time.perf_counter_ns()
            try:
                return plain(*args, **others)
            finally:
                spent[what] += time.perf_counter_ns() - start

        setattr(owner, name, call)
        return lambda: setattr(owner, name, plain)

    undo = [
        timed(ExpertCache, "demand", "cache"),
        timed(ExpertCache, "speculate", "cache"),
        timed(Serving, "serve", "event"),
    ]
    try:
        measure.record(loaded, PROMPT, settings, options)
    finally:
        for one in undo:
            one()
    return spent["cache"] / spent["event"]


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

"""What `moeviz.capture` costs the code that runs a model: decoding with it and without, on one thread.

python -m moeviz bench capture
"""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Any

from moeviz.bench.rounds import interleaved, spread

PROMPT = "And it came to pass"


def capturing(repeats: int, tokens: int) -> dict[str, Any]:
    """Processor time of a generation of the bundled model with all experts in memory, and its ratios, round
    by round.
    """
    from moeviz.engine.imports import import_engine

    import_engine()
    from moeviz.engine.alone import Alone
    from moeviz.engine.capture import capture
    from moeviz.engine.loader import BUNDLED, use_threads

    use_threads(1)
    alone = Alone(BUNDLED, "float32")

    def plain() -> float:
        start = time.process_time()  # of one thread: what others do on this machine is not in it
        alone.pass_ns("eager", PROMPT, tokens)
        return time.process_time() - start

    def captured(verify: bool) -> Callable[[], float]:
        def once() -> float:
            with capture(alone.model, verify=verify):
                return plain()

        return once

    work = {"plain": plain, "captured": captured(False), "captured, verified": captured(True)}
    for one in work.values():
        one()  # warms up
    found = interleaved(work, repeats)
    ratios = {
        f"time {what} / plain": spread(
            [ours / theirs for ours, theirs in zip(found[what], found["plain"], strict=True)]
        )
        for what in list(work)[1:]
    }
    return {f"s, {what}": spread(values) for what, values in found.items()} | ratios

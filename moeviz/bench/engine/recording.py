"""What recording costs: decoding from slots with trace and guesses recorded, over decoding with neither.

Nothing stalls then, which would hide it, and all of it is one thread's work: it is that thread's processor
time, in which what else the machine does is not.

python -m moeviz bench engine --only recording
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from functools import partial
from itertools import pairwise
from typing import Any

from moeviz.bench.engine.racing import greedy, race, slower
from moeviz.bench.engine.rows import DTYPES, PROMPT, Work
from moeviz.engine.loader import Loaded, load
from moeviz.engine.measure import RESIDENT
from moeviz.engine.serving import Serving
from moeviz.engine.session import Batch, encode, generate, passes


class _Nothing:
    """Stands for a recorder and writes nothing."""

    def __getattr__(self, name: str) -> Any:
        return lambda *values: 0


class _Silent(Serving):
    """A run of which nothing is told."""

    def end_pass(self, *values: Any) -> Any:
        self._clock.end_pass()


def measure(work: Work) -> dict[str, Any]:
    """Time of a decode pass with everything recorded, and with the trace alone, over that with nothing."""
    figures: dict[str, Any] = {}
    for dtype in DTYPES:
        loaded = load(work.folder, tier="host", device=work.device, dtype=dtype)
        ways: dict[str, Callable[[], list[int]]] = {
            "trace and guesses": partial(_passes, partial(_with_guesses, loaded, work.tokens, True)),
            "trace": partial(_passes, partial(_with_guesses, loaded, work.tokens, False)),
            "nothing": partial(_passes, partial(_silent, loaded, work.tokens)),
        }
        found = race(ways, work.repeats)
        loaded.store.close()
        for name, goal in {"trace and guesses": "<= 1.02", "trace": ""}.items():
            label = f"{dtype}: time, {name} recorded / nothing recorded"
            figures |= slower(label, found[name], found["nothing"], goal)
    return figures


def _with_guesses(loaded: Loaded, tokens: int, guesses: bool) -> Iterator[object]:
    return generate(loaded, PROMPT, RESIDENT, greedy(tokens, guesses))


def _silent(loaded: Loaded, tokens: int) -> Iterator[object]:
    options = greedy(tokens, guesses=False)
    serving = _Silent(loaded, RESIDENT, guesses=False)
    serving.cache.recorder = _Nothing()  # type: ignore[assignment]
    return passes(loaded, Batch([encode(loaded, PROMPT, options)], loaded), [], serving, options)


def _passes(begin: Callable[[], Iterator[object]]) -> list[int]:
    """Nanoseconds of each decode pass of a run."""
    ends = [time.thread_time_ns() for _ in begin()]
    return [after - before for before, after in pairwise(ends)]

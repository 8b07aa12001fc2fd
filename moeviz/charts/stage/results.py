"""A measured comparison for the stage's first screen: speeds, where the time of a token goes, the verdict.

results_of([(Settings("lru"), runs_of_lru), (Settings("lfu"), runs_of_lfu)], "Measured, 5 pairs")
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from moeviz.core.run import Run
from moeviz.core.settings import Settings
from moeviz.numbers import medians, timing
from moeviz.numbers.timing import Stack
from moeviz.words import per_second, setting_names, speed_verdict


def results_of(
    measured: Sequence[tuple[Settings, Sequence[Run]]], title: str, stale: bool = False
) -> dict[str, Any] | None:
    """The repeats of each Settings as values that JSON can hold: for each its name, its tokens per second and
    the parts of a token's time, ms, of the median repeat, and the time of a token in every repeat, ms; and
    what the first two's pairs allow to say.

    `title`: what was measured. `stale`: whether the boards show something else by now; then the result is
    dimmed. None where no repeat decoded a token.
    """
    timed = [
        (settings, runs, medians.repeated(runs), stack)
        for settings, runs in measured
        if (stack := medians.median_stack(runs)) is not None
    ]
    if not timed:
        return None
    names = setting_names([settings for settings, *_ in timed])
    short = [name.partition(" (")[0] for name in names]
    names = short if len(set(short)) == len(names) else names  # the bars need the room
    caches = [n for n, (settings, *_) in enumerate(timed) if not settings.baseline][:2]
    verdict = ""
    if len(caches) == 2:
        first, second = caches
        verdict = speed_verdict(names[second], timed[first][2], timed[second][2]) + "."
    return {
        "title": title,
        "stale": stale,
        "verdict": verdict[:1].upper() + verdict[1:],
        "rows": [
            {
                "name": name,
                "speed": per_second(found.median.times),
                "ms": _parts(stack),
                "repeats": [sum(_parts(one)) for one in map(timing.stack, runs) if one is not None],
                "board": caches.index(n) if n in caches else None,
            }
            for n, (name, (_, runs, found, stack)) in enumerate(zip(names, timed, strict=True))
        ],
    }


def _parts(found: Stack) -> list[float]:
    return [found.compute, found.stall, max(found.other, 0.0)]

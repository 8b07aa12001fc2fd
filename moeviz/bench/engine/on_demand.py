"""What offloading costs beside its copies: every expert copied every time, out of host memory, beside
decoding from slots and the copies' own time. The difference is the hand-off of the misses.

python -m moeviz bench engine --only on-demand
"""

from __future__ import annotations

from typing import Any

from moeviz.bench.engine.racing import decode_ns, greedy, recorded
from moeviz.bench.engine.rows import DTYPES, Work
from moeviz.bench.rounds import spread
from moeviz.core.settings import Settings
from moeviz.engine.loader import Loaded, load
from moeviz.engine.measure import RESIDENT


def measure(work: Work) -> dict[str, Any]:
    """The ratio, and microseconds of a miss beside its copy."""
    figures: dict[str, Any] = {}
    for dtype in DTYPES:
        loaded = load(work.folder, tier="host", device="cpu", dtype=dtype)
        rounds = [_round(loaded, work.tokens) for _ in range(1 + work.repeats)][1:]  # the first warms up
        loaded.store.close()
        ratios, misses = zip(*rounds, strict=True)
        figures |= {
            f"{dtype}: on demand, time / resident's and its copies'": spread(ratios, "<= 1.03"),
            f"{dtype}: on demand, us of a miss beside its copy": spread(misses),
        }
    return figures


def _round(loaded: Loaded, tokens: int) -> tuple[float, float]:
    options = greedy(tokens, guesses=False)
    resident = recorded(loaded, RESIDENT, options)
    run = recorded(loaded, Settings(baseline="on-demand"), options)
    assert run.times is not None
    decoded = run.events.forward_pass[run.loads.event] > 0
    copies = float((run.times.load_end - run.times.load_start)[decoded].sum())
    plain, wall = sum(decode_ns(resident)) + copies, sum(decode_ns(run))
    return wall / plain, (wall - plain) / max(int(decoded.sum()), 1) / 1e3

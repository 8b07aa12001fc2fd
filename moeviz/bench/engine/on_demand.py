"""What offloading costs beside its copies: every expert copied every time, out of host memory, beside
decoding from slots and the copies' own time.

The difference is the hand-off of the misses, and what moving bytes does to whatever comes after it: it
empties the processor's cache of what compute needs next. So the same bytes are moved without any hand-off,
too: every expert of a token is in its slot, and is copied there once more before it is computed.

python -m moeviz bench engine --only on-demand
"""

from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from moeviz.bench.engine.racing import decode_ns, greedy, recorded
from moeviz.bench.engine.rows import DTYPES, PROMPT, Work
from moeviz.bench.rounds import spread
from moeviz.core.cache import Load, Wave
from moeviz.core.settings import Settings
from moeviz.engine.loader import Loaded, load
from moeviz.engine.measure import RESIDENT
from moeviz.engine.serving import Serving
from moeviz.engine.session import Batch, Options, encode, passes


def measure(work: Work) -> dict[str, Any]:
    """The ratios, and microseconds of a miss beside its copy: by rounds, and with each pass at its best."""
    figures: dict[str, Any] = {}
    for dtype in DTYPES:
        loaded = load(work.folder, tier="host", device=work.device, dtype=dtype)
        rounds = [_round(loaded, work.tokens) for _ in range(1 + work.repeats)][1:]  # the first warms up
        loaded.store.close()
        best = Passes(*(np.min([getattr(one, part) for one in rounds], axis=0) for part in Passes._fields))
        name = f"{dtype}: on demand, time / resident's and its copies'"
        moved = f"{dtype}: on demand, time / resident's that moves as many bytes"
        figures |= {
            name: spread([one.ratio for one in rounds], "<= 1.03"),
            f"{name}, each pass at its best": spread([best.ratio], "<= 1.03"),
        }
        if best.moving.size:
            figures[moved] = spread([one.beside_moving for one in rounds])
            figures[f"{moved}, each pass at its best"] = spread([best.beside_moving])
        figures |= {
            f"{dtype}: on demand, us of a miss beside its copy": spread([one.us for one in rounds]),
            f"{dtype}: on demand, us of a miss beside its copy, each pass at its best": best.us,
        }
    return figures


class Passes(NamedTuple):
    """One round's decode passes, or the best of several rounds'."""

    resident: NDArray[np.int64]  # [pass] ns with every expert in a slot
    wall: NDArray[np.int64]  # [pass] ns on demand
    copies: NDArray[np.int64]  # [pass] ns that its copies took
    misses: NDArray[np.int64]  # [pass] the same in every round
    moving: NDArray[np.int64]  # [pass] ns with every expert in a slot and copied there again; or empty

    @property
    def ratio(self) -> float:
        """Time on demand over the others'."""
        return float(self.wall.sum() / (self.resident.sum() + self.copies.sum()))

    @property
    def beside_moving(self) -> float:
        """Time on demand over that of moving its bytes without a miss."""
        return float(self.wall.sum() / self.moving.sum())

    @property
    def us(self) -> float:
        """Microseconds of a miss beside its copy."""
        rest = self.wall.sum() - self.resident.sum() - self.copies.sum()
        return float(rest / max(self.misses.sum(), 1) / 1e3)


class _Moving(Serving):
    """Every expert is in a slot, and a token's are copied there again by whoever computes them."""

    def _one_by_one(self, event: Any, wave: Wave, waiting: list[int], loads: list[Load]) -> None:
        slots, store = self._slots[self.cache.pool(event.number)], self._loaded.store
        for expert in event.rows.one_token:
            store.read(event.number, expert, slots[wave.slots[expert]])
        super()._one_by_one(event, wave, waiting, loads)


def _moving_ns(loaded: Loaded, options: Options) -> list[int]:
    """Nanoseconds of each decode pass."""
    serving = _Moving(loaded, RESIDENT, guesses=False)
    batch = Batch([encode(loaded, PROMPT, options)], loaded)
    return [record.wall_ns for record in passes(loaded, batch, [], serving, options)][1:]


def _round(loaded: Loaded, tokens: int) -> Passes:
    options = greedy(tokens, guesses=False)
    moving = _moving_ns(loaded, options) if loaded.device.type == "cpu" else []
    resident = recorded(loaded, RESIDENT, options)
    run = recorded(loaded, Settings(baseline="on-demand"), options)
    assert run.times is not None
    step = run.events.forward_pass[run.loads.event]
    took, count = run.times.load_end - run.times.load_start, len(run.passes.phase)
    copies = np.bincount(step, took, count)[1:].astype(np.int64)
    misses = np.bincount(step, minlength=count)[1:]
    return Passes(np.array(decode_ns(resident)), np.array(decode_ns(run)), copies, misses, np.array(moving))

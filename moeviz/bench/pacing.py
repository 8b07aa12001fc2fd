"""How well a paced link keeps its time, in a real run: beside compute, with guesses in its queue."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from moeviz.core.machines import MACHINES, TYPED, Machine
from moeviz.core.settings import Settings

if TYPE_CHECKING:
    from moeviz.engine.loader import Loaded

LINKS = (*MACHINES, Machine(TYPED, 0.0, 0.5), Machine(TYPED, 1.0, 0.05))

OF = (
    "Of each link: the time that a copy takes / the time that the link was asked for, which is shown in ms; "
    "median [5th to 95th percentile]. 1 is a link that keeps its time."
)


def pacing(tokens: int = 100) -> dict[str, Any]:
    """Milliseconds of a copy that this machine's memory takes, not paced; then, for each link, the time of a
    copy over the time that was asked for; on the bundled model in host memory, median [5th to 95th
    percentile].

    A copy counts from the moment at which it is asked for or, where others are before it, at which the link
    is free; to the moment at which compute may go on with its expert: when it was due, or as late as its
    bytes were moved or compute, waiting for it, woke up. Where memory takes longer than a link was asked to,
    no pace can be kept: above 1 throughout, or in the upper percentiles alone where the two are near each
    other.
    """
    from moeviz.engine.imports import import_engine

    import_engine()
    from moeviz.engine import measure
    from moeviz.engine.loader import load, use_threads
    from moeviz.engine.session import Options

    use_threads(1)
    loaded = load(tier="host", device="cpu")
    options = Options(max_new_tokens=tokens, temperature=0.0, stop_at_end=False, guesses=False)
    settings = Settings("lru", 3, prefetch="next-gate")

    def took(model: Loaded) -> NDArray[np.float64]:
        """Milliseconds of each copy of a run."""
        times = measure.record(model, "In the beginning", settings, options)[1].times
        assert times is not None
        return (times.load_end - times.load_start)[times.load_start >= 0] / 1e6

    values = {"ms by memory itself": _percentiles(took(loaded))}
    for machine in LINKS:
        figures = f"{machine.gigabytes_per_second:g},{machine.latency_ms:g}"
        asked = machine.copy_ms(loaded.store.layout.link_bytes)
        name = f"{machine.label if machine.name == TYPED else machine.name}, {asked:.3f} ms"
        values[name] = _percentiles(took(measure.paced(loaded, figures)) / asked)
    return values


def _percentiles(values: NDArray[np.float64]) -> dict[str, float]:
    least, median, most = np.quantile(values, [0.05, 0.5, 0.95]).tolist()
    return {"median": median, "least": least, "most": most}

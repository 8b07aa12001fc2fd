"""Stall with pre-fetches that are always right, beside the least that there can be: what a layer's copies
take, less the time that the layers before it give them.

The link is paced, so that copies take long enough to be waited for, and the same from run to run.

python -m moeviz bench engine --only oracle
"""

from __future__ import annotations

from typing import Any

import numpy as np

from moeviz.bench.engine.racing import greedy
from moeviz.bench.engine.rows import PROMPT, Work
from moeviz.bench.rounds import spread
from moeviz.core.run import Run
from moeviz.core.settings import Settings
from moeviz.core.trace import DECODE
from moeviz.engine.loader import load
from moeviz.engine.measure import look_ahead, paced, record

LINK = "1,0.1"  # a copy of the bundled model's experts then takes about as long as a layer
LOOKAHEADS = (1, 2)


def measure(work: Work, link: str = LINK) -> dict[str, Any]:
    """The ratio of decode for each lookahead, and milliseconds of stall a token."""
    if not work.device.startswith("cpu"):
        return {"oracle": f"left out: a link can be paced with device cpu alone, not {work.device}"}
    loaded = paced(load(work.folder, tier="host", device="cpu", dtype="float32"), link)
    options = greedy(work.tokens, guesses=False)
    half = max(loaded.k, loaded.experts // 2)
    wanted = [Settings("lru", half, prefetch="oracle", lookahead=d) for d in LOOKAHEADS]
    future = look_ahead(loaded, PROMPT, wanted[0], options)
    figures: dict[str, Any] = {}
    ratios: dict[int, list[float]] = {d: [] for d in LOOKAHEADS}  # infinite where the bound is 0
    stalls: dict[int, list[float]] = {d: [] for d in LOOKAHEADS}
    for _ in range(work.repeats):
        for settings in wanted:
            run = record(loaded, PROMPT, settings, options, future=future)[1]
            stall, least = stall_and_bound(run)
            ratios[settings.lookahead].append(stall / least if least else np.inf)
            stalls[settings.lookahead].append(stall / 1e6 / (work.tokens - 1))
    loaded.store.close()
    for d in LOOKAHEADS:
        name = f"oracle, lookahead {d}, link of {link} (GB/s,ms)"
        figures[f"{name}: stall / bound"] = (
            spread(ratios[d], "<= 1.2")
            if np.isfinite(ratios[d]).all()
            else "not measured: no copy has to be waited for. Generate more --tokens."
        )
        figures[f"{name}: ms of stall a token"] = spread(stalls[d])
    return figures


def stall_and_bound(run: Run) -> tuple[float, float]:
    """Nanoseconds of stall in decode, and the least that these loads allow: for each event what its copies
    take, less what the layers since its guess took without their stalls. What was loaded on demand, as all
    is in the first layers of a pass, has no such head start.

    The bound knows nothing of copies for an earlier layer that hold up the link.
    """
    assert run.times is not None
    times, settings = run.times, run.settings
    decode = run.passes.phase[run.events.forward_pass] == DECODE
    row = {
        (one, layer): number
        for number, (one, layer) in enumerate(
            zip(run.events.forward_pass.tolist(), run.events.layer.tolist(), strict=True)
        )
    }
    passes = run.events.forward_pass[run.loads.event].tolist()
    of = np.array([row[one] for one in zip(passes, run.loads.layer.tolist(), strict=True)], np.intp)
    took = np.maximum(times.load_end - times.load_start, 0).astype(float)
    early = run.loads.speculative
    ahead = np.bincount(of[early], took[early], len(decode))
    late = np.bincount(of[~early], took[~early], len(decode))
    d = settings.lookahead
    worked = (
        np.diff(times.event_start) - times.event_stall[:-1]
    )  # from an event to the next, but for its stall
    lead = np.zeros(len(decode))
    lead[d:] = np.convolve(worked, np.ones(d), "valid")[: len(lead) - d]
    bound = np.maximum(ahead - lead, 0) + late
    return float(times.event_stall[decode].sum()), float(bound[decode].sum())

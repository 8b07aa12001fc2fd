"""How long each forward pass takes under a run, and what compute and link do in it, packed for the browser.

A measured run brings its own times. Others are modelled by costs that were fitted on a measured run, and say
so.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from moeviz.charts.stage.packing import packed
from moeviz.core.run import Run
from moeviz.numbers.cost import Costs, fit, modelled_passes
from moeviz.numbers.lanes import KINDS, OF_LINK, Lanes, measured_passes
from moeviz.words import setting_name

MAX_EVENTS = 24_000  # with more, walking through every pass takes longer than a visitor should wait
_STEPS = 65_535  # a segment's ends are kept as shares of its pass


def times_of(
    run: Run,
    measured: Sequence[Run],
    over: tuple[str, Costs] | None = None,
    fitted: Callable[[Run], Costs] = fit,
    alike: bool = True,
) -> dict[str, Any] | None:
    """The times of a run: its own, those of a measured run that made the same decisions, or modelled ones;
    None where there are none. `over`: the name of a link and the costs with it, by which all are modelled.
    `fitted`: gives the costs of a measured run, for whoever has kept them. `alike`: what `all_timed` says of
    the runs that this one is seen beside; where it is False, modelled times are taken before measured ones.

    `source` is "measured", "modelled" or "modelled over"; `of` the settings on which modelled times rest, or
    the link. `wall`: ms of each forward pass, [F]. Where the trace is longer than MAX_EVENTS events, what
    happens within a pass is left out.
    """
    if over is not None and _fits(run):
        return {"source": "modelled over", "of": over[0], **_modelled(run, over[1])}
    own = _own(run, measured)
    known = next((one for one in measured if _decoded(one)), None)
    models = known is not None and not run.settings.baseline and _fits(run)
    if own is not None and own.times is not None and (alike or not models):
        wall = own.times.pass_wall / 1e6
        lanes = _whole(measured_passes(own, 0, len(wall)), wall) if _fits(own) else None
        return {"source": "measured", "of": setting_name(own.settings), **_packed(wall, lanes)}
    if known is None or not models:
        return None
    return {"source": "modelled", "of": setting_name(known.settings), **_modelled(run, fitted(known))}


def all_timed(runs: Sequence[Run], measured: Sequence[Run]) -> bool:
    """Whether each of the runs was measured, or made the decisions of one that was. Else runs that are seen
    side by side are modelled all: of a measured time beside a modelled one nobody knows which of the two made
    the difference.
    """
    return all(_own(run, measured) is not None for run in runs)


def _own(run: Run, measured: Sequence[Run]) -> Run | None:
    """The run that was measured for it."""
    return next((one for one in (run, *measured) if one.measured and _same(one, run)), None)


def _whole(lanes: Lanes, wall: NDArray[np.float64]) -> Lanes:
    """With what the rest of the model takes after the last MoE layer, so that the lanes last as long as the
    pass, `wall` ms, and a share of them is that share of the pass.
    """
    compute = lanes.kind < OF_LINK
    layer = np.zeros(len(wall), np.int64)
    np.maximum.at(layer, lanes.forward_pass[compute], lanes.layer[compute])  # the last one's
    end = np.zeros(len(wall))
    np.maximum.at(end, lanes.forward_pass[compute], lanes.end[compute])
    rest = np.flatnonzero(wall > end)
    other, nobody = np.full(len(rest), KINDS.index("other")), np.full(len(rest), -1)
    added = Lanes(rest, other, end[rest], wall[rest], layer[rest], nobody)
    return lanes.then(added)


def _modelled(run: Run, costs: Costs) -> dict[str, Any]:
    modelled = list(modelled_passes(run, costs))
    return _packed(
        np.array([spent for spent, _ in modelled]), Lanes.from_segments([one for _, one in modelled])
    )


def _same(measured: Run, run: Run) -> bool:
    """A measured run stands for a replay where it made the same decisions."""
    return measured is run or (
        replace(measured.settings, seed=0) == replace(run.settings, seed=0) and measured.same_decisions(run)
    )


def _decoded(run: Run) -> bool:
    return run.measured and bool((run.passes.phase == 1).any())


def _fits(run: Run) -> bool:
    return len(run.events.forward_pass) <= MAX_EVENTS


def _packed(wall: NDArray[np.float64], lanes: Lanes | None) -> dict[str, Any]:
    """Segments of all passes one after the other, their ends as shares of the pass."""
    found: dict[str, Any] = {"wall": packed(np.asarray(wall, np.float32)), "lanes": None}
    if lanes is not None:
        span = np.zeros(len(wall))
        np.maximum.at(span, lanes.forward_pass, lanes.end)
        span[span == 0] = 1.0

        def share(ends: NDArray[np.float64]) -> dict[str, str]:
            whole = span[lanes.forward_pass]
            return packed(np.rint(np.clip(ends / whole, 0, 1) * _STEPS).astype(np.int64))

        found["lanes"] = {
            "counts": packed(np.bincount(lanes.forward_pass, minlength=len(wall))),
            "lane": packed(lanes.kind >= OF_LINK),
            "kind": packed(lanes.kind),
            "start": share(lanes.start),
            "end": share(lanes.end),
            "layer": packed(lanes.layer),
            "expert": packed(lanes.expert),
        }
    return found

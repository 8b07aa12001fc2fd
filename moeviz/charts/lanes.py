"""What compute and the link do at each moment of a few forward passes.

over_passes(measured_run, first=60, count=3).alt
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import numpy as np

from moeviz.amounts import many, milliseconds
from moeviz.charts import style
from moeviz.charts.chart import Chart, kind_of
from moeviz.core.run import Run
from moeviz.numbers import cost
from moeviz.numbers.lanes import Segment, measured_lanes
from moeviz.words import from_to, passes_of

TALL = 330  # px: on a phone the legend takes some of it
MOST_OUTLINED = 150  # segments: of more, outlines would cover the colours
LOOKS = {  # kind of a segment -> (name, colour, pattern)
    "expert": ("expert computes", style.COMPUTE, ""),
    "other": ("other compute", style.OTHER, "."),
    "stall": ("stall", style.STALL, "/"),
    "demand": ("on demand", style.DEMAND, ""),
    "guess used": ("guess, used", style.USEFUL, "/"),
    "guess wasted": ("guess, wasted", style.WASTED, "x"),
}


def over_passes(
    run: Run, first: int, count: int = 1, costs: cost.Costs | None = None, whose: str = ""
) -> Chart:
    """Lanes of `count` forward passes from number `first`: as measured where the run was, else as `costs`
    model them; `whose`: of another model's run, which the title says. The customdata of a stretch is
    (pass, MoE layer, expert), expert -1 where it is of none.

    Raises ValueError where the run was not measured and there are no costs.
    """
    import pandas as pd

    if not run.measured and costs is None:
        raise ValueError("a run that was not measured needs costs to be drawn with.")
    last = min(first + count, len(run.passes.phase))
    chained = list(_chained(run, range(first, last), costs))
    segments = [one for _, one in chained]
    figure = style.blank("ms; drag to zoom, double-click to see all", "", TALL)
    for kind, (name, color, pattern) in LOOKS.items():
        own = [(step, one) for step, one in chained if one.kind == kind]
        if own:
            figure.add_bar(
                y=[one.lane for _, one in own],
                base=[one.start for _, one in own],
                x=[one.end - one.start for _, one in own],
                orientation="h",
                name=name,
                marker={
                    "color": color,
                    "pattern": style.hatch(pattern),
                    "line": {"width": 0.5 if len(chained) <= MOST_OUTLINED else 0, "color": "#000"},
                },
                customdata=np.array([[step, one.layer, one.expert] for step, one in own], np.int32),
                hovertext=[_where(one) for _, one in own],
                hovertemplate=name + ", %{hovertext}: %{base:.2f} + %{x:.2f} ms<extra></extra>",
            )
    figure.update_layout(barmode="overlay", legend_traceorder="normal", dragmode="zoom")
    figure.update_yaxes(categoryorder="array", categoryarray=["link", "compute"], fixedrange=True)
    table = pd.DataFrame(
        [
            {
                "lane": one.lane,
                "what": LOOKS[one.kind][0],
                "from ms": one.start,
                "to ms": one.end,
                "MoE layer": one.layer,
                "expert": one.expert if one.expert >= 0 else None,
            }
            for one in segments
        ],
        columns=["lane", "what", "from ms", "to ms", "MoE layer", "expert"],
    )
    several = from_to(passes_of(run)[first:last])
    kind = kind_of(run) if run.measured else "modelled"
    borrowed = f", by costs of {whose}" if whose and not run.measured else ""
    return Chart(f"Compute and link in {several}{borrowed}", figure, table, kind, _told(segments))


def _where(segment: Segment) -> str:
    return f"layer {segment.layer}" + (f", expert {segment.expert}" if segment.expert >= 0 else "")


def _chained(run: Run, steps: Sequence[int], costs: cost.Costs | None) -> Iterator[tuple[int, Segment]]:
    """Segments of several passes, each with the number of its pass, on one time axis that begins with the
    first.
    """
    begin = 0.0
    for step in steps:
        if run.times is not None:
            lanes = measured_lanes(run, step)
        else:
            assert costs is not None
            lanes = cost.modelled_lanes(run, costs, step)
        for one in lanes:
            yield step, one._replace(start=begin + one.start, end=begin + one.end)
        begin += max((one.end for one in lanes if one.lane == "compute"), default=0.0)


def _told(segments: Sequence[Segment]) -> str:
    if not segments:
        return "No expert was needed, so there is nothing to draw."
    waits = sum(one.end - one.start for one in segments if one.kind == "stall")
    whole = max((one.end for one in segments if one.lane == "compute"), default=0.0)
    copies = sum(one.lane == "link" for one in segments)
    of = f"{milliseconds(waits)} of {milliseconds(whole)}"
    return f"Compute waits {of}, for {many(copies, 'copy')} over the link."

"""A chart and everything that belongs to it.

chart = hits.over_time([("lru", run)])
chart.figure, chart.table, chart.alt
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from moeviz.core.run import Run

if TYPE_CHECKING:
    import pandas as pd
    import plotly.graph_objects as go

KINDS = {  # where a number comes from -> what that means
    "measured": "Timed while the model ran, with nobody watching.",
    "paced": "Timed while the model ran, with the link slowed down to the rate that is named.",
    "watched": "Timed while the browser drew the run: slower than a measurement, and no measurement.",
    "replayed": "Exact decisions of a cache, or guesses of a predictor, on a recorded trace; not timed.",
    "modelled": "By a cost model fitted on a measured run; not timed.",
    "recorded": "What the routers chose; the same for every cache.",
}


@dataclass(frozen=True, eq=False, slots=True)
class Chart:
    """A figure and the table behind it, made of the same numbers."""

    title: str  # short; what is shown
    figure: go.Figure
    table: pd.DataFrame  # every number that the figure draws, one row a mark
    kind: str  # a name of KINDS
    alt: str  # the finding, computed: what somebody who cannot see the figure would be told

    def __post_init__(self) -> None:
        if self.kind not in KINDS:
            raise ValueError(f"kind is {self.kind!r}; expected one of {', '.join(KINDS)}.")


def kind_of(run: Run) -> str:
    """The kind of the numbers of a run: "measured" or, over a link that was slowed down, "paced"; else
    "replayed".
    """
    if not run.measured:
        return "replayed"
    return "paced" if run.tier is not None and run.tier.pace is not None else "measured"

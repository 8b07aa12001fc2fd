"""How fast, and where the time goes: of measured repeats, or by the cost model.

speed([("lru", [run, run, run])]).table
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

import numpy as np

from moeviz.amounts import digits, milliseconds, percent
from moeviz.charts import style
from moeviz.charts.chart import Chart
from moeviz.core.run import Run
from moeviz.numbers import cost, medians, timing

if TYPE_CHECKING:
    import plotly.graph_objects as go

Measured = Sequence[tuple[str, Sequence[Run]]]  # the repeats of each named Settings


def speed(measured: Measured, kind: str = "measured") -> Chart:
    """Tokens per second: a bar at the median of the repeats, whiskers from the least to the most of them."""
    import pandas as pd

    rows = [(name, speeds) for name, runs in measured if (speeds := _speeds(runs))]
    labels = [name for name, _ in rows]
    middle = [medians.median_speed(speeds) for _, speeds in rows]
    least, most = [min(speeds) for _, speeds in rows], [max(speeds) for _, speeds in rows]
    figure = style.blank("tokens per second", "")
    figure.add_bar(
        y=[style.html_safe(label) for label in labels],
        x=middle,
        orientation="h",
        marker_color=style.SERIES[0],
        text=[digits(value) for value in middle],
        textposition="inside",
        insidetextanchor="start",
        showlegend=False,
    )
    style.whiskers(figure, labels, middle, least, most)
    style.rows(figure, len(labels))
    table = pd.DataFrame(
        {
            "settings": labels,
            "tokens per second, median": middle,
            "least": least,
            "most": most,
            "repeats": [len(speeds) for _, speeds in rows],
        }
    )
    return Chart("Tokens per second", figure, table, kind, _fastest(labels, middle, least, most))


def _speeds(runs: Sequence[Run]) -> list[float]:
    return [value for run in runs if (value := run.tokens_per_second) is not None]


def _fastest(
    labels: Sequence[str], middle: Sequence[float], least: Sequence[float], most: Sequence[float]
) -> str:
    if not labels:
        return "Nothing was timed."
    best = int(np.argmax(middle))
    text = f"{labels[best]} is fastest: {digits(middle[best])} tokens per second"
    if len(labels) == 1:
        return text + "."
    second = max((n for n in range(len(labels)) if n != best), key=lambda n: middle[n])
    other = digits(middle[second])
    if least[best] <= most[second]:
        return (
            f"{labels[best]} makes {digits(middle[best])} tokens per second, {labels[second]} {other}; their "
            "repeats overlap, so that neither is called faster."
        )
    return f"{text}; the next, {labels[second]}, makes {other}, and their repeats do not overlap."


def where_time_goes(measured: Measured, kind: str = "measured") -> Chart:
    """The parts of the time per output token: of the repeat whose time is the median one, so that its parts
    still add up, or of the two in the middle their mean.
    """
    found = [(name, part) for name, runs in measured if (part := medians.median_stack(runs)) is not None]
    spent = {name: [_total(part) for run in runs if (part := timing.stack(run))] for name, runs in measured}
    return _parts("Where the time of a token goes", found, kind, spent=spent)


def _total(part: timing.Stack) -> float:
    return part.compute + part.stall + part.other


def modelled(named: Sequence[tuple[str, Run]], costs: cost.Costs, whose: str) -> Chart:
    """The parts of the time per output token by the cost model. `whose` says whose measured run the costs
    were fitted on.
    """
    found = [(name, part) for name, run in named if (part := cost.stack(run, costs)) is not None]
    caches = [name for name, run in named if not run.settings.baseline and run.settings.policy != "belady"]
    return _parts(f"Time per token, with costs of {whose}", found, "modelled", caches)


def _parts(
    title: str,
    found: Sequence[tuple[str, timing.Stack]],
    kind: str,
    caches: Sequence[str] | None = None,
    spent: Mapping[str, Sequence[float]] | None = None,
) -> Chart:
    """`caches`: the names among which the least is looked for; all where it is None. `spent`: ms per token of
    each repeat of a name, where it was measured: where they overlap, none is called the least.
    """
    import pandas as pd

    labels = [name for name, _ in found]
    parts = [part for _, part in found]
    figure = stack_figure(labels, parts)
    totals = [_total(part) for part in parts]
    table = pd.DataFrame(
        {
            "settings": labels,
            "ms per token": totals,
            "experts compute": [part.compute for part in parts],
            "stall": [part.stall for part in parts],
            "other": [part.other for part in parts],
        }
    )
    alt = "Nothing was decoded, so no token has a time."
    if labels:
        among = [n for n, label in enumerate(labels) if caches is None or label in caches] or range(
            len(labels)
        )
        best = min(among, key=lambda n: totals[n])
        waits = parts[best].stall / totals[best] if totals[best] else 0.0
        among_which = "" if totals[best] == min(totals) else "Of the caches that know no future, "
        one = f"{milliseconds(totals[best])} per token, {percent(waits, 0)} of it waiting"
        alt = f"{among_which}{labels[best]} needs least: {one}."
        others = [name for n, name in enumerate(labels) if n != best]
        if spent is not None and any(min(spent[name]) <= max(spent[labels[best]]) for name in others):
            alt = f"{labels[best]} needs {one}; others' repeats overlap with its own."
    return Chart(title, figure, table, kind, alt)


def stack_figure(labels: Sequence[str], parts: Sequence[timing.Stack]) -> go.Figure:
    """Stacked bars of compute, stall and the rest, ms."""
    return style.stacked(
        "ms per output token",
        labels,
        {
            "experts compute": (style.COMPUTE, "", [part.compute for part in parts]),
            "stall: compute waits for a copy": (style.STALL, "/", [part.stall for part in parts]),
            "other": (style.OTHER, ".", [part.other for part in parts]),
        },
    )

"""Shares of a layer's choices: how unevenly its experts are used, how many of them serve how much, and how
much repeats from token to token.

skew(trace).alt
"""

from __future__ import annotations

from typing import Any

import numpy as np

from moeviz.charts import style
from moeviz.charts.chart import Chart
from moeviz.core.trace import Trace
from moeviz.numbers import routing
from moeviz.numbers.routing import Floats
from moeviz.words import many, part_of, percent


def skew(trace: Trace, weighted: bool = False) -> Chart:
    """How much of a layer's work its busiest quarter of experts does, beside an even share."""
    return uneven(routing.usage(trace, weighted))


def uneven(use: Floats) -> Chart:
    """use: [L, E]"""
    layers, experts = use.shape
    share = routing.top_share(use)
    quarter = max(1, round(0.25 * experts))
    even = np.full(layers, quarter / experts)
    alt = (
        f"The busiest {part_of(quarter, experts, 'expert')} {'gets' if quarter == 1 else 'get'} "
        f"{percent(float(share.mean()))} of a "
        f"layer's choices; evenly it would be {percent(float(even[0]))}."
    )
    return by_layer(
        "How uneven: the busiest quarter's share",
        {f"busiest {part_of(quarter, experts, 'expert')}": share, "if all were used alike": even},
        "share of choices",
        alt,
    )


def reuse(trace: Trace) -> Chart:
    """How much of what a token needs the token before it used too, beside chance."""
    again = routing.reuse(trace)
    chance = np.full(trace.layers, trace.k / trace.num_experts)
    known = again[~np.isnan(again)]
    alt = "Fewer than two tokens of a sequence were decoded, so nothing can repeat."
    if known.size:
        alt = (
            f"{percent(float(known.mean()))} of a token's experts were used by the token before it, too; "
            f"by chance it would be {percent(float(chance[0]))}."
        )
    lines = {"of the token before": again, f"by chance, {trace.k} of {trace.num_experts}": chance}
    return by_layer("How much repeats from token to token", lines, "share used again", alt)


def by_layer(title: str, lines: dict[str, Floats], y: str, alt: str) -> Chart:
    import pandas as pd

    figure = style.blank("MoE layer", y, 280)
    for number, (name, values) in enumerate(lines.items()):
        chance = number == len(lines) - 1 and number > 0
        look = {"color": style.OTHER, "width": 2, "dash": "dash"} if chance else style.line(number)
        figure.add_scatter(
            x=np.arange(len(values)),
            y=values,
            name=name,
            mode="lines" if chance else "lines+markers",
            line=look,
            marker={"symbol": number, "size": 8},
        )
    layers = len(next(iter(lines.values())))
    most = float(np.nanmax([np.nanmax(values, initial=0.0) for values in lines.values()]))
    figure.update_yaxes(range=[0, min(1.02, 1.15 * most or 1.0)], tickformat=".0%")
    figure.update_xaxes(dtick=1 if layers <= 16 else None)
    table = pd.DataFrame({"MoE layer": range(layers), **lines})
    return Chart(title, figure, table, "recorded", alt)


def coverage(trace: Trace, weighted: bool = False) -> Chart:
    """Share of choices that a layer's busiest experts get, over their number: the mean layer, and the range
    over layers.
    """
    return served(routing.usage(trace, weighted))


def served(use: Floats) -> Chart:
    """use: [L, E]"""
    import pandas as pd

    shares = routing.coverage(use)
    experts = use.shape[1]
    figure = style.blank("busiest experts of a layer that are resident", "share of its choices", 300)
    x = np.arange(1, experts + 1)
    band: dict[str, Any] = {"mode": "lines", "line": {"width": 0}, "hoverinfo": "skip"}
    figure.add_scatter(x=x, y=shares.max(0), showlegend=False, **band)
    figure.add_scatter(
        x=x,
        y=shares.min(0),
        fill="tonexty",
        fillcolor="rgba(0,114,178,.2)",
        name="least to most uneven layer",
        **band,
    )
    figure.add_scatter(x=x, y=shares.mean(0), name="mean layer", mode="lines", line=style.line(0))
    even = {"color": style.OTHER, "dash": "dash", "width": 2}
    figure.add_scatter(x=x, y=x / experts, name="if all were used alike", mode="lines", line=even)
    figure.update_yaxes(range=[0, 1.02], tickformat=".0%")
    figure.update_xaxes(dtick=1 if experts <= 16 else None)  # no half experts
    table = pd.DataFrame(
        {"experts": x, "mean layer": shares.mean(0), "least": shares.min(0), "most": shares.max(0)}
    )
    half = max(1, experts // 2)
    alt = (
        f"The {'busiest' if half == 1 else f'{half} busiest'} of a layer's {many(experts, 'expert')} "
        f"{'serves' if half == 1 else 'serve'} "
        f"{percent(float(shares[:, half - 1].mean()))} of its choices."
    )
    return Chart("How many experts serve how much", figure, table, "recorded", alt)

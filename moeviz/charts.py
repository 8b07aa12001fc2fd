"""Plotly figures of Traces and Runs, and the one palette. Knows no page.

Colours are Okabe and Ito's, which colour-blind people tell apart; state is never shown by colour alone.
"""

from __future__ import annotations

from collections.abc import Sequence

import plotly.graph_objects as go

from moeviz import metrics
from moeviz.run import Run

# states of moeviz.board: not in fast tier, resident, hit, late hit, miss, prefetched and unused
STATE_COLORS = ("", "#56B4E9", "#009E73", "#E69F00", "#D55E00", "#CC79A7")
STATE_GLYPHS = ("", "", "●", "◐", "✕", "▸")
COMPUTE, STALL, OTHER = "#009E73", "#D55E00", "#999999"
DEMAND, USEFUL, WASTED = "#0072B2", "#CC79A7", "#F0E442"
SERIES = ("#0072B2", "#E69F00", "#009E73", "#CC79A7", "#56B4E9", "#D55E00", "#999999", "#F0E442")


def hit_ratio_over_time(runs: Sequence[tuple[str, Run]], window: int = 8) -> go.Figure:
    """Hit ratio of the last `window` forward passes, a line per run."""
    figure = _figure("forward pass (0: the prompt)", f"hits / accesses, last {window} passes")
    for number, (label, run) in enumerate(runs):
        ratio = metrics.hit_ratio_over_time(run)
        smooth = [float(ratio[max(0, i - window + 1) : i + 1].mean()) for i in range(len(ratio))]
        line = {"color": SERIES[number % len(SERIES)], "width": 3, "dash": ("solid", "dash", "dot", "dashdot")[number % 4]}
        figure.add_scatter(y=smooth, name=label, mode="lines", line=line)
    figure.update_yaxes(range=[0, 1.02], tickformat=".0%")
    return figure


def speeds(labels: Sequence[str], medians: Sequence[float], spreads: Sequence[tuple[float, float]]) -> go.Figure:
    """Tokens per second: bar at the median, whiskers from the least to the most of the repeats."""
    figure = _figure("tokens per second", "")
    error = {
        "type": "data",
        "symmetric": False,
        "array": [most - median for median, (_, most) in zip(medians, spreads, strict=True)],
        "arrayminus": [median - least for median, (least, _) in zip(medians, spreads, strict=True)],
        "thickness": 2,
    }
    figure.add_bar(
        y=list(labels), x=list(medians), orientation="h", error_x=error, marker_color=SERIES[0],
        text=[f"{median:.1f}" for median in medians], textposition="inside", insidetextanchor="start", showlegend=False,
    )  # fmt: skip
    return _rows(figure, len(labels))


def stacks(labels: Sequence[str], parts: Sequence[metrics.Stack]) -> go.Figure:
    """Where the time of an output token goes, in ms."""
    rows = (
        ("experts compute", COMPUTE, "", [p.compute for p in parts]),
        ("stall", STALL, "/", [p.stall for p in parts]),
        ("other", OTHER, ".", [p.other for p in parts]),
    )
    return _stacked("ms per output token", labels, rows)


def traffic(labels: Sequence[str], moved: Sequence[metrics.Moved], tokens: Sequence[int]) -> go.Figure:
    """Megabytes over the link per output token: demand, guesses that were used, guesses that were not."""
    rows = (
        ("demand", DEMAND, "", [m.demand / n / 1e6 for m, n in zip(moved, tokens, strict=True)]),
        ("guess, used", USEFUL, "/", [m.prefetch_useful / n / 1e6 for m, n in zip(moved, tokens, strict=True)]),
        ("guess, wasted", WASTED, "x", [m.prefetch_wasted / n / 1e6 for m, n in zip(moved, tokens, strict=True)]),
    )
    return _stacked("MB per output token, the prompt's included", labels, rows)


def hit_ratios(labels: Sequence[str], ratios: Sequence[float]) -> go.Figure:
    """Hits / accesses of decode."""
    figure = _figure("hits / accesses", "")
    figure.add_bar(
        y=list(labels), x=list(ratios), orientation="h", marker_color=SERIES[2], text=[f"{ratio:.1%}" for ratio in ratios],
        textposition="auto", showlegend=False,
    )  # fmt: skip
    figure.update_xaxes(range=[0, 1.02], tickformat=".0%")
    return _rows(figure, len(labels))


def _stacked(axis: str, labels: Sequence[str], rows: Sequence[tuple[str, str, str, list[float]]]) -> go.Figure:
    """Horizontal stacked bars; rows: name, colour, pattern, values."""
    figure = _figure(axis, "")
    for name, color, pattern, values in rows:
        shape = {"shape": pattern, "fillmode": "overlay", "fgcolor": "#000", "fgopacity": 0.4, "size": 7}
        figure.add_bar(y=list(labels), x=values, name=name, orientation="h", marker={"color": color, "pattern": shape})
    figure.update_layout(barmode="stack", legend_traceorder="normal")
    return _rows(figure, len(labels))


def _figure(x: str, y: str) -> go.Figure:
    figure = go.Figure()
    figure.update_layout(
        margin={"l": 10, "r": 16, "t": 8, "b": 48},
        height=320,
        font={"size": 15},
        legend={"orientation": "h", "y": 1.02, "yanchor": "bottom", "x": 0, "font": {"size": 14}},
        hovermode="closest",
    )
    figure.update_xaxes(title=x, automargin=True, tickfont_size=14, title_font_size=15)
    figure.update_yaxes(title=y, automargin=True, tickfont_size=14, title_font_size=15)
    return figure


def _rows(figure: go.Figure, count: int) -> go.Figure:
    """Horizontal bars, the first on top, tall enough to be read."""
    figure.update_yaxes(autorange="reversed")
    figure.update_layout(height=90 + 44 * count, bargap=0.25)
    return figure

"""Plotly figures of Traces and Runs, and the one palette. Knows no page.

Colours are Okabe and Ito's, which colour-blind people tell apart; state is never shown by colour alone.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import plotly.graph_objects as go
from numpy.typing import NDArray

from moeviz.charts.board import STATES
from moeviz.core.run import Run
from moeviz.numbers import metrics
from moeviz.numbers.cost import Segment
from moeviz.numbers.curves import Curve

# states of moeviz.charts.board: not in fast tier, resident, hit, late hit, miss, prefetched and unused
STATE_COLORS = ("", "#56B4E9", "#009E73", "#E69F00", "#D55E00", "#CC79A7")
STATE_GLYPHS = ("", "", "●", "◐", "✕", "▸")
COMPUTE, STALL, OTHER = "#009E73", "#D55E00", "#999999"
DEMAND, USEFUL, WASTED = "#0072B2", "#CC79A7", "#F0E442"
DASHES = ("solid", "dash", "dot", "dashdot", "longdash", "longdashdot")
SERIES = ("#0072B2", "#E69F00", "#009E73", "#CC79A7", "#56B4E9", "#D55E00", "#999999", "#F0E442")


def hit_ratio_over_time(runs: Sequence[tuple[str, Run]], window: int = 8) -> go.Figure:
    """Hit ratio of the last `window` forward passes, a line per run."""
    figure = _figure("forward pass (0: the prompt)", f"hits / accesses, last {window} passes")
    for number, (label, run) in enumerate(runs):
        ratio = metrics.hit_ratio_over_time(run)
        smooth = [float(ratio[max(0, i - window + 1) : i + 1].mean()) for i in range(len(ratio))]
        line = {"color": SERIES[number % len(SERIES)], "width": 3, "dash": DASHES[number % len(DASHES)]}
        figure.add_scatter(y=smooth, name=label, mode="lines", line=line)
    figure.update_yaxes(range=[0, 1.02], tickformat=".0%")
    return figure


def speeds(
    labels: Sequence[str], medians: Sequence[float], spreads: Sequence[tuple[float, float]]
) -> go.Figure:
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
        y=list(labels),
        x=list(medians),
        orientation="h",
        error_x=error,
        marker_color=SERIES[0],
        text=[f"{median:.1f}" for median in medians],
        textposition="inside",
        insidetextanchor="start",
        showlegend=False,
    )
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
        (
            "guess, used",
            USEFUL,
            "/",
            [m.prefetch_useful / n / 1e6 for m, n in zip(moved, tokens, strict=True)],
        ),
        (
            "guess, wasted",
            WASTED,
            "x",
            [m.prefetch_wasted / n / 1e6 for m, n in zip(moved, tokens, strict=True)],
        ),
    )
    return _stacked("MB per output token, the prompt's included", labels, rows)


def hit_ratios(labels: Sequence[str], ratios: Sequence[float]) -> go.Figure:
    """Hits / accesses of decode."""
    figure = _figure("hits / accesses", "")
    figure.add_bar(
        y=list(labels),
        x=list(ratios),
        orientation="h",
        marker_color=SERIES[2],
        text=[f"{ratio:.1%}" for ratio in ratios],
        textposition="auto",
        showlegend=False,
    )
    figure.update_xaxes(range=[0, 1.02], tickformat=".0%")
    return _rows(figure, len(labels))


def _stacked(
    axis: str, labels: Sequence[str], rows: Sequence[tuple[str, str, str, list[float]]]
) -> go.Figure:
    """Horizontal stacked bars; rows: name, colour, pattern, values."""
    figure = _figure(axis, "")
    for name, color, pattern, values in rows:
        shape = {"shape": pattern, "fillmode": "overlay", "fgcolor": "#000", "fgopacity": 0.4, "size": 7}
        figure.add_bar(
            y=list(labels), x=values, name=name, orientation="h", marker={"color": color, "pattern": shape}
        )
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
    figure.update_layout(
        height=max(210, 90 + 44 * count), bargap=0.25
    )  # a phone puts the legend in three lines
    return figure


# of the paper's figure (arXiv 2511.05814): white neither, light blue resident, purple activated and hit, red activated and missed
PAPER_COLORS = ("#FFFFFF", "#ADD8E6", "#800080", "#FFA500", "#FF0000", "#FFC0CB")
MOST_CELLS = 1_000_000  # of a heatmap
MOST_GLYPHS = 1_500  # cells that carry one


def token_expert(
    states: NDArray[np.uint8], texts: Sequence[str], first: int, at: int, paper: bool = False
) -> go.Figure:
    """The paper's figure of one MoE layer: tokens by experts, residency read before the event. states: [token, expert]

    `first` is the number of the first token shown, `at` the one under the cursor.
    """
    figure = _states(
        states.T,
        PAPER_COLORS if paper else STATE_COLORS,
        first,
        "forward pass, and the token that went in",
        "expert",
    )
    ticks = list(range(len(texts))) if len(texts) <= 80 else list(range(0, len(texts), len(texts) // 40))
    figure.update_xaxes(
        tickvals=[first + n for n in ticks],
        ticktext=[_tick(texts[n]) for n in ticks],
        tickangle=-45,
        tickfont_size=12,
    )
    figure.update_yaxes(dtick=1 if states.shape[1] <= 32 else None, autorange="reversed")
    figure.update_layout(height=max(240, min(900, 120 + 24 * states.shape[1])))
    return _cursor(figure, at)


def raster(states: NDArray[np.uint8], slots: int, at: int, first: int = 0) -> go.Figure:
    """Every slot over every forward pass. states: [step, row], rows layer after layer with `slots` each; shared slots are one group."""
    figure = _states(states.T, STATE_COLORS, first, "forward pass", "slots of MoE layer")
    groups = states.shape[1] // slots
    every = max(1, groups // 24)
    figure.update_yaxes(
        tickvals=[(group + 0.5) * slots - 0.5 for group in range(0, groups, every)],
        ticktext=[str(g) for g in range(0, groups, every)],
        autorange="reversed",
        title="slots of MoE layer" if groups > 1 else "slot of the pool",
    )
    if groups == 1:
        figure.update_yaxes(tickvals=None, ticktext=None)
    for group in range(1, groups):
        figure.add_hline(group * slots - 0.5, line_width=1, line_color="rgba(128,128,128,.6)")
    figure.update_layout(height=max(240, min(760, 90 + 7 * states.shape[1])))
    return _cursor(figure, at)


def _states(cells: NDArray[np.uint8], colors: Sequence[str], first: int, x: str, y: str) -> go.Figure:
    """A raster of the board's states. cells: [row, column]"""
    shades = [color or "rgba(128,128,128,.10)" for color in colors]
    count = len(shades)
    scale = [
        stop for n, shade in enumerate(shades) for stop in ((n / count, shade), ((n + 1) / count, shade))
    ]
    glyphs = np.array(STATE_GLYPHS)[cells] if cells.size <= MOST_GLYPHS else None
    figure = _figure(x, y)
    figure.add_heatmap(
        z=cells,
        x0=first,
        dx=1,
        zmin=-0.5,
        zmax=count - 0.5,
        colorscale=scale,
        showscale=False,
        xgap=1 if cells.shape[1] <= 200 else 0,
        ygap=1 if cells.shape[1] <= 200 else 0,
        text=glyphs,
        texttemplate="%{text}" if glyphs is not None else None,
        textfont={"color": "#000", "size": 13},
        hovertemplate=f"{x} %{{x}}, row %{{y}}: %{{customdata}}<extra></extra>",
        customdata=np.array(STATES)[cells] if cells.size <= 60_000 else None,
    )
    figure.update_xaxes(showgrid=False, zeroline=False, range=[first - 0.5, first + cells.shape[1] - 0.5])
    figure.update_yaxes(showgrid=False, zeroline=False)
    return figure


def _cursor(figure: go.Figure, at: int) -> go.Figure:
    """A frame around the column under the cursor."""
    figure.add_vrect(at - 0.5, at + 0.5, line={"color": "#D55E00", "width": 2}, fillcolor="rgba(0,0,0,0)")
    return figure


def _tick(text: str) -> str:
    short = text.replace("\n", "⏎")
    return (short if len(short) <= 12 else short[:11] + "…").replace("<", "&lt;") or "␣"


def by_layer(values: NDArray[np.float64], rows: Sequence[str], y: str, label: str) -> go.Figure:
    """Shares from 0 to 1 by MoE layer. values: [row, L]; nan stays empty"""
    figure = _figure("MoE layer", y)
    text = (
        np.where(np.isnan(values), "", np.char.mod("%.2f", np.nan_to_num(values)))
        if values.shape[1] <= 32
        else None
    )
    figure.add_heatmap(
        z=values,
        y=list(rows),
        zmin=0,
        zmax=1,
        colorscale="Cividis",
        text=text,
        texttemplate="%{text}" if text is not None else None,
        xgap=2,
        ygap=2,
        colorbar={"title": label, "tickformat": ".0%", "thickness": 14},
        hovertemplate="layer %{x}, %{y}: %{z:.1%}<extra></extra>",
    )
    figure.update_xaxes(dtick=1 if values.shape[1] <= 32 else None, showgrid=False)
    figure.update_yaxes(autorange="reversed", showgrid=False)
    figure.update_layout(height=150 + 46 * len(rows))
    return figure


def heat(
    values: NDArray[np.float64], y: str, label: str, x: str = "MoE layer", middle: bool = False
) -> go.Figure:
    """Brightness is heat. values: [row, column]; `middle`: differences around 0"""
    figure = _figure(x, y)
    most = float(np.abs(values).max()) or 1.0
    figure.add_heatmap(
        z=values,
        zmin=-most if middle else 0,
        zmax=most,
        colorscale="RdBu" if middle else "Cividis",
        xgap=1 if values.size <= 5_000 else 0,
        ygap=1 if values.size <= 5_000 else 0,
        colorbar={"title": label, "thickness": 14},
        hovertemplate=f"{x} %{{x}}, {y} %{{y}}: %{{z:.3g}}<extra></extra>",
    )
    figure.update_xaxes(dtick=1 if values.shape[1] <= 32 else None, showgrid=False, zeroline=False)
    figure.update_yaxes(
        dtick=1 if values.shape[0] <= 16 else None, autorange="reversed", showgrid=False, zeroline=False
    )
    figure.update_layout(height=max(220, min(760, 110 + 22 * values.shape[0])))
    return figure


def domain_map(use: NDArray[np.float64], names: Sequence[str]) -> go.Figure:
    """Every expert of every layer, and the share of its layer's choices that it gets in each domain. use: [domain, L, E]"""
    domains, layers, experts = use.shape
    figure = _figure("MoE layer, and in it the experts from 0 on", "")
    layer, expert = np.indices((layers, experts)).reshape(2, -1)
    figure.add_heatmap(
        z=use.reshape(domains, -1),
        y=list(names),
        zmin=0,
        colorscale="Cividis",
        ygap=2,
        customdata=np.broadcast_to(np.stack([layer, expert], 1), (domains, layers * experts, 2)),
        colorbar={"title": "share", "tickformat": ".0%", "thickness": 14},
        hovertemplate="%{y}: layer %{customdata[0]}, expert %{customdata[1]}: %{z:.1%}<extra></extra>",
    )
    for edge in range(1, layers):
        figure.add_vline(edge * experts - 0.5, line={"color": "#888888", "width": 2})
    figure.update_xaxes(
        tickvals=[n * experts + (experts - 1) / 2 for n in range(layers)],
        ticktext=[str(n) for n in range(layers)],
        showgrid=False,
    )
    figure.update_yaxes(autorange="reversed", showgrid=False)
    figure.update_layout(height=120 + 40 * domains)
    return figure


def likeness(values: NDArray[np.float64], names: Sequence[str], at: int) -> go.Figure:
    """Cosine to each domain over tokens, a line each; `at` is the token under the cursor. values: [domain, T]"""
    figure = _figure("token", "cosine, last tokens to the domain")
    for number, (name, line) in enumerate(zip(names, values, strict=True)):
        look = {"color": SERIES[number % len(SERIES)], "width": 3, "dash": DASHES[number % len(DASHES)]}
        figure.add_scatter(y=line, name=name, mode="lines", line=look)
    figure.update_yaxes(range=[0, 1.02])
    figure.add_vline(at, line={"color": "#D55E00", "width": 2, "dash": "dot"})
    return figure


def coverage(shares: NDArray[np.float64]) -> go.Figure:
    """Share of choices over the number of busiest experts: the mean layer, and the range over layers. shares: [L, E]"""
    figure = _figure("busiest experts of a layer", "share of its choices")
    x = np.arange(1, shares.shape[1] + 1)
    band = {"mode": "lines", "line": {"width": 0}, "hoverinfo": "skip"}
    figure.add_scatter(x=x, y=shares.max(0), showlegend=False, **band)
    figure.add_scatter(
        x=x,
        y=shares.min(0),
        fill="tonexty",
        fillcolor="rgba(0,114,178,.2)",
        name="least to most skewed layer",
        **band,
    )
    figure.add_scatter(
        x=x, y=shares.mean(0), name="mean layer", mode="lines", line={"color": SERIES[0], "width": 3}
    )
    figure.add_scatter(
        x=x,
        y=x / len(x),
        name="if all were used alike",
        mode="lines",
        line={"color": OTHER, "dash": "dash", "width": 2},
    )
    figure.update_yaxes(range=[0, 1.02], tickformat=".0%")
    return figure


def lanes(segments: Sequence[Segment]) -> go.Figure:
    """What compute and link do in one forward pass, ms."""
    figure = _figure("ms since the pass began", "")
    looks = {
        "expert": (COMPUTE, ""),
        "other": (OTHER, "."),
        "stall": (STALL, "/"),
        "demand": (DEMAND, ""),
        "guess used": (USEFUL, "/"),
        "guess wasted": (WASTED, "x"),
    }
    for kind, (color, pattern) in looks.items():
        own = [s for s in segments if s.kind == kind]
        if own:
            shape = {"shape": pattern, "fillmode": "overlay", "fgcolor": "#000", "fgopacity": 0.4, "size": 7}
            figure.add_bar(
                y=[s.lane for s in own],
                base=[s.start for s in own],
                x=[s.end - s.start for s in own],
                orientation="h",
                name=kind,
                marker={"color": color, "pattern": shape, "line": {"width": 0.5, "color": "#000"}},
                customdata=[
                    f"layer {s.layer}" + (f", expert {s.expert}" if s.expert >= 0 else "") for s in own
                ],
                hovertemplate=kind + ", %{customdata}: %{base:.2f} + %{x:.2f} ms<extra></extra>",
            )
    figure.update_layout(barmode="overlay", height=260, legend_traceorder="normal")
    figure.update_yaxes(categoryorder="array", categoryarray=["link", "compute"])
    return figure


def slot_curves(curves: Sequence[Curve], labels: Sequence[str], at: int, knee: int | None) -> go.Figure:
    """Hit ratio over slot counts; `at` is the chosen count, `knee` the one beyond which more slots bring less."""
    figure = _figure(
        "slots per MoE layer" if not curves or curves[0].settings.scope == "layer" else "slots in all",
        "hits / accesses",
    )
    for number, (curve, label) in enumerate(zip(curves, labels, strict=True)):
        bound = curve.settings.policy == "belady"
        line = {
            "color": "#888888" if bound else SERIES[number % len(SERIES)],
            "dash": "solid" if bound else DASHES[number % len(DASHES)],
            "width": 4 if bound else 3,
        }
        name = f"{label}: the bound" if bound else label
        figure.add_scatter(
            x=curve.slots,
            y=curve.hit_ratio,
            name=name,
            mode="lines+markers",
            line=line,
            marker={"symbol": number % 12, "size": 7},
        )
    figure.add_vline(
        at,
        line={"color": "#D55E00", "width": 2, "dash": "dot"},
        annotation_text=f"{at} slots",
        annotation_position="bottom right",
    )
    if knee is not None:
        figure.add_vline(
            knee,
            line={"color": "#888888", "width": 1},
            annotation_text="knee",
            annotation_position="top left",
        )
    figure.update_yaxes(range=[0, 1.02], tickformat=".0%")
    figure.update_layout(height=420)
    return figure


def counted(
    labels: Sequence[str], rows: Sequence[tuple[str, str, str, Sequence[float]]], axis: str
) -> go.Figure:
    """Stacked horizontal bars. rows: name, colour, pattern, a value for each label."""
    return _stacked(
        axis, labels, [(name, color, pattern, list(values)) for name, color, pattern, values in rows]
    )


def layer_lines(lines: Sequence[tuple[str, NDArray[np.float64]]], y: str) -> go.Figure:
    """Shares from 0 to 1 over MoE layers, a line each. values: [L]"""
    figure = _figure("MoE layer", y)
    for number, (name, values) in enumerate(lines):
        line = {"color": SERIES[number % len(SERIES)], "dash": DASHES[number % len(DASHES)], "width": 3}
        figure.add_scatter(
            x=np.arange(len(values)),
            y=values,
            name=name,
            mode="lines+markers",
            line=line,
            marker={"symbol": number, "size": 8},
        )
    figure.update_yaxes(range=[0, 1.02], tickformat=".0%")
    figure.update_xaxes(dtick=1 if lines and len(lines[0][1]) <= 32 else None)
    return figure

"""Who is used, and where: grids of experts, who with whom, one expert alone, two traces beside each other.
How unevenly is the business of `moeviz.charts.shares`.

now_and_so_far(trace, step=60).alt
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from moeviz.charts import style
from moeviz.charts.board import MISS
from moeviz.charts.chart import Chart
from moeviz.charts.shares import by_layer, served, uneven
from moeviz.core.trace import DECODE, Trace
from moeviz.numbers import routing
from moeviz.numbers.routing import Floats
from moeviz.words import many, part_of, passes_of, percent

if TYPE_CHECKING:
    import pandas as pd
    import plotly.graph_objects as go

MOST_MARKS = 3_000  # experts of one forward pass that are marked one by one
MOST_ROWS = 500  # of the table of one expert's tokens
SCALE = "Cividis"


def grid(
    values: Floats, label: str, *, middle: bool = False, x: str = "MoE layer", y: str = "expert"
) -> go.Figure:
    """Brightness is heat. values: [column, row], nan stays empty; `middle`: differences around 0."""
    columns, rows = values.shape
    figure = style.blank(x, y, max(240, min(640, 110 + 26 * rows)))
    most = float(np.nanmax(np.abs(values), initial=0.0)) or 1.0
    figure.add_heatmap(
        z=values.T.astype(np.float32),
        zmin=-most if middle else 0,
        zmax=most,
        colorscale="RdBu" if middle else SCALE,
        xgap=1 if values.size <= 5_000 else 0,
        ygap=1 if values.size <= 5_000 else 0,
        colorbar={
            "title": {"text": label, "font": {"size": 14}},
            "thickness": 14,
            "tickformat": ".0%" if middle or label.startswith("share") else None,
            "tickvals": [-most, 0, most] if middle else None,
        },
        hovertemplate=f"{x} %{{x}}, {y} %{{y}}: %{{z:.3g}}<extra></extra>",
    )
    figure.update_xaxes(
        dtick=1 if columns <= 16 else None, range=[-0.5, columns - 0.5], showgrid=False, zeroline=False
    )
    figure.update_yaxes(
        dtick=1 if rows <= 16 else None, range=[rows - 0.5, -0.5], showgrid=False, zeroline=False
    )
    return figure


def now_and_so_far(trace: Trace, step: int, weighted: bool = False) -> Chart:
    """The experts that forward pass `step` needs, drawn on how often each was chosen up to then. A click
    finds a MoE layer and an expert, x and y, and the pass in the meta.

    Raises ValueError where weights are asked of a trace that holds none.
    """
    passes = trace.passes()
    now = routing.usage(trace, False, passes[step])
    far = routing.usage(trace, weighted, slice(0, passes[step].stop))
    label = "router weight" if weighted else "tokens"
    figure = grid(far, label)
    layer, expert = np.nonzero(now)
    if len(layer) <= MOST_MARKS:
        figure.add_scatter(
            x=layer,
            y=expert,
            mode="markers",
            name="chosen now",
            marker={
                "symbol": "square-open",
                "size": 20 if trace.num_experts <= 16 else 9,
                "color": style.STATE_COLORS[MISS],
                "line": {"width": 4},
            },
            hovertemplate="layer %{x}, expert %{y}: chosen now<extra></extra>",
        )
    figure.update_traces(meta={"pass": step})
    figure.update_layout(showlegend=True)
    table = _by_expert({"chosen now": now, f"so far, {label}": far})
    new = int(((now > 0) & (routing.usage(trace, False, slice(0, passes[step].start)) == 0)).sum())
    busiest = np.unravel_index(int(far.argmax()), far.shape)
    name = passes_of(trace)[step]
    alt = (
        f"{name[:1].upper()}{name[1:]} needs {many(len(layer), 'expert')}, {new} of them for the first time; "
        f"so far layer {busiest[0]}'s expert {busiest[1]} was chosen most."
    )
    return Chart("Chosen now, on all that was chosen so far", figure, table, "recorded", alt)


def _by_expert(columns: dict[str, Floats]) -> pd.DataFrame:
    """A row for each layer and expert. values: [L, E]"""
    import pandas as pd

    layers, experts = next(iter(columns.values())).shape
    return pd.DataFrame(
        {
            "MoE layer": np.repeat(range(layers), experts),
            "expert": np.tile(range(experts), layers),
            **{name: values.ravel() for name, values in columns.items()},
        }
    )


def whole(trace: Trace) -> Chart:
    """How many tokens of the whole text chose each expert."""
    use = routing.usage(trace)
    most = np.unravel_index(int(use.argmax()), use.shape)
    by = part_of(round(use.max()), trace.tokens, "token")
    alt = f"Layer {most[0]}'s expert {most[1]} was chosen most, by {by}."
    return Chart(
        "Which experts the tokens chose", grid(use, "tokens"), _by_expert({"tokens": use}), "recorded", alt
    )


def counted(use: Floats) -> list[Chart]:
    """Counts without order: who was used how often, how unevenly, and how many experts serve how much.
    use: [L, E]
    """
    most = np.unravel_index(int(use.argmax()), use.shape)
    alt = (
        f"Layer {most[0]}'s expert {most[1]} was used most, {many(round(use.max()), 'time')} "
        f"of {round(use.sum()):,} in all."
    )
    grid_of_all = Chart(
        "How often each expert was used", grid(use, "uses"), _by_expert({"uses": use}), "recorded", alt
    )
    return [grid_of_all, uneven(use), served(use)]


def together(trace: Trace, layer: int, later: int) -> Chart:
    """Given an expert of `layer`, who else is chosen with it, in the same layer or in a later one."""
    import pandas as pd

    values = routing.together(trace, layer, later)
    if layer == later:
        np.fill_diagonal(values, np.nan)  # everyone is chosen with itself
    i, j = np.nonzero(np.nan_to_num(values) > 0)
    table = pd.DataFrame(
        {f"expert of layer {layer}": i, f"expert of layer {later}": j, "share": values[i, j]}
    )
    figure = grid(values.T, "share of its tokens", x=f"expert of layer {later}", y=f"expert of layer {layer}")
    title = "Chosen together" if layer == later else "Chosen in the next layer"
    alt = f"No two experts of layer {layer} were ever chosen together."
    if len(i):
        best = int(values[i, j].argmax())
        alt = (
            f"Strongest: {percent(float(values[i[best], j[best]]))} of the tokens of layer {layer}'s expert "
            f"{i[best]} also chose {'its' if layer == later else f'layer {later}’s'} expert {j[best]}."
        )
    return Chart(title, figure, table, "recorded", alt)


def one_expert(trace: Trace, layer: int, expert: int) -> Chart:
    """When one expert was chosen, and the tokens that chose it with their neighbours, the heaviest weights
    first.
    """
    import pandas as pd

    took, weights = routing.tokens_of(trace, layer, expert)
    known = trace.weights is not None
    figure = style.blank(style.TOKENS, "router weight" if known else "chosen", 220)
    for phase, name in enumerate(style.PHASE_NAMES):
        own = trace.phase[took] == phase
        if own.any():
            figure.add_bar(
                x=took[own],
                y=weights[own] if known else np.ones(int(own.sum())),
                name=name,
                width=1,
                marker={"color": style.SERIES[phase], "line": {"width": 0}},
            )
    figure.update_xaxes(range=[-0.5, trace.tokens - 0.5])
    if not known:
        figure.update_yaxes(tickvals=[0, 1], ticktext=["no", "yes"])
    shown = list(zip(took[:MOST_ROWS].tolist(), weights[:MOST_ROWS].tolist(), strict=True))
    table = pd.DataFrame(
        [
            {
                "weight": weight,
                "before": "".join(trace.texts[max(0, token - 6) : token]),
                "token": trace.texts[token],
                "after": "".join(trace.texts[token + 1 : token + 5]),
                "position": token,
                "phase": style.PHASE_NAMES[int(trace.phase[token] == DECODE)],
            }
            for token, weight in shown
        ],
        columns=["weight", "before", "token", "after", "position", "phase"],
    )
    share, even = len(took) / trace.tokens, trace.k / trace.num_experts
    alt = (
        f"Chosen by {part_of(len(took), trace.tokens, 'token')} ({percent(share)}; evenly it would be "
        f"{percent(even)})."
    )
    return Chart(f"Layer {layer}'s expert {expert} over the text", figure, table, "recorded", alt)


def two(first: Trace, second: Trace, names: tuple[str, str], weighted: bool = False) -> list[Chart]:
    """Two traces of one shape: what the first has more of, how alike each layer is, and the two grids, each
    with its own scale.

    Raises ValueError where weights are asked of a trace that holds none.
    """
    a, b = (_shares(routing.usage(one, weighted)) for one in (first, second))
    most = np.unravel_index(int(np.abs(a - b).argmax()), a.shape)
    more = names[0] if a[most] > b[most] else names[1]
    alike = routing.similarity(a, b)
    return [
        Chart(
            "Used more in the first (blue), or in the second (red)",
            grid(a - b, "first less second", middle=True),
            _by_expert({"difference": a - b, names[0]: a, names[1]: b}),
            "recorded",
            f"They differ most in layer {most[0]}'s expert {most[1]}, which {more} uses more.",
        ),
        by_layer(
            "How alike each layer is",
            {"cosine of the two shares": alike},
            "similarity",
            f"Most alike is layer {int(alike.argmax())} ({percent(float(alike.max()))}), least alike layer "
            f"{int(alike.argmin())} ({percent(float(alike.min()))}); 100% would be the same.",
        ),
        *(
            Chart(name, grid(use, "share"), _by_expert({"share": use}), "recorded", _busiest(name, use))
            for name, use in zip(names, (a, b), strict=True)
        ),
    ]


def _shares(use: Floats) -> NDArray[np.float64]:
    return np.asarray(use / np.maximum(use.sum(1, keepdims=True), 1e-12))


def _busiest(name: str, use: Floats) -> str:
    most = np.unravel_index(int(use.argmax()), use.shape)
    return f"{name} gives layer {most[0]}'s expert {most[1]} most, {percent(float(use[most]))} of its layer."

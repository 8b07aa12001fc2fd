"""Who was resident over the whole text: the paper's figure of one layer, and one raster of all.

raster(replay(trace, Settings()), texts).alt
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from moeviz.amounts import many, part_of
from moeviz.charts import style
from moeviz.charts.board import MISS, PREFETCHED, RESIDENT, STATES, Frame, frames
from moeviz.charts.chart import Chart, kind_of
from moeviz.core.run import LATE, Run
from moeviz.core.run import MISS as MISSED
from moeviz.numbers import metrics
from moeviz.words import MISS_KINDS, SIGNS, from_to, passes_of

if TYPE_CHECKING:
    import pandas as pd
    import plotly.graph_objects as go

# of the paper's figure (arXiv 2511.05814): white neither, light blue resident, purple activated and hit, red
# activated and missed
PAPER_COLORS = ("#FFFFFF", "#ADD8E6", "#800080", "#FFA500", "#FF0000", "#FFC0CB")
LEGEND = {  # state -> what it looks like
    "resident": "Blue: {resident}, not needed.",
    "hit": "● green: {hit}.",
    "late": "◐ orange: {late}.",
    "miss": "✕ dark orange: {miss}.",
    "prefetched": "▸ pink: {prefetched}.",
    "": "Empty: not there.",
}
LEAVES = "Purple: leaves in this pass."
CLICKED = "Framed: the cursor and the layer. A click in either figure opens the stage there."
POOLED = "The stronger the colour, the more experts of a layer were missed in a pass."
PAPER_LEGEND = {
    "resident": "As in the paper. Light blue: {resident}, not needed.",
    "hit": "● purple: {hit}.",
    "miss": "✕ red: {miss}.",
    "": "White: not there.",
    "late": "◐ orange: {late}.",
    "prefetched": "▸ pink: {prefetched}.",
}
EVICTED = 6  # resident, and leaves in this forward pass
NAMED = (*STATES, "leaves in this pass")  # with what EVICTED means
EVICTED_COLOR = "#7E57C2"  # told from the ground in light and dark
AROUND = 41  # tokens of the paper's figure, around the cursor
MOST_GLYPHS = 1_500  # cells that carry one
MOST_ROWS = 256  # experts of all layers that are rows of their own
MOST_CELLS = 1_000_000  # of a heatmap
MOST_MARKS = 4_000  # cells that can be clicked


def paper(
    run: Run, pictures: Sequence[Frame], texts: Sequence[str], layer: int, at: int, paper_colors: bool = False
) -> Chart:
    """One MoE layer, 41 tokens around the cursor: every expert before each event, and who was needed, there
    or missed.

    `pictures` are the frames of the run, `texts` the text that entered each pass, `at` is the pass under the
    cursor.
    """
    import pandas as pd

    first = max(0, min(at - AROUND // 2, len(pictures) - AROUND))
    chosen = slice(first, first + AROUND)
    states = np.stack([frame.state[layer] for frame in pictures[chosen]])  # [pass, E]
    colors = PAPER_COLORS if paper_colors else (*style.STATE_COLORS, EVICTED_COLOR)
    if not paper_colors:
        step, of, expert = _leaving(run)
        here = (of == layer) & (first <= step) & (step < first + len(states))
        _mark_leaving(states, (step[here] - first, expert[here]))
    shown = texts[chosen]
    names = passes_of(run)
    across = style.passes_axis(run) + (", and what went in" if any(shown) else "")
    marks = states.size <= MOST_MARKS
    told = "" if marks else style.passes_unit(run) + " %{x}, expert %{y}"
    figure = _raster(states.T, colors, first, across, "expert", told)
    if any(shown):
        figure.update_xaxes(
            tickvals=[first + n for n in range(len(shown))],
            ticktext=[style.short(text) for text in shown],
            tickangle=-45,
            tickfont_size=12,
        )
    figure.update_yaxes(dtick=1 if run.experts <= 12 else None, range=[run.experts - 0.5, -0.5])
    figure.update_layout(height=max(240, min(900, 130 + 24 * run.experts)))
    style.mark_column(figure, at)
    number, expert = np.indices(states.shape).reshape(2, -1)
    if marks:
        said = [
            f"{names[first + n]}, expert {one}: {NAMED[states[n, one]]}"
            for n, one in zip(number, expert, strict=True)
        ]
        _found(figure, (first + number, np.full(len(number), layer), expert), expert, said)
    table = pd.DataFrame(
        {
            "pass": first + number,
            "token": [shown[n] for n in number],
            "expert": expert,
            "state": np.array(NAMED)[states.ravel()],
        }
    )
    misses = int((states == MISS).sum())
    needed = misses + int(((states > RESIDENT) & (states < MISS)).sum())
    missed = part_of(misses, needed, "expert")
    alt = f"In {from_to(names[chosen])} layer {layer} misses {missed} that it needs."
    return Chart(f"MoE layer {layer}, token by token", figure, table, kind_of(run), alt)


def raster(
    run: Run,
    texts: Sequence[str],
    pictures: Sequence[Frame] = (),
    at: int | None = None,
    chosen: int | None = None,
) -> Chart:
    """Every expert over the whole text: resident, needed and there, missed, evicted. Layers are pooled where
    experts are too many.

    `texts` is what entered each pass, `at` the pass under the cursor, and there `chosen` the MoE layer that
    is told of. A click finds a point whose customdata is (pass, MoE layer, expert), expert -1 where it is no
    miss's.
    """
    pooled = _pools(run)
    figure = _misses_by_layer(run) if pooled else _every_expert(run, pictures or frames(run))
    missed, _, layer, _ = _missed(run)
    _places(figure, run, texts, pooled)
    if at is not None:
        style.mark_column(figure, at)
        if chosen is not None:
            rows = 1 if pooled else run.experts
            style.mark_rows(figure, chosen * rows - 0.5, (chosen + 1) * rows - 0.5)
    table = _raster_table(run, texts)
    counted = np.bincount(layer, minlength=run.layers)
    worst = int(counted.argmax())
    out = len(run.departures.load)
    alt = (
        f"{many(missed, 'miss')} and {many(out, 'eviction')} in {many(len(run.passes.phase), 'pass')}; "
        f"layer {worst} misses most, {counted[worst]:,}."
    )
    what = "Misses by layer" if pooled else "Every expert"
    return Chart(f"{what}, over the text", figure, table, kind_of(run), alt)


def legend(run: Run) -> str:
    """What the colours of the raster mean, and its signs where it has some."""
    if _pools(run):
        return POOLED
    return f"{_legend(run, LEGEND, run.layers * run.experts * len(run.passes.phase))} {LEAVES}"


def legend_of_layer(run: Run, paper_colors: bool = False) -> str:
    """The same of the paper's figure."""
    cells = run.experts * min(AROUND, len(run.passes.phase))
    return _legend(run, PAPER_LEGEND, cells) if paper_colors else f"{_legend(run, LEGEND, cells)} {LEAVES}"


def _legend(run: Run, looks: Mapping[str, str], cells: int) -> str:
    """Of states that do not occur in the run nothing is said."""
    absent = set() if (run.accesses.outcome == LATE).any() else {"late"}
    absent |= set() if run.loads.speculative.any() else {"prefetched"}
    said = [text for state, text in looks.items() if state not in absent]
    if cells > MOST_GLYPHS:
        bare = [text.lstrip("●◐✕▸ ") for text in said]
        said = [text[:1].upper() + text[1:] for text in bare]
    return " ".join(said).format_map(SIGNS)


def _pools(run: Run) -> bool:
    """Whether the raster shows layers, since there are too many experts for a row each."""
    rows = run.layers * run.experts
    return rows > MOST_ROWS or rows * len(run.passes.phase) > MOST_CELLS


def _missed(run: Run) -> tuple[int, NDArray[np.int64], NDArray[np.int64], NDArray[np.int64]]:
    """How many, and the pass, layer and expert of each."""
    own = run.accesses.outcome == MISSED
    event = run.accesses.event[own]
    return (
        int(own.sum()),
        run.events.forward_pass[event].astype(np.int64),
        run.events.layer[event].astype(np.int64),
        run.accesses.expert[own].astype(np.int64),
    )


def _leaving(run: Run) -> tuple[NDArray[Any], ...]:
    """The pass, layer and expert of everyone who leaves."""
    gone = run.departures
    return run.events.forward_pass[run.loads.event[gone.load]], gone.layer, gone.expert


def _mark_leaving(states: NDArray[np.uint8], place: tuple[NDArray[Any], ...]) -> None:
    """Whoever is at `place`, and not needed in that pass, is marked."""
    idle = (states[place] == RESIDENT) | (states[place] == PREFETCHED)
    states[tuple(one[idle] for one in place)] = EVICTED


def _every_expert(run: Run, pictures: Sequence[Frame]) -> go.Figure:
    states = np.stack([frame.state for frame in pictures])  # [F, L, E]
    _mark_leaving(states, _leaving(run))
    figure = _raster(
        states.reshape(len(states), -1).T,
        (*style.STATE_COLORS, EVICTED_COLOR),
        0,
        style.passes_axis(run),
        "MoE layer, its experts",
    )
    ticks = [layer * run.experts + (run.experts - 1) / 2 for layer in range(run.layers)]
    figure.update_yaxes(
        tickvals=ticks,
        ticktext=[str(layer) for layer in range(run.layers)],
        range=[run.layers * run.experts - 0.5, -0.5],
    )
    between: dict[str, Any] = {"type": "line", "xref": "x domain", "x0": 0, "x1": 1, "yref": "y"}
    between["line"] = {"width": 1, "color": "rgba(128,128,128,.8)"}
    edges = [layer * run.experts - 0.5 for layer in range(1, run.layers)]
    figure.update_layout(
        height=max(280, min(560, 80 + round(4.4 * run.layers * run.experts))),
        shapes=[between | {"y0": edge, "y1": edge} for edge in edges],
        hoverdistance=-1,  # the pointer finds the nearest place, however high a layer is
    )
    return figure


def _misses_by_layer(run: Run) -> go.Figure:
    _, step, layer, _ = _missed(run)
    cells = np.zeros((run.layers, len(run.passes.phase)), np.uint16)
    np.add.at(cells, (layer, step), 1)
    figure = style.blank(style.passes_axis(run), "MoE layer", max(280, min(620, 100 + 14 * run.layers)))
    most = max(int(np.quantile(cells, 0.99)), 1)
    figure.add_heatmap(
        z=_pooled(cells, MOST_CELLS // run.layers),
        dx=max(1, -(-cells.shape[1] // (MOST_CELLS // run.layers))),
        zmin=0,
        zmax=most,
        colorscale=[[0, "rgba(128,128,128,.10)"], [1, style.STATE_COLORS[MISS]]],
        colorbar={
            "title": {"text": "misses", "font": {"size": 14}},
            "thickness": 14,
            "tickformat": "d",
            "dtick": max(1, most // 5),
        },
        hovertemplate=style.passes_unit(run) + " %{x}, layer %{y}: %{z} misses<extra></extra>",
    )
    figure.update_xaxes(showgrid=False, zeroline=False)
    figure.update_yaxes(showgrid=False, zeroline=False, range=[run.layers - 0.5, -0.5])
    return figure


def _pooled(cells: NDArray[np.uint16], most: int) -> NDArray[np.uint16]:
    """The most misses of neighbouring passes, where columns are more than `most`. cells: [row, column]"""
    if cells.shape[1] <= most:
        return cells
    every = -(-cells.shape[1] // most)
    padded = np.pad(cells, ((0, 0), (0, -cells.shape[1] % every)))
    return np.asarray(padded.reshape(len(cells), -1, every).max(2))


def _places(figure: go.Figure, run: Run, texts: Sequence[str], pooled: bool) -> None:
    """What the pointer finds: a place for each layer of a pass, or of every so many passes of a long text,
    and one at each miss.
    """
    missed, step, layer, expert = _missed(run)
    named = zip(passes_of(run), texts, strict=True)
    told = [f"{name}, “{style.short(text, 24)}”" for name, text in named]
    passes, layers = len(run.passes.phase), run.layers
    every = -(-passes * layers // MOST_MARKS)
    where = np.arange(0, passes, every).repeat(layers), np.tile(np.arange(layers), -(-passes // every))
    count = np.zeros((passes, layers), np.int64)
    np.add.at(count, (step, layer), 1)
    middle = 0.0 if pooled else (run.experts - 1) / 2
    height = 1 if pooled else run.experts
    _found(
        figure,
        (*where, np.full(len(where[0]), -1)),
        where[1] * height + middle,
        [
            f"{told[n]}: layer {at}, {out} missed"
            for n, at, out in zip(where[0].tolist(), where[1].tolist(), count[where].tolist(), strict=True)
        ],
    )
    if 0 < missed <= MOST_MARKS:
        _found(
            figure,
            (step, layer, expert),
            layer if pooled else layer * run.experts + expert,
            [
                f"{told[n]}: layer {at}, expert {one} missed"
                for n, at, one in zip(step.tolist(), layer.tolist(), expert.tolist(), strict=True)
            ],
        )


def _found(figure: go.Figure, where: tuple[NDArray[Any], ...], y: NDArray[Any], told: Sequence[str]) -> None:
    """Points at passes and rows `y` that the pointer finds and that say what is there; `where`: the
    customdata, the passes first. Nothing is drawn: a browser takes a second for some thousand marks. All are
    arrays: Plotly looks at each item of a list.
    """
    figure.add_scatter(
        x=where[0],
        y=y,
        mode="none",
        showlegend=False,
        customdata=np.stack(where, 1).astype(np.int32),
        text=np.array(told),
        hovertemplate="%{text}<extra></extra>",
    )


def _raster_table(run: Run, texts: Sequence[str]) -> pd.DataFrame:
    import pandas as pd

    kinds = metrics.miss_kind_of_access(run)[run.accesses.outcome == MISSED]
    _, step, layer, expert = _missed(run)
    return pd.DataFrame(
        {
            "pass": step,
            "token": [texts[n] for n in step],
            "MoE layer": layer,
            "expert missed": expert,
            "why": np.array(MISS_KINDS)[kinds],
        }
    )


def _raster(
    cells: NDArray[np.uint8], colors: Sequence[str], first: int, x: str, y: str, told: str = ""
) -> go.Figure:
    """A raster of states, with their signs where there is room for them. cells: [row, column]; `told`: what a
    cell says to the pointer beside its state; left out where places say more.
    """
    shades = [color or "rgba(128,128,128,.10)" for color in colors]
    count = len(shades)
    scale = [
        stop for n, shade in enumerate(shades) for stop in ((n / count, shade), ((n + 1) / count, shade))
    ]
    glyphs = np.array((*style.STATE_GLYPHS, ""))[cells] if cells.size <= MOST_GLYPHS else None
    gap = 1 if cells.shape[1] <= 200 and cells.shape[0] <= 64 else 0
    figure = style.blank(x, y)
    figure.add_heatmap(
        z=cells,
        x0=first,
        dx=1,
        zmin=-0.5,
        zmax=count - 0.5,
        colorscale=scale,
        showscale=False,
        xgap=gap,
        ygap=gap,
        text=glyphs,
        texttemplate="%{text}" if glyphs is not None else None,
        textfont={"color": "#000", "size": 13},
        hoverinfo=None if told else "skip",
        hovertemplate=f"{told}: %{{customdata}}<extra></extra>" if told else None,
        customdata=np.array(NAMED)[cells] if told else None,
    )
    figure.update_xaxes(showgrid=False, zeroline=False, range=[first - 0.5, first + cells.shape[1] - 0.5])
    figure.update_yaxes(showgrid=False, zeroline=False)
    return figure

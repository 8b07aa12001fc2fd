"""How every figure looks: the one palette, and figures without anything in them yet.

Colours are those of Okabe and Ito, which colour-blind people tell apart. A colour never stands alone: lines
differ by dash, bars by pattern, cells by glyph.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from moeviz.core.trace import PREFILL

if TYPE_CHECKING:
    import plotly.graph_objects as go

    from moeviz.core.run import Run

STATE_COLORS = ("", "#56B4E9", "#009E73", "#E69F00", "#D55E00", "#CC79A7")  # of the board's states
STATE_GLYPHS = ("", "", "●", "◐", "✕", "▸")
COMPUTE, STALL, OTHER = "#009E73", "#D55E00", "#999999"
DEMAND, USEFUL, WASTED = "#0072B2", "#CC79A7", "#F0E442"
SERIES = ("#0072B2", "#E69F00", "#009E73", "#CC79A7", "#56B4E9", "#D55E00", "#999999", "#F0E442")
DASHES = ("solid", "dash", "dot", "dashdot", "longdash", "longdashdot")
BOUND = "#888888"  # of what no policy can beat
CURSOR = "#444444"  # where a figure has its page's ink, in that: no state has the colour
PHASE_NAMES = ("prompt", "decode")


def blank(x: str, y: str, height: int = 320) -> go.Figure:
    """A figure with its axes named and nothing drawn."""
    import plotly.graph_objects as go

    axis = {"automargin": True, "tickfont": {"size": 14}}
    return go.Figure(  # at once: Plotly checks every update by itself
        layout={
            "margin": {"l": 10, "r": 16, "t": 8, "b": 48},
            "height": height,
            "font": {"size": 15},
            "legend": {
                "orientation": "h",
                "yref": "container",  # above the axes Plotly leaves it behind where a page stretches them
                "y": 1,
                "yanchor": "top",
                "x": 0,
                "font": {"size": 14},
            },
            "hovermode": "closest",
            "xaxis": {"title": {"text": x, "font": {"size": 15}}, **axis},
            "yaxis": {"title": {"text": y, "font": {"size": 15}}, **axis},
        }
    )


def line(number: int, width: int = 3) -> dict[str, Any]:
    """Colour and dash of the series with this number."""
    return {
        "color": SERIES[number % len(SERIES)],
        "width": width,
        "dash": DASHES[number % len(DASHES)],
    }


def share_axis(figure: go.Figure, values: Sequence[float], most: float = 1.0) -> None:
    """Shares as percent, on an axis from a round number below the least of them, so that no half of it is
    empty.
    """
    known = [value for value in values if value == value]
    least = min(known, default=0.0)
    start = 0.0 if least < 0.25 else int((least - 0.05) * 10) / 10
    highest = max(known, default=most)
    top = most if highest > 0.6 * most or highest <= 0 else min(most, 1.25 * highest)
    figure.update_yaxes(range=[start, top + 0.02 * (top - start)], tickformat=".0%")


def rows(figure: go.Figure, count: int) -> go.Figure:
    """Makes horizontal bars stand in their order from the top, tall enough to be read."""
    figure.update_yaxes(autorange="reversed")
    figure.update_layout(
        height=max(210, 110 + 44 * count), bargap=0.25
    )  # a phone puts the legend in three lines
    return figure


def whiskers(
    figure: go.Figure,
    labels: Sequence[str],
    middle: Sequence[float],
    least: Sequence[float],
    most: Sequence[float],
) -> None:
    """Whiskers on horizontal bars, dark with a light edge: seen on a bar and beside it, in every theme."""
    reach = {
        "symmetric": False,
        "array": [high - value for high, value in zip(most, middle, strict=True)],
        "arrayminus": [value - low for low, value in zip(least, middle, strict=True)],
    }
    for color, thickness, width in (("#FFFFFF", 7, 9), ("#15202B", 3, 7)):
        figure.add_scatter(
            y=[html_safe(label) for label in labels],
            x=list(middle),
            mode="markers",
            marker={"opacity": 0},
            error_x={**reach, "color": color, "thickness": thickness, "width": width},
            hoverinfo="skip",
            showlegend=False,
        )


def stacked(
    axis: str, labels: Sequence[str], parts: Mapping[str, tuple[str, str, Sequence[float]]]
) -> go.Figure:
    """Stacked horizontal bars, one a label. parts: name -> (colour, pattern, a value for each label)"""
    figure = blank(axis, "")
    for name, (color, pattern, values) in parts.items():
        figure.add_bar(
            y=[html_safe(label) for label in labels],
            x=list(values),
            name=name,
            orientation="h",
            marker={"color": color, "pattern": hatch(pattern)},
        )
    figure.update_layout(barmode="stack", legend_traceorder="normal")
    return rows(figure, len(labels))


TOKENS = "token of the text, prompt included"  # an axis over those, not over passes


def passes_unit(run: Run) -> str:
    """What a forward pass of a run is: a token, where each after the prompt takes in one."""
    return "token" if run.token_by_token else "forward pass"


def passes_axis(run: Run) -> str:
    """The name of an axis over the forward passes of a run, and which of them read the prompt, if any did."""
    read = int((run.passes.phase == PREFILL).sum())
    which = {0: "", 1: " (0: the prompt)"}.get(read, f" (0 to {read - 1}: the prompt)")
    one_text = read == 0 or bool((run.passes.phase[:read] == PREFILL).all())  # not several requests
    return f"{passes_unit(run)}{which if one_text else ''}"


def pale(color: str) -> str:
    """A colour of the palette on which black text can be read: a quarter of white in it."""
    return "#" + "".join(f"{(3 * int(color[n : n + 2], 16) + 255) // 4:02X}" for n in (1, 3, 5))


def hatch(shape: str) -> dict[str, Any]:
    """A pattern that tells a bar apart without its colour; "" for none."""
    return {"shape": shape, "fillmode": "overlay", "fgcolor": "#000", "fgopacity": 0.4, "size": 7}


def mark_column(figure: go.Figure, at: float) -> None:
    """A frame around the column under the cursor."""
    figure.add_shape(
        type="rect",
        xref="x",
        x0=at - 0.5,
        x1=at + 0.5,
        yref="y domain",
        y0=0,
        y1=1,
        line={"color": CURSOR, "width": 2},
        fillcolor="rgba(0,0,0,0)",
    )


def mark_rows(figure: go.Figure, first: float, last: float) -> None:
    """A frame around the rows that are told of."""
    figure.add_shape(
        type="rect",
        xref="x domain",
        x0=0,
        x1=1,
        yref="y",
        y0=first,
        y1=last,
        line={"color": CURSOR, "width": 2},
        fillcolor="rgba(0,0,0,0)",
    )


def mark_line(
    figure: go.Figure, at: float, text: str, line: Mapping[str, Any], left: bool = True, row: int = 0
) -> None:
    """A line over the whole height with its name beside it, at the top, in that row from there."""
    note = {"text": text, "xshift": -4 if left else 4, "yshift": -20 * row}
    where = "top left" if left else "top right"
    figure.add_vline(at, line=dict(line), annotation=note, annotation_position=where)


# What follows changes a figure as it is sent, a dict that `Figure.to_dict` gave: a Figure checks each change,
# which takes longer than to make most charts.


def ink(sent: dict[str, Any], color: str) -> None:
    """All text of a figure, and what marks the cursor, in one colour that is seen well on its ground."""
    layout = sent["layout"]
    for one in (*layout.get("shapes", ()), *sent["data"]):
        for look in (one, one.get("line"), one.get("marker")):
            for name in ("color", "fillcolor"):
                if look and look.get(name) == CURSOR:
                    look[name] = color
    for one in (layout, _part(layout, "legend"), *layout.get("annotations", ())):
        _part(one, "font")["color"] = color
    for one in (*_axes(sent), *_colorbars(sent)):
        _part(one, "tickfont")["color"] = color
        _part(one, "title", "font")["color"] = color


def enlarge(sent: dict[str, Any], factor: float) -> None:
    """All text of a figure `factor` times as large, and the figure higher, for the back row of a room."""
    layout = sent["layout"]
    for one, usual in ((layout, 15), (_part(layout, "legend"), 14)):
        font = _part(one, "font")
        font["size"] = round(font.get("size", usual) * factor)
    layout["height"] = round(layout.get("height", 320) * (0.4 + 0.6 * factor))
    for one, title in (*((axis, 15) for axis in _axes(sent)), *((bar, 14) for bar in _colorbars(sent))):
        _part(one, "tickfont")["size"] = round(14 * factor)
        _part(one, "title", "font")["size"] = round(title * factor)
    for one in layout.get("annotations", ()):
        _part(one, "font")["size"] = round(15 * factor)
        one["yshift"] = round(one.get("yshift", 0) * factor)
    for one in sent["data"]:
        if size := one.get("textfont", {}).get("size"):
            one["textfont"]["size"] = round(size * factor)


def settle(sent: dict[str, Any], larger: float = 1.0) -> None:
    """Margins by hand, for text `larger` times as large: where Plotly finds them it draws all, measures
    the text, and draws all again. Names on the y axis have a length that only it can tell.
    """
    layout, data = sent["layout"], sent["data"]
    across, down = _part(layout, "xaxis"), _part(layout, "yaxis")
    named = (
        down.get("categoryarray") is not None
        or any(
            isinstance(value, str)
            for one in data
            if not isinstance(one.get("y"), dict | None)  # as bytes
            for value in one["y"][:1]
        )
    )
    ticks = down.get("ticktext")
    named = named or any(not text.isdecimal() for text in (ticks if ticks is not None else ()))
    told = [one for one in data if one.get("type") != "heatmap" and one.get("showlegend") is not False]
    asked = layout.get("showlegend")
    legend = asked is not False and (len(told) > 1 or bool(asked))
    bar = any(one.get("type") == "heatmap" and one.get("showscale") is not False for one in data)
    for one in _axes(sent):
        one |= {"ticklabeloverflow": "allow", "automargin": False}
    for name in layout:
        if name.startswith("yaxis"):
            layout[name]["automargin"] = named
    layout["margin"] = {
        "l": 10 if named else round(70 * larger),
        "r": round(90 * larger) if bar else 16,
        "t": round(42 * larger) if legend else 8,
        "b": round((100 if across.get("tickangle") else 56) * larger),
    }


def _part(of: dict[str, Any], *names: str) -> dict[str, Any]:
    """What a figure says under these names, one in the other; empty, and said from now on, where nothing."""
    for name in names:
        of = of.setdefault(name, {})
    return of


def _axes(sent: dict[str, Any]) -> list[dict[str, Any]]:
    return [one for name, one in sent["layout"].items() if name.startswith(("xaxis", "yaxis"))]


def _colorbars(sent: dict[str, Any]) -> list[dict[str, Any]]:
    return [_part(one, "colorbar") for one in sent["data"] if one.get("type") == "heatmap"]


def html_safe(text: str) -> str:
    """Text for a place where Plotly reads tags."""
    return text.replace("&", "&amp;").replace("<", "&lt;")


def short(text: str, most: int = 12) -> str:
    """A token as a tick's label: one line, at most `most` characters, never nothing."""
    line = text.replace("\n", "⏎")
    cut = line if len(line) <= most else line[: most - 1] + "…"
    return html_safe(cut) or "␣"

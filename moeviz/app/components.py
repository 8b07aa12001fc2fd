"""What the browser draws with code of moeviz's own besides the stage: the strip of tokens that holds the
cursor, and the keys.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from functools import cache
from pathlib import Path
from typing import Any

import streamlit as st

from moeviz import words
from moeviz.amounts import percent
from moeviz.app import kept, traces
from moeviz.charts import hits, style
from moeviz.charts.board import STATES
from moeviz.core.run import Run
from moeviz.core.trace import Trace

HERE = Path(__file__).parent
MOUNTING = (HERE / "mounting.js").read_text(encoding="utf-8")


def _component(name: str) -> Any:
    """Registers name.html, name.css and name.js, with the colours of the states."""
    colors = " ".join(
        f"--{state.partition(' ')[0].rstrip(',')}: {color};"
        for state, color in zip(STATES, style.STATE_COLORS, strict=True)
        if color
    )
    html, css, js = ((HERE / f"{name}.{kind}").read_text(encoding="utf-8") for kind in ("html", "css", "js"))
    return st.components.v2.component(
        f"moeviz_{name}", html=html, css=f".{name} {{ {colors} }}\n{css}", js=MOUNTING + js
    )


# what the strip's lines under tokens mean
BY_HITS = "Under a token: a line where most of its experts were there, dashes: some, dots: few."
BY_EXPERT = "A line under tokens that chose this expert; filled where it was their first choice."
_strip, _drawing = _component("strip"), _component("drawing")
_KEYS = (HERE / "keys.js").read_text(encoding="utf-8")


def strip(trace: Trace, run: Run, marked: tuple[int, int] | None = None) -> int:
    """The text, a forward pass each, with the cursor in it; gives the pass at which it stands. Of a trace
    without text the numbers of its passes.

    Marked by how much of what a pass needed was there in `run`, or by whether it chose one expert, `marked`
    (layer, expert).
    """
    texts = kept.texts(trace)
    texts = texts if any(texts) else [f"{number} " for number in range(len(texts))]
    last = len(texts) - 1
    kinds, titles = _by_hits(run) if marked is None else _by_expert(trace, *marked)
    state = st.session_state
    moved = (state.get("strip") or {}).get("moved")  # known before it is drawn, which then says the same
    if isinstance(moved, Mapping) and moved != state.get("strip-moved") and moved.get("of") == trace.digest:
        state["strip-moved"] = moved
        traces.move(min(max(int(moved["to"]), 0), last))
    at = traces.cursor(last)
    data = {"of": trace.digest, "at": at, "texts": texts, "kinds": kinds, "titles": titles}
    _strip(data=data, key="strip", on_moved_change=_nothing, on_clicked_change=_nothing)
    st.caption(BY_HITS if marked is None else BY_EXPERT)
    return at


def _nothing() -> None:
    """Streamlit keeps a state only where somebody listens."""


def clicked() -> tuple[int, int, int] | None:
    """Forward pass, MoE layer and expert, or below 0 none, of the place in one of the page's charts that was
    clicked since the last time that the page was drawn. Charts are heard on pages with a strip.
    """
    state = st.session_state
    said = (state.get("strip") or {}).get("clicked")
    at = said.get("at") if isinstance(said, Mapping) else None
    if said == state.get("strip-clicked") or not isinstance(at, list):
        return None
    state["strip-clicked"] = said
    match at:
        case [int(step), int(layer), int(expert)]:
            return step, layer, expert
    return None


def _by_hits(run: Run) -> tuple[list[str], list[str]]:
    ratio = hits.of_last_passes(run, 1).tolist()
    kinds = ["most" if share > 2 / 3 else "some" if share > 1 / 3 else "few" for share in ratio]
    names = words.passes_of(run)
    return kinds, [
        f"{name}: {percent(share, 0)} of what it needed was there"
        for name, share in zip(names, ratio, strict=True)
    ]


def _by_expert(trace: Trace, layer: int, expert: int) -> tuple[list[str], list[str]]:
    chosen = trace.experts[:, layer] == expert
    first = chosen[:, 0]
    kinds, titles = [], []
    for tokens in trace.passes():
        kinds.append("first" if first[tokens].any() else "chosen" if chosen[tokens].any() else "")
        titles.append(f"expert {expert} of layer {layer}: {'chosen' if kinds[-1] else 'not chosen'}")
    return kinds, titles


def keys(page: str, buttons: Mapping[str, str]) -> None:
    """Keys that press buttons from anywhere on the page of this title. buttons: keyboard's key -> key of an
    `st.button`

    It is a script and no component: that would be fetched, and listen, after its page has been drawn.
    """
    said = json.dumps({"page": page, "buttons": dict(buttons), "soon": _scripts()})
    script = f"<script>\n{_KEYS}moevizKeys({said})\ndocument.currentScript.remove()\n</script>"
    with st.container(key="keys"):  # which takes no room
        st.html(script, unsafe_allow_javascript=True)


@cache
def _scripts() -> list[str]:
    """Of Streamlit's own, those that draw charts, as the browser asks for them; none where they are not
    found, and then a page with a chart waits for them.
    """
    static = Path(st.__file__).parent / "static"
    return [path.relative_to(static).as_posix() for path in sorted(static.glob("static/js/PlotlyChart.*.js"))]


def drawing(svg: str, key: str) -> None:
    """A drawing of `moeviz.lessons.drawing`, in the theme's own ink, as wide as there is room."""
    _drawing(data={"svg": svg}, key=key)

"""What the browser draws with code of moeviz's own: the strip of tokens that holds the cursor, the board of a live run, and the keys."""

from __future__ import annotations

import base64
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import streamlit as st

from moeviz.app import kept, traces
from moeviz.charts import hits, style
from moeviz.charts.board import STATES, Frame
from moeviz.core.run import Run
from moeviz.core.trace import Trace

HERE = Path(__file__).parent
PIECE = 64  # frames that are sent while a run goes on


def _component(name: str) -> Any:
    """Registers name.html, name.css and name.js, with the colours of the states."""
    colors = " ".join(
        f"--{state.partition(' ')[0].rstrip(',')}: {color};"
        for state, color in zip(STATES, style.STATE_COLORS, strict=True)
        if color
    )
    html, css, js = ((HERE / f"{name}.{kind}").read_text(encoding="utf-8") for kind in ("html", "css", "js"))
    return st.components.v2.component(f"moeviz_{name}", html=html, css=f".{name} {{ {colors} }}\n{css}", js=js)


_strip, _board, _keys = _component("strip"), _component("board"), _component("keys")


def strip(trace: Trace, run: Run, marked: tuple[int, int] | None = None, first: int = 0) -> int:
    """The text, a forward pass each, with the cursor in it; gives the pass at which it stands.

    Marked by how much of what a pass needed was there in `run`, or by whether it chose one expert, `marked` (layer, expert). It begins at
    pass `first`.
    """
    texts = kept.texts(trace)
    last = len(texts) - 1
    kinds, titles = _by_hits(run) if marked is None else _by_expert(trace, *marked)
    at = traces.cursor(last, first)
    data = {"of": trace.digest, "at": at, "texts": texts, "kinds": kinds, "titles": titles}
    result = _strip(data=data, key="strip", on_moved_change=lambda: None)
    moved, state = result.moved, st.session_state
    if isinstance(moved, Mapping) and moved != state.get("strip-moved") and moved.get("of") == trace.digest:
        state["strip-moved"] = moved
        traces.move(min(max(int(moved["to"]), 0), last))
    return traces.cursor(last)


def _by_hits(run: Run) -> tuple[list[str], list[str]]:
    ratio = hits.of_last_passes(run, 1).tolist()
    kinds = ["most" if share > 2 / 3 else "some" if share > 1 / 3 else "few" for share in ratio]
    return kinds, [f"pass {n}: {share:.0%} of what it needed was there" for n, share in enumerate(ratio)]


def _by_expert(trace: Trace, layer: int, expert: int) -> tuple[list[str], list[str]]:
    chosen = trace.experts[:, layer] == expert
    first = chosen[:, 0]
    kinds, titles = [], []
    for tokens in trace.passes():
        kinds.append("first" if first[tokens].any() else "chosen" if chosen[tokens].any() else "")
        titles.append(f"expert {expert} of layer {layer}: {'chosen' if kinds[-1] else 'not chosen'}")
    return kinds, titles


def board(run_id: str, frames: Sequence[Frame], texts: Sequence[str], live: bool, key: str) -> None:
    """Draws the board of a run. While it is live the latest frames are sent, and earlier ones where the browser says that it lacks them."""
    lacks = st.session_state.get(key, {}).get("lacks") or {}
    start = max(0, len(frames) - PIECE) if live else 0
    if lacks.get("run") == run_id:
        start = min(start, max(0, int(lacks["from"])))
    part = frames[start:]
    layers, experts = part[0].state.shape if part else (1, 1)
    shared = not part or len(part[0].slots) != layers  # slots of one pool have no layer of their own
    slots = 0 if shared else part[0].slots.shape[1]
    data = {
        "run": run_id,
        "start": start,
        "live": live,
        "layers": layers,
        "experts": experts,
        "slots": slots,
        "colors": style.STATE_COLORS,
        "glyphs": style.STATE_GLYPHS,
        "names": STATES,
        "frames": _base64([frame.state for frame in part], np.uint8),
        "slotFrames": _base64([frame.slots for frame in part], np.int16) if slots else "",
        "texts": list(texts[start:]),
    }
    _board(data=data, key=key, on_lacks_change=lambda: None)


def _base64(arrays: Sequence[np.ndarray[Any, Any]], kind: type) -> str:
    return base64.b64encode(b"".join(np.ascontiguousarray(a, kind).tobytes() for a in arrays)).decode()


def keys(buttons: Mapping[str, str]) -> None:
    """Keys that press buttons from anywhere on a page. buttons: key of the keyboard -> key of an `st.button`"""
    _keys(data={"buttons": dict(buttons)}, key="keys")

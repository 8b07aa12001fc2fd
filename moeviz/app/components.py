"""What the browser draws with code of moeviz's own: the board, and the strip of tokens."""

from __future__ import annotations

import base64
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import streamlit as st

from moeviz.charts import figures as charts
from moeviz.charts.board import STATES, Frame

HERE = Path(__file__).parent

_mount = st.components.v2.component(
    "moeviz_board",
    html=(HERE / "board.html").read_text(),
    css=(HERE / "board.css").read_text() + f":host, .board {{ --miss: {charts.STATE_COLORS[4]}; }}\n",
    js=(HERE / "board.js").read_text(),
)


_strip = st.components.v2.component(
    "moeviz_strip",
    html=(HERE / "strip.html").read_text(),
    css=(HERE / "strip.css").read_text()
    + ":host, .strip-of-tokens { "
    + " ".join(
        f"--{name}: {charts.STATE_COLORS[STATES.index(state)]};"
        for name, state in (("resident", "resident"), ("hit", "hit"), ("late", "late hit"), ("miss", "miss"))
    )
    + " }\n",
    js=(HERE / "strip.js").read_text(),
)


def board(
    run_id: str,
    frames: Sequence[Frame],
    texts: Sequence[str],
    live: bool,
    key: str,
    at: int = 0,
    seek: int = 0,
) -> int:
    """Draws the board and returns the pass at which its user stopped. It begins at pass `at` and goes there again when `seek` changes.

    While live, only the latest frames are sent.
    """
    start = max(0, len(frames) - 64) if live else 0
    part = frames[start:]
    layers, experts = part[0].state.shape if part else (1, 1)
    slots = (
        part[0].slots.shape[1] if part and len(part[0].slots) == layers else 0
    )  # shared slots have no layer of their own
    data = {
        "run": run_id,
        "start": start,
        "live": live,
        "at": at,
        "seek": seek,
        "layers": layers,
        "experts": experts,
        "slots": slots,
        "colors": charts.STATE_COLORS,
        "glyphs": charts.STATE_GLYPHS,
        "names": STATES,
        "frames": _base64([frame.state for frame in part], np.uint8),
        "slotFrames": _base64([frame.slots for frame in part], np.int16) if slots else "",
        "texts": list(texts[start:]),
    }
    result = _mount(data=data, key=key, on_step_change=lambda: None)
    step = result.step if isinstance(result.step, int) else at
    return min(max(step, 0), max(len(frames) - 1, 0))


def strip(
    of: str, texts: Sequence[str], kinds: Sequence[str], titles: Sequence[str], key: str, at: int
) -> int:
    """Draws tokens, marked by kind (most, some, few; chosen, first; or nothing), and returns the one at which its user stopped.

    It begins at `at`, and again where `of` changes.
    """
    data = {"of": of, "at": at, "texts": list(texts), "kinds": list(kinds), "titles": list(titles)}
    result = _strip(data=data, key=key, on_step_change=lambda: None)
    step = result.step if isinstance(result.step, int) else at
    return min(max(step, 0), max(len(texts) - 1, 0))


def _base64(arrays: Sequence[np.ndarray[Any, Any]], kind: type) -> str:
    return base64.b64encode(b"".join(np.ascontiguousarray(a, kind).tobytes() for a in arrays)).decode()

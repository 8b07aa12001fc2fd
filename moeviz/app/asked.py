"""What the link keeps of the stage besides boards and cursor: the layer at which slow motion stands, the
expert that was asked about, and the speed.

seek = asked.restored(trace, timed)      # for `stage`
asked.tell(event)
"""

from __future__ import annotations

from typing import Any

import streamlit as st

from moeviz.app import links
from moeviz.app.show import plain
from moeviz.app.stage import StageEvent
from moeviz.core.trace import Trace

BOARDS = ("a", "b")
SPEEDS = ("1", "4", "16", "times")  # tokens a second, or as measured; those of the stage's menu
USUAL = "4"


def tell(event: StageEvent) -> None:
    """Tells the link where slow motion stands, what is asked about, where the user chose it, and the speed,
    where it is not the usual one. Nothing where the stage has said nothing yet.
    """
    if not event.speed:
        return
    links.put("speed", event.speed if event.speed != USUAL else "")
    links.put("slow", "" if event.slow is None else str(event.slow))
    chosen = event.kept and None not in (event.layer, event.expert, event.selected_board)
    links.put("asked", f"{BOARDS[event.selected_board or 0]}.{event.layer}.{event.expert}" if chosen else "")


def restored(trace: Trace, timed: bool) -> dict[str, Any]:
    """What of `stage`'s seek the link says. What does not fit the trace, or, as the measured speed of a text
    that was not `timed`, is not to be had, is taken out of the link, and said where the link asked for it.
    """
    found: dict[str, Any] = {}
    if speed := links.get("speed"):
        if speed not in SPEEDS:
            _refuse("speed", "no speed. It plays 4 tokens a second")
        elif speed == "times" and not timed:  # chosen in the menu, of another text, it goes without a word
            if st.session_state.linked.get("speed") == speed:
                _refuse("speed", "no speed of this text, since it was not timed. It plays 4 tokens a second")
            links.put("speed", "")
        else:
            found["speed"] = speed
    if slow := links.get("slow"):
        if _below(slow, trace.layers):
            found["slow"] = int(slow)
        else:
            _refuse("slow", "no MoE layer of this trace. The whole token is shown")
    if asked := links.get("asked"):
        match asked.split("."):
            case [("a" | "b") as board, layer, expert] if _below(layer, trace.layers) and _below(
                expert, trace.num_experts
            ):
                found |= {"board": BOARDS.index(board), "layer": int(layer), "expert": int(expert)}
            case _:
                _refuse("asked", "no board, MoE layer and expert of this trace. None is selected")
    return found


def forget(trace: Trace) -> None:
    """Another trace than before has other experts."""
    state = st.session_state
    if state.get("asked_of", trace.digest) != trace.digest:
        links.put("asked", "")
        links.put("slow", "")
    state.asked_of = trace.digest


def _below(text: str, most: int) -> bool:
    return text.isascii() and text.isdecimal() and len(text) < 9 and int(text) < most


def _refuse(name: str, why: str) -> None:
    st.toast(plain(f"The link says {name}={links.get(name)[:40]}, which is {why}."))
    links.put(name, "")

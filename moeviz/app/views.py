"""What the Experts page shows of one trace, by the name of a view."""

from __future__ import annotations

from typing import Any

import streamlit as st

from moeviz import words
from moeviz.charts import Chart, domains, shares, usage
from moeviz.core.trace import DECODE, PREFILL, Trace

TWO = "Two traces"
ALL = "prompt and decode"
PHASES = {ALL: None, "prompt": PREFILL, "decode": DECODE}


def names(trace: Trace) -> list[str]:
    """The views that a trace can have."""
    own = ["Domains"] if domains.known(trace) else []
    return ["Now", "Skew", "Reuse", "Together", "One expert", *own, TWO]


def counting(trace: Trace) -> tuple[str, str]:
    """Draws what is counted, tokens or their weight, and in which phase."""
    counts = ["tokens", "router weight"] if trace.weights is not None else ["tokens"]
    linked: dict[str, Any] = {"required": True, "bind": "query-params"}
    meaning = words.tooltip(*counts)
    count = st.segmented_control("Count", counts, default="tokens", key="count", help=meaning, **linked)
    meaning = words.tooltip("phase", *PHASES)
    phase = st.segmented_control("Phase", list(PHASES), default=ALL, key="phase", help=meaning, **linked)
    return str(count), str(phase)


def charts(view: str, trace: Trace, step: int, weighted: bool, layer: int, expert: int) -> list[Chart]:
    """The charts of a view; none for two traces, which need the other one."""
    match view:
        case "Now":
            nearest = [domains.nearest(trace, step)] if domains.known(trace) else []
            return [usage.now_and_so_far(trace, step, weighted), *nearest]
        case "Skew":
            return [shares.skew(trace, weighted), shares.coverage(trace, weighted)]
        case "Reuse":
            return [shares.reuse(trace)]
        case "Together":
            later = [layer, layer + 1] if layer + 1 < trace.layers else [layer]
            return [usage.together(trace, layer, one) for one in later]
        case "One expert":
            return [usage.one_expert(trace, layer, expert)]
        case "Domains":
            return [domains.favourites(), domains.nearest(trace, step)]
    return []

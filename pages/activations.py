"""Activations: who is used, where, when?"""

from __future__ import annotations

import numpy as np
import pandas as pd
import streamlit as st

from moeviz import charts, routing
from moeviz.trace import DECODE, PREFILL, Trace
from pages import common

state = st.session_state
PHASES = {"prefill and decode": None, "prefill": PREFILL, "decode": DECODE}


def of_phase(trace: Trace, phase: int | None) -> Trace | None:
    """The tokens of one phase; None where there are none."""
    return trace if phase is None else trace.only(phase)


def by_expert(values: np.ndarray, name: str) -> pd.DataFrame:
    """A row per layer and expert. values: [L, E]"""
    layers, experts = values.shape
    return pd.DataFrame(
        {"MoE layer": np.repeat(range(layers), experts), "expert": np.tile(range(experts), layers), name: values.ravel()}
    )


def now_and_so_far(trace: Trace, weighted: bool, label: str) -> None:
    """One token above all tokens up to it."""
    passes = trace.passes()
    last = len(passes) - 1
    step = st.slider("Forward pass", 0, last, last, key=common.fits("token", last), bind="query-params") if last else 0
    now, far = (routing.usage(trace, weighted, tokens) for tokens in (passes[step], slice(0, passes[step].stop)))
    text = "".join(trace.texts[passes[step]])
    st.caption(f"Which experts did this token choose, and which did the text choose so far? Pass {step}: {common.plain(text)}")
    common.chart(charts.heat(now.T, "expert", label), "Now", by_expert(now, label), "now", "recorded")
    common.chart(charts.heat(far.T, "expert", label), "So far", by_expert(far, label), "so-far", "recorded")


def skew(trace: Trace, use: np.ndarray) -> None:
    """How unevenly experts are used, and how much repeats from token to token."""
    st.caption(
        "Is the work spread evenly, and does a token reuse what the one before it used? The more skew and reuse, the more a cache can hit."
    )
    experts = trace.num_experts
    chance = np.full(trace.layers, trace.k / experts)
    lines = [
        ("share of the busiest quarter", routing.top_share(use)),
        ("entropy, 1 is even", routing.entropy(use)),
        ("reuse of the token before", routing.reuse(trace)),
        (f"reuse by chance, {trace.k} / {experts}", chance),
    ]
    table = pd.DataFrame({"MoE layer": range(trace.layers), **dict(lines)})
    common.chart(charts.layer_lines(lines, "share"), "Skew and reuse by layer", table, "skew", "recorded")
    shares = routing.coverage(use)
    table = pd.DataFrame(shares, columns=[f"{n + 1}" for n in range(experts)]).assign(layer=range(trace.layers))
    st.caption("How many experts would have to be resident to serve a given share of the choices, if one knew them beforehand?")
    common.chart(charts.coverage(shares), "Coverage", table, "coverage", "recorded")


def pairs(trace: Trace) -> None:
    """Who is chosen together."""
    st.caption(
        "Given an expert of this layer, who else is chosen with it, here and in the next layer? A pre-fetcher can follow strong pairs."
    )
    layer = st.number_input(
        "MoE layer", 0, trace.layers - 1, key=common.fits("pair_layer", trace.layers - 1), bind="query-params", width=130
    )
    for title, later in (("Chosen together", layer), ("Chosen in the next layer", layer + 1)):
        if later < trace.layers:
            values = routing.together(trace, layer, later)
            table = pd.DataFrame(
                [
                    {"expert": i, "with": j, "share": values[i, j]}
                    for i in range(len(values))
                    for j in range(len(values))
                    if values[i, j] > 0
                ]
            )
            figure = charts.heat(values, f"expert of layer {layer}", "share of its tokens", f"expert of layer {later}")
            common.chart(figure, title, table, f"pairs-{later - layer}", "recorded")


def one_expert(trace: Trace) -> None:
    """Everything that one expert did."""
    st.caption("What does an expert see? Its tokens with their neighbours, the heaviest weights first.")
    with st.container(horizontal=True):
        layer = st.number_input(
            "MoE layer", 0, trace.layers - 1, key=common.fits("expert_layer", trace.layers - 1), bind="query-params", width=130
        )
        expert = st.number_input(
            "Expert", 0, trace.num_experts - 1, key=common.fits("expert", trace.num_experts - 1), bind="query-params", width=130
        )
    tokens, weights = routing.tokens_of(trace, layer, expert)
    st.markdown(
        f"Chosen by **{len(tokens):,}** of {trace.tokens:,} tokens ({len(tokens) / trace.tokens:.0%}; evenly it would be {trace.k / trace.num_experts:.0%})."
    )
    rows = [
        {
            "weight": weight,
            "before": "".join(trace.texts[max(0, token - 6) : token]),
            "token": trace.texts[token],
            "after": "".join(trace.texts[token + 1 : token + 5]),
            "position": int(token),
            "phase": "decode" if trace.phase[token] == DECODE else "prefill",
        }
        for token, weight in zip(tokens[:500], weights[:500], strict=True)
    ]
    st.dataframe(pd.DataFrame(rows), hide_index=True)


def two(trace: Trace, other: Trace, names: tuple[str, str], weighted: bool) -> None:
    """Two traces of one model beside each other."""
    st.caption("Do two texts use the same experts? Shares of each layer's choices, and what the first has more of.")
    a, b = (routing.usage(one, weighted) for one in (trace, other))
    a, b = (use / np.maximum(use.sum(1, keepdims=True), 1e-12) for use in (a, b))
    left, right = st.columns(2)
    for column, name, use, key in ((left, names[0], a, "first"), (right, names[1], b, "second")):
        with column:
            common.chart(charts.heat(use.T, "expert", "share"), name, by_expert(use, "share"), key, "recorded")
    common.chart(
        charts.heat((a - b).T, "expert", "difference", middle=True),
        "Difference: first less second",
        by_expert(a - b, "difference"),
        "difference",
        "recorded",
    )
    alike = routing.similarity(a, b)
    table = pd.DataFrame({"MoE layer": range(len(alike)), "similarity": alike})
    common.chart(
        charts.layer_lines([("cosine of the two shares", alike)], "similarity"),
        "Similarity by layer",
        table,
        "similarity",
        "recorded",
    )


common.within_app()
st.title("Who is used, where, when?")
name, trace, _ = common.trace_picker()
others = [
    one
    for one, (other, _) in common.traces().items()
    if (other.layers, other.num_experts) == (trace.layers, trace.num_experts) and one != name
]
with st.container(horizontal=True, vertical_alignment="bottom"):
    phase = st.segmented_control(
        "Phase", list(PHASES), default="prefill and decode", required=True, key="phase", bind="query-params"
    )
    weighted = (
        st.segmented_control(
            "Count", ["tokens", "router weight"], default="tokens", required=True, key="count", bind="query-params"
        )
        != "tokens"
    )
    against = st.selectbox(
        "Compare with",
        ["nothing", *others],
        key="against",
        bind="query-params",
        width=330,
        on_change=state.pop,
        args=("view", None),
    )
chosen = of_phase(trace, PHASES[phase])
if chosen is None:
    st.info(f"This trace has no tokens of {phase}.")
    st.stop()
views = {
    "Now and so far": lambda: now_and_so_far(chosen, weighted, "router weight" if weighted else "tokens"),
    "Skew and reuse": lambda: skew(chosen, routing.usage(chosen, weighted)),
    "Together": lambda: pairs(chosen),
    "One expert": lambda: one_expert(chosen),
}
if against != "nothing":
    views = {"Two traces": lambda: two(chosen, common.traces()[against][0], (name, against), weighted)} | views
view = st.segmented_control("View", list(views), default=next(iter(views)), required=True, key="view")
views[view]()

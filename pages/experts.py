"""Experts: who is used, where, when?"""

from __future__ import annotations

import streamlit as st

from moeviz.app import bar, components, forms, kept, show, traces, views
from moeviz.charts import usage
from moeviz.core.settings import Settings

NONE = "no other trace"

bar.within_app()
with show.screen():
    st.title("Who is used, where, when?", anchor=False)
    if (found := traces.counted()) is not None:
        counts = found.counts
        show.charts(lambda: usage.counted(counts), "counts", counts)
        st.caption(f"Model: {show.plain(found.model or 'not named')}. Counts do not say when.")
        st.stop()
    name, whole, own = traces.here()
    with st.container(horizontal=True, vertical_alignment="top"):  # what comes beside the views moves none
        view = st.segmented_control(
            "Show",
            views.names(whole),
            default="Now",
            required=True,
            key="view",
            bind="query-params",
            label_visibility="collapsed",
        )
        layer, expert = 0, 0
        if view in ("Together", "One expert"):
            layer = int(forms.number("MoE layer", "layer", whole.layers - 1))
        if view == "One expert":
            expert = int(forms.number("Expert", "expert", whole.num_experts - 1))
        if view == views.TWO:
            others = [one for one in traces.like(whole) if one != name]
            against = st.selectbox("Beside", [NONE, *others], key="against", bind="query-params", width=330)
        with forms.drawer(count="tokens", phase=views.ALL):
            count, phase = views.counting(whole)
    number = views.PHASES[phase]
    part = whole if number is None else whole.only(number)
    clicked = components.clicked()  # heard in any phase: else an old click would open the stage later
    if part is whole and clicked is not None:
        traces.open_stage(*clicked, traces.begin(whole, own))
    if part is None:
        show.not_recorded(f"tokens of {phase}", "Choose another phase under More.")
        st.stop()
    trace = part
    run = (
        own
        if own is not None and trace is whole
        else kept.replayed(trace, Settings(slots=traces.slots_for(trace, None)))
    )
    marked = (layer, expert) if view == "One expert" else None
    step = components.strip(trace, run, marked)
    weighted = count != "tokens"
    if view == views.TWO and against == NONE:
        st.info(
            "Choose the trace to lay beside this one: of a model of the same shape.",
            icon=":material/compare:",
        )
    elif view == views.TWO:
        other = traces.load(against)[0]
        both = (name, against)
        show.charts(
            lambda: usage.two(trace, other, both, weighted), "two-traces", trace, other, both, weighted
        )
    else:
        at = (step, weighted, layer, expert)
        show.charts(lambda: views.charts(view, trace, *at), view, trace, *at)
        if view == "Now" and trace is whole:
            st.caption("A click on an expert opens the stage there.")

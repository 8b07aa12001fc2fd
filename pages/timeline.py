"""Timeline: who was resident, who left, why?"""

from __future__ import annotations

import streamlit as st

from moeviz import words
from moeviz.app import bar, beyond, components, forms, kept, show, traces
from moeviz.charts import residency, story

JUMPS = {
    "miss": "the next miss",
    "eviction": "the next eviction",
    "collision": "the next collision",
    "regret": "the next regretted eviction",
}

bar.within_app()
with show.screen():
    st.title("Who was resident, who left, why?", anchor=False)
    name, trace, own = traces.here()
    last = len(trace.passes()) - 1
    form = forms.SettingsForm(trace, own, begin=traces.begin(trace, own))
    row = st.container(horizontal=True, vertical_alignment="bottom")
    with row:
        form.show("policy", "slots")
        kind = st.menu_button(
            "Jump to",
            list(JUMPS),
            key="jump",
            format_func=lambda one: JUMPS[one],
            icon=":material/redo:",
            help=words.tooltip(*JUMPS),
        )
        with forms.drawer(form, paper=False):
            form.rest()
            paper = st.toggle(
                "Paper colours", key="paper", bind="query-params", help="As in arXiv 2511.05814."
            )
            st.divider()
            export = st.container()
    settings = form.settings()
    if settings is None:
        st.stop()
    explainer = kept.explained(trace, settings)
    trace, run = explainer.trace, explainer.run  # in the passes in which the rule serves it
    if (clicked := components.clicked()) is not None:
        traces.open_stage(*clicked, settings)
    texts, pictures = kept.texts(trace), kept.pictures(run)
    if kind is not None:
        found = explainer.next_event(kind, traces.cursor(last), st.session_state.get("layer", 0))
        if found is None:
            st.info(f"There is no {kind} after this one.")
        else:
            traces.move(found[0])
            st.session_state.layer = found[1]
    with row:
        layer = int(forms.number("MoE layer", "layer", trace.layers - 1))
    step = components.strip(trace, run)
    at = (trace, run, step)
    show.chart(lambda: residency.raster(run, texts, pictures, step, layer), "raster", *at, layer)
    st.caption(f"A click opens the stage there. {residency.legend(run)}")
    beyond.hits(trace, [(settings, run)])
told = story.event(explainer, step, layer)
st.markdown(f"**{told}**", help=words.tooltip(told))
evictions = explainer.evictions(step, layer)
if not evictions:
    st.caption("Nobody left at this event.")
for one in evictions:
    told = story.eviction(explainer, one, layer)
    st.markdown(told, help=words.tooltip(told))
    st.caption("Everyone resident at that moment, the first to leave first:")
    st.table(story.residents(explainer, one), hide_index=True)
one_layer = (layer, step, paper)
show.chart(lambda: residency.paper(run, pictures, texts, *one_layer), "paper-figure", *at, *one_layer)
st.caption(residency.legend_of_layer(run, paper))
with export:
    show.exporter(name, trace, lambda: run, own, "timeline")

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
    asked, text = show.head()
    asked.title("Who was resident, who left, why?", anchor=False)
    name, trace, own = traces.here()
    form = forms.SettingsForm(trace, own, begin=traces.begin(trace, own))
    row = asked.container(horizontal=True, vertical_alignment="bottom")
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
            as_there = "As in arXiv 2511.05814."
            paper = st.toggle("Paper colours", key="paper", bind="query-params", help=as_there)
            st.divider()
            export = st.container()
    if (settings := form.settings()) is None:
        st.stop()
    explainer = kept.explained(trace, settings)
    trace, run = explainer.trace, explainer.run  # in the passes in which the rule serves it
    if (clicked := components.clicked()) is not None:
        traces.open_stage(*clicked, settings)
    texts, pictures = kept.texts(trace), kept.pictures(run)
    if kind is not None:
        at_cursor = traces.cursor(len(trace.passes()) - 1)
        found = explainer.next_event(kind, at_cursor, st.session_state.get("layer", 0))
        if found is None:
            st.info(f"There is no {kind} after this one.")
        else:
            traces.move(found[0])
            st.session_state.layer = found[1]
    with row:
        layer = int(forms.number("MoE layer", "layer", trace.layers - 1))
    with text:
        step = components.strip(trace, run)
    at = (trace, run, step)
    over_all, of_layer = st.columns(2)
    with over_all:
        show.chart(lambda: residency.raster(run, texts, pictures, step, layer), "raster", *at, layer)
        st.caption(f"{residency.CLICKED} {residency.legend(run)}")
    with of_layer:
        of = (layer, step, paper)
        show.chart(lambda: residency.paper(run, pictures, texts, *of), "paper-figure", *at, *of)
        st.caption(residency.legend_of_layer(run, paper))
    told = story.event(explainer, step, layer)
    st.markdown(f"**{told}**", help=words.tooltip(told))
if not (evictions := explainer.evictions(step, layer)):
    st.caption("Nobody left at this event.")
for one in evictions:
    told = story.eviction(explainer, one, layer)
    st.markdown(told, help=words.tooltip(told))
    st.caption("Everyone resident at that moment, the first to leave first:")
    st.table(story.residents(explainer, one), hide_index=True)
beyond.hits(trace, [(settings, run)])
with export:
    show.exporter(name, trace, lambda: run, own, "timeline")

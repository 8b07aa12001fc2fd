"""Library: samples, traces kept on this machine, and what is dropped here."""

from __future__ import annotations

import streamlit as st

from moeviz import words
from moeviz.app import bar, forms, shelf, show, traces
from moeviz.core.trace import MAX_EXPERTS

SHOWN = 400  # tokens of the text

bar.within_app()
st.title("Which traces are there, and what do they hold?", anchor=False)
shelf.drop(int(st.session_state.get("experts_of_file", 0)))
if (counts := traces.counted()) is not None:
    shelf.table()
    shelf.counts(counts)
    st.stop()
name, trace, run = traces.here()
shelf.table()
with st.container(horizontal=True, vertical_alignment="center"):
    st.markdown(f"**{show.plain(name)}**", width="content")
    shelf.actions(name, trace, run)
    with forms.drawer(experts_of_file=0):
        st.number_input(
            shelf.EXPERTS,
            0,
            MAX_EXPERTS,
            key="experts_of_file",
            persist_state="session",
            help=words.tooltip("expert", more="0: infer it as the largest id + 1."),
        )
        st.caption(shelf.LIMITS)
        st.divider()
        shelf.export(name, trace, run)
shelf.notes(trace.notes)
if trace.prompt:
    st.text(f"Prompt: {trace.prompt}")
if text := "".join(trace.texts[:SHOWN]):
    st.text(f"Text: {text}{'…' if trace.tokens > SHOWN else ''}")

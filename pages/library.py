"""Library: samples, traces kept on this machine, and what is dropped here."""

from __future__ import annotations

import streamlit as st

from moeviz.app import bar, forms, shelf, show, traces

SHOWN = 400  # tokens of the text

bar.within_app()
st.title("Which traces are there, and what do they hold?", anchor=False)
shelf.drop()
with forms.drawer(**shelf.NOT_SAID):
    shelf.said()
    export = st.container()
if (counts := traces.counted()) is not None:
    shelf.table()
    shelf.counts(counts)
    st.stop()
name, trace, run = traces.here()
shelf.table()
with st.container(horizontal=True, vertical_alignment="center"):
    st.markdown(f"**{show.plain(name)}**", width="content")
    shelf.actions(name, trace, run)
with export:
    st.divider()
    shelf.export(name, trace, run)
shelf.notes(trace.notes)
if trace.prompt:
    st.text(f"Prompt: {trace.prompt}")
if not any(trace.texts):
    st.caption("This trace holds no text, so every page shows the numbers of its forward passes instead.")
if text := "".join(trace.texts[:SHOWN]):
    st.text(f"Text: {text}{'…' if trace.tokens > SHOWN else ''}")

"""Stage: which cache suits this text?"""

from __future__ import annotations

import streamlit as st

from moeviz.app import asking, bar, boards, first_visit, forms, live, measure, traces

bar.within_app()
if traces.counted() is not None:
    st.title(boards.TITLE, anchor=False)  # the stage, which says it, is not drawn
here = traces.here()
form = forms.SettingsForm(here.trace, here.run, "_both")
with forms.drawer(form, **asking.defaults(here.trace), baselines=[]):
    st.markdown("**Run it live, and Measure**")
    st.caption("What the next run is given: the picture keeps the text that it shows until you start one.")
    ask = asking.ask()
    baselines = boards.baselines()
    expected = st.empty()
    st.markdown("**Both boards**")
    form.rest("policy", "slots", "prefetch")
two = boards.pair(here.trace, here.run, form.values)
wanted = measure.wanted(here.trace, two, ask, baselines)
expected.caption(wanted.takes)
first_visit.draw(here, two, wanted.label, lambda: boards.begin(two, wanted))
boards.draw(here, two, form.values, wanted)
measure.watch(here, two, ask)
live.ended(here.name)

"""Stage: which cache suits this text?"""

from __future__ import annotations

import streamlit as st

from moeviz.app import asking, bar, boards, first_visit, forms, hosting, live, measure, traces

bar.within_app()
if traces.counted() is not None:
    st.title(hosting.TITLE, anchor=False)  # the stage, which says it, is not drawn
here = traces.here()
form = forms.SettingsForm(here.trace, here.run, "_both")
with forms.drawer(form, **asking.defaults(here.trace), baselines=[]):
    st.markdown("**Run it live, and Measure**")
    st.caption("What the next run is given: the picture keeps the text that it shows until you start one.")
    ask = asking.ask()
    baselines = hosting.baselines()
    expected = st.empty()
    st.markdown("**Both boards**")
    form.rest("policy", "slots", "prefetch")
two = boards.pair(here.trace, here.run, form.values)
wanted = measure.wanted(here.trace, two, ask, baselines)
expected.caption(wanted.takes)
first_visit.draw(here, two, wanted.label, lambda: hosting.begin(here.trace, two, wanted))
hosting.draw(here, two, form.values, wanted)
measure.watch(here, two, ask)
live.ended(here.name)

"""Prefetch: are guesses right, in time, worth it?"""

from __future__ import annotations

from dataclasses import replace

import streamlit as st

from moeviz import words
from moeviz.app import bar, components, forms, kept, show, traces
from moeviz.charts import guesses, lanes, traffic
from moeviz.core.predictors import PREDICTORS
from moeviz.core.replay import served
from moeviz.numbers import worth

bar.within_app()
with show.screen():
    asked, text = show.head()
    asked.title("Are guesses right, in time, worth it?", anchor=False)
    _, trace, own = traces.here()
    if trace.layers < 2:
        show.not_recorded("second MoE layer", "A guess is made in one MoE layer for a later one.")
        st.stop()
    known = [
        name
        for name, one in PREDICTORS.items()
        if name != "none" and "future" not in one.needs and (trace.lookaheads or "routers" not in one.needs)
    ]
    begin = traces.begin(trace, own)
    begin = begin if begin.prefetch in known else replace(begin, prefetch=known[-1])
    form = forms.SettingsForm(trace, own, keys={"prefetch": "predictor"}, begin=begin)
    with asked.container(horizontal=True, vertical_alignment="bottom"):
        form.show("prefetch", "lookahead", "slots")
        with forms.drawer(form, passes=3):
            form.rest()
            passes = st.number_input(
                "Passes drawn", 1, 20, 3, key="passes", bind="query-params", help=words.tooltip("pass")
            )
    if (chosen := form.settings()) is None:
        st.stop()
    settings = chosen
    if "routers" in PREDICTORS[settings.prefetch].needs and not trace.lookaheads:
        show.not_recorded(
            "guesses of its routers", "Record it with moeviz, or choose a predictor that needs none."
        )
        st.stop()
    trace = served(trace, settings)
    run = own if own is not None and own.settings == settings else kept.replayed(trace, settings)
    without = kept.replayed(trace, replace(settings, prefetch="none", lookahead=1, width=0, threshold=0.0))
    measured, whose = traces.basis(trace, own)
    costs = kept.fitted(measured)
    timed = traces.timed(trace, own)
    even = []
    if timed:
        even = worth.break_even_precisions(costs, trace.layers, trace.k, worth.pollution_of(run))
    found = {one: kept.guessed(trace, one, settings.width, settings.threshold) for one in known}
    if (clicked := components.clicked()) is not None:
        traces.open_stage(*clicked, settings)
    with text:
        step = components.strip(trace, run)
    left, right = st.columns(2)
    with left:
        of = (trace, known, settings.width, settings.threshold)
        show.chart(lambda: guesses.precision(found, trace, settings.width, even), "precision", *of, even)
    with right:
        many = int(passes)
        show.chart(lambda: traffic.ledger(run), "ledger", run)
        other = "" if timed else whose
        drawn = run, step, many, costs, other
        show.chart(lambda: lanes.over_passes(*drawn), "lanes", *drawn)
    saved = words.worth_in_time(kept.predicted(run, costs), kept.predicted(without, costs), whose, timed)
    st.caption(f"{show.plain(saved)} A click on a copy opens the stage there.")
show.chart(lambda: traffic.crossed(run, without), "crossed", run, without)
if settings.prefetch in found:
    one = settings.prefetch
    show.chart(lambda: guesses.by_layer(one, found[one]), "by-layer", *of, one)

"""What if: how many slots, which policy, which machine?"""

from __future__ import annotations

from dataclasses import replace

import streamlit as st

from moeviz import words
from moeviz.app import bar, beyond, forms, kept, machines, others, planning, show, traces
from moeviz.charts import curves, times
from moeviz.core.policies import POLICIES
from moeviz.core.settings import Settings, calibrated
from moeviz.errors import MoevizError
from moeviz.numbers import cost
from moeviz.numbers.curves import slot_counts

BASELINES = [Settings(baseline="resident"), Settings(baseline="on-demand")]

bar.within_app()
with show.screen():
    st.title("How many slots, which policy, which machine?", anchor=False)
    if traces.counted() is not None:
        planning.section(None, None)
    here = _, trace, run = traces.here()
    begin = traces.begin(trace, run)
    scope = forms.scope("scope", begin.scope)
    counts = slot_counts(trace, scope)
    with st.container(horizontal=True, vertical_alignment="bottom"):
        policies = st.multiselect(
            "Policies",
            list(POLICIES),
            list(dict.fromkeys([begin.policy, "lru", "lfu", "belady"])),
            format_func=words.policy_name,
            key="policies",
            bind="query-params",
            width=forms.px(420),
            help=words.tooltip("policy", *POLICIES),
        )
        at = forms.one_of(
            "Slots per layer" if scope == "layer" else "Slots in all",
            "at",
            counts,
            begin.slots if begin.scope == scope else traces.slots_for(trace, run, scope),
        )
        place = machines.pick(trace, run)
        with forms.drawer(scope=begin.scope, published=others.first(trace, scope), expert_mb=0.0):
            laid = others.choose(trace, scope, begin.scope)
            size = machines.expert_size(trace, run)
            machines.check()
    if not policies:
        st.info("Choose a policy.")
        st.stop()
    chosen = [calibrated(Settings(one, at, scope)) for one in policies]
    try:
        found = [kept.curved(trace, replace(one, slots=counts[0])) for one in chosen]
        runs = kept.named(trace, [*chosen, *BASELINES])
    except MoevizError as error:
        st.error(show.plain(str(error)))
        st.stop()
    even = cost.break_even(at, scope, trace.num_experts, trace.layers, trace.k)
    left, right = st.columns(2)  # so wide that both headings, badges and Table stay in one line
    with left:
        named = [one.name for one in laid]
        show.chart(lambda: curves.over_slots(found, at, even, laid), "curves", trace, chosen, at, even, named)
        beyond.hits(trace, [(one, kept.replayed(trace, one)) for one in chosen])
        others.sources(laid)
    with right:
        if place is None or not size:
            machines.say_what_is_missing(size)
        else:
            costs, whose = machines.costs(trace, run, place, size)
            show.chart(lambda: times.modelled(runs, costs, whose), "times", runs, costs, whose)
            st.caption(machines.in_words(costs, place, size))
        st.caption(machines.memory(at, scope, trace.layers, size))
        if said := words.calibrated_on_itself(chosen):
            st.caption(said)
    machines.checked()
    planning.section(here, place)

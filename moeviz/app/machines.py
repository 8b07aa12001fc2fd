"""The machine that times are modelled for: its slow tier, the size of an expert, whose costs are borrowed,
how far off the model is.

Only a trace with a measured run of its own has a tier and costs of its own; for others they are asked for or
borrowed, and that is said.
"""

from __future__ import annotations

import pandas as pd
import streamlit as st

from moeviz import words
from moeviz.app import forms, jobs, kept, measure, show, traces
from moeviz.app.asking import PRESETS
from moeviz.core.machines import MACHINES, TYPED, Machine
from moeviz.core.run import Run
from moeviz.core.settings import Settings
from moeviz.core.trace import Trace
from moeviz.engine.client import Job
from moeviz.numbers import cost, plan

OWN = "as measured with this trace"
LATENCY = "What a copy takes before its first byte arrives."
LEAST_TOLD = 0.01  # ms
CHECK_TOKENS, CHECK_REPEATS = 100, 6
CHECKED = [
    Settings("lru", 4),
    Settings("lru", 2),
    Settings("lfu", 3),
    Settings("lfu", 6),
    Settings("lru", 4, prefetch="next-gate"),
    Settings("lfu", 6, prefetch="next-gate"),
    Settings(baseline="resident"),
    Settings(baseline="on-demand"),
]


def pick(trace: Trace, own: Run | None) -> Machine | None:
    """The slow tier to model; None where it is asked for and was not chosen."""
    measured = own.tier if own is not None and own.measured else None
    names = [*([OWN] if measured else []), *(one.name for one in MACHINES), TYPED]
    if st.session_state.get("machine") not in names:
        st.session_state.pop("machine", None)
    name = st.selectbox(
        "Slow tier",
        names,
        0 if measured else None,
        key="machine",
        bind="query-params",
        width=forms.px(280),
        placeholder="which machine?",
        help=words.tooltip(
            "slow tier",
            *names,
            more="Nominal figures, one direction. Compute stays that of the run whose costs are used.",
        ),
    )
    if name == OWN and own is not None and measured is not None:
        alone = measured.latency_ms - measured.unpack_ms
        return plan.as_measured(OWN, alone, measured.gigabytes_per_second, own.mean_copied)
    if name == TYPED:
        latency = st.number_input(
            "Latency ms", 0.0, 1_000.0, 0.05, key="latency", bind="query-params", width=130, help=LATENCY
        )
        rate = st.number_input("GB/s", 0.001, 10_000.0, 25.0, key="bandwidth", bind="query-params", width=130)
        return Machine(TYPED, latency, rate)
    return next((one for one in MACHINES if one.name == name), None)


def expert_size(trace: Trace, own: Run | None) -> int:
    """Bytes that cross the link for one expert: as the trace says, or else as is typed; 0 where neither."""
    known = trace.mean_copied or (own.mean_copied if own is not None else 0)
    if known:
        return known
    typed = st.number_input(
        "MB of one expert",
        0.0,
        100_000.0,
        0.0,
        key="expert_mb",
        bind="query-params",
        help=words.tooltip(
            "expert", more="Not said in this trace. Mixtral 8x7B in bfloat16: 352; gpt-oss-20b packed: 13."
        ),
    )
    return round(typed * 1e6)


def say_what_is_missing(size: int) -> None:
    """Where times cannot be modelled yet: what is asked for."""
    if size:
        st.info("Choose a slow tier: this trace was not measured on any machine.", icon=":material/memory:")
    else:
        st.info(
            "This trace does not say how large an expert is. Give it under More, in MB, and choose "
            "a slow tier: then times and memory can be told.",
            icon=":material/scale:",
        )


def costs(trace: Trace, own: Run | None, place: Machine, size: int) -> tuple[cost.Costs, str]:
    """Costs on a machine, and whose measured run their compute is of."""
    measured, whose = traces.basis(trace, own)
    fitted = kept.fitted(measured)
    return (fitted if place.name == OWN else fitted.on(place, size)), whose


def in_words(costs: cost.Costs, place: Machine, size: int) -> str:
    """What the times are made of. Latency and rate are told where the time of a copy was computed from them:
    as measured it is the mean of the run's own copies.
    """
    nominal = "nominal " if place.nominal else ""
    latency, rate = words.milliseconds(place.latency_ms), words.rate(place.gigabytes_per_second)
    comes_of = (
        "as the run's copies did on average" if place.name == OWN else f"{nominal}{latency}, then {rate}"
    )
    wake = words.milliseconds(costs.wake)
    late = f" Once a copy has arrived, {wake} pass until the compute that waited goes on."
    return (
        f"Computing an expert takes {words.milliseconds(costs.expert)}, the rest of a token "
        f"{words.milliseconds(costs.other)}, "
        f"copying one ({words.size(size)}) {words.milliseconds(costs.copy)}: {comes_of}."
        f"{late if costs.wake >= LEAST_TOLD else ''} {error_in_words()}"
    )


def memory(slots: int, scope: str, layers: int, size: int) -> str:
    """What the slots take, of `size` bytes each."""
    slots *= layers if scope == "layer" else 1
    what = words.memory(slots * size) if size else "an unknown amount of memory"
    return f"{words.many(slots, 'slot')} in all layers take {what}."


def check() -> None:
    """Offers to measure how far off the cost model is on this machine."""
    job = jobs.desk().jobs.get("check")
    help = (
        f"Measures {len(CHECKED)} settings of the bundled model, {CHECK_REPEATS} times each, about a minute."
    )
    if jobs.run_or_stop("Check the model on this machine", ":material/timer:", job, "check"):
        new = Job(
            "compare",
            PRESETS["Bible"].prompt,
            CHECKED,
            max_new_tokens=CHECK_TOKENS,
            stop_at_end=False,
            repeats=CHECK_REPEATS,
        )
        jobs.desk().submit("check", new)
        st.rerun()
    st.caption(help)


def checked() -> None:
    """The check while it runs, and what it found."""
    job = jobs.desk().jobs.get("check")
    running = job is not None and not job.finished

    def look() -> None:
        jobs.sit_down()
        if job is not None and not job.finished:
            measure.progress("check", job)
        elif running:
            st.rerun()
        elif found := _found():
            with st.expander("Modelled against measured on this machine"):
                table = pd.DataFrame(
                    {
                        "settings": [words.label(one.settings) for one in found],
                        "measured ms": [one.measured_ms for one in found],
                        "modelled ms": [one.modelled_ms for one in found],
                        "error": [one.error for one in found],
                    }
                )
                show.table(table, {"error": "percent"})

    st.fragment(look, run_every=measure.EVERY if running else None)()


def error_in_words() -> str:
    """How far off the model is here."""
    found = _found()
    if not found:
        way = "" if st.session_state.get("presenter") else " (More does)"  # which presenter mode hides
        return f"How far off these times are was not checked on this machine yet{way}."
    error, settings = cost.median_error(found), words.many(len(found), "measured setting")
    return f"Median error {words.percent(error, 0)} on {settings} that the fit had not seen."


def _found() -> list[cost.Check]:
    """The model against this browser's own measurements, fitted on the first of them."""
    own = jobs.desk().jobs
    job = own.get("check") or own.get("measure")
    if job is None or not job.finished:
        return []
    repeats = [runs for _, runs in measure.by_settings(job)]
    return cost.check(repeats[0], repeats[1:]) if len(repeats) > 1 else []

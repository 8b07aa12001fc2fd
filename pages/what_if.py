"""What if: how many slots, which policy, which machine?"""

from __future__ import annotations

import pandas as pd
import streamlit as st

from moeviz import words
from moeviz.app import common, controls
from moeviz.charts import figures as charts
from moeviz.core.policies import POLICIES
from moeviz.core.run import Run
from moeviz.core.settings import ITSELF, SCOPES, Settings
from moeviz.core.trace import Trace
from moeviz.engine.client import Job
from moeviz.errors import SettingsError
from moeviz.numbers import cost
from moeviz.numbers.curves import Curve, curve, knee, slot_counts

state = st.session_state
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


@st.cache_resource(show_spinner="Replaying every slot count", max_entries=64, hash_funcs=common.BY_CONTENT)
def curves(trace: Trace, settings: Settings) -> Curve:
    return curve(trace, settings)


def checked() -> list[cost.Check]:
    """The model against this session's own measurements, fitted on the first of them."""
    job: Job | None = state.get("check_job") or state.get("compare_job")
    if job is None or not job.finished or not job.runs:
        return []
    by_settings: dict[int, list[Run]] = {}
    for number, run in job.runs:
        by_settings.setdefault(number, []).append(run)
    repeats = [runs for _, runs in sorted(by_settings.items())]
    return cost.check(repeats[0], repeats[1:]) if len(repeats) > 1 else []


def error_of_the_model() -> str:
    """How far off the model is here, or how to find out."""
    job: Job | None = state.get("check_job")
    if job is not None and not job.finished:
        if not common.waiting(job):
            st.progress(job.share, f"Measuring {len(job.settings)} settings to check the model")
        return "being checked"
    found = checked()
    if not found:
        if st.button(
            "Check the model on this machine",
            icon=":material/timer:",
            help="Measures eight settings of the bundled model, six times each, about a minute.",
        ):
            prompt = controls.PRESETS["Bible"].prompt
            state.check_job = common.client().submit(
                Job("compare", prompt, CHECKED, max_new_tokens=100, stop_at_end=False, repeats=6)
            )
            st.rerun()
        return "not checked on this machine yet"
    with st.expander("Modelled against measured here"):
        table = pd.DataFrame(
            {
                "settings": [one.label for one in found],
                "measured ms": [one.measured_ms for one in found],
                "modelled ms": [one.modelled_ms for one in found],
                "error": [one.error for one in found],
            }
        )
        st.dataframe(
            table, hide_index=True, column_config={"error": st.column_config.NumberColumn(format="percent")}
        )
    return f"median error {cost.median_error(found):.0%} on {len(found)} measured settings that the fit had not seen"


def machine(measured: Run) -> tuple[cost.Machine, bool]:
    """The slow tier to model, and whether it is the run's own."""
    own, typed = "this run's own, as measured", "typed in"
    names = [own, *(one.name for one in cost.MACHINES), typed]
    name = st.selectbox(
        "Slow tier",
        names,
        key="machine",
        bind="query-params",
        width=280,
        help="Nominal figures, one direction; compute stays this run's own.",
    )
    if name == typed:
        latency = st.number_input(
            "Latency ms", 0.0, 1_000.0, 0.05, key="latency", bind="query-params", width=140
        )
        bandwidth = st.number_input(
            "GB/s", 0.001, 10_000.0, 25.0, key="bandwidth", bind="query-params", width=140
        )
        return cost.Machine(typed, latency, bandwidth), False
    for one in cost.MACHINES:
        if one.name == name:
            return one, False
    tier = measured.tier
    return cost.Machine(
        own, tier.latency_ms if tier else 0.0, tier.gigabytes_per_second if tier else 1.0, nominal=False
    ), True


def times(trace: Trace, chosen: list[Settings], basis: Run, label: str) -> None:
    """Modelled time per token."""
    with st.container(horizontal=True, vertical_alignment="bottom"):
        place, own = machine(basis)
    costs = cost.fit(basis)
    expert_bytes = trace.mean_bytes or basis.mean_bytes
    if not own:
        costs = costs.on(place, expert_bytes)
    runs = [common.replayed(trace, one) for one in chosen]
    parts = [cost.stack(run, costs) for run in runs]
    known = [(one.label, part) for one, part in zip(chosen, parts, strict=True) if part is not None]
    table = pd.DataFrame(
        {
            "settings": [row[0] for row in known],
            "ms per token": [p.compute + p.stall + p.other for _, p in known],
            "compute": [p.compute for _, p in known],
            "stall": [p.stall for _, p in known],
            "other": [p.other for _, p in known],
        }
    )
    common.chart(
        charts.stacks([row[0] for row in known], [row[1] for row in known]),
        "Time per output token",
        table,
        "times",
        "modelled",
    )
    error = error_of_the_model()
    figures = "nominal " if place.nominal else ""
    st.caption(
        f"Model: {error}. Costs fitted on {label}: {costs.expert:.2f} ms an expert, {costs.other:.1f} ms a token besides, {costs.copy:.2f} ms a copy of "
        f"{expert_bytes / 1e6:.1f} MB ({figures}{place.latency_ms:.3g} ms and {place.gigabytes_per_second:.3g} GB/s). Compute is that run's on every machine."
    )


def page() -> None:
    _, trace, recorded = common.trace_picker()
    with st.container(horizontal=True, vertical_alignment="bottom"):
        scope = st.segmented_control(
            "Scope",
            list(SCOPES),
            default="layer",
            required=True,
            key="scope",
            bind="query-params",
            help="layer: each MoE layer owns its slots. model: one pool for all layers.",
        )
        policies = st.pills(
            "Policies",
            list(POLICIES),
            selection_mode="multi",
            default=["lru", "lfu", "belady"],
            key="policies",
            bind="query-params",
            help=controls.POLICY_HELP,
        )
    if not policies:
        st.info("Choose a policy.")
        return
    counts = slot_counts(trace, scope)
    if state.get("at") not in counts:
        state.at = counts[min(len(counts) - 1, len(counts) // 3)]
    at = st.select_slider(
        "Slots per MoE layer" if scope == "layer" else "Slots in all", counts, key="at", bind="query-params"
    )
    wanted = [
        Settings(policy, at, scope, calibration=ITSELF if policy == "static" else "") for policy in policies
    ]
    found = [curves(trace, Settings(**{**one.to_dict(), "slots": counts[0]})) for one in wanted]
    bend = knee(found[0])
    table = pd.DataFrame(
        {"slots": counts, **{policy: one.hit_ratio for policy, one in zip(policies, found, strict=True)}}
    )
    common.chart(
        charts.slot_curves(found, policies, at, bend), "Hit ratio over slots", table, "curves", "replayed"
    )
    groups = trace.layers if scope == "layer" else 1
    basis = recorded if recorded is not None and recorded.measured else None
    expert_bytes = trace.mean_bytes or (basis.mean_bytes if basis else 0)
    here = counts.index(at)
    threshold = cost.break_even(
        at if scope == "layer" else round(at / trace.layers), trace.num_experts, trace.layers, trace.k
    )
    common.badge("replayed")
    with st.container(horizontal=True):
        st.metric(
            "Memory of the slots",
            words.size(at * groups * expert_bytes) if expert_bytes else "unknown",
            border=True,
            width=210,
            help="Slots x bytes of one expert; the trace says how large that is.",
        )
        st.metric(
            "Knee",
            f"{bend} slots" if bend else "none",
            border=True,
            width=150,
            help=f"Of {policies[0]}: beyond it each further slot brings less than the average one.",
        )
        st.metric(
            "Break-even hit ratio",
            f"{threshold:.0%}",
            border=True,
            width=210,
            help="Above it a cache beats keeping whole layers resident in the same memory and copying the others' experts on demand.",
        )
        for policy, one in zip(policies, found, strict=True):
            ratio = float(one.hit_ratio[here])
            st.metric(
                policy,
                f"{ratio:.1%}",
                "pays" if ratio > threshold else "does not pay",
                border=True,
                width=150,
                delta_color="normal" if ratio > threshold else "inverse",
                delta_arrow="off",
            )
    if "static" in policies:
        st.caption("static is calibrated on this very trace here: the best that fixed frequencies can do.")
    label = (
        f"this trace's own run ({common.plain(basis.settings.label)})"
        if basis
        else "the sample's run of the bundled model"
    )
    shown = [*wanted, Settings(baseline="resident"), Settings(baseline="on-demand")]
    times(trace, shown, basis or common.sample(common.FIRST_SAMPLE)[1], label)


common.within_app()
st.title("How many slots, which policy, which machine?")
try:
    checking = state.get("check_job") is not None and not state.check_job.finished
    st.fragment(page, run_every=1.0 if checking else None)()
except SettingsError as error:
    st.error(str(error))

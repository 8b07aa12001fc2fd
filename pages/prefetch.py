"""Prefetch: are the guesses right, and in time?"""

from __future__ import annotations

from dataclasses import astuple, replace

import numpy as np
import pandas as pd
import streamlit as st

from moeviz.app import common, controls
from moeviz.charts import figures as charts
from moeviz.core.predictors import PREDICTORS
from moeviz.core.run import Run
from moeviz.core.settings import Settings
from moeviz.core.trace import Trace
from moeviz.errors import SettingsError
from moeviz.numbers import cost, metrics, routing

AHEAD = ("1 layer ahead", "2 layers ahead", "3 layers ahead")


@st.cache_resource(show_spinner="Asking the predictors", max_entries=64, hash_funcs=common.BY_CONTENT)
def quality(trace: Trace, predictor: str, width: int, threshold: float, ahead: int) -> routing.GuessQuality:
    return routing.guess_quality(trace, predictor, width, threshold, ahead)


def guesses(trace: Trace, settings: Settings) -> None:
    """Right or wrong, whatever the cache."""
    known = [
        one
        for one in PREDICTORS
        if one not in ("none", "oracle") and (one != "next-gate" or trace.lookaheads)
    ]
    chosen = settings.prefetch if settings.prefetch in known else known[-1]
    found = quality(trace, chosen, settings.width, settings.threshold, len(AHEAD))
    table = pd.DataFrame(
        [
            {
                "lookahead": d + 1,
                "MoE layer": layer,
                "precision": found.precision[d, layer],
                "recall": found.recall[d, layer],
            }
            for d in range(len(AHEAD))
            for layer in range(trace.layers)
            if not np.isnan(found.recall[d, layer])
        ]
    )
    for title, values in (("Recall", found.recall), ("Precision", found.precision)):
        common.chart(
            charts.by_layer(values, AHEAD, "guessed", title.lower()),
            f"{title} of {chosen}",
            table,
            f"quality-{title}",
            "recorded",
        )
    same = not settings.threshold and (settings.width or trace.k) == trace.k
    st.caption(
        "Recall: of the experts that a layer needed, the share that was guessed. Precision: of the guesses, the share that was needed. "
        + (
            "As many are guessed as needed here, so the two are equal: each right guess counts once in both, over the same number."
            if same
            else f"With as many guesses as a token needs experts ({trace.k}) the two would be equal."
        )
    )
    lines = [(one, quality(trace, one, settings.width, settings.threshold, 1).recall[0]) for one in known]
    lines.append(("by chance", np.full(trace.layers, (settings.width or trace.k) / trace.num_experts)))
    table = pd.DataFrame({"MoE layer": range(trace.layers), **dict(lines)})
    common.chart(
        charts.layer_lines(lines, "recall, 1 layer ahead"),
        "Every predictor, one layer ahead",
        table,
        "predictors",
        "recorded",
    )


def experts_moved(run: Run) -> metrics.Moved:
    """What went over the link, in experts: a trace need not say how large they are."""
    return metrics.bytes_moved(replace(run, expert_bytes=1))


def account(run: Run) -> None:
    """What became of the pre-fetches."""
    books, moved = metrics.ledger(run), experts_moved(run)
    size = run.mean_bytes / 1e6 or 1.0
    unit = "MB" if run.mean_bytes else "experts"
    common.badge("measured" if run.measured else "replayed")
    with st.container(horizontal=True):
        for label, value, help in (
            ("Issued", books.issued, "Copies of guesses that were not resident."),
            ("Useful", books.useful, "Demanded before they were evicted."),
            (
                "Late",
                "–" if books.late is None else books.late,
                "Of the useful: still on their way when demanded. Only a measured run can know.",
            ),
            ("Wasted", books.wasted, "Evicted, or the run over, before anyone asked."),
            ("Dropped", books.dropped, "Found every slot held; never copied."),
        ):
            st.metric(label, value, border=True, width=150, help=help)
    rows = (
        ("demand", charts.DEMAND, "", [moved.demand * size]),
        ("guess, used", charts.USEFUL, "/", [moved.prefetch_useful * size]),
        ("guess, wasted", charts.WASTED, "x", [moved.prefetch_wasted * size]),
    )
    table = pd.DataFrame(
        {
            "what": [row[0] for row in rows],
            "MB": [row[3][0] if run.mean_bytes else None for row in rows],
            "experts": [moved.demand, moved.prefetch_useful, moved.prefetch_wasted],
        }
    )
    kind = "measured" if run.measured else "replayed"
    common.chart(
        charts.counted([run.settings.label], rows, f"{unit}, the prompt's included"),
        "What went over the link",
        table,
        "ledger",
        kind,
    )


def one_pass(trace: Trace, run: Run, recorded: Run | None) -> None:
    """Copy and compute lanes of one token."""
    passes = trace.passes()
    last = len(passes) - 1
    step = (
        st.slider("Forward pass", 0, last, last // 4, key=common.fits("lane", last), bind="query-params")
        if last
        else 0
    )
    if run.measured:
        segments, kind = cost.measured_lanes(run, step), "measured"
    else:
        basis = (
            recorded if recorded is not None and recorded.measured else common.sample(common.FIRST_SAMPLE)[1]
        )
        costs, kind = cost.fit(basis), "modelled"
        segments = cost.modelled_lanes(run, costs, step)
    text = "".join(trace.texts[passes[step]])
    table = pd.DataFrame(
        [
            {
                "lane": s.lane,
                "what": s.kind,
                "from ms": s.start,
                "to ms": s.end,
                "MoE layer": s.layer,
                "expert": s.expert,
            }
            for s in segments
        ]
    )
    if not table.empty:
        stall = sum(s.end - s.start for s in segments if s.kind == "stall")
        whole = max(s.end for s in segments if s.lane == "compute")
        common.chart(charts.lanes(segments), f"Compute and link in pass {step}", table, "lanes", kind)
        st.caption(
            f"“{common.plain(text)}”: compute waits {stall:.1f} of {whole:.1f} ms. "
            + (
                "Of a measured event its waiting and its computing are known as sums and drawn one after the other."
                if kind == "measured"
                else "Modelled with the costs of a measured run: "
                + (basis.settings.label if not run.measured else "")
                + "."
            )
        )


common.within_app()
st.title("Are the guesses right, and in time?")
_, trace, recorded = common.trace_picker("bible")
with st.container(horizontal=True, vertical_alignment="bottom"):
    settings = controls.settings_controls(
        "", Settings(prefetch="next-gate" if trace.lookaheads else "previous-token")
    )
if settings is None:
    st.stop()
try:
    same = recorded is not None and recorded.settings == settings
    run = recorded if same and recorded is not None else common.replayed(trace, settings)
    without = common.replayed(
        trace, Settings(settings.policy, settings.slots, settings.scope, calibration=settings.calibration)
    )
    account(run)
    left, right = metrics.counts(run, 1), metrics.counts(without, 1)
    late = f", {left.late_hits / left.accesses:.1%} late" if left.late_hits and left.accesses else ""
    with_, plain = (sum(astuple(experts_moved(one))) for one in (run, without))
    times = f"It moves {with_ / plain:.2f} times as much." if plain else "Without it nothing is moved."
    st.caption(
        f"Decode hits {left.hit_ratio or 0:.1%}{late}; without pre-fetching {right.hit_ratio or 0:.1%}. {times}"
    )
    one_pass(trace, run, recorded)
    guesses(trace, settings)
except SettingsError as error:
    st.error(str(error))

"""Compare: which settings are faster here?"""

from __future__ import annotations

import time

import pandas as pd
import streamlit as st

from moeviz import words
from moeviz.app import common, controls
from moeviz.charts import figures as charts
from moeviz.core.replay import replay
from moeviz.core.run import Run
from moeviz.core.settings import BASELINES, Settings
from moeviz.engine.client import Job
from moeviz.numbers import metrics

state = st.session_state
FIRST = (
    Settings("lru"),
    Settings("lfu"),
    Settings("lru", prefetch="next-gate"),
    Settings("lfu", prefetch="next-gate"),
)  # what a reader sees first


def ask() -> None:
    prompt, then = controls.prompt_controls("compare")
    with st.container(horizontal=True, vertical_alignment="bottom"):
        count = st.segmented_control(
            "Settings", [2, 3, 4], default=2, required=True, key="settings", bind="query-params"
        )
        baselines = st.pills(
            "Baselines",
            list(BASELINES),
            selection_mode="multi",
            default=list(BASELINES),
            key="baselines",
            bind="query-params",
            help="\n".join(f"- **{name}**: {what}" for name, what in BASELINES.items()),
        )
    chosen = []
    for number, column in enumerate(st.columns(count)):
        with column.container(border=True, horizontal=True, vertical_alignment="bottom"):
            chosen.append(
                controls.settings_controls(
                    str(number + 1), FIRST[number], sampled=int(state.get("compare_seed", 0))
                )
            )
    with st.container(horizontal=True, vertical_alignment="bottom"):
        tokens = st.number_input(
            "New tokens", 2, 100_000, 60, key="compare_tokens", bind="query-params", width=130
        )
        repeats = st.number_input("Repeats", 3, 50, 3, key="repeats", bind="query-params", width=110)
        spec, sampling = controls.model_controls("compare")
        job: Job | None = state.get("compare_job")
        run = controls.run_or_stop("Measure", ":material/timer:", job)
    if run and all(one is not None for one in chosen):
        settings = [one for one in chosen if one is not None] + [
            Settings(baseline=name) for name in baselines
        ]
        if len(set(settings)) < len(settings):
            st.error("Two of the settings are the same. Change one: a comparison with itself shows nothing.")
            return
        new = Job(
            "compare",
            prompt,
            settings,
            spec,
            max_new_tokens=tokens,
            then=then,
            stop_at_end=False,
            repeats=repeats,
            **sampling,
        )
        state.compare_job = common.client().submit(new)
        st.rerun()


def progress(job: Job) -> None:
    """Polled once a second at most: pictures would cost the time that is being measured."""
    if common.waiting(job):
        return
    if job.trace is None:
        st.progress(
            0.0,
            f"Getting the model ready: {job.message or 'recording the trace'}",
        )
    else:
        spent = time.monotonic() - job.began
        left = spent / job.share - spent
        total = job.repeats * len(job.settings)
        st.progress(
            job.share,
            f"Measured {len(job.runs)} of {total} runs, about {left:.0f} s left. The page keeps still meanwhile.",
        )


def results(job: Job) -> None:
    if job.state == "failed":
        st.error(job.message, icon=":material/error:")
    for note in job.notes:
        st.caption(common.plain(note))
    trace, recorded = job.trace, job.recorded
    by_settings = [[run for number, run in job.runs if number == n] for n in range(len(job.settings))]
    measured = [(settings, runs) for settings, runs in zip(job.settings, by_settings, strict=True) if runs]
    if trace is None or recorded is None or not measured:
        if job.state == "stopped":
            st.info("Stopped before every setting was measured once.")
        return
    same_tokens = job.lossless is not False and all(
        run.output_ids == recorded.output_ids for _, runs in measured for run in runs
    )
    equal = all(
        run.same_decisions(again)
        for settings, runs in measured
        for again in [replay(trace, settings)]
        for run in runs
    )
    with st.container(horizontal=True):
        st.badge("measured", color="blue", icon=":material/timer:")
        _verdict(
            same_tokens,
            "same tokens in every run",
            "TOKENS DIFFER",
            "The generated tokens are the same in every run. "
            + {
                True: "So are the logits, bit for bit those of transformers' own model with every expert in memory.",
                False: "The logits are NOT those of transformers' own model with every expert in memory.",
                None: "They were not held against transformers' own model.",
            }[job.lossless],
        )
        _verdict(
            equal,
            "measured = replayed",
            "measured differs from replay",
            "Every run made the hits, misses, evictions and pre-fetches of a replay of the trace, event for event.",
        )
        if job.state == "stopped":
            st.badge(f"stopped after {len(job.runs)} runs", color="gray")
    charts_and_table(measured)
    tier = job.facts.tier if job.facts else None
    if job.facts and tier:
        st.caption(
            f"{job.facts.name}, {job.facts.dtype} on {job.facts.device} ({job.facts.versions['machine']}, {job.facts.versions['threads']} "
            f"thread). {words.tier(tier)} "
            f"{len(recorded.output_ids)} tokens, temperature {job.temperature}, seed {job.seed}; {job.repeats} repeats, interleaved; "
            "medians over repeats, whiskers from the least to the most; speed, stack and hit ratio of decode alone."
        )
    with st.expander("The same comparison without the browser"):
        st.code(command(job), language="bash")


def charts_and_table(measured: list[tuple[Settings, list[Run]]]) -> None:
    labels = [settings.label for settings, _ in measured]
    rows = [metrics.repeated(runs) for _, runs in measured]
    times = [row.median.times for row in rows]
    timed = [n for n, one in enumerate(times) if one and one.tokens_per_second]
    if timed:
        names = [labels[n] for n in timed]
        speeds = [times[n].tokens_per_second for n in timed]
        spreads = [(rows[n].least.tokens_per_second, rows[n].most.tokens_per_second) for n in timed]
        stacks = [stack for n in timed if (stack := metrics.median_stack(measured[n][1]))]
        moved = [metrics.bytes_moved(measured[n][1][0]) for n in timed]
        tokens = [len(measured[n][1][0].output_ids) for n in timed]
        left, right = st.columns(2)
        for column, title, figure in (
            (left, "Tokens per second", charts.speeds(names, speeds, spreads)),
            (right, "Where the time of a token goes", charts.stacks(names, stacks)),
            (left, "Hit ratio", charts.hit_ratios(names, [rows[n].median.decode.hit_ratio for n in timed])),
            (right, "What went over the link", charts.traffic(names, moved, tokens)),
        ):
            column.subheader(title)
            column.plotly_chart(
                figure, key=title, alt=f"{title}, a bar for each setting; the table below holds the numbers."
            )
    table = pd.DataFrame(
        {
            "settings": labels,
            "tokens/s": [one and one.tokens_per_second for one in times],
            "least": [row.least and row.least.tokens_per_second for row in rows],
            "most": [row.most and row.most.tokens_per_second for row in rows],
            "hit ratio": [row.median.decode.hit_ratio for row in rows],
            "stall ms/token": [one and one.stall_ms_per_token for one in times],
            "TTFT ms": [one and one.ttft_ms for one in times],
            "TPOT ms": [one and one.tpot_ms_median for one in times],
            "TPOT p95 ms": [one and one.tpot_ms_p95 for one in times],
            "MB on demand": [row.median.moved.demand / 1e6 for row in rows],
            "MB guessed, useful": [row.median.moved.prefetch_useful / 1e6 for row in rows],
            "MB guessed, wasted": [row.median.moved.prefetch_wasted / 1e6 for row in rows],
            "fast tier MB": [row.median.fast_tier_bytes / 1e6 for row in rows],
        }
    )
    numbers = {name: st.column_config.NumberColumn(format="%.1f") for name in table.columns[1:]}
    numbers["hit ratio"] = st.column_config.NumberColumn(format="%.3f")
    st.dataframe(table, hide_index=True, column_config=numbers)
    common.download("Table as CSV", lambda: common.csv(table), "comparison.csv")


def first_look() -> None:
    """Before anything was measured: the two policies replayed on a sample. No times, but the hits are exact."""
    trace, _ = common.sample(common.FIRST_SAMPLE)
    st.badge("replayed on a recorded sample", color="gray", help="Hits, not times: press Measure for those.")
    runs = [(one.label, replay(trace, one)) for one in (Settings(policy="lru"), Settings(policy="lfu"))]
    with st.container(horizontal=True):
        for label, run in runs:
            counted = metrics.counts(run, 1)
            st.metric(f"{label}: hit ratio", f"{counted.hit_ratio:.1%}", border=True, width=260)
    table = pd.DataFrame(
        {
            "pass": range(len(trace.passes())),
            **{label: metrics.hit_ratio_over_time(run) for label, run in runs},
        }
    )
    common.chart(
        charts.hit_ratio_over_time(runs), "Hit ratio as the text goes on", table, "first", "replayed"
    )
    st.caption(
        f"The text changes its subject halfway, after token {len(trace.passes()) // 2}. Which of the two minds more?"
    )


def command(job: Job) -> str:
    """The command line that does the same."""
    wanted = [
        part
        for settings in job.settings
        if not settings.baseline
        for part in ("--setting", controls.setting(settings))
    ]
    baselines = ",".join(settings.baseline for settings in job.settings if settings.baseline)
    return controls.command("compare", job, *wanted, "--baselines", baselines, "--repeats", str(job.repeats))


def _verdict(good: bool, yes: str, no: str, help: str) -> None:
    st.badge(
        yes if good else no,
        color="green" if good else "red",
        icon=":material/check:" if good else ":material/close:",
        help=help,
    )


common.within_app()
st.title("Which settings are faster here?")
ask()
job = state.get("compare_job")
running = job is not None and not job.finished


def poll() -> None:
    if job is None:
        first_look()
    elif job.finished:
        if running:
            st.rerun()  # the whole page: its buttons change
        results(job)
    else:
        progress(job)


st.fragment(poll, run_every=1.0 if running else None)()

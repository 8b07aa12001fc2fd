"""A measured comparison: its progress, and its results, which stay until the next one."""

from __future__ import annotations

import time

import streamlit as st

from moeviz import words
from moeviz.app import commands, jobs, kept, show
from moeviz.charts import comparison
from moeviz.charts.chart import kind_of
from moeviz.core.run import Run
from moeviz.core.settings import Settings
from moeviz.engine.client import Job
from moeviz.numbers import metrics

LOSSLESS = {
    True: "So are the logits, bit for bit those of transformers' own model with every expert in memory.",
    False: "The logits are NOT those of transformers' own model with every expert in memory.",
    None: "They were not held against transformers' own model.",
}
EVERY = 1.0  # seconds between two looks: pictures would cost the time that is being measured


def watch(now: list[Settings]) -> None:
    """Follows this browser's comparison; draws nothing where there is none. `now` are the settings that the
    page shows.
    """
    job = jobs.desk().jobs.get("measure")
    if job is None:
        return
    running = not job.finished

    def look() -> None:
        jobs.sit_down()
        if not job.finished:
            progress("measure", job)
        elif running:
            st.rerun()  # the whole page: its buttons change
        else:
            _results(job, now)

    st.fragment(look, run_every=EVERY if running else None)()


def progress(name: str, job: Job) -> None:
    """How far a measurement is, with a time left that only shrinks."""
    if jobs.waiting(job):
        return
    if job.trace is None or not job.share:
        st.progress(0.0, f"Getting the model ready: {job.message or 'recording the trace'}")
        return
    left = jobs.desk().left(name, time.monotonic() - job.began, job.share)
    total = job.repeats * len(job.settings)
    st.progress(
        min(job.share, 1.0),
        f"Measured {len(job.runs)} of {total} runs, about {words.seconds_left(left)} left. "
        "The page keeps still meanwhile.",
    )


def _results(job: Job, now: list[Settings]) -> None:
    if job.state == "failed":
        st.error(show.plain(job.message), icon=":material/error:")
    for note in job.notes:
        st.caption(show.plain(note))
    measured = by_settings(job)
    if job.trace is None or job.recorded is None or not measured:
        if job.state == "stopped":
            st.info("Stopped before every setting was measured once.")
        return
    if [one for one in job.settings if not one.baseline] != now:
        names = " against ".join(one.label for one in job.settings if not one.baseline)
        prompt = show.plain(job.prompt[:60])
        st.caption(f"Measured before the settings were changed: {names}, on “{prompt}”.")
    trace, tokens = job.trace, job.recorded.output_ids
    runs = [run for _, repeats in measured for run in repeats]
    kind = kind_of(runs[0])
    with st.container(horizontal=True, vertical_alignment="center"):
        show.badge(kind)
        show.verdict(
            job.lossless is not False and all(run.output_ids == tokens for run in runs),
            "same tokens in every run",
            "TOKENS DIFFER",
            f"The generated tokens are the same in every run. {LOSSLESS[job.lossless]}",
        )
        show.verdict(
            all(kept.agrees(trace, run) for run in runs),
            "measured = replayed",
            "measured differs from replay",
            "Every run made the hits, misses, evictions and pre-fetches of a replay, event for event.",
        )
        if job.state == "stopped":
            st.badge(f"stopped after {len(job.runs)} runs", color="gray")
    named = [(settings.label, repeats) for settings, repeats in measured]
    found = [(settings, metrics.repeated(repeats)) for settings, repeats in measured]
    st.markdown(f"**{words.comparison_verdict(found)}** {words.best_value(found)}")
    columns = st.columns(2)
    for number, chart in enumerate(comparison.charts(named, kind)):
        with columns[number % 2]:
            show.chart(chart, f"measured-{number}")
    _table(job, named)


def by_settings(job: Job) -> list[tuple[Settings, list[Run]]]:
    """The repeats of each of the job's settings that was measured."""
    found = [(one, [run for number, run in job.runs if number == n]) for n, one in enumerate(job.settings)]
    return [(settings, runs) for settings, runs in found if runs]


def _table(job: Job, named: list[tuple[str, list[Run]]]) -> None:
    table = comparison.table(named)
    numbers = {name: st.column_config.NumberColumn(format="%.1f") for name in table.columns[1:]}
    numbers["hit ratio"] = st.column_config.NumberColumn(format="%.3f")
    st.dataframe(table, hide_index=True, column_config=numbers)
    show.download("Table as CSV", lambda: show.csv(table), "comparison.csv")
    if job.facts:
        facts = job.facts
        st.caption(
            f"{show.plain(facts.name)}, {facts.dtype} on {facts.device} "
            f"({show.plain(facts.versions['machine'])}, {facts.versions['threads']} thread). "
            f"{words.tier(facts.tier)} {job.max_new_tokens} tokens, temperature {job.temperature}, "
            f"seed {job.seed}; {job.repeats} repeats, interleaved; medians over repeats, whiskers from the "
            "least to the most; speed, stack and hit ratio of decode alone, where the first token is not: it "
            "comes from the prompt. tokens/s is of a run's mean token, TPOT of its median one."
        )
    with st.expander("The same comparison without the browser"):
        st.code(commands.compare(job), language="bash")

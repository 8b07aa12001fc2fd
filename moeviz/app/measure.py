"""A measured comparison: its progress, and its results, which stay until the next one."""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

import streamlit as st

from moeviz import words
from moeviz.app import asking, commands, jobs, kept, show, traces
from moeviz.app.asking import Ask
from moeviz.app.traces import Here
from moeviz.charts import comparison
from moeviz.charts.chart import kind_of
from moeviz.charts.stage import results_of
from moeviz.core import machines
from moeviz.core.oracle import BUNDLED_NAME
from moeviz.core.run import Run
from moeviz.core.settings import Settings
from moeviz.core.trace import Trace
from moeviz.engine.client import Job
from moeviz.errors import MoevizError
from moeviz.numbers import medians

LOSSLESS = {
    True: "So are the logits, bit for bit those of transformers' own model with every expert in memory.",
    False: "The logits are NOT those of transformers' own model with every expert in memory.",
    None: "They were not held against transformers' own model.",
}
EVERY = 1.0  # seconds between two looks: pictures would cost the time that is being measured


def watch(here: Here, now: list[Settings], ask: Ask) -> None:
    """Follows this browser's comparison; draws nothing where there is none. `here`: the trace that is shown;
    `now` and `ask`: what would be measured now.
    """
    job = jobs.desk().jobs.get("measure")
    if job is None:
        return
    running, measured = not job.finished, job.measured

    def look() -> None:
        jobs.sit_down()
        if not job.finished and job.measured and not measured:
            st.rerun()  # the stage says what came out
        if not job.finished:
            with st.container(key="measuring"):  # on a phone it stands where its reader is, above the stage
                progress("measure", job)
        elif running:
            st.rerun()  # the whole page: its buttons change
        else:
            _results(job, stale(job, here, now, ask))

    st.fragment(look, run_every=EVERY if running else None)()


def just_ended(here: Here) -> str:
    """The name of the trace of a comparison that ended since this tab last looked, where it is of another
    text than is shown; "" where none is.
    """
    job = jobs.just_ended("measure")
    return traces.MEASURED if job is not None and job is latest() and not _of_text(job, here) else ""


def stale(job: Job, here: Here, now: list[Settings], ask: Ask) -> bool:
    """Whether a comparison is of another text than is shown, or of other settings, text or machine than would
    be measured now.
    """
    caches = [one for one in job.settings if not one.baseline]
    wanted = ask.job("compare", [replace(one, seed=ask.seed) for one in now])
    same = ("prompt", "then", "model", "max_new_tokens", "temperature", "seed")
    other = any(getattr(job, name) != getattr(wanted, name) for name in same)
    return other or caches != wanted.settings or not _of_text(job, here)


def _of_text(job: Job, here: Here) -> bool:
    """Whether a comparison ran the text that is shown, or, as a sample does, one that begins alike."""
    own = here.name == traces.MEASURED and job is jobs.desk().latest("measure")
    same_model = job.trace is None or job.trace.model == here.trace.model
    return own or (same_model and (job.prompt, job.then) == asking.began_with(here.trace))


def latest() -> Job | None:
    """The last comparison that is over, or has measured all, and measured every setting at least once, also
    while the next one goes on.
    """
    own = jobs.desk()
    for job in (own.jobs.get("measure"), own.earlier.get("measure")):
        if job is not None and (job.finished or job.measured) and job.runs and jobs.whole(job):
            return job
    return None


def timed(here: Here) -> list[Run]:
    """Of a comparison of the text that is shown the repeat in the middle of each setting; of none where a
    watched run is shown, since such times are not mixed.
    """
    job = jobs.desk().latest("measure") if here.name == traces.MEASURED else latest()
    if job is None or here.name == traces.LIVE or not _of_text(job, here):
        return []
    return [medians.median_run(runs) for _, runs in by_settings(job)]


def on_stage(here: Here, now: list[Settings], ask: Ask) -> dict[str, Any] | None:
    """The latest comparison for the stage's first screen, titled with what it was."""
    job = latest()
    if job is None:
        return None
    old = stale(job, here, now, ask)
    rounds = min(len(runs) for _, runs in by_settings(job))
    title = f"{kind_of(job.runs[0][1])}, {words.many(rounds, 'pair')}: {_what(job, named=old)}"
    title = f"Before: {title}" if old else title[:1].upper() + title[1:]
    return results_of(by_settings(job), title, old)


def _what(job: Job, named: bool = True) -> str:
    """What was measured; `named`: with the settings and the text's beginning."""
    link = job.model.link or {"disk": "this disk", "host": "this RAM"}.get(job.model.tier, job.model.tier)
    said = f"{link}, {words.many(job.max_new_tokens, 'token')}"
    if not named:
        return said
    names = " against ".join(words.label(one) for one in job.settings if not one.baseline)
    prompt = " ".join(job.prompt.split())
    return f"{names}, on “{prompt[:40]}{'…' if len(prompt) > 40 else ''}”, {said}"


@dataclass(frozen=True, slots=True)
class Wanted:
    """What "Measure" would run, besides what is set on the boards."""

    ask: Ask
    baselines: list[str]
    seconds: float | None = None  # that it takes by the cost model; None where that knows nothing of it
    here: bool = False  # whether with what this machine took; else with what the sample's did

    def settings(self, two: Sequence[Settings]) -> list[Settings]:
        """Of a comparison of these boards."""
        seeded = [replace(one, seed=self.ask.seed) for one in two]
        return [*seeded, *(Settings(baseline=one) for one in self.baselines)]

    @property
    def runs(self) -> str:
        """Which model a live run is of."""
        return f"{self.ask.model.name or 'The bundled model'} goes on from the prompt under More."

    @property
    def label(self) -> str:
        """What its button says."""
        return "Measure" + ("" if self.seconds is None else f", about {words.seconds_left(self.seconds)}")

    @property
    def takes(self) -> str:
        """What it does, as a sentence."""
        repeats, tokens = words.many(self.ask.repeats, "repeat"), words.many(self.ask.tokens, "token")
        said = f"Measure: {repeats} of {words.many(2 + len(self.baselines), 'setting')}, {tokens} each"
        if self.seconds is None:
            return f"{said}."
        about = words.seconds_left(self.seconds)
        if not self.here:
            return f"{said}: about {about} on the machine of the sample; of this one nothing is known yet."
        return f"{said}: about {about} by the cost model, on a quiet machine."


def wanted(trace: Trace, two: Sequence[Settings], ask: Ask, baselines: list[str]) -> Wanted:
    """With its time where the bundled model runs over a paced link: until its verdict, so without the check
    of the logits, which comes after it.
    """
    place = machines.find(ask.model.link)
    if ask.model.name or trace.model != BUNDLED_NAME or place is None:
        return Wanted(ask, baselines)
    compared = [*two, *(Settings(baseline=one) for one in baselines)]
    several = [*compared, Settings(baseline="resident")]  # which waits for no link, as the recording run
    own = _own_costs(ask)
    try:
        *each, recording = kept.predicted_each(trace, several, own or traces.sample()[1], place)
    except MoevizError:
        return Wanted(ask, baselines)
    seconds = ask.tokens * (recording + ask.repeats * sum(each)) / 1_000
    return Wanted(ask, baselines, seconds, own is not None)


def _own_costs(ask: Ask) -> Run | None:
    """A measured run of this browser's latest comparison of the model, since that is how fast this machine is
    now; None before there is one.
    """
    job = latest()
    if job is not None and replace(job.model, link=ask.model.link) == ask.model:
        return medians.median_run([run for number, run in job.runs if number == 0])
    return None


def progress(name: str, job: Job) -> None:
    """How far a measurement is, with a time left that only shrinks."""
    if jobs.waiting(job):
        return
    if job.trace is None or not job.share:
        st.progress(0.0, f"Getting the model ready: {job.message or 'recording the trace'}")
        return
    if job.measured:
        st.progress(1.0, "All is measured; the logits are being held against transformers' own model.")
        return
    left = jobs.desk().left(name, time.monotonic() - job.began, job.share)
    total = job.repeats * len(job.settings)
    st.progress(
        min(job.share, 1.0),
        f"Measured {words.part_of(len(job.runs), total, 'run')}, about {words.seconds_left(left)} left. "
        "The page keeps still meanwhile.",
    )


def _results(job: Job, old: bool) -> None:
    if job.state == "failed":
        st.error(show.plain(job.message), icon=":material/error:")
    for note in job.notes:
        st.caption(show.plain(note))
    measured = by_settings(job)
    if job.trace is None or job.recorded is None or not measured:
        if job.state == "stopped":
            st.info("Stopped before every setting was measured once.")
        return
    if old:
        st.caption(show.plain(f"Measured before text or settings were changed: {_what(job)}."))
    trace, tokens = job.trace, job.recorded.output_ids
    runs = [run for _, repeats in measured for run in repeats]
    kind = kind_of(runs[0])
    with st.container(horizontal=True, vertical_alignment="center"):
        show.badge(kind, words.link_rate(runs[0].tier))
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
            st.badge(f"stopped after {words.many(len(job.runs), 'run')}", color="gray")
        if kind == "paced" and not old and job.finished:
            _offer_the_disk()
    names = words.setting_names([settings for settings, _ in measured])
    named = [(name, repeats) for name, (_, repeats) in zip(names, measured, strict=True)]
    found = [(settings, medians.repeated(repeats)) for settings, repeats in measured]
    st.markdown(f"**{words.comparison_verdict(found)}** {words.best_value(found)}")
    show.charts(lambda: comparison.charts(named, kind), "measured", named, kind)
    _table(job, named)


def _offer_the_disk() -> None:
    """One click from a paced link to this machine's own disk, which the boards are then measured on."""

    def choose() -> None:
        st.session_state.tier, st.session_state.measure_now = asking.REAL, True

    help = "Measures both boards again, with experts read from this machine's disk as fast as it goes."
    if st.button("On the real disk", icon=":material/hard_drive:", key="on-disk", on_click=choose, help=help):
        st.rerun()


def by_settings(job: Job) -> list[tuple[Settings, list[Run]]]:
    """The repeats of each of the job's settings that was measured."""
    found = [(one, [run for number, run in job.runs if number == n]) for n, one in enumerate(job.settings)]
    return [(settings, runs) for settings, runs in found if runs]


def _table(job: Job, named: list[tuple[str, list[Run]]]) -> None:
    table = comparison.table(named)
    nobody = not table[comparison.GUESSED].to_numpy().any()  # then these columns say nothing
    shown = table.drop(columns=comparison.GUESSED) if nobody else table
    formats = {**dict.fromkeys(shown.columns[1:], "%.1f"), "hit ratio": "%.3f"}
    show.table(shown, formats, heads=comparison.HEADS)
    show.download("Table as CSV", lambda: show.csv(table), "comparison.csv")
    if job.facts:
        facts, threads = job.facts, words.many(int(job.facts.versions["threads"]), "thread")
        st.caption(
            f"{show.plain(facts.name)}, {facts.dtype} on {facts.device} "
            f"({show.plain(facts.versions['machine'])}, {threads}). "
            f"{words.tier(facts.tier)} {words.many(job.max_new_tokens, 'token')}, "
            f"temperature {job.temperature}, seed {job.seed}; {words.many(job.repeats, 'repeat')}, "
            "interleaved; medians over repeats (of an even number the mean of the two times in the middle), "
            "whiskers from the least to the most; speed, stack and hit ratio of decode alone, where the "
            "first token is not: it comes from the prompt. tokens/s is of a run's mean token, TPOT of its "
            "median one."
        )
    with st.expander("The same comparison without the browser"):
        st.code(commands.compare(job), language="bash")

"""A run of the model that is watched: what it captured so far, and what it leaves when it is over."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import streamlit as st

from moeviz import words
from moeviz.app import commands, jobs, kept, show, traces
from moeviz.core.run import Run
from moeviz.core.trace import Trace
from moeviz.engine.client import Job
from moeviz.errors import TraceError
from moeviz.files import library, moetrace
from moeviz.numbers import cost
from moeviz.numbers.cost import Costs

EVERY = 0.3  # seconds between two looks at a run
EVERY_QUEUED = 2.0
PATIENCE = 0.4  # seconds in which a picture waits for a run's first token
GROWN = 1.25  # times the passes that a fit had, from which on its run is fitted anew


def running() -> Job | None:
    """This browser's live run, while it goes on. A tab that was loaded again finds it."""
    job = jobs.desk().jobs.get("live")
    return job if job is not None and not job.finished else None


def queued(job: Job | None) -> bool:
    """Whether others' runs come before a job."""
    return job is not None and jobs.client().place(job) > 0


def begun(job: Job | None) -> bool:
    """Whether a job has a token to be shown; one whose turn it is may still get it now."""
    if job is not None and not job.passes and not queued(job):
        job.begun.wait(PATIENCE)
    return job is not None and bool(job.passes)


def fitted(job: Job) -> Callable[[Run], Costs]:
    """Gives the costs of the machine of a run that goes on, from a fit that is made anew whenever the run has
    grown by a quarter: one at every look would take more of the processor, which the run needs, and tell
    hardly more.
    """

    def costs(run: Run) -> Costs:
        found: Costs | None
        began, passes, found = st.session_state.get("live_costs", (None, 0, None))
        if found is None or began != job.began or len(run.passes.phase) >= GROWN * passes:
            found = cost.fit(run)
            st.session_state.live_costs = job.began, len(run.passes.phase), found
        return found

    return costs


def just_ended() -> str:
    """The name of the trace of a live run that ended since this tab last looked; "" for none."""
    job = jobs.just_ended("live")
    return traces.LIVE if job is not None and job.passes else ""


def in_words(job: Job) -> str:
    """How far a run is."""
    if place := jobs.client().place(job):
        return f"{words.many(place, 'other run')} before yours; it starts by itself."
    if job.facts is None or not job.passes:
        return f"Getting the model ready: {job.message or 'reading the prompt'}."
    far = words.part_of(len(job.passes), job.max_new_tokens, "token")
    return f"Live: {words.setting_name(job.settings[0])}, {far}."


def ended(name: str) -> None:
    """What the last live run left, where `name`, the current trace, is its; and why one failed."""
    job = jobs.desk().jobs.get("live")
    if job is None or not job.finished:
        return
    if job.state == "failed":
        st.error(show.plain(job.message), icon=":material/error:")
    captured = job.recording()
    if captured is None:
        if job.state == "stopped":
            st.info("Stopped before the first token.")
        return
    if name != traces.LIVE:
        return
    trace, run = captured
    with st.container(horizontal=True, vertical_alignment="center"):
        show.badge("watched", words.link_rate(run.tier))
        if job.state == "stopped":
            st.badge(f"stopped after {words.many(len(run.output_ids), 'token')}", color="gray")
        show.verdict(
            kept.agrees(trace, run),
            "live = replay, event for event",
            "live differs from replay",
            "A replay of the captured trace gave the same hits, misses, evictions and pre-fetches.",
        )
        _keep(trace, run)
    with st.expander("The same run without the browser"):
        st.code(commands.run(job), language="bash")


def _keep(trace: Trace, run: Run) -> None:
    show.download(
        "Save trace",
        lambda: moetrace.to_bytes(trace, run),
        "run.moetrace",
        help="Trace and run in one safetensors file; `python -m moeviz replay` reads it.",
    )
    help = "On this machine, for every browser that opens this server."
    if st.button("Keep in the library", icon=":material/folder:", key="keep-live", help=help):
        try:
            st.toast(
                show.plain(f"Kept as {library.keep(_name(trace.prompt), moetrace.to_bytes(trace, run))}.")
            )
        except OSError as error:
            st.error(show.plain(library_fault(error)))


def _name(prompt: str) -> str:
    """The file name of a kept run: the first six words of its prompt, where a file can be called so."""
    try:
        return library.safe_name(" ".join(prompt.split()[:6]))
    except TraceError:
        return "a run"


def library_fault(error: OSError) -> str:
    """Why the library cannot be changed, and the way out."""
    file = f"{Path(error.filename).name}: " if error.filename else ""
    return (
        f"The library in {library.folder()} cannot be changed: {file}{error.strerror or error}. "
        "Make room there, or set MOEVIZ_DATA to another folder."
    )

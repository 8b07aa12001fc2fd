"""A run that is watched while it goes on, and what it captured when it is over."""

from __future__ import annotations

import streamlit as st

from moeviz import words
from moeviz.app import commands, components, jobs, kept, show, traces
from moeviz.charts import board
from moeviz.core.run import Run
from moeviz.core.trace import Trace
from moeviz.engine.client import Job
from moeviz.files import library, moetrace
from moeviz.numbers import metrics

EVERY = 0.25  # seconds between two looks at a run
EVERY_QUEUED = 2.0


def watch() -> None:
    """Follows this browser's live run until it is over; draws nothing where there is none. A tab that was loaded again finds it."""
    job = jobs.desk().jobs.get("live")
    if job is None:
        return
    running, queued = not job.finished, job.state == "queued"

    def look() -> None:
        _look(job)
        if running and (job.finished or (queued and job.state != "queued")):
            if job.finished and job.passes:
                traces.show(traces.LIVE)
            st.rerun()  # the whole page: its buttons, or how often it is drawn, change

    st.fragment(look, run_every=(EVERY_QUEUED if queued else EVERY) if running else None)()


def _look(job: Job) -> None:
    if job.finished:
        _ended(job)
        return
    if jobs.waiting(job):
        return
    if job.facts is None or not job.passes:
        st.progress(job.share, f"Getting the model ready: {job.message or 'reading the prompt'}")
        return
    run, texts = job.so_far()
    followed = _follower(job).frames(run)
    done = len(run.passes.phase)
    with st.container(horizontal=True, vertical_alignment="center"):
        show.badge("watched")
        st.caption(f"{run.settings.label}: {done} of {job.max_new_tokens} tokens")
    st.progress(done / job.max_new_tokens)
    meters(run)
    components.board(f"live-{id(job)}", followed, texts[: len(followed)], True, "board")


@st.cache_resource(show_spinner=False, max_entries=8, hash_funcs={Job: id})
def _follower(job: Job) -> board.Follower:
    return board.Follower()


def _ended(job: Job) -> None:
    """A run that is over: done, stopped or failed, with what it captured."""
    if job.state == "failed":
        st.error(show.plain(job.message), icon=":material/error:")
    captured = job.recording()
    if captured is None:
        if job.state == "stopped":
            st.info("Stopped before the first token.")
        return
    trace, run = captured
    with st.container(horizontal=True, vertical_alignment="center"):
        show.badge("watched")
        if job.state == "stopped":
            st.badge(f"stopped after {len(run.output_ids)} tokens", color="gray")
        show.verdict(
            kept.agrees(trace, run),
            "live = replay, event for event",
            "live differs from replay",
            "Replaying the captured trace through the cache gave the same hits, misses, evictions and pre-fetches.",
        )
    meters(run)
    components.board(f"live-{id(job)}", kept.pictures(run), kept.texts(trace), False, "board")
    _keep(job, trace, run)


def _keep(job: Job, trace: Trace, run: Run) -> None:
    with st.container(horizontal=True):
        show.download(
            "Save trace",
            lambda: moetrace.to_bytes(trace, run),
            "run.moetrace",
            help="Trace and run in one safetensors file; `python -m moeviz replay` reads it.",
        )
        if st.button(
            "Keep in the library",
            icon=":material/folder:",
            key="keep-live",
            help="On this machine, for every browser that opens this server.",
        ):
            name = " ".join(trace.prompt.split()[:6]) or "a run"
            try:
                st.toast(show.plain(f"Kept as {library.keep(name, moetrace.to_bytes(trace, run))}."))
            except OSError as error:
                st.error(show.plain(library_fault(error)))
    with st.expander("The same run without the browser"):
        st.code(commands.run(job), language="bash")


def library_fault(error: OSError) -> str:
    """Why the library cannot be changed, and the way out."""
    return (
        f"The library in {library.folder()} cannot be changed: {error.strerror or error}. "
        "Set MOEVIZ_DATA to another folder."
    )


def meters(run: Run) -> None:
    """Four numbers of a run."""
    numbers = metrics.summary(run)
    stack = metrics.stack(run)
    total = stack.compute + stack.stall + stack.other if stack else 0
    speed = numbers.times and numbers.times.tokens_per_second
    with st.container(horizontal=True):
        for label, value, help in (
            (
                "Hit ratio",
                words.percent(numbers.main.hit_ratio),
                "Hits / accesses while tokens are generated. Late hits, still on their way when needed, do not count.",
            ),
            ("Tokens per second", f"{speed:.1f}" if speed else "–", "Slower than a measurement: it was watched."),
            (
                "Stall share",
                f"{stack.stall / total:.0%}" if stack and total else "–",
                "Part of the time per token in which compute waited for a copy.",
            ),
            (
                "Moved by the link",
                words.size(numbers.moved.total),
                f"One expert is {words.size(run.mean_bytes)}; the slots hold {words.size(run.fast_tier_bytes)}.",
            ),
        ):
            st.metric(label, value, border=True, width=164, help=help)

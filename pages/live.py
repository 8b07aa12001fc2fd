"""Live: what does this token need, and is it there?"""

from __future__ import annotations

import streamlit as st

from moeviz import words
from moeviz.app import common, components, controls
from moeviz.charts import board
from moeviz.core.replay import replay
from moeviz.core.run import Run
from moeviz.core.settings import Settings
from moeviz.core.trace import Trace
from moeviz.engine.client import Job
from moeviz.files import library, moetrace
from moeviz.numbers import metrics

state = st.session_state


def ask() -> None:
    prompt, then = controls.prompt_controls("live")
    with st.container(horizontal=True, vertical_alignment="bottom"):
        settings = controls.settings_controls("", Settings(), sampled=int(state.get("live_seed", 0)))
        tokens = st.number_input("New tokens", 1, 100_000, 120, key="tokens", bind="query-params", width=130)
        spec, sampling = controls.model_controls("live")
        job: Job | None = state.get("live_job")
        run = controls.run_or_stop("Run", ":material/play_arrow:", job)
    if run and settings is not None:
        new = Job(
            "watch", prompt, [settings], spec, max_new_tokens=tokens, then=then, stop_at_end=False, **sampling
        )
        state.live_job, state.live_watch = common.client().submit(new), None
        st.rerun()


def watch() -> None:
    """One picture of what is there now: the sample, a run under way, or a finished one."""
    job: Job | None = state.get("live_job")
    if job is None:
        trace, run = common.sample(common.FIRST_SAMPLE)
        with st.container(horizontal=True):
            common.badge("measured")
            st.badge(
                f"a recorded sample: {run.settings.label}",
                color="gray",
                help="Recorded without pictures. Press Run for your own.",
            )
        finished("sample", trace, run, at=len(run.passes.phase) // 4)
        return
    if job.finished:
        ended(job)
        return
    if common.waiting(job):
        return
    if job.facts is None or not job.passes:
        st.progress(job.share, f"Getting the model ready: {job.message or 'reading the prompt'}")
        return
    run, texts = job.so_far()
    if state.live_watch is None:
        state.live_watch = board.Board(run), []
    state.live_watch[1].extend(state.live_watch[0].follow(run))
    st.badge(
        "live: pictures take time, so these speeds are no measurement",
        color="orange",
        icon=":material/visibility:",
    )
    meters(run)
    components.board(f"live-{id(job)}", state.live_watch[1], texts, True, key="board")
    st.progress(
        len(run.passes.phase) / job.max_new_tokens, f"{len(run.passes.phase)} of {job.max_new_tokens} tokens"
    )


def ended(job: Job) -> None:
    """A run that is over: done, stopped or failed, with what it captured."""
    if job.state == "failed":
        st.error(job.message, icon=":material/error:")
    captured = job.recording()
    if captured is None:
        if job.state == "stopped":
            st.info("Stopped before the first token.")
        return
    trace, run = captured
    with st.container(horizontal=True):
        st.badge("watched: its speeds are no measurement", color="orange", icon=":material/visibility:")
        if job.state == "stopped":
            st.badge(f"stopped after {len(run.output_ids)} tokens", color="gray")
        if replay(trace, run.settings).same_decisions(run):
            st.badge(
                "live = replay, event for event",
                color="green",
                icon=":material/check:",
                help="Replaying the captured trace through the cache gave the same hits, misses, evictions and pre-fetches.",
            )
        else:
            st.badge("live differs from replay", color="red", icon=":material/close:")
    finished(f"live-{id(job)}", trace, run)
    content = moetrace.to_bytes(trace, run)
    with st.container(horizontal=True):
        common.download(
            "Save trace",
            lambda: content,
            "run.moetrace",
            help="Trace and run in one safetensors file; `python -m moeviz replay` reads it.",
        )
        if st.button(
            "Keep in the library",
            icon=":material/folder:",
            help="On this machine, for every browser that opens this server.",
        ):
            try:
                st.toast(f"Kept as {library.keep(' '.join(trace.prompt.split()[:6]) or 'a run', content)}.")
            except OSError as error:
                st.error(
                    f"The library in {library.folder()} cannot be written: {error.strerror or error}. Set MOEVIZ_DATA to another folder."
                )
    with st.expander("The same run without the browser"):
        st.code(command(job), language="bash")


def finished(run_id: str, trace: Trace, run: Run, at: int = 0) -> None:
    """Meters, board and the events of the pass at which the board stands."""
    meters(run)
    texts = ["".join(trace.texts[tokens]) for tokens in trace.passes()]
    step = components.board(run_id, common.pictures(run), texts, False, key="board", at=at)
    machine = trace.recorded.get("machine", "a machine that the trace does not name")
    st.caption(
        common.plain(
            f"{trace.model} on {machine}. {words.tier(run.tier)} {run.settings.label}; seed {trace.seed}."
        )
    )
    with st.expander(f"Pass {step + 1}: who was needed, who came, who left ({run.settings.label})"):
        st.dataframe(words.events_table(run, step), hide_index=True)


def meters(run: Run) -> None:
    numbers = metrics.summary(run)
    stack = metrics.stack(run)
    total = stack.compute + stack.stall + stack.other if stack else 0
    with st.container(horizontal=True):
        st.metric(
            "Hit ratio",
            words.percent(numbers.main.hit_ratio),
            border=True,
            width=164,
            help="Hits / accesses while tokens are generated. Late hits, still on their way when needed, are not counted.",
        )
        speed = numbers.times and numbers.times.tokens_per_second
        st.metric("Tokens per second", f"{speed:.1f}" if speed else "–", border=True, width=164)
        st.metric(
            "Stall share",
            f"{stack.stall / total:.0%}" if stack and total else "–",
            border=True,
            width=164,
            help="Part of the time per token in which compute waited for a copy.",
        )
        st.metric(
            "Moved by the link",
            words.size(numbers.moved.total),
            border=True,
            width=164,
            help=f"One expert is {words.size(run.mean_bytes)}; the slots hold {words.size(run.fast_tier_bytes)}.",
        )


def command(job: Job) -> str:
    """The command line that does the same."""
    return controls.command("run", job, *controls.flags(job.settings[0]), "--out", "run.moetrace")


common.within_app()
st.title("What does this token need, and is it there?")
ask()
job = state.get("live_job")
running = job is not None and not job.finished
queued = job is not None and job.state == "queued"


def poll() -> None:
    watch()
    if running and (job.finished or (queued and job.state != "queued")):
        st.rerun()  # the whole page: its buttons, or how often it is drawn, change


st.fragment(poll, run_every=(2.0 if queued else 0.25) if running else None)()

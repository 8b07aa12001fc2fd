"""What the pages share: the worker's client and its jobs, the traces at hand, what was computed of them, charts and downloads."""

from __future__ import annotations

import re
import runpy
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import plotly.graph_objects as go
import streamlit as st

from moeviz.charts.board import Frame, frames
from moeviz.core.replay import replay
from moeviz.core.run import Run
from moeviz.core.settings import Settings
from moeviz.core.trace import Trace
from moeviz.engine.client import Client, Job, Owner
from moeviz.errors import TraceError
from moeviz.files import exporters, library, moetrace
from moeviz.files.exporters.tables import formula_safe
from moeviz.files.moetrace import SAMPLES
from moeviz.numbers.explain import Explainer

WHOLE, WINDOW = (
    13_000,
    6_144,
)  # events of a trace that Explore pages show at once; of a longer one so many at a time, replayed while one waits
HERE = Path(__file__).parent
JOBS = ("live_job", "compare_job", "check_job")  # in the session's state
FIRST_SAMPLE = SAMPLES / "change-of-subject.moetrace"


def within_app() -> None:
    """Sees to it that app.py runs around this page, and that closing its tab frees the session's jobs.

    Where the first link that a fresh server is asked for names a page, Streamlit takes `pages/` for its older kind of app and runs the
    page's file alone; then app.py is run from here, which ends that for good.
    """
    if not st.session_state.get("within_app"):
        runpy.run_path(str(HERE.parents[1] / "app.py"))
        st.stop()
    jobs = [job for name in JOBS if (job := st.session_state.get(name)) is not None]
    if jobs:
        _owner().hold(jobs)


@st.cache_resource
def client() -> Client:
    """The one worker process of this server, started by its first job."""
    return Client()


@st.cache_resource(scope="session", show_spinner=False, on_release=Owner.leave)
def _owner() -> Owner:
    return Owner(client())


def waiting(job: Job) -> bool:
    """Says so where others' jobs run before this one."""
    place = client().place(job)
    if place:
        st.info(
            f"{place} other run{'s' if place > 1 else ''} before yours; it starts by itself.",
            icon=":material/hourglass:",
        )
    if job.silent:
        st.warning(job.message, icon=":material/heart_broken:")
    return bool(place)


@st.cache_resource(show_spinner=False)
def sample(path: Path) -> tuple[Trace, Run]:
    """A bundled trace and the run recorded with it."""
    trace, run = moetrace.load(path)
    if run is None:
        raise TraceError(f"{path.name} holds no recorded run.")
    return trace, run


@st.cache_resource(show_spinner=False, max_entries=32)
def kept_trace(path: Path, changed_ns: int) -> tuple[Trace, Run | None]:
    """A trace of the library, read again when its file has changed."""
    return moetrace.load(path)


def traces() -> dict[str, tuple[Trace, Run | None]]:
    """Every trace that this browser session can explore, by name: its own latest runs first, then the samples."""
    found: dict[str, tuple[Trace, Run | None]] = {}
    live: Job | None = st.session_state.get("live_job")
    if live is not None and live.finished and (captured := live.recording()):
        found["the latest run of Live"] = captured
    compare: Job | None = st.session_state.get("compare_job")
    if compare is not None and compare.finished and compare.trace is not None:
        found["the latest comparison"] = compare.trace, compare.recorded
    found |= st.session_state.get("opened", {})  # uploads of this session; others do not see them
    for kept in library.names():
        path = library.path(kept)
        try:
            found[f"library: {kept}"] = kept_trace(path, path.stat().st_mtime_ns)
        except (TraceError, OSError):
            continue  # the Library page says what is wrong with it
    return found | {f"sample: {name}": sample(SAMPLES / f"{name}.moetrace") for name in sample_names()}


def trace_picker(first: str = "change-of-subject") -> tuple[str, Trace, Run | None]:
    """Which trace the page is about, the same on every Explore page; a long one in windows."""
    found = traces()
    names = list(found)
    if st.session_state.get("trace") not in names:
        st.session_state.pop("trace", None)
    with st.container(horizontal=True, vertical_alignment="bottom"):
        name = st.selectbox(
            "Trace",
            names,
            names.index(f"sample: {first}"),
            key="trace",
            bind="query-params",
            width=330,
            persist_state="session",
        )
        trace, run = found[name]
        count, most = len(trace.passes()), max(1, WINDOW // trace.layers)
        if count * trace.layers > WHOLE:
            start = st.number_input(
                f"From pass (of {count:,})", 0, count - 1, 0, most, key=fits("window", count - 1), width=190
            )
            trace, run = trace.window(start, most), None
            name = f"{name}, passes {start:,} to {min(start + most, count) - 1:,}"
            st.caption(
                f"A long trace is explored {most:,} forward passes at a time; the cache begins the window cold."
            )
    return name, trace, run


def plain(text: str) -> str:
    """Text as text where Streamlit reads Markdown: what stands in a trace, a prompt or a file name must not become a link or a picture.

    A bare address becomes a link even where it is escaped, so an invisible word joiner breaks it.
    """
    joiner = "\u2060"
    broken = (
        text.replace("://", joiner + "://").replace("www.", "www" + joiner + ".").replace("@", "@" + joiner)
    )
    return re.sub(r"([\\`*_{}\[\]()#+\-.!|~<>$:&])", r"\\\1", broken)


def fits(key: str, most: int) -> str:
    """The key of a widget whose range depends on the trace; what another trace left in it is dropped where it is out of range."""
    value = st.session_state.get(key)
    if isinstance(value, int) and not 0 <= value <= most:
        del st.session_state[key]
    return key


def download(
    label: str,
    content: Callable[[], bytes | str],
    name: str,
    icon: str = "download",
    help: str | None = None,
    key: str | None = None,
) -> None:
    """A button that saves a file of that name. The file is made when it is asked for, and the page is not drawn again for it."""
    st.download_button(label, content, name, on_click="ignore", icon=f":material/{icon}:", help=help, key=key)


def exporter(name: str, trace: Trace, run: Callable[[], Run], own: Run | None, key: str) -> None:
    """A format and its download. `run` gives the run to write, when it is asked for; `own`, a measured run of the trace, gives times."""
    kinds = [kind for kind in exporters.EXPORTERS if kind != "perfetto" or (own is not None and own.measured)]
    file = library.safe_name(name.partition(": ")[2] or name)
    with st.container(horizontal=True, vertical_alignment="bottom"):
        kind = st.selectbox("Format", kinds, key=f"format-{key}", width=220)
        suffix, what = exporters.EXPORTERS[kind].suffix, exporters.EXPORTERS[kind].what
        download(
            "Export",
            lambda: exporters.content(kind, trace, run(), own, f"{file}.moetrace"),
            file + suffix,
            key=f"export-{key}",
            icon="ios_share",
        )
        if kind == "notebook":
            download(
                "The trace it loads",
                lambda: moetrace.to_bytes(trace, own),
                f"{file}.moetrace",
                key=f"loads-{key}",
            )
    times = " A replay is drawn with costs fitted on the recorded run." if kind == "perfetto" else ""
    st.caption(f"{plain(file + suffix)}: {what}.{times}")


def chart(figure: go.Figure, title: str, table: pd.DataFrame, key: str, kind: str) -> None:
    """A figure with its heading, the badge of its numbers, and the table behind it with a CSV one click away."""
    with st.container(horizontal=True, vertical_alignment="center"):
        st.subheader(plain(title), width="content")
        badge(kind)
    st.plotly_chart(figure, key=key, alt=f"{title}. The table below it holds the numbers.")
    with st.expander("Table"):
        st.dataframe(table, hide_index=True)
        download("CSV", lambda: csv(table), f"{key}.csv", key=f"{key}-csv")


KINDS = {
    "measured": ("blue", ":material/timer:", "Timed while the model ran."),
    "replayed": ("gray", ":material/replay:", "Exact decisions of a cache on a recorded trace; not timed."),
    "modelled": ("orange", ":material/function:", "By a cost model fitted on a measured run, not timed."),
    "recorded": ("gray", ":material/description:", "What the routers chose; the same for every cache."),
}


def badge(kind: str) -> None:
    color, icon, help = KINDS[kind]
    st.badge(kind, color=color, icon=icon, help=help)  # type: ignore[arg-type]


def stacked(rows: Sequence[np.ndarray[Any, Any]]) -> np.ndarray[Any, Any]:
    return np.stack(rows)


def csv(table: pd.DataFrame) -> str:
    return formula_safe(table).to_csv(index=False)


BY_CONTENT = {Trace: lambda trace: trace.digest}  # two sessions' uploads may share name and size


@st.cache_resource(show_spinner="Replaying the trace", max_entries=24, hash_funcs=BY_CONTENT)
def explained(trace: Trace, settings: Settings) -> Explainer:
    return Explainer(trace, settings)


@st.cache_resource(show_spinner="Replaying the trace", max_entries=64, hash_funcs=BY_CONTENT)
def replayed(trace: Trace, settings: Settings) -> Run:
    return replay(trace, settings)


@st.cache_resource(show_spinner=False, max_entries=24, hash_funcs={Run: lambda run: run.digest})
def pictures(run: Run) -> list[Frame]:
    """The board's frames of a whole run."""
    return frames(run)


def sample_names() -> list[str]:
    return sorted(path.stem for path in SAMPLES.glob("*.moetrace"))

"""Library: samples, traces kept on this machine, uploads; what each holds, and where it can be explored."""

from __future__ import annotations

from typing import Any

import pandas as pd
import streamlit as st

from moeviz.app import common, controls
from moeviz.core.replay import check_trace, replay
from moeviz.core.run import Run
from moeviz.core.settings import Settings
from moeviz.core.trace import DECODE, MAX_EXPERTS, MAX_K, MAX_LAYERS, MAX_TOKENS, Trace
from moeviz.errors import SettingsError, TraceError
from moeviz.files import library, moetrace
from moeviz.files.guarded import open_guarded
from moeviz.files.importers import IMPORTERS, Counted, Options
from moeviz.files.moetrace import MAX_FILE_BYTES

state = st.session_state
ROOM = 1 << 30  # bytes of uploads that one browser session may hold


def about(name: str, trace: Trace, run: Run | None) -> dict[str, Any]:
    """One row of the list."""
    decode = int((trace.phase == DECODE).sum())
    return {
        "trace": name,
        "model": trace.model or "unknown",
        "MoE layers": trace.layers,
        "experts": trace.num_experts,
        "per token": trace.k,
        "prompt tokens": trace.tokens - decode,
        "decoded": decode,
        "recorded": trace.recorded.get("time", "unknown"),
        "on": trace.recorded.get("machine", "unknown"),
        "its own run": run.settings.label + (", measured" if run.measured else "") if run else "none",
        "prompt": " ".join(trace.prompt.split())[:120],
    }


def upload() -> None:
    """Several files at once; each is checked whole before it is shown anywhere."""
    with st.form("upload", clear_on_submit=True, border=True):
        files = st.file_uploader(
            "Open traces",
            accept_multiple_files=True,
            max_upload_size=MAX_FILE_BYTES >> 20,
            help=f"Read are {'; '.join(sorted(one.what for one in IMPORTERS.values()))}. Any of them as .gz or .zst. "
            "What a file is shows in its content.",
        )
        experts = st.number_input(
            "Experts per layer, where the file does not say",
            0,
            MAX_EXPERTS,
            0,
            help="0: the largest id in the file and one.",
        )
        st.caption(
            f"Up to {MAX_FILE_BYTES >> 20} MiB, {MAX_TOKENS:,} tokens, {MAX_LAYERS} layers, {MAX_EXPERTS:,} experts, {MAX_K} per token. Nothing in a "
            "file is run, and each is read in a process of its own, with limits on memory and time. What you open stays in this browser's session until you keep it in the library."
        )
        sent = st.form_submit_button("Open", type="primary")
    if not sent:
        return
    opened = state.setdefault("opened", {})
    for file in files:
        try:
            if (
                sum(
                    trace.experts.nbytes
                    + trace.guess.nbytes
                    + (0 if trace.weights is None else trace.weights.nbytes)
                    for trace, _ in opened.values()
                )
                > ROOM
            ):
                raise TraceError(
                    f"{file.name}: this session holds too much already. Delete a trace below first."
                )
            found = open_guarded(file.name, file.getvalue(), Options(experts=experts))
            base = library.safe_name(file.name)
            if isinstance(found, Counted):
                raise TraceError(
                    f"{file.name} holds counts, not a trace ({found.format}): which token used which expert is not said. "
                    "Make a .moecounts of it with python -m moeviz import, and give that as calibration."
                )
        except TraceError as error:
            st.error(common.plain(str(error)))
            continue
        name, number = f"upload: {base}", 2
        while name in opened:
            name, number = f"upload: {base} ({number})", number + 1
        opened[name] = found.trace, found.run
        st.success(
            common.plain(
                f"Opened {base}: {found.trace.tokens:,} tokens, {found.trace.layers} MoE layers of {found.trace.num_experts} experts."
            )
        )
        for line in found.report:
            st.caption(common.plain(f"{base}: {line}."))


def one(name: str, found: dict[str, tuple[Trace, Run | None]]) -> None:
    """What can be done with the chosen trace."""
    trace, run = found[name]
    kept = name.startswith("library: ")
    short = name.partition(": ")[2] or name
    with st.container(horizontal=True, vertical_alignment="bottom"):
        for page, label, icon in (
            ("activations", "Activations", "grid_on"),
            ("timeline", "Cache timeline", "timeline"),
            ("prefetch", "Prefetch", "bolt"),
            ("what_if", "What if", "query_stats"),
        ):
            if st.button(label, icon=f":material/{icon}:", key=f"go-{page}"):
                state.trace = name
                st.switch_page(f"pages/{page}.py")
        common.download(
            "Download", lambda: moetrace.to_bytes(trace, run), f"{library.safe_name(short)}.moetrace"
        )
        if not kept and st.button("Keep in the library", icon=":material/folder:"):
            changed(lambda: library.keep(short, moetrace.to_bytes(trace, run)))
        if name in state.get("opened", {}) and st.button("Close", icon=":material/close:"):
            del state.opened[name]
            st.rerun()
        if kept:
            new = st.text_input("New name", short, max_chars=library.LONGEST, width=260)
            if st.button("Rename") and new != short:
                changed(lambda: library.rename(short, new))
            if st.button("Delete", icon=":material/delete:"):
                changed(lambda: library.delete(short))
    against(name, trace, found)
    with st.expander("Export", icon=":material/ios_share:"):
        export(name, trace, run)
    if trace.prompt:
        st.text(f"Prompt: {trace.prompt}")
    st.text("Text: " + "".join(trace.texts[:400]) + ("…" if trace.tokens > 400 else ""))


def against(name: str, trace: Trace, found: dict[str, tuple[Trace, Run | None]]) -> None:
    """The second of two traces, of the same shape; both open in comparison."""
    shape = trace.layers, trace.num_experts
    others = [
        other for other, (one, _) in found.items() if other != name and (one.layers, one.num_experts) == shape
    ]
    if not others:
        return
    with st.container(horizontal=True, vertical_alignment="bottom"):
        other = st.selectbox("And another of this shape", others, key="second", width=330)
        if st.button("Compare the two", icon=":material/compare:"):
            state.trace, state.against = name, other
            state.pop("view", None)
            st.switch_page("pages/activations.py")


def export(name: str, trace: Trace, own: Run | None) -> None:
    """The trace and what a cache did on it, for other tools and for people: of its own run, or of a replay."""
    replays, settings = own is None, Settings()
    if own is not None:
        replays = (
            st.segmented_control(
                "Of", ["its own run", "a replay"], default="its own run", required=True, key="export_of"
            )
            == "a replay"
        )
    if replays:
        with st.container(horizontal=True, vertical_alignment="bottom"):
            chosen = controls.settings_controls(
                "_export", Settings(slots=min(max(4, trace.k), trace.num_experts))
            )
        if chosen is None:
            return
        settings = chosen
        try:
            settings.check(trace.layers, trace.num_experts, trace.k)
            check_trace(trace, settings)
            if settings.needs_calibration:
                library.named_trace(settings.calibration)
        except SettingsError as error:
            st.error(common.plain(str(error)))
            return
    common.exporter(
        name, trace, lambda: replay(trace, settings) if own is None or replays else own, own, "library"
    )


def changed(work: Any) -> None:
    """A change of the library: drawn anew, or one message."""
    try:
        work()
    except TraceError as error:
        st.error(common.plain(str(error)))
    except OSError as error:
        st.error(
            common.plain(
                f"The library in {library.folder()} cannot be changed: {error.strerror or error}. Set MOEVIZ_DATA to another folder."
            )
        )
    else:
        st.rerun()


common.within_app()
st.title("Which traces are there, and what do they hold?")
upload()
found = common.traces()
st.dataframe(pd.DataFrame([about(name, trace, run) for name, (trace, run) in found.items()]), hide_index=True)
for name in library.names():
    if f"library: {name}" not in found:
        with st.container(horizontal=True, vertical_alignment="center"):
            st.warning(
                common.plain(f"{name} in the library cannot be read: {library.fault(name)}"), width="stretch"
            )
            if st.button("Delete", icon=":material/delete:", key=f"delete-{name}"):
                changed(lambda name=name: library.delete(name))
chosen = st.selectbox("Trace", list(found), key="library_trace")
one(chosen, found)

"""What the Library does with traces: open what is dropped, list, keep, rename, delete, export."""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from typing import Any

import pandas as pd
import streamlit as st

from moeviz import words
from moeviz.app import forms, jobs, show, traces
from moeviz.app.live import library_fault
from moeviz.app.show import plain
from moeviz.core.replay import check_trace, replay
from moeviz.core.run import Run
from moeviz.core.trace import DECODE, MAX_EXPERTS, MAX_K, MAX_LAYERS, MAX_TOKENS, Trace
from moeviz.errors import MoevizError, TraceError
from moeviz.files import library, moecounts, moetrace
from moeviz.files.guarded import open_guarded
from moeviz.files.importers import IMPORTERS, Counted, Options
from moeviz.files.library import named_trace
from moeviz.files.moecounts import Counts
from moeviz.files.moetrace import MAX_FILE_BYTES
from moeviz.words import many

SAYS = {  # what is said where a dropped file does not say it: field of Options -> label here
    "experts": "Experts per layer",
    "top_k": "Experts per token",
    "prompt_tokens": "Prompt tokens of a request",
    "axes": "Axes of an array",
}
NOT_SAID: dict[str, Any] = {f"file_{field}": getattr(Options(), field) for field in SAYS}  # key -> default
SEEN = (  # columns of the table in presenter mode
    *("trace", "model", "MoE layers", "experts", "per token", "prompt tokens", "decoded", "its own run"),
)
LIMITS = (
    f"Up to {words.memory(MAX_FILE_BYTES)}, {many(MAX_TOKENS, 'token')}, {many(MAX_LAYERS, 'layer')}, "
    f"{many(MAX_EXPERTS, 'expert')}, {MAX_K} per token. Nothing in a file is run, and each is read in a "
    "process of its own, with limits on memory and time. What you open stays in this browser until it is "
    "kept."
)
FORMATS = (
    f"Read are {'; '.join(sorted(one.what for one in IMPORTERS.values()))}. Any of them as .gz or .zst. "
    "Its content shows what a file is."
)


def drop() -> None:
    """The place where files are dropped. Each is checked whole before it is shown anywhere, and the last
    becomes the current trace.
    """
    state = st.session_state
    number = state.setdefault("uploads", 0)
    with st.container(key="upload"):
        files = st.file_uploader(
            "Drop traces anywhere on this page",
            accept_multiple_files=True,
            max_upload_size=MAX_FILE_BYTES >> 20,
            key=f"upload-{number}",
            help=FORMATS,
        )
    if files:
        state.told = [line for file in files for line in _opened(file.name, file.getvalue())]
        state.uploads = number + 1  # an uploader of another key holds no files
        st.rerun()
    for kind, line in state.pop("told", []):
        {"good": st.success, "bad": st.error}[kind](plain(line))


def said() -> None:
    """The widgets that say what the files that are dropped next do not say themselves."""
    st.markdown("**Where a file that you drop does not say it**")
    kept: dict[str, Any] = {"persist_state": "session"}
    with st.container(horizontal=True, vertical_alignment="bottom", key="fields-said"):
        for field, most, help in (
            ("experts", MAX_EXPERTS, words.tooltip("expert", more="0: infer it as the largest id + 1.")),
            (
                "top_k",
                MAX_K,
                words.tooltip(
                    "top-k", "expert", "token", more="0: as the file says. Of logits so many are read."
                ),
            ),
            ("prompt_tokens", MAX_TOKENS, words.tooltip("prompt", "token", more="-1: as the file says.")),
        ):
            key = f"file_{field}"
            least = min(0, NOT_SAID[key])
            st.number_input(
                SAYS[field], least, most, NOT_SAID[key], key=key, width=forms.px(250), help=help, **kept
            )
        help = "For example layer,token,k. Left empty they are found out."
        st.text_input(SAYS["axes"], key="file_axes", width=forms.px(250), help=help, **kept)
    st.caption(LIMITS)


def _told(text: str) -> str:
    """What an importer says, as a sentence, with the page's own fields in place of options of the command
    line.
    """
    fields = r"--(" + "|".join(field.replace("_", "-") for field in SAYS) + r")\b( (?=\w+,\w))?"

    def here(found: re.Match[str]) -> str:
        label = SAYS[found[1].replace("-", "_")]
        return f"“{label}” (under More)" + (" set to " if found[2] else "")

    text = re.sub(fields, here, text)
    return f"{text}{'' if text.endswith('.') else '.'}"


def _opened(file: str, content: bytes) -> list[tuple[str, str]]:
    """What came of one file, in lines of a kind: good or bad."""
    state = st.session_state
    try:
        options = Options(**{field: state.get(f"file_{field}", NOT_SAID[f"file_{field}"]) for field in SAYS})
        found = open_guarded(file, content, options)
        base = library.safe_name(file.removesuffix(moecounts.SUFFIX))
        if isinstance(found, Counted):
            traces.open_counts(base, found.counts)
            counts = found.counts
            shape = f"counts without order, {_of(counts.layers, counts.num_experts)}"
            where = "Experts and What if show them now."
        else:
            traces.open_(base, found.trace, found.run)
            trace = found.trace
            shape = f"{many(trace.tokens, 'token')}, {_of(trace.layers, trace.num_experts)}"
            where = "Every page shows it now."
    except TraceError as error:
        return [("bad", _told(str(error)))]
    return [("good", f"Opened {base}: {shape}. {where}")]  # its notes stand below


def _of(layers: int, experts: int) -> str:
    return f"{many(layers, 'MoE layer')} of {many(experts, 'expert')}"


def notes(several: Sequence[str]) -> None:
    """What an importer left out or assumed."""
    for note in several:
        st.caption(plain(_told(f"{note[:1].upper()}{note[1:]}")))


def table() -> None:
    """Every trace; the row that is clicked becomes the current one. Above it, once, what was done here."""
    if done := st.session_state.pop("shelf_said", ""):
        st.toast(plain(done))
    rows, readable = [], []
    for name in traces.names():
        try:
            rows.append(_about(name, *traces.load(name)))
            readable.append(name)
        except (TraceError, OSError):
            _unreadable(name.removeprefix("library: "))
    for name, counts in jobs.desk().counted.items():
        rows.append(
            {
                "trace": name,
                "model": counts.model or "unknown",
                "MoE layers": counts.layers,
                "experts": counts.num_experts,
                "its own run": "none: counts without order",
            }
        )
        readable.append(name)
    if st.session_state.presenter:  # large, and for the eye alone
        told = [{name: plain(str(row.get(name, words.UNKNOWN))) for name in SEEN} for row in rows]
        st.table(pd.DataFrame(told), hide_index=True)
        return
    found = show.table(
        pd.DataFrame(rows),
        key="shelf",
        widths={"trace": 260},
        placeholder=words.UNKNOWN,
        on_select="rerun",
        selection_mode="single-row",
        height=forms.px(min(250, 38 + 35 * len(rows))),
    )
    chosen = [readable[row] for row in found.selection.rows if row < len(readable)]
    if chosen and chosen != st.session_state.get("shelf-chosen"):
        st.session_state["shelf-chosen"] = chosen
        traces.show(chosen[0])
        st.rerun()


def _unreadable(kept: str) -> None:
    """A file of the library that is no trace: why, and the way to be rid of it."""
    with st.container(horizontal=True, vertical_alignment="center"):
        st.warning(plain(f"{kept} in the library cannot be read: {library.fault(kept)}"), width="stretch")
        if st.button("Delete", icon=":material/delete:", key=f"delete-{kept}"):
            _changed(lambda: library.delete(kept))


def _about(name: str, trace: Trace, run: Run | None) -> dict[str, Any]:
    decode = int((trace.phase == DECODE).sum())
    return {
        "trace": name,
        "model": trace.model or "unknown",
        "MoE layers": trace.layers,
        "experts": trace.num_experts,
        "per token": trace.k,
        "prompt tokens": trace.tokens - decode,
        "decoded": decode,
        "its own run": words.label(run.settings) + (", measured" if run.measured else "") if run else "none",
        "recorded": trace.recorded.get("time", "unknown")[:16].replace("T", " "),  # to the minute
        "on": trace.recorded.get("machine", "unknown"),
        "prompt": " ".join(trace.prompt.split())[:120],
    }


def counts(found: Counts) -> None:
    """What can be done with the current counts, and what was met on the way to them."""
    name = st.session_state.trace
    short = library.safe_name(name.partition(": ")[2])
    with st.container(horizontal=True, vertical_alignment="center"):
        st.markdown(f"**{plain(name)}**", width="content")
        show.download("Download", lambda: moecounts.to_bytes(found), f"{short}{moecounts.SUFFIX}")
        if st.button("Close", icon=":material/close:"):
            del jobs.desk().counted[name]
            st.rerun()
    st.caption(plain(f"{name} {traces.NO_ORDER}"))
    notes(found.notes)


def actions(name: str, trace: Trace, run: Run | None) -> None:
    """What can be done with the current trace."""
    short = name.partition(": ")[2] or name
    show.download("Download", lambda: moetrace.to_bytes(trace, run), f"{library.safe_name(short)}.moetrace")
    if name.startswith("library: "):
        with st.popover("Rename or delete", icon=":material/edit:"):
            new = st.text_input("New name", short, max_chars=library.LONGEST)
            if st.button("Rename") and new != short:
                _changed(lambda: _renamed(short, new))
            if st.session_state.get("sure") != short:
                st.button("Delete", icon=":material/delete:", on_click=_ask, args=(short,))
            elif st.button("Delete it for good", icon=":material/delete:", type="primary"):
                _changed(lambda: _deleted(short))
    elif st.button("Keep in the library", icon=":material/folder:", key="keep"):
        _changed(lambda: f"library: {library.keep(short, moetrace.to_bytes(trace, run))}")
    if trace.sequence is not None:
        _one_request(short, trace)
    if name in jobs.desk().opened and st.button("Close", icon=":material/close:"):
        del jobs.desk().opened[name]
        st.rerun()


def _ask(short: str) -> None:
    st.session_state.sure = short


def _renamed(short: str, new: str) -> str:
    name = library.rename(short, new)
    files = "" if name == new else ", since a file's name may not hold every sign"
    st.session_state.shelf_said = f"It is named {name} now{files}."
    return f"library: {name}"


def _deleted(short: str) -> None:
    library.delete(short)
    st.session_state.shelf_said = f"{short} is deleted from the library."


def _one_request(short: str, trace: Trace) -> None:
    """Opens one of a trace's requests as a trace of its own."""
    numbers = trace.sequences()
    if len(numbers) < 2:
        return
    with st.popover("One request", icon=":material/call_split:"):
        at = int(st.number_input(f"Request, of {len(numbers):,}", 1, len(numbers), key="request"))
        if st.button("Open it alone", key="open-request"):
            part = trace.of_sequence(numbers[at - 1])
            if part is None:
                st.error("No token of this request uses any expert.")
            else:
                _changed(lambda: traces.open_(f"{short}-{at}", part, None))


def _changed(work: Callable[[], str | None]) -> None:
    """A change of the library, which may give the trace to show next; or one message."""
    try:
        if (name := work()) is not None:
            traces.show(name)
    except TraceError as error:
        st.error(plain(str(error)))
    except OSError as error:
        st.error(plain(library_fault(error)))
    else:
        st.rerun()


def export(name: str, trace: Trace, own: Run | None) -> None:
    """The trace and what a cache did on it, of its own run or of a replay, for other tools and for people."""
    st.markdown("**Export, with what a cache does on it**")
    replays = own is None
    if own is not None:
        of = ["its own run", "a replay"]
        replays = st.segmented_control("Of", of, default=of[0], required=True, key="export_of") == "a replay"
    if not replays and own is not None:
        show.exporter(name, trace, lambda: own, own, "library")
        return
    form = forms.SettingsForm(trace, own, "_export")
    form.rest()
    settings = form.settings()
    if settings is None:
        return
    try:
        check_trace(trace, settings)
        if settings.needs_calibration:
            named_trace(settings.calibration)
    except MoevizError as error:
        st.error(plain(str(error)))
        return
    show.exporter(name, trace, lambda: replay(trace, settings), own, "library")

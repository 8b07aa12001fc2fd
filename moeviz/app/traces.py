"""The one current trace of all pages, and the cursor in it.

The bar at the top names the trace; the link keeps both over a reload. Opening, uploading or recording a trace
makes it current.

    name, trace, run = traces.here()
"""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import NamedTuple

import streamlit as st

from moeviz import words
from moeviz.app import links
from moeviz.app.jobs import desk
from moeviz.app.show import plain
from moeviz.core.oracle import BUNDLED_NAME
from moeviz.core.replay import check_trace
from moeviz.core.run import Run
from moeviz.core.settings import SETTINGS, Settings
from moeviz.core.suiting import usual_slots
from moeviz.core.trace import Trace
from moeviz.errors import MoevizError, TraceError
from moeviz.files import library, moetrace
from moeviz.files.moecounts import Counts
from moeviz.files.moetrace import SAMPLES, sample_names

WHOLE, WINDOW = 13_000, 6_144  # events that are explored at once; of a longer trace so many at a time
PLACE = ("window", "step")  # what the link says of where its reader is in a trace
LIVE, MEASURED = "my latest run", "my latest comparison"
LATEST = {LIVE: "live", MEASURED: "measure"}  # the traces that this browser's last jobs left
FIRST = "sample: change-of-subject"
NO_ORDER = (
    "says how often each expert was used, and nothing of when, so that no cache can be replayed on it. "
    "Experts shows it and What if plans with it; for everything else choose a trace above."
)
ROOM = 1 << 30  # bytes of opened traces that one browser may hold


class Here(NamedTuple):
    """What a page is about."""

    name: str
    trace: Trace
    run: Run | None  # that was recorded with the trace


@st.cache_resource(show_spinner=False, max_entries=32)
def _from_file(path: Path, changed_ns: int) -> tuple[Trace, Run | None]:
    """A trace file, read again when it has changed."""
    return moetrace.load(path)


def read(path: Path) -> tuple[Trace, Run | None]:
    """What a trace file holds. Raises TraceError or OSError where it cannot be read."""
    return _from_file(path, path.stat().st_mtime_ns)


def names() -> list[str]:
    """Every trace that this browser can explore: its own latest runs first, then what it opened, the library,
    the samples.
    """
    own = desk()
    found = [name for name, kind in LATEST.items() if own.latest(kind) is not None]
    found += [*own.opened, *(f"library: {name}" for name in library.names())]
    return found + [f"sample: {name}" for name in sorted(sample_names())]


def file(name: str) -> Path | None:
    """The file of a sample or of a trace of the library, by its name; None for others. Raises TraceError."""
    match name.partition(": "):
        case "sample", _, own:
            return SAMPLES / f"{own}.moetrace"
        case "library", _, own:
            return library.path(own)
    return None


def load(name: str) -> tuple[Trace, Run | None]:
    """A trace by its name. Raises TraceError or OSError where its file cannot be read."""
    own = desk()
    if (path := file(name)) is not None:
        return read(path)
    job = own.latest(LATEST[name]) if name in LATEST else None
    if job is not None and (captured := job.recording()) is not None:
        return captured
    if (opened := own.opened.get(name)) is not None:
        return opened
    raise TraceError("it is gone. Another tab closed it, or began a new run in its place.")


def like(trace: Trace) -> list[str]:
    """Names of the traces of a model of the same shape."""
    found = []
    for name in names():
        try:
            other, _ = load(name)
        except (TraceError, OSError):
            continue
        if (other.layers, other.num_experts) == (trace.layers, trace.num_experts):
            found.append(name)
    return found


def sample(name: str = "change-of-subject") -> tuple[Trace, Run]:
    """A bundled trace and the run that was measured with it."""
    trace, run = load(f"sample: {name}")
    if run is None:
        raise TraceError(f"{name} holds no recorded run.")
    return trace, run


def show(name: str) -> None:
    """Makes a trace the current one of all pages, from the next time that a page is drawn."""
    st.session_state.to_show = name


def placed_in(name: str) -> None:
    """What the link says of cursor and window is of the trace of this name, and stays when that is shown."""
    st.session_state.placed_in = name


def open_(name: str, trace: Trace, run: Run | None) -> str:
    """Takes in an uploaded trace and makes it current; gives the name that it got. Raises TraceError where
    there is no room.
    """
    chosen = _place(f"upload: {name}", _size(trace))
    desk().opened[chosen] = trace, run
    show(chosen)
    return chosen


def open_counts(name: str, counts: Counts) -> str:
    """Takes in uploaded counts and makes them current; gives the name that they got. Raises TraceError where
    there is no room.
    """
    chosen = _place(f"counts: {name}", counts.counts.nbytes)
    desk().counted[chosen] = counts
    show(chosen)
    return chosen


def _place(wanted: str, size: int) -> str:
    """A name that is free, where there is room. Raises TraceError."""
    own = desk()
    held = sum(_size(one) for one, _ in own.opened.values())
    if held + sum(one.counts.nbytes for one in own.counted.values()) + size > ROOM:
        name = wanted.partition(": ")[2]
        raise TraceError(f"{name}: this browser holds too much already. Close an opened trace first.")
    chosen, number = wanted, 2
    while chosen in own.opened or chosen in own.counted:
        chosen, number = f"{wanted} ({number})", number + 1
    return chosen


def counted() -> Counts | None:
    """The current counts, where they were chosen in the place of a trace."""
    return desk().counted.get(st.session_state.get("trace", FIRST))


def _size(trace: Trace) -> int:
    return sum(one.nbytes for one in (trace.experts, trace.weights, trace.guess) if one is not None)


def picker() -> None:
    """The current trace, named and chosen at the top of every page."""
    state, options = st.session_state, [*names(), *desk().counted]
    if (wanted := state.pop("to_show", None)) in options:
        state.trace = wanted
    linked = links.get("trace")
    if "trace" not in state and linked in options:
        state.trace = linked
    elif "trace" not in state and linked:
        st.toast(plain(f"The link names a trace that is not here: {linked[:60]}. A sample is shown."))
    if state.get("trace") not in options:
        state.trace = FIRST
    st.selectbox(
        "Trace",
        options,
        key="trace",
        persist_state="session",
        label_visibility="collapsed",
        help=words.tooltip("trace", more="The trace that every page is about. Open your own in the Library."),
    )
    if state.setdefault("placed_in", state.trace) != state.trace:  # a place is of one trace
        placed_in(state.trace)
        for name in PLACE:
            state.pop(name, None)
            links.put(name, "")
        state.pop("seek", None)  # where the stage was told to go
    (links.put_default if state.trace == FIRST else links.put)("trace", state.trace)


def here() -> Here:
    """The current trace; of a long one the window that is asked for here.

    Where counts were chosen in its place, a page that needs a trace says so and ends here.
    """
    name = st.session_state.get("trace", FIRST)
    if counted() is not None:
        st.info(plain(f"{name} {NO_ORDER}"), icon=":material/bar_chart:")
        st.stop()
    try:
        trace, run = load(name)
    except (TraceError, OSError) as error:
        st.error(plain(f"{name} cannot be read: {error} The first sample is shown instead."))
        name, (trace, run) = FIRST, sample()
    count, most = len(trace.passes()), max(1, WINDOW // trace.layers)
    if count * trace.layers <= WHOLE:
        return Here(name, trace, run)
    begins = links.count("window")
    if (linked := links.get("window")) and (begins is None or begins >= count):
        begins = 0
        if st.session_state.linked.get("window") == linked:  # else of another trace
            st.toast(plain(f"The link says window={linked[:40]}, which is no forward pass; it is 0."))
        links.put("window", "0")
    with st.container(horizontal=True, vertical_alignment="bottom"):
        first = st.number_input(
            f"From pass (of {count:,})",
            0,
            count - 1,
            begins or 0,
            most,
            key=fits("window", count - 1),
            width=190,
        )
        links.put("window", str(first or ""))
        st.caption(
            f"A long trace is explored {words.many(most, 'forward pass')} at a time; "
            "the cache begins the window cold."
        )
    last = min(first + most, count) - 1
    return Here(f"{name}, passes {first:,} to {last:,}", trace.window(first, most), None)


def slots_for(trace: Trace, run: Run | None, scope: str = "layer") -> int:
    """Slots to begin with: those of the trace's own run, or a third of the experts and one more than a token
    needs.
    """
    if run is not None and not run.settings.baseline and run.settings.scope == scope:
        return run.room.slots
    slots = usual_slots(trace.num_experts, trace.k)
    return slots if scope == "layer" else slots * trace.layers


def begin(trace: Trace, run: Run | None) -> Settings:
    """The settings that a page begins with: those of the stage's first board where it was set, or of the
    trace's own run, or moeviz's own.

    The link names the board's own three settings; what both boards share is the stage's to say, so that a
    link to this page is told of it here.
    """
    own = Settings(slots=slots_for(trace, run))
    if run is not None and not run.settings.baseline:
        own = replace(run.settings, seed=0)
    board = st.session_state.get("board_a")
    if board is not None:
        shared = links.said(replace(board, **{name: getattr(own, name) for name in links.BOARD}), own)
        links.put("begin", links.said(board, own) if shared else "")
    for name, wanted in (
        ("", lambda: board),
        ("begin", lambda: links.settings(links.get("begin"), own, links.LINKED)),
        ("a", lambda: links.settings(links.get("a"), own)),
    ):
        if name and not links.get(name):
            continue
        try:
            found = wanted()
            if found is not None:
                found.check(*trace.shape)
                check_trace(trace, found)
                return found
        except MoevizError as error:
            if name and st.session_state.linked.get(name) == links.get(name):  # not a change of the trace
                st.toast(plain(f"The link's settings {name} do not fit here: {error}"))
                links.put(name, "")
    return own


def basis(trace: Trace, run: Run | None) -> tuple[Run, str]:
    """A measured run whose costs stand for this trace's machine, and whose it is: its own, or the bundled
    model's sample.
    """
    if run is not None and run.measured and (run.passes.phase == 1).any():
        return run, "its own run"
    return sample()[1], "the bundled model's run"


def timed(trace: Trace, run: Run | None) -> bool:
    """Whether the costs that `basis` gives are of this trace's own model."""
    return trace.model == BUNDLED_NAME or basis(trace, run)[0] is run


def fits(key: str, most: int) -> str:
    """The key of a widget whose range depends on the trace; a value that another trace left in it is dropped
    where it is out of range.
    """
    value = st.session_state.get(key)
    if isinstance(value, int) and not 0 <= value <= most:
        del st.session_state[key]
    return key


def cursor(last: int) -> int:
    """The forward pass at which the cursor stands, at most `last`: where it was moved to, or the link says,
    or a quarter through.
    """
    linked, known = links.get("step"), links.count("step")
    if linked and known is None:
        st.toast(plain(f"The link says step={linked[:40]}, which is no forward pass; it is {last // 4}."))
        links.put("step", "")
    elif known is not None and known > last and st.session_state.linked.get("step") == linked:
        st.toast(plain(f"The link says step={linked}, and the last forward pass here is {last}."))
        links.put("step", str(last))
    return last // 4 if known is None else min(known, last)


def open_stage(step: int, layer: int, expert: int, settings: Settings) -> None:
    """Opens the stage at a forward pass, there with the expert selected, or, below 0, the one worth telling.
    Its first board takes policy, slots and pre-fetch of `settings`, both boards the rest: the same passes.
    """
    move(step)
    state = st.session_state
    links.put("asked", f"a.{layer}.{expert}" if expert >= 0 else "")
    links.put("a", ",".join(f"{name}={getattr(settings, name)}" for name in links.BOARD))
    for name in SETTINGS.keys() - {*links.BOARD, "seed", "baseline"}:
        if name != "calibration" or settings.calibration:  # without one the form's own is not read
            state[f"{name}_both"] = getattr(settings, name)
    state.asked_times = state.get("asked_times", 0) + 1  # who asks for one place twice goes there twice
    state.asked = {"board": 0, "layer": layer, "times": state.asked_times}
    state.asked |= {"expert": expert} if expert >= 0 else {}
    st.switch_page("pages/stage.py", query_params={})  # without them it refuses where a widget has set one


def move(step: int) -> None:
    """Moves the cursor, and tells the link. Slow motion, which stands at a layer of one pass, ends."""
    if links.get("step") != str(step):
        links.put("slow", "")
    links.put("step", str(step))

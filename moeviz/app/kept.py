"""What pages computed, kept by content for every session: replays, explanations, frames, curves, guesses.

A page may ask for the same thing at every step of a cursor; two sessions' traces may share name and size,
never content.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import Any

import streamlit as st

from moeviz import words
from moeviz.charts import Chart, style
from moeviz.charts.board import Frame, frames
from moeviz.charts.stage.payload import run_part
from moeviz.charts.stage.stories import stories_of
from moeviz.core.machines import Machine
from moeviz.core.replay import replay
from moeviz.core.run import Run
from moeviz.core.settings import Settings
from moeviz.core.suiting import bounding
from moeviz.core.trace import Trace
from moeviz.numbers import cost
from moeviz.numbers.cost import Costs
from moeviz.numbers.curves import Curve, bounds, curve, tells_gap
from moeviz.numbers.explain import Explainer
from moeviz.numbers.routing import GuessQuality, guess_quality
from moeviz.numbers.subject import Change, subject_changes


def run_key(run: Run) -> str:
    """Tells runs apart by their decisions and by how long they took."""
    if run.times is None:
        return run.digest
    return run.digest + hashlib.blake2b(run.times.pass_wall.tobytes(), digest_size=8).hexdigest()


# their fields are numbers and names; Streamlit would hash each of them by itself
BY_VALUE: dict[Any, Callable[[Any], Any]] = {Settings: repr, Costs: repr}
BY_TRACE = {Trace: lambda trace: trace.digest} | BY_VALUE
BY_RUN = {Run: run_key} | BY_VALUE


@st.cache_resource(show_spinner="Replaying the trace", max_entries=64, hash_funcs=BY_TRACE)
def replayed(trace: Trace, settings: Settings) -> Run:
    """Raises SettingsError where the settings do not fit the trace."""
    return replay(trace, settings)


def named(trace: Trace, several: Sequence[Settings]) -> list[tuple[str, Run]]:
    """What each of them does, with what it is called beside the others. Raises SettingsError."""
    names = words.setting_names(several)
    return [(name, replayed(trace, one)) for name, one in zip(names, several, strict=True)]


@st.cache_resource(show_spinner=False, max_entries=24, hash_funcs=BY_TRACE)
def explained(trace: Trace, settings: Settings) -> Explainer:
    """What can say why experts left, which is looked for when it is first asked. Raises SettingsError where
    the settings do not fit the trace.
    """
    return Explainer(trace, settings, run=replayed(trace, settings))


@st.cache_resource(show_spinner=False, max_entries=24, hash_funcs=BY_RUN)
def pictures(run: Run) -> list[Frame]:
    """The board's frames of a whole run."""
    return frames(run)


@st.cache_resource(show_spinner="Replaying the trace", max_entries=24, hash_funcs=BY_TRACE | BY_RUN)
def part(
    trace: Trace,
    settings: Settings,
    measured: list[Run],
    over: tuple[str, Costs] | None = None,
    alike: bool = True,
) -> dict[str, Any]:
    """What the stage shows of one board, with times modelled `over` a link where one is given; `alike`: as
    `all_timed` says of its boards. Raises SettingsError where the settings do not fit the trace.
    """
    found = explained(trace, settings)
    if over is None:  # what there is of it is kept
        return bare(trace, settings, measured, alike) | {"story": stories_of(found), "soon": False}
    return run_part(found.run, measured, found, over, fitted)


@st.cache_resource(show_spinner=False, max_entries=24, hash_funcs=BY_TRACE | BY_RUN)
def bare(trace: Trace, settings: Settings, measured: list[Run], alike: bool) -> dict[str, Any]:
    """What the stage shows of one board until the rest is there. Raises SettingsError as `part` does."""
    return run_part(replayed(trace, settings), measured, fitted=fitted, soon=True, alike=alike)


@st.cache_resource(show_spinner=False, max_entries=64, hash_funcs=BY_RUN)
def fitted(run: Run) -> Costs:
    """Costs of the machine of a measured run. Raises ValueError where it was not measured."""
    return cost.fit(run)


@st.cache_resource(show_spinner=False, max_entries=256, hash_funcs=BY_RUN)
def predicted(run: Run, costs: Costs) -> float:
    """Modelled ms per output token."""
    return cost.predict(run, costs)


@st.cache_resource(show_spinner=False, max_entries=64, hash_funcs=BY_TRACE | BY_RUN)
def predicted_each(trace: Trace, several: list[Settings], measured: Run, place: Machine) -> list[float]:
    """Modelled ms per output token of each Settings, on the machine of a measured run and the link `place`.
    Raises SettingsError where settings do not fit the trace.
    """
    costs = fitted(measured).on(place, measured.mean_copied)
    return [predicted(replayed(trace, one), costs) for one in several]


def bound(trace: Trace, several: Sequence[Settings]) -> Run:
    """What no policy beats with the slots of these settings, the most where they differ, and without
    pre-fetching.
    """
    return replayed(trace, bounding(several, trace.shape))


@st.cache_resource(show_spinner=False, max_entries=64, hash_funcs=BY_TRACE)
def changes(trace: Trace) -> list[Change]:
    """Where the text changes its subject."""
    return subject_changes(trace)


@st.cache_resource(show_spinner="Replaying every slot count", max_entries=64, hash_funcs=BY_TRACE)
def curved(trace: Trace, settings: Settings) -> Curve:
    """Raises SettingsError where the settings do not fit the trace."""
    return curve(trace, settings)


@st.cache_resource(show_spinner=False, max_entries=256, hash_funcs=BY_TRACE)
def gap(trace: Trace, settings: Settings, _run: Run) -> float | None:
    """How much of what is possible a policy gets; None where that says nothing of these settings. `_run`:
    what they did. Raises SettingsError where they do not fit the trace.

    The other two replays are of those that the stage and other pages show, so that they are kept already.
    """
    if not tells_gap(settings):
        return None
    others = [replace(settings, policy=policy, prefetch="none") for policy in ("lru", "belady")]
    known = {settings: _run} | {one: replayed(trace, one) for one in others}
    return bounds(trace, settings, None, gap=True, replayed=known).gap_captured


@st.cache_resource(show_spinner="Asking the predictors", max_entries=64, hash_funcs=BY_TRACE)
def guessed(trace: Trace, predictor: str, width: int, threshold: float) -> GuessQuality:
    return guess_quality(trace, predictor, width, threshold)


@st.cache_resource(show_spinner=False, max_entries=64, hash_funcs=BY_TRACE | BY_RUN)
def agrees(trace: Trace, run: Run) -> bool:
    """Whether a replay of the trace decides, event for event, as the run did."""
    return replayed(trace, run.settings).same_decisions(run)


@st.cache_resource(show_spinner=False, max_entries=24, hash_funcs=BY_TRACE)
def texts(trace: Trace) -> list[str]:
    """The text that entered each forward pass."""
    return ["".join(trace.texts[tokens]) for tokens in trace.passes()]


@st.cache_resource(show_spinner=False, max_entries=48, hash_funcs=BY_TRACE | BY_RUN)
def drawn(
    key: str, of: Sequence[Any], color: str, larger: float, _make: Callable[[], list[Chart]]
) -> list[Chart]:
    """Charts as they are shown, so that visitors of one trace share them: `_make` draws those that are called
    `key`, and `of` is all that they depend on. `color` of their text, which is `larger` times its size.

    Nobody changes them any more, so that Plotly copies each figure once, and not whenever it is sent.
    """
    found = _make()
    for one in found:
        sent = one.figure.to_dict()
        style.ink(sent, color)
        if larger != 1:
            style.enlarge(sent, larger)
        style.settle(sent, larger)
        one.figure.to_dict = lambda sent=sent: sent
    return found


def forget() -> None:
    """Drops everything."""
    for one in (replayed, explained, pictures, part, bare, changes, curved, guessed, agrees, texts, fitted):
        one.clear()
    gap.clear()
    predicted.clear()
    predicted_each.clear()
    drawn.clear()

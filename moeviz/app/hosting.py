"""The stage's host: what its two boards show of the current trace or of a run that goes on, and what its user
asks.

hosting.draw(here, two, both, wanted)      # two, both: of moeviz.app.boards
"""

from __future__ import annotations

import time
from dataclasses import replace
from typing import Any

import streamlit as st

from moeviz import words
from moeviz.app import (
    asked,
    bar,
    boards,
    first_visit,
    jobs,
    kept,
    links,
    live,
    measure,
    show,
    traces,
    window,
)
from moeviz.app.measure import Wanted
from moeviz.app.stage import StageEvent, stage, told
from moeviz.charts.stage import all_timed, as_watched, is_timed, run_part, stage_payload
from moeviz.core.oracle import BUNDLED_NAME
from moeviz.core.replay import served
from moeviz.core.run import Run
from moeviz.core.settings import BASELINES, Settings
from moeviz.core.suiting import suited
from moeviz.core.trace import Trace
from moeviz.errors import MoevizError

TITLE = "Which cache suits this text?"
BELOW = 12  # px left free under the stage
PROGRESS = 54  # px more while a measurement tells there how far it is, in a text of a desk's size
SENDING = 0.03  # s until what was drawn is sent; Streamlit throws away what waits when a run begins anew
QUICK = 20_000  # choices of a trace whose boards, stories and times are drawn together


def draw(
    here: traces.Here,
    two: list[Settings],
    both: dict[str, Any],
    wanted: Wanted,
) -> None:
    """The stage of the current trace, or of the live run while there is one; does what its user asks.
    `two` and `both` as `boards.pair` gave and took them.
    """
    if about := st.session_state.pop("runs_another", ""):
        st.toast(show.plain(about))
    for trace in (live.just_ended(), measure.just_ended(here)):
        if trace:
            traces.show(trace)
            if trace == traces.LIVE:
                last = len(traces.load(trace)[0].passes()) - 1
                traces.placed_in(trace)
                st.session_state.seek = {"step": last, "follows": True}
                traces.move(last)  # where its user has left it, the stage says so
            st.rerun()
    if st.session_state.pop("measure_now", False) and begin(here.trace, two, wanted):
        st.rerun()
    going = live.running()
    queued = live.queued(going)
    every = None if going is None else live.EVERY_QUEUED if queued else live.EVERY

    def look() -> None:
        jobs.sit_down()
        job = live.running()
        if (going is None) != (job is None):  # it ended, or another tab began one
            st.rerun()
        if queued and not live.queued(job):
            st.rerun()  # to look more often
        boards.tell_failed(here.name)
        event, shown_two = told("stage"), two
        changed = event.kind == "settings"
        if event.kind:
            first_visit.heard(event, here, 0)
        if changed:  # the boards first: what stands around them follows
            boards.set_as_asked(event, two)
            shown_two = boards.pair(here.trace, here.run, both)
        else:
            _act(event, here.trace, two, wanted)  # before what it changes is drawn once more
        captured = job.recording() if job is not None and live.begun(job) else None
        shown = here if captured is None else traces.Here(traces.LIVE, *captured)
        try:
            event = _stage(shown, shown_two, job, captured is not None, wanted, changed)
        except MoevizError as error:
            boards.fall_back(here.name, shown, shown_two, _measured(shown))
            st.error(show.plain(str(error)))
            if changed:
                st.rerun()
            return
        last = len(shown.trace.passes()) - 1
        if event.step is not None and job is None:
            traces.move(last if event.at_end else event.step)
            asked.tell(event)
        first_visit.heard(event, shown, last)
        _act(event, here.trace, shown_two, wanted)
        if changed:
            time.sleep(SENDING)
            st.rerun()
        _explain(shown, two, job)

    st.fragment(look, run_every=every)()


def _stage(
    here: traces.Here, two: list[Settings], job: Any, growing: bool, wanted: Wanted, soon: bool
) -> StageEvent:
    """`job`: the live run that goes on, if one does; `growing`: whether it is its trace that is shown;
    `soon`: the stage is drawn again at once, and stories that are not there yet can come with that.
    """
    trace, going = served(here.trace, two[0]), job is not None
    measured = _measured(here)
    if growing and here.run is not None:
        runs, bound = [here.run, kept.replayed(trace, two[1])], None
        parts = [as_watched(run_part(one, measured, fitted=live.fitted(job))) for one in runs]
    else:
        quick = trace.experts.size <= QUICK
        told = [_explained(trace, one, at_once=quick and not soon) for one in two]
        alike = _alike(here, two)
        parts = [
            kept.part(trace, one, measured, alike=alike)
            if known
            else kept.bare(trace, one, measured if quick else [], alike)
            for one, known in zip(two, told, strict=True)
        ]
        parts = [as_watched(one) for one in parts] if here.name == traces.LIVE else parts
        runs = [kept.replayed(trace, one) for one in two]
        bound = kept.bound(trace, two)
    changes = kept.changes(trace)
    said = live.in_words(job) if going else words.hit_verdict(trace, runs, changes)
    led = first_visit.hides(here)
    payload = stage_payload(
        trace,
        runs,
        bound=bound,
        measured=measured,
        parts=parts,
        changes=changes,
        title="" if first_visit.leads(here) else TITLE,  # then the visit asks
        verdict="" if led else said,
        menus={} if going else boards.menus(trace, two[0].scope),
        actions=_actions(going, wanted),
        results=measure.on_stage(here, two, wanted.ask),
        live=growing,
    )
    if here.name == traces.LIVE:  # one text that grows; what is at hand stays when it has ended
        run = job if growing else jobs.desk().latest("live")
        payload["trace"] = f"live-{run.began if run else 0}"
    busy = _job("measure") is not None
    return stage(
        payload,
        "stage",
        seek=first_visit.seek(here, len(trace.passes()) - 1)
        or _seek(trace, growing, all(is_timed(one, measured) for one in parts)),
        future=not led,
        presenter=st.session_state.presenter,
        below=BELOW + round(PROGRESS * window.larger()) if busy else BELOW,
    )


def _explained(trace: Trace, settings: Settings, at_once: bool = False) -> bool:
    """Whether a board is drawn with its stories, which take longer than the board: those that were computed
    are, and where they are to be had `at_once` all.
    """
    known: set[tuple[str, Settings]] = st.session_state.setdefault("explained", set())
    if at_once:
        known.add((trace.digest, settings))
    return (trace.digest, settings) in known


def _explain(here: traces.Here, two: list[Settings], job: Any) -> None:
    """Of a long trace, once the boards stand: their stories and times, and the stage again with them."""
    trace = served(here.trace, two[0])
    new = [] if job is not None else [one for one in two if not _explained(trace, one)]
    for one in new:
        try:
            kept.part(trace, one, _measured(here), alike=_alike(here, two))
        except MoevizError:
            boards.fall_back(here.name, here, two, _measured(here))
            raise
        st.session_state.explained.add((trace.digest, one))
    if new:
        st.rerun()


def _job(name: str) -> Any:
    job = jobs.desk().jobs.get(name)
    return job if job is not None and not job.finished else None


def _seek(trace: Trace, follows: bool, timed: bool) -> dict[str, Any] | None:
    """Where the cursor goes: to the end of a run that goes on, while it stands there; else where another page
    or the link left it. `timed`: whether the boards have times, or are about to have them.
    """
    state, last = st.session_state, len(trace.passes()) - 1
    if not follows:
        asked.forget(trace)
        if "seek" not in state:
            wish = asked.restored(trace, timed)
            if "asked" in state:  # another page asks about something else than the link
                wish = {name: wish[name] for name in ("speed",) if name in wish} | state.pop("asked")
            if links.get("step"):
                wish["step"] = traces.cursor(last)
            state.seek = wish or None
        found: dict[str, Any] | None = state.seek
        return found
    return {"step": last, "follows": True}


def _measured(here: traces.Here) -> list[Run]:
    """Timed runs of the trace, for the boards' times: of a comparison of its text before its own."""
    own = [here.run] if here.run is not None and here.run.measured else []
    return [*measure.timed(here), *own]


def _alike(here: traces.Here, two: list[Settings]) -> bool:
    """Whether both boards have measured times."""
    trace = served(here.trace, two[0])
    return all_timed([kept.replayed(trace, one) for one in two], _measured(here))


def _actions(going: bool, wanted: Wanted) -> list[dict[str, str]]:
    if going:
        return [{"id": "stop", "label": "Stop", "key": "r"}]
    if _job("measure") is not None:
        return [{"id": "stop", "label": "Stop measuring", "key": "m", "quiet": "measuring"}]
    return [
        {"id": "run", "label": "Run it live", "key": "r", "about": wanted.runs},
        {"id": "measure", "label": wanted.label, "key": "m", "about": wanted.takes},
    ]


def _act(event: StageEvent, trace: Trace, two: list[Settings], wanted: Wanted) -> None:
    own = jobs.desk()
    match event.kind:
        case "settings":
            boards.set_as_asked(event, two)
        case "run":
            two = _at_hand(trace, two, wanted)
            boards.stay(two)
            own.submit("live", wanted.ask.job("watch", wanted.settings(two)[:1]))
        case "measure":
            if not begin(trace, two, wanted):
                return
        case "stop":
            for job in own.running:
                own.client.stop(job)
        case "present" if event.on != st.session_state.presenter:
            bar.present()
        case _:
            return
    st.rerun()


def _at_hand(trace: Trace, two: list[Settings], wanted: Wanted) -> list[Settings]:
    """The boards for the model that is going to run. Where that is the bundled one and the trace is of
    another, its own sample takes the trace's place, with slots that suit it, and that is said.
    """
    if wanted.ask.model.name or trace.model == BUNDLED_NAME:
        return two
    shape = traces.sample()[0].shape
    if trace.shape[:3] != shape[:3]:
        two = [suited(replace(one, slots=Settings().slots, budget=0), shape) for one in two]
    traces.show(traces.FIRST)
    st.session_state.runs_another = (  # said once the page is drawn anew
        f"The model of this trace is not here: the bundled one runs, {words.label(two[0])}. The trace "
        "stays in the menu above; a model of your own is named under More."
    )
    return two


def begin(trace: Trace, two: list[Settings], wanted: Wanted) -> bool:
    """Measures the boards, if they differ. `trace`: the current one."""
    two = _at_hand(trace, two, wanted)
    boards.stay(two)
    if wanted.settings(two)[0] == wanted.settings(two)[1]:
        st.toast("Both boards are set alike. Change one: a comparison with itself shows nothing.")
        return False
    jobs.desk().submit("measure", wanted.ask.job("compare", wanted.settings(two)))
    return True


def baselines() -> list[str]:
    """Which baselines a comparison measures beside the two boards."""
    help = "\n".join(f"- **{name}**: {what}" for name, what in BASELINES.items())
    return list(
        st.pills(
            "Measure beside them",
            list(BASELINES),
            selection_mode="multi",
            key="baselines",
            bind="query-params",
            help=help,
        )
    )

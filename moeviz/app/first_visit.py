"""A first visit is led: a sentence and a button above the stage, a prediction, both caches over the whole
text, and what came out of it. Within a minute, by mouse or by the keys 1 to 3.

It is for who comes without a link, once in a session, and ends with the first thing that its visitor does
without it, such as other settings: what it tells is true of those that it began with. It leads to a lesson,
and goes on when its visitor comes back from there. Until it has told what came out, the link says so: after a
reload it asks again.

    first_visit.draw(here, two, "Measure", measure)        # above the stage
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import partial
from typing import Literal

import numpy as np
import streamlit as st

from moeviz import words
from moeviz.app import jobs, kept, links, traces
from moeviz.app.show import plain
from moeviz.app.stage import StageEvent
from moeviz.core.run import HIT, Run
from moeviz.core.settings import Settings
from moeviz.core.trace import Trace
from moeviz.numbers.subject import Change
from moeviz.words import points

NAMES = (words.policy_name("lru"), words.policy_name("lfu"))  # of the boards that are shown
PACE = 15  # tokens a second: the sample's 240 take 16 s
STYLE = """<style>
.st-key-first-visit {
  min-height: 3.75rem; padding: 0.25rem 0.5rem 0.25rem 0.9rem;
  border: 1px solid color-mix(in srgb, currentColor 40%, transparent); border-radius: 0.5rem;
}
.st-key-first-visit [data-testid=stMarkdownContainer] { margin: 0; }
.st-key-first-visit p { margin: 0; line-height: 1.35; }
@media (max-width: 900px) { .st-key-first-visit { padding: 0.6rem 0.9rem; } }
@media (min-width: 901px) {
  .st-key-first-visit { flex-wrap: nowrap; }
  .st-key-first-visit > :first-child { flex: 1 1 0; min-width: 0; }
  .st-key-first-visit > :not(:first-child) { flex: none; }
}
</style>"""
ON = "Go on by yourself"
LOOKS: dict[str, Literal["primary", "secondary", "tertiary"]] = {"Skip": "tertiary", ON: "secondary"}
KEYS = {str(number): f"visit-{number}" for number in range(1, 4)}  # key -> button, from anywhere on the page
LESSONS = {"start": ("How it works", "0"), "told": ("Why?", "1")}  # moment -> a link, and its lesson
VISIT, ASK = "visit", "ask"  # the link says that a visit is led, and goes on with its question
_KEPT = {VISIT, "trace", "step", "speed", "presenter"}  # what a link says beside while it is led
Act = Callable[[], None]


def notice(page: str, came: bool, stage: str, lessons: str) -> None:
    """Told of every page before it is drawn, and whether its visitor `came` from another: decides at a
    session's first page whether it is to be led, and later whether it still is. `stage` and `lessons`: titles
    of the page that leads and of the one that it leads to.
    """
    state, linked = st.session_state, st.query_params
    if "visit" not in state:
        # where a run of another tab goes on, that is what is shown
        led = page == stage and not jobs.desk().running and (not linked or _goes_on())
        if linked.get(VISIT, ASK) != ASK:
            st.toast(plain(f"The link says visit={linked[VISIT][:40]}, which is no visit. Nobody is led."))
        _go("" if not led else ASK if linked else "start")
    elif page not in (stage, lessons):
        _go("")
    elif page == stage and came and any(links.get(name) != linked[name] for name in linked):
        _go("")  # the link asks for something else than what was left there


def _goes_on() -> bool:
    """Whether the link was kept by a visit that was led, and says nothing else. What it says of a place is
    the visit's own.
    """
    linked = st.query_params
    own = linked.get(VISIT) == ASK and linked.get("trace", traces.FIRST) == traces.FIRST
    return own and linked.keys() <= _KEPT


def leads(here: traces.Here) -> bool:
    """Whether the visit is led now."""
    return bool(st.session_state.get("visit")) and here.name == traces.FIRST


def hides(here: traces.Here) -> bool:
    """Whether what comes out is still to be hidden."""
    return leads(here) and st.session_state.visit != "told"


def tells(number: int) -> bool:
    """Whether the visit has already told what the lesson of this number asks."""
    return st.session_state.get("visit") == "told" and LESSONS["told"][1] == str(number)


def seek(here: traces.Here, last: int) -> dict[str, int] | None:
    """Where the visit wants the stage's cursor, `last` being the last forward pass; None where nowhere."""
    wishes = {
        "start": {"step": 0},
        "ask": {"step": 0},
        "play": {"step": 0, "play": PACE},
        "told": {"step": last},
    }
    return wishes[st.session_state.visit] if leads(here) else None


def draw(here: traces.Here, two: Sequence[Settings], label: str, measure: Callable[[], object]) -> None:
    """What the visitor is told and asked, in one row. Its place is kept when there is nothing: what stands
    below it would else be drawn a second time, in another place, until the first goes. `label` and `measure`:
    of the button that it ends with.
    """
    with st.container():
        _draw(here, two, label, measure)


def _draw(here: traces.Here, two: Sequence[Settings], label: str, measure: Callable[[], object]) -> None:
    if not leads(here):
        return
    if list(two) != st.session_state.setdefault("visit_two", list(two)):
        _go("")
        return
    st.html(STYLE)
    with st.container(key="first-visit", horizontal=True, vertical_alignment="center", gap="small"):
        told = _text(here.trace, two)
        st.markdown(told, help=words.tooltip(told))
        for number, (name, act) in enumerate(_ways(here, label, measure), start=1):
            look = LOOKS.get(name, "primary")
            st.button(f"{number}  {name}", key=KEYS[str(number)], on_click=act, type=look, width="content")
        where = LESSONS.get(st.session_state.visit)
        if where is not None:
            name, lesson = where
            st.page_link("pages/lessons.py", label=name, query_params={"lesson": lesson}, width="content")


def heard(event: StageEvent, here: traces.Here, last: int) -> None:
    """What was done on the stage: the end tells, a deed of the visitor's own ends the lead."""
    if not leads(here):
        return
    if st.session_state.visit == "play" and not event.kind and event.step == last:
        _go("told")
    elif event.kind in ("settings", "run", "measure"):
        _go("")
        return
    else:
        return
    st.rerun()


def _go(to: str, step: int | None = None) -> None:
    """`step`: where the stage stands then, for the other pages."""
    st.session_state.visit = to
    links.put(VISIT, ASK if to in (ASK, "play") else "")
    if step is not None:
        traces.move(step)


def _say(name: str) -> None:
    st.session_state.visit_said = name
    _go("play")


def _measured(measure: Callable[[], object]) -> None:
    _go("")
    measure()


def _ways(here: traces.Here, label: str, measure: Callable[[], object]) -> list[tuple[str, Act]]:
    """The buttons of this moment, and what they do."""
    leave = partial(_go, "", 0)
    match st.session_state.visit:
        case "start":
            return [("Show me", partial(_go, "ask")), ("Skip", leave)]
        case "ask":
            return [*((name, partial(_say, name)) for name in NAMES), ("Skip", leave)]
        case "play":
            last = len(here.trace.passes()) - 1
            return [("To the end", partial(_go, "told", last)), ("Skip", partial(_go, ""))]
    return [(ON, partial(_go, "")), (label, partial(_measured, measure))]


def _text(trace: Trace, two: Sequence[Settings]) -> str:
    match st.session_state.visit:
        case "start":
            return (
                "Only some of a model's experts fit into fast memory: see in half a minute which of two "
                "caches keeps the right ones when a text **changes its subject**."
            )
        case "ask":
            return (
                f"Each cache holds {words.part_of(two[0].slots, trace.num_experts, 'expert')} in every "
                f"layer. **{NAMES[0]}** drops the one that was unused longest, **{NAMES[1]}** the one that "
                "was used least since the text began. Which will more often have the expert that is needed?"
            )
        case "play":
            halfway = "".join(
                f" Halfway the text turns from {plain(one.before.capitalize())} to "
                f"{plain(one.after.capitalize())}."
                for one in kept.changes(trace)[:1]
            )
            return (
                f"You said **{st.session_state.visit_said}**. The large numbers: how often the needed expert "
                f"was there so far.{halfway}"
            )
    runs = [kept.replayed(trace, one) for one in two]
    return outcome(st.session_state.visit_said, trace, runs, kept.changes(trace))


def outcome(said: str, trace: Trace, runs: Sequence[Run], changes: Sequence[Change]) -> str:
    """What was predicted, what happened, and why where the text's change of subject is the reason."""
    whole = _lead(runs, 0, len(trace.passes()))
    winner = NAMES[whole < 0]
    head = (
        f"You said **{said}**, and so it is."
        if said == winner
        else f"You said **{said}**; it is **{winner}**."
    )
    if len(changes) != 1:
        return head
    change = changes[0]
    at = next(n for n, tokens in enumerate(trace.passes()) if tokens.stop > change.token)
    before, after = _lead(runs, 0, at), _lead(runs, at, len(trace.passes()))
    if not before < 0 < after:
        return head
    first, second = (plain(one.capitalize()) for one in (change.before, change.after))
    return (
        f"{head} In {first} {NAMES[1]} led by {points(before)}. In {second} it still kept what {first} had "
        f"used most, and {NAMES[0]}, which forgets, led by {points(after)}."
    )


def _lead(runs: Sequence[Run], first: int, last: int) -> float:
    """By how much the first run's share of hits is above the second's in the passes from `first` to before
    `last`.
    """
    ratios = []
    for run in runs:
        passes = run.events.forward_pass[run.accesses.event]
        ratios.append(float(np.mean(run.accesses.outcome[(passes >= first) & (passes < last)] == HIT)))
    return ratios[0] - ratios[1]

"""What the two boards of the stage are set to, and which of them fell back.

two = boards.pair(trace, run, both)
"""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import streamlit as st

from moeviz import words
from moeviz.app import commands, kept, links, show, traces
from moeviz.app.stage import StageEvent
from moeviz.core.policies import POLICIES
from moeviz.core.predictors import PREDICTORS
from moeviz.core.replay import check_trace, served
from moeviz.core.run import Run
from moeviz.core.settings import Settings
from moeviz.core.trace import Trace
from moeviz.errors import MoevizError, PolicyError

LINKS = ("a", "b")  # names of the two boards' settings in the link
FIRST = ("lru", "lfu")  # their policies to begin with
MOST_SLOTS = 64  # entries of the menu of slots


def pair(trace: Trace, own: Run | None, both: dict[str, Any]) -> list[Settings]:
    """The Settings of the two boards: as chosen on them, or as the link says, or LRU against LFU; `both`:
    what the drawer says for both.
    """
    scope = str(both.get("scope", "layer"))
    slots = traces.slots_for(trace, own, scope)
    try:
        _checked(Settings(**{**both, "slots": slots}), trace)
    except MoevizError as error:
        st.toast(show.plain(f"What both boards are to share does not fit this trace: {error}"))
        both, slots = {}, traces.slots_for(trace, own)
    found = []
    for link, policy in zip(LINKS, FIRST, strict=True):
        first = Settings(**{**both, "policy": policy, "slots": slots})
        try:
            chosen = _checked(links.settings(links.get(link), first), trace)
        except MoevizError as error:
            st.toast(
                show.plain(f"Board {link.upper()} falls back to {words.policy_name(first.policy)}: {error}")
            )
            chosen = replace(first, calibration="")
            links.put(link, "")
        found.append(chosen)
    set_ = links.get(LINKS[0]) or found[0] != Settings("lru", traces.slots_for(trace, own))
    st.session_state.board_a = found[0] if set_ else None  # what other pages begin with
    links.put("begin", "")  # they tell their own links
    return found


def _checked(found: Settings, trace: Trace) -> Settings:
    """The settings, without a calibration that nothing reads. Raises MoevizError where the trace cannot be
    replayed under them.
    """
    found = found if found.needs_calibration else replace(found, calibration="")
    found.check(*trace.shape)
    check_trace(trace, found)
    return found


def fall_back(chosen: str, here: traces.Here, two: list[Settings], measured: list[Run]) -> None:
    """Sets those boards back whose policy or predictor of a user's own fails at its work, and draws the page
    again, with what failed above them. Where no such board is at fault nothing happens. `chosen`: the trace
    that is chosen, which waits while a live run is shown; `measured`: timed runs of `here`.
    """
    trace, found = served(here.trace, two[0]), {}
    for link, one in zip(LINKS, two, strict=True):
        if links.get(link) and ":" in one.policy + one.prefetch:
            try:
                kept.part(trace, one, measured)
            except PolicyError as error:
                found[link] = (chosen, str(error))
                links.put(link, "")
    if found:
        st.session_state.failed = st.session_state.get("failed", {}) | found
        st.rerun()


def tell_failed(chosen: str) -> None:
    """Which boards fell back, and why: until they are set again, or another trace is chosen."""
    failed: dict[str, tuple[str, str]] = st.session_state.get("failed", {})
    for link, first in zip(LINKS, FIRST, strict=True):
        trace, why = failed.get(link, ("", ""))
        if why and trace == chosen and not links.get(link):
            st.error(show.plain(f"Board {link.upper()} falls back to {words.policy_name(first)}: {why}"))
        else:
            failed.pop(link, None)


def menus(trace: Trace, scope: str) -> dict[str, list[tuple[str | int, str]]]:
    """What the boards may be set to."""
    most = trace.num_experts * (trace.layers if scope == "model" else 1)
    every = max(1, -(-(most - trace.k + 1) // MOST_SLOTS))
    slots = sorted({*range(trace.k, most + 1, every), most})
    guessing = [name for name, one in PREDICTORS.items() if trace.lookaheads or "routers" not in one.needs]
    return {
        "policy": [(name, words.policy_name(name)) for name in _policies(trace)],
        "slots": [(count, words.many(count, "slot")) for count in slots],
        "prefetch": [(name, words.prefetch_name(name)) for name in guessing],
    }


def _policies(trace: Trace) -> list[str]:
    """Those that the trace can be replayed under."""
    return [name for name, one in POLICIES.items() if trace.weights is not None or "weights" not in one.needs]


def set_as_asked(event: StageEvent, two: list[Settings]) -> None:
    """A board is to be set as its menus ask."""
    changes: dict[str, Any] = dict(event.changes)
    links.put(LINKS[event.board], commands.setting(replace(two[event.board], **changes)))


def stay(two: list[Settings]) -> None:
    """Both boards keep what they are set to: a captured run would bring its own slots to begin with."""
    for link, one in zip(LINKS, two, strict=True):
        links.put(link, commands.setting(one))

"""The stage as a component of the app: the same JavaScript as the notebook's and the file's, with Streamlit
as its host.

event = stage(stage_payload(trace, runs), key="stage")
if event.kind == "settings":
    mine[event.board] = replace(mine[event.board], **event.changes)      # replay these, and run again
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import streamlit as st

from moeviz.app.components import MOUNTING
from moeviz.app.early import stage_file
from moeviz.charts.stage.page import style

_HOST = """
const { MoevizStage } = await import(new URL("STAGE_FILE", document.baseURI))
const stages = new WeakMap()
const lately = new WeakMap() // what each stage's user did last; numbers grow, over reloads too
const memories = new Map() // by key: where a stage stood when Streamlit took it off the page
const ends = new WeakMap() // of each stage: what else ends with it
const WAYS = ["pointerdown", "keydown"] // a link is followed by

export default function (component) {
  const { data, key, parentElement, setStateValue } = component
  const emit = (event) => {
    if (event.kind === "cursor") return setStateValue("cursor", event)
    // a state, not a trigger, which would be lost where the next run of the script breaks its own off
    const events = lately.get(parentElement) ?? []
    const at = Math.max(Date.now(), (events.at(-1)?.at ?? 0) + 1)
    lately.set(parentElement, [...events, { ...event, at }].slice(-8))
    setStateValue("events", lately.get(parentElement))
  }
  const host = { emit, future: data.future, below: data.below, presenter: data.presenter }
  let stage = stages.get(parentElement)
  if (!stage) {
    stage = MoevizStage.mount(parentElement.querySelector(".stage-here"), data.payload, host)
    stages.set(parentElement, stage)
    stage.recall(memories.get(key))
    // What a page tells once it has asked for another one leaves Streamlit with an empty page. So where the
    // stage was left is told by the next strip of tokens, or by the stage when it is back.
    const leaving = (event) => {
      if (!event.composedPath().some((one) => one.href) || (event.key ?? "Enter") !== "Enter") return
      const to = stage.untold()
      window.moevizLeft = to === null ? null : { key, of: stage.model.payload.trace, to }
    }
    for (const way of WAYS) window.addEventListener(way, leaving, true)
    ends.set(parentElement, () => WAYS.forEach((way) => window.removeEventListener(way, leaving, true)))
  } else {
    stage.update(data.payload, host)
  }
  stage.seekTo(data.seek)
  const left = window.moevizLeft
  if (left?.key === key) {
    window.moevizLeft = null
    if (left.of === data.payload.trace && !data.seek?.play) stage.go(left.to)
  }
  return mounting(parentElement, () => {
    memories.set(key, stage.memory())
    ends.get(parentElement)()
    stage.close()
    stages.delete(parentElement)
  })
}
"""
_mount = st.components.v2.component(
    "moeviz_stage",
    html='<div class="stage-here">\n</div>',
    css=style(),
    js=MOUNTING + _HOST.replace("STAGE_FILE", stage_file()),
)


@dataclass(frozen=True, slots=True)
class StageEvent:
    """What its user did, and where the cursor stands. Each deed is told to one run of the script, in order.

    `kind`: "" nothing new; "settings": the menus of `board` ask for `changes` (fields of Settings);
    "present": presenter mode is to be on or off, in `on`; or the id of one of the payload's actions. `step`
    is a forward pass, `at_end` whether it was the last that there was then, `layer` and `expert` what is
    selected on `selected_board`; None where nothing is.
    """

    kind: str = ""
    board: int = 0
    changes: Mapping[str, str | int] = field(default_factory=dict)
    on: bool = False
    step: int | None = None
    at_end: bool = False
    layer: int | None = None
    expert: int | None = None
    selected_board: int | None = None
    kept: bool = False  # whether the user chose what is selected
    slow: int | None = None  # the layer at which slow motion stands
    speed: str = ""  # that of the menu; "" where the cursor's place has not been told yet


def stage(
    payload: Mapping[str, Any],
    key: str,
    *,
    seek: Mapping[str, Any] | None = None,
    future: bool = True,
    presenter: bool = False,
    below: int = 12,
) -> StageEvent:
    """Draws the stage, as high as the window has room below its top, less `below` px, and returns what its
    user did.

    `seek` takes the cursor to "step", slow motion to the layer "slow", the selection to "board", "layer" and
    "expert", and the menu of speeds to "speed", where it has them, when it differs from the seek of the run
    before; with "follows" only where the cursor stood at the end of what there was. `future`: False hides the
    curves after the cursor.
    """
    data = {
        "payload": dict(payload),
        "seek": dict(seek) if seek else None,
        "future": future,
        "presenter": presenter,
        "below": below,
    }
    _mount(data=data, key=key, on_cursor_change=_nothing, on_events_change=_nothing)
    return told(key, payload["trace"])


def told(key: str, trace: str = "") -> StageEvent:
    """What the user of the stage of this key did, as `stage` returns it, but before it is drawn: whoever acts
    on it need not draw first what is about to change. Where the cursor stands is told of `trace` alone.
    """
    state = st.session_state.get(key) or {}
    cursor = state.get("cursor")
    cursor = cursor if isinstance(cursor, Mapping) and cursor.get("trace") == trace else {}
    event = _unheard(state.get("events"), f"{key} heard")
    selected = cursor.get("selected") or {}
    place = event if event.get("trace") == trace else cursor
    return StageEvent(
        kind=_text(event.get("kind")),
        board=int(_number(event.get("board")) == 1),
        changes=_changes(event.get("changes")),
        on=event.get("on") is True,
        step=_number(place.get("pass")),
        at_end=place.get("end") is True,
        layer=_number(selected.get("layer")),
        expert=_number(selected.get("expert")),
        selected_board=_number(selected.get("board")),
        kept=cursor.get("kept") is True,
        slow=_number(cursor.get("layer")),
        speed=_text(cursor.get("speed")),
    )


def _nothing() -> None:
    """Streamlit keeps a state only where somebody listens."""


def _unheard(events: object, key: str) -> Mapping[str, Any]:
    """The first of the events that no run of the script has been given yet."""
    heard = st.session_state.get(key, 0)
    for event in events if isinstance(events, list) else []:
        number = _number(event.get("at")) if isinstance(event, Mapping) else None
        if number is not None and number > heard:
            st.session_state[key] = number
            return dict(event)
    return {}


def _changes(value: object) -> dict[str, str | int]:
    """Only what the menus can ask for: texts and whole numbers for the three settings that they show."""
    if not isinstance(value, Mapping):
        return {}
    known = {name: value[name] for name in ("policy", "slots", "prefetch") if name in value}
    return {
        name: setting if isinstance(setting, str) else _number(setting) or 0
        for name, setting in known.items()
    }


def _text(value: object) -> str:
    return value if isinstance(value, str) else ""


def _number(value: object) -> int | None:
    """The browser's numbers are whole and from 0 where they count something; else they count as nothing."""
    if isinstance(value, bool) or not isinstance(value, int | float):
        return None
    if isinstance(value, float) and not value.is_integer():
        return None
    return int(value) if value >= 0 else None

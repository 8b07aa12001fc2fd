"""Cache timeline: who was resident, who left, why?"""

from __future__ import annotations

import pandas as pd
import streamlit as st

from moeviz import words
from moeviz.app import common, components, controls
from moeviz.charts import board
from moeviz.charts import figures as charts
from moeviz.core.run import MISS
from moeviz.core.settings import Settings
from moeviz.errors import SettingsError
from moeviz.numbers import metrics
from moeviz.numbers.explain import Eviction, Explainer

state = st.session_state
JUMPS = {
    "miss": "Next miss",
    "eviction": "Next eviction",
    "collision": "Next collision",
    "regret": "Next regretted eviction",
}
JUMP_HELP = {
    "miss": "An expert was demanded and not there.",
    "eviction": "Somebody left.",
    "collision": "An expert evicted earlier in the same forward pass is demanded in it.",
    "regret": "The victim comes back before another that could have left.",
}
SHOWN = 41  # tokens of the paper's figure, around the cursor

STATE_LEGEND = "Blue resident; ● green hit; ◐ orange late hit; ✕ red missed; ▸ pink prefetched and not used yet; pale not in the fast tier."
PAPER_LEGEND = "Light blue resident; ● purple activated and hit; ✕ red activated and missed; white neither; ◐ late hit; ▸ prefetched, not used yet."


def jump(explainer: Explainer, kind: str, step: int) -> None:
    """Moves the cursor; where there is no further event of the kind, says so."""
    found = explainer.next_event(kind, step, state.get("layer", 0))
    state.jumped = f"There is no {JUMPS[kind].lower()[5:]} after this one." if found is None else ""
    if found is not None:
        state.step, state.layer = found
        state.seek = state.get("seek", 0) + 1


def event(explainer: Explainer, step: int, layer: int) -> None:
    """One event in words and numbers."""
    run = explainer.run
    number = step * run.layers + layer
    own = run.accesses.event == number
    experts, outcomes = run.accesses.expert[own], run.accesses.outcome[own]
    kinds = metrics.miss_kind_of_access(run)[own]
    why = ("", "cold", "capacity", "collision", "pollution")
    parts = [
        f"expert {e} {('hit', 'late hit', 'missed')[o]}" + (f" ({why[k]})" if o == MISS else "")
        for e, o, k in zip(experts.tolist(), outcomes.tolist(), kinds.tolist(), strict=True)
    ]
    st.markdown(f"**Pass {step}, MoE layer {layer}:** {', '.join(parts)}.")
    evictions = explainer.evictions(step, layer)
    if not evictions:
        st.caption("Nobody left at this event.")
    for eviction in evictions:
        who = f"expert {eviction.for_expert}" + (
            f" of layer {eviction.for_layer}" if eviction.for_layer != layer else ""
        )
        came = f"It made room for a guess: {who}." if eviction.speculative else f"It made room for {who}."
        st.markdown(f"{eviction.sentence} {came} {_regret(eviction)}")
        with st.container(horizontal=True, vertical_alignment="center"):
            common.badge("replayed")
            st.caption("Everyone resident at that moment; the lowest score that could leave, left.")
        st.dataframe(scores(eviction), hide_index=True)


def scores(eviction: Eviction) -> pd.DataFrame:
    """Everyone resident when a victim was chosen."""
    marks = {
        "leaves": "✕ leaves",
        "could leave": "could leave",
        "needed now": "pinned: needed now",
        "held by a guess": "held by a guess",
    }
    return pd.DataFrame(
        {
            "MoE layer": [r.layer for r in eviction.residents],
            "expert": [r.expert for r in eviction.residents],
            "score": [r.score for r in eviction.residents],
            "": [
                marks[r.status] + (", belady's choice" if (r.layer, r.expert) == eviction.belady else "")
                for r in eviction.residents
            ],
            "last used, passes ago": [r.last_use for r in eviction.residents],
            "next used, in passes": [r.next_use for r in eviction.residents],
        }
    )


def _regret(eviction: Eviction) -> str:
    match eviction.regret:
        case 0:
            return "No regret: nobody that could leave comes back later."
        case None:
            return "Regret: another that could leave is never needed again."
        case passes:
            return f"Regret: {passes} pass{'es' if passes > 1 else ''} sooner back than belady's choice."


common.within_app()
st.title("Who was resident, who left, why?")
name, trace, own = common.trace_picker()
with st.container(horizontal=True, vertical_alignment="bottom"):
    settings = controls.settings_controls("", Settings())
    paper = st.toggle(
        "Paper colours",
        key="paper",
        bind="query-params",
        help="As in arXiv 2511.05814: red missed, purple hit, light blue resident.",
    )
if settings is None:
    st.stop()
try:
    explainer = common.explained(trace, settings)
except SettingsError as error:
    st.error(str(error))
    st.stop()
run = explainer.run
passes = trace.passes()
texts = ["".join(trace.texts[tokens]) for tokens in passes]
linked = st.query_params.get("step", "")
first = state.get("step", int(linked) if linked.isdecimal() and len(linked) < 9 else len(passes) // 4)
pictures = common.pictures(run)
step = components.board(
    f"{trace.digest}|{settings}",
    pictures,
    texts,
    False,
    key="timeline",
    at=min(first, len(passes) - 1),
    seek=state.get("seek", 0),
)
if state.get("seen_seek") != state.get("seek", 0):  # a jump: the board is on its way there
    step, state.seen_seek = min(first, len(passes) - 1), state.get("seek", 0)
state.step = step
st.query_params["step"] = str(step)
counted = metrics.counts(run, 1)
kinds = metrics.miss_kinds(run)
with st.container(horizontal=True, vertical_alignment="bottom"):
    layer = st.number_input(
        "MoE layer",
        0,
        trace.layers - 1,
        key=common.fits("layer", trace.layers - 1),
        bind="query-params",
        width=130,
    )
    for kind, label in JUMPS.items():
        st.button(
            label, key=f"jump-{kind}", on_click=jump, args=(explainer, kind, step), help=JUMP_HELP[kind]
        )
if state.get("jumped"):
    st.info(state.pop("jumped"))
event(explainer, step, layer)

start = max(0, min(step - SHOWN // 2, len(passes) - SHOWN))
shown = slice(start, start + SHOWN)
states = [frame.state[layer] for frame in pictures[shown]]
table = pd.DataFrame(
    [
        {"pass": start + n, "token": texts[start + n], "expert": expert, "state": board.STATES[int(value)]}
        for n, row in enumerate(states)
        for expert, value in enumerate(row)
    ]
)
common.chart(
    charts.token_expert(common.stacked(states), texts[shown], start, step, paper),
    f"MoE layer {layer}: every expert, token by token",
    table,
    "token-expert",
    "replayed",
)
st.caption(PAPER_LEGEND if paper else STATE_LEGEND)
slot_states, holders = board.slots_over_time(pictures)
if slot_states.size:
    rows = slot_states.shape[1]
    per_group = settings.slots
    small = pd.DataFrame(
        {
            "pass": step,
            "row": range(rows),
            "group": [row // per_group for row in range(rows)],
            "expert": holders[step],
            "state": [board.STATES[int(value)] for value in slot_states[step]],
        }
    )
    common.chart(
        charts.raster(slot_states, per_group, step),
        "Every slot, from the first pass to the last",
        small,
        "raster",
        "replayed",
    )
st.caption(
    f"Replayed under {settings.label}: decode, {words.counted(counted)}. Misses of the whole run: "
    f"{words.misses(kinds)}. Residency is read before each event."
)
with st.expander("Export this replay", icon=":material/ios_share:"):
    common.exporter(name, trace, lambda: run, own, "timeline")

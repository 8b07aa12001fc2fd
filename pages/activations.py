"""Activations: who is used, where, when?"""

from __future__ import annotations

import numpy as np
import pandas as pd
import streamlit as st

from moeviz.app import common, components
from moeviz.charts import figures as charts
from moeviz.core.oracle import BUNDLED_NAME
from moeviz.core.run import Run
from moeviz.core.settings import Settings
from moeviz.core.trace import DECODE, PREFILL, Trace
from moeviz.numbers import metrics, routing

state = st.session_state
PHASES = {"prefill and decode": None, "prefill": PREFILL, "decode": DECODE}


def of_phase(trace: Trace, phase: int | None) -> Trace | None:
    """The tokens of one phase; None where there are none."""
    return trace if phase is None else trace.only(phase)


def by_expert(values: np.ndarray, name: str) -> pd.DataFrame:
    """A row per layer and expert. values: [L, E]"""
    layers, experts = values.shape
    return pd.DataFrame(
        {
            "MoE layer": np.repeat(range(layers), experts),
            "expert": np.tile(range(experts), layers),
            name: values.ravel(),
        }
    )


def tokens(
    name: str, trace: Trace, own: Run | None, phase: int | None, marked: tuple[int, int] | None
) -> tuple[int, Trace] | None:
    """The strip of tokens, a forward pass each, marked by hits or by who chose an expert (layer, expert).

    Gives the pass chosen and the trace of the phase; None where the phase has no tokens.
    """
    part = of_phase(trace, phase)
    if part is None:
        return None
    texts = ["".join(part.texts[span]) for span in part.passes()]
    if marked is None:
        settings = own.settings if own else Settings(slots=min(max(4, trace.k), trace.num_experts))
        run = own or common.replayed(trace, settings)
        kinds, titles = by_hits(run, phase)
        legend = "Underlined solid green: more than two thirds of a pass's accesses hit; dashed orange: more than a third; dotted red: fewer. "
        legend += f"{common.plain(settings.label)}, {'as measured' if run.measured else 'replayed'}."
    else:
        layer, expert = marked
        kinds, titles = by_expert_of(part, layer, expert)
        legend = f"Underlined: layer {layer} sent the token to expert {expert}; filled: with more weight than to any other."
    last = len(texts) - 1
    linked = st.query_params.get("token", "")
    first = state.get("token_at", int(linked) if linked.isdecimal() and len(linked) < 9 else last)
    step = components.strip(f"{trace.digest}|{phase}", texts, kinds, titles, "strip", min(first, last))
    state.token_at = step
    st.query_params["token"] = str(step)
    st.caption(f"{legend} Click a token, then step with the arrow keys.")
    return step, part


def which_expert(trace: Trace) -> tuple[int, int]:
    """A layer and an expert, the same wherever the page asks for one."""
    layer = st.number_input(
        "MoE layer",
        0,
        trace.layers - 1,
        key=common.fits("expert_layer", trace.layers - 1),
        bind="query-params",
        width=130,
    )
    expert = st.number_input(
        "Expert",
        0,
        trace.num_experts - 1,
        key=common.fits("expert", trace.num_experts - 1),
        bind="query-params",
        width=130,
    )
    return int(layer), int(expert)


def by_hits(run: Run, phase: int | None) -> tuple[list[str], list[str]]:
    """Kind and title of every forward pass of a phase: how much of what it needed was there."""
    ratio = metrics.hit_ratio_over_time(run)
    shown = np.flatnonzero(run.passes.phase == phase) if phase is not None else np.arange(len(ratio))
    kinds = ["most" if ratio[n] > 2 / 3 else "some" if ratio[n] > 1 / 3 else "few" for n in shown]
    return kinds, [f"pass {n}: {ratio[n]:.0%} of its accesses hit" for n in shown]


def by_expert_of(trace: Trace, layer: int, expert: int) -> tuple[list[str], list[str]]:
    """Kind and title of every forward pass: did its tokens choose an expert, and before any other?"""
    weight = np.where(trace.experts[:, layer] == expert, trace.weights[:, layer], -1.0).max(1)
    best = trace.weights[:, layer].max(1)
    kinds, titles = [], []
    for span in trace.passes():
        most = weight[span].max()
        first = bool((weight[span] >= best[span]).any())
        kinds.append("" if most < 0 else "first" if first else "chosen")
        titles.append("not chosen" if most < 0 else f"weight {most:.2f}")
    return kinds, titles


def now_and_so_far(trace: Trace, step: int, weighted: bool, label: str) -> None:
    """One token above all tokens up to it."""
    passes = trace.passes()
    now, far = (routing.usage(trace, weighted, span) for span in (passes[step], slice(0, passes[step].stop)))
    text = "".join(trace.texts[passes[step]])
    st.caption(
        f"Which experts did this token choose, and which did the text choose so far? Pass {step}: {common.plain(text[:200])}"
    )
    common.chart(charts.heat(now.T, "expert", label), "Now", by_expert(now, label), "now", "recorded")
    common.chart(charts.heat(far.T, "expert", label), "So far", by_expert(far, label), "so-far", "recorded")
    if step < len(passes) - 1:
        whole = routing.usage(trace, weighted)
        common.chart(
            charts.heat(whole.T, "expert", label),
            "All tokens",
            by_expert(whole, label),
            "all-tokens",
            "recorded",
        )


def domains(trace: Trace, step: int) -> None:
    """The bundled model's domains, and what this text looks like to them."""
    use = routing.domain_use()
    names = list(use)
    values = np.stack(list(use.values()))
    st.caption(
        "Which experts does a domain use? Share of each layer's choices on text that the model was not trained on."
    )
    table = pd.DataFrame(
        [
            {"domain": name, "MoE layer": layer, "expert": expert, "share": values[n, layer, expert]}
            for n, name in enumerate(names)
            for layer in range(trace.layers)
            for expert in range(trace.num_experts)
        ]
    )
    common.chart(charts.domain_map(values, names), "Domain map", table, "domains", "recorded")
    alike = routing.likeness(trace, use)
    at = trace.passes()[step].stop - 1
    st.caption(
        "What is the text about, told from its experts alone? How alike the expert use of the last 32 tokens is to each domain's. "
        f"At token {at} it is nearest to **{names[int(alike[:, at].argmax())]}**."
    )
    table = pd.DataFrame(alike.T, columns=names).assign(token=range(trace.tokens))
    common.chart(
        charts.likeness(alike, names, at), "Nearest domain, token by token", table, "likeness", "recorded"
    )


def skew(trace: Trace, use: np.ndarray) -> None:
    """How unevenly experts are used, and how much repeats from token to token."""
    st.caption(
        "Is the work spread evenly, and does a token reuse what the one before it used? The more skew and reuse, the more a cache can hit."
    )
    experts = trace.num_experts
    chance = np.full(trace.layers, trace.k / experts)
    lines = [
        ("share of the busiest quarter", routing.top_share(use)),
        ("entropy, 1 is even", routing.entropy(use)),
        ("reuse of the token before", routing.reuse(trace)),
        (f"reuse by chance, {trace.k} / {experts}", chance),
    ]
    table = pd.DataFrame({"MoE layer": range(trace.layers), **dict(lines)})
    common.chart(charts.layer_lines(lines, "share"), "Skew and reuse by layer", table, "skew", "recorded")
    shares = routing.coverage(use)
    table = pd.DataFrame(shares, columns=[f"{n + 1}" for n in range(experts)]).assign(
        layer=range(trace.layers)
    )
    st.caption(
        "How many experts would have to be resident to serve a given share of the choices, if one knew them beforehand?"
    )
    common.chart(charts.coverage(shares), "Coverage", table, "coverage", "recorded")


def pairs(trace: Trace) -> None:
    """Who is chosen together."""
    st.caption(
        "Given an expert of this layer, who else is chosen with it, here and in the next layer? A pre-fetcher can follow strong pairs."
    )
    layer = st.number_input(
        "MoE layer",
        0,
        trace.layers - 1,
        key=common.fits("pair_layer", trace.layers - 1),
        bind="query-params",
        width=130,
    )
    for title, later in (("Chosen together", layer), ("Chosen in the next layer", layer + 1)):
        if later < trace.layers:
            values = routing.together(trace, layer, later)
            table = pd.DataFrame(
                [
                    {"expert": i, "with": j, "share": values[i, j]}
                    for i in range(len(values))
                    for j in range(len(values))
                    if values[i, j] > 0
                ]
            )
            figure = charts.heat(
                values, f"expert of layer {layer}", "share of its tokens", f"expert of layer {later}"
            )
            common.chart(figure, title, table, f"pairs-{later - layer}", "recorded")


def one_expert(trace: Trace, marked: tuple[int, int] | None) -> None:
    """Everything that one expert did."""
    st.caption("What does an expert see? Its tokens with their neighbours, the heaviest weights first.")
    with st.container(horizontal=True):
        layer, expert = marked or which_expert(trace)
    took, weights = routing.tokens_of(trace, layer, expert)
    st.markdown(
        f"Chosen by **{len(took):,}** of {trace.tokens:,} tokens ({len(took) / trace.tokens:.0%}; evenly it would be {trace.k / trace.num_experts:.0%})."
    )
    rows = [
        {
            "weight": weight,
            "before": "".join(trace.texts[max(0, token - 6) : token]),
            "token": trace.texts[token],
            "after": "".join(trace.texts[token + 1 : token + 5]),
            "position": int(token),
            "phase": "decode" if trace.phase[token] == DECODE else "prefill",
        }
        for token, weight in zip(took[:500], weights[:500], strict=True)
    ]
    st.dataframe(pd.DataFrame(rows), hide_index=True)


def two(trace: Trace, other: Trace, names: tuple[str, str], weighted: bool) -> None:
    """Two traces of one model beside each other."""
    st.caption(
        "Do two texts use the same experts? Shares of each layer's choices, and what the first has more of."
    )
    a, b = (routing.usage(one, weighted) for one in (trace, other))
    a, b = (use / np.maximum(use.sum(1, keepdims=True), 1e-12) for use in (a, b))
    left, right = st.columns(2)
    for column, name, use, key in ((left, names[0], a, "first"), (right, names[1], b, "second")):
        with column:
            common.chart(
                charts.heat(use.T, "expert", "share"), name, by_expert(use, "share"), key, "recorded"
            )
    common.chart(
        charts.heat((a - b).T, "expert", "difference", middle=True),
        "Difference: first less second",
        by_expert(a - b, "difference"),
        "difference",
        "recorded",
    )
    alike = routing.similarity(a, b)
    table = pd.DataFrame({"MoE layer": range(len(alike)), "similarity": alike})
    common.chart(
        charts.layer_lines([("cosine of the two shares", alike)], "similarity"),
        "Similarity by layer",
        table,
        "similarity",
        "recorded",
    )


common.within_app()
st.title("Who is used, where, when?")
name, trace, recorded = common.trace_picker()
others = [
    one
    for one, (other, _) in common.traces().items()
    if (other.layers, other.num_experts) == (trace.layers, trace.num_experts) and one != name
]
with st.container(horizontal=True, vertical_alignment="bottom"):
    phase = st.segmented_control(
        "Phase", list(PHASES), default="prefill and decode", required=True, key="phase", bind="query-params"
    )
    weighted = (
        st.segmented_control(
            "Count",
            ["tokens", "router weight"],
            default="tokens",
            required=True,
            key="count",
            bind="query-params",
        )
        != "tokens"
    )
    mark = st.segmented_control(
        "Mark tokens by",
        ["hits", "one expert"],
        default="hits",
        required=True,
        key="mark",
        bind="query-params",
    )
    marked = which_expert(trace) if mark == "one expert" else None
    against = st.selectbox(
        "Compare with",
        ["nothing", *others],
        key="against",
        bind="query-params",
        width=330,
        on_change=state.pop,
        args=("view", None),
    )
shown = tokens(name, trace, recorded, PHASES[phase], marked)
if shown is None:
    st.info(f"This trace has no tokens of {phase}.")
    st.stop()
step, chosen = shown
views = {
    "Now and so far": lambda: now_and_so_far(
        chosen, step, weighted, "router weight" if weighted else "tokens"
    ),
    "Skew and reuse": lambda: skew(chosen, routing.usage(chosen, weighted)),
    "Together": lambda: pairs(chosen),
    "One expert": lambda: one_expert(chosen, marked),
}
if (
    trace.model == BUNDLED_NAME
    and (trace.layers, trace.num_experts) == next(iter(routing.domain_use().values())).shape
):
    views["Domains"] = lambda: domains(chosen, step)
if against != "nothing":
    views = {
        "Two traces": lambda: two(chosen, common.traces()[against][0], (name, against), weighted)
    } | views
view = st.segmented_control(
    "View", list(views), default=next(iter(views)), required=True, key="view", bind="query-params"
)
views[view]()

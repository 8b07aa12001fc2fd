"""Are guesses right, and right often enough to be worth their copies?

precision({"next-gate": guess_quality(trace, "next-gate")}, trace, width=0).alt
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np

from moeviz.charts import style
from moeviz.charts.chart import Chart
from moeviz.core.predictors import PREDICTORS
from moeviz.core.trace import Trace
from moeviz.numbers.routing import GuessQuality
from moeviz.words import percent

AHEAD = ("1 layer ahead", "2 layers ahead", "3 layers ahead")
APART = 0.22  # of a row, between its marks: they would hide one another
ALIKE = 0.005  # precision and recall that are no further apart: their marks would lie on each other
SYMBOLS = ("circle", "square", "diamond")


def precision(
    found: Mapping[str, GuessQuality], trace: Trace, width: int, break_even: Sequence[float] = ()
) -> Chart:
    """Of each predictor's guesses the share that was needed, by lookahead, beside chance and the precision
    from which a guess pays.

    `break_even` has a value for each lookahead. Recall is drawn, hollow, only where it is another number:
    with as many guesses as a token needs experts the two are equal.
    """
    import pandas as pd

    guessed = width or trace.k
    rows = [
        (name, ahead, *quality.at(ahead + 1))
        for name, quality in found.items()
        for ahead in range(len(quality.recall))
        if not np.isnan(quality.at(ahead + 1)[1])
    ]
    names = list(found)
    figure = style.blank("share of guesses needed", "", max(240, 150 + 60 * len(names)))
    equal = all(abs(one[2] - one[3]) < ALIKE for one in rows)
    for ahead, label in enumerate(AHEAD):
        own = [one for one in rows if one[1] == ahead]
        if own:
            look = {"symbol": SYMBOLS[ahead], "size": 15, "color": style.SERIES[ahead]}
            rows_at = [names.index(one[0]) + APART * (ahead - 1) for one in own]
            figure.add_scatter(
                x=[one[2] for one in own],
                y=rows_at,
                mode="markers",
                name=label,
                marker=look,
                cliponaxis=False,  # a mark at an end of the axis is whole
            )
            if not equal:
                hollow = {**look, "symbol": SYMBOLS[ahead] + "-open", "line": {"width": 3}}
                figure.add_scatter(
                    x=[one[3] for one in own],
                    y=rows_at,
                    mode="markers",
                    name=f"recall, {label}",
                    marker=hollow,
                    cliponaxis=False,
                )
    chance = guessed / trace.num_experts
    lines = [("by chance", chance, {"color": style.OTHER, "width": 2, "dash": "dash"})]
    if break_even:
        lines.append(("break-even, 1 layer ahead", break_even[0], {"color": style.CURSOR, "width": 2}))
    for label, at, look in lines:
        figure.add_scatter(x=[at, at], y=[-0.4, len(names) - 0.6], mode="lines", name=label, line=look)
    figure.update_xaxes(range=[0, 1.02], tickformat=".0%")
    figure.update_yaxes(
        tickvals=list(range(len(names))), ticktext=names, range=[len(names) - 0.4, -0.6], zeroline=False
    )
    table = pd.DataFrame(
        [
            {
                "predictor": name,
                "layers ahead": ahead + 1,
                "precision": right,
                "recall": share,
                "break-even": break_even[ahead] if ahead < len(break_even) else None,
            }
            for name, ahead, right, share in rows
        ],
        columns=["predictor", "layers ahead", "precision", "recall", "break-even"],
    )
    return Chart("Are the guesses right?", figure, table, _kind(names), _told(rows, chance, break_even))


def _told(rows: Sequence[tuple[str, int, float, float]], chance: float, break_even: Sequence[float]) -> str:
    near = [one for one in rows if one[1] == 0]
    if not near:
        return "No predictor could guess for this trace."
    name, _, right, _ = max(near, key=lambda one: one[2])
    text = (
        f"{name} is right most often: {percent(right)} of its guesses one layer ahead, by chance it would "
        f"be {percent(chance)}"
    )
    if not break_even:
        return text + "."
    enough = "more than" if right > break_even[0] else "less than"
    return f"{text}; {enough} the {percent(break_even[0])} from which a guess saves time."


def by_layer(name: str, quality: GuessQuality) -> Chart:
    """Of the experts that a layer needed, the share that was guessed, by MoE layer, a line for each
    lookahead.
    """
    import pandas as pd

    lines = {
        label: quality.recall[ahead]
        for ahead, label in enumerate(AHEAD[: len(quality.recall)])
        if not np.isnan(quality.recall[ahead]).all()
    }
    figure = style.blank("MoE layer that is guessed for", "share guessed", 280)
    layers = quality.recall.shape[1]
    for number, (label, values) in enumerate(lines.items()):
        figure.add_scatter(
            x=np.arange(layers),
            y=values,
            name=label,
            mode="lines+markers",
            line=style.line(number),
            marker={"symbol": SYMBOLS[number], "size": 9},
        )
    figure.update_yaxes(range=[0, 1.02], tickformat=".0%")
    figure.update_xaxes(dtick=1 if layers <= 16 else None, range=[-0.5, layers - 0.5])
    table = pd.DataFrame({"MoE layer": range(layers), **lines})
    means = [f"{label} {percent(float(np.nanmean(values)))}" for label, values in lines.items()]
    alt = (
        f"Of the experts that a layer needs {name} names {', '.join(means)}."
        if means
        else f"{name} could not guess here."
    )
    return Chart(f"Layer by layer: {name}", figure, table, _kind([name]), alt)


def _kind(predictors: Sequence[str]) -> str:
    """Where guesses come from: routers made theirs while the model ran, other predictors make them now."""
    own = all("routers" in PREDICTORS[name].needs for name in predictors)
    return "recorded" if own else "replayed"

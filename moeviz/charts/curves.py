"""Hit ratio over slot counts.

over_slots([curve(trace, Settings(policy)) for policy in ("lru", "lfu", "belady")], at=4).alt
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np

from moeviz.charts import style
from moeviz.charts.chart import Chart
from moeviz.core.owncode import short
from moeviz.core.trace import DECODE, PREFILL
from moeviz.numbers.curves import Curve, knee
from moeviz.numbers.published import Published
from moeviz.words import SAME, many, percent, policy_name

if TYPE_CHECKING:
    import plotly.graph_objects as go

OF_PHASE = {PREFILL: "prefill", DECODE: "decode"}
COMPARED = ("lru", "lfu")
CROWDED = 0.22  # of an axis: so near to each other the names of two lines do not fit side by side
HOLLOW = ("circle-open", "square-open", "diamond-open", "cross-open", "x-open", "triangle-up-open")


def over_slots(
    curves: Sequence[Curve], at: int, break_even: float | None = None, published: Sequence[Published] = ()
) -> Chart:
    """A line for each policy, belady's in grey as the bound; `at` is the chosen slot count.

    The knee is the first policy's: beyond it each further slot brings less than the average one. `break_even`
    is the hit ratio from which a cache is better than keeping whole layers resident; at 0 no line is drawn.
    `published`: curves of others, dotted, of the policies that are shown; they lie where the same share of
    all experts has a slot.
    """
    import pandas as pd

    per_layer = curves[0].settings.scope == "layer"
    axis = "slots per MoE layer" if per_layer else "slots in all"
    if published:
        axis += "; dotted: where the same share of experts has a slot"
    figure = style.blank(axis, f"hit ratio of {OF_PHASE[curves[0].phase]}", 400)
    numbers = _numbers([one.settings.policy for one in curves])
    for number, one in zip(numbers, curves, strict=True):
        bound, name = one.settings.policy == "belady", policy_name(one.settings.policy)
        figure.add_scatter(
            x=one.slots,
            y=one.hit_ratio,
            name=f"{name}: the bound" if bound else style.html_safe(name),
            mode="lines+markers",
            line={"color": style.BOUND, "width": 4} if bound else style.line(number),
            marker={"symbol": number % 12, "size": 7},
        )
    _mark(figure, curves, at)
    if break_even:
        figure.add_scatter(
            x=[int(curves[0].slots[0]), int(curves[0].slots[-1])],
            y=[break_even, break_even],
            name="whole layers kept resident",
            mode="lines",
            line={"color": style.BOUND, "width": 2, "dash": "dash"},
        )
    colors = {
        one.settings.policy: style.BOUND if one.settings.policy == "belady" else style.line(number)["color"]
        for number, one in zip(numbers, curves, strict=True)
    }
    every = int(curves[0].slots[-1])
    own_slots = curves[0].slots.astype(float) if published else curves[0].slots
    columns = {short(one.settings.policy): one.hit_ratio for one in curves}
    table = pd.DataFrame({"slots": own_slots, **columns})
    shown = [float(ratio) for one in curves for ratio in (one.hit_ratio.min(), one.hit_ratio.max())]
    for number, theirs in enumerate(published):
        x = [share * every for share in theirs.shares]
        for policy in [name for name in theirs.hit_ratio if name in colors]:
            name = f"{policy_name(policy)}, {theirs.name}"
            figure.add_scatter(
                x=x,
                y=theirs.hit_ratio[policy],
                name=style.html_safe(name),
                mode="lines+markers",
                line={"color": colors[policy], "width": 2, "dash": "dot"},
                marker={"symbol": HOLLOW[number % len(HOLLOW)], "size": 9, "line": {"width": 2}},
            )
            own = pd.DataFrame({"slots": x, name: theirs.hit_ratio[policy]})
            table = table.merge(own, how="outer", on="slots")
            shown += [min(theirs.hit_ratio[policy]), max(theirs.hit_ratio[policy])]
    if break_even:
        shown.append(break_even)  # its line is not outside
    style.share_axis(figure, shown)
    return Chart("Hit ratio over slots", figure, table, "replayed", _told(curves, at))


def _numbers(policies: Sequence[str]) -> list[int]:
    """Of each policy's look: of lru and lfu, which most pictures compare, always the same."""
    free = iter(range(len(COMPARED), len(COMPARED) + len(policies)))
    return [
        COMPARED.index(one) if one in COMPARED and one not in policies[:at] else next(free)
        for at, one in enumerate(policies)
    ]


def _mark(figure: go.Figure, curves: Sequence[Curve], at: int) -> None:
    """The chosen slot count and the knee: at the top, left of their lines, where no curve is so high yet."""
    first, last = int(curves[0].slots[0]), int(curves[0].slots[-1])
    near = CROWDED * (last - first)
    bend = knee(curves[0])
    left = at - first > near  # else it would lie on the axis
    style.mark_line(figure, at, many(at, "slot"), {"color": style.CURSOR, "width": 2}, left=left)
    if bend is not None:
        row = int(bend == at or 0 < at - bend < near if left else 0 < bend - at < 2 * near)
        line = {"color": style.BOUND, "width": 1, "dash": "dot"}
        style.mark_line(figure, bend, "knee", line, row=row)


def at_slots(one: Curve, slots: int) -> float:
    """Hit ratio at the nearest slot count that the curve knows."""
    return float(one.hit_ratio[int(np.abs(one.slots - slots).argmin())])


def _told(curves: Sequence[Curve], at: int) -> str:
    found = {policy_name(one.settings.policy): at_slots(one, at) for one in curves}
    bound = policy_name("belady")
    real = {name: ratio for name, ratio in found.items() if name != bound}
    where = f"In {OF_PHASE[curves[0].phase]} at {many(at, 'slot')}"
    if not real:
        return f"{where} no policy can hit more than {percent(found[bound])}."
    best, worst = max(real, key=lambda name: real[name]), min(real, key=lambda name: real[name])
    if len(real) == 1:
        text = f"{where} {best} hits {percent(real[best])}"
    elif real[best] - real[worst] < SAME:
        text = f"{where} all hit alike, {percent(real[best])}"
    else:
        text = f"{where} {best} hits most, {percent(real[best])}, {worst} least, {percent(real[worst])}"
    return text + (f"; no policy can hit more than {percent(found[bound])}." if bound in found else ".")

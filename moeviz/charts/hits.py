"""How often what was needed was there.

over_time([("lru", run)], bound=replay(trace, Settings("belady"))).alt
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from moeviz.charts import style
from moeviz.charts.chart import Chart, kind_of
from moeviz.core.run import HIT, Run
from moeviz.core.trace import DECODE
from moeviz.numbers import metrics
from moeviz.words import percent

WINDOW = 16  # forward passes whose hits are counted together


def of_last_passes(run: Run, window: int = WINDOW) -> NDArray[np.float64]:
    """Hits / accesses of the last `window` forward passes, at each pass. [F]"""
    step = run.events.forward_pass[run.accesses.event]
    passes = len(run.passes.phase)
    hits = np.bincount(step, run.accesses.outcome == HIT, passes)
    needed = np.bincount(step, minlength=passes)
    summed = [np.concatenate([[0], column.cumsum()]) for column in (hits, needed)]
    first = np.maximum(np.arange(1, passes + 1) - window, 0)
    now, all_ = (column[1:] - column[first] for column in summed)
    return np.asarray(now / np.maximum(all_, 1))


def over_time(
    runs: Sequence[tuple[str, Run]],
    bound: Run | None = None,
    change: int | None = None,
    at: int | None = None,
) -> Chart:
    """The hit ratio of the last 16 forward passes, a line for each named run, and in grey the bound that no
    policy beats.

    `change` is the pass at which the text changes its subject, `at` the pass under the cursor.
    """
    import pandas as pd

    lines = [(name, of_last_passes(run)) for name, run in runs]
    figure = style.blank(
        f"{style.passes_axis(runs[0][1])}; hits of the last {WINDOW} passes", "hits / accesses", 260
    )
    if bound is not None:
        lines.append(("no bound" if bound.room.bytes else "the bound", of_last_passes(bound)))
    for number, (name, ratio) in enumerate(lines):
        is_bound = bound is not None and number == len(lines) - 1
        look = {"color": style.BOUND, "width": 2} if is_bound else style.line(number)
        label = f"{name}: belady, which knows the future" if is_bound else style.html_safe(name)
        figure.add_scatter(y=ratio, name=label, mode="lines", line=look)
    style.share_axis(figure, [float(value) for _, ratio in lines for value in ratio[WINDOW // 2 :]] or [1.0])
    if change is not None:
        note = {"annotation_text": "the subject changes", "annotation_position": "bottom left"}
        figure.add_vline(change, line={"color": style.BOUND, "width": 2, "dash": "dot"}, **note)
    if at is not None:
        figure.add_vline(at, line={"color": style.CURSOR, "width": 2})
    table = pd.DataFrame({"forward pass": range(len(lines[0][1])), **dict(lines)})
    kind = kind_of(runs[0][1]) if all(run.measured for _, run in runs) else "replayed"
    told = "; ".join(f"{name}: {_told(run, change)}" for name, run in runs)
    return Chart("Hit ratio as the text goes on", figure, table, kind, f"Hits of accesses, {told}.")


def _told(run: Run, change: int | None) -> str:
    if change is None:
        return percent(ratio_of(run))
    before, after = (ratio_of(run, *span) for span in ((0, change), (change, len(run.passes.phase))))
    return f"{percent(before)} before the subject changes, {percent(after)} after it"


def ratio_of(run: Run, first: int = 0, last: int | None = None) -> float:
    """Hits / accesses of the decode passes from `first` to before `last`; of all of them where nothing was
    decoded; 0 without any.
    """
    step = run.events.forward_pass[run.accesses.event]
    chosen = (step >= first) & (step < (len(run.passes.phase) if last is None else last))
    decode = chosen & (run.passes.phase[step] == DECODE)
    own = run.accesses.outcome[decode if decode.any() else chosen]
    return float((own == HIT).mean()) if own.size else 0.0


def compared(named: Sequence[tuple[str, Run]]) -> Chart:
    """Hits / accesses of decode, a bar for each named run."""
    import pandas as pd

    labels = [name for name, _ in named]
    ratios = [ratio_of(run) for _, run in named]
    figure = style.blank("hits / accesses", "")
    figure.add_bar(
        y=[style.html_safe(label) for label in labels],
        x=ratios,
        orientation="h",
        marker_color=style.SERIES[2],
        text=[percent(ratio) for ratio in ratios],
        textposition="auto",
        showlegend=False,
    )
    figure.update_xaxes(range=[0, 1.02], tickformat=".0%")
    style.rows(figure, len(labels))
    best = int(np.argmax(ratios))
    counted = [metrics.counts(run, DECODE) for _, run in named]
    table = pd.DataFrame(
        {
            "settings": labels,
            "hit ratio": ratios,
            "hits": [one.hits for one in counted],
            "accesses": [one.accesses for one in counted],
        }
    )
    alt = f"{labels[best]} hits most: {percent(ratios[best])} of accesses while tokens are generated."
    return Chart("Hit ratio", figure, table, kind_of(named[0][1]), alt)

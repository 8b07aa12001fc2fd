"""What went over the link: on demand, and for guesses that were used or not.

crossed(replay(trace, Settings(prefetch="next-gate"))).alt
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import astuple, replace

from moeviz.charts import style
from moeviz.charts.chart import Chart, kind_of
from moeviz.core.run import Run
from moeviz.numbers import metrics
from moeviz.words import label, many, mean, percent, size

USEFUL_IN_TIME = "#009E73"


def experts_moved(run: Run) -> metrics.Moved:
    """What went over the link, counted in experts: a trace need not say how large they are."""
    return metrics.bytes_moved(replace(run, expert_bytes=1, link_bytes=0))


def crossed(run: Run, without: Run | None = None) -> Chart:
    """What a run moved, and beside it what the same settings move `without` pre-fetching: in MB, or in
    experts of unknown size.
    """
    named = [("with pre-fetching" if without else label(run.settings), run)]
    return _bars(
        "What went over the link", named + ([("without it", without)] if without else []), per_token=False
    )


def ledger(run: Run) -> Chart:
    """What became of the guesses: of those that were copied the useful and the wasted ones, and those that
    found no slot.
    """
    import pandas as pd

    books = metrics.ledger(run)
    late = books.late or 0
    counts = {
        "useful: needed in time": (USEFUL_IN_TIME, "", books.useful - late),
        "useful, but late": (style.SERIES[1], "/", late),
        "wasted: nobody asked": (style.WASTED, "x", books.wasted),
        "dropped: no slot was free": (style.OTHER, ".", books.dropped),
    }
    shown = {name: one for name, one in counts.items() if one[2] or name.startswith("useful: ")}
    parts = {name: (color, pattern, [float(count)]) for name, (color, pattern, count) in shown.items()}
    figure = style.stacked("guesses", [run.settings.prefetch], parts)
    table = pd.DataFrame({"what": list(counts), "guesses": [count for _, _, count in counts.values()]})
    alt = "Every expert that was guessed was resident already, so nothing was copied."
    if books.issued:
        alt = (
            f"Of {many(books.issued, 'guessed copy')} {books.useful:,} "
            f"{'was' if books.useful == 1 else 'were'} useful "
            f"({percent(books.useful / books.issued)})"
            + ("" if books.late is None else f", of which {late:,} came late,")
            + f" and {books.wasted:,} wasted"
            + (f"; {many(books.dropped, 'more guess')} found no slot" if books.dropped else "")
            + ". Guesses of experts that were there already copied nothing and are not counted."
        )
    return Chart("What became of the guesses", figure, table, kind_of(run), alt)


def per_token(named: Sequence[tuple[str, Run]]) -> Chart:
    """What each named run moved per output token, in MB, or in experts of unknown size."""
    return _bars("What went over the link per token", named, per_token=True)


def _bars(title: str, named: Sequence[tuple[str, Run]], per_token: bool) -> Chart:
    import pandas as pd

    known = all(run.mean_bytes for _, run in named)
    unit = "MB" if known else "experts"
    labels = [name for name, _ in named]
    tokens = [max(int(run.passes.phase.sum()), 1) if per_token else 1 for _, run in named]
    counted = [astuple(experts_moved(run)) for _, run in named]
    moved = [
        [value / 1e6 / n for value in astuple(metrics.bytes_moved(run))]
        if known
        else [value / n for value in experts]
        for (_, run), experts, n in zip(named, counted, tokens, strict=True)
    ]
    looks = (
        ("on demand", style.DEMAND, ""),
        ("guess, used", style.USEFUL, "/"),
        ("guess, wasted", style.WASTED, "x"),
    )
    parts = {
        name: (color, pattern, [row[n] for row in moved])
        for n, (name, color, pattern) in enumerate(looks)
        if n == 0 or any(row[n] for row in moved)
    }
    axis = f"{unit} per output token, prompt included" if per_token else f"{unit}, prompt included"
    figure = style.stacked(axis, labels, parts)
    table = pd.DataFrame(
        [
            {
                "settings": label,
                "what": looks[n][0],
                "experts": counted[row][n],
                axis.partition(",")[0] if known else "MB": moved[row][n] if known else None,
            }
            for row, label in enumerate(labels)
            for n in range(len(looks))
        ]
    )
    sums = [sum(row) for row in moved]
    least = sums.index(min(sums))
    if len(labels) == 2 and not per_token:
        first, second = (size(total * 1e6) if known else many(round(total), "expert") for total in sums)
        alt = f"Pre-fetching moves {first}; without it {second} would have moved."
    else:
        amount = size(sums[least] * 1e6) if known else mean(sums[least], "expert")
        alt = f"{labels[least]} moves least: {amount}{' per token' if per_token else ''}."
    return Chart(title, figure, table, kind_of(named[0][1]), alt)

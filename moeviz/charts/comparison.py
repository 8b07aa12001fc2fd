"""A measured comparison of several Settings, as charts and as one table.

charts([("lru", [run, run, run]), ("lfu", [run, run, run])])
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from moeviz.charts import hits, times, traffic
from moeviz.charts.chart import Chart
from moeviz.numbers import medians

if TYPE_CHECKING:
    import pandas as pd


def charts(measured: times.Measured, kind: str = "measured") -> list[Chart]:
    """Speed, where the time goes, hits, and what went over the link: of repeats that decoded something; else
    none.
    """
    timed = [(name, runs) for name, runs in measured if medians.median_stack(runs) is not None]
    if not timed:
        return []
    firsts = [(name, runs[0]) for name, runs in timed]
    return [
        times.speed(timed, kind),
        times.where_time_goes(timed, kind),
        hits.compared(firsts),
        traffic.per_token(firsts),
    ]


HEADS = {  # of the table's columns, where it has to fit beside a page's margins
    "tokens/s, mean": "tokens/s",
    "tokens/s, least": "least",
    "tokens/s, most": "most",
    "stall ms/token": "stall ms",
    "TPOT ms, median": "TPOT ms",
    "TPOT ms, p95": "TPOT p95",
    "MB guessed, useful": "MB useful",
    "MB guessed, wasted": "MB wasted",
    "fast tier MiB": "MiB held",
}
GUESSED = ["MB guessed, useful", "MB guessed, wasted"]


def table(measured: times.Measured) -> pd.DataFrame:
    """One row for each named Settings: medians over its repeats.

    tokens/s is of the mean token of a run and TPOT of the median one, so that 1,000 / TPOT is another number.
    """
    import pandas as pd

    rows = [medians.repeated(runs) for _, runs in measured]
    times_of = [row.median.times for row in rows]
    return pd.DataFrame(
        {
            "settings": [name for name, _ in measured],
            "tokens/s, mean": [one and one.tokens_per_second for one in times_of],
            "tokens/s, least": [row.least and row.least.tokens_per_second for row in rows],
            "tokens/s, most": [row.most and row.most.tokens_per_second for row in rows],
            "hit ratio": [row.median.main.hit_ratio for row in rows],
            "stall ms/token": [one and one.stall_ms_per_token for one in times_of],
            "TTFT ms": [one and one.ttft_ms for one in times_of],
            "TPOT ms, median": [one and one.tpot_ms_median for one in times_of],
            "TPOT ms, p95": [one and one.tpot_ms_p95 for one in times_of],
            "MB on demand": [row.median.moved.demand / 1e6 for row in rows],
            "MB guessed, useful": [row.median.moved.prefetch_useful / 1e6 for row in rows],
            "MB guessed, wasted": [row.median.moved.prefetch_wasted / 1e6 for row in rows],
            "fast tier MiB": [row.median.fast_tier_bytes / 2**20 for row in rows],
        }
    )

"""A measured comparison of several Settings, as charts and as one table.

charts([("lru", [run, run, run]), ("lfu", [run, run, run])])
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from moeviz.charts import hits, times, traffic
from moeviz.charts.chart import Chart
from moeviz.numbers import metrics

if TYPE_CHECKING:
    import pandas as pd


def charts(measured: times.Measured, kind: str = "measured") -> list[Chart]:
    """Speed, where the time goes, hits, and what went over the link: of repeats that decoded something; else none."""
    timed = [(name, runs) for name, runs in measured if metrics.median_stack(runs) is not None]
    if not timed:
        return []
    firsts = [(name, runs[0]) for name, runs in timed]
    return [
        times.speed(timed, kind),
        times.where_time_goes(timed, kind),
        hits.compared(firsts),
        traffic.per_token(firsts),
    ]


def table(measured: times.Measured) -> pd.DataFrame:
    """One row for each named Settings: medians over its repeats."""
    import pandas as pd

    rows = [(name, metrics.repeated(runs)) for name, runs in measured]
    return pd.DataFrame(
        {
            "settings": [name for name, _ in rows],
            "tokens/s": [row["tokens_per_second"] for _, row in rows],
            "least": [(row["spread"]["tokens_per_second"] or [None])[0] for _, row in rows],
            "most": [(row["spread"]["tokens_per_second"] or [None])[-1] for _, row in rows],
            "hit ratio": [row["decode"]["hit_ratio"] for _, row in rows],
            "stall ms/token": [row["stall_ms_per_token"] for _, row in rows],
            "TTFT ms": [row["ttft_ms"] for _, row in rows],
            "TPOT ms": [row["tpot_ms_median"] for _, row in rows],
            "TPOT p95 ms": [row["tpot_ms_p95"] for _, row in rows],
            "MB on demand": [row["bytes_demand"] / 1e6 for _, row in rows],
            "MB guessed, useful": [row["bytes_prefetch_useful"] / 1e6 for _, row in rows],
            "MB guessed, wasted": [row["bytes_prefetch_wasted"] / 1e6 for _, row in rows],
            "fast tier MB": [row["fast_tier_bytes"] / 1e6 for _, row in rows],
        }
    )

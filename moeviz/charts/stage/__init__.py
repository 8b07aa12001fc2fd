"""The stage: one trace under one or two settings, played in a browser. Knows no Streamlit."""

from moeviz.charts.stage.page import StagePage, stage, stage_html
from moeviz.charts.stage.payload import as_watched, is_timed, run_part, stage_payload
from moeviz.charts.stage.results import results_of
from moeviz.charts.stage.times import all_timed

__all__ = [
    "StagePage",
    "all_timed",
    "as_watched",
    "is_timed",
    "results_of",
    "run_part",
    "stage",
    "stage_html",
    "stage_payload",
]

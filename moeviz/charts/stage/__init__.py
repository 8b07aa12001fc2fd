"""The stage: one trace under one or two settings, played in a browser. Knows no Streamlit."""

from moeviz.charts.stage.page import StagePage, stage, stage_html
from moeviz.charts.stage.payload import run_part, stage_payload
from moeviz.charts.stage.results import results_of

__all__ = ["StagePage", "results_of", "run_part", "stage", "stage_html", "stage_payload"]

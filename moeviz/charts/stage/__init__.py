"""The stage: one trace under one or two settings, played in a browser. Knows no Streamlit."""

from moeviz.charts.stage.page import StagePage, stage, stage_html
from moeviz.charts.stage.payload import StageError, stage_payload

__all__ = ["StageError", "StagePage", "stage", "stage_html", "stage_payload"]

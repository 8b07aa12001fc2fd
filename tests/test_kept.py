"""What pages computed is found again by its content, and by nothing else."""

from __future__ import annotations

import json
from dataclasses import fields, replace

import pandas as pd
import plotly.graph_objects as go
import plotly.io
from conftest import random_trace

from moeviz.app import kept
from moeviz.charts import Chart
from moeviz.core.settings import Settings
from moeviz.numbers.cost import Costs


def test_settings_and_costs_that_differ_in_any_field_are_told_apart() -> None:
    for one in (Settings(), Costs(1.0, 2.0, 3.0, 4.0, 5.0)):
        (key,) = (make for kind, make in kept.BY_VALUE.items() if isinstance(one, kind))
        text = key(one)
        for field in fields(one):
            assert f"{field.name}={getattr(one, field.name)!r}" in text
    trace = random_trace(1)
    found = kept.replayed(trace, Settings(slots=3))
    assert kept.replayed(random_trace(1), Settings(slots=3)) is found
    assert kept.replayed(trace, Settings(slots=4)) is not found
    assert kept.replayed(replace(trace, weights=None), Settings(slots=3)) is not found


def test_the_bound_of_boards_with_other_slots_is_above_both() -> None:
    trace = random_trace(1)
    two = [Settings(slots=3), Settings(slots=5)]
    assert all(kept.bound(trace, two).hit_ratio >= kept.replayed(trace, one).hit_ratio for one in two)
    assert kept.bound(trace, two).settings.slots == 5


def test_a_figure_that_is_shown_is_copied_once_and_sent_as_it_is() -> None:
    def make() -> list[Chart]:
        figure = go.Figure(go.Scatter(y=[1.5, 2.5], name="<b>"))
        return [Chart("Two", figure, pd.DataFrame({"y": [1.5, 2.5]}), "recorded", "Two marks.")]

    (one,) = kept.drawn("two", (1,), "#123456", 1.5, make)
    assert one.figure.to_dict() is one.figure.to_dict()
    sent = json.loads(plotly.io.to_json(one.figure, validate=False))
    assert sent["data"] == json.loads(make()[0].figure.to_json())["data"]
    assert sent["layout"]["font"]["color"] == "#123456"
    assert sent["layout"]["legend"]["font"]["size"] == 21
    assert go.Figure(sent).layout.xaxis.automargin is False  # and Plotly takes it for a figure
    (again,) = kept.drawn("two", (1,), "#123456", 1.5, make)
    assert again.figure is one.figure

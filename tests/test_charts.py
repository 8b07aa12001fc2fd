"""Charts: what they draw is what they were given; colours never stand alone."""

from __future__ import annotations

from conftest import random_trace

from moeviz.charts import figures as charts
from moeviz.core.replay import replay
from moeviz.core.settings import Settings
from moeviz.numbers import metrics


def test_hit_ratio_over_time_has_a_dash_for_every_run() -> None:
    runs = [(policy, replay(random_trace(1), Settings(policy))) for policy in ("lru", "lfu")]
    figure = charts.hit_ratio_over_time(runs)
    assert [line.name for line in figure.data] == ["lru", "lfu"]
    assert len({line.line.dash for line in figure.data}) == 2
    assert figure.layout.xaxis.title.text
    assert figure.layout.yaxis.title.text


def test_speeds_span_least_to_most() -> None:
    figure = charts.speeds(["a", "b"], [10.0, 20.0], [(8.0, 11.0), (20.0, 25.0)])
    (bars,) = figure.data
    assert list(bars.x) == [10, 20]
    assert list(bars.error_x.array) == [1, 5]
    assert list(bars.error_x.arrayminus) == [2, 0]


def test_stacks_tell_their_parts_apart_without_colour() -> None:
    figure = charts.stacks(["a"], [metrics.Stack(1, 2, 3)])
    assert [bar.x[0] for bar in figure.data] == [1, 2, 3]
    assert len({bar.marker.pattern.shape for bar in figure.data}) == 3


def test_traffic_is_per_token() -> None:
    figure = charts.traffic(["a"], [metrics.Moved(4_000_000, 2_000_000, 0)], [2])
    assert [bar.x[0] for bar in figure.data] == [2, 1, 0]


def test_hit_ratios_are_labelled() -> None:
    figure = charts.hit_ratios(["a"], [0.5])
    assert figure.data[0].text[0] == "50.0%"

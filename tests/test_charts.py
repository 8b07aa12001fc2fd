"""Charts: what is drawn, the table behind it and the sentence about it are of the same numbers; colours never
stand alone.
"""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from conftest import odd_traces, random_trace

from moeviz.charts import (
    Chart,
    comparison,
    curves,
    domains,
    guesses,
    hits,
    lanes,
    residency,
    shares,
    style,
    times,
    traffic,
    usage,
)
from moeviz.charts.board import frames
from moeviz.charts.residency import EVICTED
from moeviz.core.replay import replay
from moeviz.core.run import MISS, Run
from moeviz.core.settings import Settings
from moeviz.core.synthetic import synthetic
from moeviz.core.trace import Trace
from moeviz.files import moetrace
from moeviz.numbers.cost import fit
from moeviz.numbers.curves import curve
from moeviz.numbers.routing import guess_quality
from moeviz.numbers.worth import break_even_precision

ROOT = Path(__file__).parent.parent
SAMPLES = ROOT / "sample_traces"


@pytest.fixture(scope="module")
def recorded() -> tuple[Trace, Run]:
    trace, run = moetrace.load(SAMPLES / "change-of-subject.moetrace")
    assert run is not None
    return trace, run


def texts(trace: Trace) -> list[str]:
    return ["".join(trace.texts[tokens]) for tokens in trace.passes()]


def of_trace(trace: Trace) -> list[Chart]:
    """Every chart that a trace alone, or a replay of it, can have."""
    run = replay(trace, Settings("lru", trace.num_experts // 2))
    last = len(trace.passes()) - 1
    found = {name: guess_quality(trace, name) for name in ("previous-token", "frequency")}
    made = [
        hits.over_time([("lru", run)], bound=run, change=last // 2, at=0),
        hits.compared([("lru", run)]),
        traffic.crossed(run, run),
        traffic.per_token([("lru", run)]),
        usage.now_and_so_far(trace, last),
        usage.whole(trace),
        shares.skew(trace),
        shares.reuse(trace),
        shares.coverage(trace),
        usage.together(trace, 0, 0),
        usage.one_expert(trace, 0, 1),
        *usage.two(trace, trace, ("one", "other")),
        residency.paper(run, frames(run), texts(trace), 0, last),
        residency.raster(run, texts(trace)),
        guesses.precision(found, trace, 0, (0.5, 0.6, 0.7)),
        guesses.by_layer("frequency", found["frequency"]),
        curves.over_slots([curve(trace, Settings("lru", trace.k))], trace.k, 0.4),
    ]
    return made + ([usage.together(trace, 0, 1)] if trace.layers > 1 else [])


@pytest.mark.parametrize("name", odd_traces())
def test_every_chart_of_every_kind_of_trace_has_its_axes_its_table_and_its_sentence(name: str) -> None:
    for chart in of_trace(odd_traces()[name]):
        assert chart.alt.endswith("."), chart.title
        assert "nan" not in chart.alt, chart.alt
        assert chart.figure.layout.xaxis.title.text, chart.title
        assert len(chart.table.columns) > 1 or not chart.figure.data, chart.title
        chart.figure.to_json()


def test_a_chart_of_an_unknown_kind_is_refused() -> None:
    good = shares.skew(random_trace(1))
    with pytest.raises(ValueError, match="guessed"):
        replace(good, kind="guessed")


def test_the_hit_ratio_over_time_has_a_dash_a_line_and_a_bound(recorded: tuple[Trace, Run]) -> None:
    trace, _ = recorded
    lru, lfu, bound = (replay(trace, Settings(policy)) for policy in ("lru", "lfu", "belady"))
    chart = hits.over_time([("lru", lru), ("lfu", lfu)], bound, change=120)
    assert len({(line.line.color, line.line.dash) for line in chart.figure.data}) == 3
    assert chart.figure.data[2].line.color == style.BOUND
    assert chart.table["lru"].tolist() == list(chart.figure.data[0].y)
    first = lru.accesses.outcome[lru.events.forward_pass[lru.accesses.event] < 10] != MISS
    assert chart.table["lru"][9] == pytest.approx(first.mean())
    assert chart.figure.layout.yaxis.range[0] > 0.3  # the lower half of the axis would be empty


def test_the_sentence_tells_which_policy_minds_the_change_of_subject(recorded: tuple[Trace, Run]) -> None:
    trace, _ = recorded
    named = [(policy, replay(trace, Settings(policy))) for policy in ("lru", "lfu")]
    told = hits.over_time(named, change=120).alt
    before = [hits.ratio_of(run, 0, 120) for _, run in named]
    after = [hits.ratio_of(run, 120) for _, run in named]
    assert before[1] > before[0]
    assert after[0] > after[1]
    assert f"lfu: {before[1]:.1%} before the subject changes, {after[1]:.1%} after it" in told


def test_speed_spans_least_to_most_and_says_whether_repeats_overlap(recorded: tuple[Trace, Run]) -> None:
    _, run = recorded
    assert run.times is not None
    slow = replace(run, times=replace(run.times, pass_wall=run.times.pass_wall * 2))
    middle = replace(run, times=replace(run.times, pass_wall=run.times.pass_wall * 3 // 2))
    chart = times.speed([("a", [run, middle, slow]), ("b", [slow, slow, slow])])
    *_, whiskers = chart.figure.data
    fast = run.tokens_per_second
    assert fast is not None
    assert whiskers.x[0] + whiskers.error_x.array[0] == pytest.approx(fast)
    assert chart.table["least"].tolist() == pytest.approx([fast / 2, fast / 2])
    assert chart.alt.endswith("their repeats overlap, so that neither is called faster.")
    assert "fastest" not in chart.alt
    spent = times.where_time_goes([("a", [run, middle, slow]), ("b", [slow, slow, slow])])
    assert spent.alt.endswith("others' repeats overlap with its own.")
    assert "needs least" in times.where_time_goes([("a", [run]), ("b", [slow])]).alt
    assert times.speed([("a", [run]), ("b", [slow])]).alt.endswith("their repeats do not overlap.")


def test_parts_of_the_time_are_told_apart_without_colour_and_add_up(recorded: tuple[Trace, Run]) -> None:
    trace, run = recorded
    chart = times.where_time_goes([("own", [run])])
    assert len({bar.marker.pattern.shape for bar in chart.figure.data}) == 3
    assert sum(bar.x[0] for bar in chart.figure.data) == pytest.approx(chart.table["ms per token"][0])
    speed = run.tokens_per_second
    assert speed is not None
    assert chart.table["ms per token"][0] == pytest.approx(1e3 / speed)
    borrowed = times.modelled([("lru", replay(trace, Settings()))], fit(run), "the bundled model")
    assert "the bundled model" in borrowed.title
    assert borrowed.kind == "modelled"


def test_a_comparison_has_four_charts_and_one_row_for_each_settings(recorded: tuple[Trace, Run]) -> None:
    _, run = recorded
    measured = [("a", [run, run]), ("b", [run, run])]
    assert [chart.kind for chart in comparison.charts(measured, "paced")][:2] == ["paced", "paced"]
    assert len(comparison.charts(measured)) == 4
    table = comparison.table(measured)
    assert table["settings"].tolist() == ["a", "b"]
    assert {*comparison.HEADS, *comparison.GUESSED} <= set(table.columns)
    assert comparison.charts([("a", [replace(run, times=None)])]) == []


def test_traffic_is_counted_in_experts_where_their_size_is_unknown() -> None:
    trace = replace(random_trace(3), expert_bytes=0)
    run = replay(trace, Settings(slots=3, prefetch="next-gate"))
    without = replay(trace, Settings(slots=3))
    chart = traffic.crossed(run, without)
    assert "experts" in chart.figure.layout.xaxis.title.text
    assert chart.table["experts"].sum() == len(run.loads.event) + len(without.loads.event)
    assert chart.table["MB"].isna().all()
    known = traffic.crossed(replace(run, expert_bytes=4_000_000))
    assert known.table["MB"].sum() == pytest.approx(4.0 * len(run.loads.event))


def test_now_stands_on_so_far() -> None:
    trace = random_trace(4)
    chart = usage.now_and_so_far(trace, 3)
    marks = chart.figure.data[1]
    now = {(int(x), int(y)) for x, y in zip(marks.x, marks.y, strict=True)}
    assert all(one.meta == {"pass": 3} for one in chart.figure.data)  # where a click opens the stage
    step = trace.passes()[3]
    assert now == {
        (layer, int(e)) for layer in range(trace.layers) for e in trace.experts[step, layer].ravel()
    }
    assert chart.table["so far, tokens"].sum() == trace.experts[: step.stop].size


def test_nobody_is_chosen_together_with_itself() -> None:
    chart = usage.together(random_trace(5), 1, 1)
    assert np.isnan(np.diag(np.asarray(chart.figure.data[0].z, float))).all()
    assert (chart.table.iloc[:, 0] != chart.table.iloc[:, 1]).all()


def test_domains_name_every_expert_and_tell_what_the_text_is_about(recorded: tuple[Trace, Run]) -> None:
    trace, _ = recorded
    assert domains.known(trace)
    assert not domains.known(random_trace(1))
    chart = domains.favourites()
    named = sum((np.asarray(one.text) != "").sum() for one in chart.figure.data)
    assert named == trace.layers * trace.num_experts
    assert set(chart.table["favours"]) <= set(chart.table.columns)
    assert "those that German uses" in domains.nearest(trace, 60).alt
    assert "those that Python uses" in domains.nearest(trace, 200).alt


def test_the_raster_shows_misses_evictions_and_takes_clicks_on_misses(recorded: tuple[Trace, Run]) -> None:
    trace, _ = recorded
    run = replay(trace, Settings())
    chart = residency.raster(run, texts(trace))
    cells, places, marks = chart.figure.data
    assert len(places.x) == len(trace.passes()) * trace.layers  # the pointer finds one, wherever it is
    assert chart.figure.layout.hoverdistance == -1
    assert cells.hoverinfo == "skip"
    assert (
        (np.asarray(cells.z) == residency.MISS).sum() == (run.accesses.outcome == MISS).sum() == len(marks.x)
    )
    assert (np.asarray(cells.z) == EVICTED).any()
    step, layer, expert = marks.customdata[7]
    assert np.asarray(cells.z)[layer * run.experts + expert, step] == residency.MISS
    assert len(chart.table) == len(marks.x)


def test_the_raster_marks_the_layer_that_is_told_of(recorded: tuple[Trace, Run]) -> None:
    trace, _ = recorded
    run = replay(trace, Settings())
    drawn = residency.raster(run, texts(trace), at=60, chosen=2).figure.layout.shapes
    framed = [(one.y0, one.y1) for one in drawn if one.type == "rect" and one.yref == "y"]
    assert framed == [(2 * run.experts - 0.5, 3 * run.experts - 0.5)]
    pooled = synthetic(64)
    many = residency.raster(
        replay(pooled, Settings(slots=8)), texts(pooled), at=5, chosen=2
    ).figure.layout.shapes
    assert [(one.y0, one.y1) for one in many if one.type == "rect" and one.yref == "y"] == [(1.5, 2.5)]


def test_the_figure_of_a_layer_marks_who_leaves(recorded: tuple[Trace, Run]) -> None:
    trace, _ = recorded
    run = replay(trace, Settings("lfu", 4))
    gone = run.departures
    step = run.events.forward_pass[run.loads.event[gone.load]]
    chart = residency.paper(run, frames(run), texts(trace), 3, 100)
    cells = chart.figure.data[0]
    marked = {(int(x) + cells.x0, int(y)) for y, x in np.argwhere(np.asarray(cells.z) == EVICTED)}
    left = {(int(n), int(e)) for n, layer, e in zip(step, gone.layer, gone.expert, strict=True) if layer == 3}
    assert marked
    assert marked <= left
    assert (chart.table["state"] == "leaves in this pass").sum() == len(marked)
    assert residency.LEAVES in residency.legend_of_layer(run)
    assert residency.LEAVES not in residency.legend_of_layer(run, paper_colors=True)


def test_the_least_time_is_said_to_be_of_what_can_be_had(recorded: tuple[Trace, Run]) -> None:
    """The bound and all experts in memory need less than any cache, and the bars beside it show it."""
    trace, run = recorded
    named = [(name, replay(trace, Settings(name, 4))) for name in ("lru", "lfu", "belady")]
    assert times.modelled(named, fit(run), "its own run").alt.startswith(
        "Of the caches that know no future, l"
    )
    assert times.modelled(named[:2], fit(run), "its own run").alt.startswith("l")


def test_a_model_of_many_experts_is_pooled_by_layer() -> None:
    trace = synthetic(64)
    assert trace.layers * trace.num_experts > residency.MOST_ROWS
    run = replay(trace, Settings(slots=8))
    chart = residency.raster(run, texts(trace))
    assert np.asarray(chart.figure.data[0].z).shape == (trace.layers, 64)
    assert np.asarray(chart.figure.data[0].z).sum() == (run.accesses.outcome == MISS).sum()


def test_the_papers_figure_is_around_the_cursor(recorded: tuple[Trace, Run]) -> None:
    trace, run = recorded
    chart = residency.paper(run, frames(run), texts(trace), 3, 100)
    assert chart.table["pass"].min() == 80
    assert chart.table["pass"].max() == 120
    assert chart.kind == "measured"


def test_where_experts_are_many_the_papers_cells_say_their_state_by_themselves() -> None:
    trace = synthetic(60, 2, 128, 4)
    run = replay(trace, Settings(slots=8))
    (cells,) = residency.paper(
        run, frames(run), [""] * 60, 0, 30
    ).figure.data  # so many that no place is there
    assert cells.hoverinfo is None
    assert "expert %{y}: %{customdata}" in cells.hovertemplate
    assert (np.asarray(cells.customdata) == "miss").sum() == (np.asarray(cells.z) == residency.MISS).sum() > 0


def test_a_text_without_words_has_the_numbers_of_its_passes_on_the_axis() -> None:
    run = replay(random_trace(3), Settings(slots=3))
    passes = len(run.passes.phase)
    worded, bare = (
        residency.paper(run, residency.frames(run), [one] * passes, 0, 5).figure for one in ("x", "")
    )
    assert worded.layout.xaxis.ticktext[0] == "x"
    assert bare.layout.xaxis.ticktext is None
    assert bare.layout.xaxis.title.text == "token (0: the prompt)"


def test_an_axis_of_passes_says_which_of_them_read_the_prompt() -> None:
    names = []
    for prompt in (0, 5):
        run = replay(random_trace(3, prompt=prompt), Settings(slots=3))
        axis = residency.raster(run, [""] * len(run.passes.phase)).figure.layout.xaxis.title.text
        names.append((axis, hits.over_time([("lru", run)]).figure.layout.xaxis.title.text))
    assert names[0] == ("token", "token; hits of the last 16 passes")
    assert names[1][0] == "token (0: the prompt)"
    assert names[1][1].startswith("token (0: the prompt); ")


def test_the_legend_of_the_raster_is_of_what_it_shows() -> None:
    few, many = (replay(random_trace(3, experts=count), Settings(slots=3)) for count in (8, 200))
    assert "leaves in this pass" in residency.legend(few)
    assert "leaves in this pass" not in residency.legend(many)
    assert "● green" in residency.legend(few)
    assert "● green" in residency.legend_of_layer(few)
    long = replay(random_trace(3, tokens=400), Settings(slots=3))
    assert "Green: needed, there." in residency.legend(long)  # its cells are too small for signs
    assert "● green" in residency.legend_of_layer(long)
    assert "fetched ahead" not in residency.legend(few)
    guessing = replay(random_trace(3), Settings(slots=3, prefetch="frequency"))
    assert all("fetched ahead" in residency.legend_of_layer(guessing, paper) for paper in (False, True))
    scale = residency.raster(many, [""] * len(many.passes.phase)).figure.data[0].colorbar
    assert scale.dtick == int(scale.dtick) >= 1  # misses are whole


def test_recall_is_drawn_only_where_it_is_not_precision(recorded: tuple[Trace, Run]) -> None:
    trace, _ = recorded
    equal = guesses.precision({"next-gate": guess_quality(trace, "next-gate")}, trace, 0)
    wide = guesses.precision({"next-gate": guess_quality(trace, "next-gate", 4)}, trace, 4)
    assert not any("recall" in one.name for one in equal.figure.data)
    assert any("recall" in one.name for one in wide.figure.data)
    assert (wide.table["recall"] > wide.table["precision"]).all()


def test_a_guess_pays_from_a_lower_precision_on_a_faster_link(recorded: tuple[Trace, Run]) -> None:
    costs = fit(recorded[1])
    slow, fast = (replace(costs, copy=copy) for copy in (10 * costs.copy, 0.1 * costs.copy))
    assert break_even_precision(slow, 8, 2, 1, 0.2) > break_even_precision(fast, 8, 2, 1, 0.2)
    assert 0 <= break_even_precision(fast, 8, 2, 1, 0.0) < 0.01
    assert break_even_precision(slow, 8, 2, 3, 0.2) < break_even_precision(slow, 8, 2, 1, 0.2)


def test_lanes_of_several_passes_follow_each_other(recorded: tuple[Trace, Run]) -> None:
    trace, run = recorded
    one, three = (lanes.over_passes(run, 60, count).table for count in (1, 3))
    assert three["to ms"].max() > 2 * one["to ms"].max()
    assert three["what"].isin([name for name, _, _ in lanes.LOOKS.values()]).all()
    modelled = lanes.over_passes(replay(trace, Settings(prefetch="next-gate")), 60, 2, fit(run))
    assert modelled.kind == "modelled"
    assert (modelled.table["to ms"] >= modelled.table["from ms"]).all()
    places = [place for mark in modelled.figure.data for place in mark.customdata]
    assert {step for step, _, _ in places} == {60, 61}  # where a click opens the stage
    assert sorted(layer for _, layer, _ in places) == sorted(modelled.table["MoE layer"])


def test_the_curve_marks_the_bound_and_says_who_hits_most(recorded: tuple[Trace, Run]) -> None:
    trace, _ = recorded
    found = [curve(trace, Settings(policy)) for policy in ("lru", "lfu", "belady")]
    chart = curves.over_slots(found, 4)
    assert chart.figure.data[2].line.color == style.BOUND
    assert chart.table.loc[chart.table["slots"] == 4, "lru"].item() == curves.at_slots(found[0], 4)
    assert chart.alt.startswith("In decode at 4 slots LRU hits most")
    slots, knee = chart.figure.layout.annotations  # at the top, each left of its line
    assert (slots.text, slots.xanchor, slots.yshift, knee.yshift) == ("4 slots", "right", 0, 0)
    slots, knee = curves.over_slots(found, int(knee.x)).figure.layout.annotations
    assert knee.yshift < slots.yshift  # of one place: below each other
    slots, _ = curves.over_slots(found, 2).figure.layout.annotations
    assert slots.xanchor == "left"  # away from the axis
    assert curves.over_slots(found[:2], trace.k).alt.startswith("In decode at 2 slots all hit alike, ")


def test_lru_and_lfu_keep_their_lines_whatever_is_drawn_beside_and_before_them(
    recorded: tuple[Trace, Run],
) -> None:
    trace, _ = recorded
    seen: dict[str, set[tuple[str, str, int]]] = {}
    for policies in (["lru", "lfu", "fifo"], ["lfu", "fifo", "lru"], ["fifo", "lfu", "belady"]):
        figure = curves.over_slots([curve(trace, Settings(one)) for one in policies], 4).figure
        drawn = [(one.line.color, one.line.dash, one.marker.symbol) for one in figure.data]
        assert len(set(drawn)) == len(policies)
        for policy, line in zip(policies, drawn, strict=True):
            seen.setdefault(policy, set()).add(line)
    assert all(len(lines) == 1 for lines in seen.values()), seen
    twice = [curve(trace, Settings("lfu", warm=warm)) for warm in ("cold", "first")]
    first, second = curves.over_slots(twice, 4).figure.data
    assert (first.line.color, first.marker.symbol) != (second.line.color, second.marker.symbol)


def test_where_nothing_hits_the_axis_stays_within_shares() -> None:
    short = random_trace(1, tokens=4, layers=1, k=1, prompt=1, lookaheads=0)
    once = replace(short, experts=np.arange(4, dtype=np.int16).reshape(4, 1, 1))
    chart = curves.over_slots([curve(once, Settings(policy, 1)) for policy in ("lru", "belady")], 2)
    low, high = chart.figure.layout.yaxis.range
    assert 0 <= low < high <= 1.03


@pytest.mark.parametrize("make", [hits.compared, traffic.per_token])
def test_a_name_from_a_file_cannot_become_markup(make: Callable[..., Chart]) -> None:
    run = replay(random_trace(1), Settings(slots=3))
    chart = make([("<a href='x'>lru</a>", run)])
    assert "<a" not in chart.figure.to_json().replace("\\u003c", "<")


def test_whiskers_are_seen_on_their_bar_and_beside_it_in_both_themes(recorded: tuple[Trace, Run]) -> None:
    bars, edge, core = times.speed([("a", [recorded[1]])]).figure.data
    assert edge.error_x.thickness > core.error_x.thickness  # which is drawn on it
    lines = [luminance(one.error_x.color) for one in (edge, core)]
    for ground in (bars.marker.color, "#FFFFFF", "#11161C"):  # the bar's, and those of the themes
        lit = luminance(ground)
        assert max((max(lit, one) + 0.05) / (min(lit, one) + 0.05) for one in lines) > 4.5


def luminance(color: str) -> float:
    """Of WCAG 2.2, from 0 to 1."""
    parts = [int(color[n : n + 2], 16) / 255 for n in (1, 3, 5)]
    red, green, blue = (p / 12.92 if p <= 0.04045 else ((p + 0.055) / 1.055) ** 2.4 for p in parts)
    return 0.2126 * red + 0.7152 * green + 0.0722 * blue


def test_presenters_text_is_larger() -> None:
    sent = shares.skew(random_trace(1)).figure.to_dict()
    before = sent["layout"]["xaxis"]["tickfont"]["size"]
    style.enlarge(sent, 1.6)
    assert sent["layout"]["xaxis"]["tickfont"]["size"] >= 1.5 * before


def test_charts_load_neither_plotly_nor_streamlit_before_they_draw() -> None:
    code = (
        "import sys\n"
        "from moeviz.charts import curves, domains, guesses, hits, lanes, residency, shares, times, traffic\n"
        "from moeviz.charts import usage\n"
        "assert not {'plotly', 'streamlit', 'torch'} & set(sys.modules)"
    )
    subprocess.run([sys.executable, "-c", code], check=True, cwd=ROOT)

"""The next plan says how far off the last one was."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import pytest
from conftest import random_trace
from test_metrics import timed
from test_plan import LINK, ODD, RAM, RAN, SIZE

from moeviz.core.replay import replay
from moeviz.core.settings import Settings
from moeviz.engine import plan as engine
from moeviz.engine import planned
from moeviz.numbers.plan import EVEN, Compute, plan


@pytest.fixture(autouse=True)
def data(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """What a test plans is kept in a folder of its own."""
    monkeypatch.setenv("MOEVIZ_DATA", str(tmp_path / "data"))
    return tmp_path / "data"


def test_the_next_plan_says_how_far_off_the_last_one_was(data: Path) -> None:
    trace = replace(random_trace(1), model="m", expert_bytes=4_000, link_bytes=1_000)
    measured = timed(replay(trace, Settings("lfu", 3)), wall=10_000_000)
    found = plan("m", SIZE, RAM, context=10, slots=[3], trace=trace, link=LINK, compute=Compute(1.0, "said"))
    assert planned.last("m") is None
    planned.remember(found)
    planned.remember(plan("m", SIZE, RAM, context=10, slots=[3]))  # without a trace: it takes nothing back
    planned.settle(trace, measured)
    ran = planned.last("m")
    assert ran is not None
    lfu = found.rows[0].expected[1]
    assert lfu.band is not None
    assert (ran.planned_hit_ratio, ran.planned_least) == (lfu.hit_ratio, lfu.band.least)
    assert ran.hit_ratio == lfu.hit_ratio  # decisions are exact
    assert ran.tokens_per_second == pytest.approx(100, rel=0.1)
    said = dict(engine.rows(found))
    assert said["Last run"].startswith("lfu with 3 slots a layer, each of ")
    assert said["  planned"].endswith(" tokens/s, compute 1.00 ms a token, over a link (0.001 GB/s, 1 ms)")
    assert " hit, 100 tokens/s, compute " in said["  measured"]
    assert [path.name for path in data.iterdir()] == ["plans.json"]


@pytest.mark.parametrize(
    ("speed", "verdict"),
    [(90.0, "10% below the plan"), (150.0, "within the plan"), (220.0, "10% above the plan")],
)
def test_a_verdict_is_against_the_nearest_end_of_the_band(speed: float, verdict: str) -> None:
    told = planned.off_by(planned.Ran(1_000, 4, "lru", 0.5, speed, 1.0, 0.5, 100.0, 200.0))
    assert told[-1][1].endswith(verdict)


def test_what_was_not_planned_is_not_compared(data: Path) -> None:
    trace = replace(random_trace(1), model="m")
    planned.settle(trace, timed(replay(trace, Settings("lfu", 3, scope="model"))))
    planned.settle(trace, replay(trace, Settings("lfu", 3)))  # not measured
    run = timed(replay(trace, Settings("lfu", 3)))
    planned.settle(trace, replace(run, passes=replace(run.passes, tokens=run.passes.tokens * 2)))  # two texts
    assert planned.last("m") is None
    planned.settle(trace, timed(replay(trace, Settings("lfu", 3))))
    ran = planned.last("m")
    assert ran is not None
    assert "nothing had been planned for it" in planned.off_by(ran)[-1][1]


def test_a_plan_without_a_trace_is_held_against_a_run_too_and_claims_no_speed_from_below() -> None:
    trace = replace(random_trace(1), model="m", expert_bytes=4_000, link_bytes=1_000)
    floor = Compute(0.001, "to read its weights once", at_least=True)
    planned.remember(plan("m", SIZE, RAM, context=10, slots=[3], link=LINK, compute=floor))
    planned.settle(trace, timed(replay(trace, Settings("lfu", 3)), wall=10_000_000))
    ran = planned.last("m")
    assert ran is not None
    assert (ran.planned_for, ran.planned_hit_ratio, ran.planned_least) == (EVEN, 3 / 8, None)
    expected, measured = (text for _, text in planned.off_by(ran)[1:])
    assert expected.startswith("37.5% hit by even routing, at most 133 tokens/s, compute at least 0.001 ms")
    assert measured.endswith("within the plan")


def test_a_folder_is_the_same_model_however_its_path_is_written(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "model").mkdir()
    monkeypatch.chdir(tmp_path)
    trace = replace(random_trace(1), model="model")
    planned.settle(trace, timed(replay(trace, Settings("lfu", 3))))
    assert planned.last(str(tmp_path / "model")) is not None


@pytest.mark.parametrize(
    "content",
    [
        "",
        "[]",
        '{"m": 3}',
        '{"m": {"ran": {"slots": 1}}}',
        "[" * 100_000,
        '{"m": {"expected": 3}}',
        '{"m": {"ran": [1]}}',
        *(json.dumps({"m": {"ran": {**RAN, **odd}}}) for odd in ODD),
    ],
)
def test_a_damaged_store_holds_nothing_and_is_written_anew(content: str, data: Path) -> None:
    data.mkdir()
    (data / "plans.json").write_text(content)
    assert planned.last("m") is None
    planned.remember(plan("m", SIZE, RAM, context=10))
    assert "m" in json.loads((data / "plans.json").read_text())

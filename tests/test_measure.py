"""Runs are recorded and measured in the memory that they take: nothing needs every expert there unless it is
asked for."""

from __future__ import annotations

import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from moeviz.core.settings import Settings
from moeviz.engine import exactness, measure, memory
from moeviz.engine.client import Job, ModelSpec
from moeviz.engine.loader import Loaded, load
from moeviz.engine.session import Options
from moeviz.engine.work import Worker
from moeviz.errors import ModelError

GREEDY = Options(max_new_tokens=6, temperature=0.0, stop_at_end=False)
PROMPT = "How many experts?"
TinyModel = Callable[[str], Path]


@pytest.fixture(scope="module")
def model(tiny_model: TinyModel) -> Loaded:
    return load(tiny_model("mixtral"), tier="host", device="cpu")


@pytest.fixture
def small(model: Loaded, monkeypatch: pytest.MonkeyPatch) -> None:
    """A machine on which the run's slots fit, and no more."""
    room = memory.slot_bytes(model.store.layout, model.k, Settings(slots=3)) * 1.2
    assert room < memory.slot_bytes(model.store.layout, model.k, measure.RESIDENT)
    monkeypatch.setattr(memory, "left", lambda device: int(room))


@pytest.mark.usefixtures("small")
def test_where_not_every_expert_fits_runs_that_know_the_future_go_on_and_the_rest_is_left_out(
    model: Loaded, monkeypatch: pytest.MonkeyPatch
) -> None:
    ran: list[Settings] = []
    generate = measure.generate
    monkeypatch.setattr(measure, "generate", lambda *args: (ran.append(args[2]), generate(*args))[1])
    asked = [Settings("belady", 3), measure.RESIDENT, Settings("lfu", 2, prefetch="oracle")]
    kept, left_out = measure.fitting(model, asked)
    assert kept == [asked[0], asked[2]]
    assert len(left_out) == 1
    assert "'resident' is left out: it needs" in left_out[0]
    steps = list(measure.compare(model, PROMPT, kept, 1, GREEDY))
    assert {step[3].output_ids for step in steps} == {steps[0][3].output_ids}
    assert measure.look_ahead(model, PROMPT, asked[0], GREEDY) is not None
    most = memory.slot_bytes(model.store.layout, model.k, asked[0])
    assert all(memory.slot_bytes(model.store.layout, model.k, one) <= most for one in ran)
    assert exactness.not_verifiable(model).startswith("not verified: ")
    assert "KiB of memory on cpu" in exactness.not_verifiable(model)


def test_what_is_stopped_before_its_first_pass_has_no_recording(model: Loaded) -> None:
    belady = Settings("belady", 3)
    assert list(measure.compare(model, PROMPT, [belady], 1, GREEDY, lambda: True)) == []
    assert measure.look_ahead(model, PROMPT, belady, GREEDY, lambda: True) is None


@pytest.mark.parametrize("kind", ["watch", "compare"])
def test_a_job_that_is_stopped_when_its_model_is_ready_ends_as_stopped(
    kind: str, tiny_model: TinyModel, monkeypatch: pytest.MonkeyPatch
) -> None:
    stop, said = threading.Event(), list[dict[str, Any]]()
    fitting = measure.fitting
    monkeypatch.setattr(measure, "fitting", lambda *given: (stop.set(), fitting(*given))[1])
    model = ModelSpec(str(tiny_model("mixtral")), tier="host", device="cpu")
    Worker(said.append, stop).do(Job(kind, PROMPT, [Settings("belady", 3)], model).to_json())
    assert [one for one in said if one["event"] not in ("loading", "loaded")] == [
        {"event": "end", "stopped": True}
    ]


@pytest.mark.usefixtures("small")
def test_slots_that_do_not_fit_are_one_message(model: Loaded) -> None:
    with pytest.raises(ModelError, match=r"lru, 7 slots: it needs .* of memory on cpu.* Choose fewer slots"):
        measure.fitting(model, [Settings(slots=7)])


def test_only_baselines_are_recorded_in_the_least_memory() -> None:
    assert measure.recording_settings([measure.RESIDENT]).baseline == "on-demand"
    assert measure.recording_settings([measure.RESIDENT, Settings("belady", 5, scope="model")]) == Settings(
        slots=5, scope="model"
    )

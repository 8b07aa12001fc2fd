"""The worker process from the app's side: jobs in turn, stop, kill, errors as one message."""

from __future__ import annotations

import os
import signal
import sys
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, TypeVar

import pytest

from moeviz.core.predictors import load_predictor
from moeviz.core.replay import replay
from moeviz.core.settings import Settings
from moeviz.engine.cachefolder import read_seal
from moeviz.engine.client import Client, Job, ModelSpec


@pytest.fixture(scope="module")
def client() -> Iterator[Client]:
    client = Client()
    yield client
    client.kill()


_Job = TypeVar("_Job", bound=Job)


def finish(job: _Job) -> _Job:
    """Waits for the job's own signal that it is over."""
    assert job.over.wait(timeout=600)
    return job


def watch(prompt: str = "And it", settings: Settings = Settings(), **fields: object) -> Job:  # noqa: B008
    return Job(
        "watch",
        prompt,
        [settings],
        max_new_tokens=int(str(fields.pop("tokens", 6))),
        stop_at_end=False,
        **fields,
    )  # type: ignore[arg-type]


def test_a_watched_run_arrives_pass_by_pass(client: Client) -> None:
    job = client.submit(watch(settings=Settings("lfu", 3, prefetch="next-gate")))
    assert job.begun.wait(timeout=600)
    assert job.passes
    finish(job)
    assert job.state == "done"
    assert len(job.passes) == 6
    captured = job.recording()
    assert captured is not None
    trace, run = captured
    assert replay(trace, run.settings).same_decisions(run)
    assert run.measured


def test_a_predictor_of_one_s_own_guesses_in_the_worker(client: Client, same_again: str) -> None:
    wanted = Settings(slots=4, prefetch=load_predictor(same_again))
    job = finish(client.submit(watch(settings=wanted)))
    assert job.state == "done"
    captured = job.recording()
    assert captured is not None
    trace, run = captured
    assert run.settings.prefetch == same_again
    assert run.loads.speculative.any()
    assert replay(trace, wanted).same_decisions(run)


def test_a_run_that_must_know_the_future_records_it_first(client: Client) -> None:
    job = finish(client.submit(watch(settings=Settings("belady", 3, prefetch="oracle"))))
    assert (job.state, len(job.passes)) == ("done", 6)


def test_a_comparison_brings_its_trace_and_every_run(client: Client) -> None:
    job = Job(
        "compare",
        "And it",
        [Settings("lru", 3), Settings("belady", 3), Settings(baseline="resident")],
        max_new_tokens=4,
        repeats=2,
    )
    finish(client.submit(job))
    assert job.state == "done"
    assert job.trace is not None
    assert job.recorded is not None
    assert sorted(number for number, _ in job.runs) == [0, 0, 1, 1, 2, 2]
    for number, run in job.runs:
        assert run.output_ids == job.recorded.output_ids
        assert replay(job.trace, job.settings[number]).same_decisions(run)
    captured = job.recording()
    assert captured is not None
    assert any(captured[1] is run for number, run in job.runs if number == 0)  # not the recording run


@pytest.mark.parametrize(
    ("job", "words"),
    [
        (watch(" "), "prompt is empty"),
        (watch(tokens=99_999), "prompt is too long"),
        (watch(settings=Settings(slots=1)), "1 slot is too few"),
        (watch(settings=Settings("static")), "needs a calibration trace"),
        (watch(model=ModelSpec("no/such/model")), "There is no folder no/such/model"),
        (watch(model=ModelSpec(device="abacus")), "device 'abacus' is not available"),
    ],
)
def test_what_cannot_be_run_is_one_message(job: Job, words: str, client: Client) -> None:
    finish(client.submit(job))
    assert job.state == "failed"
    assert words in job.message
    assert "\n" not in job.message


def test_a_model_that_is_no_moe_is_one_message(tiny_model: Callable[[str], Path], client: Client) -> None:
    job = finish(client.submit(watch(model=ModelSpec(str(tiny_model("llama"))))))
    assert "not a mixture-of-experts model" in job.message


def test_a_worker_that_was_warmed_serves_the_first_job() -> None:
    fresh = Client()
    fresh.warm()
    pid = fresh.pid
    assert pid is not None
    assert finish(fresh.submit(watch(tokens=2))).state == "done"
    assert fresh.pid == pid
    fresh.kill()


def test_a_system_that_starts_no_process_is_one_message(monkeypatch: pytest.MonkeyPatch) -> None:
    from moeviz.engine import pipe

    def refuse(*_: object, **__: object) -> None:
        raise OSError(11, "Resource temporarily unavailable")

    monkeypatch.setattr(pipe.subprocess, "Popen", refuse)
    client = Client()
    client.warm()
    job = finish(client.submit(watch()))
    assert job.state == "failed"
    assert "cannot be started: Resource temporarily unavailable. Close something" in job.message


def test_jobs_wait_their_turn_and_stop(client: Client) -> None:
    first = client.submit(watch(tokens=1_500))
    second = client.submit(watch())
    third = client.submit(watch())
    assert client.place(third) == client.place(second) + 1
    client.stop(third)
    client.stop(first)
    assert finish(first).state == "stopped"
    assert len(first.passes) < 1_500
    assert finish(second).state == "done"
    assert finish(third).state == "stopped"
    assert third.recording() is None


def test_a_killed_worker_ends_the_run_with_a_message_keeps_what_came_and_is_replaced(client: Client) -> None:
    class Fatal(Job):
        def receive(self, message: dict[str, Any]) -> None:
            super().receive(message)
            if len(self.passes) == 3:
                client.kill()

    job = finish(
        client.submit(Fatal("watch", "And it", [Settings()], max_new_tokens=1_500, stop_at_end=False))
    )
    assert job.state == "failed"
    assert "worker process ended" in job.message
    assert len(job.passes) >= 3
    captured = job.recording()
    assert captured is not None
    assert replay(captured[0], Settings()).same_decisions(captured[1])
    assert finish(client.submit(watch())).state == "done"


class Prodding(Job):
    """Calls `prod` once, when the first pass has come; keeps every message that a page could have shown."""

    def __init__(self, *args: Any, **fields: Any) -> None:
        self.said: list[str] = []
        self.prod: Callable[[], None] = lambda: None
        super().__init__(*args, **fields)

    def __setattr__(self, name: str, value: object) -> None:
        super().__setattr__(name, value)
        if name == "message":
            self.said.append(str(value))

    def receive(self, message: dict[str, Any]) -> None:
        super().receive(message)
        if message["event"] == "pass" and len(self.passes) == 1:
            self.prod()


def endless() -> Prodding:
    return Prodding("watch", "And it", [Settings()], max_new_tokens=1_500, stop_at_end=False)


def halt(client: Client) -> None:
    """The worker hangs, as in a driver: it neither runs nor ends. It has just given a sign of life, so that
    none is on its way when it is no longer to be heard.
    """
    worker = client._worker
    assert worker is not None
    before = worker.heard
    while worker.heard == before:
        threading.Event().wait(0.005)
    os.kill(worker.process.pid, signal.SIGSTOP)


unix = pytest.mark.skipif(sys.platform == "win32", reason="no SIGSTOP")


@unix
def test_a_hung_worker_is_told_and_ended_and_the_queue_goes_on(
    client: Client, monkeypatch: pytest.MonkeyPatch
) -> None:
    from moeviz.engine import client as module

    finish(client.submit(watch()))  # it has started
    halt(client)
    prompt = "And it came to pass " * 50_000  # more than a pipe holds
    with monkeypatch.context() as patience:
        patience.setattr(module, "SILENCE", 2.0)
        patience.setattr(module, "PATIENCE", 3.0)
        job = finish(client.submit(Prodding("watch", prompt, [Settings()])))
    assert job.state == "failed"
    assert any("has given no sign of life" in said and "Stop ends it" in said for said in job.said)
    assert "gave no sign of life" in job.message
    assert finish(client.submit(watch())).state == "done"


@unix
def test_stop_ends_a_worker_that_does_not_react_and_the_queue_goes_on(client: Client) -> None:
    job = endless()
    job.prod = lambda: (halt(client), client.stop(job))[0]
    next_one = watch()
    client.submit(job)
    client.submit(next_one)
    assert finish(job).state == "stopped"
    assert "did not react to Stop" in job.message
    assert job.recording() is not None
    assert finish(next_one).state == "done"


@unix
def test_a_worker_that_fell_silent_between_jobs_is_replaced_by_the_next(client: Client) -> None:
    finish(client.submit(watch()))
    before = client.pid
    assert client._worker is not None
    halt(client)
    client._worker.heard -= 60.0
    assert finish(client.submit(watch())).state == "done"
    assert client.pid != before


def test_a_slow_tier_that_is_damaged_under_a_run_loses_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("MOEVIZ_CACHE", str(tmp_path))
    own = Client()

    def damage() -> None:
        (path,) = (tmp_path / "experts").glob("*.experts")
        seal = read_seal(path)
        assert seal is not None
        with open(path, "r+b") as file:
            file.write(bytes(len(seal.checksums) * int(seal.about["record_bytes"])))

    job = Prodding("watch", "And it", [Settings(slots=2)], max_new_tokens=200, stop_at_end=False)
    job.prod = damage
    finish(own.submit(job))
    assert job.state == "failed"
    assert "is damaged" in job.message
    assert "It has been deleted; run again" in job.message
    captured = job.recording()
    assert captured is not None
    assert len(captured[1].output_ids) == len(job.passes) > 0
    again = finish(own.submit(watch(settings=Settings(slots=2), tokens=len(job.passes))))
    own.kill()
    assert again.state == "done"
    text = [record.next_ids for record in again.passes]
    assert text == [record.next_ids for record in job.passes], "what was captured is what a sound tier gives"


def test_a_worker_that_is_killed_while_it_fills_the_slow_tier_leaves_nothing_half_written(
    tiny_model: Callable[[str], Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("MOEVIZ_CACHE", str(tmp_path))
    own = Client()

    class Fatal(Job):
        def receive(self, message: dict[str, Any]) -> None:
            super().receive(message)
            if "filling" in message.get("what", ""):
                own.kill()

    spec = ModelSpec(str(tiny_model("mixtral")), device="cpu")
    job = finish(own.submit(Fatal("watch", "x", [Settings()], spec, max_new_tokens=3)))
    assert job.state == "failed"
    assert "worker process ended" in job.message
    # what a kill at the worst moment would leave, whenever this one came
    (tmp_path / "experts" / f"{'0' * 24}.part").write_bytes(b"half")
    assert finish(own.submit(watch(model=spec))).state == "done"
    own.kill()
    left = {path.suffix for path in (tmp_path / "experts").iterdir()}
    assert left == {".experts", ".lock"}


@pytest.mark.skipif(sys.platform != "linux", reason="looks into /proc")
def test_the_worker_has_no_standard_input(client: Client) -> None:
    finish(client.submit(watch()))
    assert os.readlink(f"/proc/{client.pid}/fd/0") == os.devnull


def test_a_link_is_changed_without_loading_the_model_again(client: Client) -> None:
    first = finish(client.submit(watch(model=ModelSpec(tier="host", link="SD card"))))
    assert first.facts is not None
    assert first.facts.tier.pace is not None
    assert first.facts.tier.pace.name == "SD card"
    captured = first.recording()
    assert captured is not None
    assert captured[1].tier == first.facts.tier
    again = Prodding("watch", "x", [Settings()], ModelSpec(tier="host"), max_new_tokens=2)
    finish(client.submit(again))
    assert again.facts is not None
    assert again.facts.tier.pace is None
    assert not any("reading" in said or "filling" in said for said in again.said)
    refused = finish(client.submit(watch(model=ModelSpec(link="tape"))))
    assert "link 'tape' is not known" in refused.message


def test_a_comparison_is_held_against_transformers_own_model(client: Client) -> None:
    job = Job("compare", "And it", [Settings("lru", 3)], max_new_tokens=4, repeats=1)
    finish(client.submit(job))
    assert job.lossless is True
    assert job.notes == []


def test_a_job_is_stopped_while_its_model_is_loaded_and_leaves_nothing_half_written(
    client: Client, tiny_model: Callable[[str], Path]
) -> None:
    class Hasty(Job):
        def receive(self, message: dict[str, Any]) -> None:
            super().receive(message)
            if message["event"] == "loading":
                client.stop(self)

    spec = ModelSpec(str(tiny_model("olmoe")), device="cpu")
    job = finish(client.submit(Hasty("watch", "x", [Settings()], spec, max_new_tokens=3)))
    assert job.state == "stopped"
    assert job.recording() is None
    done = finish(client.submit(watch(model=spec)))
    assert done.state == "done", done.message
    left = {path.suffix for path in (Path(os.environ["MOEVIZ_CACHE"]) / "experts").iterdir()}
    assert left <= {".experts", ".lock"}

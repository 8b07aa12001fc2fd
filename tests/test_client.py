"""The worker process from the app's side: jobs in turn, stop, kill, errors as one message."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from moeviz.core.replay import replay
from moeviz.core.settings import Settings
from moeviz.engine.client import Client, Job, ModelSpec, Owner


@pytest.fixture(scope="module")
def client() -> Iterator[Client]:
    client = Client()
    yield client
    client.kill()


def finish(job: Job) -> Job:
    """Waits for the job's own signal that it is over."""
    assert job.over.wait(timeout=120)
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
    job = finish(client.submit(watch(settings=Settings("lfu", 3, prefetch="next-gate"))))
    assert job.state == "done"
    assert len(job.passes) == 6
    captured = job.recording()
    assert captured is not None
    trace, run = captured
    assert replay(trace, run.settings).same_decisions(run)
    assert run.measured


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
    assert job.resident is not None
    assert sorted(number for number, _ in job.runs) == [0, 0, 1, 1, 2, 2]
    for number, run in job.runs:
        assert run.output_ids == job.resident.output_ids
        assert replay(job.trace, job.settings[number]).same_decisions(run)


@pytest.mark.parametrize(
    ("job", "words"),
    [
        (watch(" "), "prompt is empty"),
        (watch(tokens=99_999), "prompt is too long"),
        (watch(settings=Settings(slots=1)), "1 slots are too few"),
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


@pytest.fixture
def _no_grace(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Client.stop_later, "__defaults__", (0.05,))


@pytest.mark.usefixtures("_no_grace")
def test_a_session_that_ends_frees_its_jobs_and_one_that_comes_back_keeps_them(client: Client) -> None:
    gone, back = Owner(client), Owner(client)
    first, second = client.submit(watch(tokens=1_500)), client.submit(watch(tokens=3))
    gone.hold([first])
    back.hold([second])
    back.leave()
    back.hold([second])  # its connection had broken
    gone.leave()
    assert finish(first).state == "stopped"
    assert finish(second).state == "done"


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

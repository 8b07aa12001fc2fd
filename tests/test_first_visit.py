"""What a first visitor is told: computed, and a reason only where it is the reason."""

from __future__ import annotations

from types import SimpleNamespace

import pytest
from test_pages import _one_worker, opened, payload, said, turned  # noqa: F401

from moeviz.app import first_visit
from moeviz.app.first_visit import outcome
from moeviz.core.replay import replay
from moeviz.core.settings import Settings
from moeviz.engine.client import Job
from moeviz.files import moetrace
from moeviz.numbers.subject import subject_changes

LRU, LFU = "LRU", "LFU (counts kept)"  # as on the boards


def told(said: str, sample: str, *policies: str) -> str:
    trace = moetrace.sample(sample)
    runs = [replay(trace, Settings(policy, 4)) for policy in policies]
    return outcome(said, trace, runs, subject_changes(trace))


def test_who_predicted_right_is_told_so_and_who_did_not_what_is() -> None:
    assert told(LRU, "change-of-subject", "lru", "lfu").startswith(
        "You said **LRU**, and so it is. In German LFU (counts kept) led by"
    )
    assert told(LFU, "change-of-subject", "lru", "lfu").startswith(
        "You said **LFU (counts kept)**; it is **LRU**. In German"
    )


def test_the_reason_is_left_out_where_the_numbers_do_not_say_it() -> None:
    assert told(LFU, "bible", "lru", "lfu") == "You said **LFU (counts kept)**, and so it is."
    assert "forgets" not in told(LFU, "change-of-subject", "lfu", "lru")


def test_only_who_opens_the_stage_without_a_link_is_led() -> None:
    app = opened("stage")
    assert "see in half a minute" in said(app)
    assert payload(app)["verdict"] == ""
    (link,) = [one.proto for one in app.get("page_link") if one.proto.label == "How it works"]
    assert link.query_string == "lesson=0"
    app.button(key="visit-2").click().run()
    assert "see in half a minute" not in said(app)
    assert "LRU hits" in payload(app)["verdict"]
    assert "see in half a minute" not in said(opened("stage", step="4"))
    assert "see in half a minute" not in said(turned(opened("library"), "stage"))


def test_the_lead_goes_on_after_the_lesson_that_it_leads_to() -> None:
    app = opened("stage")
    app.button(key="visit-1").click().run()
    back = turned(turned(app, "lessons"), "stage")
    assert "Which will more often" in said(back)
    turned(app, "lessons")
    app.query_params["step"] = "200"
    assert "Which will more often" not in said(turned(app, "stage"))  # a link that asks for something else
    app = turned(turned(opened("stage"), "library"), "stage")
    assert "see in half a minute" not in said(app)


def test_a_link_goes_on_with_a_visit_that_it_was_kept_by_and_with_no_other() -> None:
    assert "Which will more often" in said(opened("stage", visit="ask", step="40"))
    for other in ({"a": "policy=fifo"}, {"trace": "sample: bible"}):
        app = opened("stage", visit="ask", **other)
        assert "Which will more often" not in said(app)
        assert "visit" not in app.query_params
    app = opened("stage", visit="4")
    assert "The link says visit=4" in app.toast[0].value
    assert "visit" not in app.query_params


def test_the_lead_ends_with_a_way_to_the_measurement() -> None:
    app = opened("stage")
    for _ in range(3):  # show me, LRU, to the end
        app.button(key="visit-1").click().run()
    assert "You said **LRU**" in said(app)
    assert app.button(key="visit-2").label.startswith("2  Measure, about ")
    asked: list[Job] = []
    desk = app.session_state["desk"]
    desk.submit = lambda name, job: asked.append(job)
    app.button(key="visit-2").click().run()
    assert [one.policy for job in asked for one in job.settings] == ["lru", "lfu"]
    assert "You said **LRU**" not in said(app)
    assert payload(app)["title"]


def test_the_lead_ends_where_the_settings_are_no_longer_those_that_it_tells_of() -> None:
    app = opened("stage")
    app.button(key="visit-1").click().run()
    assert "Each cache holds 4 of 8 experts" in said(app)
    app.button_group(key="scope_both").set_value("model").run()
    assert not app.exception
    assert "Each cache holds" not in said(app)
    assert payload(app)["verdict"]


def test_why_explains_at_once_what_the_visit_has_told() -> None:
    app = opened("stage")
    for _ in range(3):  # show me, LRU, to the end
        app.button(key="visit-1").click().run()
    (link,) = [one.proto for one in app.get("page_link") if one.proto.label == "Why?"]
    assert link.query_string == "lesson=1"
    app.query_params["lesson"] = "1"
    app = turned(app, "lessons")
    assert "The answer: **LFU (counts kept) in the first half, LRU in the second**" in said(app)
    assert "counts go on protecting the experts of a subject that is over" in said(app)
    assert "progress" not in app.query_params  # nobody predicted
    app.button(key="again-1").click().run()  # who wants to predict can
    assert "The answer:" not in said(app)
    assert app.button(key="choice-1").label.startswith("1")


def test_a_tab_beside_a_run_of_another_is_not_led(monkeypatch: pytest.MonkeyPatch) -> None:
    going = SimpleNamespace(desk=lambda: SimpleNamespace(running=[object()]))
    monkeypatch.setattr(first_visit, "jobs", going)
    assert "see in half a minute" not in said(opened("stage"))

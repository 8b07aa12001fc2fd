"""Every page through AppTest: it opens on something real, its widgets lead somewhere, and what is wrong is
one message.
"""

from __future__ import annotations

import errno
import json
import os
import re
import shlex
from collections.abc import Iterator
from dataclasses import fields, replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import streamlit as st
from click.testing import CliRunner
from conftest import odd_traces, random_trace
from streamlit.testing.v1 import AppTest

from moeviz import words
from moeviz.app import commands, components, hosting, jobs, kept, machines, planning, shelf, show
from moeviz.app.asking import PRESETS
from moeviz.app.stage import StageEvent
from moeviz.cli.main import main
from moeviz.core.policies import POLICIES, load_policy
from moeviz.core.replay import replay, served
from moeviz.core.run import Run
from moeviz.core.settings import Settings
from moeviz.core.synthetic import synthetic
from moeviz.core.trace import Trace
from moeviz.engine import plan as engine_plan
from moeviz.engine import tiers
from moeviz.engine.client import Job, ModelSpec
from moeviz.errors import SettingsError
from moeviz.files import exporters, library, moetrace
from moeviz.files.importers import Options
from moeviz.files.moecounts import Counts, to_bytes

ROOT = Path(__file__).parent.parent
WAIT = 600  # seconds a script may take on a slow machine
PAGES = ("stage", "experts", "timeline", "prefetch", "what_if", "lessons", "library")


@pytest.fixture(autouse=True, scope="module")
def _one_worker() -> Iterator[None]:
    """All share it, as all browsers of a server do, and what pages have computed once."""
    yield
    jobs.client().kill()
    st.cache_resource.clear()


@pytest.fixture
def data_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("MOEVIZ_DATA", str(tmp_path))
    return tmp_path


def opened(page: str, **query: str | list[str]) -> AppTest:
    app = AppTest.from_file(str(ROOT / "app.py"), default_timeout=WAIT)
    for name, value in query.items():
        app.query_params[name] = value
    return turned(app, page)


def turned(app: AppTest, page: str) -> AppTest:
    """To another page."""
    app.switch_page(f"pages/{page}.py").run()
    assert not app.exception, app.exception[0].value
    return app


def showing(trace: Trace, run: Run | None = None, name: str = "upload: other") -> AppTest:
    """The app with an opened trace as the current one."""
    app = AppTest.from_file(str(ROOT / "app.py"), default_timeout=WAIT).run()
    app.session_state["desk"].opened[name] = trace, run
    app.session_state["to_show"] = name
    return app.run()


def finished(app: AppTest, name: str) -> AppTest:
    """Waits for a job of the session's desk, then draws the page again."""
    job: Job = app.session_state["desk"].jobs[name]
    assert job.over.wait(timeout=WAIT)
    return app.run()


def texts(elements: Any) -> str:
    return " ".join(str(element.value) for element in elements).replace("\\", "")


def said(app: AppTest) -> str:
    """Everything that a page says in words."""
    return " ".join(
        texts(kind)
        for kind in (app.title, app.subheader, app.caption, app.markdown, app.info, app.error, app.text)
    )


def button(app: AppTest, label: str) -> Any:
    return next(one for one in app.button if one.label == label)


def drawer(app: AppTest) -> str:
    """What stands on the page's own."""
    (label,) = [
        one.proto.popover.label for one in app.get("popover") if one.proto.popover.label.startswith("More")
    ]
    return str(label)


def given(app: AppTest) -> dict[str, Any]:
    (stage,) = [one for one in app.get("bidi_component") if one.proto.component_name == "moeviz_stage"]
    return dict(json.loads(stage.proto.json))


def payload(app: AppTest) -> dict[str, Any]:
    """What the stage was given."""
    return dict(given(app)["payload"])


def seek(app: AppTest) -> dict[str, Any] | None:
    """Where the stage was told to go."""
    found: dict[str, Any] | None = given(app)["seek"]
    return found


# the stage


def test_the_stage_opens_on_lru_against_lfu_with_a_verdict() -> None:
    shown = payload(opened("stage", step="60"))
    assert [run["label"] for run in shown["runs"]] == ["LRU, 4 slots", "LFU (counts kept), 4 slots"]
    assert "LRU hits 3.6 points more" in shown["verdict"]
    assert [one["label"].partition(",")[0] for one in shown["actions"]] == ["Run it live", "Measure"]


def test_a_long_trace_has_its_boards_first_and_then_their_stories(monkeypatch: pytest.MonkeyPatch) -> None:
    drawn: list[list[bool]] = []
    monkeypatch.setattr(hosting, "QUICK", 0)
    whole = hosting.stage_payload

    def noting(*given: Any, **more: Any) -> dict[str, Any]:
        drawn.append([part["story"] is None for part in more["parts"]])
        return whole(*given, **more)

    monkeypatch.setattr(hosting, "stage_payload", noting)
    opened("stage")
    assert drawn[0] == [True, True]
    assert drawn[-1] == [False, False]


def test_a_changed_setting_has_its_board_first_and_then_its_story(monkeypatch: pytest.MonkeyPatch) -> None:
    app = opened("stage", a="policy=lru,slots=4")
    asked = [StageEvent("settings", 0, {"slots": 5})]
    drawn: list[list[tuple[str, bool]]] = []
    whole = hosting.stage_payload

    def noting(*given: Any, **more: Any) -> dict[str, Any]:
        drawn.append([(part["label"], part["story"] is None) for part in more["parts"]])
        return whole(*given, **more)

    monkeypatch.setattr(hosting, "told", lambda key: asked.pop() if asked else StageEvent())
    monkeypatch.setattr(hosting, "stage_payload", noting)
    app.run()
    assert drawn[0] == [("LRU, 5 slots", True), ("LFU (counts kept), 4 slots", False)]
    assert drawn[-1] == [("LRU, 5 slots", False), ("LFU (counts kept), 4 slots", False)]
    assert len(drawn) == 2  # what stands around the boards is drawn once
    assert app.query_params["a"] == "policy=lru,slots=5"


@pytest.mark.parametrize("kind", ["run", "measure"])
def test_a_run_from_the_trace_of_another_model_is_of_the_bundled_one_and_says_so(
    kind: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    app = turned(showing(random_trace(3, layers=5, experts=24, k=4)), "stage")
    assert [run["label"] for run in payload(app)["runs"]] == ["LRU, 8 slots", "LFU (counts kept), 8 slots"]
    asked, jobs_of = [StageEvent(kind)], list[Job]()
    monkeypatch.setattr(hosting, "told", lambda key: asked.pop() if asked else StageEvent())
    app.session_state["desk"].submit = lambda name, job: jobs_of.append(job)
    app.run()
    assert not app.exception
    assert "The model of this trace is not here: the bundled one runs" in texts(app.toast)
    assert [one.slots for job in jobs_of for one in job.settings] == ([4] if kind == "run" else [4, 4])
    assert app.selectbox(key="trace").value == "sample: change-of-subject"
    assert [run["label"] for run in payload(app)["runs"]] == ["LRU, 4 slots", "LFU (counts kept), 4 slots"]


def test_the_prompt_agrees_with_the_trace() -> None:
    app = opened("stage")
    assert app.text_area(key="prompt").value == PRESETS["Changes subject"].prompt
    assert "Halfway the text changes" in texts(app.caption)
    app.selectbox(key="trace").select("sample: bible").run()
    assert app.text_area(key="prompt").value == PRESETS["Bible"].prompt
    app.button_group(key="preset").set_value("Spanish").run()
    assert app.text_area(key="prompt").value.startswith("Y aconteció")
    app.selectbox(key="trace").select("sample: change-of-subject").run()
    assert app.text_area(key="prompt").value.startswith("Y aconteció")  # chosen by hand: it stays
    app.text_area(key="prompt").set_value("Words of my own").run()
    assert app.button_group(key="preset").value is None  # no preset is lit that is not what would run
    assert app.text_area(key="prompt").value == "Words of my own"


def test_a_link_sets_the_boards() -> None:
    shown = payload(opened("stage", a="policy=lfu-aged,slots=6", b="policy=fifo,slots=2,prefetch=next-gate"))
    assert [run["label"] for run in shown["runs"]] == [
        "LFU (aged, 64 tokens), 6 slots",
        "FIFO, 2 slots, next-gate",
    ]


@pytest.mark.parametrize(
    "link", ["policy=nonsense", "slots=99", "slots=1", "slots=many", "prefetch=tape", ",,=,"]
)
def test_a_bad_link_falls_back_and_says_so(link: str) -> None:
    app = opened("stage", a=link)
    assert payload(app)["runs"][0]["policy"] == "lru"
    assert not app.error, texts(app.error)


def test_bad_values_of_the_cursor_and_of_presenter_mode_are_said_and_leave_the_link() -> None:
    app = AppTest.from_file(str(ROOT / "app.py"), default_timeout=WAIT)
    app.query_params["step"], app.query_params["presenter"] = "abc", "maybe"
    app.run()
    told = texts(app.toast)
    assert "step=abc, which is no forward pass" in told
    assert "presenter=maybe" in told
    assert not {"step", "presenter"} & set(app.query_params)


@pytest.mark.parametrize(
    ("name", "text"), [("tokens", "inf"), ("seed", "-1e400"), ("slots", "infinity"), ("budget_both", "1e999")]
)
def test_a_number_without_an_end_leaves_the_link(name: str, text: str) -> None:
    app = opened("timeline" if name == "slots" else "stage", **{name: text})
    assert f"{name}={text}, a number without an end" in texts(app.toast)
    assert name not in app.query_params


def test_a_link_with_names_that_the_page_does_not_ask_for_says_so_and_loses_them() -> None:
    app = opened("what_if", slots="9", zzz="1", at="5")
    assert "does not ask for: slots, zzz" in texts(app.toast)
    assert set(app.query_params) & {"slots", "zzz"} == set()
    assert app.query_params["at"] == "5"
    app = opened("stage", step="1e400")
    assert len(app.toast) == 1


def test_a_link_holds_only_what_is_not_at_its_default() -> None:
    app = turned(turned(opened("timeline"), "experts"), "timeline").run()
    assert set(app.query_params) == {"trace"}
    app.number_input(key="half_life").set_value(9).run()
    app = turned(turned(app, "experts"), "timeline").run()
    assert app.query_params["half_life"] == "9"


def test_an_empty_value_leaves_the_link() -> None:
    app = opened("stage", trace="", a="", step="")
    assert payload(app)["runs"][0]["policy"] == "lru"
    assert not {"a", "step"} & set(app.query_params)


def test_what_a_page_keeps_for_itself_is_no_part_of_the_link() -> None:
    assert "desk" not in texts(opened("stage", desk="x", links="y", explained="z").toast)


def test_a_budget_that_holds_too_few_experts_falls_back_and_says_so() -> None:
    app = AppTest.from_file(str(ROOT / "app.py"), default_timeout=WAIT)
    app.query_params["budget_both"] = "1000000"
    app.run()
    assert "too small" in texts(app.toast)
    assert [run["label"] for run in payload(app)["runs"]] == ["LRU, 4 slots", "LFU (counts kept), 4 slots"]


def test_a_link_never_runs_a_file(tmp_path: Path) -> None:
    evil = tmp_path / "evil.py"
    evil.write_text(f"open({str(tmp_path / 'ran')!r}, 'w')")
    app = opened("stage", a=f"policy={evil}:x,slots=4", b=f"prefetch={evil}:x", policy=f"{evil}:x")
    turned(app, "timeline")
    assert not (tmp_path / "ran").exists()


@pytest.fixture
def own_files(same_again: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[str]:
    """The app, started with a policy and a predictor of a user's own files. Gives the policy's name."""
    path = tmp_path / "mru.py"
    path.write_text("def mru(use, now):\n    'Most recently used leaves.'\n    return -use.last_touch\n")
    arguments = ["--policy", f"{path}:mru", "--prefetch", same_again]
    monkeypatch.setattr("sys.orig_argv", ["streamlit", "run", "app.py", "--", *arguments])
    yield f"{path}:mru"
    POLICIES.pop(f"{path}:mru", None)


def test_a_policy_that_the_app_was_started_with_stands_in_every_menu(own_files: str, same_again: str) -> None:
    app = opened("stage", a=f"policy={own_files},slots=5,prefetch={same_again}")
    shown = payload(app)
    assert shown["runs"][0]["policy"] == own_files
    assert [own_files, "mru.py:mru"] in shown["menus"]["policy"]
    assert [same_again, "pre-fetch: mine.py:same-again"] in shown["menus"]["prefetch"]
    turned(app, "timeline")
    assert "mru.py:mru" in app.selectbox(key="policy").options
    app.selectbox(key="policy").set_value(own_files).run()
    assert not app.exception
    assert "**mru.py:mru**: Most recently used leaves." in app.selectbox(key="policy").help
    turned(app, "what_if")
    app.multiselect(key="policies").set_value(["lru", own_files]).run()
    assert not app.exception


FAILS = {
    "a score": "def f(use, now):\n    return use.touches if len(use.touches) == 2 else use.touches[:1][9]\n",
    "lists": "from moeviz.core.lists import Arc\nclass f(Arc):\n"
    "    def why(self, one): return 'x' if self.slots == 1 else [][9]\n",
}


@pytest.mark.parametrize("kind", FAILS)
@pytest.mark.parametrize("quick", [True, False])
@pytest.mark.parametrize("fails", ["a", "b", "ab"])
def test_boards_whose_own_policy_fails_at_its_work_fall_back(
    kind: str, quick: bool, fails: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "bad.py").write_text(FAILS[kind])
    name = load_policy(f"{tmp_path / 'bad.py'}:f")
    monkeypatch.setattr(hosting, "QUICK", 20_000 if quick else 0)  # so that stories come after the boards
    try:
        two = {"a": "policy=lfu,slots=5", "b": "policy=lru,slots=6"}
        app = opened("stage", step="60", **two | dict.fromkeys(fails, f"policy={name},slots=4"))
        policies = [run["policy"] for run in payload(app)["runs"]]
        assert policies == ["lru" if "a" in fails else "lfu", "lfu" if "b" in fails else "lru"]
        assert [name, "bad.py:f"] in payload(app)["menus"]["policy"]
        for board, first in (("a", "LRU"), ("b", "LFU")):
            told = f"Board {board.upper()} falls back to {first}"
            assert (told in texts(app.error)) == (board in fails)
            assert (board in app.query_params) == (board not in fails)
        assert len(app.error) == len(fails)
        assert "failed at its work: IndexError" in texts(app.error)
        app.run()
        assert len(app.error) == len(fails)  # until they are set again
        app.query_params.update(dict.fromkeys(fails, "policy=fifo,slots=4"))
        assert not app.run().error
        assert "fifo" in [run["policy"] for run in payload(app)["runs"]]
    finally:
        del POLICIES[name]


def test_a_board_that_is_set_to_an_own_policy_that_fails_falls_back(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "bad.py").write_text(FAILS["a score"])
    name = load_policy(f"{tmp_path / 'bad.py'}:f")
    try:
        app = opened("stage", step="60")
        asked = [StageEvent("settings", 1, {"policy": name})]
        monkeypatch.setattr(hosting, "told", lambda key: asked.pop() if asked else StageEvent())
        app.run()
        assert [run["policy"] for run in payload(app)["runs"]] == ["lru", "lfu"]
        assert "Board B falls back to LFU" in texts(app.error)
        assert not app.exception
        asked.append(StageEvent("settings", 1, {"policy": "fifo"}))
        assert not app.run().error
        assert payload(app)["runs"][1]["policy"] == "fifo"
    finally:
        del POLICIES[name]


def test_what_fails_on_the_stage_besides_policies_of_ones_own_is_told_and_no_board_falls_back(
    own_files: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fails(*given: Any) -> None:
        raise SettingsError("the bound is not to be had")

    monkeypatch.setattr(kept, "bound", fails)
    app = opened("stage", a=f"policy={own_files},slots=5", step="60")
    assert [one.value for one in app.error] == ["the bound is not to be had"]
    assert own_files in str(app.query_params["a"])


@pytest.mark.parametrize(
    ("arguments", "said_of_it"),
    [
        (["--policy", "gone.py:x"], "there is no file"),
        (["--policy", "a,b/mine.py:x"], "Rename the file or its folder"),
        (["--policy", "lru"], "is no file of your own"),
        (["--policies", "mru.py:mru"], "does not know"),
    ],
)
def test_the_app_says_what_it_cannot_start_with(
    arguments: list[str], said_of_it: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("sys.orig_argv", ["streamlit", "run", "app.py", "--", *arguments])
    app = opened("stage")
    assert said_of_it in texts(app.error)
    assert payload(app)["runs"]


def run_live(app: AppTest, **changes: Any) -> AppTest:
    job = Job("watch", "And it", [Settings("lfu")], max_new_tokens=5, stop_at_end=False)
    for name, value in changes.items():
        setattr(job, name, value)
    desk = app.session_state["desk"]
    desk.submit("live", job)
    return finished(app.run(), "live")


def test_a_live_run_becomes_the_current_trace_and_checks_itself() -> None:
    app = run_live(opened("stage"))
    assert not app.exception
    assert app.selectbox(key="trace").value == "my latest run"
    assert "live = replay, event for event" in texts(app.markdown)
    assert "watched" in texts(app.markdown)
    assert "--policy lfu --slots 4" in texts(app.code)
    assert payload(app)["shape"]["passes"] == 5


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"settings": [Settings(slots=1)]}, "1 slot is too few: a token needs 2"),
        ({"max_new_tokens": 99_999}, "The prompt is too long"),
        ({"prompt": "  "}, "The prompt is empty"),
        ({"model": ModelSpec("no/such/model")}, "There is no folder no/such/model"),
    ],
)
def test_a_run_that_cannot_be_is_one_message(changes: dict[str, Any], words: str) -> None:
    app = run_live(opened("stage"), **changes)
    assert not app.exception
    assert len(app.error) == 1
    assert words in texts(app.error)


def test_a_comparison_measures_checks_itself_and_says_when_it_is_stale() -> None:
    app = opened("stage", step="60", tokens="4", tier="this RAM")
    settings = [Settings("lru"), Settings("lfu"), Settings(baseline="on-demand")]
    preset = PRESETS["Changes subject"]
    job = Job("compare", preset.prompt, settings, ModelSpec(tier="host"), 4, then=preset.then, repeats=3)
    job.stop_at_end = False
    app.session_state["desk"].submit("measure", job)
    app = finished(app.run(), "measure")
    assert not app.exception
    assert "measured = replayed" in texts(app.markdown)
    assert "same tokens in every run" in texts(app.markdown)
    table = app.dataframe[0].value
    assert table["settings"].tolist() == ["LRU", "LFU (counts kept)", "on-demand"]
    assert (table["tokens/s, mean"] > 0).all()
    assert "--setting policy=lru,slots=4 --setting policy=lfu,slots=4" in texts(app.code)
    assert "Over the 3 decoded tokens: " in texts(app.markdown)
    assert "Measured before text or settings were changed" not in texts(app.caption)
    results = payload(app)["results"]
    assert results["title"] == "Measured, 3 pairs: this RAM, 4 tokens"
    assert [row["name"] for row in results["rows"]] == ["LRU", "LFU", "on-demand"]
    assert all(len(row["repeats"]) == 3 for row in results["rows"])
    assert results["verdict"].startswith("Speed: ")
    job.state = "running"  # the logits are still held against transformers' own
    app.run()
    assert payload(app)["results"] == results
    assert payload(app)["actions"][0]["label"] == "Stop measuring"
    job.state = "done"
    app.run()
    assert not results["stale"]
    app.text_area(key="prompt").set_value("And it came").run()
    before = f"LRU, 4 slots against LFU (counts kept), 4 slots, on “{preset.prompt}”, this RAM, 4 tokens"
    assert payload(app)["results"]["title"] == f"Before: measured, 3 pairs: {before}"
    app.text_area(key="prompt").set_value(preset.prompt).run()
    app.session_state["links"]["b"] = "policy=fifo,slots=4"
    app.run()
    assert "Measured before text or settings were changed" in texts(app.caption)
    assert payload(app)["results"]["stale"]
    next_one = Job("compare", "And it", settings, max_new_tokens=2, stop_at_end=False)
    app.session_state["desk"].submit("measure", next_one)
    assert payload(app.run())["results"]["rows"] == results["rows"]  # until the next one is there
    finished(app, "measure")


def test_a_paced_comparison_names_its_rate_and_is_one_click_from_the_real_disk() -> None:
    app = opened("stage", step="60", tokens="3")
    preset = PRESETS["Changes subject"]
    model = ModelSpec(tier="host", link="SATA SSD")
    job = Job(
        "compare", preset.prompt, [Settings("lru"), Settings("lfu")], model, 3, then=preset.then, repeats=1
    )
    job.stop_at_end = False
    app.session_state["desk"].submit("measure", job)
    app = finished(app.run(), "measure")
    assert "paced, link 0.55 GB/s" in texts(app.markdown)
    button(app, "On the real disk").click().run()
    assert not app.exception
    begun = app.session_state["desk"].jobs["measure"]
    assert (begun.model.tier, begun.model.link, begun.max_new_tokens) == ("disk", "", 3)
    assert app.session_state["tier"] == "this disk"
    jobs.client().stop(begun)
    app = finished(app, "measure")
    assert not [one for one in app.button if one.label == "On the real disk"]


def timed(app: AppTest) -> list[str]:
    """Where the times of the boards come from."""
    return [part["times"]["source"] for part in payload(app)["runs"]]


def test_a_comparison_of_ones_own_words_brings_its_text_and_is_of_before_beside_another() -> None:
    app = opened("stage", step="60", tokens="3", tier="this RAM")
    app.text_area(key="prompt").set_value("And it").run()
    desk = app.session_state["desk"]
    two = [Settings("lru"), Settings("lfu")]
    for _ in range(2):  # while the second goes on, the first one's text stays
        job = Job("compare", "And it", two, ModelSpec(tier="host"), 3, stop_at_end=False, repeats=3)
        desk.submit("measure", job)
        app.run()
        app = finished(app, "measure")
        assert app.selectbox(key="trace").value == "my latest comparison"
        assert app.text_area(key="prompt").value == "And it"
        assert payload(app)["results"]["title"].startswith("Measured, 3 pairs")
        assert not payload(app)["results"]["stale"]
        assert timed(app) == ["measured", "measured"]
    desk.opened["the same text"] = (desk.jobs["measure"].trace, None)
    for board, policy in (("a", "lru"), ("b", "lfu")):
        app.query_params[board] = f"policy={policy},slots=4"
    app.run().selectbox(key="trace").select("the same text").run()
    assert timed(app) == ["measured", "measured"]
    app.query_params["b"] = "policy=fifo,slots=4"
    assert timed(app.run()) == ["modelled", "modelled"]  # never one of each
    app.selectbox(key="trace").select("sample: bible").run()
    assert timed(app) == ["modelled", "modelled"]
    app.text_area(key="prompt").set_value("And it").run()
    app.number_input(key="tokens").set_value(3).run()
    results = payload(app)["results"]
    assert results["stale"]
    assert results["title"].startswith("Before: measured, 3 pairs: ")
    assert "on “And it”" in results["title"]


def test_own_words_stay_over_other_pages() -> None:
    app = opened("stage")
    app.text_area(key="prompt").set_value("And it").run()
    app.number_input(key="temperature").set_value(0.3).run()
    app = turned(turned(app, "timeline"), "stage")
    assert app.text_area(key="prompt").value == "And it"
    assert app.number_input(key="temperature").value == 0.3


def test_every_tab_that_saw_a_run_go_on_shows_its_end() -> None:
    tabs = [opened("stage", step="60", tokens="3", tier="this RAM") for _ in range(3)]
    desk = tabs[0].session_state["desk"]
    job = Job("watch", "And it", [Settings()], ModelSpec(tier="host"), 3, stop_at_end=False)
    desk.submit("live", job)
    for tab in tabs[:2]:
        tab.session_state["desk"] = desk
        tab.run()
    for tab in tabs:  # the last comes after its end
        tab.session_state["desk"] = desk
        finished(tab, "live")
    shown = [tab.selectbox(key="trace").value for tab in tabs]
    assert shown == ["my latest run", "my latest run", "sample: change-of-subject"]


def test_what_measure_takes_is_said_before(data_folder: Path) -> None:
    app = opened("stage", step="60")
    told = "5 repeats of 2 settings, 240 tokens each: about "
    assert f"Measure: {told}" in texts(app.caption)
    assert app.number_input(key="tokens").value == 240
    ((about, label),) = [
        (one["about"], one["label"]) for one in payload(app)["actions"] if one["id"] == "measure"
    ]
    seconds = float(about.partition(told)[2].partition(" s ")[0])
    assert label == f"Measure, about {seconds:.0f} s"
    _, run = moetrace.load(ROOT / "sample_traces" / "change-of-subject.moetrace")
    assert run is not None
    assert run.times is not None
    here = 10 * run.times.pass_wall.sum() / 1e9  # at the sample's own link, of 1.2 GB/s
    assert here < seconds < 2 * here  # the paced one has .55
    app.button_group(key="preset").set_value("Bible").run()
    assert app.number_input(key="tokens").value == 120
    assert drawer(app) == "More · 1 set"  # the text, and not how long it is, which follows it
    app.number_input(key="tokens").set_value(77).run()
    app.button_group(key="preset").set_value("Changes subject").run()
    assert app.number_input(key="tokens").value == 77  # chosen by hand: it stays


def test_pages_begin_with_the_stages_first_board_or_the_traces_own_run(data_folder: Path) -> None:
    trace, _ = moetrace.load(ROOT / "sample_traces" / "bible.moetrace")
    run = replay(trace, Settings("lfu", 3, prefetch="next-gate", width=3))
    for page, key in (("timeline", "policy"), ("prefetch", "predictor"), ("what_if", "")):
        app = turned(showing(trace, run), page)
        if not key:
            assert app.select_slider(key="at").value == 3
            continue
        assert app.selectbox(key=key).value == ("lfu" if key == "policy" else "next-gate")
        assert app.number_input(key="slots").value == 3
        assert app.number_input(key="width").value == 3
    app = opened("timeline", a="policy=arc,slots=5")
    assert (app.selectbox(key="policy").value, app.number_input(key="slots").value) == ("arc", 5)
    app = opened("what_if", a="policy=arc,slots=5")
    assert app.multiselect(key="policies").value == ["arc", "lru", "lfu", "belady"]
    assert app.select_slider(key="at").value == 5
    app = opened("stage", a="policy=arc,slots=5")
    app.session_state["scope_both"] = "model"
    turned(app.run(), "timeline")
    assert app.query_params["begin"] == "policy=arc,slots=5,scope=model"
    app = opened("timeline", begin="policy=arc,slots=20,scope=model")
    assert (app.selectbox(key="policy").value, app.number_input(key="slots").value) == ("arc", 20)
    assert app.session_state["scope"] == "model"
    assert "begin" not in turned(app, "stage").query_params
    app = opened("timeline", a="policy=nonsense,slots=5")
    assert app.selectbox(key="policy").value == "lru"


@pytest.mark.parametrize("page", ["timeline", "prefetch"])
@pytest.mark.parametrize(
    ("query", "words"),
    [({"policy": "weighted-lfu"}, "needs the routers' weights"), ({"warm": "calibrated"}, "another model")],
)
def test_settings_that_the_trace_cannot_serve_are_one_message(
    page: str, query: dict[str, str], words: str
) -> None:
    app = showing(replace(synthetic(tokens=60, layers=3, experts=8, k=2), weights=None))
    app.query_params.update(query)
    assert words in texts(turned(app, page).error)


def test_a_board_that_another_trace_cannot_serve_falls_back() -> None:
    app = showing(replace(synthetic(tokens=60, layers=3, experts=8, k=2), weights=None))
    app.query_params["a"] = "policy=weighted-lfu,slots=4"
    turned(app, "timeline")
    assert (app.selectbox(key="policy").value, texts(app.error)) == ("lru", "")
    turned(app, "stage")
    assert payload(app)["runs"][0]["policy"] == "lru"
    assert "Board A falls back to LRU" in texts(app.toast)


def test_the_commands_shown_are_the_command_lines_own() -> None:
    """What the page offers for copying parses back into the same Settings."""
    settings = Settings("lfu-aged", 3, prefetch="next-gate", lookahead=2, threshold=0.5, half_life=9)
    assert Settings.parse(commands.setting(settings)) == settings
    assert commands.flags(Settings()) == ["--policy", "lru", "--slots", "4"]
    paced = Job("watch", "x", [settings], ModelSpec(tier="host", link="SATA SSD"))
    assert "--tier host" in commands.run(paced)
    assert "--link 'SATA SSD'" in commands.run(paced)


# what all pages share


@pytest.mark.parametrize("page", PAGES)
@pytest.mark.parametrize("sample", ["bible", "change-of-subject", "python-long"])
def test_pages_open_on_every_sample(page: str, sample: str) -> None:
    app = opened(page, trace=f"sample: {sample}")
    assert app.selectbox(key="trace").value == f"sample: {sample}"
    assert not app.error, texts(app.error)
    assert not app.warning


@pytest.mark.parametrize("name", odd_traces())
def test_pages_show_traces_that_lack_something(name: str) -> None:
    app = showing(odd_traces()[name])
    for page in PAGES:
        turned(app, page)
        assert not app.error, (page, texts(app.error))
        assert app.selectbox(key="trace").value == "upload: other"
    for view in ("Skew", "Reuse", "Together", "One expert", "Two traces"):
        turned(app, "experts")
        app.button_group(key="view").set_value(view).run()
        assert not app.exception, view


def test_one_trace_and_one_cursor_are_kept_from_page_to_page() -> None:
    app = opened("experts", step="17", trace="sample: bible")
    assert "Token 17 needs" in texts(app.caption)
    turned(app, "timeline")
    assert app.selectbox(key="trace").value == "sample: bible"
    assert "Token 17, MoE layer 0" in texts(app.markdown)
    app.selectbox(key="trace").select("sample: python-long").run()
    assert not app.query_params.get("step")  # it was of the other text
    app = opened("stage", step="131", slow="2", speed="times")
    assert seek(app)["step"] == 131
    app.selectbox(key="trace").select("sample: bible").run()
    assert seek(app) == {"speed": "times"}
    assert {"step", "slow"}.isdisjoint(app.query_params)


def test_a_speed_that_another_text_lacks_goes_without_a_word_where_no_link_asked_for_it() -> None:
    app = opened("stage", step="60", speed="times")
    desk = app.session_state["desk"]
    desk.opened["untimed"] = synthetic(12), None
    app.run().selectbox(key="trace").select("untimed").run()
    assert not app.toast
    assert "speed" not in app.query_params
    app = opened("stage", step="60", speed="fast")
    assert "The link says speed=fast" in texts(app.toast)


def test_a_trace_that_is_not_here_is_said() -> None:
    app = AppTest.from_file(str(ROOT / "app.py"), default_timeout=WAIT)
    app.query_params["trace"] = "upload: mine"
    app.run()
    assert app.selectbox(key="trace").value == "sample: change-of-subject"
    assert "not here: upload: mine" in texts(app.toast)


@pytest.mark.parametrize(("layers", "experts", "k", "slots"), [(4, 32, 4, 11), (3, 8, 4, 5), (3, 5, 4, 5)])
def test_slots_follow_the_trace(layers: int, experts: int, k: int, slots: int) -> None:
    app = showing(synthetic(12, layers, experts, k))
    assert {run["slots"] for run in payload(app)["runs"]} == {slots}
    turned(app, "timeline")
    assert app.number_input(key="slots").value == slots
    assert app.number_input(key="slots").max == experts
    app.selectbox(key="trace").select("sample: bible").run()
    assert app.number_input(key="slots").value == 4


def test_the_drawer_counts_what_is_not_at_its_default() -> None:
    app = opened("timeline", lookahead="2", warm="first")
    app.run()
    assert drawer(app) == "More · 2 set"


def test_the_stages_drawer_counts_another_text_another_model_and_rounded_experts_too() -> None:
    app = opened("stage", step="60")
    app.text_area(key="prompt").set_value("Words of my own").run()
    assert drawer(app) == "More · 1 set"
    app.text_input(key="model").set_value("/my/own").run()
    assert drawer(app) == "More · 2 set"
    app.selectbox(key="experts").select("int4").run()
    assert drawer(app) == "More · 3 set"


@pytest.mark.parametrize(
    "query", [{"policy": "nonsense"}, {"slots": "many"}, {"slots": "-3"}, {"scope": "planet"}]
)
def test_a_bad_value_in_the_link_falls_back(query: dict[str, str]) -> None:
    app = opened("timeline", **query)
    assert app.selectbox(key="policy").value == "lru"
    assert app.number_input(key="slots").value == 4


def test_a_long_trace_is_explored_in_windows() -> None:
    app = turned(showing(synthetic(600)), "timeline")
    assert "256 forward passes at a time" in texts(app.caption)
    app.number_input(key="window").set_value(500).run()
    assert not app.exception
    assert "Token 24, MoE layer 0" in texts(app.markdown)
    turned(app, "prefetch")
    assert app.number_input(key="window").value == 500
    assert app.session_state["links"]["window"] == "500"


def test_a_link_keeps_the_window_of_a_long_trace(data_folder: Path) -> None:
    library.keep("long", moetrace.to_bytes(synthetic(600), None))
    app = opened("timeline", trace="library: long", window="300")
    assert app.number_input(key="window").value == 300
    assert opened("timeline", trace="library: long", window="many").number_input(key="window").value == 0


def test_presenter_mode_is_a_link() -> None:
    larger = "html { font-size: max(16px, "
    assert larger in str([one.proto.body for one in opened("experts", presenter="true").html])
    assert larger not in str([one.proto.body for one in opened("experts").html])


@pytest.mark.parametrize("page", ["timeline", "prefetch", "what_if", "experts"])
def test_sessions_with_uploads_of_one_name_and_length_see_their_own(page: str) -> None:
    """What is computed for one session is kept for all, by content."""
    shown = [said(turned(showing(random_trace(seed, tokens=30)), page)) for seed in (1, 2)]
    assert shown[0] != shown[1]


# timeline


def test_timeline_explains_what_it_jumps_to() -> None:
    app = opened("timeline", step="60")
    app.get("menu_button")[0].click("regret").run()
    assert not app.exception
    assert int(app.session_state["links"]["step"]) >= 60
    assert "Belady would have dropped" in texts(app.markdown)
    assert "Regret:" in texts(app.markdown)
    table = app.table[0].value
    assert (table["choice"].str.startswith("✕ leaves")).sum() == 1
    assert "score" not in table.columns


def test_a_trace_without_text_shows_numbers_for_it() -> None:
    app = turned(showing(odd_traces()["no texts"]), "timeline")
    (strip,) = [one for one in app.get("bidi_component") if one.proto.component_name == "moeviz_strip"]
    assert json.loads(strip.proto.json)["texts"][:3] == ["0 ", "1 ", "2 "]
    assert "holds no text" in texts(turned(app, "library").caption)


def test_a_click_opens_the_stage_in_the_passes_and_under_the_settings_of_the_timeline(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    app = opened("timeline", trace="sample: bible", rule="batch:4", half_life="50", warm="first", slots="5")
    monkeypatch.setattr(components, "clicked", lambda: (7, 1, -1))
    app.run()
    assert not app.exception
    shown = payload(app)
    assert (app.session_state["rule_both"], app.session_state["half_life_both"]) == ("batch:4", 50)
    assert "LRU, 5 slots" in shown["runs"][0]["label"]
    assert app.session_state["warm_both"] == "first"
    trace = served(moetrace.sample("bible"), Settings(rule="batch:4"))
    assert shown["shape"]["passes"] == len(trace.passes())
    assert app.session_state["seek"]["step"] == 7


def test_timeline_says_when_there_is_no_further_collision() -> None:
    app = opened("timeline")
    app.number_input(key="slots").set_value(8).run()
    app.get("menu_button")[0].click("collision").run()
    assert "There is no collision after this one" in texts(app.info)


@pytest.mark.parametrize("prefetch", ["previous-token", "frequency", "transition", "next-gate", "oracle"])
def test_every_predictor_is_shown(prefetch: str) -> None:
    app = opened("timeline")
    app.selectbox(key="prefetch").select(prefetch).run()
    assert not app.exception
    assert not app.error, texts(app.error)
    turned(app, "prefetch")
    app.selectbox(key="predictor").select(prefetch).run()
    assert not app.exception
    assert not app.error, texts(app.error)
    assert re.search("guessed cop(y|ies) |was resident already", texts(app.caption))


def test_router_guesses_that_were_not_recorded_are_a_designed_state() -> None:
    app = turned(showing(odd_traces()["no guesses"]), "prefetch")
    assert app.selectbox(key="predictor").value != "next-gate"
    app.selectbox(key="predictor").select("next-gate").run()
    assert "holds no guesses of its routers" in texts(app.info)
    assert not app.exception


def test_prefetch_tells_no_time_of_a_model_that_was_not_timed() -> None:
    app = turned(showing(odd_traces()["no guesses"]), "prefetch")
    assert "This model was not timed" in texts(app.caption)
    assert "Worth it in time" not in texts(app.caption)
    assert "break-even" not in texts(app.caption)  # nor in what the pictures say
    assert ", by costs of the bundled model's run" in texts(app.subheader)
    assert "recorded]" not in texts(app.markdown)  # the badge: no router guessed
    app = opened("prefetch")
    assert "Worth it in time" in texts(app.caption)
    assert "by costs of" not in texts(app.subheader)


# what if


@pytest.mark.parametrize("scope", ["layer", "model"])
def test_what_if_shows_every_policy(scope: str) -> None:
    app = opened("what_if", scope=scope)
    label = {"layer": "Slots per layer", "model": "Slots in all"}[scope]  # from the first picture on
    assert app.select_slider(key="at").label == label
    app.multiselect(key="policies").set_value([name for name in POLICIES if ".py:" not in name]).run()
    assert not app.exception
    assert not app.error, texts(app.error)
    assert "no policy can hit more than" in texts(app.caption)
    (beyond,) = [one for one in app.caption if one.value.startswith("Whole\\-token hits")]
    whole, gaps = texts([beyond]).split("Gap captured, of what Belady hits more than LRU: ")
    assert "Belady" in whole
    assert "Belady" not in gaps  # it gets all by what the words mean
    assert "LFU (counts kept)" in gaps
    assert "**gap captured**" in beyond.proto.help


def test_what_if_models_other_machines_and_checks_itself_here(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(machines, "CHECKED", machines.CHECKED[:3])
    monkeypatch.setattr(machines, "CHECK_TOKENS", 12)
    monkeypatch.setattr(machines, "CHECK_REPEATS", 2)
    app = opened("what_if")
    assert "its own run" in texts(app.subheader)
    assert "copying one (1.2 MB) 0.58 ms: as the run's copies did on average." in texts(app.caption)
    assert "Once a copy has arrived, 0.095 ms pass until the compute that waited goes on." in texts(
        app.caption
    )
    assert "GB/s" not in texts(app.caption)  # of a figure that the copy was not computed from
    app.selectbox(key="machine").select("PCIe 5 x16, host memory").run()
    assert "nominal 0.01 ms, then 63" in texts(app.caption)
    assert "not checked on this machine yet" in texts(app.caption)
    button(app, "Check the model on this machine").click().run()
    app = finished(app, "check")
    assert not app.exception
    assert "Median error" in texts(app.caption)


def test_what_if_asks_for_size_and_tier_and_never_calls_a_borrowed_cost_own() -> None:
    app = turned(showing(odd_traces()["no sizes"]), "what_if")
    assert "does not say how large an expert is" in texts(app.info)
    assert app.selectbox(key="machine").value is None
    app.number_input(key="expert_mb").set_value(13.0).run()
    assert "Choose a slow tier" in texts(app.info)
    app.selectbox(key="machine").select("SATA SSD").run()
    assert "costs of the bundled model's run" in texts(app.subheader)
    assert "own" not in texts(app.subheader)


def test_what_if_lays_published_curves_under_ones_own_with_their_source() -> None:
    app = opened("what_if")
    assert app.multiselect(key="published").value == []
    app.multiselect(key="published").set_value(["Qwen3-30B-A3B (moe-trace)"]).run()
    assert not app.exception
    assert "finding 007" in texts(app.caption)
    app.button_group(key="scope").set_value("model").run()  # where that one has no curve
    assert not app.exception
    assert app.multiselect(key="published").value == []
    same = turned(showing(replace(random_trace(1), model="Qwen/Qwen3-30B-A3B")), "what_if")
    assert "Qwen3-30B-A3B (moe-trace)" in same.multiselect(key="published").value


def test_what_if_plans_as_the_command_line_does(data_folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(tiers, "memory_speed", lambda: 10.0)
    monkeypatch.setattr(tiers, "host_free", lambda: 2**33)
    monkeypatch.setattr(engine_plan, "unpack_ms", lambda *of: 2.0)
    app = opened("what_if", trace="sample: bible", machine="SATA SSD")
    app.text_input(key="plan_fast").set_value("32MiB")
    app.selectbox(key="plan_experts").select("int8")
    app.text_input(key="plan_device").set_value("cpu")
    button(app, "Plan").click().run()
    assert not app.exception
    shown = app.table[0].value
    assert shown["planned"]["Fast tier"].endswith("as “Memory of the fast tier” says, of RAM")
    assert "More · 1 set" in [one.proto.popover.label for one in app.get("popover")]
    command = next(one.value for one in app.code if "moeviz plan" in one.value).split(" ", 3)[3]
    assert "--device cpu" in command
    result = CliRunner().invoke(main, shlex.split(command))
    assert result.exit_code == 0, result.output
    assert "in int8; LOSSY; unpacked in" in shown["planned"]["On disk and link"]
    for name, text in zip(shown.index, shown["planned"], strict=True):
        if name != "Slow tier disk":  # whose free room others change
            assert text.replace("\\", "") in planning.said(result.output), name
    app.selectbox(key="trace").select("sample: change-of-subject").run()
    assert "Made with sample: bible" in texts(app.info)
    app.text_input(key="plan_fast").set_value("much")
    button(app, "Plan").click().run()
    assert "Write for example 8GiB" in texts(app.error)
    app.text_input(key="plan_fast").set_value("")
    app.text_input(key="plan_device").set_value("abacus")
    button(app, "Plan").click().run()
    assert "device 'abacus' is not known" in texts(app.error)
    app.text_input(key="plan_device").set_value("cuda:1")
    app.text_input(key="plan_fast").set_value("32MiB")
    button(app, "Plan").click().run()
    assert app.table[0].value["planned"]["Fast tier"].endswith("of an accelerator")
    told = texts(app.caption) + " ".join(app.table[0].value["planned"]).replace("\\", "")
    assert "not known: add “Speed of the fast tier” (More, beside it)" in told
    assert "--" not in told  # options that this page does not have
    app.number_input(key="plan_speed").set_value(500.0)
    button(app, "Plan").click().run()
    assert "at least" in app.table[0].value["planned"]["Compute"]
    assert "--fast-speed 500" in next(one.value for one in app.code if "moeviz plan" in one.value)
    app.text_input(key="plan_fast").set_value("")
    app.text_input(key="plan_device").set_value("auto")
    app.text_input(key="plan_model").set_value(str(data_folder))
    button(app, "Plan").click().run()
    assert "has no config.json" in texts(app.error)


def test_no_link_opens_a_model_folder() -> None:
    app = opened("what_if", plan_model="/etc", plan_fast="1GiB")
    assert app.text_input(key="plan_model").value == ""


# experts


@pytest.mark.parametrize("view", ["Now", "Skew", "Reuse", "Together", "One expert", "Domains"])
def test_experts_answer_every_question(view: str) -> None:
    app = opened("experts", view=view)
    assert len(app.get("plotly_chart")) >= 1
    for phase in ("prompt", "decode"):
        app.button_group(key="phase").set_value(phase).run()
        assert not app.exception


def test_the_domains_tell_when_the_text_changes_its_subject() -> None:
    assert "those that German uses" in texts(opened("experts", step="60").caption)
    assert "those that Python uses" in texts(opened("experts", step="200").caption)


def test_two_traces_are_laid_beside_each_other() -> None:
    app = opened("experts", view="Two traces")
    assert "Choose the trace" in texts(app.info)
    app.selectbox(key="against").select("sample: python-long").run()
    assert not app.exception
    assert "How alike each layer is" in texts(app.subheader)


# library


def upload(app: AppTest, *files: tuple[str, bytes]) -> AppTest:
    app.file_uploader[0].set_value([(name, content, "application/octet-stream") for name, content in files])
    return app.run()


def test_what_is_dropped_is_opened_and_is_the_current_trace(data_folder: Path) -> None:
    content = (ROOT / "sample_traces" / "bible.moetrace").read_bytes()
    app = upload(opened("library"), ("mine.moetrace", content), ("broken.moetrace", content[:1000]))
    assert not app.exception
    assert "Opened mine" in texts(app.success)
    assert "broken" in texts(app.error)
    assert app.selectbox(key="trace").value == "upload: mine"
    turned(app, "timeline")
    assert app.selectbox(key="trace").value == "upload: mine"


def test_what_an_importer_assumed_is_said_once_and_with_the_pages_own_control(data_folder: Path) -> None:
    content = b"token,layer,expert\n0,0,1\n1,0,2\n2,0,1\n"
    app = upload(opened("library"), ("small.csv", content))
    assert not app.exception
    assert "Opened small.csv: 3 tokens, 1 MoE layer of 3 experts." in texts(app.success)
    said = texts(app.caption)
    assert said.count("How many experts a layer has is not said") == 1
    assert "(“Experts per layer” (under More) sets it)." in said
    assert "--" not in said
    assert "Text:" not in texts(app.text)


def test_what_a_file_does_not_say_is_said_on_the_page_and_the_file_dropped_again(data_folder: Path) -> None:
    """Every option that an importer may ask for has its field here."""
    logits = (ROOT / "tests" / "cases" / "a17_router_logits.npy").read_bytes()
    app = upload(opened("library"), ("logits.npy", logits))
    assert "Give “Experts per token” (under More) N to read the N highest" in texts(app.error)
    app.number_input(key="file_top_k").set_value(2).run()
    app = upload(app, ("logits.npy", logits))
    assert "Opened logits.npy: 6 tokens, 2 MoE layers of 8 experts." in texts(app.success)
    app.text_input(key="file_axes").set_value("layer").run()
    app = upload(app, ("logits.npy", logits))
    assert "“Axes of an array” (under More) is 'layer'; name each axis once" in texts(app.error)
    assert {field.name for field in fields(Options)} == shelf.SAYS.keys()


def test_presenter_mode_lists_traces_and_counts_in_whole_numbers(data_folder: Path) -> None:
    counts = to_bytes(Counts(np.ones((8, 8)), model="m"))
    app = upload(opened("library", presenter="true"), ("popular.moecounts", counts))
    shown = app.table[0].value.set_index("trace")
    assert shown.loc[show.plain("sample: change-of-subject"), "decoded"] == "239"
    assert shown.loc[show.plain("counts: popular"), "decoded"] == show.plain(words.UNKNOWN)


def test_counts_are_shown_by_experts_planned_with_and_refused_by_the_others(data_folder: Path) -> None:
    popular = Counts(np.arange(1.0, 65.0).reshape(8, 8), model="m", notes=("prompts were left out",))
    app = upload(opened("library"), ("popular.moecounts", to_bytes(popular)))
    assert "Opened popular: counts without order, 8 MoE layers of 8 experts. Experts and What if" in texts(
        app.success
    )
    assert app.selectbox(key="trace").value == "counts: popular"
    assert "Prompts were left out." in texts(app.caption)
    turned(app, "experts")
    assert "expert 7 was used most, 64 times of 2,080" in texts(app.caption)
    for page in ("stage", "timeline", "prefetch", "what_if"):
        turned(app, page)
        assert "no cache can be replayed on it" in texts(app.info), page
        assert not app.error
    app.selectbox(key="plan_counts").select("counts: popular")
    button(app, "Plan").click().run()
    assert "busiest experts resident" in [str(name) for name in app.table[0].value.index]
    turned(app, "library")
    button(app, "Close").click().run()
    assert app.selectbox(key="trace").value == "sample: change-of-subject"


def test_the_library_keeps_renames_and_deletes(data_folder: Path) -> None:
    app = opened("library", trace="sample: bible")
    button(app, "Keep in the library").click().run()
    assert [path.name for path in (data_folder / "traces").iterdir()] == ["bible.moetrace"]
    assert app.selectbox(key="trace").value == "library: bible"
    next(one for one in app.text_input if one.label == "New name").set_value("renamed").run()
    button(app, "Rename").click().run()
    assert [path.name for path in (data_folder / "traces").iterdir()] == ["renamed.moetrace"]
    assert app.selectbox(key="trace").value == "library: renamed"
    assert app.toast[0].value == "It is named renamed now\\."
    button(app, "Delete").click().run()
    assert list((data_folder / "traces").iterdir())  # who wants that is asked once more
    button(app, "Delete it for good").click().run()
    assert list((data_folder / "traces").iterdir()) == []
    assert app.toast[0].value == "renamed is deleted from the library\\."
    assert not app.exception


@pytest.mark.parametrize("page", ["timeline", "prefetch", "what_if"])
def test_a_budget_in_bytes_over_layers_of_different_sizes_is_served(page: str) -> None:
    trace = replace(random_trace(4, tokens=30), expert_bytes=(100, 300, 200))
    app = AppTest.from_file(str(ROOT / "app.py"), default_timeout=WAIT)
    app.query_params["scope"], app.query_params["budget"] = "model", "1500"
    app.run()
    app.session_state["desk"].opened["upload: other"] = trace, None
    app.session_state["to_show"] = "upload: other"
    app = turned(app.run(), page)
    assert not app.error, app.error[0].value


def test_the_library_opens_one_of_several_requests() -> None:
    requests = np.repeat(np.array([3, 1], np.int16), [8, 12])
    app = turned(
        showing(replace(random_trace(1, tokens=20), sequence=requests), name="upload: many"), "library"
    )
    app.number_input(key="request").set_value(2).run()
    button(app, "Open it alone").click().run()
    assert app.selectbox(key="trace").value == "upload: many-2"
    assert app.session_state["desk"].opened["upload: many-2"][0].tokens == 12
    assert not any(one.label == "Open it alone" for one in app.button)
    assert not app.exception


def test_sessions_do_not_see_each_others_uploads(data_folder: Path) -> None:
    content = (ROOT / "sample_traces" / "bible.moetrace").read_bytes()
    upload(opened("library"), ("secret.moetrace", content))
    assert not any("secret" in option for option in opened("library").selectbox(key="trace").options)


@pytest.mark.parametrize("of", ["its own run", "a replay"])
def test_the_library_exports_every_format(
    of: str, data_folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    made: dict[str, bytes | str] = {}
    monkeypatch.setattr(
        st,
        "download_button",
        lambda label, content, name, **others: made.update({name: content()} if label == "Export" else {}),
    )
    app = opened("library", trace="sample: bible")
    app.button_group(key="export_of").set_value(of).run()
    for kind, one in exporters.EXPORTERS.items():
        app.selectbox(key="format-library").select(kind).run()
        assert not app.exception
        assert len(made["bible" + one.suffix]) > 1_000


def test_a_library_on_a_full_disk_says_what_to_do_and_loses_nothing(
    data_folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(_: int) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(os, "fsync", full)
    app = opened("library", trace="sample: bible")
    button(app, "Keep in the library").click().run()
    assert not app.exception
    assert texts(app.error) == (
        f"The library in {data_folder / 'traces'} cannot be changed: bible.moetrace: No space left on "
        "device. Make room there, or set MOEVIZ_DATA to another folder."
    )
    assert list((data_folder / "traces").iterdir()) == []
    assert app.selectbox(key="trace").value == "sample: bible"


def test_a_library_that_cannot_be_written_is_one_message(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "file").write_text("")
    monkeypatch.setenv("MOEVIZ_DATA", str(tmp_path / "file"))
    app = opened("library")
    button(app, "Keep in the library").click().run()
    assert not app.exception
    assert "cannot be changed" in texts(app.error)


def test_every_page_is_short() -> None:
    """At most 80 lines."""
    for page in PAGES:
        assert len((ROOT / "pages" / f"{page}.py").read_text(encoding="utf-8").splitlines()) <= 80, page

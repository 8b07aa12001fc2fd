"""Every page through AppTest: it opens on something real, its widgets lead somewhere, and what is wrong is one message."""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import streamlit as st
from conftest import random_trace
from streamlit.testing.v1 import AppTest

from moeviz.core.settings import Settings
from moeviz.engine.client import Job
from moeviz.files import exporters

ROOT = Path(__file__).parent.parent
WAIT = 60  # seconds a script may take on a slow machine


@pytest.fixture(autouse=True)
def _worker_of_its_own() -> Iterator[None]:
    yield
    st.cache_resource.clear()


@pytest.fixture
def data_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("MOEVIZ_DATA", str(tmp_path))
    return tmp_path


def opened(page: str, **query: str) -> AppTest:
    app = AppTest.from_file(str(ROOT / "app.py"), default_timeout=WAIT)
    for name, value in query.items():
        app.query_params[name] = value
    app.run()
    if page != "live":
        app.switch_page(f"pages/{page}.py").run()
    assert not app.exception
    return app


def finished(app: AppTest, key: str) -> AppTest:
    """Waits for the job that a click started, then draws the page again."""
    job: Job = app.session_state[key]
    assert job.over.wait(timeout=300)
    return app.run()


def texts(elements: Any) -> str:
    return " ".join(str(element.value) for element in elements)


def button(app: AppTest, label: str) -> Any:
    return next(one for one in app.button if one.label == label)


def test_live_opens_on_a_sample_with_numbers() -> None:
    app = opened("live")
    assert [metric.label for metric in app.metric] == [
        "Hit ratio",
        "Tokens per second",
        "Stall share",
        "Moved by the link",
    ]
    assert "recorded sample" in texts(app.markdown)
    assert len(app.dataframe) == 1


def test_live_runs_and_checks_itself() -> None:
    app = opened("live")
    app.number_input(key="tokens").set_value(5).run()
    app.selectbox(key="policy").select("lfu").run()
    button(app, "Run").click().run()
    app = finished(app, "live_job")
    assert not app.exception
    assert "live = replay, event for event" in texts(app.markdown)
    assert "watched" in texts(app.markdown)
    assert "--policy lfu --slots 4" in texts(app.code)
    assert len(app.session_state["live_job"].passes) == 5


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"slots": 1}, "1 slots are too few: a token needs 2"),
        ({"slots": 9}, "9 slots are more than the 8 experts"),
        ({"tokens": 99_999}, "The prompt is too long"),
        ({"prompt": "  "}, "The prompt is empty"),
        ({"model": "no/such/model"}, "There is no folder no/such/model"),
    ],
)
def test_live_refuses_with_one_message(changes: dict[str, Any], words: str) -> None:
    app = opened("live")
    for name, value in changes.items():
        match name:
            case "slots" | "tokens":
                app.number_input(key=name).set_value(value)
            case "prompt":
                app.text_area(key="live_prompt").set_value(value)
            case _:
                app.text_input(key="live_model").set_value(value)
    app.run()
    button(app, "Run").click().run()
    app = finished(app, "live_job")
    assert not app.exception
    assert len(app.error) == 1
    assert words in app.error[0].value


def test_a_preset_fills_the_prompt_and_one_changes_subject() -> None:
    app = opened("live")
    app.button_group(key="live_preset").set_value("Changes subject").run()
    assert "Halfway the text changes" in texts(app.caption)
    app.button_group(key="live_preset").set_value("Spanish").run()
    assert app.text_area(key="live_prompt").value.startswith("Y aconteció")
    assert "Halfway" not in texts(app.caption)


def test_a_link_opens_the_same_settings() -> None:
    app = opened("live", policy="lfu-aged", slots="6", prefetch="next-gate")
    assert app.selectbox(key="policy").value == "lfu-aged"
    assert app.number_input(key="slots").value == 6
    assert app.selectbox(key="prefetch").value == "next-gate"


@pytest.mark.parametrize(
    "query",
    [{"policy": "nonsense"}, {"slots": "many"}, {"slots": "-3"}, {"tier": "tape"}, {"scope": "planet"}],
)
def test_a_bad_link_falls_back(query: dict[str, str]) -> None:
    app = opened("live", **query)
    assert app.selectbox(key="policy").value == "lru"
    assert app.number_input(key="slots").value == 4


def test_compare_opens_on_a_replayed_sample() -> None:
    app = opened("compare")
    assert [metric.label for metric in app.metric] == ["lru, 4 slots: hit ratio", "lfu, 4 slots: hit ratio"]
    assert "replayed" in texts(app.markdown)


def test_compare_measures() -> None:
    app = opened("compare")
    app.number_input(key="compare_tokens").set_value(4).run()
    button(app, "Measure").click().run()
    app = finished(app, "compare_job")
    assert not app.exception
    assert "measured = replayed" in texts(app.markdown)
    assert "same tokens in every run" in texts(app.markdown)
    table = app.dataframe[0].value
    assert table["settings"].tolist() == [
        "lru, 4 slots",
        "lfu, 4 slots",
        "resident",
        "on-demand",
        "whole-layer",
    ]
    assert (table["tokens/s"] > 0).all()
    assert "--setting policy=lru,slots=4 --setting policy=lfu,slots=4" in texts(app.code)


def test_compare_refuses_a_comparison_with_itself() -> None:
    app = opened("compare")
    app.selectbox(key="policy2").select("lru").run()
    button(app, "Measure").click().run()
    assert "Two of the settings are the same" in app.error[0].value


def test_the_commands_shown_are_the_command_lines_own(monkeypatch: pytest.MonkeyPatch) -> None:
    """What the page offers for copying parses back into the same Settings."""
    monkeypatch.syspath_prepend(str(ROOT))
    from moeviz.app import controls

    settings = Settings("lfu-aged", 3, prefetch="next-gate", lookahead=2, threshold=0.5, half_life=9)
    assert Settings.parse(controls.setting(settings)) == settings
    assert controls.flags(Settings()) == ["--policy", "lru", "--slots", "4"]


@pytest.mark.parametrize("page", ["activations", "timeline", "prefetch", "what_if"])
@pytest.mark.parametrize("sample", ["bible", "change-of-subject", "python-long"])
def test_explore_pages_open_on_every_sample(page: str, sample: str) -> None:
    app = opened(page)
    app.selectbox(key="trace").select(f"sample: {sample}").run()
    assert not app.exception
    assert not app.error
    assert len(app.dataframe) >= 1


def test_timeline_explains_what_it_jumps_to() -> None:
    app = opened("timeline")
    before = app.session_state["step"]
    button(app, "Next regretted eviction").click().run()
    assert not app.exception
    assert app.session_state["step"] >= before
    assert "Belady would have dropped" in texts(app.markdown)
    assert "Regret:" in texts(app.markdown)
    table = app.dataframe[0].value
    assert (table[""].str.startswith("✕ leaves")).sum() == 1
    assert table["score"].iloc[0] == table.loc[~table[""].str.startswith("pinned"), "score"].min()


def test_timeline_says_when_there_is_no_further_collision() -> None:
    app = opened("timeline")
    app.number_input(key="slots").set_value(8).run()
    button(app, "Next collision").click().run()
    assert "There is no collision after this one" in texts(app.info)


@pytest.mark.parametrize("page", ["timeline", "prefetch"])
@pytest.mark.parametrize("prefetch", ["previous-token", "frequency", "transition", "next-gate", "oracle"])
def test_every_predictor_is_shown(page: str, prefetch: str) -> None:
    app = opened(page)
    app.selectbox(key="prefetch").select(prefetch).run()
    assert not app.exception
    assert not app.error


@pytest.mark.parametrize("scope", ["layer", "model"])
def test_what_if_shows_every_policy(scope: str) -> None:
    app = opened("what_if")
    app.button_group(key="scope").set_value(scope).run()
    from moeviz.core.policies import POLICIES

    names = [name for name in POLICIES if ".py:" not in name]
    app.button_group(key="policies").set_value(names).run()
    assert not app.exception
    assert not app.error
    assert [metric.label for metric in app.metric][3:] == names
    curves = app.dataframe[0].value
    best = curves["belady"]
    assert all((curves[name] <= best + 1e-12).all() for name in names)


def test_what_if_models_other_machines_and_checks_itself_here() -> None:
    app = opened("what_if")
    own = app.dataframe[1].value.set_index("settings")["ms per token"]
    app.selectbox(key="machine").select("PCIe 5 x16, host memory").run()
    faster = app.dataframe[1].value.set_index("settings")["ms per token"]
    assert (faster <= own).all()
    assert faster["on-demand"] < own["on-demand"]
    assert "nominal" in texts(app.caption)
    assert "not checked on this machine yet" in texts(app.caption)
    button(app, "Check the model on this machine").click().run()
    app = finished(app, "check_job")
    assert not app.exception
    assert "median error" in texts(app.caption)


def test_explore_pages_refuse_settings_that_do_not_fit_the_trace() -> None:
    for page in ("timeline", "prefetch"):
        app = opened(page)
        app.number_input(key="slots").set_value(9).run()
        assert "9 slots are more than the 8 experts" in app.error[0].value


def test_a_long_trace_is_explored_in_windows(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.syspath_prepend(str(ROOT))
    from moeviz.core.synthetic import synthetic

    app = AppTest.from_file(str(ROOT / "app.py"), default_timeout=WAIT).run()
    app.session_state["opened"] = {"long": (synthetic(600), None)}
    app.session_state["trace"] = "long"
    app.switch_page("pages/timeline.py").run()
    assert not app.exception
    assert "256 forward passes at a time" in texts(app.caption)
    app.number_input(key="window").set_value(500).run()
    assert not app.exception
    assert app.session_state["step"] < 100


@pytest.mark.parametrize("view", ["Now and so far", "Skew and reuse", "Together", "One expert", "Domains"])
def test_activations_answer_every_question(view: str) -> None:
    app = opened("activations")
    app.button_group(key="view").set_value(view).run()
    assert not app.exception
    assert len(app.dataframe) >= 1
    for phase in ("prefill", "decode"):
        app.button_group(key="phase").set_value(phase).run()
        assert not app.exception


def test_activations_mark_tokens_by_an_expert_and_open_at_a_token() -> None:
    app = opened("activations", token="17", mark="one expert", expert="3", expert_layer="5")
    app.run()
    assert "layer 5 sent the token to expert 3" in texts(app.caption)
    assert "Pass 17" in texts(app.caption)
    app.button_group(key="view").set_value("One expert").run()
    assert not app.exception
    assert len(app.number_input) == 2  # the same layer and expert, asked for once


def test_the_domain_map_tells_when_the_text_changes_its_subject() -> None:
    app = opened("activations", token="60")
    app.button_group(key="view").set_value("Domains").run()
    assert "nearest to **german**" in texts(app.caption)
    app = opened("activations", token="200")
    app.button_group(key="view").set_value("Domains").run()
    assert "nearest to **python**" in texts(app.caption)


def test_two_traces_chosen_in_the_library_open_in_comparison(data_folder: Path) -> None:
    app = opened("library")
    app.selectbox(key="library_trace").select("sample: bible").run()
    app.selectbox(key="second").select("sample: python-long").run()
    button(app, "Compare the two").click().run()
    assert not app.exception
    assert app.selectbox(key="trace").value == "sample: bible"
    assert app.selectbox(key="against").value == "sample: python-long"
    assert "Do two texts use the same experts?" in texts(app.caption)


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
    app = opened("library")
    app.selectbox(key="library_trace").select("sample: bible").run()
    app.button_group(key="export_of").set_value(of).run()
    for kind, one in exporters.EXPORTERS.items():
        app.selectbox(key="format-library").select(kind).run()
        assert not app.exception
        assert len(made["bible" + one.suffix]) > 1_000


def test_an_export_that_cannot_be_is_one_message(data_folder: Path) -> None:
    app = opened("library")
    app.button_group(key="export_of").set_value("a replay").run()
    app.number_input(key="slots_export").set_value(1).run()
    assert not app.exception
    assert "1 slots are too few" in texts(app.error)


def test_activations_compare_two_traces() -> None:
    app = opened("activations")
    app.selectbox(key="against").select("sample: python-long").run()
    assert not app.exception
    table = app.dataframe[-1].value
    assert ((table["similarity"] > 0) & (table["similarity"] < 1)).all()


def upload(app: AppTest, *files: tuple[str, bytes]) -> AppTest:
    app.file_uploader[0].set_value([(name, content, "application/octet-stream") for name, content in files])
    return button(app, "Open").click().run()


def test_library_opens_keeps_renames_and_deletes(data_folder: Path) -> None:
    content = (ROOT / "sample_traces" / "bible.moetrace").read_bytes()
    app = upload(opened("library"), ("mine.moetrace", content), ("broken.moetrace", content[:1000]))
    assert not app.exception
    assert "Opened mine" in texts(app.success)
    assert "broken" in texts(app.error)
    app.run()
    app.selectbox(key="library_trace").select("upload: mine").run()
    button(app, "Keep in the library").click().run()
    assert [path.name for path in (data_folder / "traces").iterdir()] == ["mine.moetrace"]
    app.selectbox(key="library_trace").select("library: mine").run()
    app.text_input[-1].set_value("renamed").run()
    button(app, "Rename").click().run()
    assert [path.name for path in (data_folder / "traces").iterdir()] == ["renamed.moetrace"]
    app.selectbox(key="library_trace").select("library: renamed").run()
    button(app, "Delete").click().run()
    assert list((data_folder / "traces").iterdir()) == []


def test_sessions_do_not_see_each_others_uploads(data_folder: Path) -> None:
    content = (ROOT / "sample_traces" / "bible.moetrace").read_bytes()
    upload(opened("library"), ("secret.moetrace", content))
    other = opened("library")
    assert not any("secret" in option for option in other.selectbox(key="library_trace").options)


def test_prefetch_counts_experts_where_their_size_is_unknown() -> None:
    app = opened("live")
    app.session_state["opened"] = {
        "upload: other": (replace(random_trace(1, tokens=30), expert_bytes=0), None)
    }
    app.session_state["trace"] = "upload: other"
    app.switch_page("pages/prefetch.py").run()
    assert not app.exception
    table = app.dataframe[0].value
    assert table["MB"].isna().all()
    assert table["experts"].iloc[0] > 0
    assert re.search(r"It moves \d\.\d\d times as much", texts(app.caption))


@pytest.mark.parametrize("page", ["timeline", "prefetch", "what_if", "activations"])
def test_sessions_with_uploads_of_one_name_and_length_see_their_own(page: str, data_folder: Path) -> None:
    """What is computed for one session is kept for all, by content."""
    shown = []
    for seed in (1, 2):
        app = opened("live")
        app.session_state["opened"] = {"upload: same": (random_trace(seed, tokens=30), None)}
        app.session_state["trace"] = "upload: same"
        app.switch_page(f"pages/{page}.py").run()
        assert not app.exception
        shown.append(
            texts(app.caption)
            + texts(app.markdown)
            + texts(app.metric)
            + str([table.value for table in app.dataframe])
        )
    assert shown[0] != shown[1]


def test_a_library_that_cannot_be_written_is_one_message(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "file").write_text("")
    monkeypatch.setenv("MOEVIZ_DATA", str(tmp_path / "file"))
    app = opened("library")
    button(app, "Keep in the library").click().run()
    assert not app.exception
    assert "cannot be changed" in app.error[0].value

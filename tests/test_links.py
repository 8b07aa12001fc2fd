"""Links that somebody bent by hand, on every page: never a traceback; what does not fit falls back and is
said, as text.
"""

from __future__ import annotations

from pathlib import Path

import pytest
from test_pages import _one_worker, data_folder, opened, seek, texts  # noqa: F401

from moeviz.app import hosting
from moeviz.core.synthetic import synthetic
from moeviz.files import library, moetrace

SHARED = (
    *("trace", "window", "step", "slow", "a", "b", "asked", "speed", "begin"),
    *("presenter", "lesson", "progress"),
)
FIELDS = ("scope", "lookahead", "width", "threshold", "warm", "half_life", "rule", "budget")
LINKED = {  # page -> what its widgets take from a link
    "stage": (*(f"{name}_both" for name in FIELDS), "tokens", "repeats", "seed", "tier", "baselines"),
    "experts": ("view", "layer", "expert", "against", "count", "phase"),
    "timeline": ("policy", "slots", "prefetch", *FIELDS, "paper", "layer"),
    "prefetch": ("predictor", "slots", "passes", *FIELDS),
    "what_if": ("policies", "at", "machine", "latency", "bandwidth", "expert_mb", "scope", "published"),
    "lessons": ("skew", "reuse", "change", "made_seed", "against_policy"),
    "library": tuple(f"{name}_export" for name in ("policy", "slots", *FIELDS)),
}
BENT = (
    *("nonsense", "", "9" * 30, "-1", "nan", "1e400", "1.5", "²", "\x00", "null", "[]", "x" * 100_000),
    *("../../etc/passwd", "policy=static,slots=4,calibration=/etc/passwd", f"policy=lru,slots={'9' * 30}"),
    *("<img src=x onerror=window.pwned=1>", "[a](javascript:window.pwned=1)", "a,b,,=,", "\u202ex"),
)


@pytest.mark.parametrize("page", LINKED)
def test_a_bent_link_falls_back_and_says_so(page: str) -> None:
    names = (*LINKED[page], *SHARED)
    for first in (0, 7):  # each name meets one value, and then another
        link = {name: BENT[(number + first) % len(BENT)] for number, name in enumerate(names)}
        app = opened(page, **link)
        assert not app.error, texts(app.error)
        assert "The link" in texts(app.toast)


def test_an_empty_value_leaves_what_must_be_chosen_as_it_is() -> None:
    app = opened("experts", view="", phase="", count="")
    assert app.session_state["view"] == "Now"
    assert app.session_state["phase"] == "prompt and decode"


@pytest.mark.parametrize(
    ("page", "name", "value", "told"),
    [
        ("timeline", "step", "99999", "the last forward pass here is 239"),
        ("stage", "step", "99999", "the last forward pass here is 239"),
        ("stage", "b", "foo=bar", "'foo' is not a setting"),
        ("stage", "b", "policy=lfu,rule=one-by-one", "rule is not for a board alone"),
        ("stage", "a", "policy=own.py:made,policy=lru", "policy is said twice"),
        ("timeline", "begin", "policy=arc,slots=20,calibration=/no/file", "calibration is not for a board"),
        ("timeline", "a", "foo=bar", "'foo' is not a setting"),
        ("prefetch", "a", "policy=lru,slots=99", "99 slots are more than"),
        ("timeline", "begin", "rule=none", "rule 'none' is not known"),
    ],
)
def test_what_does_not_fit_this_text_is_said_once(page: str, name: str, value: str, told: str) -> None:
    app = opened(page, **{name: value})
    assert told in texts(app.toast)
    assert app.query_params.get(name, [""]) != [value]
    assert not app.run().toast


def test_a_window_that_is_none_is_said(data_folder: Path) -> None:  # noqa: F811
    library.keep("long", moetrace.to_bytes(synthetic(600), None))
    app = opened("timeline", trace="library: long", window="abc")
    assert "window=abc, which is no forward pass; it is 0" in texts(app.toast)
    app = opened("timeline", trace="library: long", window="99999")
    assert "window=99999, which is no forward pass; it is 0" in texts(app.toast)


def test_a_window_is_of_one_trace(data_folder: Path) -> None:  # noqa: F811
    for name, seed in (("long", 0), ("longer", 1)):
        library.keep(name, moetrace.to_bytes(synthetic(600, seed=seed), None))
    app = opened("timeline", trace="library: long", window="300")
    assert app.number_input(key="window").value == 300
    app.selectbox(key="trace").select("library: longer").run()
    assert app.number_input(key="window").value == 0
    assert app.session_state["links"].get("window") is None


def test_a_rule_that_is_none_is_said_once_and_leaves_the_link() -> None:
    app = opened("timeline", rule="nonsense")
    assert [str(one.value).startswith("rule 'nonsense' is not known") for one in app.toast] == [True]
    assert "rule" not in app.query_params
    assert not app.run().toast
    assert app.selectbox(key="rule").value == "pinned"


def test_an_empty_list_stays_empty() -> None:
    assert "Choose a policy." in texts(opened("what_if", policies="").info)


def test_a_policy_has_its_board_s_name_in_every_menu_and_its_id_does_in_a_link() -> None:
    for said in ("lfu", "LFU (counts kept)"):
        app = opened("timeline", policy=said)
        chosen = app.selectbox(key="policy")
        assert not app.toast
        assert (chosen.value, "LFU (counts kept)" in chosen.options) == ("lfu", True)
    app = opened("what_if", policies=["lfu-resident", "belady"])
    assert app.multiselect(key="policies").value == ["lfu-resident", "belady"]
    assert app.query_params["policies"] == ["LFU (counts lost)", "Belady"]
    assert not app.toast


def test_a_link_restores_slow_motion_what_is_asked_about_and_the_speed() -> None:
    app = opened("stage", step="60", slow="3", asked="b.2.5", speed="16")
    assert seek(app) == {"board": 1, "layer": 2, "expert": 5, "speed": "16", "slow": 3, "step": 60}
    assert not app.toast
    app = opened("stage", asked="b.2.8", slow="8", speed="5")  # eight experts and layers, 0 to 7
    assert seek(app) is None
    assert "The link says asked=b.2.8, which is no board" in texts(app.toast)
    assert "The link says slow=8, which is no MoE layer" in texts(app.toast)
    assert "The link says speed=5, which is no speed" in texts(app.toast)
    assert not {"asked", "slow", "speed"} & set(app.query_params)


@pytest.mark.usefixtures("data_folder")
def test_the_measured_speed_of_a_long_text_that_was_not_timed_is_refused_and_said(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(hosting, "QUICK", 0)  # its boards are drawn before their stories and times
    assert (seek(opened("stage", speed="times")) or {})["speed"] == "times"
    library.keep("made up", moetrace.to_bytes(synthetic(60), None))
    app = opened("stage", trace="library: made up", speed="times")
    assert seek(app) is None
    assert "speed" not in app.query_params

"""Settings: checked once, with messages that name the way out."""

from dataclasses import replace
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from moeviz.core.policies import load_policy
from moeviz.core.settings import BASELINES, Settings
from moeviz.core.suiting import bounding, suited
from moeviz.errors import SettingsError


@pytest.mark.parametrize(
    ("fields", "words"),
    [
        ({"policy": "mru"}, "policy 'mru' is not known. Choose one of lru"),
        ({"scope": "token"}, "scope 'token' is not known"),
        ({"prefetch": "crystal"}, "prefetch 'crystal' is not known"),
        ({"baseline": "none"}, "baseline 'none' is not known"),
        ({"slots": 0}, "slots is 0"),
        ({"slots": 2.5}, "slots is 2.5"),
        ({"lookahead": 0}, "lookahead is 0"),
        ({"width": -1}, "width is -1"),
        ({"seed": -1}, "seed is -1"),
    ],
)
def test_a_bad_field_is_named(fields: dict[str, object], words: str) -> None:
    with pytest.raises(SettingsError, match=words):
        Settings(**fields)  # type: ignore[arg-type]


def test_what_does_not_fit_the_model_is_refused() -> None:
    with pytest.raises(SettingsError, match="lookahead is 3"):
        Settings(prefetch="next-gate", lookahead=3).check(layers=3, experts=8, k=2)
    with pytest.raises(SettingsError, match="width is 9"):
        Settings(width=9).check(layers=3, experts=8, k=2)
    Settings(slots=20, scope="model").check(layers=3, experts=8, k=2)


def test_parse() -> None:
    assert Settings.parse("policy=lfu, slots=6,prefetch=next-gate") == Settings(
        "lfu", 6, prefetch="next-gate"
    )
    assert Settings.parse("") == Settings()


@pytest.mark.parametrize(
    ("text", "words"), [("lru", "'lru' is not a setting"), ("size=3", "'size=3'"), ("slots=many", "'many'")]
)
def test_parse_refuses(text: str, words: str) -> None:
    with pytest.raises(SettingsError, match=words):
        Settings.parse(text)


@given(st.sampled_from(["lru", "lfu"]), st.integers(1, 99), st.sampled_from(["", *BASELINES]))
def test_dict_and_back(policy: str, slots: int, baseline: str) -> None:
    settings = Settings(policy, slots, baseline=baseline)
    assert Settings.from_dict(settings.to_dict()) == settings  # type: ignore[arg-type]


def test_from_dict_refuses_what_it_does_not_know() -> None:
    with pytest.raises(SettingsError, match="speed=3"):
        Settings.from_dict({"speed": 3})
    with pytest.raises(SettingsError, match="slots='4'"):
        Settings.from_dict({"slots": "4"})


def test_labels_tell_settings_apart() -> None:
    assert Settings().label == "lru, 4 slots"
    assert (
        Settings("lfu", 6, prefetch="next-gate", lookahead=2, width=3).label
        == "lfu, 6 slots, next-gate +2, width 3"
    )
    assert Settings(slots=40, scope="model").label == "lru, 40 slots in all"
    assert Settings("lfu-aged", 1).label == "lfu-aged (64 tokens), 1 slots"
    assert Settings("lfu-aged", 1_200, "model", half_life=1).label == "lfu-aged (1 tokens), 1200 slots in all"
    assert Settings("lfu-aged", half_life=4_096).label == "lfu-aged (4096 tokens), 4 slots"
    assert Settings(baseline="on-demand").label == "on-demand"


def test_a_policy_of_a_file_is_named_without_the_folder(tmp_path: Path) -> None:
    (tmp_path / "mru.py").write_text("def mru(use, now):\n    return -use.last_touch\n")
    assert Settings(load_policy(f"{tmp_path / 'mru.py'}:mru"), 1).label == "mru.py:mru, 1 slots"


def test_the_bound_has_the_slots_of_the_board_that_has_most() -> None:
    shape = (4, 8, 2, 0)
    lru, pooled = Settings("lru", 5, prefetch="frequency"), Settings("lfu", 6, "model")
    best = replace(lru, policy="belady", prefetch="none")
    assert bounding([Settings("lfu", 3), lru], shape) == best
    assert bounding([pooled, lru], shape) == best  # 5 a layer are more than 6 in all
    for baseline in ("resident", "whole-layer", "on-demand"):
        assert bounding([Settings(baseline=baseline), lru], shape) == best
    assert bounding([Settings(baseline="resident")], shape).policy == "belady"


@pytest.mark.parametrize(
    ("settings", "shape", "slots"),
    [
        (Settings(), (8, 8, 2), 4),  # as Settings have
        (Settings(), (24, 32, 4), 11),  # with as many as a token needs all policies do the same
        (Settings(), (48, 128, 8), 43),
        (Settings(), (2, 3, 2), 3),  # there are no more
        (Settings(scope="model"), (24, 32, 4), 264),  # in all
        (Settings(scope="model"), (8, 8, 2), 32),
        (Settings(baseline="resident"), (24, 32, 4), 4),
        (Settings(budget=2**30), (24, 32, 4), 4),  # says how many there are
    ],
)
def test_slots_that_nobody_named_suit_the_trace(
    settings: Settings, shape: tuple[int, int, int], slots: int
) -> None:
    found = suited(settings, (*shape, 0))
    assert found == replace(settings, slots=slots)

"""Predictors: each rule on an example that can be checked by hand, and what all have in common."""

from __future__ import annotations

from pathlib import Path

import pytest
from conftest import make_trace, random_trace, told

import moeviz.core.predictors
from moeviz.core.predictors import PREDICTORS, Context, Predictor, RouterGuess, load_predictor
from moeviz.core.replay import replay
from moeviz.core.run import HIT
from moeviz.core.settings import Settings
from moeviz.errors import PolicyError, SettingsError
from moeviz.numbers.routing import guess_quality


def make(name: str, lookahead: int = 1, threshold: float = 0.0) -> Predictor:
    return PREDICTORS[name](Context(3, 4, lookahead, threshold, truth=lambda layer: [layer, 3]))


@pytest.mark.parametrize("name", PREDICTORS)
class TestEveryPredictor:
    def test_guesses_are_distinct_known_and_no_more_than_asked_for(self, name: str) -> None:
        predictor = make(name)
        for token in range(3):
            for layer in range(3):
                predictor.observe(layer, [[token, 3], [(token + layer) % 3, 3]])
                for width in (1, 2, 4) if layer < 2 else ():
                    guess = predictor.guess(layer + 1, RouterGuess([[3, 1, 0, 2], [3, 0, 1, 2]]), width)
                    assert len(guess) == len(set(guess)) <= width
                    assert set(guess) <= set(range(4))

    def test_a_guess_never_evicts_what_the_event_needs(self, name: str) -> None:
        """Scope model, as tight as it can be: whatever is guessed, the event's own experts stay for its
        computation."""
        trace = random_trace(3, tokens=30)
        run = replay(trace, Settings(slots=trace.k, scope="model", prefetch=name))
        for tokens, events in zip(trace.passes(), told(run), strict=True):
            for event in events:
                if tokens.stop - tokens.start > 1:
                    continue
                need = set(trace.experts[tokens.start, event.layer].tolist())
                assert not [
                    load for load in event.loads if (load[3], load[4]) in {(event.layer, e) for e in need}
                ]


def test_frequency_names_the_most_used() -> None:
    predictor = make("frequency")
    for experts in ([0, 3], [3, 2], [2, 3]):
        predictor.observe(1, [experts])
    assert predictor.guess(1, None, 3) == [3, 2, 0]
    assert predictor.guess(2, None, 3) == []


def test_transition_follows_what_went_before() -> None:
    predictor = make("transition")
    for before, after in ((0, 2), (0, 2), (1, 3)):
        predictor.observe(0, [[before]])
        predictor.observe(1, [[after]])
    predictor.observe(0, [[0]])
    # T[0] + 1 = 1 1 3 1 over 6
    assert predictor.guess(1, None, 4) == [2, 0, 1, 3]
    predictor.observe(0, [[0, 1]])
    # 1/6 + 1/5, 1/6 + 1/5, 3/6 + 1/5, 1/6 + 2/5
    assert predictor.guess(1, None, 2) == [2, 3]


def test_transition_looks_as_far_ahead_as_it_is_told() -> None:
    predictor = make("transition", lookahead=2)
    predictor.observe(0, [[0]])
    predictor.observe(1, [[1]])
    predictor.observe(2, [[3]])
    predictor.observe(0, [[0]])
    assert predictor.guess(2, None, 1) == [3]


def test_next_gate_takes_the_first_of_each_token() -> None:
    predictor = make("next-gate")
    assert predictor.guess(1, RouterGuess([[2, 0, 1, 3]]), 2) == [2, 0]
    assert predictor.guess(1, RouterGuess([[2, -1]]), 2) == [2]
    assert predictor.guess(1, RouterGuess([[2, 0], [1, 2], [3, 2]]), 2) == [
        2,
        1,
    ]  # 2 has three votes; 1 was first, before 3 by id
    assert predictor.guess(1, None, 2) == []


@pytest.mark.parametrize(
    ("threshold", "guess"), [(0.5, [2]), (0.6, [2, 0]), (0.95, [2, 0, 1, 3]), (1.0, [2, 0, 1, 3])]
)
def test_next_gate_until_the_probabilities_reach_the_threshold(threshold: float, guess: list[int]) -> None:
    routers = RouterGuess([[2, 0, 1, 3]], [[0.5, 0.25, 0.15, 0.06]])
    assert make("next-gate", threshold=threshold).guess(1, routers, 1) == guess


def test_the_oracle_leaves_no_miss_that_it_was_asked_to_prevent() -> None:
    trace = random_trace(7, tokens=40, prompt=1)
    run = replay(trace, Settings(slots=2 * trace.k, prefetch="oracle"))
    missed = run.events.layer[run.accesses.event[run.accesses.outcome != HIT]]
    assert set(missed.tolist()) == {0}
    assert run.loads.used.all()


def test_a_predictor_of_ones_own(tmp_path: Path) -> None:
    path = tmp_path / "mine.py"
    example = str(moeviz.core.predictors.__doc__).split("asked for:\n")[1].replace("\n    ", "\n")
    path.write_text(f"{example}\n\nclass Wide:\n    def __init__(self, context): pass\n")
    name = load_predictor(f"{path}:same-again")
    try:
        assert "same-again" not in PREDICTORS
        trace = make_trace([[[0, 1], [0, 1]], [[2, 3], [2, 3]]])
        run = replay(trace, Settings.parse(f"slots=3,prefetch={name}"))
        assert run.loads.expert[run.loads.speculative].tolist() == [0, 1, 2, 3]
        assert run.loads.used.all()
        assert not PREDICTORS[name].needs
    finally:
        del PREDICTORS[name]
    with pytest.raises(PolicyError, match=r"registers no predictor 'other'\. It registers: same-again"):
        load_predictor(f"{path}:other")


@pytest.mark.parametrize(
    ("content", "words"),
    [
        ("class f:\n    def __init__(self, context): pass", "AttributeError: 'f' object has no attribute"),
        ("def f(context): return [][9]", "IndexError: "),
        (
            "def observe(self, layer, chosen): pass\n    def guess(self, *given): return None",
            "guesses None. Let",
        ),
        (
            "def observe(self, layer, chosen): pass\n    def guess(self, layer, routers, width): "
            "return routers.experts[0]",
            r"AttributeError: .*'experts' .*needs=\{'routers'\}",
        ),
        (
            "def observe(self, layer, chosen): pass\n    def guess(self, *given): return [8]",
            "guesses expert 8",
        ),
        ("def observe(self, layer, chosen): 1 / 0", "ZeroDivisionError: "),
        ("def observe(self, layer, chosen): raise SystemExit(3)", "SystemExit: 3"),
        (
            "def observe(self, layer, chosen): pass\n    def guess(self, *given): return [1.5]",
            "TypeError: 'float' object cannot be interpreted as an integer",
        ),
    ],
)
def test_a_predictor_that_fails_at_its_work_is_one_message(content: str, words: str, tmp_path: Path) -> None:
    if "observe" in content:
        content = f"class f:\n    def __init__(self, context): pass\n    {content}"
    (tmp_path / "mine.py").write_text(content)
    name = load_predictor(f"{tmp_path / 'mine.py'}:f")
    with pytest.raises(PolicyError, match=rf"^predictor 'mine\.py:f' (failed at its work: )?{words}"):
        replay(random_trace(3), Settings(slots=4, prefetch=name))
    with pytest.raises(PolicyError, match=words):
        guess_quality(random_trace(3), name)
    del PREDICTORS[name]


def test_a_predictor_that_did_not_declare_the_truth_is_told_how(tmp_path: Path) -> None:
    (tmp_path / "mine.py").write_text(
        "class f:\n    def __init__(self, context): self.truth = context.truth\n"
        "    def observe(self, layer, chosen): pass\n"
        "    def guess(self, layer, routers, width): return self.truth(layer)[:width]\n"
    )
    name = load_predictor(f"{tmp_path / 'mine.py'}:f")
    for work in (
        lambda: replay(random_trace(3), Settings(slots=4, prefetch=name)),
        lambda: guess_quality(random_trace(3), name),
    ):
        with pytest.raises(PolicyError, match=r"'mine\.py:f' asks for the truth.*needs=\{'future'\}"):
            work()
    del PREDICTORS[name]


def test_a_threshold_needs_probabilities() -> None:
    trace = make_trace([[[0, 1], [0, 1]]], guess=[[[[-1, -1]], [[6, 7]]]])
    with pytest.raises(SettingsError, match="does not hold the probabilities"):
        replay(trace, Settings(slots=2, prefetch="next-gate", threshold=0.5))

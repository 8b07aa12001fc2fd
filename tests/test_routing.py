"""Numbers of a trace alone, by hand."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
from conftest import make_trace, ragged_trace, random_trace
from hypothesis import given
from hypothesis import strategies as st

from moeviz.core.predictors import PREDICTORS
from moeviz.core.trace import Trace
from moeviz.errors import TraceError
from moeviz.files.moetrace import SAMPLES
from moeviz.numbers import output, routing
from moeviz.numbers.subject import subject_changes


def test_usage_counts_and_weighs() -> None:
    trace = make_trace([[[0, 1]], [[0, 2]]], experts=3, weights=[[[0.75, 0.25]], [[0.5, 0.5]]])
    assert routing.usage(trace).tolist() == [[2, 1, 1]]
    assert routing.usage(trace, weighted=True).tolist() == [[1.25, 0.25, 0.5]]
    assert routing.usage(trace, tokens=slice(0, 1)).tolist() == [[1, 1, 0]]


def test_skew() -> None:
    use = np.array([[4.0, 0, 0, 0], [1, 1, 1, 1]])
    assert routing.top_share(use).tolist() == [1, 0.25]
    assert routing.entropy(use) == pytest.approx([0, 1])


def test_a_text_is_like_the_domain_whose_experts_it_used_last() -> None:
    trace = make_trace([[[0, 1]]] * 4 + [[[2, 3]]] * 4, experts=4)
    domains = {"first": np.array([[0.5, 0.5, 0, 0]]), "second": np.array([[0, 0, 0.5, 0.5]])}
    alike = routing.likeness(trace, domains, window=2)
    assert alike[0] == pytest.approx([1, 1, 1, 1, 0.5**0.5, 0, 0, 0])
    assert alike[1] == pytest.approx([0, 0, 0, 0, 0.5**0.5, 1, 1, 1])


def test_a_window_around_a_token_tells_a_change_where_it_is() -> None:
    trace = make_trace([[[0, 1]]] * 6 + [[[2, 3]]] * 6, experts=4)
    domains = {"first": np.array([[0.5, 0.5, 0, 0]]), "second": np.array([[0, 0, 0.5, 0.5]])}
    alike = routing.likeness(trace, domains, 4, centred=True)
    assert alike.argmax(0).tolist() == [0] * 6 + [1] * 6
    assert alike[0, [0, 11]] == pytest.approx([1, 0])
    whole = routing.likeness(trace, domains, 40, centred=True)  # a window longer than the text
    assert whole == pytest.approx(np.full((2, 12), 0.5**0.5))
    sample = Trace.load(SAMPLES / "change-of-subject.moetrace")
    use = routing.domain_use()
    python = routing.likeness(sample, use, centred=True).argmax(0) == list(use).index("python")
    assert abs(int(python.argmax()) - subject_changes(sample)[0].token) <= 6
    assert python[int(python.argmax()) :].all()


def test_the_samples_are_told_by_their_experts() -> None:
    use = routing.domain_use()
    assert all(np.allclose(shares.sum(1), 1, atol=0.001) for shares in use.values())
    for name in ("bible", "python"):
        trace = Trace.load(next(SAMPLES.glob(f"{name}*.moetrace")))
        nearest = routing.likeness(trace, use)[:, 40:].argmax(0)
        assert (nearest == list(use).index(name)).mean() > 0.7


def test_reuse_against_the_token_before() -> None:
    trace = make_trace([[[0, 1], [0, 1]], [[1, 2], [4, 5]], [[2, 1], [4, 6]]])
    assert routing.reuse(trace).tolist() == [0.75, 0.25]
    assert np.isnan(routing.reuse(make_trace([[[0]]]))).all()


def test_precision_equals_recall_where_as_many_are_guessed_as_chosen() -> None:
    trace = random_trace(4, tokens=60)
    found = routing.guess_quality(trace, "next-gate")
    assert np.allclose(found.precision, found.recall, equal_nan=True)
    assert np.isnan(found.recall[:, 0]).all()
    assert np.isnan(found.recall[1, 1])
    wide = routing.guess_quality(trace, "next-gate", width=4)
    assert (wide.recall[0, 1:] >= found.recall[0, 1:]).all()
    assert wide.at(1)[0] < wide.at(1)[1]


def test_guesses_by_hand() -> None:
    trace = make_trace([[[0, 1], [2, 3]]] * 2, guess=[[[[-1, -1]], [[2, 7]]]] * 2)
    found = routing.guess_quality(trace, "next-gate")
    assert found.recall[0, 1] == found.precision[0, 1] == 0.5
    assert np.isnan(found.recall[1]).all()


@pytest.mark.parametrize("name", [name for name in PREDICTORS if name != "none"])
def test_every_predictor_is_judged_and_the_oracle_is_right(name: str) -> None:
    trace = random_trace(4, tokens=40, prompt=1)
    recall = routing.guess_quality(trace, name).recall
    known = recall[~np.isnan(recall)]
    assert ((known >= 0) & (known <= 1)).all()
    if name == "oracle":
        assert (known == 1).all()


def test_habits_have_json_values() -> None:
    import json

    for trace in (random_trace(1), make_trace([[[0]]])):
        json.loads(json.dumps(output.routing(routing.habits(trace, "next-gate")), allow_nan=False))


def test_coverage_rises_to_one() -> None:
    assert routing.coverage(np.array([[1.0, 2, 1]])).tolist() == [[0.5, 0.75, 1]]


def test_together_counts_shares_of_tokens() -> None:
    trace = make_trace([[[0, 1], [2, 3]], [[0, 2], [2, 1]]], experts=4)
    assert routing.together(trace, 0, 0)[0].tolist() == [1, 0.5, 0.5, 0]
    assert routing.together(trace, 0, 1)[0].tolist() == [0, 0.5, 1, 0.5]
    assert routing.together(trace, 0, 1)[3].tolist() == [0, 0, 0, 0]


def test_similarity() -> None:
    assert routing.similarity(np.array([[1.0, 0], [1, 1]]), np.array([[0.0, 1], [2, 2]])) == pytest.approx(
        [0, 1]
    )


def test_the_tokens_of_an_expert_come_heaviest_first() -> None:
    trace = make_trace([[[0, 1]], [[1, 2]], [[3, 1]]], weights=[[[0.9, 0.1]], [[0.8, 0.2]], [[0.6, 0.4]]])
    tokens, weights = routing.tokens_of(trace, 0, 1)
    assert tokens.tolist() == [1, 2, 0]
    assert weights == pytest.approx([0.8, 0.4, 0.1], rel=1e-6)


@given(seed=st.integers(0, 3_000))
def test_any_trace_has_its_numbers(seed: int) -> None:
    """-1 places, events without experts, several sequences, unknown weights: everything that is asked of a
    trace counts what is there."""
    trace = ragged_trace(seed)
    used = trace.experts >= 0
    use = routing.usage(trace)
    assert use.sum(1).tolist() == used.sum((0, 2)).tolist()
    reused = routing.reuse(trace)
    assert ((reused >= 0) & (reused <= 1) | np.isnan(reused)).all()
    for layer in range(trace.layers):
        both = routing.together(trace, layer, layer)
        assert (np.diag(both) == (use[layer] > 0)).all()
        assert (
            sum(len(routing.tokens_of(trace, layer, one)[0]) for one in range(trace.num_experts))
            == use[layer].sum()
        )
    alike = routing.likeness(trace, {"itself": use})
    assert ((alike >= 0) & (alike <= 1 + 1e-6)).all()
    for name in PREDICTORS:
        quality = routing.guess_quality(trace, name)
        for values in (quality.precision, quality.recall):
            known = values[~np.isnan(values)]
            assert ((known >= 0) & (known <= 1)).all()
        if name == "oracle":
            assert (quality.precision[~np.isnan(quality.precision)] == 1).all()
    if trace.weights is None:
        with pytest.raises(TraceError, match="does not hold the routers' weights"):
            routing.usage(trace, weighted=True)


def test_reuse_is_within_a_sequence() -> None:
    # two requests in turn: each uses its own experts again, and never the other's
    trace = make_trace([[[0, 1]], [[2, 3]], [[0, 1]], [[2, 3]]])
    assert routing.reuse(trace).tolist() == [0]
    assert routing.reuse(replace(trace, sequence=np.array([0, 1, 0, 1], np.int16))).tolist() == [1]

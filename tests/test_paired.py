"""Paired differences: the interval is about the pairs, not about how prompts differ among themselves."""

from __future__ import annotations

import pytest

from moeviz.numbers.paired import paired


def test_a_small_gain_on_every_prompt_is_clear_however_much_prompts_differ() -> None:
    first = [0.2, 0.5, 0.9, 0.4]
    found = paired(first, [value + 0.01 for value in first])
    assert found is not None
    assert found.clear
    assert (found.mean, found.low, found.high) == pytest.approx((0.01, 0.01, 0.01))


def test_gains_and_losses_that_balance_are_no_difference() -> None:
    found = paired([0.5] * 4, [0.6, 0.4, 0.55, 0.45])
    assert found is not None
    assert not found.clear
    assert found.low < 0 < found.high


def test_one_prompt_says_nothing_and_other_prompts_cannot_be_paired() -> None:
    assert paired([0.5], [0.7]) is None
    with pytest.raises(ValueError, match="2 values cannot be paired with 1"):
        paired([0.5, 0.6], [0.7])

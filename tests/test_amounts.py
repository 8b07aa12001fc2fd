"""Amounts are said once, with the digits that they can have."""

from __future__ import annotations

import pytest

from moeviz import amounts


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        (amounts.size(0), "0 bytes"),
        (amounts.size(999), "999 bytes"),
        (amounts.size(1_230_000), "1.2 MB"),
        (amounts.size(38_400_000_000), "38 GB"),
        (amounts.memory(3 * 2**30), "3.0 GiB"),
        (amounts.budget(3_000 * 2**20), "2.93 GiB"),
        (amounts.budget(3 * 2**30), "3 GiB"),
        (amounts.budget(1_000), "1000 bytes"),
        (amounts.percent(None), "–"),
        (amounts.percent(0.7271), "72.7%"),
        (amounts.points(-0.04), "4.0 points"),
        (amounts.milliseconds(None), "–"),
        (amounts.milliseconds(1_234.5), "1,234 ms"),
        (amounts.milliseconds(11.34), "11.3 ms"),
        (amounts.milliseconds(0.25), "0.25 ms"),
        (amounts.milliseconds(0.0042), "0.0042 ms"),
        (amounts.milliseconds(0), "0 ms"),
        (amounts.rate(0.87), "0.87 GB/s"),
        (amounts.speed(None), "–"),
        (amounts.speed(1_290), "1,290 tokens/s"),
        (amounts.seconds_left(300), "5 min"),
        (amounts.many(1, "token"), "1 token"),
        (amounts.many(1_000, "MoE layer"), "1,000 MoE layers"),
        (amounts.many(2, "forward pass"), "2 forward passes"),
        (amounts.many(0, "copy"), "0 copies"),
        (amounts.part_of(1_200, 2_000, "token"), "1,200 of 2,000 tokens"),
        (amounts.part_of(1, 1, "expert"), "1 of 1 expert"),
        (amounts.mean(1.42, "expert"), "1.4 experts"),
        (amounts.mean(1_234, "copy"), "1,234.0 copies"),
    ],
)
def test_amounts_in_words(text: str, shown: str) -> None:
    assert text == shown

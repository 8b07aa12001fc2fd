"""Published curves: each is whole, says where it stands, and is laid where the same share has a slot."""

from __future__ import annotations

from dataclasses import replace

import pytest
from conftest import random_trace

from moeviz.charts import curves, style
from moeviz.core.settings import Settings
from moeviz.numbers.curves import curve
from moeviz.numbers.published import of_model, published


def named(name: str, scope: str = "layer"):  # type: ignore[no-untyped-def]
    return next(one for one in published() if (one.name, one.scope) == (name, scope))


def test_every_publication_says_where_its_numbers_stand() -> None:
    assert len({one.whose for one in published()}) >= 4
    assert len({(one.name, one.scope) for one in published()}) == len(published())
    for one in published():
        assert one.source in one.sentence()
        assert list(one.shares) == sorted(one.shares)
        for policy, ratios in one.hit_ratio.items():
            best = one.hit_ratio.get("belady", (1.0,) * len(ratios))
            assert all(ratio <= bound for ratio, bound in zip(ratios, best, strict=True)), (one.name, policy)
            assert list(ratios) == sorted(ratios), (one.name, policy)  # more slots, more hits


def test_figures_that_are_known_from_elsewhere_came_in_unchanged() -> None:
    qwen = named("Qwen3-30B-A3B (moe-trace)")
    assert (qwen.slots[1], qwen.hit_ratio["lru"][1], qwen.hit_ratio["belady"][1]) == (16, 0.647, 0.784)
    pool = named("gpt-oss-120b (BigMoeOnEdge)", "model")
    at = min(range(len(pool.slots)), key=lambda n: abs(pool.slots[n] * 12.61 - 3_000))
    assert [pool.hit_ratio[policy][at] for policy in ("lru", "lfu", "belady")] == [0.448, 0.436, 0.678]


@pytest.mark.parametrize(
    "wrong",
    [{"scope": "planet"}, {"slots": (1.0,)}, {"hit_ratio": {"lru": (1.2,) * 4}}, {"slots": (900.0,) * 4}],
)
def test_what_was_copied_wrongly_is_refused(wrong: dict[str, object]) -> None:
    with pytest.raises(ValueError, match="moe-trace"):
        replace(named("Qwen3-30B-A3B (moe-trace)"), **wrong)


def test_a_trace_of_the_same_model_finds_its_curves() -> None:
    assert {one.whose for one in of_model("Qwen/Qwen3-30B-A3B-Instruct")} >= {"moe-trace", "BigMoeOnEdge"}
    assert of_model("") == of_model("openai/gpt-oss-20b") == []


def test_a_published_curve_lies_where_the_same_share_of_experts_has_a_slot() -> None:
    trace = random_trace(1)  # 8 experts
    own = [curve(trace, Settings(policy)) for policy in ("lru", "belady")]
    chart = curves.over_slots(own, 4, published=[named("Qwen3-30B-A3B (moe-trace)")])
    theirs = chart.figure.data[2:]
    assert "the same share of experts" in chart.figure.layout.xaxis.title.text
    assert [line.name for line in theirs] == [
        "LRU, Qwen3-30B-A3B (moe-trace)",
        "Belady, Qwen3-30B-A3B (moe-trace)",
    ]  # its lfu and random are not among one's own
    assert list(theirs[0].x) == [0.5, 1.0, 2.0, 4.0]  # 8, 16, 32 and 64 of 128
    assert theirs[1].line.color == style.BOUND
    assert {line.line.dash for line in theirs} == {"dot"}
    row = chart.table[chart.table["slots"] == 4].iloc[0]
    assert row["LRU, Qwen3-30B-A3B (moe-trace)"] == 0.918
    assert row["lru"] == pytest.approx(own[0].hit_ratio[2])

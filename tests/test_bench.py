"""What moeviz says of itself. Speed is not asserted; memory and the form of the answers are."""

from __future__ import annotations

from pathlib import Path

import pytest

from moeviz.bench.engine import DTYPES, engine
from moeviz.bench.loading import loading
from moeviz.bench.rounds import interleaved, spread


@pytest.mark.skipif(not Path("/proc/self/io").exists(), reason="reads what Linux tells of a process")
@pytest.mark.parametrize("kind", ["one by one", "mxfp4"])
def test_loading_holds_no_more_than_dense_part_slots_and_one_layer_and_writes_experts_once(kind: str) -> None:
    found = loading([kind])
    assert 0.1 < found[f"{kind}: peak / (dense part + slots + one layer)"] <= 1.15
    assert found[f"{kind}: written by a first load / slow tier"] == pytest.approx(1, rel=0.01)
    assert found[f"{kind}: written by a second load, MB"] < 0.1


def test_rounds_start_one_further_each_time() -> None:
    order: list[str] = []
    found = interleaved(
        {name: (lambda name=name: order.append(name) or float(len(order))) for name in "abc"}, 2
    )  # type: ignore[misc]
    assert order == ["a", "b", "c", "b", "c", "a"]
    assert found == {"a": [1, 6], "b": [2, 4], "c": [3, 5]}
    assert spread(found["a"]) == {"median": 3.5, "least": 1, "most": 6}


def test_the_engine_is_compared_with_the_fastest_backend_of_transformers() -> None:
    found = engine(repeats=1, tokens=4)
    for dtype in DTYPES:
        assert found[f"{dtype}: time with guesses / without"]["median"] > 0
        assert found[f"{dtype}: on demand, time / resident's and its copies'"]["median"] > 0
        assert 0 < found[f"{dtype}: cache and policy / time of an event, half the slots"]["median"] < 1
        speeds = {
            name: found[f"{dtype}: tokens/s, {name}"]["median"] for name in ("resident", "half the slots")
        }
        rivals = [key for key in found if key.startswith(f"{dtype}: tokens/s, transformers")]
        fastest = max(rivals, key=lambda key: found[key]["median"])
        for name, speed in speeds.items():
            ratio = found[f"{dtype}: {name} / {fastest.removeprefix(f'{dtype}: tokens/s, ')}"]
            assert ratio["median"] == pytest.approx(speed / found[fastest]["median"])

"""A plan says what fits with the numbers beside it, tells speed by the formula that it shows, and is held
against the run.
"""

from __future__ import annotations

import json
import subprocess
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import jsonschema
import numpy as np
import pytest
from click.testing import CliRunner, Result
from conftest import random_trace
from hypothesis import given
from hypothesis import strategies as st
from test_headers import write
from test_metrics import timed

import moeviz
from moeviz import words
from moeviz.cli.main import main
from moeviz.core.machines import Machine
from moeviz.core.replay import replay
from moeviz.core.run import Tier
from moeviz.core.settings import Settings
from moeviz.engine import plan as engine
from moeviz.engine import planned, tiers
from moeviz.errors import SettingsError
from moeviz.files import moetrace
from moeviz.files.moecounts import Counts, to_bytes
from moeviz.numbers import metrics
from moeviz.numbers.plan import (
    BUSIEST,
    EVEN,
    USABLE,
    Compute,
    Memory,
    as_measured,
    fast_bytes,
    plan,
    slots_that_fit,
    speed,
)
from moeviz.numbers.sizes import Attention, ModelSize, MoELayerSize

LAYERS = tuple(MoELayerSize(layer, 8, 1_000, 4_000, 1_000) for layer in range(3))
SIZE = ModelSize(
    "X", "mxfp4", "float32", 2, 10_000, 5_000, LAYERS, (Attention(10, 0), Attention(10, 50)), 0, ()
)
LINK = Machine("a link", 1.0, 0.001)  # 1 ms, and 1 ms for each 1,000 bytes
RAN = {
    "expert_bytes": 1,
    "slots": 4,
    "policy": "lru",
    "hit_ratio": 0.5,
    "tokens_per_second": 10.0,
    "compute_ms": 1.0,
    "planned_most": 0.0,
}
ODD: list[dict[str, object]] = [  # what a kept run cannot be
    {"slots": "4"},
    {"slots": 4.5},
    {"policy": 1},
    {"hit_ratio": [0.5]},
    {"tokens_per_second": float("nan")},
    {"compute_ms": -1.0},
    {"on_host": "yes"},
    {"planned_most": True},
    {"other": 1},
]
RAM = Memory(100_000, "RAM", True, 100_000, 1_000_000, "/somewhere")


@pytest.fixture(autouse=True)
def data(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """What a test plans is kept in a folder of its own, and no accelerator is asked for."""
    monkeypatch.setenv("MOEVIZ_DATA", str(tmp_path / "data"))
    monkeypatch.setenv("MOEVIZ_CACHE", str(tmp_path / "cache"))
    monkeypatch.setattr(tiers, "accelerator_free", lambda *of: None)
    monkeypatch.setattr(tiers, "memory_speed", lambda: 10.0)
    return tmp_path / "data"


SCHEMA = json.loads((Path(moeviz.__file__).parent / "output.schema.json").read_text(encoding="utf-8"))


def run(*arguments: str | Path) -> Result:
    return CliRunner().invoke(main, ["plan", *map(str, arguments)])


def as_json(*arguments: str | Path) -> Any:
    result = run(*arguments, "--json")
    assert result.exit_code == 0, result.output
    values = json.loads(result.stdout)
    jsonschema.validate(values, SCHEMA | {"$ref": "#/$defs/plan"})
    return values


@given(st.integers(0, 200_000), st.integers(1, 10_000))
def test_the_slots_that_fit_are_the_most_that_do(fast: int, context: int) -> None:
    found = slots_that_fit(SIZE, fast, context)
    assert found == 0 or fast_bytes(SIZE, found, context) <= USABLE * fast
    assert found == 8 or fast_bytes(SIZE, found + 1, context) > USABLE * fast


def test_memory_is_dense_part_slots_and_a_windowed_cache() -> None:
    assert fast_bytes(SIZE, 2, 100) == 10_000 + 2 * 3 * 4_000 + (100 + 50) * 10 * 4


def test_speed_is_by_the_formula_that_is_shown() -> None:
    found = speed(SIZE, 0.5, LINK, 4.0)
    assert found.misses == 3.0  # half of two experts in three layers
    assert found.copies_ms == pytest.approx(
        6.0
    )  # of 1,000 bytes that cross the link, not of 4,000 in the slot
    assert found.most == pytest.approx(1_000 / 6)
    assert found.least == pytest.approx(1_000 / 10)
    assert speed(SIZE, 0.5, LINK, 4.0, unpack_ms=2.0).copies_ms == pytest.approx(3 * (1 + 1 + 2))
    assert speed(SIZE, 0.5, LINK, None).least is None
    assert speed(SIZE, 1.0, LINK, None).most is None  # no copy, and compute is not known: no limit


def test_a_traces_hit_ratios_are_those_of_a_replay() -> None:
    trace = random_trace(1, layers=3)
    found = plan(
        "m", SIZE, RAM, context=10, slots=[3, 5], trace=trace, link=LINK, compute=Compute(1.0, "said")
    )
    for row in found.rows:
        for one in row.expected:
            replayed = metrics.counts(replay(trace, Settings(one.policy, row.slots)), 1).hit_ratio
            assert one.hit_ratio == pytest.approx(replayed)
    assert [one.policy for one in found.rows[0].expected] == ["lru", "lfu", "belady"]
    assert not found.notes


def test_a_trace_of_another_shape_is_not_scaled_but_refused_in_words() -> None:
    found = plan("m", SIZE, RAM, context=10, slots=[4], trace=random_trace(1, experts=16))
    assert [(one.policy, one.hit_ratio) for one in found.rows[0].expected] == [(EVEN, 0.5)]
    assert "of another model" in found.notes[0]
    assert "chooses 2 of 16 experts and this model 2 of 8" in found.notes[0]
    deeper = plan("m", SIZE, RAM, context=10, slots=[4], trace=random_trace(1, layers=5))
    assert "of another model, or of a part of one (" in deeper.notes[0]
    assert "it has 5 MoE layers of 8 experts, and this one 3" in deeper.notes[0]
    assert deeper.rows[0].expected[0].policy == "lru"


def test_counts_tell_what_the_busiest_experts_hit_and_nothing_of_order(tmp_path: Path) -> None:
    counts = np.array([[6, 1, 1, 0, 0, 0, 0, 0], [1, 1, 1, 1, 1, 1, 1, 1], [0, 0, 0, 0, 0, 0, 8, 0]], float)
    found = plan("m", SIZE, RAM, context=10, slots=[2, 8], counts=counts)
    expected = [(one.policy, one.hit_ratio) for row in found.rows for one in row.expected]
    assert expected == [(BUSIEST, pytest.approx((7 + 2 + 8) / 24)), (BUSIEST, 1.0)]
    assert "nothing is told of lru, lfu and belady" in found.notes[1]
    both = plan("m", SIZE, RAM, context=10, slots=[2], counts=counts, trace=random_trace(1, layers=3))
    assert [one.policy for one in both.rows[0].expected] == ["lru", "lfu", "belady", BUSIEST]
    with pytest.raises(SettingsError, match="of 3 experts a layer and this model has 8"):
        plan("m", SIZE, RAM, context=10, counts=counts[:, :3])
    path = tmp_path / "popular.moecounts"
    path.write_bytes(to_bytes(Counts(np.ones((8, 8)))))
    (row,) = as_json("--slots", "4", "--calibration", path)["rows"]
    assert [(one["policy"], one["hit_ratio"]) for one in row["expected"]] == [(BUSIEST, 0.5)]
    refused = run("--calibration", tmp_path / "none.moecounts")
    assert refused.exit_code == 2
    assert "none.moecounts" in refused.stderr


def test_what_does_not_fit_is_planned_at_the_least_slots_and_says_so() -> None:
    found = plan("m", SIZE, replace(RAM, fast=20_000), context=10)
    assert found.slots < SIZE.k
    assert [(row.slots, row.fits) for row in found.rows] == [(2, False)]
    text = words.lines(engine.rows(found))
    assert "a token needs 2, so that it does not run in this memory" in text
    assert "does NOT fit: fast tier 34 KiB of 20 KiB" in text
    with pytest.raises(SettingsError, match="Choose at least 2 slots"):
        plan("m", SIZE, RAM, context=10, slots=[1])


def test_host_memory_has_to_hold_slots_and_slow_tier_where_both_are_in_it() -> None:
    need = fast_bytes(SIZE, 2, 10) + SIZE.slow_tier
    for host, beside, alone in ((need, False, True), (int(need / USABLE) + 1, True, True)):
        both = plan("m", SIZE, replace(RAM, host=host), context=10, slots=[2])
        apart = plan("m", SIZE, replace(RAM, host=host, fast_is_host=False), context=10, slots=[2])
        assert (both.rows[0].host_fits, apart.rows[0].host_fits) == (beside, alone)
    assert not plan("m", SIZE, replace(RAM, disk=SIZE.slow_tier), context=10).disk_fits


def test_what_is_packed_is_said_with_what_unpacking_takes_and_from_which_link_on_it_does_not_pay(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked: list[tuple[object, ...]] = []
    monkeypatch.setattr(engine, "unpack_ms", lambda *of: asked.append(of) or 2.0)
    name = "model.layers.0.mlp.experts.{}.up_proj.weight"
    tensors = {name.format(n): ("F8_E4M3", (256, 128)) for n in range(2)}
    tensors |= {f"{one}_scale_inv": ("F32", (2, 1)) for one in tensors}
    quantised = {"quantization_config": {"quant_method": "fp8"}}
    config = {"num_hidden_layers": 1, "num_experts_per_tok": 1, "dtype": "bfloat16", "hidden_size": 128}
    folder = write(tmp_path / "m", config | quantised | {"model_type": "mixtral"}, tensors)
    weights, found = 256 * 128, {}
    for experts, moved, said in (
        (
            "lossless",
            weights + 2 * 4,
            "32 KiB an expert, in fp8; lossless; unpacked in 2.00 ms, measured here",
        ),
        ("unpacked", 4 * weights, "128 KiB an expert, as in a slot; lossless"),
        ("int8", weights + 256 * 4, "33 KiB an expert, in int8; LOSSY; unpacked in 2.00 ms, measured here"),
        (
            "int4",
            weights // 2 + 512 * 4,
            "18 KiB an expert, in int4; LOSSY; unpacked in 2.00 ms, measured here",
        ),
    ):
        found = as_json(folder, "--experts", experts, "--link", "1", "--slots", "1")
        assert found["size"]["layers"][0]["moved"] == moved
        (expected,) = found["rows"][0]["expected"]
        unpacking = 0 if experts == "unpacked" else 2
        assert expected["band"]["copies_ms"] == pytest.approx(0.5 * (moved / 1e6 + unpacking))
        assert any("GB/s they come sooner with --experts" in note for note in found["notes"]) == bool(
            unpacking
        )
        lines = run(folder, "--experts", experts).stdout.splitlines()
        assert next(line for line in lines if line.startswith("On disk")).endswith(said)
    assert set(asked) == {(kept, "float32", ((256, 128),)) for kept in ("fp8", "int8", "int4")}
    monkeypatch.setattr(tiers, "accelerator_free", lambda *of: 2**30)
    assert any("not known and not counted" in note for note in as_json(folder)["notes"])


def test_the_last_run_tells_what_unpacking_takes(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(engine, "unpack_ms", lambda *of: 2.0)
    trace = replace(random_trace(1), model="moeviz demo model", expert_bytes=1_179_648)
    moved = as_json("--experts", "int8", "--dtype", "float32")["size"]["layers"][0]["moved"]
    ran = timed(replay(replace(trace, link_bytes=moved), Settings("lru", 4)))
    planned.settle(trace, replace(ran, tier=Tier("disk", 1.0, 1.0, True, unpack_ms=0.5)))
    found = as_json("--experts", "int8", "--dtype", "float32")["unpacking"]
    assert (found["ms"], found["source"]) == (0.5, "as the last run of this model measured it here")
    assert as_json("--experts", "int4", "--dtype", "float32")["unpacking"]["ms"] == 2.0


def test_a_run_from_before_unpacking_was_told_apart_is_not_charged_for_it_twice(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(engine, "unpack_ms", lambda *of: 2.0)
    wanted: dict[str, Any] = {"experts": "int8", "dtype": "float32", "slots": [4]}
    moved = engine.make(**wanted).size.mean_moved
    trace = replace(random_trace(1), model="moeviz demo model", expert_bytes=1_179_648, link_bytes=moved)
    ran = timed(replay(trace, Settings("lru", 4)))
    for unpack_ms in (0.0, 0.5):
        own = replace(ran, tier=Tier("disk", 3.0, 1.0, True, unpack_ms=unpack_ms))
        found = engine.make(**wanted, trace=trace, run=own)
        band = found.rows[0].expected[0].band
        assert band is not None
        assert band.copies_ms / band.misses == pytest.approx(3.0)  # as the run measured it, either way
        assert (found.unpacking is None) == (not unpack_ms)
        assert any("measured the two as one" in note for note in found.notes) == (not unpack_ms)
    assert engine.make(**wanted, trace=trace, run=own, link="1").unpacking is not None


def test_a_run_on_a_cpu_says_nothing_of_a_card() -> None:
    trace = replace(random_trace(1), model="moeviz demo model", expert_bytes=1_179_648 // 2)
    card = ("--device", "cuda", "--fast", "64MiB", "--fast-speed", "1000", "--link", "1,0.1")
    as_json(*card)  # is remembered
    ran = timed(replay(trace, Settings("lru", 8)))
    planned.settle(trace, ran)
    assert as_json(*card[:4])["compute"] is None
    settled = planned.last("moeviz demo model")
    assert settled is not None
    assert settled.planned_hit_ratio is None
    planned.settle(trace, ran, on_host=False)
    assert as_json(*card[:4])["compute"]["source"] == "as the last run of this model measured it here"
    settled = planned.last("moeviz demo model")
    assert settled is not None
    assert settled.planned_hit_ratio is not None
    assert as_json("--fast", "64MiB")["size"]["dtype"] == "float32"  # what a CPU chose is not known


def test_every_fits_stands_beside_its_numbers() -> None:
    for line in words.lines(engine.rows(plan("m", SIZE, RAM, context=10, slots=[2, 8]))).splitlines():
        for clause in line.split(";"):
            assert "fit" not in clause.lower() or any(digit in clause for digit in "0123456789"), line


def test_a_measured_tier_gives_its_own_copy_time_back() -> None:
    link = as_measured("x", 2.0, 1.0, 1_000_000)
    assert link.copy_ms(1_000_000) == pytest.approx(2.0)
    assert not link.nominal


# this machine


def test_the_bundled_model_is_planned_without_torch() -> None:
    code = (
        "import sys; from moeviz.cli.main import main; "
        "sys.argv = ['moeviz', 'plan', '--json', '--fast', '64MiB', '--context', '64']\n"
        "try:\n main()\nexcept SystemExit as end:\n assert not end.code\n"
        "assert not {'torch', 'transformers', 'pandas'} & set(sys.modules)"
    )
    subprocess.run([sys.executable, "-c", code], check=True, capture_output=True)


def test_the_commands_numbers_add_up() -> None:
    found = as_json("--fast", "64MiB", "--context", "64", "--link", "SATA SSD", "--slots", "4")
    assert found["memory"]["fast"] == 64 * 2**20
    assert found["size"]["all"] == found["size"]["dense"] + 64 * 3 * 384 * 256 * 4
    (row,) = found["rows"]
    assert row["fast"] == found["size"]["dense"] + 32 * 3 * 384 * 256 * 4 + found["cache_bytes"]
    assert row["fits"]
    assert found["compute"]["ms"] == pytest.approx(  # the dense part and two experts a layer, at 10 GB/s
        (found["size"]["dense"] + 16 * 3 * 384 * 256 * 4) / 10e6
    )
    assert row["expected"][0]["band"]["copies_ms"] == pytest.approx(8 * (0.15 + 1_179_648 / 0.55e6))
    assert any("misses x (latency + bytes / bandwidth)" in sentence for sentence in found["assumptions"])


def test_a_context_is_no_longer_than_the_model_takes() -> None:
    assert as_json("--context", "1000000")["context"] == 2_048


def test_a_recorded_run_of_the_model_brings_link_and_compute() -> None:
    sample = Path(__file__).parent.parent / "sample_traces" / "bible.moetrace"
    found = as_json("--trace", sample, "--slots", "4", "--dtype", "float32")
    assert "as the trace's run measured it" in found["link"]["name"]
    machine = moetrace.load(sample)[0].recorded["machine"]
    assert found["compute"]["source"] == f"as the trace's run measured it on {machine}"


def test_a_checkpoint_of_an_accelerator_is_planned_in_its_own_dtype(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(tiers, "accelerator_free", lambda *of: 2**30)
    config = {"model_type": "mixtral", "num_hidden_layers": 1, "num_experts_per_tok": 1, "dtype": "bfloat16"}
    name = "model.layers.0.mlp.experts.0.up_proj.weight"
    folder = write(tmp_path / "m", config, {name: ("BF16", (8, 4))})
    found = as_json(folder)
    assert (found["size"]["dtype"], found["memory"]["fast"], found["compute"]) == ("bfloat16", 2**30, None)
    assert as_json(folder, "--fast-speed", "100")["compute"]["ms"] == pytest.approx(64 / 100e6)


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["--fast", "many"], "The size 'many' is not known. Write for example 50GB"),
        (["--fast", "9" * 30], "is not known"),
        (["--slots", "2;3"], "is no list of counts"),
        (["--slots", "1"], "Choose at least 2 slots"),
        (["--link", "string"], "link 'string' is not known"),
        (["--fast-speed", "nan"], "not a finite number"),
        (["--trace", "no.moetrace"], "no.moetrace"),
        (["no/such/model"], "There is no folder no/such/model"),
        (["--device", "cuda"], "Nothing here says how much memory of device 'cuda' is free"),
        (["--device", "cuda:1"], "Nothing here says how much memory of device 'cuda:1' is free"),
        (["--device", "abacus"], "device 'abacus' is not available here"),
        (["sample_traces"], "has no config.json"),
    ],
)
def test_bad_input_is_one_message(arguments: list[str], said: str) -> None:
    result = run(*arguments)
    assert result.exit_code == 2
    assert said in result.stderr
    assert "Traceback" not in result.stderr


def test_a_card_of_another_machine_is_planned_as_one(monkeypatch: pytest.MonkeyPatch) -> None:
    card = as_json("--device", "cuda", "--fast", "32MiB")
    assert (card["size"]["dtype"], card["memory"]["fast_is_host"]) == ("bfloat16", False)
    assert card["memory"]["fast_what"] == "as --fast says, of an accelerator"
    ram = as_json("--fast", "32MiB")["memory"]
    assert ram["fast_is_host"]
    assert ram["fast_what"] == "as --fast says, of RAM (of a card: --device cuda)"
    monkeypatch.setattr(tiers, "accelerator_free", lambda *of: 2**30)
    assert as_json()["memory"]["fast"] == 2**30
    assert as_json("--device", "cpu")["memory"]["fast_is_host"]
    monkeypatch.setattr(tiers, "accelerator_free", lambda kind, number: (number + 1) * 2**30)
    second = as_json("--device", "cuda:1")["memory"]
    assert (second["fast"], second["fast_what"]) == (2**31, "free on the accelerator cuda:1")
    for unknown in ("abacus", "cuda:", "cuda:x", "cuda:1:2"):
        with pytest.raises(SettingsError, match=r"is not known\. Choose one of auto, cpu, cuda"):
            engine.make(device=unknown)


def test_a_damaged_run_is_left_out_of_a_plan_with_a_note_and_the_next_run_is_kept(data: Path) -> None:
    data.mkdir()
    name = "moeviz demo model"
    trace = replace(random_trace(1), model=name, expert_bytes=1_179_648)
    found = as_json("--dtype", "float32", "--slots", "4")
    assert not any("damaged" in note for note in found["notes"])
    kept = json.loads((data / "plans.json").read_text())
    for one in kept[name]["expected"].values():
        one["planned_most"] = "fast"
    for odd in ODD:
        (data / "plans.json").write_text(json.dumps({name: {**kept[name], "ran": {**RAN, **odd}}}))
        result = run()
        assert result.exit_code == 0, result.output
        assert "is damaged, and is left out: " in result.output
        assert "Last run" not in result.output
    planned.settle(trace, timed(replay(trace, Settings("lru", 4))))
    settled = planned.last(name)
    assert settled is not None
    assert settled.planned_most is None
    (data / "plans.json").write_text(json.dumps({name: {"ran": {**RAN, "planned_hit_ratio": 0.5}}}))
    assert "Last run" in run().output


def test_a_context_beyond_the_models_own_is_said_to_be_cut() -> None:
    texts = [dict(engine.rows(engine.make(context=asked)))["Keys and values"] for asked in (4_096, 100)]
    assert texts[0].endswith("for 2,048 tokens, this model's own limit: it takes no more")
    assert texts[1].endswith("for 100 tokens")


def test_the_last_run_tells_what_compute_takes() -> None:
    trace = replace(random_trace(1), model="moeviz demo model", expert_bytes=1_179_648)
    planned.settle(trace, timed(replay(trace, Settings("lru", 4))))
    found = as_json("--dtype", "float32")
    assert found["compute"]["source"] == "as the last run of this model measured it here"
    assert found["last_run"]["slots"] == 4


def test_on_a_cpu_the_dtype_is_that_of_the_last_run_and_float32_before_there_was_one() -> None:
    before = as_json()
    assert before["size"]["dtype"] == "float32"
    assert any("the faster of float32 and bfloat16" in note for note in before["notes"])
    trace = replace(random_trace(1), model="moeviz demo model", expert_bytes=1_179_648 // 2)
    planned.settle(trace, timed(replay(trace, Settings("lru", 4))))
    after = as_json()
    assert after["size"]["dtype"] == "bfloat16"
    assert not any("the faster of" in note for note in after["notes"])

"""What moeviz says of itself. Speed is not asserted; memory and the form of the answers are."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
from click.testing import CliRunner

from moeviz.bench import cli, frames, noting
from moeviz.bench.engine import (
    bundled,
    cache,
    first_token,
    many_experts,
    mixtral,
    on_demand,
    oracle,
    prefill,
    racing,
    recording,
)
from moeviz.bench.engine.rows import DTYPES, ROWS, Work, engine
from moeviz.bench.loading import checking, loading
from moeviz.bench.pages import pages
from moeviz.bench.replay import replaying
from moeviz.bench.rounds import interleaved, spread
from moeviz.engine.client import Job
from moeviz.engine.made import Made
from moeviz.errors import ModelError


@pytest.mark.skipif(not Path("/proc/self/io").exists(), reason="reads what Linux tells of a process")
@pytest.mark.parametrize("kind", ["one by one", "mxfp4"])
def test_loading_holds_no_more_than_dense_part_slots_and_one_layer_and_writes_experts_once(kind: str) -> None:
    found = loading([kind])
    assert 0.1 < found[f"{kind}: peak / (dense part + slots + one layer)"] <= 1.15
    assert found[f"{kind}: written by a first load / slow tier"] == pytest.approx(1, rel=0.01)
    assert found[f"{kind}: written by a second load, MB"] < 0.1


def test_what_it_costs_to_check_an_expert_is_told_beside_what_it_costs_to_read_it() -> None:
    found = checking()
    assert [value["median"] > 0 for value in found.values()] == [True, True]
    assert found["ms to check it, the first time"]["least"] > 0  # each of them, not only some


def test_rounds_start_one_further_each_time() -> None:
    order: list[str] = []
    found = interleaved(
        {name: (lambda name=name: order.append(name) or float(len(order))) for name in "abc"}, 2
    )  # type: ignore[misc]
    assert order == ["a", "b", "c", "b", "c", "a"]
    assert found == {"a": [1, 6], "b": [2, 4], "c": [3, 5]}
    assert spread(found["a"]) == {"median": 3.5, "least": 1, "most": 6}
    assert spread([2.0], ">= 1") == {"median": 2, "least": 2, "most": 2, "goal": ">= 1"}


ONCE = Work(repeats=1, tokens=3)


def test_the_engine_is_compared_with_the_fastest_backend_of_transformers() -> None:
    found = bundled.measure(ONCE)
    for dtype in DTYPES:
        rivals = [key for key in found if key.startswith(f"{dtype}: tokens/s, transformers")]
        (fastest,) = (
            key for key in rivals if f"{dtype}: resident / {key.partition('tokens/s, ')[2]}" in found
        )
        for name in ("resident", "half the slots"):
            ratio = found[f"{dtype}: {name} / {fastest.removeprefix(f'{dtype}: tokens/s, ')}"]
            speed = found[f"{dtype}: tokens/s, {name}"]["median"]
            assert ratio["median"] == pytest.approx(speed / found[fastest]["median"])


def test_a_pass_counts_by_its_best_round_and_a_round_by_its_median() -> None:
    """What holds the machine up in one round, here the second, is no part of a pass."""
    found = {"ours": [[1, 2, 3], [9, 9, 9]], "transformers, x": [[2, 4, 6], [20, 4, 6]], "slow": [[50] * 3]}
    assert racing.undisturbed(found["ours"]) == 2
    assert racing.fastest(found | {"transformers, y": [[5] * 3]}) == "transformers, x"
    assert racing.faster("m", found, "ours", "transformers, x", ">= 1") == {
        "m: ours / transformers, x": {**spread([2, 6 / 9]), "goal": ">= 1"},
        "m: ours / transformers, x, each pass at its best": {**spread([2.0]), "goal": ">= 1"},
    }


def test_every_explore_page_is_timed_on_a_sample_and_on_a_made_up_trace() -> None:
    found = pages(8, 1)
    assert list(found) == [
        f"s, {page}, {name}"
        for page in ("experts", "timeline", "prefetch", "what_if")
        for name in ("a sample", "8 tokens")
    ]
    assert all(value["least"] > 0 for value in found.values())


def test_every_row_of_a_replay_is_told_and_lasts() -> None:
    found = replaying(repeats=1, tokens=12)
    assert found.pop("accesses") == 12 * 24 * 4
    assert all(figure["median"] > 0 for figure in found.values())
    for part in (
        "ms, replay, scope layer, 8 slots, slowest of 12",
        "ms, replay, scope model, 192 slots, slowest of 18",
        "ms, hits only, scope model, 192 slots, slowest of 12",
        "ms, 12 policies x 29 slot counts, scope layer",
        "times as fast as moe-policylang's replay_policies, lru",
        "times as long for 10 times the tokens, lru",
        "us of policy work a live event, 1,024 slots, slowest of 18",
    ):
        assert part in found


def test_a_package_that_only_benches_need_is_named_where_it_is_missing(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setitem(sys.modules, "cachetools", None)
    done = CliRunner().invoke(cli.bench, ["replay", "--tokens", "2", "--repeats", "1"])
    assert done.exit_code == 2
    assert "bench replay needs cachetools, which is not installed. pip install -r" in done.stderr


def test_models_are_made_measured_and_removed(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path))
    small = Made("qwen3_moe", 2, 8, 4, hidden=64, inner=32)
    found = many_experts.measure(ONCE, [small])
    assert small.expert_bytes == 3 * 64 * 32 * 4
    assert any(key.startswith(f"{small.label}: resident / transformers") for key in found)

    small = Made("mixtral", 2, 4, 2, hidden=64, inner=64, dtype="bfloat16")
    found = mixtral.measure(ONCE, small)
    ratios = [key for key in found if " / " in key and "goal" in found[key]]
    rivals = [key.rpartition(" / ")[2].partition(", each")[0] for key in ratios]
    assert rivals[2:] == ["accelerate's disk offload"] * 4
    assert 0 <= found[f"Mixtral of {small.label}: hit ratio of decode at half the slots"] <= 1
    assert not list(tmp_path.iterdir())


def test_a_model_that_does_not_fit_is_left_out_in_words() -> None:
    (said,) = mixtral.measure(ONCE, Made("mixtral", 1_000, 1_000, 2, hidden=10_000, inner=10_000)).values()
    assert "left out: it needs" in said


def test_copies_are_weighed_against_decoding_from_slots(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(on_demand, "DTYPES", DTYPES[:1])
    found = on_demand.measure(ONCE)
    assert found["float32: on demand, time / resident's and its copies'"]["median"] > 0


def test_a_stall_is_held_against_copies_less_the_time_before_them() -> None:
    """Two layers; in decode 20 ns of stall on demand for the first, which takes 30 more: a pre-fetch of 50 ns
    for the second then costs 20 at least."""
    run = SimpleNamespace(
        settings=SimpleNamespace(lookahead=1),
        passes=SimpleNamespace(phase=np.array([0, 1])),
        events=SimpleNamespace(forward_pass=np.array([0, 0, 1, 1]), layer=np.array([0, 1, 0, 1])),
        loads=SimpleNamespace(
            event=np.array([2, 2]), layer=np.array([0, 1]), speculative=np.array([False, True])
        ),
        times=SimpleNamespace(
            load_start=np.array([0, 20]),
            load_end=np.array([20, 70]),
            event_start=np.array([0, 5, 10, 60]),
            event_stall=np.array([0, 0, 20, 25]),
        ),
    )
    assert oracle.stall_and_bound(run) == (45, 40)  # type: ignore[arg-type]


def test_an_oracle_is_measured_on_a_paced_link() -> None:
    found = oracle.measure(Work(repeats=1, tokens=4), "0.5")
    assert {value["median"] > 0 for key, value in found.items() if "stall / bound" in key} == {True}


def test_recording_is_measured_against_a_run_that_records_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(recording, "DTYPES", DTYPES[:1])
    found = recording.measure(Work(repeats=1, tokens=4))
    assert [value["median"] > 0 for value in found.values()] == [True] * 4


def test_the_cache_is_measured_for_every_policy(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(cache, "POLICIES", ["lru", "arc"])
    monkeypatch.setattr(cache, "DTYPES", DTYPES[:1])
    found = cache.measure(ONCE, slots=(8, 6_144), passes=1)
    for count in ("8", "6,144"):
        assert found[f"cache, {count} slots, slowest of 2: us an event"]["median"] > 0
    assert found["cache, arc: us an event, at its slowest slots"]["median"] > 0
    assert 0 < found["float32: cache, lru, half the slots: share of an event"]["median"] < 1


def test_a_prompt_is_measured_at_half_the_slots() -> None:
    found = prefill.measure(ONCE, tokens=30)
    assert found["prefill of 30 tokens: time at half the slots on disk / resident"]["median"] > 0


def test_the_first_thing_that_a_process_prints_is_waited_for_and_a_failure_is_none() -> None:
    assert 0 < first_token.seconds_to_output(["-c", "print(1)"]) < 60
    with pytest.raises(subprocess.CalledProcessError):
        first_token.seconds_to_output(["-c", "raise SystemExit(3)"])


def test_a_model_that_run_refuses_is_refused_in_words(monkeypatch: pytest.MonkeyPatch) -> None:
    def refused(command: list[str]) -> float:
        raise subprocess.CalledProcessError(2, command)

    monkeypatch.setattr(first_token, "seconds_to_output", refused)
    with pytest.raises(ModelError, match=r"exit code 2 before .* says: python -m moeviz run no/such"):
        first_token.measure(Work(repeats=1, tokens=2, model="no/such"))


def test_an_oracle_that_nothing_has_to_be_waited_for_is_no_ratio(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(oracle, "stall_and_bound", lambda run: (3.0, 0.0))
    found = oracle.measure(Work(repeats=1, tokens=2), "0.5")
    assert found["oracle, lookahead 1, link of 0.5 (GB/s,ms): stall / bound"].startswith("not measured: ")


def test_the_rows_that_were_named_are_measured_alone_and_said(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    for name in ROWS:
        monkeypatch.setattr(
            f"moeviz.bench.engine.{name.replace('-', '_')}.measure",
            lambda work, name=name: {name: work.tokens},
        )
    assert list(engine(ONCE, ["cache", "oracle"])) == [{"cache": 3}, {"oracle": 3}]
    said = capsys.readouterr()
    assert said.err == f"row 1 of 2: {ROWS['cache']}\nrow 2 of 2: {ROWS['oracle']}\n"
    assert not said.out  # where a program reads JSON
    assert [name for row in engine(ONCE) for name in row] == list(ROWS)


def test_an_accelerator_is_measured_where_it_is_and_what_needs_a_cpu_is_left_out_in_words() -> None:
    (said,) = oracle.measure(Work(device="cuda:0")).values()
    assert said == "left out: a link can be paced with device cpu alone, not cuda:0"
    with pytest.raises(ModelError, match=r"'npu' is not available here\. Choose cpu, or auto"):
        list(engine(Work(device="npu"), ["oracle"]))


def test_all_prints_every_table_and_says_what_could_not_be_measured(monkeypatch: pytest.MonkeyPatch) -> None:
    def broken(**options: object) -> Iterator[dict[str, object]]:
        yield {"first": 1}
        raise RuntimeError("there is no browser\nat all")

    for name in cli.MEASURES:
        monkeypatch.setitem(cli.MEASURES, name, lambda name=name, **options: {name: len(options)})
    monkeypatch.setitem(cli.MEASURES, "stage", broken)
    result = CliRunner().invoke(cli.bench, ["all", "--json"])
    found = json.loads(result.stdout)
    assert list(found) == list(cli.MEASURES)
    assert found["engine"] == {"engine": 5}  # every option of the command by its default
    assert found["stage"] == {"first": 1, "not measured": "there is no browser"}
    lines = CliRunner().invoke(cli.bench, ["all"]).stdout
    assert [f"\n{name}: " in lines for name in cli.MEASURES] == [True] * len(cli.MEASURES)
    assert "there is no browser" in lines


def test_what_was_measured_is_printed_before_the_rest_is(monkeypatch: pytest.MonkeyPatch) -> None:
    def cut_off(**options: object) -> Iterator[dict[str, object]]:
        yield {"first": 1}
        raise KeyboardInterrupt

    monkeypatch.setitem(cli.MEASURES, "stage", cut_off)
    assert CliRunner().invoke(cli.bench, ["stage"]).stdout.split()[:2] == ["first", "1"]


def test_a_figure_is_printed_with_its_spread_and_goal(capsys: pytest.CaptureFixture[str]) -> None:
    cli.show({"a": spread([1.0, 2.0, 3.0], "<= 1"), "b": 4.0, "c": "words"})
    assert [line.split(None, 1)[1] for line in capsys.readouterr().out.splitlines()] == [
        "2 [1 to 3]  goal <= 1",
        "4",
        "words",
    ]


def test_a_pass_is_shown_by_the_first_picture_that_holds_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert frames.first_shown([(1, 10.0), (0, 20.0), (3, 30.0)], 4) == [
        (0, 10.0),
        (1, 10.0),
        (2, 30.0),
        (3, 30.0),
    ]
    monkeypatch.setattr(Job, "receive", lambda self, message: None)
    noting.note(tmp_path / noting.NOTES)
    job = Job("watch", "", [])
    for event in ("loaded", "pass", "pass"):
        job.receive({"event": event})
    assert len((tmp_path / noting.NOTES).read_text(encoding="ascii").split()) == 2

"""The command line: keys that programs rely on, and one clear message with exit code 2 for what cannot be
done.
"""

from __future__ import annotations

import errno
import itertools
import json
import os
import re
import signal
import sys
import tomllib
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import jsonschema
import numpy as np
import pytest
import tiny_models
from click.testing import CliRunner, Result
from conftest import random_trace

import moeviz
from moeviz.cli.main import main
from moeviz.core.replay import replay
from moeviz.core.settings import Settings
from moeviz.core.trace import Trace
from moeviz.engine import session
from moeviz.errors import StoreError
from moeviz.files.moetrace import load as load_file
from moeviz.words import GLOSSARY, MISS_KINDS

KEYS = {
    "tokens",
    "text",
    "token_ids",
    "accesses",
    "hits",
    "late_hits",
    "misses",
    "hit_ratio",
    "prefill",
    "decode",
    "evictions",
    "tokens_per_second",
    "ttft_ms",
    "tpot_ms_median",
    "tpot_ms_p95",
    "stall_ms_per_token",
    "transfer_ms_per_token",
    "compute_ms_per_token",
    "bytes_demand",
    "bytes_prefetch_useful",
    "bytes_prefetch_wasted",
    "fast_tier_bytes",
    "tier",
    "lossless",
}
SCHEMA = json.loads((Path(moeviz.__file__).parent / "output.schema.json").read_text(encoding="utf-8"))
COUNTS = {"accesses", "hits", "late_hits", "misses", "hit_ratio"}


def run(*arguments: str | Path) -> Result:
    return CliRunner().invoke(main, [str(argument) for argument in arguments])


def as_json(*arguments: str | Path) -> Any:
    """What a command says to programs; it has to be what the schema promises."""
    result = run(*arguments, "--json")
    assert result.exit_code == 0, result.output
    values = json.loads(result.stdout)
    jsonschema.validate(values, SCHEMA | {"$ref": f"#/$defs/{arguments[0]}"})
    return values


@pytest.fixture
def trace(tmp_path: Path) -> Path:
    path = tmp_path / "a.moetrace"
    random_trace(3).save(path)
    return path


def test_run_then_replay_then_compare(tmp_path: Path) -> None:
    """The bundled model, three times the same tokens."""
    out = tmp_path / "out.moetrace"
    words = ["--prompt", "And it came", "--max-new-tokens", "6", "--past-end"]
    live = as_json("run", *words, "--policy", "lfu", "--slots", "3", "--prefetch", "next-gate", "--out", out)
    assert live.keys() >= KEYS
    assert live["prefill"].keys() >= COUNTS
    assert live["decode"].keys() >= COUNTS
    assert live["tokens"] == len(live["token_ids"]) == 6
    assert live["lossless"] is True
    assert live["tier"].keys() == {"kind", "latency_ms", "gigabytes_per_second", "page_cache_bypassed"}
    assert live["hits"] + live["late_hits"] + live["misses"] == live["accesses"]

    again = as_json("replay", out, "--policy", "lfu", "--slots", "3", "--prefetch", "next-gate")
    assert again.keys() >= KEYS
    assert again["misses"] == live["misses"]
    assert again["evictions"] == live["evictions"]
    assert again["token_ids"] == live["token_ids"]
    assert again["tokens_per_second"] is None

    many = as_json(
        "compare",
        *words,
        "--setting",
        "policy=lru,slots=3",
        "--setting",
        "policy=belady,slots=3",
        "--repeats",
        "1",
    )
    assert [row["label"] for row in many["results"]] == [
        "lru, 3 slots",
        "belady, 3 slots",
        "resident",
        "on-demand",
        "whole-layer",
    ]
    assert all(
        row["lossless"] and row["equals_replay"] and row.keys() >= KEYS - {"text", "token_ids"}
        for row in many["results"]
    )
    assert many["token_ids"] == live["token_ids"]


def test_a_run_that_cannot_be_saved_is_told_all_the_same(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    out = tmp_path / "out.moetrace"
    replace_file = os.replace

    def full(part: str, path: Path) -> None:
        if path == out:
            raise OSError(errno.ENOSPC, "No space left on device")
        replace_file(part, path)

    words = ["--prompt", "And it", "--max-new-tokens", "3", "--out", out, "--no-verify"]
    monkeypatch.setattr(os, "replace", full)
    report = run("run", *words)
    assert report.exit_code == 2
    assert "And it" in report.stdout
    assert "Hit ratio" in report.stdout
    assert report.stderr == (
        f"Error: {out} cannot be written in the folder {tmp_path}: No space left on device. Make room there, "
        "or choose a --out in another folder.\n"
    )
    assert list(tmp_path.iterdir()) == []


def test_the_saved_trace_holds_the_run(tmp_path: Path) -> None:
    out = tmp_path / "out.moetrace"
    report = run("run", "--prompt", "And it", "--max-new-tokens", "3", "--out", out, "--no-verify")
    assert report.exit_code == 0
    assert f"saved      {out}" in report.output
    saved, recorded = load_file(out)
    assert recorded is not None
    assert recorded.measured
    assert saved.prompt == "And it"


def test_replay_reports_in_words(trace: Path) -> None:
    result = run("replay", trace, "--policy", "lfu", "--slots", "3")
    assert result.exit_code == 0
    assert "lfu, 3 slots" in result.output
    assert "accesses hit" in result.output
    told = [kind for kind in MISS_KINDS if kind and GLOSSARY[kind].partition(": ")[2] in result.output]
    assert told == ["cold", "capacity"]  # what a kind means is said of those that occur


def test_slots_that_are_not_given_suit_the_trace(tmp_path: Path) -> None:
    file, out = tmp_path / "wide.moetrace", tmp_path / "out.html"
    random_trace(3, layers=2, experts=24, k=5).save(file)
    assert "lru, 8 slots\n" in run("replay", file).output
    assert "lru, 16 slots in all" in run("replay", file, "--scope", "model").output
    assert "lru, 5 slots" in run("replay", file, "--slots", "5").output
    assert ": lru, 8 slots, replayed" in run("export", file, "--format", "report", "--out", out).output
    assert run("export", file, "--format", "stage", "--out", out, "--force").exit_code == 0
    assert "replayed under lru, 8 slots" in run("diff", file, file).output


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["run", "--model", "x"], "There is no option --model. MODEL is given without a flag: "),
        (["plan", "--model=x"], "There is no option --model. MODEL is given without a flag: "),
        (["replay", "TRACE", "--policy", "nonsense"], "policy 'nonsense' is not known. Choose one of lru"),
        (["replay", "TRACE", "--policy", "nowhere.py:x"], "there is no file nowhere.py"),
        (["replay", "TRACE", "--slots", "1"], "1 slot is too few: a token needs 2"),
        (["replay", "TRACE", "--scope", "planet"], "scope 'planet' is not known"),
        (["replay", "TRACE", "--policy", "static"], "needs a calibration trace"),
        (
            ["replay", "TRACE", "--policy", "static", "--calibration", "nowhere"],
            "no trace file and no sample",
        ),
        (["replay", "TRACE", "--policy", "static", "--calibration", "bible"], "of another model"),
        (
            ["replay", "TRACE", "--prefetch", "next-gate", "--lookahead", "2", "--width", "8"],
            "next-gate guesses per layer, not 8",
        ),
        (["replay", "TRACE", "--threshold", "2"], "threshold is 2.0"),
        (["replay", "missing.moetrace"], "missing.moetrace: No such file"),
        (["replay", __file__], "not a .moetrace file"),
        (["run", "--prompt", " "], "The prompt is empty"),
        (["run", "--prompt", "x", "--max-new-tokens", "9999"], "The prompt is too long"),
        (["run", "--prompt", "x", "--slots", "1"], "too few"),
        (["run", "--prompt", "x", "--device", "abacus"], "device 'abacus' is not available"),
        (["run", "--prompt", "x", "--link", "tape"], "link 'tape' is not known. Choose one of SD card"),
        (["run", "--prompt", "x", "--out", "nowhere/x.moetrace"], "folder nowhere for --out does not exist"),
        (["run", "no/such/model", "--prompt", "x"], "There is no folder no/such/model"),
        (["run", "tests", "--prompt", "x"], "has no config.json"),
        (
            ["run", "--prompt", "x", "--future", "TRACE", "--policy", "belady", "--max-new-tokens", "2"],
            "departs from the trace",
        ),
        (["import", "missing.npy", "--out", "x.moetrace"], "missing.npy: No such file"),
        (["import", __file__, "--format", "tape", "--out", "x.moetrace"], "format 'tape' is not known"),
        (["compare", "--prompt", "x", "--setting", "lru"], "'lru' is not a setting"),
        (["compare", "--prompt", "x", "--baselines", "none"], "baseline 'none' is not known"),
        (["run"], "Missing option '--prompt'"),
    ],
)
def test_what_cannot_be_done_is_one_message_and_exit_code_2(
    arguments: list[str], words: str, trace: Path
) -> None:
    result = run(*(str(trace) if part == "TRACE" else part for part in arguments))
    assert result.exit_code == 2
    assert words in " ".join(result.stderr.split())
    assert "Traceback" not in result.output


def test_the_seed_of_a_comparison_reaches_the_policy_random() -> None:
    many = as_json(
        "compare",
        "--prompt",
        "And it",
        "--max-new-tokens",
        "2",
        "--past-end",
        "--repeats",
        "1",
        "--baselines",
        "",
        "--seed",
        "5",
        "--setting",
        "policy=random,slots=3",
        "--setting",
        "policy=random,slots=3,seed=7",
    )
    assert [row["settings"]["seed"] for row in many["results"]] == [5, 7]


def test_slots_that_are_not_given_suit_the_model(tmp_path: Path) -> None:
    folder = str(tiny_models.save("mixtral", tmp_path / "wide", num_experts_per_tok=4))
    words = [folder, "--prompt", "ab", "--max-new-tokens", "2", "--past-end"]
    assert as_json("run", *words)["settings"]["slots"] == 5
    assert as_json("run", *words, "--slots", "4")["settings"]["slots"] == 4
    others = ["--repeats", "1", "--baselines", ""]
    both = as_json("compare", *words, *others, "--setting", "policy=lru", "--setting", "policy=lfu,slots=6")
    assert [row["settings"]["slots"] for row in both["results"]] == [5, 6]
    _, run_of = moeviz.run(folder, "ab", policy="lfu", max_new_tokens=2, stop_at_end=False)
    assert run_of.settings.slots == 5


def test_a_paced_link_is_named_wherever_the_run_goes(tmp_path: Path) -> None:
    out = tmp_path / "paced.moetrace"
    words = ["--prompt", "And it", "--max-new-tokens", "2", "--tier", "host", "--link", "sata ssd"]
    result = run("run", *words, "--out", out)
    assert result.exit_code == 0
    assert "link paced to SATA SSD (0.55 GB/s, 0.15 ms)" in result.output
    again = as_json("run", *words)
    assert again["tier"]["pace"]["name"] == "SATA SSD"
    recorded = load_file(out)[1]
    assert recorded is not None
    assert recorded.tier is not None
    assert recorded.tier.pace is not None
    assert recorded.tier.pace.gigabytes_per_second == 0.55


def test_where_not_every_expert_fits_the_run_is_kept_and_says_what_it_could_not_verify(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from moeviz.engine import memory

    monkeypatch.setattr(memory, "left", lambda device: 60_000_000)  # all experts of the model: 75 MB
    out = tmp_path / "a.moetrace"
    # which of the two types is faster, and so taken, is measured
    words = ["--prompt", "And it", "--max-new-tokens", "2", "--past-end", "--dtype", "float32"]
    result = run("run", *words, "--policy", "belady", "--out", out)
    assert result.exit_code == 0
    assert "not verified: transformers' own model with every expert in memory needs 1" in result.output
    assert load_file(out)[1] is not None
    assert as_json("run", *words, "--budget", "38MB")["lossless"] is None

    many = run("compare", *words, "--setting", "policy=belady", "--repeats", "1", "--json")
    assert many.exit_code == 0
    rows = json.loads(many.stdout)["results"]
    assert [row["label"] for row in rows] == ["belady, 4 slots", "on-demand", "whole-layer"]
    assert all(row["lossless"] is None and row["equals_replay"] for row in rows)
    assert "'resident' is left out: it needs" in many.stderr
    assert "not verified" in many.stderr
    assert many.stderr.startswith("5 runs of up to "), "said before anything is loaded"
    refused = run("run", *words, "--slots", "8")
    assert refused.exit_code == 2
    assert "Choose fewer slots" in refused.stderr


@pytest.mark.parametrize("command", [[], ["run"], ["compare"], ["replay"], ["import"], ["bench"], ["cache"]])
def test_help_teaches(command: list[str]) -> None:
    result = run(*command, "--help")
    assert result.exit_code == 0
    assert "python -m moeviz" in result.output


def test_import(tmp_path: Path) -> None:
    np.save(tmp_path / "routed.npy", random_trace(1, prompt=1).experts)
    result = run("import", tmp_path / "routed.npy", "--experts", "8", "--out", tmp_path / "routed.moetrace")
    assert result.exit_code == 0
    assert "note       the file holds no router weights" in result.output
    assert as_json("replay", tmp_path / "routed.moetrace", "--policy", "belady")["hits"] > 0


def test_split_writes_a_trace_for_each_request(tmp_path: Path) -> None:
    requests = np.array([4] * 5 + [0] * 7 + [4] * 8, np.int16)
    trace = replace(random_trace(1, tokens=20), sequence=requests)
    trace.save(tmp_path / "many.moetrace")
    parts = tmp_path / "parts"
    refused = run("split", tmp_path / "many.moetrace", "--into", parts / "deeper")
    assert (refused.exit_code, "deeper for --into does not exist" in refused.stderr) == (2, True)
    refused = run("split", tmp_path / "many.moetrace", "--into", tmp_path / "many.moetrace")
    assert (refused.exit_code, "for --into is no folder. Choose another." in refused.stderr) == (2, True)
    (tmp_path / "link").symlink_to(tmp_path / "nothing")
    refused = run("split", tmp_path / "many.moetrace", "--into", tmp_path / "link")
    assert (refused.exit_code, "link for --into does not exist" in refused.stderr) == (2, True)
    result = run("split", tmp_path / "many.moetrace", "--into", parts)
    assert result.output == f"saved      2 requests of 7 to 13 tokens in {parts}\n"
    first, second = (Trace.load(parts / f"many-{number}.moetrace") for number in (1, 2))
    assert (first.experts == trace.experts[requests == 4]).all()
    assert (second.experts == trace.experts[requests == 0]).all()
    assert first.sequence is None
    (parts / "many-2.moetrace").write_bytes((parts / "many-1.moetrace").read_bytes())
    again = run("split", tmp_path / "many.moetrace", "--into", parts)
    assert "many-2.moetrace is there already. Add --force" in again.stderr
    parts.joinpath("many-2.moetrace").unlink()
    for number in (3, 4, 6):
        (parts / f"many-{number}.moetrace").write_bytes((parts / "many-1.moetrace").read_bytes())
    first.save(parts / "many-5.moetrace", replay(first, Settings(slots=4)))  # somebody's recording
    noted = run("split", tmp_path / "many.moetrace", "--into", parts)
    assert (noted.exit_code, "many-3.moetrace is of another split" in noted.output) == (0, True)
    result = run("split", tmp_path / "many.moetrace", "--into", parts, "--force")
    assert "many-4.moetrace was of an earlier split into more, and is removed" in result.output
    left = sorted(path.name for path in parts.iterdir())
    assert left == [f"many-{number}.moetrace" for number in (1, 2, 5, 6)]
    alone = run("split", parts / "many-1.moetrace", "--into", parts)
    assert "many-1.moetrace holds one request: there is nothing to split." in alone.stderr


@pytest.mark.parametrize(
    ("cut", "code", "said"),
    [
        (OSError(errno.ENOSPC, "No space left on device"), 2, "choose a --into in another folder."),
        (KeyboardInterrupt(), 130, "holds 1 of 2 requests; the same command goes on from there."),
    ],
)
def test_a_split_that_is_cut_says_what_is_there_and_goes_on_from_it(
    cut: BaseException | None, code: int, said: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    source = tmp_path / "many.moetrace"
    replace(random_trace(1, tokens=20), sequence=np.arange(20, dtype=np.int16) % 2).save(source)
    parts, replace_file = tmp_path / "parts", os.replace
    parts.mkdir()
    written: list[str] = []

    def second(part: str, path: Path) -> None:
        if path.name == "many-2.moetrace" and cut is not None:
            raise cut
        written.append(path.name)
        replace_file(part, path)

    monkeypatch.setattr(os, "replace", second)
    result = run("split", source, "--into", parts)
    assert (result.exit_code, said in result.stderr) == (code, True), result.stderr
    assert [path.name for path in parts.iterdir()] == ["many-1.moetrace"]
    cut = None
    result = run("split", source, "--into", parts)
    assert result.stdout == f"saved      2 requests of 10 to 10 tokens in {parts}\n"
    assert written == ["many-1.moetrace", "many-2.moetrace"], "each of them once"


def test_what_show_and_diff_say_to_programs_is_what_the_schema_says(trace: Path, tmp_path: Path) -> None:
    other = tmp_path / "b.moetrace"
    random_trace(4).save(other, replay(random_trace(4), Settings(slots=3)))
    shown = as_json("show", other)
    assert shown["run"]["settings"]["slots"] == 3
    assert as_json("show", trace)["run"] is None
    counts, routed = tmp_path / "c.csv", tmp_path / "r.csv"
    counts.write_text("layer,expert,count\n3,0,24\n3,2,6\n")
    assert as_json("show", counts)["uses"] == 30
    assert "these are counts without order" in run("show", counts).output
    routed.write_text("token,layer,rank,expert,loss\n0,0,0,1,2.5\n0,0,1,3,2.5\n")
    assert run("show", routed).output.count("columns not used: loss") == 1
    sizes = replace(random_trace(4), expert_bytes=(1000, 1500, 1500))
    sizes.save(tmp_path / "sizes.moetrace")
    assert "1.0 kB to 1.5 kB, by layer" in run("show", tmp_path / "sizes.moetrace").output
    found = as_json("diff", trace, other, "--slots", "3")
    assert found["differs"]["choices"][0].startswith("first other one: token 0")
    assert found["numbers"]["hit_ratio"]["first"] != found["numbers"]["hit_ratio"]["second"]
    assert found["passed_limits"] == []
    said = CliRunner().invoke(main, ["diff", str(trace), str(other), "--replay", "--slots", "3"]).output
    assert "Numbers: both replayed under lru, 3 slots." in said
    said = CliRunner().invoke(main, ["diff", str(trace), str(other)]).output
    assert f"both replayed under lru, 4 slots, since no run was recorded with {trace.name}." in said
    said = CliRunner().invoke(main, ["diff", str(other), str(other)]).output
    assert "Numbers: of the recorded runs, lru, 3 slots." in said


def test_a_run_whose_slow_tier_fails_keeps_what_it_captured(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    out, real = tmp_path / "out.moetrace", session.generate

    def failing(*arguments: Any) -> Iterator[Any]:
        yield from itertools.islice(real(*arguments), 3)
        raise StoreError("The slow tier's file is damaged.")

    monkeypatch.setattr(session, "generate", failing)
    result = run("run", "--prompt", "And it came", "--max-new-tokens", "30", "--past-end", "--out", out)
    assert result.exit_code == 2
    assert f"The slow tier's file is damaged. {out} holds the 3 tokens captured." in result.stderr
    _, recorded = load_file(out)
    assert recorded is not None
    assert len(recorded.output_ids) == 3


@pytest.mark.skipif(sys.platform == "win32", reason="signals")
def test_an_interrupted_run_keeps_what_it_captured(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    out = tmp_path / "out.moetrace"
    real = session.generate

    def interrupted(*arguments: Any) -> Iterator[Any]:
        for number, record in enumerate(real(*arguments)):
            yield record
            if number == 2:
                signal.raise_signal(signal.SIGINT)

    monkeypatch.setattr(session, "generate", interrupted)
    result = run("run", "--prompt", "And it came", "--max-new-tokens", "30", "--past-end", "--out", out)
    assert result.exit_code == 130
    assert f"Interrupted. {out} holds the 3 tokens captured." in result.stderr
    saved, recorded = load_file(out)
    assert recorded is not None
    assert len(recorded.output_ids) == 3
    assert saved.prompt == "And it came"
    lost = run("run", "--prompt", "And it came", "--max-new-tokens", "30", "--past-end")
    assert lost.exit_code == 130
    assert "Interrupted. Nothing was kept." in lost.stderr


def test_a_comparison_ends_with_a_verdict_and_the_best_value() -> None:
    result = run("compare", "--prompt", "And it", "--max-new-tokens", "4", "--repeats", "2", "--past-end")
    assert result.exit_code == 0, result.output
    said = " ".join(result.stdout.split())
    assert "speed: " in said
    # on a busy machine nothing may be worth its memory in so few tokens
    assert re.search("Best value for memory: (l|none; copying on demand is as fast)", said)
    assert "LRU" not in said, "policies are called in the sentences as in the table"


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        ("replay {t} --width 3", "--width is not used: nothing is pre-fetched"),
        ("replay {t} --prefetch frequency --threshold 0.5", "--threshold is not used: only next-gate"),
        ("replay {t} --calibration {t}", "--calibration is not used: neither the policy"),
        ("replay {t} --half-life 9", "--half-life is not used: only lfu-aged has one"),
        (
            "replay {t} --baseline resident --slots 3",
            "--slots is not used: the baseline resident is no cache",
        ),
        ("export {t} --format csv --policies lru --out {o}", "--policies is not used: only a stage"),
        (
            "export {t} --format stage --policy lfu --out {o}",
            "--policy is not used: a stage has a board for each",
        ),
        (
            "export {t} --format jsonl --policy lfu --out {o}",
            "--policy is not used: jsonl holds the trace without",
        ),
        (
            "export {t} --format jsonl --policy static --recorded --out {o}",
            "--recorded is not used: jsonl holds the trace without",
        ),
    ],
)
def test_an_option_that_changes_nothing_is_named_beside_what_was_asked_for(
    arguments: str, said: str, trace: Path, tmp_path: Path
) -> None:
    words = [word.format(t=trace, o=tmp_path / "out") for word in arguments.split()]
    result = CliRunner().invoke(main, words)
    assert result.exit_code == 0, result.output
    assert f"note       {said}" in result.stderr


def test_what_is_used_or_was_not_given_is_not_called_unused(trace: Path) -> None:
    for more in (
        (),
        ("--prefetch", "frequency", "--width", "3"),
        ("--policy", "lfu-aged", "--half-life", "9"),
    ):
        assert CliRunner().invoke(main, ["replay", str(trace), *more]).stderr == ""


def test_a_policy_that_a_recorded_run_cannot_be_read_without_is_not_called_unused(tmp_path: Path) -> None:
    own, sample = tmp_path / "own.py", Path("sample_traces/bible.moetrace")
    own.write_text("def mine(use, now): return use.loaded\n")
    export = ("export", sample, "--recorded", "--format", "report", "--out")
    assert run(*export, tmp_path / "a.html", "--policy", f"{own}:mine").stderr == ""
    told = run(*export, tmp_path / "b.html", "--rule", "batch:4").stderr
    assert "--rule is not used: the recorded run has its own settings" in told


def test_the_version_is_the_project_s() -> None:
    project = tomllib.loads(Path("pyproject.toml").read_text(encoding="utf-8"))["project"]
    assert run("--version").stdout == f"moeviz {project['version']}\n"


def test_a_format_in_the_place_of_a_command_is_told_where_it_is() -> None:
    refused = run("report", "a.moetrace")
    assert refused.exit_code == 2
    assert "No such command 'report'" in refused.stderr
    assert "export FILE --format report --out FILE" in " ".join(refused.stderr.split())

"""What the README says is run; what the command line offers is documented."""

from __future__ import annotations

import re
import shlex
from collections.abc import Iterator
from dataclasses import fields
from pathlib import Path
from typing import Any

import click
import numpy as np
import pytest
from click.testing import CliRunner
from conftest import random_trace

from moeviz import words
from moeviz.cli.main import main
from moeviz.core.replay import replay
from moeviz.core.run import HIT
from moeviz.core.settings import BASELINES, Settings
from moeviz.core.trace import DECODE, PREFILL, Trace
from moeviz.numbers.metrics import MissKinds

ROOT = Path(__file__).parent.parent
README = (ROOT / "README.md").read_text(encoding="utf-8")


def blocks(kind: str) -> list[str]:
    return re.findall(rf"^```{kind}\n(.*?)^```", README, re.MULTILINE | re.DOTALL)


@pytest.fixture(scope="module")
def here(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder in which the examples find what they name."""
    folder = tmp_path_factory.mktemp("readme")
    (folder / "sample_traces").symlink_to(ROOT / "sample_traces")
    np.save(folder / "routed.npy", random_trace(1, prompt=1, experts=32).experts)
    (folder / "mru.py").write_text(next(block for block in blocks("python") if "mru.py" in block))
    return folder


@pytest.mark.usefixtures("plain_main")
def test_the_command_lines_run(here: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(here)
    commands = re.findall(r"^\.venv/bin/python -m moeviz (.*)$", README, re.MULTILINE)
    assert len(commands) >= 8
    for command in [*commands, "replay mine.moetrace --policy mru.py:mru"]:
        arguments = shlex.split(command)
        if arguments[0] in ("run", "compare"):
            arguments += ["--max-new-tokens", "4"]
        if arguments[0] == "compare":
            arguments += ["--repeats", "1"]
        if arguments[0] == "sweep":
            arguments = [*arguments, "--jobs", "1", "--slots", "4"]
        result = CliRunner().invoke(main, arguments)
        assert result.exit_code == 0, (command, result.output, result.exception)


def test_the_library_s_example_runs(
    here: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(here)
    example = next(block for block in blocks("python") if "mv.load(" in block)
    space: dict[str, Any] = {}
    exec(compile(example, "README.md", "exec"), space)
    assert (
        space["lfu"].hit_ratio
        > space["mv"]
        .replay(space["mv"].load(here / "sample_traces" / "bible.moetrace")[0], slots=2)
        .hit_ratio
    )
    assert re.search(r"belady, 4 slots +0\.\d+$", capsys.readouterr().out, re.MULTILINE), (
        "a hit ratio is seen"
    )


def test_the_example_of_capture_runs(here: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from transformers import AutoModelForCausalLM, AutoTokenizer

    from moeviz.engine.loader import BUNDLED

    monkeypatch.chdir(here)
    example = next(block for block in blocks("python") if "mv.capture(" in block)
    model, tokenizer = AutoModelForCausalLM.from_pretrained(BUNDLED), AutoTokenizer.from_pretrained(BUNDLED)
    space = {"model": model, "tokenizer": tokenizer}
    exec(compile(example.replace("max_new_tokens=50", "max_new_tokens=3"), "README.md", "exec"), space)
    assert space["captured"].trace().tokens > 3


def commands(group: click.Group, name: str = "") -> Iterator[tuple[str, click.Command]]:
    context = click.Context(group)
    for own in group.list_commands(context):
        command = group.get_command(context, own)
        assert command is not None
        yield f"{name}{own}", command
        if isinstance(command, click.Group):
            yield from commands(command, f"{name}{own} ")


@pytest.mark.parametrize(("name", "command"), list(commands(main)), ids=lambda value: str(value)[:30])
def test_every_command_and_option_is_documented(name: str, command: click.Command) -> None:
    assert command.help, name
    assert command.help.split("\n\n")[0].rstrip().endswith((".", "?", "median, least and most.")), name
    for parameter in command.params:
        if isinstance(parameter, click.Option):
            assert parameter.help, f"{name} {parameter.name}"
            assert len(parameter.help) > 8, f"{name} {parameter.name}"
    if " " not in name:
        assert re.search(rf"-m moeviz {name}\b", README), f"the README does not mention {name}"


def test_the_interface_s_terms_are_in_the_glossary() -> None:
    """Every word of the design's own table, every kind of miss and of number, and what the command line
    speaks of.
    """
    terms = "MoE layer,expert,router,top-k,fast tier,slow tier,slot,expert cache,scope,hit,late hit,miss"
    terms += (
        ",stall,overlap,lookahead,TTFT,TPOT,regret,belady,bound,policy,pre-fetch,width,threshold,warm start"
    )
    terms += ",calibration,half-life,baseline,measured,replayed,modelled,recorded,knee,break-even"
    named = {*terms.split(","), *BASELINES, *(one.name for one in fields(MissKinds)), "prefill", "decode"}
    assert not named - words.GLOSSARY.keys()


def test_its_pictures_are_there_and_the_moving_one_is_short_and_light() -> None:
    from PIL import Image

    named = re.findall(r"!\[[^]]+\]\(([^)]+)\)", README)
    assert set(named) == {"pages/tour.webp", "pages/stage.webp"}
    assert all((ROOT / name).stat().st_size < 3_000_000 for name in named)
    with Image.open(ROOT / "pages/tour.webp") as tour:
        shown = 0
        for frame in range(tour.n_frames):
            tour.seek(frame)
            tour.load()
            shown += tour.info["duration"]
    assert 15_000 <= shown <= 25_000  # milliseconds


RULES = ROOT / "moeviz" / "core" / "README.md"
SHOWN = ("lru", "lfu", "lfu-resident", "belady")


def table_of_rules() -> str:
    """Hit ratios of one sample by every rule, as the README of moeviz.core shows them."""
    trace = Trace.load(ROOT / "sample_traces" / "python-long.moetrace")
    decoded = trace.only(DECODE)
    assert decoded is not None
    ways: tuple[tuple[str, Trace, dict[str, object], tuple[int, ...]], ...] = (
        ("pinned: the default", trace, {}, (DECODE,)),
        ("in-order", trace, {"rule": "in-order"}, (DECODE,)),
        ("pinned, prefill counted in", trace, {}, (PREFILL, DECODE)),
        ("pinned, the prompt left out", decoded, {}, (DECODE,)),
        ("pinned, one pool of 32 slots", trace, {"scope": "model", "slots": 32}, (DECODE,)),
        ("one-by-one", trace, {"rule": "one-by-one"}, (DECODE,)),
        (
            "one-by-one, one stream and pool for all layers, 32 slots",
            trace,
            {"rule": "one-by-one", "scope": "model", "slots": 32},
            (DECODE,),
        ),
        ("batch:2", trace, {"rule": "batch:2"}, (DECODE,)),
        ("batch:4", trace, {"rule": "batch:4"}, (DECODE,)),
    )
    lines = [f"| rule | accesses | {' | '.join(SHOWN)} |", f"| --- |{' ---: |' * (1 + len(SHOWN))}"]
    for name, own, changed, phases in ways:
        cells, accesses = [], 0
        for policy in SHOWN:
            run = replay(own, Settings(policy, **{"slots": 4, **changed}))
            counted = np.isin(run.passes.phase[run.events.forward_pass[run.accesses.event]], phases)
            accesses = int(counted.sum())
            cells.append(f"{(run.accesses.outcome[counted] == HIT).mean():.3f}")
        lines.append(f"| {name} | {accesses:,} | {' | '.join(cells)} |")
    return "\n".join(lines) + "\n"


def test_the_table_of_why_two_tools_differ_is_what_replays_give() -> None:
    before, _, rest = RULES.read_text(encoding="utf-8").partition("<!-- table -->\n")
    shown, _, after = rest.partition("<!-- /table -->")
    found = table_of_rules()
    if shown != found:
        RULES.write_text(f"{before}<!-- table -->\n{found}<!-- /table -->{after}", encoding="utf-8")
    assert shown == found, "the table was out of date; it has been written anew: commit it"


def test_what_is_said_of_the_rules_holds() -> None:
    """What the text beside the table claims of its numbers."""
    rows = {
        cells[0]: dict(zip(SHOWN, map(float, cells[2:]), strict=True))
        for line in table_of_rules().splitlines()[2:]
        if (cells := [cell.strip() for cell in line.strip("|").split("|")])
    }
    pinned, apart = rows["pinned: the default"], rows["one-by-one"]
    assert apart["belady"] > pinned["belady"]
    assert apart["lfu"] > apart["lru"] > apart["lfu-resident"]
    assert rows["batch:4"]["lru"] < rows["batch:2"]["lru"] < pinned["lru"]
    assert rows["pinned, prefill counted in"]["lru"] < pinned["lru"]

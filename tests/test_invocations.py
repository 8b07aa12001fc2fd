"""Command lines that somebody might type: each ends with 0, or with one message and exit code 2, and never
with a traceback.

They run in this process and load no torch; what a signal or a full disk does is tried in processes of their
own at the end.
"""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import click
import numpy as np
import pytest
from click.testing import CliRunner
from conftest import random_trace

from moeviz.cli.main import main
from moeviz.core.replay import replay
from moeviz.core.settings import Settings

pytestmark = pytest.mark.usefixtures("plain_main")  # a sweep starts processes

ROOT = Path(__file__).parent.parent
T, OUT, TABLE = "trace.moetrace", "out.file", "out.csv"
RUN = "run --prompt x"
SEEDS = "9" * 23
READS = (  # commands that read a trace, "FILE" for its place
    "replay FILE",
    "show FILE",
    f"diff {T} FILE",
    f"diff FILE {T}",
    f"export FILE --format csv --out {OUT}",
    f"import FILE --out {OUT}",
    f"{RUN} --future FILE --policy belady",
    "bench replay --trace FILE",
)
BAD_FILES = {  # name -> what is said of it
    "gone.moetrace": "gone.moetrace: No such file",
    "''": "an empty text names no file",
    "folder": "is a folder; expected a trace file",
    "empty.moetrace": "has 0 bytes|empty",
    "text.moetrace": "not a .moetrace file|none of the formats that are read",
    "/dev/zero": "no regular file; expected a trace file",
    "/proc/self/mem": "/proc/self/mem: ",  # a regular file whose bytes cannot be read
}
WRITES = (  # commands that write a file, "PLACE" for its place
    f"import {T} --out PLACE",
    f"export {T} --format csv --out PLACE",
    f"{RUN} --out PLACE",
    f"sweep {T} --jobs 1 --out PLACE",
)
BAD_PLACES = {
    "gone/out.file": "The folder gone for --out does not exist",
    "folder": "folder is a folder. Choose the name of a file",
    "/dev/full": "/dev/full is no regular file",
    "dangling": "is a link to nothing",
    "x" * 300: "cannot be a file: File name too long",
}
SETTINGS = {  # options of one Settings -> what is said
    "--policy best": "policy 'best' is not known. Choose one of lru, lfu",
    "--policy ''": "policy '' is not known",
    "--policy gone.py:x": "there is no file gone.py",
    "--policy broken.py:x": "broken.py does not run: NameError",
    "--policy policy.py:other": "registers no policy 'other'. It registers: mine",
    "--slots 0": "slots is 0; it must be a whole number of at least 1",
    "--slots -3": "slots is -3",
    "--slots 2.5": "slots is '2.5'; it must be a whole number",
    "--slots many": "slots is 'many'",
    "--slots ²": "slots is '²'",
    f"--slots {SEEDS}": f"slots is {SEEDS}; it must be a whole number from 1 to 2147483647",
    "--slots ''": "slots is ''",
    "--scope planet": "scope 'planet' is not known. Choose one of layer, model",
    "--prefetch crystal": "prefetch 'crystal' is not known. Choose one of none, previous-token",
    "--lookahead 0": "lookahead is 0",
    "--lookahead nan": "lookahead is 'nan'",
    "--width -1": "width is -1",
    f"--width {SEEDS}": "width is",
    "--threshold nan": "threshold is nan; it must be a number from 0 to 1",
    "--threshold inf": "threshold is inf",
    "--threshold 2": "threshold is 2.0",
    "--threshold -0.1": "threshold is -0.1",
    "--threshold half": "threshold is 'half'",
    "--warm hot": "warm 'hot' is not known. Choose one of cold, first, calibrated",
    "--half-life 0": "half_life is 0",
    f"--half-life {SEEDS}": "half_life is",
    f"--seed {SEEDS}": f"seed is {SEEDS}; it must be a whole number from 0 to 9223372036854775807",
    "--seed -1": "seed is -1",
    "--baseline ''": "baseline is empty, which names nothing. Give a value, or leave it out",
    "--calibration ''": "calibration is empty",
    "--baseline none": "baseline 'none' is not known. Choose one of resident, on-demand, whole-layer",
    "--rule chess": "rule 'chess' is not known. Choose pinned, in-order, one-by-one or batch:N",
    "--rule batch:0": "rule 'batch:0' is not known",
    "--budget lots": "budget is 'lots'; it must be bytes, for example 3GiB or 3000MiB",
    "--policy static --calibration gone": "calibration 'gone' is no trace file and no sample",
    "--speed 3": "No such option",
}
ONE_EACH = {words.split()[-2]: (words, said) for words, said in SETTINGS.items() if words != "--speed 3"}
MISFITS = {  # settings that are right, and wrong for this trace
    "--slots 1": "1 slot is too few: a token needs 2",
    "--slots 9": "9 slots are more than the 8 experts of each MoE layer",
    "--scope model --slots 25": "more than the 24 experts of the model",
    "--prefetch next-gate --lookahead 3": "there are 3 MoE layers",
    "--prefetch next-gate --width 8": "next-gate guesses per layer, not 8",
    "--width 9": "a layer has 8 experts",
    "--policy static": "policy 'static' needs a calibration trace",
    "--warm calibrated": "'calibrated' needs a calibration trace",
    "--policy static --calibration bible": "of another model",
}
REFUSED = {
    # models: said before anything is loaded
    f"{RUN} --temperature nan": "nan is not a finite number",
    f"{RUN} --temperature inf": "not in the range",
    f"{RUN} --temperature -1": "not in the range",
    f"{RUN} --threads 1000000": "not in the range 1<=x<=1024",
    f"{RUN} --threads 0": "not in the range",
    f"{RUN} --device meta": "device 'meta' is not available here. Choose one of auto, cpu, cuda",
    f"{RUN} --device abacus": "device 'abacus' is not available here",
    f"{RUN} --device cuda:99999": "is not available here",
    f"{RUN} --dtype float8": "'float8' is not one of",
    f"{RUN} --tier tape": "'tape' is not one of",
    f"{RUN} --max-new-tokens 0": "not in the range",
    f"{RUN} --max-new-tokens {SEEDS}": "not in the range",
    f"{RUN} --max-new-tokens -5": "not in the range",
    "run": "Missing option '--prompt'",
    "run a b --prompt x": "unexpected extra argument",
    "compare": "Missing option '--prompt'",
    "compare --prompt x --setting lru": "'lru' is not a setting. Write name=value with a name of policy",
    "compare --prompt x --setting size=3": "'size=3' is not a setting",
    "compare --prompt x --setting slots=many": "slots is 'many'",
    "compare --prompt x --setting slots=3,slots=4": "slots is given twice",
    "compare --prompt x --setting threshold=nan": "threshold is nan",
    "compare --prompt x --setting ''": "an empty --setting names nothing",
    "compare --prompt x --setting policy=lru,baseline=": "baseline is empty, which names nothing",
    "compare --prompt x --setting ,": "an empty --setting names nothing",
    "compare --prompt x --setting budget=0KiB": "A budget of 0 bytes holds no expert",
    f"replay {T} --budget 0": "A budget of 0 bytes holds no expert",
    "compare --prompt x --setting policy=": "policy '' is not known",
    "compare --prompt x --baselines none": "baseline 'none' is not known",
    "compare --prompt x --repeats 0": "not in the range",
    f"compare --prompt x --repeats {SEEDS}": "not in the range",
    "compare --prompt x --threads 1000000": "not in the range",
    f"compare --prompt x --seed {SEEDS}": "seed is",
    "compare --prompt x --max-new-tokens 0": "not in the range",
    "compare --prompt x --temperature nan": "not a finite number",
    "compare --prompt x --tier tape": "'tape' is not one of",
    f"{RUN} --experts int3": "'int3' is not one of",
    f"{RUN} --compute twice": "'twice' is not one of",
    f"split {T} --into ''": "an empty text names no file",
    "split gone.moetrace --into parts": "gone.moetrace: No such file",
    f"split {T} --into parts": "holds one request: there is nothing to split",
    "plan --calibration gone.moecounts": "gone.moecounts: No such file",
    f"sweep '' --jobs 1 --out {TABLE}": "an empty text names no file",  # and not the current folder
    f"sweep {T} --budgets 0 --out {TABLE}": "A budget of 0 bytes holds no expert",
    "compare --prompt x --experts int3": "'int3' is not one of",
    "compare --prompt x --device meta": "device 'meta' is not available here",
    "compare --prompt x --dtype float8": "'float8' is not one of",
    f"{RUN} --link ''": "'--link': an empty text names nothing. Give a value, or leave it out",
    f"{RUN} --then ''": "'--then': an empty text names nothing",
    f"{RUN} ''": "'[MODEL]': an empty text names nothing",
    "plan --link ''": "'--link': an empty text names nothing",
    f"diff {T} {T} --fail-below ''": "'--fail-below': an empty text names nothing",
    f"sweep {T} --dask '' --out {TABLE}": "'--dask': an empty text names nothing",
    f"{RUN} --link tape": "link 'tape' is not known. Choose one of SD card",
    f"{RUN} --link nan": "link 'nan' is not known",
    f"{RUN} --link -1": "link '-1' is not known",
    "compare --prompt x --link 0,0,0": "link '0,0,0' is not known",
    # files in and out
    f"import {T} --format tape --out {OUT}": "format 'tape' is not known. Choose one of moetrace",
    f"import routed.npy --experts -1 --out {OUT}": "not in the range",
    f"import routed.npy --experts {SEEDS} --out {OUT}": "experts were given; a layer has 1 to",
    f"import routed.npy --experts 2 --out {OUT}": "expert",
    f"import routed.npy --prompt-tokens -2 --out {OUT}": "not in the range",
    f"import routed.npy --prompt-tokens {SEEDS} --out {OUT}": "prompt tokens were given; a request has 0 to",
    f"import routed.npy --axes k,layer --out {OUT}": "--axes is 'k,layer'; name each axis once",
    f"import routed.npy --axes token,token --out {OUT}": "--axes is 'token,token'; name each axis once",
    f"import routed.npy --top-k -1 --out {OUT}": "not in the range",
    f"import routed.npy --top-k {SEEDS} --out {OUT}": "experts a token were given; a token uses 1 to 64",
    f"import {T}": "Missing option '--out'",
    f"export {T} --format tape --out {OUT}": "format 'tape' is not known. Choose one of csv",
    f"export {T} --format perfetto --out {OUT}": "holds no measured run",
    f"export {T} --recorded --format csv --out {OUT}": "holds no recorded run. Leave out --recorded",
    f"export {T} --format csv": "Missing option '--out'",
    f"export {T} --format stage --policies best --out {OUT}": "policy 'best' is not known",
    f"export {T} --format stage --policies '' --out {OUT}": "no policy was named",
    f"export {T} --format stage --policies gone.py:x --out {OUT}": "there is no file gone.py",
    f"export {T} --format stage --slots 99 --out {OUT}": "99 slots are more than the 8 experts",
    # sheets
    "lessons --sheet taken.file": "is there already. Add --force to write over it, or choose another name",
    "lessons --sheet gone/x.html": "The folder gone for --sheet does not exist",
    "lessons --answers folder": "folder is a folder. Choose the name of a file for --answers",
    "lessons --sheet new.html --answers new.html": "--sheet and --answers name the same file",
    "lessons anything": "unexpected extra argument",
    # plans
    "plan a b": "unexpected extra argument",
    f"plan {'x' * 5_000}": f"{'x' * 200}...",
    f"show {'a/' * 500}": "No such file",
    "plan no/such/model": "no/such/model",
    "plan --trace gone.moetrace": "gone.moetrace: No such file",
    "plan --trace text.moetrace": "is not a .moetrace file",
    "plan --device nosuch": "is not available here. Choose one of",
    "plan --fast lots": "The size 'lots' is not known. Write for example 50GB",
    "plan --fast -1": "The size '-1' is not known",
    f"plan --fast {SEEDS}GB": "is not known",
    "plan --context 0": "not in the range",
    f"plan --context {SEEDS}": "not in the range",
    "plan --slots many": "--slots 'many' is no list of counts. Write 4 or 2,4,8",
    "plan --slots 0": "a token uses 2 experts of a layer at once",
    "plan --link tape": "link 'tape' is not known. Choose one of SD card",
    "plan --fast-speed nan": "not a finite number",
    "plan --fast-speed 0": "not in the range",
    "plan --experts int2": "'int2' is not one of",
    "plan --dtype float8": "'float8' is not one of",
    # differences
    f"diff {T}": "Missing argument 'SECOND'",
    f"diff {T} {T} --fail-below hit_ratio": "'hit_ratio' is no limit",
    f"diff {T} {T} --fail-below hit_ratio=0.1": "is no limit. Write a name and a number of at most 0",
    f"diff {T} {T} --fail-below hit_ratio=nan": "is no limit",
    f"diff {T} {T} --fail-below speed=-1": "there is no number 'speed' in both. There are accesses",
    f"diff {T} {T} --fail-below tokens_per_second=-5%": "there is no number 'tokens_per_second' in both",
    # sweeps
    f"sweep --out {TABLE}": "Missing argument 'FILES...'",
    f"sweep {T}": "Missing option '--out'",
    f"sweep {T} --policies best --out {TABLE}": "'best' is no policy. Choose from lru",
    f"sweep {T} --policies '' --out {TABLE}": "'nothing' is no policy",
    f"sweep {T} --policies gone.py:x --out {TABLE}": "there is no file gone.py",
    f"sweep {T} --prefetch crystal --out {TABLE}": "'crystal' is no predictor",
    f"sweep {T} --slots 8-2 --out {TABLE}": "8-2 goes down",
    f"sweep {T} --slots two --out {TABLE}": "is no list of counts",
    f"sweep {T} --slots 2-9999999 --out {TABLE}": "no model has so many experts",
    f"sweep {T} --slots ² --out {TABLE}": "is no list of counts",
    f"sweep {T} --slots 99 --jobs 1 --out {TABLE}": "Nothing fits",
    f"sweep {T} --scope planet --out {TABLE}": "'planet' is not one of",
    f"sweep {T} --jobs 0 --out {TABLE}": "not in the range",
    f"sweep {T} --jobs {SEEDS} --out {TABLE}": "not in the range",
    f"sweep {T} --lookahead 0 --out {TABLE}": "lookahead is 0",
    f"sweep {T} --width -1 --out {TABLE}": "width is -1",
    f"sweep {T} --rule chess --out {TABLE}": "rule 'chess' is not known",
    f"sweep {T} --budgets lots --out {TABLE}": "budget is 'lots'",
    f"sweep {T} --jobs 1 --dask nope --out {TABLE}": "Give one of them",
    f"sweep {T} --dask nope --out {TABLE}": "No Dask scheduler answers at nope: it is no address",
    f"sweep text.moetrace --jobs 1 --out {TABLE}": "None of the files is a trace",
    f"sweep gone --jobs 1 --out {TABLE}": "None of the files is a trace",
    f"sweep {T} --jobs 1 --out text.csv": "is there and is no table of a sweep",
    f"sweep {T} --jobs 1 --out {OUT}": "which kind of table it is to be. End its name in .parquet or .csv",
    # the folder of packed experts
    "cache limit nonsense": "The size 'nonsense' is not known. Write for example 50GB",
    f"cache limit {SEEDS}TB": "is not known",
    "cache clean nothing-of-that-name": "Nothing in",
    "cache list x": "unexpected extra argument",
    # what there is
    "nonsense": "No such command 'nonsense'",
    "bench nonsense": "No such command 'nonsense'",
    "bench replay --tokens 1": "not in the range",
    f"bench replay --tokens {SEEDS}": "not in the range",
    "bench replay --repeats 0": "not in the range",
    "bench engine --repeats 0": "not in the range",
    "bench engine --tokens 1": "not in the range",
    "bench engine --model no/such/model": "There is no folder no/such/model|no/such/model",
    "bench engine --only tape": "'tape' is not one of",
    "bench engine --device abacus": "device 'abacus' is not available here. Choose one of auto, cpu, cuda",
    "bench all x": "unexpected extra argument",
    "bench link --tokens 1": "not in the range",
    "bench loading x": "unexpected extra argument",
    f"bench pages --tokens {SEEDS}": "not in the range",
    "bench pages --repeats 0": "not in the range",
    "bench capture --repeats 0": "not in the range",
    f"bench capture --tokens {SEEDS}": "not in the range",
    "bench soak --sessions 0": "not in the range",
    "bench soak --pause nan": "not a finite number",
    "bench soak --runs 0": "not in the range",
    "bench stage --repeats 0": "not in the range",
    "bench fuzz --files 0": "not in the range",
    "bench stage --seconds nan": "not a finite number",
    f"bench fuzz --files 1 --seed {SEEDS}": "not in the range",
}
DONE = (
    "--help",
    "run --help",
    "bench --help",
    "bench replay --help",
    f"replay {T}",
    f"replay {T} --json",
    f"replay {T} --policy policy.py:mine --slots 3",
    f"replay {T} --policy belady --scope model --slots 20 --prefetch next-gate --lookahead 2 --width 1",
    f"replay {T} --baseline on-demand",
    f"show {T}",
    f"show {T} --json",
    "show routed.npy",
    f"diff {T} {T}",
    f"diff {T} {T} --policy lfu --replay --json",
    f"import {T} --out {OUT}",
    "import routed.npy --experts 8 --out taken.file --force",
    f"export {T} --format csv --out {OUT}",
    f"sweep {T} --jobs 1 --slots 2,4-6 --policies lru,lfu --out {TABLE}",
)


def cases() -> list[tuple[str, str]]:
    """Command lines that are refused, and what is said."""
    return [
        *((command.replace("FILE", name), said) for command in READS for name, said in BAD_FILES.items()),
        *((command.replace("PLACE", name), said) for command in WRITES for name, said in BAD_PLACES.items()),
        *(
            (command.replace("PLACE", "taken.file"), "is there already. Add --force")
            for command in WRITES
            if "sweep" not in command
        ),
        *((f"replay {T} {options}", said) for options, said in (SETTINGS | MISFITS).items()),
        *((f"{RUN} {options}", said) for options, said in SETTINGS.items()),
        *((f"diff {T} {T} {options}", said) for options, said in ONE_EACH.values()),
        *((f"export {T} --format csv --out {OUT} {options}", said) for options, said in ONE_EACH.values()),
        *((f"export {T} --format csv --out {OUT} {options}", said) for options, said in MISFITS.items()),
        *REFUSED.items(),
    ]


@pytest.fixture(scope="module")
def here(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("here")
    random_trace(3).save(folder / T)
    (folder / "folder").mkdir()
    (folder / "dangling").symlink_to(folder / "nowhere")
    (folder / "empty.moetrace").write_bytes(b"")
    (folder / "text.moetrace").write_text("this is no trace at all")
    (folder / "text.csv").write_text("this is\nno table at all")
    (folder / "taken.file").write_text("somebody's work")
    (folder / "broken.py").write_text("nothing_of_that_name()")
    (folder / "policy.py").write_text(
        "from moeviz.policies import policy\n"
        "@policy('mine')\ndef mine(use, now):\n    return -use.last_touch\n"
    )
    np.save(folder / "routed.npy", random_trace(1, prompt=1).experts)
    return folder


def words_of(command: str) -> list[str]:
    return ["" if word == "''" else word for word in command.split(" ")]


def test_there_are_enough_of_them() -> None:
    assert len(cases()) + len(DONE) >= 200
    assert len({command for command, _ in cases()}) == len(cases())


ANY_TEXT = {"--prompt", "--then", "--future"}  # any text is right, or its file is tried as FILE above


def options_of(command: click.Command, words: list[str]) -> Iterator[tuple[list[str], set[str]]]:
    """(words of a command, names of an option that takes a value) of every command below this one; no names:
    the command itself.
    """
    if isinstance(command, click.Group):
        with click.Context(command) as context:
            for name in command.list_commands(context):
                below = command.get_command(context, name)
                assert below is not None
                yield from options_of(below, [*words, name])
        return
    yield words, set()
    for one in command.params:
        if isinstance(one, click.Option) and not one.is_flag and not ANY_TEXT & set(one.opts):
            yield words, set(one.opts)


def test_every_command_and_every_option_is_tried_with_what_is_wrong() -> None:
    lines = [command.split() for command, _ in cases()]
    for words, names in options_of(main, []):
        own = [line for line in lines if line[: len(words)] == words]
        assert any(names & set(line) if names else line for line in own), (words, names)


@pytest.mark.parametrize(("command", "said"), cases(), ids=lambda text: text[:60])
def test_it_is_refused_in_one_message(
    command: str, said: str, here: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(here)
    result = CliRunner().invoke(main, words_of(command))
    shown = " ".join(result.stderr.split())
    assert result.exit_code == 2, (result.output, result.exception)
    assert any(part in shown for part in said.split("|")), shown
    assert "Traceback" not in result.output
    assert len(shown) < 900, "a message is no page"
    assert "weights_only=False" not in shown
    assert not (here / OUT).exists()
    assert not (here / TABLE).exists()
    assert (here / "taken.file").read_text() == "somebody's work"
    assert not list(here.glob("*.journal"))


@pytest.mark.parametrize("command", DONE)
def test_it_is_done(command: str, here: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(here)
    taken = (here / "taken.file").read_bytes()
    result = CliRunner().invoke(main, words_of(command))
    (here / "taken.file").write_bytes(taken)
    for made in (OUT, TABLE):
        (here / made).unlink(missing_ok=True)
    assert result.exit_code == 0, (result.output, result.exception)
    assert result.stdout.strip()


def test_a_limit_that_is_passed_is_exit_code_1(here: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(here)
    trace = random_trace(3)
    for name, slots in (("few", 2), ("many", 8)):
        trace.save(here / f"{name}.moetrace", replay(trace, Settings(slots=slots)))
    limit = ["--fail-below", "hit_ratio=-0.01,decode.hits=-5%"]
    down = CliRunner().invoke(main, ["diff", "many.moetrace", "few.moetrace", *limit])
    assert down.exit_code == 1
    assert "FAILED     hit_ratio went from" in down.stdout
    assert "settings" in down.stdout
    assert CliRunner().invoke(main, ["diff", "few.moetrace", "many.moetrace", *limit]).exit_code == 0


def python(*arguments: str, **named: object) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, *arguments], cwd=ROOT, text=True, stderr=subprocess.PIPE, check=False, **named
    )


SAMPLE = "sample_traces/bible.moetrace"


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="needs a disk that is full")
@pytest.mark.parametrize("command", [["--help"], ["show", SAMPLE], ["replay", SAMPLE, "--json"]])
def test_output_that_cannot_be_written_is_one_message(command: list[str]) -> None:
    with open("/dev/full", "w") as full:
        done = python("-m", "moeviz", *command, stdout=full)
    assert done.returncode == 2
    assert "The output cannot be written: No space left on device" in done.stderr
    assert "Traceback" not in done.stderr
    assert "Exception" not in done.stderr


@pytest.mark.skipif(sys.platform == "win32", reason="signals")
def test_a_reader_that_leaves_is_met_with_silence() -> None:
    command = [sys.executable, "-m", "moeviz", "replay", SAMPLE, "--json"]
    with subprocess.Popen(command, cwd=ROOT, stdout=subprocess.PIPE, stderr=subprocess.PIPE) as process:
        assert process.stdout is not None
        process.stdout.close()
        assert process.stderr is not None
        assert process.stderr.read() == b""
        assert process.wait() != 0


@pytest.mark.skipif(sys.platform == "win32", reason="signals")
def test_an_interrupted_sweep_says_what_it_keeps_and_leaves_no_child(tmp_path: Path) -> None:
    out = tmp_path / "t.parquet"
    command = [sys.executable, "-m", "moeviz", "sweep", "sample_traces", "--policies", "all"]
    command += ["--prefetch", "none,frequency", "--jobs", "1", "--out", str(out)]
    with subprocess.Popen(
        command, cwd=ROOT, stderr=subprocess.PIPE, text=True, start_new_session=True
    ) as process:
        assert process.stderr is not None
        first = process.stderr.readline()  # a tenth is done, the rest is under way
        assert "curves replayed" in first
        os.killpg(process.pid, signal.SIGINT)  # as a terminal does: to the workers too
        _, said = process.communicate(timeout=300)  # until neither parent nor child holds the pipe
    assert process.returncode == 130
    assert f"{out}.journal holds the rows so far; the same command goes on from there." in said
    assert "Traceback" not in said
    assert Path(f"{out}.journal").stat().st_size > 0


@pytest.mark.skipif(not Path("/proc").exists(), reason="reads /proc")
def test_a_killed_sweep_leaves_no_child(tmp_path: Path) -> None:
    command = [sys.executable, "-m", "moeviz", "sweep", "sample_traces", "--policies", "all"]
    command += ["--prefetch", "none,frequency", "--jobs", "1", "--out", str(tmp_path / "t.parquet")]
    with subprocess.Popen(command, cwd=ROOT, stderr=subprocess.PIPE, text=True) as process:
        assert process.stderr is not None
        process.stderr.readline()
        assert Path(f"/proc/{process.pid}/task/{process.pid}/children").read_text().split()
        process.kill()
        process.communicate(timeout=300)  # until the last child has closed the pipe


def test_two_sweeps_on_one_table_are_refused(tmp_path: Path) -> None:
    from moeviz.sweeps.table import _locked, journal_of

    out = tmp_path / "t.parquet"
    with _locked(journal_of(out)):
        done = python(
            "-m", "moeviz", "sweep", SAMPLE, "--jobs", "1", "--out", str(out), stdout=subprocess.PIPE
        )
    assert done.returncode == 2
    assert "Another sweep writes t.parquet at this moment" in done.stderr


@pytest.mark.parametrize(
    ("code", "unloaded"),
    [
        ("import moeviz", "numpy pandas torch plotly click"),
        (
            "from moeviz.cli.main import main; main(['--help'])",
            "pandas pyarrow torch plotly rich",
        ),
        (
            f"from moeviz.cli.main import main; main(['replay', {SAMPLE!r}, '--json'])",
            "pandas pyarrow torch plotly rich distributed streamlit",
        ),
    ],
)
def test_what_is_not_needed_is_not_loaded(code: str, unloaded: str) -> None:
    loaded = f"[name for name in {unloaded.split()!r} if name in sys.modules]"
    ends = f"import atexit, sys; atexit.register(lambda: print({loaded}, file=sys.stderr)); "
    done = python("-c", ends + code, stdout=subprocess.DEVNULL)
    assert done.stderr.strip() == "[]"

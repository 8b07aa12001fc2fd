"""Command lines that somebody might type: each ends with 0, or with one message and exit code 2, and never
with a traceback.

They run in this process and load no torch; what a signal or a full disk does is tried in processes of their
own at the end.
"""

from __future__ import annotations

import signal
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from click.testing import CliRunner
from conftest import random_trace

from moeviz.cli.main import main
from moeviz.core.replay import replay
from moeviz.core.settings import Settings

ROOT = Path(__file__).parent.parent
T, OUT = "trace.moetrace", "out.file"
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
    "folder": "is a folder; expected a trace file",
    "empty.moetrace": "has 0 bytes|empty",
    "text.moetrace": "not a .moetrace file|none of the formats that are read",
    "/dev/zero": "no regular file; expected a trace file",
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
    "--baseline none": "baseline 'none' is not known. Choose one of resident, on-demand, whole-layer",
    "--speed 3": "No such option",
}
MISFITS = {  # settings that are right, and wrong for this trace
    "--slots 1": "1 slots are too few: a token needs 2",
    "--slots 9": "9 slots are more than the 8 experts of each MoE layer",
    "--scope model --slots 25": "more than the 24 experts of the model",
    "--prefetch next-gate --lookahead 3": "there are 3 MoE layers",
    "--prefetch next-gate --width 8": "next-gate guesses per layer, not 8",
    "--width 9": "a layer has 8 experts",
    "--policy static": "policy 'static' needs a calibration trace",
    "--warm calibrated": "'calibrated' needs a calibration trace",
    "--policy static --calibration gone": "is no trace file and no sample",
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
    "compare --prompt x --setting threshold=nan": "threshold is nan",
    "compare --prompt x --setting policy=": "policy '' is not known",
    "compare --prompt x --baselines none": "baseline 'none' is not known",
    "compare --prompt x --repeats 0": "not in the range",
    f"compare --prompt x --repeats {SEEDS}": "not in the range",
    "compare --prompt x --threads 1000000": "not in the range",
    f"compare --prompt x --seed {SEEDS}": "seed is",
    f"{RUN} --link tape": "link 'tape' is not known. Choose one of SD card",
    f"{RUN} --link nan": "link 'nan' is not known",
    f"{RUN} --link -1": "link '-1' is not known",
    "compare --prompt x --link 0,0,0": "link '0,0,0' is not known",
    # files in and out
    f"import {T} --format tape --out {OUT}": "format 'tape' is not known. Choose one of moetrace",
    f"import routed.npy --experts -1 --out {OUT}": "not in the range",
    f"import routed.npy --experts {SEEDS} --out {OUT}": "experts were given; a layer has 1 to",
    f"import routed.npy --experts 2 --out {OUT}": "expert",
    f"import {T}": "Missing option '--out'",
    f"export {T} --format tape --out {OUT}": "format 'tape' is not known. Choose one of csv",
    f"export {T} --format perfetto --out {OUT}": "holds no measured run",
    f"export {T} --recorded --format csv --out {OUT}": "holds no recorded run. Leave out --recorded",
    f"export {T} --format csv": "Missing option '--out'",
    # differences
    f"diff {T}": "Missing argument 'SECOND'",
    f"diff {T} {T} --fail-below hit_ratio": "'hit_ratio' is no limit",
    f"diff {T} {T} --fail-below hit_ratio=0.1": "is no limit. Write a name and a number of at most 0",
    f"diff {T} {T} --fail-below hit_ratio=nan": "is no limit",
    f"diff {T} {T} --fail-below speed=-1": "there is no number 'speed' in both. There are accesses",
    f"diff {T} {T} --fail-below tokens_per_second=-5%": "there is no number 'tokens_per_second' in both",
    # sweeps
    f"sweep --out {OUT}": "Missing argument 'FILES...'",
    f"sweep {T}": "Missing option '--out'",
    f"sweep {T} --policies best --out {OUT}": "'best' is no policy. Choose from lru",
    f"sweep {T} --policies '' --out {OUT}": "'nothing' is no policy",
    f"sweep {T} --policies gone.py:x --out {OUT}": "there is no file gone.py",
    f"sweep {T} --prefetch crystal --out {OUT}": "'crystal' is no predictor",
    f"sweep {T} --slots 8-2 --out {OUT}": "8-2 goes down",
    f"sweep {T} --slots two --out {OUT}": "is no list of counts",
    f"sweep {T} --slots 2-9999999 --out {OUT}": "no model has so many experts",
    f"sweep {T} --slots ² --out {OUT}": "is no list of counts",
    f"sweep {T} --slots 99 --jobs 1 --out {OUT}": "Nothing fits",
    f"sweep {T} --scope planet --out {OUT}": "'planet' is not one of",
    f"sweep {T} --jobs 0 --out {OUT}": "not in the range",
    f"sweep {T} --jobs {SEEDS} --out {OUT}": "not in the range",
    f"sweep {T} --lookahead 0 --out {OUT}": "lookahead is 0",
    f"sweep text.moetrace --jobs 1 --out {OUT}": "None of the files is a trace",
    f"sweep gone --jobs 1 --out {OUT}": "None of the files is a trace",
    f"sweep {T} --jobs 1 --out text.moetrace": "is there and is no table of a sweep",
    # the folder of packed experts
    "cache limit nonsense": "The size 'nonsense' is not known. Write for example 50GB",
    f"cache limit {SEEDS}TB": "is not known",
    "cache clean nothing-of-that-name": "Nothing in",
    # what there is
    "nonsense": "No such command 'nonsense'",
    "bench nonsense": "No such command 'nonsense'",
    "bench replay --tokens 1": "not in the range",
    f"bench replay --tokens {SEEDS}": "not in the range",
    "bench engine --repeats 0": "not in the range",
    f"bench pages --tokens {SEEDS}": "not in the range",
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
    f"sweep {T} --jobs 1 --slots 2,4-6 --policies lru,lfu --out {OUT}",
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
    assert (here / "taken.file").read_text() == "somebody's work"
    assert not list(here.glob("*.journal"))


@pytest.mark.parametrize("command", DONE)
def test_it_is_done(command: str, here: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(here)
    taken = (here / "taken.file").read_bytes()
    result = CliRunner().invoke(main, words_of(command))
    (here / "taken.file").write_bytes(taken)
    (here / OUT).unlink(missing_ok=True)
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
    with subprocess.Popen(command, cwd=ROOT, stderr=subprocess.PIPE, text=True) as process:
        assert process.stderr is not None
        first = process.stderr.readline()  # a tenth is done, the rest is under way
        assert "settings replayed" in first
        process.send_signal(signal.SIGINT)
        _, said = process.communicate(timeout=60)  # until neither parent nor child holds the pipe
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
        process.communicate(timeout=60)  # until the last child has closed the pipe


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

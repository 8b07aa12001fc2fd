"""Sweeps: the same rows by local processes and by Dask, what is bad skipped, what is done kept."""

from __future__ import annotations

import json
import os
import signal
import sys
import time
from collections.abc import Callable, Iterator
from concurrent.futures import Executor, Future, ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path
from tempfile import TemporaryDirectory
from types import ModuleType
from typing import Any

import pandas as pd
import pytest
from click.testing import CliRunner, Result
from conftest import random_trace
from hypothesis import example, given
from hypothesis import strategies as st

from moeviz.cli.main import main
from moeviz.core.policies import POLICIES
from moeviz.core.replay import replay
from moeviz.core.settings import ITSELF, Settings
from moeviz.core.trace import DECODE, Trace
from moeviz.errors import SweepError
from moeviz.files.formulas import to_csv
from moeviz.files.moetrace import SAMPLES
from moeviz.numbers import metrics
from moeviz.numbers.differences import Interval
from moeviz.numbers.split import split
from moeviz.sweeps import Plan, by_prompt, choices, executor, means, sweep, verdict
from moeviz.sweeps.plan import COLUMNS
from moeviz.sweeps.table import read

pytestmark = pytest.mark.usefixtures("plain_main")


@pytest.fixture
def files(tmp_path: Path) -> list[Path]:
    paths = [tmp_path / "a.moetrace", tmp_path / "b.moetrace"]
    random_trace(1, prompt=1).save(paths[0])
    random_trace(2, layers=4, experts=6, prompt=4).save(paths[1])
    return paths


@pytest.fixture
def threads() -> Iterator[Executor]:
    with ThreadPoolExecutor(1) as pool:
        yield pool


def command(*arguments: str | Path) -> Result:
    return CliRunner().invoke(main, ["sweep", *(str(argument) for argument in arguments)])


def test_every_row_is_a_replay(files: list[Path], threads: Executor, tmp_path: Path) -> None:
    plan = Plan(tuple(POLICIES), ("layer", "model"), ("none", "next-gate"), slots=(3, 5, 9, 12))
    table = sweep(files, plan, tmp_path / "t.parquet", threads)
    assert set(table.loc[(table["file"] == "b.moetrace") & (table["scope"] == "layer"), "slots"]) == {3, 5}
    assert pd.read_parquet(tmp_path / "t.parquet").equals(table)
    for _, row in table.sample(60, random_state=1).iterrows():
        settings = Settings(
            row["policy"], row["slots"], row["scope"], row["prefetch"], calibration=row["calibration"]
        )
        assert (settings.calibration == ITSELF) == (row["policy"] == "static")
        run = replay(Trace.load(tmp_path / row["file"]), settings)
        for phase, name in enumerate(("prefill", "decode")):
            counted = metrics.counts(run, phase)
            assert (row[f"{name}_accesses"], row[f"{name}_hits"]) == (counted.accesses, counted.hits)
        assert row["guesses_issued"] == metrics.ledger(run).issued
        moved = metrics.bytes_moved(run)
        assert row["bytes_moved"] == moved.demand + moved.prefetch_useful + moved.prefetch_wasted


@pytest.mark.parametrize("prefetch", ["none", "next-gate"])
def test_rules_budgets_and_stretches_are_those_of_a_replay(
    prefetch: str, threads: Executor, tmp_path: Path
) -> None:
    trace = replace(random_trace(4, tokens=50), expert_bytes=(100, 150, 100))
    trace.save(tmp_path / "a.moetrace")
    plan = Plan(("lru", "lfu"), ("layer",), (prefetch,), budgets=(900, 2_000, 1), rule="one-by-one")
    table = sweep([tmp_path / "a.moetrace"], plan, tmp_path / "t.parquet", threads)
    assert sorted(table["budget"]) == [900, 900, 2_000, 2_000], "one byte holds nobody"
    for _, row in table.iterrows():
        settings = Settings(row["policy"], budget=row["budget"], rule="one-by-one", prefetch=prefetch)
        run = replay(trace, settings)
        counted = metrics.counts(run, DECODE)
        assert (row["decode_hits"], row["slots"]) == (counted.hits, row["budget"] // 300)
        assert row["bytes_moved"] == metrics.bytes_moved(run).total
        hits, accesses = (list(map(int, row[f"stretch_{name}"].split())) for name in ("hits", "accesses"))
        assert (sum(hits), sum(accesses), len(hits)) == (counted.hits, counted.accesses, 16)


def test_the_divided_slots_of_a_row_are_those_of_split(
    files: list[Path], threads: Executor, tmp_path: Path
) -> None:
    table = sweep(files, Plan(("lru", "lfu-resident")), tmp_path / "t.parquet", threads)
    for _, row in table.iterrows():
        found = split(Trace.load(tmp_path / row["file"]), Settings(row["policy"], row["slots"]))
        assert (row["split_hits"], row["decode_hits"]) == (found.hits, found.equal_hits)
    some = sweep(files, Plan(("lru",), slots=(4,)), tmp_path / "s.parquet", threads)
    assert set(some["split_hits"]) == {-1}, "not asked"
    rest = sweep(files, Plan(("lru",)), tmp_path / "s.parquet", threads)
    made = table[(table["policy"] == "lru") & (table["slots"] != 4)]["split_hits"].tolist()
    assert rest[rest["slots"] != 4]["split_hits"].tolist() == made, "whatever was done before"


def test_the_best_at_each_memory_with_its_spread(threads: Executor, tmp_path: Path) -> None:
    samples = sorted(SAMPLES.glob("*.moetrace"))
    table = sweep(samples, Plan(("lru", "lfu", "belady"), slots=(2, 4)), tmp_path / "t.parquet", threads)
    least, four = choices(table)
    assert (least.best, least.difference, least.clear) == ("lru", Interval(0.0, 0.0, 0.0), False)
    assert (four.room, four.best, four.rival, four.clear) == (4, "lfu", "lru", False)
    at = table[table["slots"] == 4].pivot(index="file", columns="policy", values="hit_ratio")
    apart = at["lfu"] - at["lru"]
    assert four.difference.middle == pytest.approx(apart.median())
    assert four.difference.low == pytest.approx(apart.min())
    prompts = by_prompt(table, "lfu", "lru", 4)
    assert [one.file for one in prompts] == sorted(apart.index)
    for one in prompts:
        assert one.difference.middle == pytest.approx(apart[one.file])
        assert one.difference.low < one.difference.middle < one.difference.high
    assert {one.file: one.difference.low > 0 for one in prompts}["bible.moetrace"]
    alone = choices(table[table["file"] == "bible.moetrace"])[1]
    assert alone.difference == prompts[0].difference, "the spread within the text, where there is one prompt"
    unknown = table.assign(expert_bytes=table["expert_bytes"].where(table["file"] != "bible.moetrace", 0))
    assert {one.memory for one in choices(unknown)} == {0.0}, "no mean over what is known and nothing"


def test_all_slots_are_from_one_tokens_need_to_all(
    files: list[Path], threads: Executor, tmp_path: Path
) -> None:
    table = sweep(files[:1], Plan(("lru",)), tmp_path / "t.parquet", threads)
    assert table["slots"].tolist() == list(range(2, 9))


@pytest.fixture(scope="module")
def cluster() -> Iterator[Any]:
    """Two Dask workers, each a process of its own that loads all that a sweep needs."""
    from distributed import LocalCluster

    with pytest.MonkeyPatch.context() as patched:
        patched.setitem(sys.modules, "__main__", ModuleType("__main__"))  # as plain_main, for all tests
        with LocalCluster(n_workers=2, threads_per_worker=1, dashboard_address=None, host="127.0.0.1") as two:
            yield two


def test_two_dask_workers_make_the_same_table(
    files: list[Path], cluster: Any, threads: Executor, tmp_path: Path
) -> None:
    options = ["--policies", "lru,lfu", "--prefetch", "none,next-gate"]
    result = command(*files, *options, "--dask", cluster.scheduler_address, "--out", tmp_path / "d.parquet")
    assert result.exit_code == 0, result.output
    plan = Plan(("lru", "lfu"), prefetch=("none", "next-gate"))
    here = sweep(files, plan, tmp_path / "here.parquet", threads)
    assert pd.read_parquet(tmp_path / "d.parquet").equals(here)


def test_local_processes_make_the_same_table(files: list[Path], threads: Executor, tmp_path: Path) -> None:
    options = ["--policies", "lru", "--jobs", 2, "--out", tmp_path / "two.parquet"]
    assert command(*files, *options).exit_code == 0
    here = sweep(files, Plan(("lru",)), tmp_path / "here.parquet", threads)
    assert pd.read_parquet(tmp_path / "two.parquet").equals(here)


class Counting(ThreadPoolExecutor):
    """Counts what it is asked to do, and is pulled out from under a sweep after `most`."""

    def __init__(self, most: int = 1_000) -> None:
        super().__init__(1)
        self.asked, self.most = 0, most

    def submit(self, work: Any, /, *arguments: Any, **named: Any) -> Future[Any]:
        self.asked += 1
        if self.asked > self.most:
            return super().submit(self.cut)
        return super().submit(work, *arguments, **named)

    @staticmethod
    def cut() -> None:
        raise KeyboardInterrupt


def test_a_sweep_that_was_cut_off_goes_on(files: list[Path], tmp_path: Path) -> None:
    out = tmp_path / "t.parquet"
    plan = Plan(("lru", "lfu", "fifo"))
    with Counting(most=4) as pool, pytest.raises(KeyboardInterrupt):
        sweep(files, plan, out, pool)
    journal = tmp_path / "t.parquet.journal"
    with journal.open("a") as file:
        file.write('[{"file": "a.moe')  # killed in the middle of a line
    with Counting() as pool:
        table = sweep(files, plan, out, pool)
        assert pool.asked == 2
    assert not journal.exists()
    with Counting() as pool:
        assert sweep(files, plan, out, pool).equals(table)
        assert pool.asked == 0
    with Counting() as pool:
        more = sweep([*files, files[0]], Plan(("lru", "belady")), out, pool)
        assert pool.asked == 2
    assert set(more["policy"]) == {"lru", "lfu", "fifo", "belady"}


def test_a_bad_file_is_reported_and_skipped(files: list[Path], tmp_path: Path) -> None:
    (tmp_path / "bad.moetrace").write_bytes(b"x" * 100)
    random_trace(3, lookaheads=1).save(tmp_path / "few.moetrace")
    result = command(
        tmp_path,
        tmp_path / "gone.moetrace",
        "--policies",
        "lru",
        "--prefetch",
        "all",
        "--lookahead",
        2,
        "--jobs",
        1,
        "--out",
        tmp_path / "t.parquet",
    )
    assert result.exit_code == 0, result.output
    for words in (
        "bad.moetrace: ",
        "gone.moetrace: ",
        "few.moetrace: the trace holds next-gate guesses for 1 lookahead, not for 2",
    ):
        assert words in result.stderr
    assert "curves replayed" in result.stderr
    assert set(pd.read_parquet(tmp_path / "t.parquet")["file"]) == {
        "a.moetrace",
        "b.moetrace",
        "few.moetrace",
    }


def test_a_table_that_is_called_csv_is_one_and_is_gone_on_with(
    files: list[Path], tmp_path: Path, threads: Executor
) -> None:
    """Its texts and numbers are those of parquet, whatever they look like."""
    trace = replace(random_trace(4), model='=1+1\r\n"NA"', expert_bytes=1_000)
    trace.save(tmp_path / "007.moetrace")
    several, plan = [*files, tmp_path / "007.moetrace"], Plan(("lru", "belady"), slots=(2, 4))
    whole = sweep(several, plan, tmp_path / "t.parquet", threads)
    sweep(several, Plan(("lru",), slots=(2,)), tmp_path / "t.csv", threads)
    assert (tmp_path / "t.csv").read_text().startswith('"file","digest","model","tokens",')
    assert b'"\'=1+1\r\n""NA""",' in (tmp_path / "t.csv").read_bytes(), "no formula for a spreadsheet"
    new = []
    again = sweep(several, plan, tmp_path / "t.csv", threads, progress=lambda done, of: new.append(of))
    assert new[0] == len(several) * 2  # lru at 4 slots, and belady; what was there is kept
    pd.testing.assert_frame_equal(again, whole, check_dtype=False, check_exact=True)
    pd.testing.assert_frame_equal(read(tmp_path / "t.csv"), whole, check_dtype=False, check_exact=True)


@given(
    texts=st.tuples(*[st.text(st.sampled_from("=+-@'\"\r\n\t,;\\\0 aNA1é＝\ufeff\u2028")) | st.text()] * 2),
    ratio=st.floats(0, 1),
)
@example(("NA", ""), 0.1)
@example(("\r", "'=1"), 1 / 3)
def test_a_csv_gives_back_every_text_and_digit(texts: tuple[str, str], ratio: float) -> None:
    rows = {name: [kind(), kind()] for name, kind in COLUMNS.items()}
    table = pd.DataFrame(rows | {"model": texts, "file": texts[::-1], "hit_ratio": [ratio, 1 - ratio]})
    with TemporaryDirectory() as folder:
        path = Path(folder) / "t.csv"
        path.write_bytes(to_csv(table))
        back = read(path)
    pd.testing.assert_frame_equal(back, table, check_dtype=False, check_exact=True)


@pytest.mark.parametrize("name", ["t.csv", "t.pq", "t"])
def test_parquet_under_another_name_is_to_be_renamed(
    name: str, files: list[Path], tmp_path: Path, threads: Executor
) -> None:
    """As earlier versions wrote it, whatever the name."""
    table = sweep(files, Plan(("lru",), slots=(3,)), tmp_path / "t.parquet", threads)
    (tmp_path / "t.parquet").rename(tmp_path / name)
    result = command(*files, "--policies", "lru", "--jobs", 1, "--out", tmp_path / name)
    assert result.exit_code == 2
    assert f"{name} is there and is parquet" in result.stderr
    assert "for example t.parquet" in result.stderr
    assert not list(tmp_path.glob("*.journal"))
    (tmp_path / name).rename(tmp_path / "t.parquet")
    with Counting() as pool:
        assert sweep(files, Plan(("lru",), slots=(3,)), tmp_path / "t.parquet", pool).equals(table)
        assert pool.asked == 0


@pytest.mark.skipif(sys.platform != "linux", reason="elsewhere every name is text")
@pytest.mark.parametrize("kind", ["csv", "parquet"])
def test_a_name_that_is_no_text_is_shown_by_its_bytes(
    kind: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    good, bad = (Path(os.fsdecode(os.fsencode(tmp_path) + name)) for name in (b"/b\xff.moetrace", b"/\xfe"))
    random_trace(1).save(good)
    bad.write_bytes(b"no trace")
    out = tmp_path / f"t.{kind}"
    plan = Plan(("lru",), slots=(3,))
    with Counting() as pool:
        table = sweep([good, bad], plan, out, pool)
        assert table["file"].tolist() == ["b\\xff.moetrace"]
        assert f"skipped {tmp_path}/\\xfe: " in capsys.readouterr().out
        sweep([good], plan, out, pool)
        assert pool.asked == 1
    assert read(out)["file"].tolist() == ["b\\xff.moetrace"]
    assert not list(tmp_path.glob("*.journal"))


def test_rows_with_a_name_that_is_no_text_are_made_again(files: list[Path], tmp_path: Path) -> None:
    """Earlier versions wrote them into a journal, and no table came of it."""
    plan = Plan(("lru",), slots=(3,))
    with Counting() as pool:
        table = sweep(files[:1], plan, tmp_path / "t.parquet", pool)
    (row,) = table.to_dict("records")
    (tmp_path / "u.csv.journal").write_text(json.dumps([row | {"file": "\udcff"}]) + "\n")
    reported: list[str] = []
    with Counting() as pool:
        assert sweep(files[:1], plan, tmp_path / "u.csv", pool, reported.append).equals(table)
        assert pool.asked == 1
    assert "skipped line 1 of u.csv.journal" in reported[0]


def test_what_cannot_be_swept_is_one_message(files: list[Path], tmp_path: Path) -> None:
    for kind in ("parquet", "csv"):
        (tmp_path / f"text.{kind}").write_text("no table")
    (tmp_path / "bad.moetrace").write_text("no trace")
    out = ["--out", tmp_path / "t.parquet", "--jobs", 1]
    for arguments, words in (
        ([files[0], "--policies", "best", *out], "'best' is no policy"),
        ([files[0], "--policies", "", *out], "'nothing' is no policy"),
        ([files[0], "--slots", "8-2", *out], "is no list of counts"),
        ([files[0], "--slots", "2-9999999", *out], "no model has so many experts"),
        ([files[0], "--slots", "4", "--budgets", "1GiB", *out], "slots or over budgets"),
        ([files[0], "--budgets", "much", *out], "budget is 'much'"),
        ([files[0], "--budgets", "9B", *out], "Nothing fits"),
        ([files[0], "--rule", "best", *out], "rule 'best' is not known"),
        ([files[0], "--out", tmp_path / "text.parquet", "--jobs", 1], "is no table of a sweep"),
        ([files[0], "--out", tmp_path / "text.csv", "--jobs", 1], "is no table of a sweep"),
        ([files[0], "--out", tmp_path / "t.xlsx", "--jobs", 1], "End its name in .parquet or .csv"),
        ([files[0], "--out", tmp_path / "t", "--jobs", 1], "End its name in .parquet or .csv"),
        ([tmp_path / "bad.moetrace", *out], "None of the files is a trace"),
        ([files[0], "--dask", "tcp://127.0.0.1:9", *out[:2]], "No Dask scheduler answers"),
        ([files[0], "--dask", "nope", *out[:2]], "No Dask scheduler answers at nope"),
        ([files[0], "--dask", "tls://127.0.0.1:9", *out[:2]], "No Dask scheduler answers"),
        ([files[0], "--dask", "http://[", *out[:2]], "No Dask scheduler answers"),
        ([files[0], "--out", tmp_path / "gone" / "t.parquet"], "does not exist"),
    ):
        result = command(*arguments)
        assert result.exit_code == 2, arguments
        assert words in result.stderr


def test_a_worker_that_dies_is_one_message(files: list[Path], tmp_path: Path) -> None:
    with executor(1) as pool, pytest.raises(SweepError, match="A worker died"):
        sweep(files, Plan(("lru",)), tmp_path / "t.parquet", Dying(pool))


class Dying(Executor):
    """Every task ends its process."""

    def __init__(self, pool: Executor) -> None:
        self.pool = pool

    def submit(self, work: Any, /, *arguments: Any, **named: Any) -> Future[Any]:
        return self.pool.submit(os._exit, 1)


def test_an_executor_is_closed(tmp_path: Path) -> None:
    with executor(1) as pool:
        assert pool.submit(int, "7").result() == 7
    with pytest.raises(SweepError), executor(1, "no address"):
        pass


def after_long(marker: Path) -> None:
    time.sleep(300)
    marker.touch()


def interrupted(marker: Path) -> None:
    with executor(1) as pool:
        assert pool.submit(int, "7").result() == 7
        pool.submit(after_long, marker)
        raise KeyboardInterrupt


def test_an_interrupted_executor_waits_for_no_task(tmp_path: Path) -> None:
    with pytest.raises(KeyboardInterrupt):
        interrupted(tmp_path / "done")
    assert not (tmp_path / "done").exists()


@pytest.mark.skipif(os.name != "posix", reason="signals")
def test_a_worker_leaves_an_interruption_to_its_parent() -> None:
    with executor(1) as pool:
        os.kill(pool.submit(os.getpid).result(), signal.SIGINT)
        assert pool.submit(int, "7").result() == 7


def test_damaged_lines_of_the_journal_are_named_and_made_again(
    files: list[Path], threads: Executor, tmp_path: Path
) -> None:
    out = tmp_path / "t.parquet"
    plan = Plan(("lru", "lfu"), slots=(3,))
    whole = sweep(files, plan, tmp_path / "whole.parquet", threads)
    good = json.dumps(whole[whole["policy"] == "lru"].to_dict("records")).encode()
    damaged = [
        b"7",
        b"null",
        b'"text"',
        b"[7]",
        b"[{}]",
        b'[{"file": "a"}]',
        b"\xff\xfe",
        b"[" * 100_000,
        json.dumps([whole.iloc[0].to_dict() | {"slots": "3"}]).encode(),
        json.dumps([whole.iloc[0].to_dict() | {"more": 1}]).encode(),
        json.dumps([whole.iloc[0].to_dict() | {"stretch_hits": "1 x"}]).encode(),
    ]
    journal = tmp_path / "t.parquet.journal"
    journal.write_bytes(b"\n".join([damaged[0], good, *damaged[1:], good[:40]]))  # the last one is cut off
    said: list[str] = []
    assert sweep(files, plan, out, threads, said.append).equals(whole)
    assert len(said) == len(damaged) + 1
    assert said[0] == "skipped line 1 of t.parquet.journal: it is damaged. Its rows are made again."
    assert not journal.exists()


def test_a_line_after_a_cut_one_is_not_lost(files: list[Path], tmp_path: Path) -> None:
    out = tmp_path / "t.parquet"
    (tmp_path / "t.parquet.journal").write_bytes(b'[{"file": "a.moe')
    with Counting(most=2) as pool, pytest.raises(KeyboardInterrupt):
        sweep(files, Plan(("lru", "lfu")), out, pool)
    with Counting() as pool:
        sweep(files, Plan(("lru", "lfu")), out, pool, lambda line: None)
        assert pool.asked == 2


def test_no_row_is_no_success(files: list[Path], tmp_path: Path) -> None:
    out = tmp_path / "t.parquet"
    result = command(files[0], "--slots", "99", "--jobs", 1, "--out", out)
    assert result.exit_code == 2
    assert "Nothing fits" in result.stderr
    assert not out.exists()
    assert not (tmp_path / "t.parquet.journal").exists()


def test_a_table_of_something_else_is_refused(files: list[Path], threads: Executor, tmp_path: Path) -> None:
    out = tmp_path / "t.parquet"
    for other in (
        pd.DataFrame({"file": ["a"]}),
        sweep(files, Plan(("lru",)), out, threads).astype({"slots": str}),
    ):
        other.to_parquet(out)
        with pytest.raises(SweepError, match="is no table of a sweep"):
            sweep(files, Plan(("lru",)), out, threads)


def test_a_policy_of_one_s_own_is_swept_by_other_processes(files: list[Path], tmp_path: Path) -> None:
    own = tmp_path / "own.py"
    own.write_text(
        "from moeviz.policies import policy\n@policy('mine')\ndef mine(use, now):\n    return use.loaded\n"
    )
    out = tmp_path / "t.parquet"
    result = command(files[0], "--policies", f"fifo,{own}:mine", "--jobs", 1, "--out", out)
    assert result.exit_code == 0, result.output
    table = pd.read_parquet(out)
    assert set(table["policy"]) == {"fifo", f"{own}:mine"}
    assert "own.py:mine" in result.output
    assert f"{own}:mine" not in result.output, "no folder where the name tells it"


def test_all_policies_are_those_that_a_trace_can_be_replayed_under(tmp_path: Path) -> None:
    bare = replace(random_trace(1), weights=None)
    bare.save(tmp_path / "bare.moetrace")
    out = tmp_path / "t.parquet"
    result = command(tmp_path / "bare.moetrace", "--policies", "all", "--jobs", 1, "--out", out)
    assert result.exit_code == 0, result.output
    assert "weighted-lfu" not in set(pd.read_parquet(out)["policy"])


def test_a_policy_that_fails_on_every_trace_is_no_success(files: list[Path], tmp_path: Path) -> None:
    own = tmp_path / "own.py"
    own.write_text("def bad(use, now): return use.touches if len(use.touches) == 2 else use.touches[:1][9]\n")
    out = tmp_path / "t.parquet"
    result = command(files[0], "--policies", f"fifo,{own}:bad", "--jobs", 1, "--out", out)
    assert result.exit_code == 2
    assert "own.py:bad: no row of it" in result.stderr
    assert set(pd.read_parquet(out)["policy"]) == {"fifo"}


def test_a_predictor_of_one_s_own_is_swept_by_other_processes(
    files: list[Path], same_again: str, tmp_path: Path
) -> None:
    out = tmp_path / "t.parquet"
    result = command(
        files[0], "--policies", "lru", "--prefetch", f"none,{same_again}", "--jobs", 1, "--out", out
    )
    assert result.exit_code == 0, result.output
    assert set(pd.read_parquet(out)["prefetch"]) == {"none", same_again}


def test_the_verdict_names_the_best_cache_and_where_memory_stops_to_pay(
    threads: Executor, tmp_path: Path
) -> None:
    out = tmp_path / "t.parquet"
    samples = sorted(SAMPLES.glob("*.moetrace"))
    table = sweep(samples[:1], Plan(("lru", "lfu", "belady")), out, threads)
    one = verdict(table)
    assert one[0].startswith("lfu hits ")
    assert " points more than lru (" in one[0]
    assert one[0].endswith(" over stretches of this trace), the mean over 7 slot counts.")
    assert "Best value for memory: " in one[1]
    assert " MiB; each further slot brings less" in one[1]
    best = means(table)
    assert [found.name for found in best] == ["belady", "lfu", "lru"]
    both = verdict(sweep(samples, Plan(("lru", "lfu")), out, threads))
    assert both[0] == (
        "No difference between lfu and lru that holds over 3 traces, the mean over 7 slot counts."
    )
    assert both[2].startswith("The same slots divided over the layers by what they are worth there")
    bounds = verdict(table[table["policy"] == "belady"])
    assert bounds == ["Every row knows the future: these are bounds, and there is nothing to choose."]


def test_a_median_of_differences_is_no_difference_of_means(threads: Executor, tmp_path: Path) -> None:
    """One prompt on which lfu hits far more makes its mean the best; in the median prompt lru hits more."""
    table = sweep(
        [SAMPLES / "bible.moetrace"], Plan(("lru", "lfu"), slots=(4,)), tmp_path / "t.parquet", threads
    )
    lead = {"lfu": (0.9, 0.48, 0.48, 0.48, 0.48, 0.48, 0.48), "lru": (0.5,) * 7}
    rows = [
        row._replace(digest=str(prompt), file=str(prompt), hit_ratio=lead[row.policy][prompt])
        for row in table.itertuples(index=False)
        for prompt in range(7)
    ]
    assert verdict(pd.DataFrame(rows))[0] == (
        "lru hits 2.0 points more than lfu in the median prompt (2.0 to 2.0 over 7 traces)."
    )


def test_bounds_among_the_rows_are_no_candidates(threads: Executor, tmp_path: Path) -> None:
    plan = Plan(("lru", "lfu", "belady"), prefetch=("none", "oracle"), slots=(3, 4))
    table = sweep([SAMPLES / "bible.moetrace"], plan, tmp_path / "t.parquet", threads)
    assert {(one.best, one.rival) for one in choices(table)} == {("lfu", "lru")}
    said = verdict(table)
    assert said[0].startswith("lfu hits ")
    assert said[1].startswith("Best value for memory: not told")  # of two memories


def dying_once(marker: Path, task: Callable[..., Any], *arguments: Any) -> Any:
    """Ends its process where it is the first to come here."""
    if not marker.exists():
        marker.touch()
        os._exit(1)
    return task(*arguments)


class Mortal(Executor):
    """The first task to begin ends its worker."""

    def __init__(self, pool: Executor, marker: Path) -> None:
        self.pool, self.marker = pool, marker

    def submit(self, work: Any, /, *arguments: Any, **named: Any) -> Future[Any]:
        return self.pool.submit(dying_once, self.marker, work, *arguments)


def test_a_dask_worker_that_dies_costs_a_retry_and_no_row(
    files: list[Path], cluster: Any, threads: Executor, tmp_path: Path
) -> None:
    plan, said = Plan(("lru",), slots=(3, 4)), list[str]()
    with executor(None, cluster.scheduler_address) as pool:
        whole = sweep(files, plan, tmp_path / "dask.parquet", Mortal(pool, tmp_path / "died"), said.append)
        assert (tmp_path / "died").exists()
        assert whole.equals(sweep(files, plan, tmp_path / "here.parquet", threads))
        assert not said
        cluster.scheduler.allowed_failures = 0  # a worker that dies on a task again and again
        with pytest.raises(SweepError, match="A worker died"):
            sweep(files, plan, tmp_path / "lost.parquet", Mortal(pool, tmp_path / "died again"))

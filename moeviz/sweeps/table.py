"""The table of a sweep, written in one go, and the journal that keeps its rows until then.

Rows that are done stand in a journal beside the table until it is written, so that the same call goes on
after a cut. A lock on the journal keeps two sweeps from one table; the system drops it when its holder dies.
"""

from __future__ import annotations

import json
import os
import re
import sys
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Executor, as_completed
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import IO

import pandas as pd

from moeviz.core.settings import Settings
from moeviz.errors import MoevizError, SweepError, TraceError
from moeviz.files.formulas import as_it_was, to_csv
from moeviz.files.moetrace import load, shown, write_atomically
from moeviz.sweeps.plan import COLUMNS, KEY, STRETCHED, Plan, Row, key_of, work
from moeviz.sweeps.workers import losses

CSV = ".csv"
PARQUET = ".parquet"
SUFFIXES = (PARQUET, CSV)  # of the name of a table, which say how it is written
HALVES = "[\ud800-\udfff]"  # of characters, which no table can hold; names of files may


def sweep(
    files: Iterable[Path],
    plan: Plan,
    out: Path,
    executor: Executor,
    report: Callable[[str], None] = print,
    progress: Callable[[int, int], None] = lambda done, of: None,
) -> pd.DataFrame:
    """Writes the table to `out`, CSV or parquet by the end of its name, and gives it.

    What is there already, or in the journal of a sweep that was cut off, is kept.

    A file that is no trace, settings that do not fit one, and lines of the journal that are damaged are
    reported in a line and skipped. Raises SweepError where the name ends otherwise, no file is a trace, no
    row comes out or another sweep writes the same table, OSError where it cannot be written.
    """
    check_name(out)
    with _locked(journal_of(out)) as journal:
        return _sweep(files, plan, out, journal, executor, lambda line: report(shown(line)), progress)


def check_name(out: Path) -> None:
    """Raises SweepError where the name of a table does not say how it is written, or says it wrong."""
    if out.suffix.lower() != PARQUET and _is_parquet(out):
        raise SweepError(
            f"{out.name} is there and is parquet, which its name does not say. Rename it so that it "
            f"ends in {PARQUET}, for example {out.with_suffix(PARQUET).name}, and give that for --out: "
            "the sweep goes on with it."
        )
    if out.suffix.lower() not in SUFFIXES:
        raise SweepError(
            f"{out.name} for --out does not say which kind of table it is to be. End its name in "
            f"{' or '.join(SUFFIXES)}."
        )


def _is_parquet(out: Path) -> bool:
    """Raises OSError where it is there and cannot be read."""
    if not out.is_file():
        return False
    with out.open("rb") as file:
        return file.read(4) == b"PAR1"


def journal_of(out: Path) -> Path:
    """Where rows stand until the table is written."""
    return out.with_name(out.name + ".journal")


def _sweep(
    files: Iterable[Path],
    plan: Plan,
    out: Path,
    journal: IO[bytes],
    executor: Executor,
    report: Callable[[str], None],
    progress: Callable[[int, int], None],
) -> pd.DataFrame:
    rows = _known(out, journal, report)
    done = {tuple(row[name] for name in KEY) for row in rows}
    tasks: list[tuple[str, Settings, tuple[int, ...]]] = []
    good = 0
    for file in files:
        try:
            trace, _ = load(file)
        except (TraceError, OSError) as error:
            report(f"skipped {file}: {error}")
            continue
        good += 1
        wanted = list(plan.tasks(trace))
        if not wanted:
            report(
                f"skipped {file}: none of the slot counts or budgets fits its {trace.num_experts} experts, "
                f"{trace.k} per token."
            )
        for settings, rooms in wanted:
            keys = {room: key_of(trace, settings, room) for room in rooms}
            left = tuple(room for room in rooms if keys[room] not in done)
            done |= set(keys.values())  # the same trace may be given twice
            if left:
                tasks.append((str(file.resolve()), settings, left))
    if not good:
        raise SweepError(
            "None of the files is a trace. `python -m moeviz import` makes one of other tools' files."
        )
    divide = not (plan.slots or plan.budgets)
    rows += _worked_through(tasks, divide, journal, executor, report, progress)
    if not rows:
        raise SweepError(
            "Nothing fits: no trace could be replayed under any of the settings, so there is no table."
        )
    table = pd.DataFrame(rows)[list(COLUMNS)].sort_values(["file", *KEY], ignore_index=True)
    write_atomically(out, _to_bytes(table, out))
    with suppress(PermissionError):  # Windows: the file is open; an empty journal does no harm
        journal_of(out).unlink()
    journal.truncate(0)
    return table


def read(out: Path) -> pd.DataFrame:
    """A table as it was written, text for text and digit for digit."""
    if out.suffix.lower() == CSV:
        table = pd.read_csv(out, dtype=COLUMNS, keep_default_na=False)
        texts = [name for name in table.columns if COLUMNS.get(name) is str]
        return table.assign(**{name: table[name].map(as_it_was) for name in texts})
    return pd.read_parquet(out)


def _to_bytes(table: pd.DataFrame, out: Path) -> bytes:
    if out.suffix.lower() == CSV:
        return to_csv(table)
    return table.to_parquet(index=False)


@contextmanager
def _locked(path: Path) -> Iterator[IO[bytes]]:
    """The journal, open for reading and appending, ours alone until the block ends.

    Raises SweepError, OSError.
    """
    while True:
        with path.open("a+b") as file:
            try:
                _lock(file)
            except OSError:
                raise SweepError(
                    f"Another sweep writes {path.name.removesuffix('.journal')} at this moment. "
                    "Wait for its end, or choose another --out."
                ) from None
            try:
                same = os.fstat(file.fileno()).st_ino == path.stat().st_ino
            except FileNotFoundError:
                same = False  # its last holder has just finished and taken it away
            if same:
                empty = not os.fstat(file.fileno()).st_size
                try:
                    yield file
                except BaseException:
                    if empty and not os.fstat(file.fileno()).st_size:
                        path.unlink(missing_ok=True)  # nothing came of it: leave nothing behind
                    raise
                return


def _lock(file: IO[bytes]) -> None:
    """Raises OSError where another process holds the file."""
    if sys.platform == "win32":
        import msvcrt

        msvcrt.locking(file.fileno(), msvcrt.LK_NBLCK, 1)
    else:
        import fcntl

        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)


def _worked_through(
    tasks: list[tuple[str, Settings, tuple[int, ...]]],
    divide: bool,
    journal: IO[bytes],
    executor: Executor,
    report: Callable[[str], None],
    progress: Callable[[int, int], None],
) -> list[Row]:
    rows: list[Row] = []
    running = {
        executor.submit(work, path, settings, rooms, divide): (path, settings)
        for path, settings, rooms in tasks
    }
    lost = losses()
    if tasks:
        progress(0, len(tasks))
    for number, future in enumerate(as_completed(running), start=1):
        path, settings = running[future]
        try:
            found = future.result()
        except (MoevizError, OSError) as error:
            report(f"skipped {settings.label} on {path}: {error}")
        except lost:
            raise SweepError(
                "A worker died, perhaps for want of memory. The same command goes on from here; "
                "give it fewer --jobs."
            ) from None
        else:
            rows += found
            journal.write(json.dumps(found).encode() + b"\n")
            journal.flush()
        progress(number, len(tasks))
    return rows


def _known(out: Path, journal: IO[bytes], report: Callable[[str], None]) -> list[Row]:
    """Rows of the table, if it is there, and of a sweep that was cut off.

    Raises SweepError where `out` is something else.
    """
    rows: list[Row] = []
    if out.exists():
        try:
            table = read(out)
        except Exception:  # whatever pandas and pyarrow say of a file that is none
            table = pd.DataFrame({"nothing": [0]})
        rows = [{str(name): value for name, value in row.items()} for row in table.to_dict("records")]
        if set(table.columns) != COLUMNS.keys() or not all(map(_is_row, rows)):
            raise SweepError(
                f"{out} is there and is no table of a sweep, or of an earlier version's, which counted less. "
                "Choose another name for --out, or take it away."
            )
    journal.seek(0)
    content = journal.read()
    for number, line in enumerate(content.splitlines(), start=1):
        try:
            found = json.loads(line)
        except (ValueError, RecursionError):
            found = None
        if isinstance(found, list) and all(map(_is_row, found)):
            rows += found
        else:
            report(
                f"skipped line {number} of {journal_of(out).name}: it is damaged. Its rows are made again."
            )
    if content and not content.endswith(b"\n"):
        journal.write(b"\n")  # cut off in the middle of a line: what follows stands on its own
    return rows


def _is_row(row: object) -> bool:
    return (
        isinstance(row, dict)
        and row.keys() == COLUMNS.keys()
        and all(
            (type(row[name]) is kind or (kind is float and type(row[name]) is int))
            and (not name.startswith("stretch_") or re.fullmatch(STRETCHED, row[name]))
            and (kind is not str or not re.search(HALVES, row[name]))
            for name, kind in COLUMNS.items()
        )
    )

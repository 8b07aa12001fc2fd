"""Many traces under many settings: a table with a row per trace x settings, made by local processes or a Dask cluster.

with executor(jobs=2) as pool:
    sweep(files, Plan(policies=("lru", "lfu")), Path("table.parquet"), pool)
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import BrokenExecutor, CancelledError, Executor, ProcessPoolExecutor, as_completed
from contextlib import contextmanager
from dataclasses import asdict, dataclass, replace
from functools import lru_cache
from multiprocessing import get_context
from pathlib import Path
from typing import Any

import pandas as pd

from moeviz.core.policies import NEEDS_CALIBRATION, POLICIES
from moeviz.core.predictors import PREDICTORS
from moeviz.core.replay import replay
from moeviz.core.settings import ITSELF, SCOPES, Settings
from moeviz.core.trace import DECODE, PREFILL, Trace
from moeviz.errors import SettingsError, SweepError, TraceError
from moeviz.files.moetrace import load, write_atomically
from moeviz.numbers import metrics
from moeviz.numbers.curves import curve, slot_counts

Row = dict[str, Any]
KEY = (
    "digest",
    "policy",
    "scope",
    "prefetch",
    "lookahead",
    "width",
    "slots",
)  # what makes a row the same row


@dataclass(frozen=True, slots=True)
class Plan:
    """What to do with every trace. `slots` empty: every count from one token's need to all experts."""

    policies: tuple[str, ...] = tuple(POLICIES)
    scopes: tuple[str, ...] = ("layer",)
    prefetch: tuple[str, ...] = ("none",)
    lookahead: int = 1
    width: int = 0
    slots: tuple[int, ...] = ()

    def __post_init__(self) -> None:
        for what, chosen, known in (
            ("policy", self.policies, tuple(POLICIES)),
            ("scope", self.scopes, SCOPES),
            ("predictor", self.prefetch, tuple(PREDICTORS)),
        ):
            unknown = [name for name in chosen if name not in known]
            if unknown or not chosen:
                raise SweepError(
                    f"{', '.join(unknown) or 'nothing'!r} is no {what}. Choose from {', '.join(known)}, or all."
                )

    def tasks(self, trace: Trace) -> Iterator[tuple[Settings, tuple[int, ...]]]:
        """Settings and the slot counts at which they are to be replayed."""
        for scope in self.scopes:
            possible = slot_counts(trace, scope)
            least, most = possible[0], possible[-1]
            counts = tuple(n for n in self.slots if least <= n <= most) if self.slots else tuple(possible)
            for policy in self.policies if counts else ():
                calibration = ITSELF if policy in NEEDS_CALIBRATION else ""
                for predictor in self.prefetch:
                    yield (
                        Settings(
                            policy,
                            counts[0],
                            scope,
                            predictor,
                            self.lookahead,
                            self.width,
                            calibration=calibration,
                        ),
                        counts,
                    )


def work(path: str, settings: Settings, counts: Sequence[int]) -> list[Row]:
    """The rows of one trace and one settings at several slot counts. Raises TraceError, OSError, SettingsError. Runs in any process."""
    file = Path(path)
    trace = _loaded(path, file.stat().st_mtime_ns)
    about = {
        "file": file.name,
        "digest": trace.digest,
        "model": trace.model,
        "tokens": trace.tokens,
        "layers": trace.layers,
        "experts": trace.num_experts,
        "k": trace.k,
        "expert_bytes": trace.mean_bytes,
    }
    chosen = {name: value for name, value in asdict(settings).items() if name in (*KEY, "calibration")}
    rows = []
    if settings.prefetch == "none":
        found = curve(trace, settings, counts)
        for n, slots in enumerate(counts):
            counted = _counted(found.hits[n].tolist(), found.accesses.tolist(), {}, trace.mean_bytes)
            rows.append(about | chosen | {"slots": slots} | counted)
        return rows
    for slots in counts:
        run = replay(trace, replace(settings, slots=slots))
        by_phase = [metrics.counts(run, phase) for phase in (PREFILL, DECODE)]
        hits, accesses = [one.hits for one in by_phase], [one.accesses for one in by_phase]
        rows.append(
            about
            | chosen
            | {"slots": slots}
            | _counted(hits, accesses, asdict(metrics.ledger(run)), trace.mean_bytes)
        )
    return rows


def _counted(hits: list[int], accesses: list[int], ledger: dict[str, Any], expert_bytes: int) -> Row:
    phase = DECODE if accesses[DECODE] else PREFILL
    misses = sum(accesses) - sum(hits)
    guesses = {
        f"guesses_{name}": int(ledger.get(name, 0)) for name in ("issued", "useful", "wasted", "dropped")
    }
    return {
        "prefill_accesses": accesses[PREFILL],
        "prefill_hits": hits[PREFILL],
        "decode_accesses": accesses[DECODE],
        "decode_hits": hits[DECODE],
        "hit_ratio": hits[phase] / accesses[phase],
        "misses": misses,
        **guesses,
        "bytes_moved": (misses + guesses["guesses_issued"]) * expert_bytes,
    }


@lru_cache(maxsize=2)
def _loaded(path: str, changed_ns: int) -> Trace:
    return load(path)[0]


@contextmanager
def executor(jobs: int | None, address: str = "") -> Iterator[Executor]:
    """Local processes (None: one for each core), or a Dask cluster's workers. Raises SweepError where no scheduler answers."""
    if not address:
        with ProcessPoolExecutor(jobs, mp_context=get_context("spawn")) as pool:
            yield pool
        return
    from distributed import Client  # asks the network; most sweeps are local

    try:
        client = Client(address, timeout=10, set_as_default=False)
    except (OSError, ValueError) as error:
        raise SweepError(
            f"No Dask scheduler answers at {address}: {error}. Start one with `dask scheduler`."
        ) from None
    with client, client.get_executor() as pool:
        yield pool


def sweep(
    files: Iterable[Path],
    plan: Plan,
    out: Path,
    executor: Executor,
    report: Callable[[str], None] = print,
    progress: Callable[[int, int], None] = lambda done, of: None,
) -> pd.DataFrame:
    """Writes the table to `out` (parquet) and gives it. What is there already, or in the journal of a sweep that was cut off, is kept.

    A file that is no trace, or settings that do not fit one, are reported in a line and skipped. Raises SweepError where no file is a
    trace, OSError where the table cannot be written.
    """
    journal = out.with_name(out.name + ".journal")
    rows = _known(out, journal)
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
                f"skipped {file}: none of the slot counts fits its {trace.num_experts} experts, {trace.k} per token."
            )
        for settings, counts in wanted:
            key = (trace.digest, *(getattr(settings, name) for name in KEY[1:-1]))
            left = tuple(n for n in counts if (*key, n) not in done)
            done |= {(*key, n) for n in left}  # the same trace may be given twice
            if left:
                tasks.append((str(file.resolve()), settings, left))
    if not good:
        raise SweepError(
            "None of the files is a trace. `python -m moeviz import` makes one of other tools' files."
        )
    rows += _worked_through(tasks, journal, executor, report, progress)
    table = pd.DataFrame(rows)
    if rows:
        table = table.sort_values(["file", *KEY], ignore_index=True)
    write_atomically(out, table.to_parquet(index=False))
    journal.unlink(missing_ok=True)
    return table


def _worked_through(
    tasks: list[tuple[str, Settings, tuple[int, ...]]],
    journal: Path,
    executor: Executor,
    report: Callable[[str], None],
    progress: Callable[[int, int], None],
) -> list[Row]:
    rows: list[Row] = []
    running = {
        executor.submit(work, path, settings, counts): (path, settings) for path, settings, counts in tasks
    }
    try:
        with journal.open("a", encoding="utf-8") as file:
            for number, future in enumerate(as_completed(running), start=1):
                path, settings = running[future]
                try:
                    found = future.result()
                except (TraceError, OSError, SettingsError) as error:
                    report(f"skipped {settings.label} on {path}: {error}")
                except (BrokenExecutor, CancelledError):
                    raise SweepError(
                        "A worker died, perhaps for want of memory. The same command goes on from here; give it fewer --jobs."
                    ) from None
                else:
                    rows += found
                    file.write(json.dumps(found) + "\n")
                    file.flush()
                progress(number, len(tasks))
    finally:
        for future in running:
            future.cancel()
    return rows


def _known(out: Path, journal: Path) -> list[Row]:
    """Rows of the table, if it is there, and of a sweep that was cut off. Raises SweepError where `out` is something else."""
    rows: list[Row] = []
    if out.exists():
        try:
            table = pd.read_parquet(out)
            rows = [{str(name): value for name, value in row.items()} for row in table.to_dict("records")]
            if rows and not {*KEY, "file"} <= set(table.columns):
                raise ValueError
        except Exception:  # whatever pyarrow says of a file that is no parquet
            raise SweepError(
                f"{out} is there and is no table of a sweep. Choose another name for --out."
            ) from None
    for line in journal.read_text(encoding="utf-8").splitlines() if journal.exists() else ():
        try:
            rows += json.loads(line)
        except ValueError:
            continue  # cut off in the middle of a line
    return rows

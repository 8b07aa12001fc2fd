"""Many traces under many settings: a table with a row per trace x settings, made by local processes or a Dask
cluster.

Rows that are done stand in a journal beside the table until it is written, so that the same call goes on
after a cut. A lock on the journal keeps two sweeps from one table; the system drops it when its holder dies.

    with executor(jobs=2) as pool:
        sweep(files, Plan(policies=("lru", "lfu")), Path("table.parquet"), pool)
"""

from __future__ import annotations

import json
import multiprocessing
import os
import signal
import socket
import sys
import threading
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import BrokenExecutor, CancelledError, Executor, ProcessPoolExecutor, as_completed
from contextlib import contextmanager, suppress
from dataclasses import asdict, dataclass, replace
from functools import lru_cache
from pathlib import Path
from typing import IO, Any

import numpy as np
import pandas as pd

from moeviz import words
from moeviz.core.policies import POLICIES, load_policy
from moeviz.core.predictors import PREDICTORS, load_predictor
from moeviz.core.replay import replay
from moeviz.core.settings import ITSELF, SCOPES, Settings
from moeviz.core.trace import DECODE, PREFILL, Trace
from moeviz.errors import MoevizError, SweepError, TraceError
from moeviz.files.moetrace import load, write_atomically
from moeviz.numbers import metrics
from moeviz.numbers.curves import Curve, curve, knee, slot_counts
from moeviz.numbers.differences import bootstrap

Row = dict[str, Any]
COLUMNS: dict[str, type] = {  # of the table
    "file": str,
    "digest": str,
    "model": str,
    "tokens": int,
    "layers": int,
    "experts": int,
    "k": int,
    "expert_bytes": int,
    "policy": str,
    "slots": int,
    "scope": str,
    "prefetch": str,
    "lookahead": int,
    "width": int,
    "calibration": str,
    "prefill_accesses": int,
    "prefill_hits": int,
    "decode_accesses": int,
    "decode_hits": int,
    "hit_ratio": float,
    "misses": int,
    "guesses_issued": int,
    "guesses_useful": int,
    "guesses_wasted": int,
    "guesses_dropped": int,
    "bytes_moved": int,
}
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
            ("scope", self.scopes, tuple(SCOPES)),
            ("predictor", self.prefetch, tuple(PREDICTORS)),
        ):
            unknown = [name for name in chosen if name not in known]
            if unknown or not chosen:
                raise SweepError(
                    f"{', '.join(unknown) or 'nothing'!r} is no {what}. "
                    f"Choose from {', '.join(known)}, or all."
                )

    def tasks(self, trace: Trace) -> Iterator[tuple[Settings, tuple[int, ...]]]:
        """Settings and the slot counts at which they are to be replayed."""
        for scope in self.scopes:
            possible = slot_counts(trace, scope)
            least, most = possible[0], possible[-1]
            counts = tuple(n for n in self.slots if least <= n <= most) if self.slots else tuple(possible)
            for policy in self.policies if counts else ():
                calibration = ITSELF if "calibration" in POLICIES[policy].needs else ""
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
    """The rows of one trace and one settings at several slot counts.

    Raises MoevizError or OSError. Runs in any process.
    """
    load_policy(settings.policy)  # of a user's file: this process may not know it yet
    load_predictor(settings.prefetch)
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
    """Local processes (None: one for each core), or a Dask cluster's workers.

    Raises SweepError where no scheduler answers.

    A local process ends with its parent, however that ends, and at once when the block is left by an
    exception. A task whose Dask worker died is given to another one.
    """
    if not address:
        before = multiprocessing.active_children()
        pool = ProcessPoolExecutor(
            jobs, mp_context=multiprocessing.get_context("spawn"), initializer=_end_with_parent
        )
        try:
            yield pool
        except BaseException:
            pool.shutdown(wait=False, cancel_futures=True)
            for child in multiprocessing.active_children():
                if child not in before:
                    child.terminate()
            raise
        finally:
            pool.shutdown()
        return
    _knock(address)
    from distributed import Client  # most sweeps are local

    try:
        client = Client(address, timeout=10, set_as_default=False)
    except (OSError, ValueError, TypeError) as error:
        reason = str(error) or type(error).__name__
        raise SweepError(f"What listens at {address[:80]} is no Dask scheduler: {reason}.") from None
    with client, client.get_executor(retries=2) as cluster:
        try:
            yield cluster
        except BaseException:
            cluster.shutdown(wait=False)  # which takes back what has not begun
            raise


def _knock(address: str) -> None:
    """Raises SweepError where nobody listens: Dask's client would go on trying while the program ends."""
    where = address.rpartition("://")[2]
    host, _, port = where.rpartition(":")
    try:
        socket.create_connection((host.strip("[]"), int(port)), timeout=10).close()
    except (OSError, ValueError, OverflowError) as error:
        reason = str(error) if host and port.isdecimal() else "it is no address"
        raise SweepError(
            f"No Dask scheduler answers at {address[:80]}: {reason}. Start one with `dask scheduler`, "
            "and give the address that it prints, as tcp://127.0.0.1:8786."
        ) from None


def _end_with_parent() -> None:
    """In a worker: SIGINT is the parent's to handle, and when the parent is gone nobody waits for rows."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    parent = multiprocessing.parent_process()
    if parent is None:
        return

    def wait() -> None:
        parent.join()
        os._exit(1)

    threading.Thread(target=wait, name="moeviz-parent", daemon=True).start()


def _losses() -> tuple[type[BaseException], ...]:
    """What a future raises whose worker died for good."""
    dask = sys.modules.get("distributed")  # loaded where a cluster is used, and only there
    return (BrokenExecutor, CancelledError, *((dask.KilledWorker,) if dask else ()))


def sweep(
    files: Iterable[Path],
    plan: Plan,
    out: Path,
    executor: Executor,
    report: Callable[[str], None] = print,
    progress: Callable[[int, int], None] = lambda done, of: None,
) -> pd.DataFrame:
    """Writes the table to `out` (parquet) and gives it.

    What is there already, or in the journal of a sweep that was cut off, is kept.

    A file that is no trace, settings that do not fit one, and lines of the journal that are damaged are
    reported in a line and skipped. Raises SweepError where no file is a trace, no row comes out or another
    sweep writes the same table, OSError where it cannot be written.
    """
    with _locked(journal_of(out)) as journal:
        return _sweep(files, plan, out, journal, executor, report, progress)


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
                f"skipped {file}: none of the slot counts fits its {trace.num_experts} experts, "
                f"{trace.k} per token."
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
    if not rows:
        raise SweepError(
            "Nothing fits: no trace could be replayed under any of the settings, so there is no table."
        )
    table = pd.DataFrame(rows)[list(COLUMNS)].sort_values(["file", *KEY], ignore_index=True)
    write_atomically(out, table.to_parquet(index=False))
    with suppress(PermissionError):  # Windows: the file is open; an empty journal does no harm
        journal_of(out).unlink()
    journal.truncate(0)
    return table


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
    journal: IO[bytes],
    executor: Executor,
    report: Callable[[str], None],
    progress: Callable[[int, int], None],
) -> list[Row]:
    rows: list[Row] = []
    running = {
        executor.submit(work, path, settings, counts): (path, settings) for path, settings, counts in tasks
    }
    lost = _losses()
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
            table = pd.read_parquet(out)
        except Exception:  # whatever pyarrow says of a file that is no parquet
            table = pd.DataFrame({"nothing": [0]})
        rows = [{str(name): value for name, value in row.items()} for row in table.to_dict("records")]
        if not all(map(_is_row, rows)):
            raise SweepError(f"{out} is there and is no table of a sweep. Choose another name for --out.")
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
            type(row[name]) is kind or (kind is float and type(row[name]) is int)
            for name, kind in COLUMNS.items()
        )
    )


@dataclass(frozen=True, slots=True)
class Means:
    """One way to cache, over all traces of a table."""

    name: str  # policy, and scope and predictor where the table has several
    by_trace: dict[str, float]  # digest -> hit ratio, the mean over the slot counts
    slots: tuple[int, ...]  # that every trace has
    hit_ratio: tuple[float, ...]  # over all traces, at these slots
    memory: tuple[float, ...]  # bytes of these slots, the mean over traces; 0 where unknown

    @property
    def mean(self) -> float:
        return float(np.mean(list(self.by_trace.values())))


def means(table: pd.DataFrame) -> list[Means]:
    """Every way to cache in a table, the one that hits most first; only slot counts that every trace has are
    counted.
    """
    several = [name for name in ("scope", "prefetch") if table[name].nunique() > 1]
    found = []
    for (policy, scope, prefetch), part in table.groupby(["policy", "scope", "prefetch"]):
        more = {"scope": str(scope), "prefetch": str(prefetch)}
        name = ", ".join([str(policy), *(more[key] for key in several)])
        counts = part.groupby("slots")["digest"].nunique()
        shared = part[part["slots"].isin(counts.index[counts == part["digest"].nunique()])]
        if shared.empty:
            continue
        pools = np.where(shared["scope"] == "layer", shared["layers"], 1)
        at = shared.assign(memory=shared["slots"] * pools * shared["expert_bytes"]).groupby("slots")
        hits = at[["prefill_hits", "decode_hits"]].sum().to_numpy()
        accesses = at[["prefill_accesses", "decode_accesses"]].sum().to_numpy()
        phase = DECODE if accesses[:, DECODE].all() else PREFILL
        found.append(
            Means(
                name,
                {
                    str(digest): float(ratio)
                    for digest, ratio in shared.groupby("digest")["hit_ratio"].mean().items()
                },
                tuple(at["slots"].first().astype(int).tolist()),
                tuple((hits[:, phase] / accesses[:, phase]).tolist()),
                tuple(at["memory"].mean().tolist()),
            )
        )
    return sorted(found, key=lambda one: -one.mean)


def verdict(table: pd.DataFrame) -> list[str]:
    """What a table says, in sentences: which cache hits most, by how much, and where more memory stops to
    pay.

    Caches that have to know the future are bounds and no candidates. The difference is paired per trace; its
    interval is a bootstrap's.
    """
    bounds = [name for name, one in POLICIES.items() if "future" in one.needs]
    oracles = [name for name, one in PREDICTORS.items() if "future" in one.needs]
    possible = table[~table["policy"].isin(bounds) & ~table["prefetch"].isin(oracles)]
    if possible.empty:
        return ["Every row knows the future: these are bounds, and there is nothing to choose."]
    found = means(possible)
    if not found:
        return ["No slot count is shared by all traces, so that there is nothing to compare."]
    best = found[0]
    lines = []
    rivals = [
        one for one in found[1:] if one.by_trace.keys() == best.by_trace.keys() and one.slots == best.slots
    ]
    rival = next((one for one in rivals if one.name == "lru"), rivals[0] if rivals else None)
    if rival is not None:
        interval = bootstrap([best.by_trace[digest] - rival.by_trace[digest] for digest in best.by_trace])
        traces = f"{len(best.by_trace)} traces"
        if interval.low is None or interval.high is None:
            lines.append(
                f"{best.name} hits {words.points(interval.middle)} more than {rival.name} on this trace."
            )
        elif interval.low <= 0:
            lines.append(f"No difference between {best.name} and {rival.name} that holds over {traces}.")
        else:
            between = f"{interval.low * 100:.1f} to {interval.high * 100:.1f}"
            lines.append(
                f"{best.name} hits {words.points(interval.middle)} more than {rival.name} "
                f"(median over {traces}, {between})."
            )
    bend = knee(_as_curve(best))
    if bend is not None:
        at = best.slots.index(bend)
        held = f" in {words.memory(best.memory[at])}" if best.memory[at] else ""
        lines.append(
            f"Best value for memory: {bend} slots with {best.name}, "
            f"{words.percent(best.hit_ratio[at])} of accesses hit{held}; "
            "each further slot brings less than the average one."
        )
    return lines or [f"{best.name}: {words.percent(best.mean)} of accesses hit, the mean over traces."]


def _as_curve(found: Means) -> Curve:
    """For `knee`: a million accesses stand for all."""
    hits = np.zeros((len(found.slots), 2), np.int64)
    hits[:, DECODE] = np.round(np.array(found.hit_ratio) * 1e6)
    return Curve(Settings(), np.array(found.slots, np.int64), hits, np.array([0, 1_000_000], np.int64))

"""Whether a recorded run can be believed: it has to fit its trace, agree with itself, and be what its own
replay gives.

Nothing that a file names is opened: a run that was calibrated is replayed where its calibration is a bundled
sample.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import fields

import numpy as np

from moeviz.core.replay import replay
from moeviz.core.run import LATE, MISS, TABLES, Run
from moeviz.core.trace import DECODE, Trace
from moeviz.errors import MoevizError, RunError, SettingsError


def check_run(trace: Trace, run: Run, find: Callable[[str], Trace]) -> None:
    """Raises RunError where the run cannot be one of this trace; `find` gives the trace of a calibration's
    name.
    """
    if (run.layers, run.experts, run.k) != (trace.layers, trace.num_experts, trace.k):
        raise RunError("the recorded run is of another shape (layers, experts, k) than the trace.")
    if run.expert_bytes != trace.expert_bytes:
        raise RunError(
            f"the recorded run's experts have {run.expert_bytes} bytes, the trace's {trace.expert_bytes}."
        )
    if run.link_bytes != trace.link_bytes:
        raise RunError(
            f"{run.link_bytes} bytes cross the link for an expert of the recorded run, and "
            f"{trace.link_bytes} for one of the trace."
        )
    try:
        run.settings.check(run.layers, run.experts, run.k, run.expert_bytes)
    except SettingsError as error:
        raise RunError(f"the recorded run's settings do not fit: {error}") from None
    _check_lengths(trace, run)
    _check_ranges(run)
    if not np.array_equal(run.passes.phase, trace.pass_phase):
        raise RunError("run.passes.phase is not the phase of the trace's forward passes.")
    try:
        again = replay(trace, run.settings, find)
    except MoevizError as error:
        raise RunError(f"the recorded run cannot be replayed: {error}") from None
    _check_decisions(run, again)
    _check_times(trace, run)


def _check_lengths(trace: Trace, run: Run) -> None:
    for table, kind in TABLES.items():
        rows = getattr(run, table)
        if rows is None or table == "times":
            continue
        lengths = {len(getattr(rows, column.name)) for column in fields(kind)}
        if len(lengths) > 1:
            raise RunError(f"the columns of run.{table} differ in length.")
    for name, found, expected in (
        ("passes", len(run.passes.phase), len(trace.passes())),
        ("events", len(run.events.layer), len(trace.events())),
    ):
        if found != expected:
            raise RunError(f"run.{name} has {found} rows; expected {expected}.")
    if run.times is not None:
        sizes = {"pass": len(run.passes.phase), "event": len(run.events.layer), "load": len(run.loads.event)}
        for column in fields(run.times):
            expected = sizes[column.name.partition("_")[0]]
            if len(getattr(run.times, column.name)) != expected:
                raise RunError(f"run.times.{column.name} has not {expected} rows.")


def _check_ranges(run: Run) -> None:
    """Ids and row numbers, so that nothing that reads the columns can fall out of them."""
    room = run.room
    for name, least, most in (
        ("events.forward_pass", 0, len(run.passes.phase)),
        ("events.layer", 0, run.layers),
        ("accesses.event", 0, len(run.events.layer)),
        ("accesses.expert", 0, run.experts),
        ("accesses.outcome", 0, MISS + 1),
        ("loads.event", 0, len(run.events.layer)),
        ("loads.layer", 0, run.layers),
        ("loads.expert", 0, run.experts),
        ("loads.slot", 0, room.slots),
        ("loads.victim_layer", -1, run.layers),
        ("loads.victim_expert", -1, run.experts),
        ("leavers.load", 0, len(run.loads.event)),
        ("leavers.layer", 0, run.layers),
        ("leavers.expert", 0, run.experts),
        ("start.layer", 0, run.layers),
        ("start.expert", 0, run.experts),
        ("start.slot", 0, room.slots),
    ):
        table, _, column = name.partition(".")
        values = getattr(getattr(run, table), column)
        if values.size and not least <= int(values.min()) <= int(values.max()) < most:
            raise RunError(f"run.{name} holds a number outside {least} to {most - 1}.")
    for name, values in (
        ("events.forward_pass", run.events.forward_pass),
        ("accesses.event", run.accesses.event),
        ("loads.event", run.loads.event),
        ("leavers.load", run.leavers.load),
    ):
        if (np.diff(values) < 0).any():
            raise RunError(f"run.{name} goes down; events must be in order.")


def _check_decisions(run: Run, again: Run) -> None:
    mine, theirs = run.columns(), again.columns()
    for name, column in theirs.items():
        own = mine[name]
        if name == "accesses.outcome":  # only a clock can say which hits were late
            own, column = own == MISS, column == MISS
        if len(own) != len(column):
            raise RunError(
                f"run.{name} has {len(own)} rows, but a replay of its settings gives {len(column)}."
            )
        differs = np.flatnonzero(own != column)
        if differs.size:
            raise RunError(
                f"run.{name} contradicts the trace in row {differs[0]}: {own[differs[0]]}, but a replay of "
                f"its settings gives {column[differs[0]]}."
            )


def _check_times(trace: Trace, run: Run) -> None:
    """What only a clock can say has to be possible, and what was generated has to be what the trace shows."""
    if run.times is None:
        if (run.accesses.outcome == LATE).any():
            raise RunError("run.accesses.outcome names late hits, but the run has no times to tell them by.")
        return
    for column in fields(run.times):
        values = getattr(run.times, column.name)
        least = -1 if column.name.startswith("load") else 0
        if values.size and (int(values.min()) < least or int(values.max()) >= 2**60):
            raise RunError(f"run.times.{column.name} holds a time that cannot be.")
    if (run.times.load_end < run.times.load_start).any():
        raise RunError("run.times.load_end is before load_start.")
    if (np.diff(run.times.event_start) < 0).any():
        raise RunError("run.times.event_start goes down; events happen one after the other.")
    called_off = run.times.load_start < 0
    if (called_off != (run.times.load_end < 0)).any():
        raise RunError("run.times names copies that began and did not end, or ended and did not begin.")
    if (called_off & ~run.loads.speculative).any():
        raise RunError("run.times names loads on demand that were never copied.")
    _check_late(run)
    decoded = trace.phase == DECODE
    if run.output_ids and trace.token_ids is not None and trace.sequence is None:
        fed = trace.token_ids[decoded].tolist()
        if list(run.output_ids[: len(fed)]) != fed[: len(run.output_ids)]:
            raise RunError("the recorded run's output_ids are not the tokens that the trace decodes.")


def _check_late(run: Run) -> None:
    """A hit is late where its copy was still under way: a copy that an earlier event began."""
    brought: dict[tuple[int, int], int] = {}
    loads = iter(
        zip(run.loads.event.tolist(), run.loads.layer.tolist(), run.loads.expert.tolist(), strict=True)
    )
    load = next(loads, None)
    for row in np.flatnonzero(run.accesses.outcome == LATE).tolist():
        event, expert = int(run.accesses.event[row]), int(run.accesses.expert[row])
        while load is not None and load[0] < event:
            brought[load[1:]] = load[0]
            load = next(loads, None)
        if (int(run.events.layer[event]), expert) not in brought:
            raise RunError(
                f"run.accesses.outcome has a late hit in row {row}, but nothing was copying that expert."
            )

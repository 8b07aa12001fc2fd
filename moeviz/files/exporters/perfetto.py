"""A timeline in Chrome's trace event format, which ui.perfetto.dev and chrome://tracing open."""

from __future__ import annotations

import json
from typing import Any

import numpy as np

from moeviz.core.run import HIT, LATE, MISS, Run
from moeviz.core.trace import Trace
from moeviz.errors import ExportError
from moeviz.files.exporters.registry import Export, exporter
from moeviz.numbers import cost
from moeviz.numbers.cost import Costs
from moeviz.numbers.lanes import Segment, measured_lanes


@exporter("perfetto", ".json", "a timeline for ui.perfetto.dev or chrome://tracing")
def write(export: Export) -> bytes:
    """Raises ExportError where neither the run nor the trace's own has times."""
    if export.run.measured:
        return perfetto(export.trace, export.run).encode()
    if export.own is None or not export.own.measured:
        raise ExportError(
            "This trace holds no measured run to take times from. Export another format, or a trace that "
            "holds one."
        )
    return perfetto(export.trace, export.run, cost.fit(export.own)).encode()


def perfetto(trace: Trace, run: Run, costs: Costs | None = None) -> str:
    """Chrome's trace event format (JSON object form), which Perfetto opens: tracks for tokens, compute and
    link, in microseconds.

    Slices nest; hits and misses are arguments of an event's slice; a flow leads from each useful pre-fetch to
    the event that used it. A measured run is drawn with its own times, a replay with a model's `costs`.
    Raises ExportError where a replay has none.
    """
    if not run.measured and costs is None:
        raise ExportError("a replay has no times: give costs to model them.")
    events: list[dict[str, Any]] = [
        {"ph": "M", "pid": 1, "tid": tid, "name": "thread_name", "args": {"name": name}}
        for tid, name in ((1, "tokens"), (2, "compute"), (3, "link"))
    ]
    begin = 0.0
    flows: dict[tuple[int, int], int] = {}  # (layer, expert) of a pre-fetch under way -> its number
    number = 0
    pass_at = run.pass_at.tolist()
    for step, tokens in enumerate(trace.passes()):
        lanes = (
            measured_lanes(run, step)
            if run.measured
            else cost.modelled_lanes(run, costs, step)
            if costs
            else []
        )
        end = max((lane.end for lane in lanes), default=0.0)
        text = "".join(trace.texts[tokens])
        events.append(_slice("token", 1, begin, begin + end, {"pass": step, "text": text}))
        happened = range(pass_at[step], pass_at[step + 1])
        hit = np.flatnonzero(
            (run.accesses.event >= happened.start)
            & (run.accesses.event < happened.stop)
            & (run.accesses.outcome != MISS)
        )
        used = set(
            zip(
                run.events.layer[run.accesses.event[hit]].tolist(),
                run.accesses.expert[hit].tolist(),
                strict=True,
            )
        )
        first: dict[int, float] = {}
        for lane in sorted(lanes, key=lambda lane: lane.start):
            events.append(
                _slice(
                    lane.kind,
                    2 if lane.lane == "compute" else 3,
                    begin + lane.start,
                    begin + lane.end,
                    _arguments(run, step, lane),
                )
            )
            if lane.lane == "compute":
                first.setdefault(lane.layer, begin + lane.start)
            elif lane.kind == "guess used":
                number += 1
                flows[lane.layer, lane.expert] = number
                events.append(_flow("s", number, 3, begin + lane.start))
        for key in sorted(used & flows.keys()):
            if key[0] in first:
                events.append(_flow("f", flows.pop(key), 2, first[key[0]]))
        begin += end
    return json.dumps(
        {
            "traceEvents": events,
            "displayTimeUnit": "ms",
            "otherData": {"settings": run.settings.label, "model": trace.model},
        }
    )


def _slice(
    name: str, track: int, start_ms: float, end_ms: float, arguments: dict[str, Any]
) -> dict[str, Any]:
    return {
        "ph": "X",
        "pid": 1,
        "tid": track,
        "name": name,
        "ts": 1e3 * start_ms,
        "dur": 1e3 * (end_ms - start_ms),
        "args": arguments,
    }


def _flow(phase: str, number: int, track: int, at_ms: float) -> dict[str, Any]:
    flow = {
        "ph": phase,
        "pid": 1,
        "tid": track,
        "name": "pre-fetch",
        "cat": "pre-fetch",
        "id": number,
        "ts": 1e3 * at_ms,
    }
    return flow | {"bp": "e"} if phase == "f" else flow


def _arguments(run: Run, step: int, lane: Segment) -> dict[str, Any]:
    arguments: dict[str, Any] = {"MoE layer": lane.layer}
    if lane.expert >= 0:
        arguments["expert"] = lane.expert
    event = run.event(step, lane.layer)
    if lane.lane == "compute" and event is not None:
        own = run.accesses.event == event
        experts, outcome = run.accesses.expert[own], run.accesses.outcome[own]
        for name, kind in (("hits", HIT), ("late", LATE), ("misses", MISS)):
            arguments[name] = experts[outcome == kind].tolist()
    return arguments

"""Writes traces and runs for other tools: tables, a timeline for Perfetto, requests for libCacheSim, a report and a notebook.

content("csv", trace, run)
"""

from __future__ import annotations

import io
import json
from dataclasses import dataclass
from typing import Any

import numpy as np
import pandas as pd

from moeviz.core.run import HIT, LATE, MISS, Run
from moeviz.core.trace import Trace
from moeviz.errors import ExportError
from moeviz.numbers import cost
from moeviz.numbers.cost import Costs, Segment


@dataclass(frozen=True, slots=True)
class Format:
    """One way out."""

    suffix: str
    what: str


FORMATS = {
    "csv": Format(".csv", "a row per choice"),
    "parquet": Format(".parquet", "the same, typed and small"),
    "perfetto": Format(".json", "a timeline for ui.perfetto.dev or chrome://tracing"),
    "oracle-general": Format(
        ".oracleGeneral.bin", "requests for libCacheSim, which pins nothing: its hits are no event's hits"
    ),
    "report": Format(".html", "a page with charts that any browser opens, offline"),
    "stage": Format(".html", "policies side by side, played token by token in any browser, offline"),
    "notebook": Format(".ipynb", "a Jupyter notebook that computes the numbers anew"),
}
_OUTCOMES = np.array(["hit", "late hit", "miss"])
_REQUEST = np.dtype(
    [("timestamp", "<u4"), ("obj_id", "<u8"), ("obj_size", "<u4"), ("next_access_vtime", "<i8")]
)


def content(kind: str, trace: Trace, run: Run, own: Run | None = None, name: str = "trace.moetrace") -> bytes:
    """The file of one of FORMATS. `own`, a measured run of the trace, gives the times of a replay's timeline; `name` is the trace's file.

    Raises ExportError.
    """
    match kind:
        case "csv":
            return formula_safe(table(trace, run)).to_csv(index=False).encode()
        case "parquet":
            buffer = io.BytesIO()
            table(trace, run).to_parquet(buffer)
            return buffer.getvalue()
        case "perfetto":
            if run.measured:
                return perfetto(trace, run).encode()
            if own is None or not own.measured:
                raise ExportError(
                    "This trace holds no measured run to take times from. Export another format, or a trace that holds one."
                )
            return perfetto(trace, run, cost.fit(own)).encode()
        case "oracle-general":
            return oracle_general(run)
        case "report":
            from moeviz.files.report import report  # plotly takes its time

            return report(trace, run).encode()
        case "stage":
            from moeviz.charts.stage import stage

            return stage(trace, [run.settings], recorded=own).html.encode()
        case "notebook":
            from moeviz.files.notebook import notebook

            return notebook(trace, run, name).encode()
    raise ExportError(f"{kind!r} is no format. Choose one of {', '.join(FORMATS)}.")


def oracle_general(run: Run) -> bytes:
    """Every access as a request of libCacheSim's binary format oracleGeneral (libCacheSim 0.3): little-endian, packed, 24 bytes each.

    timestamp is the forward pass, obj_id = layer x E + expert, obj_size the bytes of one expert (1 where the trace does not say),
    next_access_vtime the number of the next request for the same expert, -1 where none comes. The pinning of an event's experts is lost,
    and all layers share one cache there, so hit ratios come close to scope model here, and are not the same.
    """
    requests = np.zeros(len(run.accesses.event), _REQUEST)
    requests["timestamp"] = run.events.forward_pass[run.accesses.event]
    requests["obj_id"] = (
        run.events.layer[run.accesses.event].astype(np.int64) * run.experts + run.accesses.expert
    )
    requests["obj_size"] = np.maximum(run.layer_bytes, 1)[run.events.layer[run.accesses.event]]
    order = np.argsort(requests["obj_id"], kind="stable")
    same = requests["obj_id"][order][1:] == requests["obj_id"][order][:-1]
    following = np.full(len(order), -1, np.int64)
    following[order[:-1][same]] = order[1:][same]
    requests["next_access_vtime"] = following
    return requests.tobytes()


def table(trace: Trace, run: Run) -> pd.DataFrame:
    """A row per choice: token, layer, rank, expert, weight, outcome, and the experts evicted at its event ("layer/expert", spaces between).

    `moeviz import` reads the first five columns back. Tokens of one forward pass share outcomes: the event's.
    """
    tokens, layers, k = trace.experts.shape
    token, layer, rank = np.indices((tokens, layers, k)).reshape(3, -1)
    expert = trace.experts.ravel().astype(np.int64)
    pass_of_token = np.concatenate(
        [np.full(part.stop - part.start, number) for number, part in enumerate(trace.passes())]
    )
    event = pass_of_token[token] * layers + layer
    outcome = np.zeros(len(run.events.forward_pass) * trace.num_experts, np.uint8)
    outcome[run.accesses.event.astype(np.int64) * trace.num_experts + run.accesses.expert] = (
        run.accesses.outcome
    )
    evicted: dict[int, list[str]] = {}
    out = run.loads.victim_expert >= 0
    for at, from_layer, victim in zip(
        run.loads.event[out].tolist(),
        run.loads.victim_layer[out].tolist(),
        run.loads.victim_expert[out].tolist(),
        strict=True,
    ):
        evicted.setdefault(at, []).append(f"{from_layer}/{victim}")
    return pd.DataFrame(
        {
            "token": token,
            "layer": layer,
            "rank": rank,
            "expert": expert,
            "weight": trace.weights.ravel().astype(np.float64),
            "outcome": _OUTCOMES[outcome[event * trace.num_experts + expert]],
            "evicted": [" ".join(evicted.get(at, ())) for at in event.tolist()],
        }
    )


def formula_safe(table: pd.DataFrame) -> pd.DataFrame:
    """The table with an apostrophe before texts that a spreadsheet would take for a formula (CWE-1236)."""
    begins = ("=", "+", "-", "@", "\t", "\r")
    return table.map(lambda cell: "'" + cell if isinstance(cell, str) and cell.startswith(begins) else cell)


def perfetto(trace: Trace, run: Run, costs: Costs | None = None) -> str:
    """Chrome's trace event format (JSON object form), which Perfetto opens: tracks for tokens, compute and link, in microseconds.

    Slices nest; hits and misses are arguments of an event's slice; a flow leads from each useful pre-fetch to the event that used it.
    A measured run is drawn with its own times, a replay with a model's `costs`. Raises ExportError where a replay has none.
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
            cost.measured_lanes(run, step)
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

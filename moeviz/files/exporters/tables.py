"""Tables: a row for each place of each token, with what the cache made of it, as CSV and as parquet.

`moeviz import` reads them back to the same trace, but for guesses and what only a header holds (model's name,
prompt, seed, notes). Texts are CSV's danger: those that a spreadsheet would take for a formula get an
apostrophe in front, which the importer takes off again.
"""

from __future__ import annotations

import io
from typing import TYPE_CHECKING, Any

import numpy as np

from moeviz.core.run import Run
from moeviz.core.trace import Trace
from moeviz.files.exporters.registry import Export, exporter
from moeviz.files.formulas import to_csv

if TYPE_CHECKING:
    import pandas as pd

_OUTCOMES = np.array(["hit", "late hit", "miss", ""])
_NONE = 3  # of an unused place
_PHASES = np.array(["prefill", "decode"])


@exporter("csv", ".csv", "a row per choice")
def write_csv(export: Export) -> bytes:
    """Text stands in quotes, so that no character of a token ends a cell."""
    return to_csv(table(export.trace, export.run))


@exporter("parquet", ".parquet", "the same, typed and small")
def write_parquet(export: Export) -> bytes:
    """Without a trace's text disarmed: no spreadsheet opens it."""
    buffer = io.BytesIO()
    table(export.trace, export.run).to_parquet(buffer, index=False)
    return buffer.getvalue()


def table(trace: Trace, run: Run) -> pd.DataFrame:
    """A row per place: the token and what is known of it, layer, rank, expert (-1: unused), weight, outcome,
    and who was evicted at its event ("layer/expert", spaces between). Tokens of one forward pass share
    outcomes: the event's. Columns of what is unknown are missing.
    """
    import pandas as pd  # it takes its time

    tokens, layers, k = trace.experts.shape
    token, layer, rank = np.indices((tokens, layers, k)).reshape(3, -1)
    expert = trace.experts.ravel().astype(np.int64)
    columns: dict[str, Any] = {"token": token}
    for name, values in (("sequence", trace.sequence), ("token_id", trace.token_ids)):
        if values is not None:
            columns[name] = values[token].astype(np.int64)
    columns["forward_pass"] = trace.forward_pass[token].astype(np.int64)
    columns["phase"] = _PHASES[trace.phase][token]
    columns["text"] = np.array([*trace.texts, None], object)[token]
    columns["layer"] = layer
    columns["layer_index"] = np.array(trace.layer_indices or [-1] * layers)[layer]
    columns["rank"] = rank
    columns["expert"] = expert
    if trace.weights is not None:
        columns["weight"] = trace.weights.ravel().astype(np.float64)
    columns["num_experts"] = np.full(len(token), trace.num_experts)
    for name, sizes in (("expert_bytes", trace.expert_bytes), ("link_bytes", trace.link_bytes)):
        columns[name] = np.broadcast_to(np.asarray(sizes, np.int64), layers)[layer]
    columns["outcome"], columns["evicted"] = _what_happened(trace, run, token, layer, expert)
    return pd.DataFrame(columns)


def _what_happened(trace: Trace, run: Run, token: Any, layer: Any, expert: Any) -> tuple[Any, list[str]]:
    """Outcome of each place, and the experts that were evicted at its event."""
    events = len(run.events.layer)
    number = np.full(
        len(run.passes.phase) * trace.layers, events, np.int64
    )  # of the event of a pass and layer
    number[run.events.forward_pass.astype(np.int64) * trace.layers + run.events.layer] = np.arange(events)
    lengths = [part.stop - part.start for part in trace.passes()]
    event = number[np.repeat(np.arange(len(lengths)), lengths)[token] * trace.layers + layer]
    outcome = np.full((events + 1) * trace.num_experts, _NONE, np.uint8)
    outcome[run.accesses.event.astype(np.int64) * trace.num_experts + run.accesses.expert] = (
        run.accesses.outcome
    )
    evicted: dict[int, list[str]] = {}
    event_of = run.loads.event.tolist()
    for load, from_layer, victim in run.departures.rows():
        evicted.setdefault(event_of[load], []).append(f"{from_layer}/{victim}")
    own = np.where(expert >= 0, outcome[event * trace.num_experts + np.maximum(expert, 0)], _NONE)
    return _OUTCOMES[own], [" ".join(evicted.get(at, ())) for at in event.tolist()]

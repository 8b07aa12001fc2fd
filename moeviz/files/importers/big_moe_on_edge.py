"""BigMoeOnEdge's route trace v1 (`bmoe-cli --route-trace`): CSV with a preamble of # lines.

The preamble has the model, n_expert and n_expert_used, and for each layer the bytes of an expert. Rows: turn,
phase (0 prefill, 1 decode), step (the token's place in the context), layer, slot (the rank), expert, weight
(nan: unknown), residency, expert_bytes (read by this row), perhaps dropped. In prefill the last layer routes
only the last token, and that is right. A turn is a request.
"""

from __future__ import annotations

import re

import numpy as np

from moeviz.errors import TraceError
from moeviz.files.importers.long_tables import from_columns
from moeviz.files.importers.names import about
from moeviz.files.importers.registry import Found, Options, importer
from moeviz.files.importers.source import Source
from moeviz.files.importers.tabular import read_table

NAME = "big-moe-on-edge"
_RENAMED = {
    "turn": "request",
    "phase": "phase",
    "step": "token",
    "layer": "layer",
    "slot": "rank",
    "expert": "expert",
    "weight": "weight",
}
_KINDS = {"request": "text", "phase": "text", "weight": "float"}
_PAIR = re.compile(r"(\w+)=(.*?)(?=\s+\w+=|\s*$)")  # a model's path may hold spaces


def sniff(source: Source) -> int:
    """By the first line of its preamble."""
    return 3 * source.head.startswith(b"# route_trace v1")


@importer(NAME, "BigMoeOnEdge's route trace v1", sniff)
def read(source: Source, options: Options) -> Found:
    """Raises TraceError."""
    table = read_table(source)
    missing = [name for name in ("step", "layer", "slot", "expert") if name not in table.names]
    if missing:
        raise source.error(
            f"is a route trace without {', '.join(missing)}; its columns are {', '.join(table.names)[:80]}."
        )
    model, experts, sizes = "", 0, {}
    for line in table.comments:
        pairs = dict(_PAIR.findall(line))
        if "layer" in pairs:
            layer, size = (_number(source, pairs.get(name, "0")) for name in ("layer", "expert_bytes"))
            if size >= 2**48:
                raise source.error(f"the preamble says {size:,} bytes for an expert of layer {layer}.")
            sizes[layer] = size
        elif "model" in pairs:
            said = about({"num_experts": _number(source, pairs.get("n_expert", "0"))}, source.name)
            model, experts = pairs["model"], said.experts
    own = {name: meaning for name, meaning in _RENAMED.items() if name in table.names}
    extra = {name: "int" for name in ("residency", "dropped") if name in table.names}
    columns = table.columns({name: _KINDS.get(meaning, "int") for name, meaning in own.items()} | extra)
    report = []
    if "residency" in columns:
        there = int(np.count_nonzero(columns["residency"]))
        report.append(
            f"residency of its own cache: {there:,} of {len(columns['residency']):,} routings; moeviz "
            "replays its own"
        )
    if "dropped" in columns and np.any(columns["dropped"]):
        report.append(
            f"{int(np.count_nonzero(columns['dropped'])):,} routings were dropped by its policy; they are "
            "kept, as the router chose them"
        )
    left = [name for name in table.names if name not in columns and name != "expert_bytes"]
    renamed = {meaning: columns[name] for name, meaning in own.items()}
    return from_columns(
        source, options, renamed, NAME, left, report, model=model, experts=experts, expert_bytes=sizes or 0
    )


def _number(source: Source, text: str) -> int:
    if not text.isascii() or not text.isdigit() or len(text) > 18:
        raise TraceError(f"{source.name}: the preamble says {text[:40]!r}; expected a whole number.")
    return int(text)

"""Routes as JSON lines, or as one JSON array: an object for each token and layer, in whatever names.

The common form of what people log from vLLM and transformers: a first line about the model, perhaps, then
`req_id, token_idx, layer, topk_ids`, perhaps `topk_weights`. Read likewise: moe-sim's lines (request_id,
phase, step_id, token_position, layer_id, expert_ids) and lattice's (layer_idx, token_idx, selected_ids,
gate_weights). Where token_idx begins again under one request, a new pass has begun.
"""

from __future__ import annotations

from typing import Any

from moeviz.errors import TraceError
from moeviz.files.importers.long_tables import from_columns, is_long
from moeviz.files.importers.looks import looks_like
from moeviz.files.importers.names import meanings
from moeviz.files.importers.objects import header_and_rows, json_lines, read_rows
from moeviz.files.importers.registry import Found, Options, importer, none_of_them
from moeviz.files.importers.source import Source

NAME = "routes"


def is_route(value: Any) -> bool:
    """True of an object that names a layer and what was chosen there."""
    if not isinstance(value, dict):
        return False
    try:
        found = meanings(value, "")
    except TraceError:
        return False
    return "layer" in found and ("experts" in found or "expert" in found)


def sniff(source: Source) -> int:
    """An object first: could be routes; surely where one of the first three lines is one."""
    if source.head[:1] == b"[":
        return int(source.head[1:].lstrip()[:1] == b"{")
    if source.head[:1] != b"{":
        return 0
    return 2 if any(is_route(value) for value in source.peek()) else 1


@importer(NAME, "routes as JSON lines or a JSON array, moe-sim's and lattice's among them", sniff)
def read(source: Source, options: Options) -> Found:
    """Raises TraceError."""
    said, rows, others = header_and_rows(source, json_lines(source))
    first = next(rows, None)
    if first is None:
        raise none_of_them(source, f"no object in it names a layer and its experts; {looks_like(source)}")
    if is_long(first[1]):
        columns: dict[str, list[Any]] = {name: [first[1][name]] for name in first[1]}
        for place, row in rows:
            if row.keys() != columns.keys():
                raise source.error(f"{place} has other keys than the first row.")
            for name, values in columns.items():
                values.append(row[name])
        return from_columns(source, options, columns, NAME, experts=said.experts, model=said.model)

    def again() -> Any:
        yield first
        yield from rows

    return read_rows(source, options, again(), said, NAME, others)

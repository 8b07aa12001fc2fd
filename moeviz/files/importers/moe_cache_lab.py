"""moe-cache-lab 1: JSON lines of `record_type` metadata (format, model_id, num_experts, experts_per_token),
then routing_selection.

A selection has phase ("prompt" or "generation"), layer, token_position, token_id, selected_experts,
selected_probabilities.
"""

from __future__ import annotations

from moeviz.files.importers.objects import header_and_rows, json_lines, read_rows
from moeviz.files.importers.registry import Found, Options, importer
from moeviz.files.importers.source import Source

NAME = "moe-cache-lab"


def sniff(source: Source) -> int:
    """By its record types."""
    kinds = {
        one.get("record_type")
        for one in source.peek()
        if isinstance(one, dict) and isinstance(one.get("record_type"), str)
    }
    return 3 * bool(kinds & {"metadata", "routing_selection"})


@importer(NAME, "moe-cache-lab's lines", sniff)
def read(source: Source, options: Options) -> Found:
    """Raises TraceError."""
    said, rows, others = header_and_rows(source, json_lines(source))
    return read_rows(source, options, rows, said, NAME, others)

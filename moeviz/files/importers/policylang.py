"""What MoE-PolicyLang's TraceRecording saves (1.0 to 1.15, `integrations/trace_recorder.py`): JSON lines or
parquet.

JSON: a header (model_name, num_layers, num_experts, top_k, num_entries, records_full_softmax), then a line
for each token and layer with p, t, l (prompt, token, layer), e (experts), s (their scores) and perhaps sm
(all experts' softmax), ti (token id), ph (phase), lg and dm (language and domain), lg_l (logits), tl (loss),
kv (shard). Parquet has prompt_id, token_idx, layer_idx, selected_experts, router_scores, and so on; older
files have router_softmax only.
"""

from __future__ import annotations

from typing import Any

from moeviz.files.importers.names import About, plain, unused
from moeviz.files.importers.objects import header_and_rows, json_lines, read_rows
from moeviz.files.importers.registry import Found, Options, importer
from moeviz.files.importers.source import Source
from moeviz.files.importers.tabular import column_names, list_rows, not_read, read_table

NAME = "policylang"
_DOMAINS = ("dm", "domain_tag")
_LANGUAGES = ("lg", "language_tag")
_SHORT = {"t", "l", "e"}
_LONG = {"token_idx", "layer_idx", "selected_experts"}


def sniff(source: Source) -> int:
    """Lines with its three short names, or a table with them or with its long ones."""
    if source.head[:1] == b"{":
        return 3 * any(isinstance(one, dict) and one.keys() >= _SHORT for one in source.peek())
    names = {plain(name) for name in column_names(source)}
    return 3 * (names >= _SHORT or names >= _LONG)


@importer(NAME, "MoE-PolicyLang's recordings (JSON lines, parquet)", sniff)
def read(source: Source, options: Options) -> Found:
    """Raises TraceError."""
    left: list[str] = []
    tags: dict[str, dict[str, str]] = {"domains": {}, "languages": {}}
    recorded: dict[str, str] = {}

    def extra(request: str, row: dict[str, Any]) -> None:
        for what, names in (("domains", _DOMAINS), ("languages", _LANGUAGES)):
            value = next((row[name] for name in names if isinstance(row.get(name), str)), "")
            if value and request not in tags[what]:
                tags[what][request] = value
                recorded[what] = ", ".join(tags[what].values())

    if source.head[:1] == b"{":
        said, rows, others = header_and_rows(source, json_lines(source))
        softmax = "sm"
    else:
        table = read_table(source)
        said, rows, others, softmax = About(), list_rows(table), [], "router_softmax"
        left = not_read(table)
    found = read_rows(
        source, options, rows, said, NAME, others, softmax, extra, (*_DOMAINS, *_LANGUAGES), recorded
    )
    found.report.extend(unused(left, "columns"))
    found.report.extend(f"{what} of the requests: {said[:200]}" for what, said in recorded.items())
    return found

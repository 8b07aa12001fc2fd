"""MoE-Beyond's CSV (its released data set): Layer ID, Batch Number, Token, Activated Expert IDs, a row for
each token and layer.

Tokens are numbered by their batch and their place in it, in the order of the file; whether a batch is a
prompt or a step is not said.
"""

from __future__ import annotations

import numpy as np

from moeviz.files.importers.collect import Routes
from moeviz.files.importers.names import plain, unused
from moeviz.files.importers.registry import Found, Options, importer
from moeviz.files.importers.routed import finish
from moeviz.files.importers.source import Source
from moeviz.files.importers.tabular import column_names, read_table
from moeviz.files.importers.values import expert_list, layer_number, whole

NAME = "moe-beyond"
_COLUMNS = {"layer_id": "int", "batch_number": "int", "token": "text", "activated_expert_ids": "list"}


def sniff(source: Source) -> int:
    """By its four columns."""
    return 3 * (_COLUMNS.keys() <= {plain(name) for name in column_names(source)})


@importer(NAME, "MoE-Beyond's CSV", sniff)
def read(source: Source, options: Options) -> Found:
    """Raises TraceError."""
    table = read_table(source)
    named = {plain(name): name for name in table.names}
    columns = table.columns({named[name]: kind for name, kind in _COLUMNS.items()})
    layer, batch, token, ids = (columns[named[name]] for name in _COLUMNS)
    routes = Routes(source)
    places: dict[tuple[int, int], int] = {}
    layers, batches = np.asarray(layer).tolist(), np.asarray(batch).tolist()
    for row, (own, number, text, chosen) in enumerate(zip(layers, batches, token, ids, strict=True), 1):
        place = f"row {row}"
        at = places[own, number] = places.get((own, number), -1) + 1
        routes.add(
            place,
            "",
            whole(source, at, place, "place"),
            layer_number(source, own, place),
            expert_list(source, chosen, place, named["activated_expert_ids"]),
            None,
            step=whole(source, number, place, named["batch_number"]),
            text=text,
        )
    routed = routes.routed()
    routed.forward_pass = None
    routed.report.append("batches follow each other as one text")
    routed.report += unused([name for name in table.names if plain(name) not in _COLUMNS], "columns")
    return finish(source, options, routed, NAME)

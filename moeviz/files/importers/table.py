"""A plain table, CSV or parquet, in whatever names: no tool's own format, and what most people make of
theirs.

Long: token, layer, rank, expert, perhaps weight, phase, forward_pass, sequence, token_id, text. With lists:
token, layer, experts. Wide: token, layer, expert_0, expert_1, ... Logs of llama.cpp that people patch in have
layer_id, expert_ids only, a row for each token of a call. Counts: layer, expert, count (SGLang's CSV). A
table that moeviz exported is read back to the very same trace.
"""

from __future__ import annotations

from typing import Any

import numpy as np

from moeviz.core.trace import Trace
from moeviz.errors import TraceError
from moeviz.files.formulas import as_it_was
from moeviz.files.importers.counting import counted_rows
from moeviz.files.importers.long_tables import from_columns
from moeviz.files.importers.names import About, meanings, plain, unused
from moeviz.files.importers.objects import read_rows
from moeviz.files.importers.parquet import MAGIC
from moeviz.files.importers.registry import Found, Imported, Options, importer, none_of_them
from moeviz.files.importers.routed import check_shape
from moeviz.files.importers.source import Source
from moeviz.files.importers.tabular import DELIMITERS, KINDS, Table, list_rows, not_read, read_table
from moeviz.files.importers.wide_tables import layer_columns, wide_columns

NAME = "table"
OF_A_TOKEN = ("token", "request", "step", "phase", "token_id", "text", "prompt_tokens")
OWN = ("token", "forward_pass", "phase", "text", "layer", "layer_index", "rank", "expert", "num_experts")


def sniff(source: Source) -> int:
    """Parquet, or text with a delimiter in its first line that is no comment."""
    if source.content[:4] == MAGIC:
        return 1
    line = next((one for one in source.head.split(b"\n") if not one.startswith(b"#")), b"")
    if b"\0" in line or source.head[:1] in (b"{", b"[", b"<"):
        return 0
    return int(any(mark.encode() in line for mark in DELIMITERS))


@importer(NAME, "tables of routes or counts (CSV, parquet): long, with lists, or wide", sniff)
def read(source: Source, options: Options) -> Found:
    """Raises TraceError."""
    table = read_table(source)
    if set(OWN) <= set(table.names):
        return _own(source, table)
    found = meanings(table.names, source.name)
    if "layer" in found and "experts" in found:
        rows = read_rows(source, options, list_rows(table), About(), NAME, used=table.names)
        rows.report.extend(unused(not_read(table), "columns"))
        return rows
    if "layer" in found and "expert" in found:
        wanted = {name: KINDS[meaning] for meaning, name in found.items() if meaning in KINDS}
        left = [name for name in table.names if name not in wanted]
        return from_columns(source, options, table.columns(wanted), NAME, left)
    if "layer" in found and (wide := wide_columns(table.names, "expert")):
        return _wide(source, options, table, found, wide)
    unnamed = next((name for name in table.names if plain(name) in ("", "unnamed:_0")), None)
    if "layer" not in found and unnamed is not None and (wide := wide_columns(table.names, "expert")):
        by_index = _wide(source, options, table, {"layer": unnamed}, wide)  # the index of a data frame
        by_index.report.append("the column without a name is taken for the layer")
        return by_index
    of_tokens = found.keys().isdisjoint(("layer", "expert", "experts", "rank", "count"))
    if of_tokens and (layers := layer_columns(table.names)):
        return _by_layer(source, options, table, found, layers)
    raise none_of_them(
        source,
        f"it looks like a table that has the columns {', '.join(name[:40] for name in table.names[:8])}; "
        "expected token, layer, rank, expert[, weight], or token, layer, experts (a list), or layer, expert, "
        "count, in these or other usual names.",
    )


def _wide(source: Source, options: Options, table: Table, found: dict[str, str], wide: list[str]) -> Found:
    """Columns expert_0, expert_1, ... as lists."""
    weights = wide_columns(table.names, "weight")
    weights = weights if len(weights) == len(wide) else []
    wanted = {
        name: KINDS[meaning] for meaning, name in found.items() if meaning in KINDS and name not in weights
    }
    wanted |= dict.fromkeys(wide, "maybe") | dict.fromkeys(weights, "float")
    columns = table.columns(wanted)
    values = {n: c.tolist() if isinstance(c, np.ndarray) else c for n, c in columns.items()}
    rest = [name for name in wanted if name not in (*wide, *weights)]

    def rows() -> Any:
        for number in range(len(values[wide[0]])):
            row = {name: values[name][number] for name in rest}
            row["experts"] = [values[name][number] for name in wide]
            if weights:
                row["weights"] = [values[name][number] for name in weights]
            yield f"row {number + 1}", row

    left = unused([name for name in table.names if name not in wanted], "columns")
    if "token" not in found:
        return _wide_counts(source, table, values[found["layer"]], [values[name] for name in wide], left)
    if len(wide) > 2 and not weights and all(set(values[name]) <= {-1, 0, 1} for name in wide):
        return _marked(source, options, values, rest, wide, left)
    read_back = read_rows(source, options, rows(), About(), NAME)
    read_back.report.extend(left)
    return read_back


def _by_layer(
    source: Source, options: Options, table: Table, found: dict[str, str], layers: dict[int, list[str]]
) -> Found:
    """A row for each token: columns layer_0, layer_1, ... of lists, or layer_0_expert_0, ..."""
    own = [name for names in layers.values() for name in names]
    kind = "list" if all(len(names) == 1 for names in layers.values()) else "maybe"
    wanted = {found[meaning]: KINDS[meaning] for meaning in OF_A_TOKEN if meaning in found}
    columns = table.columns(wanted | dict.fromkeys(own, kind))
    values = {n: c.tolist() if isinstance(c, np.ndarray) else c for n, c in columns.items()}

    def rows() -> Any:
        for number in range(len(values[own[0]])):
            rest = {name: values[name][number] for name in wanted}
            rest.setdefault(found.get("token", "token"), number)
            for layer, names in layers.items():
                cells = [values[name][number] for name in names]
                chosen = cells[0] if kind == "list" else cells
                yield f"row {number + 1}", rest | {"layer": layer, "experts": chosen}

    read_back = read_rows(source, options, rows(), About(), NAME)
    read_back.report.append("a row is taken for a token, with columns for each layer")
    if kind == "list" and all(len(cell or ()) < 2 for name in own for cell in values[name]):
        read_back.report.append(
            "a cell's number is taken for the one expert that the token chose in the layer"
        )
    read_back.report.extend(unused([n for n in table.names if n not in wanted and n not in own], "columns"))
    return read_back


def _wide_counts(
    source: Source, table: Table, layers: list[int], uses: list[list[int]], left: list[str]
) -> Found:
    """A row for each layer, a column for each expert, and no tokens: counts."""
    if len(set(layers)) < len(layers):
        raise source.error("has no column that numbers the tokens, and layers that stand more than once.")
    rows = {
        (layer, expert): float(count[row])
        for row, layer in enumerate(layers)
        for expert, count in enumerate(uses)
    }
    return counted_rows(source, rows, len(uses), NAME, left)


def _marked(
    source: Source,
    options: Options,
    values: dict[str, list[Any]],
    rest: list[str],
    wide: list[str],
    left: list[str],
) -> Found:
    """A column for each expert, 1 where it was chosen, 0 or nothing (-1) where not."""

    def rows() -> Any:
        for number in range(len(values[wide[0]])):
            chosen = [expert for expert, name in enumerate(wide) if values[name][number] > 0]
            yield f"row {number + 1}", {name: values[name][number] for name in rest} | {"experts": chosen}

    found = read_rows(source, options, rows(), About(experts=len(wide)), NAME)
    found.report.extend([f"columns {wide[0]} to {wide[-1]} mark the chosen experts with 1", *left])
    return found


def _own(source: Source, table: Table) -> Found:
    """What `moeviz export` wrote, place by place: nothing is assumed and nothing left out but the run and the
    guesses.
    """
    ints = ("token", "forward_pass", "layer", "layer_index", "rank", "expert", "num_experts")
    wanted = {**dict.fromkeys(ints, "int"), "phase": "text", "text": "text"}
    more = {
        "sequence": "int",
        "token_id": "float",
        "expert_bytes": "float",
        "link_bytes": "float",
        "weight": "float",
    }
    wanted |= {name: kind for name, kind in more.items() if name in table.names}  # float: beyond 31 bits
    c = table.columns(wanted)
    tokens, layers, k = (int(c[name].max()) + 1 for name in ("token", "layer", "rank"))
    check_shape(source, (tokens, layers, k), "weight" in c)
    place = (c["token"] * layers + c["layer"]) * k + c["rank"]
    if len(place) != tokens * layers * k or (place != np.arange(len(place))).any():
        raise source.error(
            "is a table of moeviz with rows added, missing or moved; expected every place once, in order."
        )
    shape = (tokens, layers, k)
    first = slice(None, None, layers * k)  # of each token
    depth = c["layer_index"][: layers * k : k]
    phases = {"prefill": 0, "decode": 1}
    if not set(c["phase"]) <= phases.keys() or int(c["num_experts"].max()) != int(c["num_experts"].min()):
        raise source.error("is a table of moeviz in which phase or num_experts were changed.")
    sizes: dict[str, Any] = {}
    for name in ("expert_bytes", "link_bytes"):
        if name in c:
            if not np.isfinite(c[name]).all():
                raise source.error(f"is a table of moeviz in which {name} was changed.")
            own = tuple(int(one) for one in c[name][: layers * k : k])
            sizes[name] = own[0] if len(set(own)) == 1 else own
    texts = c["text"][first]
    if table.file is None:
        texts = [as_it_was(text) for text in texts]
    try:
        if int(c["expert"].max()) >= 2**15:
            raise TraceError(f"expert {int(c['expert'].max())} is beyond what a layer can have.")
        trace = Trace(
            experts=c["expert"].astype(np.int16).reshape(shape),
            weights=c["weight"].astype(np.float32).reshape(shape) if "weight" in c else None,
            token_ids=c["token_id"][first].astype(np.int32) if "token_id" in c else None,
            phase=np.array([phases[one] for one in c["phase"][first]], np.uint8),
            forward_pass=c["forward_pass"][first].astype(np.int32),
            guess=np.full((tokens, layers, 0, 0), -1, np.int16),
            num_experts=int(c["num_experts"][0]),
            texts=tuple(texts),
            model=source.name,
            layer_indices=tuple(int(one) for one in depth) if (depth >= 0).all() else (),
            sequence=c["sequence"][first].astype(np.int16) if "sequence" in c else None,
            **sizes,
        )
    except TraceError as error:
        raise source.error(str(error)) from None
    left = [name for name in table.names if name not in wanted and plain(name) not in ("outcome", "evicted")]
    about = (
        "a table of moeviz: who hit and who left are not read, and the model, earlier notes, guesses, prompt "
        "and seed are not in it"
    )
    return Imported(trace, None, NAME, [about, *unused(left, "columns")])

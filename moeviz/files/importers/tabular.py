"""Tables: CSV with commas, semicolons, tabs or bars, and parquet; and what their columns say of routes.

A table is long (a row for each choice: token, layer, rank, expert, weight), has lists (a row for each token
and layer), is wide (columns expert_0, expert_1, ...), or counts (layer, expert, count). Only the columns that
mean something (`names.ALIASES`) are read, in pieces.
"""

from __future__ import annotations

import csv
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numpy.typing import NDArray

from moeviz.core.trace import MAX_EXPERTS, MAX_K, MAX_LAYERS, MAX_TOKENS
from moeviz.errors import TraceError
from moeviz.files.importers import parquet
from moeviz.files.importers.collect import MOST, by_prompts, scatter
from moeviz.files.importers.counting import counted_rows
from moeviz.files.importers.names import layer_in, meanings, phase_of, plain, unused
from moeviz.files.importers.objects import Row
from moeviz.files.importers.registry import Found, Options
from moeviz.files.importers.routed import Routed, finish
from moeviz.files.importers.source import Source
from moeviz.words import many

MOST_HEADER, MOST_CELL = (
    65_536,
    8_192,
)  # bytes of the first row, characters of a cell that is a number or a list
MOST_ROWS = 8 * MAX_TOKENS
PIECE = 32_768  # rows
LONGEST_NUMBER = 40  # characters
DELIMITERS = ",;\t|"
_INTEGERS = re.compile(r"\s*[\[({]?\s*(?:-?\d{1,9}(?:[\s,;|]+-?\d{1,9})*)?\s*[\])}]?\s*")
_NUMBER = r"[-+]?(?:\d+\.?\d*|\.\d+)(?:[eE][-+]?\d{1,4})?"
_NUMBERS = re.compile(rf"\s*[\[({{]?\s*(?:{_NUMBER}(?:[\s,;|]+{_NUMBER})*)?\s*[\])}}]?\s*")
_WIDE = {
    "expert": re.compile(
        r"(?:(?:e|expert|experts|expert_id|topk|topk_id|top|choice|selected)_?)?(\d{1,4})"
        r"|top_?(\d{1,4})_(?:expert|expert_id|id)"
    ),
    "weight": re.compile(
        r"(?:w|weight|weights|prob|score|gate|topk_weight)_?(\d{1,4})"
        r"|top_?(\d{1,4})_(?:weight|prob|score|gate)"
    ),
}
_OF_LAYER = re.compile(  # layer_3, or layer_3_expert_0
    r"(?:l|layer|layers|blk|block)_?(\d{1,6})(?:[_.]?(?:e|expert|top|topk|k|rank|choice|slot)_?(\d{1,4}))?"
)
KINDS = {
    **dict.fromkeys(("token", "rank"), "int"),
    "layer": "layer",  # a whole number, or a name that holds one
    # a whole number, -1 where a row has none
    **dict.fromkeys(("expert", "step", "token_id", "prompt_tokens"), "maybe"),
    **dict.fromkeys(("weight", "count"), "float"),
    **dict.fromkeys(("phase", "request", "text"), "text"),
    **dict.fromkeys(("experts", "weights"), "list"),
}


@dataclass(eq=False, slots=True)
class Table:
    """Columns that are read when they are asked for."""

    source: Source
    names: list[str]
    comments: list[str] = field(default_factory=list)  # lines before a CSV's head that begin with #
    delimiter: str = ","
    first_line: int = 1  # of a CSV's rows
    file: Any = None  # pyarrow's, of a parquet file

    def columns(self, wanted: Mapping[str, str]) -> dict[str, Any]:
        """`wanted` maps a column to int, float, text or list: an array of int64 or float64, or a list. Raises
        TraceError.
        """
        if self.file is not None:
            pieces = parquet.read_columns(self.source, self.file, wanted)
        else:
            pieces = self._csv_pieces(wanted)
        if not any(len(piece) for one in pieces.values() for piece in one):
            raise self.source.error("has no rows.")
        return {name: self._joined(name, pieces[name], kind) for name, kind in wanted.items()}

    def _joined(self, name: str, pieces: list[Any], kind: str) -> Any:
        if kind in ("text", "list"):
            return [one for piece in pieces for one in piece]
        joined = np.concatenate(pieces)
        if kind == "float":
            return joined.astype(np.float64)
        return _whole_column(self.source, joined, name)

    def _csv_pieces(self, wanted: Mapping[str, str]) -> dict[str, list[Any]]:
        found: dict[str, list[Any]] = {name: [] for name in wanted}
        same: dict[str, str] = {}
        at = {name: self.names.index(name) for name in wanted}
        done = 0
        for rows in self._csv_rows():
            for name, kind in wanted.items():
                cells = [row[at[name]] for row in rows]
                if kind == "float" and self.delimiter == ";":
                    cells = [cell.replace(",", ".") for cell in cells]  # as spreadsheets of half Europe write
                found[name].append(_cells(self.source, cells, name, kind, done, same))
            done += len(rows)
        return found

    def _csv_rows(self) -> Iterator[list[list[str]]]:
        """Pieces of rows, each of as many cells as the head has."""
        width, done = len(self.names), 0
        rows: list[list[str]] = []
        for row in _csv(self.source, self.delimiter, self.first_line):
            if len(row) != width:
                raise self.source.error(
                    f"row {done + len(rows) + 1} has {len(row)} cells; expected {width}, as the head has."
                )
            rows.append(row)
            if len(rows) == PIECE:
                done += len(rows)
                if done > MOST_ROWS:
                    raise self.source.error(f"has more than {MOST_ROWS:,} rows.")
                yield rows
                rows = []
        if rows:
            yield rows


def _csv(source: Source, delimiter: str, first: int) -> Iterator[list[str]]:
    """Rows that are not blank, from line number `first` on. Raises TraceError."""
    try:
        for row in csv.reader(_text_lines(source, first), delimiter=delimiter, strict=True):
            if row:
                yield row
    except csv.Error as error:
        raise source.error(f"is not a table that can be read: {error}.") from None


def _text_lines(source: Source, first: int) -> Iterator[str]:
    content, at, number = source.content, 0, 0
    if content.count(b"\n") > MOST_ROWS:
        raise source.error(f"has more than {MOST_ROWS:,} lines.")
    while at < len(content):
        end = content.find(b"\n", at) + 1 or len(content)
        number += 1
        if number >= first:
            yield source.text(content[at:end], f"line {number}")
        at = end


def column_names(source: Source) -> list[str]:
    """Of a table; empty where this is none."""
    try:
        return open_table(source).names
    except TraceError:
        return []


def open_table(source: Source) -> Table:
    """Its head. Raises TraceError."""
    if source.content[:4] == parquet.MAGIC:
        file = parquet.open_parquet(source)
        return Table(source, list(parquet.names_of(file)), file=file)
    comments: list[str] = []
    number = 0
    head = Source(source.name, source.content[: 4 * MOST_HEADER])
    for number, line in head.lines():  # noqa: B007
        if not line.startswith("#"):
            break
        comments.append(line[1:].strip())
    else:
        raise source.error("is no table: it has no head.")
    if len(line) > MOST_HEADER or "\0" in line:
        raise source.error(
            f"is no table that can be read: its head is longer than {MOST_HEADER:,} bytes, or binary."
        )
    delimiter = max(DELIMITERS, key=line.count)
    rows = _csv(source, delimiter, number)
    names = [name.strip() for name in next(rows)]
    if len(names) > parquet.MOST_COLUMNS:
        raise source.error(f"has {len(names):,} columns; up to {parquet.MOST_COLUMNS:,} are read.")
    table = Table(source, names, comments, delimiter, number)
    return table


def read_table(source: Source) -> Table:
    """Its head, with names that stand once. Raises TraceError."""
    table = open_table(source)
    if table.file is None:
        table.first_line += 1
    meanings(table.names, source.name)
    return table


def _cells(source: Source, cells: list[str], name: str, kind: str, done: int, same: dict[str, str]) -> Any:
    """One piece of a column. Raises TraceError with the row."""
    if kind == "text":
        return [same.setdefault(cell, cell) for cell in cells]
    if max(map(len, cells)) > MOST_CELL:
        at = next(number for number, cell in enumerate(cells) if len(cell) > MOST_CELL)
        raise source.error(
            f"row {done + at + 1}: {name} has {len(cells[at]):,} characters; expected a number or a list."
        )
    if kind == "list":
        return [_numbers_of(source, cell, name, done + number) for number, cell in enumerate(cells, 1)]
    if kind == "layer":
        cells = [cell if (number := layer_in(cell)) is None else str(number) for cell in cells]
    if kind == "maybe":
        cells = [cell if cell.strip() else "-1" for cell in cells]
    convert: Any = float if kind == "float" else int
    joined = "".join(cells)
    if joined.isascii() and "_" not in joined:
        try:
            return np.array(list(map(convert, cells)), np.float64 if kind == "float" else np.int64)
        except (ValueError, OverflowError):
            pass
    for number, cell in enumerate(cells, 1):
        try:
            value = float(cell)
        except ValueError:
            value = float("nan") if kind == "float" and not cell.strip() else float("inf")
        if (
            "_" in cell
            or not cell.isascii()
            or (value in (float("inf"), float("-inf")))
            or (kind != "float" and not value.is_integer())
        ):
            what = "a number" if kind == "float" else "a whole number"
            raise source.error(f"row {done + number}: {name} is {cell[:40]!r}; expected {what}.")
    return np.array([float(cell) if cell.strip() else float("nan") for cell in cells], np.float64)


def _numbers_of(source: Source, cell: str, name: str, row: int) -> list[int] | list[float]:
    """A list in a cell, as `5 7`, `[5, 7]` or `5;7`. Raises TraceError."""
    if _INTEGERS.fullmatch(cell):
        return [int(one) for one in re.findall(r"-?\d+", cell)]
    if _NUMBERS.fullmatch(cell):
        texts = re.findall(_NUMBER, cell)
        if (longest := max(map(len, texts))) > LONGEST_NUMBER:
            raise source.error(
                f"row {row}: {name} holds a number of {longest:,} digits; expected numbers of a few."
            )
        return [float(one) for one in texts]
    raise source.error(f"row {row}: {name} is {cell[:40]!r}; expected a list of numbers, as 5 7 or [5, 7].")


_EXTRA = {  # of MoE-PolicyLang's tables
    **dict.fromkeys(("router_softmax", "sm"), "list"),
    **dict.fromkeys(("domain_tag", "language_tag", "dm", "lg"), "text"),
}


def _wanted(table: Table) -> dict[str, str]:
    """The columns of a table with lists that are read, and what they hold."""
    found = meanings(table.names, table.source.name)
    wanted = {name: KINDS[meaning] for meaning, name in found.items() if meaning in KINDS}
    return wanted | {name: kind for name, kind in _EXTRA.items() if name in table.names}


def not_read(table: Table) -> list[str]:
    """The columns of a table with lists that `list_rows` leaves out."""
    wanted = _wanted(table)
    return [name for name in table.names if name not in wanted]


def list_rows(table: Table) -> Iterator[Row]:
    """The rows of a table with lists, as objects. Raises TraceError."""
    found = meanings(table.names, table.source.name)
    columns = table.columns(_wanted(table))
    values = {n: c.tolist() if isinstance(c, np.ndarray) else c for n, c in columns.items()}
    for number, row in enumerate(zip(*values.values(), strict=True), 1):
        named = dict(zip(values, row, strict=True))
        if named[found["experts"]] is None:  # a list that parquet leaves empty
            named[found["experts"]] = []
        yield f"row {number}", named


def is_long(names: Any) -> bool:
    """True of names of a row for each choice, or for each count."""
    found = meanings(names, "")
    return "expert" in found and "experts" not in found and "layer" in found


def wide_columns(names: Sequence[str], what: str) -> list[str]:
    """Columns expert_0, expert_1, ... or weight_0, ... in their order; none where they do not count from 0 or
    1.
    """
    numbered = {int(m[1] or m[2]): name for name in names if (m := _WIDE[what].fullmatch(plain(name)))}
    if not numbered or sorted(numbered) not in (
        list(range(len(numbered))),
        list(range(1, len(numbered) + 1)),
    ):
        return []
    return [numbered[number] for number in sorted(numbered)]


def layer_columns(names: Sequence[str]) -> dict[int, list[str]]:
    """Columns of each layer, layer_3 with lists or layer_3_expert_0, layer_3_expert_1, ..., where a row is a
    token; empty where there are none.
    """
    found: dict[int, dict[int, str]] = {}
    for name in names:
        if m := _OF_LAYER.fullmatch(plain(name)):
            found.setdefault(int(m[1]), {})[int(m[2] or -1)] = name
    widths = {(-1 in own, len(own) if -1 in own else 0) for own in found.values()}
    if len(found) < 2 or len(widths) > 1 or widths & {(True, n) for n in range(2, len(names) + 1)}:
        return {}
    return {layer: [own[rank] for rank in sorted(own)] for layer, own in sorted(found.items())}


def _whole_column(source: Source, values: Any, name: str) -> NDArray[np.int64]:
    """int64 of an array or a list. Raises TraceError with the row."""
    if isinstance(values, list):
        bad = next((n for n, one in enumerate(values) if type(one) not in (int, float)), None)
        if bad is not None:
            raise source.error(
                f"row {bad + 1}: {name} is {str(values[bad])[:40]!r}; expected a whole number."
            )
        try:
            values = np.array(values, np.float64 if any(type(one) is float for one in values) else np.int64)
        except OverflowError:
            raise source.error(f"{name} holds a number beyond 64 bits.") from None
    if values.dtype.kind == "b":
        raise source.error(f"{name} holds true and false; expected whole numbers.")
    if values.dtype.kind == "f":
        odd = ~np.isfinite(values) | (values != np.floor(values))
        if odd.any():
            at = int(np.argmax(odd))
            raise source.error(f"row {at + 1}: {name} is {values[at]}; expected a whole number.")
    low, high = values < -1, values > MOST
    if low.any() or high.any():
        at = int(np.argmax(low | high))
        raise source.error(f"row {at + 1}: {name} is {values[at]}; expected 0 or more, up to {MOST:,}.")
    found: NDArray[np.int64] = values.astype(np.int64)
    return found


def _float_column(source: Source, values: Any, name: str) -> NDArray[np.float64]:
    if isinstance(values, list):
        bad = next((n for n, one in enumerate(values) if type(one) not in (int, float)), None)
        if bad is not None:
            raise source.error(f"row {bad + 1}: {name} is {str(values[bad])[:40]!r}; expected a number.")
        try:
            values = np.array([float(one) for one in values])
        except OverflowError:
            raise source.error(f"{name} holds a number beyond floating point.") from None
    found = np.asarray(values, np.float64)
    if len(beyond := np.flatnonzero(np.isfinite(found) & (np.abs(found) > np.finfo(np.float32).max))):
        at = int(beyond[0])
        raise source.error(f"row {at + 1}: {name} is {found[at]:g}; expected a number that float32 holds.")
    return found


def _first(
    source: Source, name: str, row: NDArray[np.int64], values: NDArray[np.int64], tokens: int
) -> NDArray[np.int64]:
    """One value for each token, the same in all of its rows. Raises TraceError."""
    found = np.full(tokens, -1, np.int64)
    found[row] = values
    if (found[row] != values).any():
        at = int(np.argmax(found[row] != values))
        raise source.error(f"row {at + 1}: {name} is another than in other rows of this token.")
    return found


def from_columns(
    source: Source,
    options: Options,
    columns: Mapping[str, Any],
    format: str,
    left: Sequence[str] = (),
    report: Sequence[str] = (),
    **others: Any,
) -> Found:
    """A trace of a long table, or counts. `left` names columns that were not read, `others` are fields of
    Routed. Raises TraceError.
    """
    found = meanings(columns, source.name)
    values = {meaning: columns[name] for meaning, name in found.items()}
    lines = [*report, *unused([*left, *(name for name in columns if name not in found.values())], "columns")]
    ints: dict[str, NDArray[np.int64]] = {
        meaning: _whole_column(source, values[meaning], found[meaning])
        for meaning in ("token", "layer", "rank", "expert", "step", "token_id", "prompt_tokens")
        if meaning in values
    }
    for meaning, most in (("layer", 4 * MAX_LAYERS), ("expert", MAX_EXPERTS - 1), ("rank", MAX_K - 1)):
        if meaning in ints and (ints[meaning] > most).any():
            at = int(np.argmax(ints[meaning] > most))
            raise source.error(
                f"row {at + 1}: {found[meaning]} is {ints[meaning][at]}; expected at most {most}."
            )
    for meaning in ("token", "layer", "rank"):
        if meaning in ints and (ints[meaning] < 0).any():
            at = int(np.argmax(ints[meaning] < 0))
            raise source.error(f"row {at + 1}: {found[meaning]} is -1; expected 0 or more.")
    if "token" not in ints and "step" in ints and "count" not in values:
        _steps_number_tokens(source, ints, values, found, columns)
        lines.append(f"{found['step']} is taken for the number of the token")
    if "token" not in ints:
        if "count" not in values:
            raise source.error(
                f"has no column that numbers the tokens; its columns are {', '.join(columns)[:120]}."
            )
        uses = _float_column(source, values["count"], found["count"])
        if (ints["expert"] < 0).any() or (ints["layer"] < 0).any():
            raise source.error("counts a layer or an expert of the number -1.")
        rows: dict[tuple[int, int], float] = {}
        for layer, expert, count in zip(
            ints["layer"].tolist(), ints["expert"].tolist(), uses.tolist(), strict=True
        ):
            if (layer, expert) in rows:
                raise source.error(f"counts expert {expert} of layer {layer} twice.")
            rows[layer, expert] = count
        return counted_rows(source, rows, options.experts or others.get("experts", 0), format, lines)
    return _long(source, options, values, ints, found, format, lines, others)


def _steps_number_tokens(
    source: Source,
    ints: dict[str, NDArray[np.int64]],
    values: Mapping[str, Any],
    found: Mapping[str, str],
    columns: Mapping[str, Any],
) -> None:
    """Puts the steps in the place of tokens, where each step is one token: it has as many experts in each
    layer. Raises TraceError where that is not so.
    """
    requests = np.unique(np.array(values.get("request", np.zeros(len(ints["step"])))), return_inverse=True)[1]
    sizes = np.unique(np.stack([requests, ints["step"], ints["layer"]]), axis=1, return_counts=True)[1]
    if len(set(sizes.tolist())) > 1 or (ints["step"] < 0).any():
        raise source.error(
            f"has no column that numbers the tokens, and a {found['step']} may have several; its columns are "
            f"{', '.join(columns)[:120]}."
        )
    ints["token"] = ints.pop("step")


def _long(
    source: Source,
    options: Options,
    values: Mapping[str, Any],
    ints: Mapping[str, NDArray[np.int64]],
    found: Mapping[str, str],
    format: str,
    report: list[str],
    others: Mapping[str, Any],
) -> Found:
    count = len(ints["token"])
    request = np.zeros(count, np.int64)
    if "request" in values:
        numbers: dict[str, int] = {}
        request = np.array(
            [numbers.setdefault(str(one), len(numbers)) for one in values["request"]], np.int64
        )
    step = ints.get("step", np.zeros(count, np.int64))
    order = np.lexsort((ints["token"], step, request))
    keys = [request[order], step[order], ints["token"][order]]
    new = np.zeros(count, np.bool_)
    new[0] = True
    for key in keys:
        new[1:] |= np.diff(key) != 0
    row = np.empty(count, np.int64)
    row[order] = np.cumsum(new) - 1
    tokens = int(new.sum())
    if tokens > MAX_TOKENS:
        raise source.error(f"holds more than {MAX_TOKENS:,} tokens.")
    begin = order[new]
    layers, layer = np.unique(ints["layer"], return_inverse=True)
    weight = None
    if "weight" in values:
        weight = _float_column(source, values["weight"], found["weight"])
        if np.isnan(weight).any():
            report.append(f"weights are left out: {many(int(np.isnan(weight).sum()), 'row')} without one")
            weight = None
    if "rank" in ints:
        rank: NDArray[Any] = ints["rank"]
    else:
        rank = np.arange(count) if weight is None else -weight
        report.append(
            f"no column says the rank: choices are ranked by {'row' if weight is None else 'weight'}"
        )
    by = np.lexsort((rank, layer, row))
    event = row[by] * len(layers) + layer[by]
    begins = np.flatnonzero(np.diff(event, prepend=-1))
    if "rank" in ints and (np.diff(rank[by])[np.diff(event) == 0] == 0).any():
        at = int(by[1:][(np.diff(event) == 0) & (np.diff(rank[by]) == 0)][0])
        raise source.error(
            f"row {at + 1} has rank {ints['rank'][at]} of token {ints['token'][at]} in layer "
            f"{ints['layer'][at]} again."
        )
    sizes = np.diff(np.append(begins, count))
    if int(sizes.max()) > MAX_K:
        at = int(by[begins[int(np.argmax(sizes))]])
        raise source.error(
            f"token {ints['token'][at]} in layer {ints['layer'][at]} has {int(sizes.max())} experts; at "
            f"most {MAX_K} are read."
        )
    ids, weights = scatter(
        source,
        row[by][begins],
        layer[by][begins],
        sizes.astype(np.int16),
        ints["expert"][by].astype(np.int16),
        None if weight is None else weight[by].astype(np.float32),
        (tokens, len(layers)),
    )
    routed = Routed(ids, weights, [int(one) for one in layers], report=report, **others)
    if "request" in values and int(request.max()) > 0:
        routed.sequence = request[begin]
    for meaning in ("step", "token_id"):
        if meaning in ints and (ints[meaning] < 0).any():
            report.append(f"{found[meaning]} is not used: some rows have none")
    if "step" in ints and (step >= 0).all():
        routed.forward_pass = step[begin]
    if "token_id" in ints and (ints["token_id"] >= 0).all():
        routed.token_ids = _first(source, found["token_id"], row, ints["token_id"], tokens)
    if "phase" in values and "" in values["phase"]:
        report.append(f"{found['phase']} is not used: some rows have none")
    elif "phase" in values:
        name = found["phase"]
        known = {one: phase_of(one, f"{source.name}: {name}", name) for one in set(values["phase"])}
        phase = np.array([known[one] for one in values["phase"]], np.int64)
        routed.phase = _first(source, name, row, phase, tokens).astype(np.uint8)
    elif "prompt_tokens" in ints:
        prompt = _first(source, found["prompt_tokens"], row, ints["prompt_tokens"], tokens)
        routed.phase = by_prompts(request[begin], ints["token"][begin], prompt, report)
    if "text" in values:
        texts: list[Any] = [values["text"][at] for at in begin.tolist()]
        routed.texts = [str(one) for one in texts]
    return finish(source, options, routed, format)

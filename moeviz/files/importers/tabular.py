"""Tables: CSV with commas, semicolons, tabs or bars, and parquet; their heads, cells and columns.

A table is long (a row for each choice: token, layer, rank, expert, weight) or counts (layer, expert, count),
both `long_tables`; has lists (a row for each token and layer); or is wide (columns expert_0, expert_1, ...:
`wide_tables`). Only the columns that mean something (`names.ALIASES`) are read, in pieces.
"""

from __future__ import annotations

import csv
import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numpy.typing import NDArray

from moeviz.core.trace import MAX_TOKENS
from moeviz.errors import TraceError
from moeviz.files.importers import parquet
from moeviz.files.importers.names import layer_in, meanings
from moeviz.files.importers.objects import Row
from moeviz.files.importers.source import Source
from moeviz.files.importers.values import MOST

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
        return whole_column(self.source, joined, name)

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


def whole_column(source: Source, values: Any, name: str) -> NDArray[np.int64]:
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

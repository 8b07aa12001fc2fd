"""Parquet, bounded before anything unfolds: the footer, then the header of every page of the columns that are
wanted.

A page header says how many bytes the page unpacks to and how many values it holds; the decoder makes no more
than that. They are read here (Thrift's compact protocol) and summed; encodings that make a value from the one
before it are refused. pyarrow reads without threads: with them its reader was seen to crash under a memory
tracer.
"""

from __future__ import annotations

import io
import struct
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import numpy as np

from moeviz.core.trace import MAX_TOKENS
from moeviz.errors import TraceError
from moeviz.files.importers.names import layer_in
from moeviz.files.importers.source import Source

MAGIC = b"PAR1"
MOST_FOOTER = 4 * 2**20
MOST_COLUMNS, MOST_GROUPS = 1_024, 10_000
MOST_ROWS = 8 * MAX_TOKENS
BATCH = 65_536
VALUE = 16  # bytes of a value on its way
_GROWING = 7  # DELTA_BYTE_ARRAY


def open_parquet(source: Source) -> Any:
    """pyarrow's ParquetFile. Raises TraceError."""
    import pyarrow
    import pyarrow.parquet

    content = source.content
    if len(content) < 12 or content[-4:] != MAGIC:
        raise source.error("is only a part of a parquet file, or damaged: it does not end as one does.")
    (footer,) = struct.unpack("<I", content[-8:-4])
    if footer > min(MOST_FOOTER, len(content) - 12):
        raise source.error(
            f"its footer has {footer:,} bytes; expected at most {MOST_FOOTER:,}, and all of them there."
        )
    try:
        file = pyarrow.parquet.ParquetFile(
            io.BytesIO(content),
            thrift_string_size_limit=MOST_FOOTER,
            thrift_container_size_limit=MOST_FOOTER // 4,
        )
        meta, _ = file.metadata, names_of(file)
    except (pyarrow.ArrowException, OSError, ValueError, MemoryError) as error:
        raise _unreadable(source, error) from None
    if meta.num_columns > MOST_COLUMNS or meta.num_row_groups > MOST_GROUPS or meta.num_rows > MOST_ROWS:
        raise source.error(
            f"has {meta.num_rows:,} rows of {meta.num_columns:,} columns; up to {MOST_ROWS:,} of "
            f"{MOST_COLUMNS:,} are read."
        )
    return file


def read_columns(source: Source, file: Any, wanted: Mapping[str, str]) -> dict[str, list[Any]]:
    """Columns as pieces, arrays or lists: `wanted` maps a column to int, maybe, float, text or list. Raises
    TraceError.
    """
    import pyarrow
    import pyarrow.parquet

    texts = [name for name, kind in wanted.items() if kind == "text"]
    found: dict[str, list[Any]] = {name: [] for name in wanted}
    rows = 0
    try:
        _check_pages(source, file, set(wanted))
        reader = pyarrow.parquet.ParquetFile(io.BytesIO(source.content), read_dictionary=texts)
        for batch in reader.iter_batches(BATCH, columns=list(wanted), use_threads=False):
            rows += batch.num_rows
            if rows > MOST_ROWS:
                raise source.error(f"has more than {MOST_ROWS:,} rows.")
            for name, kind in wanted.items():
                found[name].append(
                    _piece(source, batch.column(batch.schema.get_field_index(name)), name, kind, rows)
                )
    except (pyarrow.ArrowException, OSError, ValueError, KeyError, MemoryError, IndexError) as error:
        if isinstance(error, type(source.error(""))):
            raise
        raise _unreadable(source, error) from None
    return found


def _unreadable(source: Source, error: BaseException) -> TraceError:
    why = str(error)[:80] or type(error).__name__
    return source.error(f"is not a parquet file that can be read: {why}.")


def _piece(source: Source, column: Any, name: str, kind: str, rows: int) -> Any:
    import pyarrow.types as types

    if column.null_count and kind in ("int", "layer"):
        at = rows - len(column) + int(np.flatnonzero(column.is_null().to_numpy(zero_copy_only=False))[0]) + 1
        raise source.error(f"row {at}: {name} is empty; expected a value.")
    type_ = column.type
    if kind == "list":
        if not (types.is_list(type_) or types.is_large_list(type_) or types.is_fixed_size_list(type_)):
            raise source.error(f"{name} holds {type_}; expected lists of numbers.")
        return column.to_pylist()
    if kind == "text":
        if types.is_dictionary(type_):
            known = [str(one) for one in column.dictionary.to_pylist()]
            return ["" if at is None else known[at] for at in column.indices.to_pylist()]
        return ["" if one is None else str(one) for one in column.to_pylist()]
    if kind == "layer" and (types.is_string(type_) or types.is_large_string(type_)):
        numbers = [layer_in(one or "") for one in column.to_pylist()]
        if None in numbers:
            at = rows - len(column) + numbers.index(None) + 1
            raise source.error(f"row {at}: {name} is no number and names no layer.")
        return np.array(numbers, np.int64)
    if not (types.is_integer(type_) or types.is_floating(type_)):
        raise source.error(
            f"{name} holds {type_}; expected {'numbers' if kind == 'float' else 'whole numbers'}."
        )
    if kind == "maybe" and column.null_count:
        column = column.fill_null(-1)
    return column.to_numpy(zero_copy_only=False)


def _check_pages(source: Source, file: Any, wanted: set[str]) -> None:
    """Raises TraceError where the pages of these columns would unfold to more than the room, or in a way that
    cannot be bounded.
    """
    size = values = 0
    meta = file.metadata
    for group in range(meta.num_row_groups):
        for number in range(meta.num_columns):
            column = meta.row_group(group).column(number)
            if column.path_in_schema.split(".")[0] not in wanted:
                continue
            start = column.data_page_offset
            if column.has_dictionary_page and 0 < column.dictionary_page_offset < start:
                start = column.dictionary_page_offset
            for unpacked, count, encoding in _pages(source, start, column.total_compressed_size):
                if encoding == _GROWING:
                    raise source.error(
                        f"{column.path_in_schema} is encoded as DELTA_BYTE_ARRAY, which is not read."
                    )
                size += unpacked
                values += count
                source.afford(size, f"its pages up to column {column.path_in_schema}")
                source.afford(values * VALUE, f"{values:,} values of its columns")


def _pages(source: Source, start: int, length: int) -> Iterator[tuple[int, int, int]]:
    """(unpacked bytes, values, encoding) of each page of a column."""
    content, end = source.content, start + length
    if start < 4 or length < 0 or end > len(content) - 8:
        raise source.error("a column's pages are not within the file.")
    while start < end:
        try:
            header, start = _struct(content, start, 0)
        except (IndexError, ValueError, RecursionError):
            raise source.error("the header of a page is damaged.") from None
        unpacked, packed = header.get(2), header.get(3)
        if not isinstance(unpacked, int) or not isinstance(packed, int) or unpacked < 0 or packed < 0:
            raise source.error("the header of a page is damaged.")
        start += packed
        page: dict[int, Any] = next(
            (header[field] for field in (5, 7, 8) if isinstance(header.get(field), dict)), {}
        )
        count, encoding = page.get(1, 0), page.get(4 if 8 in header else 2, 0)
        if not isinstance(count, int) or count < 0:
            raise source.error("the header of a page is damaged.")
        yield unpacked, count, encoding if isinstance(encoding, int) else 0


def _varint(content: bytes, at: int) -> tuple[int, int]:
    value = shift = 0
    while True:
        byte = content[at]
        at += 1
        value |= (byte & 0x7F) << shift
        if byte < 0x80:
            return value, at
        shift += 7
        if shift > 63:
            raise ValueError("a number is too long")


def _signed(content: bytes, at: int) -> tuple[int, int]:
    value, at = _varint(content, at)
    return (value >> 1) ^ -(value & 1), at


def _struct(content: bytes, at: int, depth: int) -> tuple[dict[int, Any], int]:
    """A struct of Thrift's compact protocol: {field: value}; text and lists are passed over."""
    if depth > 8:
        raise ValueError("nested too deeply")
    found: dict[int, Any] = {}
    field = 0
    while True:
        head = content[at]
        at += 1
        if head == 0:
            return found, at
        kind = head & 0x0F
        if head >> 4:
            field += head >> 4
        else:
            field, at = _signed(content, at)
        found[field], at = _value(content, at, kind, depth)


def _value(content: bytes, at: int, kind: int, depth: int) -> tuple[Any, int]:
    if kind in (1, 2):
        return kind == 1, at
    if kind == 3:
        return content[at], at + 1
    if kind in (4, 5, 6):
        return _signed(content, at)
    if kind == 7:
        return None, at + 8
    if kind == 8:
        length, at = _varint(content, at)
        return None, at + length
    if kind in (9, 10):
        head = content[at]
        count, at = (head >> 4, at + 1) if head >> 4 < 15 else _varint(content, at + 1)
        for _ in range(min(count, len(content))):
            # a list of booleans holds a byte each; all else stands as it does in a field
            _, at = (None, at + 1) if head & 0x0F in (1, 2) else _value(content, at, head & 0x0F, depth + 1)
        return None, at
    if kind == 12:
        return _struct(content, at, depth + 1)
    raise ValueError(f"a field of kind {kind}")


def names_of(file: Any) -> Sequence[str]:
    """Its columns."""
    return [str(name) for name in file.schema_arrow.names]

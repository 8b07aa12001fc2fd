"""A file's content and the room that reading it may take: bounds are judged before anything unfolds.

Whatever a file declares, reading it takes at most `MORE` bytes beside the file itself. Compressed content is
unpacked in pieces up to `UNPACKED` bytes, JSON is parsed once its brackets and commas have been counted, and
arrays are made once their shape is known to fit.

    source = unpacked(Source("routes.jsonl.gz", content))
    for number, line in source.lines(): ...
"""

from __future__ import annotations

import json
import re
import zlib
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

from moeviz.amounts import memory
from moeviz.errors import TraceError

MORE = 256 * 2**20  # bytes that reading may take beside the file
UNPACKED = 128 * 2**20  # bytes that compressed content may unpack to
LONGEST_LINE = 32 * 2**20
PLACE = 8  # bytes at the peak for each [token, layer, k] place of a trace without weights
WEIGHED = 20  # and with them

_NOT_NEWLINE = re.compile(rb"[^\n]+")
_LISTS_APART = re.compile(rb"\][^\S\n]*\n\s*\[")  # between two lists of one document stands a comma
_COST = ((b"{", 200), (b"[", 72), (b",", 40), (b'"', 28))  # bytes of Python's objects for each mark of JSON


@dataclass(frozen=True, eq=False, slots=True)
class Source:
    """A file to be read; `name` is for messages."""

    name: str
    content: bytes
    room: int = MORE  # bytes that may be taken beside the content

    def error(self, text: str) -> TraceError:
        return TraceError(f"{self.name}: {text}")

    def afford(self, size: int, what: str) -> None:
        """Raises TraceError where `what` would take more than the room."""
        if size > self.room:
            raise self.error(
                f"{what} would take {memory(size)}; reading a file may take {memory(self.room)} beside it."
            )

    def places(self, tokens: int, layers: int, k: int, weights: bool) -> None:
        """Raises TraceError where a trace of this shape does not fit the room."""
        each = WEIGHED if weights else PLACE
        self.afford(tokens * layers * k * each, f"a trace of {tokens:,} tokens x {layers:,} layers x {k:,}")

    def lines(self) -> Iterator[tuple[int, str]]:
        """(number from 1, text) of each line that is not blank. Lines end at \\n only. Raises TraceError."""
        number, counted = 1, 0
        for found in _NOT_NEWLINE.finditer(self.content):
            number += self.content.count(b"\n", counted, found.start())
            counted = found.start()
            if found.end() - found.start() > LONGEST_LINE:
                raise self.error(f"line {number} is longer than {LONGEST_LINE:,} bytes.")
            line = self.text(found[0], f"line {number}")
            if line.strip():
                yield number, line

    def text(self, content: bytes, place: str) -> str:
        """UTF-8 without a byte order mark. Raises TraceError."""
        try:
            return content.decode("utf-8-sig")
        except UnicodeDecodeError as error:
            raise self.error(
                f"{place} is not UTF-8: byte {content[error.start]:#04x} at {error.start}."
            ) from None

    def json(self, text: str, place: str) -> Any:
        """A JSON value; keys that stand twice are refused. Raises TraceError."""
        self._afford_json(text.encode("utf-8", "surrogatepass"), place)
        try:
            return json.loads(text, object_pairs_hook=_unique)
        except _TwiceError as error:
            raise self.error(f"{place} names the key {str(error)[:40]!r} twice.") from None
        except RecursionError:
            raise self.error(f"{place} is nested too deeply.") from None
        except ValueError as error:
            said = str(error)
            if "\n" not in text:  # the place says which line it is
                said = said.replace(": line 1 column", " in column")
            raise self.error(f"{place} is not JSON: {said[:80]}.") from None

    def document(self) -> Any:
        """The whole content as one JSON value. Raises TraceError."""
        return self.json(self.text(self.content, "the file"), "the file")

    def lists(self) -> Any:
        """The content as one JSON value; where it is a JSON list on each line, a list of those. Raises
        TraceError.
        """
        if not _LISTS_APART.search(self.content):
            return self.document()
        self._afford_json(self.content, "the file")
        return [self.json(line, f"line {number}") for number, line in self.lines()]

    def _afford_json(self, text: bytes, place: str) -> None:
        """Raises TraceError where Python's objects of this JSON would not fit the room."""
        self.afford(sum(text.count(mark) * cost for mark, cost in _COST), f"the JSON of {place}")

    def peek(self, most: int = 3) -> list[Any]:
        """The values of the first lines where they are JSON, for a look at what this is; empty where not."""
        found: list[Any] = []
        try:
            for _, line in Source(self.name, self.content[: 2**20], self.room).lines():
                found.append(self.json(line, "a line"))
                if len(found) == most:
                    break
        except TraceError:
            pass
        return found

    @property
    def head(self) -> bytes:
        """The first bytes, without a byte order mark and white space."""
        return self.content[:4096].removeprefix(b"\xef\xbb\xbf").lstrip()


class _TwiceError(ValueError):
    """A key that an object names twice."""


def _unique(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    found = dict(pairs)
    if len(found) < len(pairs):
        names = [name for name, _ in pairs]
        raise _TwiceError(next(name for name in names if names.count(name) > 1))
    return found


def unpacked(source: Source) -> Source:
    """The content of a .gz or .zst, or the source itself. Raises TraceError."""
    if source.content[:2] == b"\x1f\x8b":
        content, ending = _gunzip(source), ".gz"
    elif source.content[:4] == b"\x28\xb5\x2f\xfd":
        content, ending = _unzstd(source), ".zst"
    else:
        return source
    return Source(source.name.removesuffix(ending), content, source.room - len(content))


def _gunzip(source: Source) -> bytes:
    parts, left, size = [], source.content, 0
    try:
        while left:
            member = zlib.decompressobj(wbits=31)
            while not member.eof:
                part = member.decompress(left, 2**20)
                if not part and not member.unconsumed_tail and not member.eof:
                    raise source.error("the gzip stream is cut short.")
                left = member.unconsumed_tail
                size += len(part)
                _check_unpacked(source, size)
                parts.append(part)
            left = member.unused_data.lstrip(b"\0")
    except zlib.error as error:
        raise source.error(f"is not a gzip file that can be unpacked: {str(error)[:80]}.") from None
    return b"".join(parts)


def _unzstd(source: Source) -> bytes:
    """By pyarrow's codec: Python 3.11 has none, and pyarrow is needed for parquet anyway."""
    import pyarrow

    parts, size = [], 0
    try:
        with pyarrow.input_stream(pyarrow.py_buffer(source.content), compression="zstd") as stream:
            while part := stream.read(2**20):
                size += len(part)
                _check_unpacked(source, size)
                parts.append(part)
    except (OSError, pyarrow.ArrowException) as error:
        raise source.error(f"is not a zstd file that can be unpacked: {str(error)[:80]}.") from None
    return b"".join(parts)


def _check_unpacked(source: Source, size: int) -> None:
    if size > UNPACKED:
        raise source.error(
            f"unpacks to more than {memory(UNPACKED)}. Unpack it first: a file that is not packed may "
            "have more."
        )

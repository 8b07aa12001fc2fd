"""numpy's own files, read without its loader: the header is matched, not evaluated, and sizes are judged
before bytes are unpacked.
"""

from __future__ import annotations

import io
import math
import re
import struct
import zipfile
import zlib
from typing import Any

import numpy as np
from numpy.typing import NDArray

from moeviz.errors import TraceError
from moeviz.files.importers.source import Source

MAGIC = b"\x93NUMPY"
ZIP = b"PK\x03\x04"
MOST_MEMBERS = 10_000
MOST_DIRECTORY = 4 * 2**20  # bytes
_HEADER = re.compile(
    rb"\s*\{\s*'descr':\s*'([<>|=]?[A-Za-z]\d*)',\s*'fortran_order':\s*(True|False),\s*"
    rb"'shape':\s*\(([\d, ]{0,200})\),?\s*\}\s*"
)


def read_npy(source: Source, content: bytes | memoryview, name: str = "") -> NDArray[Any]:
    """An array that looks into the content. Raises TraceError."""
    where = f"the array {name[:40]!r}" if name else "the array"
    data = memoryview(content)
    if bytes(data[:6]) != MAGIC or len(data) < 12:
        raise source.error(f"{where} is not an array that numpy saved.")
    size, begin = (
        (struct.unpack("<H", data[8:10])[0], 10) if data[6] == 1 else (struct.unpack("<I", data[8:12])[0], 12)
    )
    if size > 65_536 or begin + size > len(data):
        raise source.error(f"{where} is cut short, or its header is longer than any that numpy writes.")
    header = bytes(data[begin : begin + size])
    if b"'|O'" in header or b"'O'" in header:
        raise source.error(
            f"{where} is an object array, which only running a pickle could read. Save integers [token, "
            "layer, k] with -1 in unused places, or an array for each request with np.savez."
        )
    found = _HEADER.fullmatch(header)
    if found is None:
        raise source.error(
            f"{where} has a header that numpy does not write for plain numbers: {header[:80]!r}."
        )
    try:
        dtype = np.dtype(found[1].decode())
        shape = tuple(int(part) for part in found[3].split(b",") if part.strip())
    except (TypeError, ValueError):
        raise source.error(f"{where} has a type or shape that cannot be: {header[:80]!r}.") from None
    if dtype.kind not in "biufUS" or dtype.itemsize == 0 or len(shape) > 8:
        raise source.error(f"{where} holds {dtype} {shape}; expected numbers or text.")
    if math.prod(one for one in shape if one) * dtype.itemsize >= 2**62:
        raise source.error(f"{where} has the shape {str(shape)[:60]}, which no array can have.")
    count = math.prod(shape)
    if count * dtype.itemsize > len(data) - begin - size:
        raise source.error(f"{where} is cut short: {shape} {dtype} need {count * dtype.itemsize:,} bytes.")
    flat = np.frombuffer(data, dtype, count, begin + size)
    return flat.reshape(shape[::-1]).T if found[2] == b"True" else flat.reshape(shape)


def open_zip(source: Source) -> dict[str, zipfile.ZipInfo]:
    """The members of a zip by name, without unpacking any. Raises TraceError."""
    content = source.content
    end = content.rfind(b"PK\x05\x06", max(0, len(content) - 65_557))
    if end < 0 or len(content) < end + 22:
        raise source.error("is not a whole zip file.")
    directory = struct.unpack("<I", content[end + 12 : end + 16])[0]
    if content[max(0, end - 20) : end].startswith(b"PK\x06\x07"):  # zip64, which torch always writes
        record = content[max(0, end - 76) : end - 20]
        directory = (
            struct.unpack("<Q", record[40:48])[0]
            if record[:4] == b"PK\x06\x06" and len(record) == 56
            else 2**64
        )
    if directory > MOST_DIRECTORY:
        raise source.error(f"its list of members is longer than {MOST_DIRECTORY:,} bytes.")
    try:
        with zipfile.ZipFile(io.BytesIO(content)) as archive:
            members = archive.infolist()
    except (
        zipfile.BadZipFile,
        ValueError,
        OverflowError,
        NotImplementedError,
        struct.error,
        OSError,
    ) as error:
        raise source.error(f"is not a zip file that can be read: {str(error)[:80]}.") from None
    if len(members) > MOST_MEMBERS:
        raise source.error(f"holds {len(members):,} members; at most {MOST_MEMBERS:,} are read.")
    found: dict[str, zipfile.ZipInfo] = {}
    for member in members:
        if member.filename in found:
            raise source.error(f"holds the member {member.filename[:40]!r} twice.")
        found[member.filename] = member
    return found


def read_member(source: Source, member: zipfile.ZipInfo) -> bytes:
    """A member unpacked; its size was judged before. Raises TraceError."""
    try:
        with zipfile.ZipFile(io.BytesIO(source.content)) as archive, archive.open(member) as file:
            content = file.read(member.file_size + 1)
    except (
        *(zipfile.BadZipFile, zlib.error, ValueError, NotImplementedError, RuntimeError),
        *(struct.error, OSError, EOFError, OverflowError),
    ) as error:
        raise source.error(
            f"the member {member.filename[:40]!r} cannot be unpacked: {str(error)[:80]}."
        ) from None
    if len(content) != member.file_size:
        raise source.error(
            f"the member {member.filename[:40]!r} has not the {member.file_size:,} bytes it declares."
        )
    return content


def read_npz(source: Source) -> tuple[dict[str, NDArray[Any]], list[str]]:
    """Every array by name, and the names of those that hold no plain numbers or text. Raises TraceError."""
    members = open_zip(source)
    source.afford(sum(member.file_size for member in members.values()), "its members, unpacked,")
    found: dict[str, NDArray[Any]] = {}
    left: list[str] = []
    refused: TraceError | None = None
    for name, member in members.items():
        key = name.removesuffix(".npy")
        try:
            found[key] = read_npy(source, read_member(source, member), key)
        except TraceError as error:
            refused = refused or error
            left.append(key)
    if refused and not found:
        raise refused
    return found, left

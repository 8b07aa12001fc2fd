"""Plain safetensors with arrays of routes or of counts, as people save them from a notebook; no tool's own
format.
"""

from __future__ import annotations

import struct

from safetensors import SafetensorError
from safetensors.numpy import load

from moeviz.files.importers.arrays import from_arrays
from moeviz.files.importers.registry import Found, Options, importer
from moeviz.files.importers.source import Source

NAME = "safetensors"
MOST_HEADER = 2**20


def header(source: Source) -> bytes:
    """The JSON header; empty where there is none."""
    content = source.content
    if len(content) < 10 or content[8:9] != b"{":
        return b""
    (size,) = struct.unpack("<Q", content[:8])
    return content[8 : 8 + size] if size <= len(content) - 8 else b""


def sniff(source: Source) -> int:
    """A safetensors header that is none of moeviz's own."""
    found = header(source)
    return int(bool(found)) and 2 - (b'"moetrace"' in found or b'"moecounts"' in found) * 2


@importer(NAME, "safetensors with arrays of routes or counts", sniff)
def read(source: Source, options: Options) -> Found:
    """Raises TraceError."""
    if len(header(source)) > MOST_HEADER:
        raise source.error(f"its header is longer than {MOST_HEADER:,} bytes.")
    source.afford(len(source.content), "its tensors")
    try:
        arrays = load(source.content)
    except (SafetensorError, KeyError, ValueError, TypeError, OverflowError) as error:
        raise source.error(f"is not a safetensors file: {str(error)[:80]}.") from None
    if any(name.endswith((".weight", ".bias")) for name in arrays):
        names = ", ".join(list(arrays)[:4])
        raise source.error(
            f"holds a model's weights ({names}), no trace. Run the model and record it: python -m moeviz "
            "run FOLDER."
        )
    return from_arrays(source, options, arrays, NAME)

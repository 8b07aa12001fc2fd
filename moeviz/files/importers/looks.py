"""What a file looks like that is no trace, in words: for the message that refuses it."""

from __future__ import annotations

from moeviz.errors import TraceError
from moeviz.files.importers.source import Source

_MAGIC = (
    (b"\x89PNG", "it looks like a PNG image."),
    (b"\xff\xd8\xff", "it looks like a JPEG image."),
    (b"GIF8", "it looks like a GIF image."),
    (b"%PDF", "it looks like a PDF document."),
    (b"GGUF", "it looks like a GGUF model; run llama.cpp with a recorder, or a safetensors model here."),
    (b"\x7fELF", "it looks like a program."),
    (b"MZ", "it looks like a program."),
    (b"SQLite format 3", "it looks like an SQLite database."),
    (b"\x89HDF", "it looks like an HDF5 file; save the arrays with np.savez."),
    (b"\xff\xfe", "it looks like text in UTF-16; save it as UTF-8."),
    (b"BZh", "it is packed with bzip2; unpack it first."),
    (b"\xfd7zXZ", "it is packed with xz; unpack it first."),
    (b"7z\xbc\xaf", "it looks like a 7-Zip archive; unpack it first."),
    (b"Rar!", "it looks like a RAR archive; unpack it first."),
    (b"ARROW1", "it looks like an Arrow file; save it as parquet."),
    (b"PK", "it looks like a zip archive with no arrays in it; unpack it first."),
    (b"<", "it looks like HTML or XML."),
)


def looks_like(source: Source) -> str:
    """A sentence."""
    if source.head[:14].lower().startswith((b"<!doctype html", b"<html")):
        return "it looks like a web page (HTML), perhaps what a server sent instead of the file."
    for magic, words in _MAGIC:
        if source.head.startswith(magic):
            return words
    content = source.content
    if content[:1] == b"\x80" and content[1:2] in (b"\x02", b"\x03", b"\x04", b"\x05"):
        return (
            "it looks like a Python pickle, which is not read because reading it runs code; save arrays "
            "with np.savez or torch.save."
        )
    if content[257:262] == b"ustar":
        return "it looks like a tar archive; unpack it first."
    if source.head[:1] in (b"{", b"["):
        return _json(source)
    if b"\0" in content[:4096]:
        return "it looks like binary data of a kind that is not known here."
    try:
        line = next((text for _, text in Source(source.name, content[:65_536]).lines()), "")
    except TraceError:
        return "it looks like text that is not UTF-8."
    return f"it looks like text that begins with {line.strip()[:60]!r}."


def _json(source: Source) -> str:
    values = source.peek(1)
    if not values:
        try:
            values = [source.document()]
        except TraceError:
            return "it begins like JSON, but is not."
    value = values[0]
    if isinstance(value, dict):
        return f"it looks like JSON of an object with {', '.join(str(key)[:30] for key in list(value)[:6])}."
    return f"it looks like JSON of a {type(value).__name__}."

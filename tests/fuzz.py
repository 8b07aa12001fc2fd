"""Mutated files of every format, read as an upload is, in processes of their own under its limits: accepted
whole or refused in a sentence, within memory and time.

The mutations know the formats: lines lose fields or get numbers that like to break things, members of a zip
are changed inside and packed again, headers of arrays and trace files say something else; and any byte of any
file may change.

`python -m moeviz bench fuzz` runs as many files as one likes, `test_fuzz.py` a fixed number of them.

    python -m moeviz bench fuzz --files 300
"""

from __future__ import annotations

import gzip
import io
import json
import os
import re
import signal
import struct
import sys
import warnings
import zipfile
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
import psutil
from seeds import seeds

from moeviz.core.replay import replay
from moeviz.core.settings import Settings
from moeviz.errors import MoevizError
from moeviz.files import guarded, moetrace
from moeviz.files.importers import Options

LONGEST = 600  # characters of a refusal that are told: a pipe takes so much at once
_MAXRSS = 1 if sys.platform == "darwin" else 1_024  # bytes of a unit of ru_maxrss

NASTY: tuple[Any, ...] = (
    *(-1, 0, 1, 2**31 - 1, 2**31, 2**63 - 1, 2**64, 10**30, 10**400, -(2**63), 1.5, 1e308, -0.0),
    *(float("nan"), float("inf"), True, None, "", "x", "\ud7ff", "\x00", "=1+1", "9" * 5_000),
    *([], [[]], {}, [1, 2], [[1, 2], [3]], {"a": 1}, ["1"], [None], [True, False]),
)


def mutated(content: bytes, rng: Any) -> bytes:
    """A file changed a few times, as one of its kind may be: see above."""
    for _ in range(int(rng.choice([1, 1, 1, 2, 3]))):
        change = _in_structure if rng.random() < 0.6 else _in_bytes
        content = change(content, rng)
    return content


def _in_structure(content: bytes, rng: Any) -> bytes:
    if content[:2] == b"\x1f\x8b":
        return _or_same(content, lambda: gzip.compress(mutated(gzip.decompress(content), rng), mtime=0))
    if content[:2] == b"PK":
        return _or_same(content, lambda: _in_zip(content, rng))
    if content[:6] == b"\x93NUMPY" and len(content) > 128:
        shape = (
            "("
            + ", ".join(str(rng.choice([0, 1, 2, 3, 12, 2**20, 2**40])) for _ in range(int(rng.integers(5))))
            + ")"
        )
        return (
            content[:10]
            + re.sub(rb"\([\d, ]*\)", shape.encode(), content[10:128]).ljust(118)[:118]
            + content[128:]
        )
    if content[8:9] == b"{" and len(content) > 16:
        return _or_same(content, lambda: _in_header(content, rng))
    if content[:1] in b"{[":
        return _or_same(content, lambda: _in_json(content, rng))
    if b"," in content[:200] and b"\0" not in content[:200]:
        return _in_cells(content, rng)
    return _in_bytes(content, rng)


def _or_same(content: bytes, change: Callable[[], bytes]) -> bytes:
    """What an earlier mutation broke cannot be taken apart again."""
    try:
        return change()
    except Exception:
        return content


def _in_zip(content: bytes, rng: Any) -> bytes:
    with zipfile.ZipFile(io.BytesIO(content)) as archive:
        members = [(name, archive.read(name)) for name in archive.namelist()]
    at = int(rng.integers(len(members)))
    name, own = members[at]
    match int(rng.integers(5)):
        case 0:
            members.append(members[at])
        case 1:
            members.pop(at)
        case 2:
            members[at] = (name + "x", own)
        case _:
            members[at] = (name, mutated(own, rng))
    packed = io.BytesIO()
    with (
        warnings.catch_warnings(action="ignore"),
        zipfile.ZipFile(packed, "w", int(rng.choice([zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED]))) as archive,
    ):
        for member, data in members:
            archive.writestr(member, data)  # of a name that stands twice zipfile warns
    return packed.getvalue()


def _in_header(content: bytes, rng: Any) -> bytes:
    (size,) = struct.unpack("<Q", content[:8])
    outer = json.loads(content[8 : 8 + size])
    kind = next(iter(outer["__metadata__"]))
    inner = json.loads(outer["__metadata__"][kind])
    if rng.random() < 0.6:
        _change(inner, rng)
        outer["__metadata__"][kind] = json.dumps(inner)
    else:
        _change(outer, rng)
    head = json.dumps(outer).encode()
    head += b" " * (-len(head) % 8)
    return struct.pack("<Q", len(head)) + head + content[8 + size :]


def _in_json(content: bytes, rng: Any) -> bytes:
    lines = content.split(b"\n")
    at = int(rng.integers(len(lines)))
    value = json.loads(lines[at] or b"{}")
    if rng.random() < 0.1:
        lines.insert(at, lines[at])
    else:
        _change(value, rng)
        lines[at] = json.dumps(value).encode()
    return b"\n".join(lines)


def _change(value: Any, rng: Any) -> None:
    """One value somewhere inside, or a key more or less."""
    while True:
        if isinstance(value, dict):
            places: list[Any] = list(value)
        elif isinstance(value, list):
            places = list(range(len(value)))
        else:
            return
        if not places:
            return
        at = places[int(rng.integers(len(places)))]
        if isinstance(value[at], (dict, list)) and rng.random() < 0.7:
            value = value[at]
            continue
        if rng.random() < 0.15:
            del value[at]
        else:
            value[at] = NASTY[int(rng.integers(len(NASTY)))]
        return


def _in_cells(content: bytes, rng: Any) -> bytes:
    lines = content.split(b"\n")
    at = int(rng.integers(len(lines)))
    cells = lines[at].split(b",")
    cell = int(rng.integers(len(cells)))
    match int(rng.integers(4)):
        case 0:
            cells.pop(cell)
        case 1:
            cells.insert(cell, cells[cell])
        case _:
            cells[cell] = str(NASTY[int(rng.integers(len(NASTY)))]).encode("utf-8", "surrogatepass")
    lines[at] = b",".join(cells)
    return b"\n".join(lines)


def _in_bytes(content: bytes, rng: Any) -> bytes:
    """A few bytes changed, pieces repeated, taken out, swapped for numbers that like to break things, or cut
    short.
    """
    data = bytearray(content)
    at = int(rng.integers(len(data))) if data else 0
    match int(rng.integers(6)):
        case 0:
            data[at : at + 1] = bytes([int(rng.integers(256))])
        case 1:
            number = (0, 1, 2**31 - 1, 2**31, 2**63 - 1, 2**64 - 1)[int(rng.integers(6))]
            data[at : at + 8] = number.to_bytes(8, "little")
        case 2:
            del data[at : at + int(rng.integers(1, 40))]
        case 3:
            data[at:at] = data[at : at + int(rng.integers(1, 200))]
        case 4:
            texts = ("-1", "1e999", "NaN", "null", '"', "{", "[" * 50, "99999999999999999999", "\ud7ff")
            data[at : at + 1] = texts[int(rng.integers(len(texts)))].encode("utf-8", "surrogatepass")
        case _:
            del data[at:]
    return bytes(data)


@dataclass(frozen=True, slots=True)
class Tried:
    """What became of one file in a process of its own."""

    kind: str  # of the answer: trace, counts, same, error; empty where the process ended without one
    said: str  # the refusal, or its beginning
    length: int  # of the refusal, characters
    seconds: float  # of processor time
    mib: float  # of memory beside what the process had at its start
    signal: int  # that ended the process; 0: none


def tried(content: bytes, options: Options) -> Tried:
    """Reads a file as an upload is read, in a forked process under its limits: forked, since ten thousand
    processes that each load numpy would take an hour. What is accepted is replayed there too.

    What a reader raises beside its own error ends that process with its traceback on standard error.
    """
    reading, writing = os.pipe()
    interruptions = {signal.SIGINT}
    signal.pthread_sigmask(signal.SIG_BLOCK, interruptions)  # in the midst of a fork Python tells of them
    child = os.fork()
    if child == 0:
        try:
            signal.pthread_sigmask(signal.SIG_UNBLOCK, interruptions)
            os.close(reading)
            os.write(writing, b"%d\n" % psutil.Process().memory_info().rss)
            if (silent := os.open(os.devnull, os.O_WRONLY)) != 1:
                os.dup2(silent, 1)
            answer, rest = guarded.answer_of("file", content, options)
            _use(answer["kind"], content, rest)
            error = answer.get("error", "")
            told = {"kind": answer["kind"], "error": error[:LONGEST], "length": len(error)}
            os.write(writing, json.dumps(told).encode())
        finally:
            os._exit(0)
    signal.pthread_sigmask(signal.SIG_UNBLOCK, interruptions)
    os.close(writing)
    with os.fdopen(reading, "rb") as pipe:
        before, _, said = pipe.read().partition(b"\n")
    answer = json.loads(said or b"{}")
    _, status, used = os.wait4(child, 0)
    return Tried(
        answer.get("kind", ""),
        answer.get("error", ""),
        answer.get("length", 0),
        used.ru_utime + used.ru_stime,
        max(0, used.ru_maxrss * _MAXRSS - int(before)) / 2**20,
        os.WTERMSIG(status) if os.WIFSIGNALED(status) else 0,
    )


def _use(kind: str, content: bytes, rest: bytes) -> None:
    """What is accepted can be used."""
    if kind in ("trace", "same"):
        trace, _ = moetrace.from_bytes(content if kind == "same" else rest)
        if trace.tokens * trace.layers < 1_000:
            replay(trace, Settings(slots=trace.k))


def fuzz(files: int, seed: int = 0) -> Iterator[dict[str, Any]]:
    """`files` mutations of a file of every format, each in a process of its own: of each format how many were
    accepted, how many processes ended without an answer, and the slowest and the largest of them.

    A refusal that only the importers' last guard could word counts as "stumbled". The numbers of these files
    and the seed make them again.
    """
    if not hasattr(os, "fork"):
        raise MoevizError("bench fuzz needs a system whose processes fork: Linux or macOS.")
    import pyarrow.parquet  # noqa: F401  # before the fork, so that not every child loads it

    for kind, content in seeds().items():
        options = Options(top_k=2 if kind == "rtrace" else 0)
        every = [tried(mutated(content, np.random.default_rng([seed, n])), options) for n in range(files)]
        stumbled = [
            n for n, one in enumerate(every) if "cannot be read: " in one.said and "Error: " in one.said
        ]
        ended = [n for n, one in enumerate(every) if not one.kind]
        found: dict[str, Any] = {
            f"{kind}: accepted of {files}": float(sum(one.kind not in ("", "error") for one in every)),
            f"{kind}: stumbled": float(len(stumbled)),
            f"{kind}: ended without an answer": float(len(ended)),
            f"{kind}: longest refusal, characters": float(max(one.length for one in every)),
            f"{kind}: slowest, ms": 1e3 * max(one.seconds for one in every),
            f"{kind}: most memory, MiB": max(one.mib for one in every),
        }
        if stumbled or ended:
            found[f"{kind}: numbers of these"] = ", ".join(map(str, sorted({*stumbled, *ended})[:20]))
        yield found

"""Reads a file of whatever format in a process of its own, with limits on memory and time, which can only
hand back a checked trace.

A file that makes a library run away brings down that process and nothing else: what comes back is a trace,
which is checked once more here, or counts, or one sentence. The child loads numpy, safetensors and what the
format needs (about 0.3 s on a busy core). Limits: 256 MiB beside the file and what is loaded, and 5 s of
processor time, more for files over 2 MiB; `resource` sets them on Linux and macOS (which does not enforce
the one on memory), and the readers' own bounds hold everywhere.

    found = open_guarded("routes.jsonl", content, Options(experts=32))
    found = open_file("routes.jsonl")

moeviz's own files are safetensors, whose reader checks every size and cannot end the process: what is on the
user's own disk is read here and now. An upload, which is a stranger's, goes through the child whatever it is.
"""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from dataclasses import asdict
from pathlib import Path
from typing import Any, BinaryIO

from moeviz.amounts import memory
from moeviz.errors import TraceError
from moeviz.files import importers, moecounts, moetrace
from moeviz.files.importers import AS_SAID, IMPORTERS, Counted, Found, Imported, Options, Source, open_content
from moeviz.files.importers.source import MORE
from moeviz.files.moetrace import MAX_FILE_BYTES
from moeviz.files.reading import read_regular

SECONDS = 5.0  # of processor time, whatever a file declares
BYTES_PER_SECOND = 2 * 2**20  # a large file may take longer, in proportion
SLACK = 24 * 2**20  # address space of allocators and late imports
ROOT = Path(__file__).parents[2]


def open_file(path: str | os.PathLike[str], options: Options = AS_SAID, format: str = "") -> Found:
    """A regular file. Raises TraceError or OSError."""
    name, content = Path(path).name, read_regular(path, MAX_FILE_BYTES)
    source = Source(name, content)
    if any(kind == format or (not format and IMPORTERS[kind].sniff(source)) for kind in _read_here()):
        return open_content(name, content, options, format)
    return open_guarded(name, content, options, format)


def _read_here() -> list[str]:
    """moeviz's own formats, and those whose readers the running program registered: a child does not know
    these.
    """
    own = [kind for kind, one in IMPORTERS.items() if not one.read.__module__.startswith(importers.__name__)]
    return ["moetrace", "moecounts", *own]


def open_guarded(name: str, content: bytes, options: Options = AS_SAID, format: str = "") -> Found:
    """A file's content as a trace or as counts. Raises TraceError."""
    if ".py:" in format:
        path, _, own = format.rpartition(":")
        format = f"{Path(path).resolve()}:{own}"
    asked = {"name": name, "options": asdict(options), "format": format, "bytes": len(content)}
    environment = {
        **os.environ,
        # What is reserved counts as used: other pools take it in large pieces, and glibc 64 MiB a thread.
        "ARROW_DEFAULT_MEMORY_POOL": "system",
        "MALLOC_ARENA_MAX": "1",
        "OPENBLAS_NUM_THREADS": "1",
        "OMP_NUM_THREADS": "1",
        "PYTHONPATH": os.pathsep.join([str(ROOT), *filter(None, [os.environ.get("PYTHONPATH")])]),
    }
    limit = _seconds(len(content))
    try:
        process = subprocess.Popen(
            [sys.executable, "-m", "moeviz.files.guarded"],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            env=environment,
        )
    except OSError as error:
        raise TraceError(
            f"{name} cannot be read: no process could be started for it: {error.strerror}. Close something, "
            "and try again."
        ) from None
    try:
        answer, _ = process.communicate(json.dumps(asked).encode() + b"\n" + content, timeout=60 + 10 * limit)
    except subprocess.TimeoutExpired:
        raise TraceError(
            f"{name} took longer than {60 + 10 * limit:.0f} s to be read, and was given up."
        ) from None
    finally:
        process.kill()
        process.wait()
    return _answer(name, content, answer, process.returncode, limit)


def _seconds(size: int) -> float:
    return SECONDS + max(size - 2 * 2**20, 0) / BYTES_PER_SECOND


def _answer(name: str, content: bytes, answer: bytes, code: int, limit: float) -> Found:
    """What the child said, checked as any file is. Raises TraceError."""
    head, newline, rest = answer.partition(b"\n")
    if not newline:
        if -code == getattr(signal, "SIGXCPU", 0):
            raise TraceError(
                f"{name} took more than {limit:.0f} s of processor time to be read, and was given up. A "
                "packed file may take longer once it is unpacked: its limit grows with its size."
            )
        if -code == getattr(signal, "SIGKILL", 0):
            raise TraceError(
                f"{name} cannot be read: the process that read it was killed from outside, most likely "
                "because this machine ran out of memory. Close something, or take a smaller file."
            )
        if code >= 0:
            raise TraceError(
                f"{name} cannot be read: its reader ended the process with code {code} and without an answer."
            )
        raise TraceError(
            f"{name} cannot be read: the process that read it ended with {code}, most likely because it "
            f"asked for more than {memory(MORE)} beside the file."
        )
    said = json.loads(head)
    match said["kind"]:
        case "error":
            raise TraceError(str(said["error"]))
        case "counts":
            return Counted(moecounts.from_bytes(rest, name), str(said["format"]), list(said["report"]))
        case "same":
            trace, run = moetrace.from_bytes(content, name)
        case _:
            trace, run = moetrace.from_bytes(rest, name)
    return Imported(trace, run, str(said["format"]), list(said["report"]))


def main() -> None:
    """The child: one request from standard input, one answer to standard output."""
    out = os.fdopen(os.dup(1), "wb")
    os.dup2(2, 1)  # whatever a library prints must not stand in the answer
    head, content = _request(sys.stdin.buffer)
    answer, rest = answer_of(head["name"], content, Options(**head["options"]), head["format"])
    out.write(json.dumps(answer).encode() + b"\n")
    out.write(rest)
    out.flush()


def answer_of(name: str, content: bytes, options: Options, format: str = "") -> tuple[dict[str, Any], bytes]:
    """What this process makes of a file within the limits, which hold from here on: what kind of answer it
    is, and the content that goes with it.
    """
    try:
        _limit(len(content))
        return _packed(open_content(name, content, options, format), content)
    except TraceError as error:
        return {"kind": "error", "error": str(error)}, b""
    except MemoryError:
        text = f"{name} needs more than {memory(MORE)} beside itself to be read; that is refused."
        return {"kind": "error", "error": text}, b""


def _request(stream: BinaryIO) -> tuple[dict[str, Any], bytes]:
    head = json.loads(stream.readline())
    return head, stream.read(head["bytes"])


def _packed(found: Found, content: bytes) -> tuple[dict[str, Any], bytes]:
    about = {"format": found.format, "report": found.report}
    if isinstance(found, Counted):
        return about | {"kind": "counts"}, moecounts.to_bytes(found.counts)
    if found.format == "moetrace" and content[8:9] == b"{":
        return about | {"kind": "same"}, b""
    return about | {"kind": "trace"}, moetrace.to_bytes(found.trace, found.run)


def _limit(size: int) -> None:
    """From here on this process gets no more memory and time than reading may take."""
    try:
        import resource
    except ImportError:  # Windows: the readers' own bounds have to do
        return
    used = resource.getrusage(resource.RUSAGE_SELF)
    seconds = int(used.ru_utime + used.ru_stime + _seconds(size)) + 1
    resource.setrlimit(resource.RLIMIT_CPU, (seconds, seconds + 1))
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    try:
        pages = int(Path("/proc/self/statm").read_text(encoding="ascii").split()[0])
    except (OSError, ValueError):  # macOS says no such thing, and does not enforce the limit
        return
    most = pages * resource.getpagesize() + MORE + SLACK
    hard = resource.getrlimit(resource.RLIMIT_AS)[1]
    resource.setrlimit(
        resource.RLIMIT_AS, (most if hard == resource.RLIM_INFINITY else min(most, hard), hard)
    )


if __name__ == "__main__":
    main()

"""Reads the traces of any tool. Nothing in a file is run; sizes are bounded before they unfold; every refusal
is a TraceError.

    read("routed.npy", content, Options(experts=32)).trace
    open_content("counts.csv", content)         # an Imported trace, or Counted where there is no order

A format is a file in this folder with a function under `@importer`; its docstring says whose it is and which
version was read. `moeviz.files.guarded` reads in a process of its own, with limits on memory and time.
"""

from __future__ import annotations

import importlib
import pkgutil
from collections.abc import Callable
from dataclasses import asdict, replace

from moeviz.amounts import memory
from moeviz.errors import MoevizError, TraceError
from moeviz.files.importers.registry import (
    AS_SAID,
    IMPORTERS,
    Counted,
    Found,
    Imported,
    Importer,
    Options,
    Watched,
    format_names,
    importer,
    load_importer,
    none_of_them,
)
from moeviz.files.importers.source import MORE, Source, unpacked
from moeviz.files.moetrace import MAX_FILE_BYTES

LONGEST = 600  # characters of a refusal: a file may hold a number of thousands of digits

for _module in sorted(pkgutil.iter_modules(__path__), key=lambda module: module.name):
    importlib.import_module(f"{__name__}.{_module.name}")

__all__ = [
    "AS_SAID",
    "IMPORTERS",
    "Counted",
    "Found",
    "Imported",
    "Importer",
    "Options",
    "Source",
    "as_trace",
    "format_names",
    "importer",
    "load_importer",
    "open_content",
    "read",
]


def read(name: str, content: bytes, options: Options = AS_SAID, format: str = "") -> Imported:
    """A file's content as a trace. Raises TraceError, also where the file only counts."""
    return as_trace(name, open_content(name, content, options, format))


def as_trace(name: str, found: Found) -> Imported:
    """What was found, where it is a trace. Raises TraceError where it only counts."""
    if isinstance(found, Counted):
        what = (
            "It is what" if found.format == "moecounts" else "`moeviz import` makes a .moecounts of it, which"
        )
        raise TraceError(
            f"{name} holds counts, not a trace ({found.format}): which token used which expert is not said, "
            f"so no cache can be replayed. {what} the policy static and warm starts take as calibration."
        )
    return found


def open_content(name: str, content: bytes, options: Options = AS_SAID, format: str = "") -> Found:
    """A file's content as a trace or as counts. `name` is for messages; `format`: empty, it is found by the
    content. Raises TraceError.
    """
    if len(content) > MAX_FILE_BYTES:
        raise TraceError(f"{name} has {len(content):,} bytes; at most {MAX_FILE_BYTES:,} are read.")
    if not content.strip():
        raise TraceError(f"{name} is empty.")
    return _guard(name, lambda: _open(Source(name, content), options, format))


def _open(source: Source, options: Options, format: str) -> Found:
    source = unpacked(source)
    kind = load_importer(format) if format else _format_of(source)
    if not kind:
        raise none_of_them(source)
    options = Watched(**asdict(options))
    found = IMPORTERS[kind].read(source, options)
    if not isinstance(found, Imported | Counted):  # a user's own may give anything
        raise TraceError(
            f"{source.name}: the importer {format or kind} gave {type(found).__name__}, neither Imported nor "
            "Counted. Let it return what finish(...) of moeviz.files.importers.routed gives."
        )
    found.report.extend(options.not_used)
    if isinstance(found, Imported) and found.trace.notes != (notes := tuple(found.report)):
        found = replace(found, trace=replace(found.trace, notes=notes))
    return found


def _format_of(source: Source) -> str:
    """The format that is surest of this content; empty where none is."""
    sure = {name: one.sniff(source) for name, one in IMPORTERS.items()}
    best = max(sure, key=lambda name: sure[name])
    return best if sure[best] else ""


def _guard(name: str, work: Callable[[], Found]) -> Found:
    """Whatever a file makes a library stumble over leaves as one sentence. The readers check what they can
    name; this is the rest.
    """
    try:
        return work()
    except TraceError as error:
        said = str(error)
        if len(said) <= LONGEST:
            raise
        raise TraceError(f"{said[: LONGEST - 200]} ... {said[-190:]}") from None
    except MoevizError:
        raise
    except MemoryError:
        raise TraceError(
            f"{name} needs more memory than reading a file may take ({memory(MORE)} beside it)."
        ) from None
    except Exception as error:
        raise TraceError(
            f"{name} cannot be read: {type(error).__name__}: "
            f"{str(error).strip().splitlines()[0][:100] if str(error).strip() else ''}."
        ) from None

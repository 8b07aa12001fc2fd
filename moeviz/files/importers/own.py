"""moeviz's own files: `.moetrace` (versions 1 and 2) and `.moecounts`."""

from __future__ import annotations

from moeviz.files import moecounts, moetrace
from moeviz.files.importers.registry import Counted, Found, Imported, Options, importer
from moeviz.files.importers.safetensors_arrays import header
from moeviz.files.importers.source import Source


@importer("moetrace", "moeviz's own .moetrace", lambda source: 2 * (b'"moetrace"' in header(source)))
def read_trace(source: Source, options: Options) -> Found:
    """Raises TraceError."""
    trace, run = moetrace.from_bytes(source.content, source.name)
    return Imported(trace, run, "moetrace", list(trace.notes))


@importer("moecounts", "moeviz's own .moecounts", lambda source: 2 * (b'"moecounts"' in header(source)))
def read_counts(source: Source, options: Options) -> Found:
    """Raises TraceError."""
    counts = moecounts.from_bytes(source.content, source.name)
    return Counted(counts, "moecounts", list(counts.notes))

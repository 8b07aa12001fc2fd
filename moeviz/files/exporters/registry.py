"""The formats that a trace and what a cache did on it can be written in; a file of this folder each, found by
name.

from moeviz.files.exporters.registry import Export, exporter

@exporter("mine", ".mine", "for my tool")
def write(export: Export) -> bytes:
    "Read by my tool 1.0."
    return bytes(export.run.accesses.expert)
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from moeviz.core.owncode import not_ours
from moeviz.core.run import Run
from moeviz.core.trace import Trace
from moeviz.errors import ExportError


@dataclass(frozen=True, eq=False, slots=True)
class Export:
    """What is to be written."""

    trace: Trace
    did: Run | None  # what a cache did on it, measured or replayed; None for who writes the trace alone
    own: Run | None  # a measured run of the trace, which gives the times of a replay's timeline
    name: str  # of the trace's file

    @property
    def run(self) -> Run:
        """What a cache did on the trace. Raises ExportError."""
        if self.did is None:
            raise ExportError("an exporter that is declared to write the trace alone asks for a run.")
        return self.did


Write = Callable[[Export], bytes]


@dataclass(frozen=True, slots=True)
class Exporter:
    """One way out."""

    suffix: str
    what: str  # in words, for help and pages
    write: Write
    alone: bool = False  # the trace without any run


EXPORTERS: dict[str, Exporter] = {}


def exporter(name: str, suffix: str, what: str, alone: bool = False) -> Callable[[Write], Write]:
    """Registers the writer of a format; it raises ExportError where this trace or run cannot be written
    so. alone: it writes the trace without any run. Raises ArgumentError where the name is moeviz's own.
    """

    def register(write: Write) -> Write:
        if known := EXPORTERS.get(name):
            not_ours("exporter", name, known.write, write)
        EXPORTERS[name] = Exporter(suffix, what, write, alone)
        return write

    return register

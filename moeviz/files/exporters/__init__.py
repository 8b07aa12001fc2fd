"""Writes traces and runs for other tools: tables, lines, a timeline for Perfetto, requests for libCacheSim, a
report and a notebook.

content("csv", trace, run)
"""

from __future__ import annotations

import importlib
import pkgutil

from moeviz.core.run import Run
from moeviz.core.trace import Trace
from moeviz.errors import ExportError
from moeviz.files.exporters.registry import EXPORTERS, Export, Exporter, exporter

for _module in sorted(pkgutil.iter_modules(__path__), key=lambda module: module.name):
    importlib.import_module(f"{__name__}.{_module.name}")
for _name in sorted(EXPORTERS):  # lists for people are in the order of the names, not of the files
    EXPORTERS[_name] = EXPORTERS.pop(_name)

__all__ = ["EXPORTERS", "Export", "Exporter", "content", "exporter"]


def content(
    kind: str, trace: Trace, run: Run | None, own: Run | None = None, name: str = "trace.moetrace"
) -> bytes:
    """The file of one of EXPORTERS. `run`: None will do for one that writes the trace alone. `own`, a
    measured run of the trace, gives the times of a replay's timeline; `name` is the trace's file.

    Raises ExportError.
    """
    if kind not in EXPORTERS:
        raise ExportError(f"{kind!r} is no format. Choose one of {', '.join(EXPORTERS)}.")
    return EXPORTERS[kind].write(Export(trace, run, own, name))

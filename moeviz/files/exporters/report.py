"""The report: a page with charts that any browser opens, offline."""

from __future__ import annotations

from moeviz.files.exporters.registry import Export, exporter


@exporter("report", ".html", "a page with charts that any browser opens, offline")
def write(export: Export) -> bytes:
    """plotly takes its time, so it is imported when a report is asked for."""
    from moeviz.files.report import report

    return report(export.trace, export.run).encode()

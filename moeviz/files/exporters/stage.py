"""The stage: policies side by side, played token by token."""

from __future__ import annotations

from moeviz.files.exporters.registry import Export, exporter


@exporter("stage", ".html", "policies side by side, played token by token in any browser, offline")
def write(export: Export) -> bytes:
    """A board of the run's settings; the command line takes several policies."""
    from moeviz.charts.stage import stage

    return stage(export.trace, [export.run.settings], recorded=export.own).html.encode()

"""The notebook: the numbers computed anew, in Jupyter."""

from __future__ import annotations

from moeviz.files.exporters.registry import Export, exporter


@exporter("notebook", ".ipynb", "a Jupyter notebook that computes the numbers anew")
def write(export: Export) -> bytes:
    """nbformat takes its time, so it is imported when a notebook is asked for."""
    from moeviz.files.notebook import notebook

    return notebook(export.trace, export.run, export.name).encode()

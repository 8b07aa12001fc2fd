"""Charts of traces and runs: a figure, the table behind it, where its numbers come from, and its finding in a
sentence.

A chart function takes a `Trace` or a `Run` and gives a `Chart`; the app's pages and the report draw the same
ones. Nothing here knows a page. Plotly and pandas are imported when the first chart is made.
"""

from moeviz.charts.chart import KINDS, Chart

__all__ = ["KINDS", "Chart"]

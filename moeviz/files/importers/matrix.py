"""Numbers and nothing else, as numpy.savetxt and spreadsheets write them: counts [layer, expert]; no tool's
own format.

A line is a layer, its numbers are separated by commas, semicolons, tabs, bars or spaces; lines that begin
with # are left out. Rows of routes, or of one count each, look alike without a head and are refused: nothing
says which column is the token or the layer. So are a few lines of a few numbers, which may be either.
"""

from __future__ import annotations

import re

import numpy as np
from numpy.typing import NDArray

from moeviz.core.trace import MAX_EXPERTS, MAX_LAYERS
from moeviz.files.importers.counting import counted
from moeviz.files.importers.registry import Found, Options, importer
from moeviz.files.importers.source import Source

NAME = "matrix"
_APART = re.compile(r"\s*[,;|\t]\s*|\s+")
_NUMBERS = re.compile(rb"\s*[\d.eE+-]+(?:(?:\s*[,;|\t]\s*|[ \t]+)[\d.eE+-]+)+\s*")
MOST_ROUTE = 6  # columns: request, token, layer, rank, expert, weight
FEW = 3  # lines below a head up to which a first column of counts may rise by chance
SEVERAL = 6  # lines up to which a column may rise or fall by chance


def sniff(source: Source) -> int:
    """The first line that is no comment holds numbers only, two or more."""
    line = next((one for one in source.head.split(b"\n") if one.strip() and not one.startswith(b"#")), b"")
    return 2 * bool(_NUMBERS.fullmatch(line)) if len(line) < 4000 else 0


@importer(NAME, "counts [layer, expert] as lines of numbers (numpy.savetxt)", sniff)
def read(source: Source, options: Options) -> Found:
    """Raises TraceError."""
    rows: list[list[float]] = []
    for number, line in source.lines():
        if line.startswith("#"):
            continue
        try:
            row = [float(one) for one in _APART.split(line.strip())]
        except ValueError:
            raise source.error(f"line {number} is {line.strip()[:40]!r}; expected numbers only.") from None
        rows.append(row)
        expected = (
            f"expected counts of up to {MAX_LAYERS} layers of {MAX_EXPERTS:,} experts, a line for each layer."
            " Routes need a head, for example token,layer,rank,expert."
        )
        if len(row) != len(rows[0]) or len(row) > MAX_EXPERTS:
            raise source.error(
                f"line {number} has {len(row):,} numbers, the first has {len(rows[0]):,}; {expected}"
            )
        if len(rows) > MAX_LAYERS:
            raise source.error(f"holds more than {MAX_LAYERS} lines of numbers without a head; {expected}")
    lines = ["lines of numbers were taken for counts, a layer each"]
    headed = len(rows) > 1 and rows[0] == list(range(len(rows[0])))  # a data frame's columns
    if headed:
        lines.append("the first line numbers the experts")
        del rows[0]
    counts = np.array(rows)
    if _may_be_routes(counts, headed):
        raise source.error(
            "holds numbers without a head, which may be routes or a count a line. Give it one, for example "
            "token,layer,rank,expert or layer,expert,count, or save counts [layer, expert] as .npy."
        )
    return counted(source, counts, NAME, lines)


def _may_be_routes(numbers: NDArray[np.float64], headed: bool) -> bool:
    """True where a column may number tokens or layers: its whole numbers never fall from line to line, or
    lines are too few to tell and no first line numbers the columns."""
    lines, columns = numbers.shape
    whole = (numbers == np.floor(numbers)).all(0)
    if columns > MOST_ROUTE or not whole.any():
        return False
    rises = (np.diff(numbers, axis=0) >= 0).all(0) & whole
    if headed and lines <= FEW:
        return bool(rises[0] and numbers[0, 0] in (0, 1))
    return bool(rises.any() if lines > SEVERAL else rises[0] or not headed)

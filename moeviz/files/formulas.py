"""Tables as CSV whose texts come from other people's files: no cell is a formula, and every text comes back.

to_csv(pd.DataFrame({"text": ["=1+1"]}))  # b'"text"\n"\'=1+1"\n'
as_it_was("'=1+1")  # '=1+1'
"""

from __future__ import annotations

import csv
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import pandas as pd


def to_csv(table: pd.DataFrame) -> bytes:
    """A table as CSV that gives every text back (see `as_it_was`) and holds no formula."""
    return formula_safe(table).to_csv(index=False, quoting=csv.QUOTE_NONNUMERIC, lineterminator="\n").encode()


def as_it_was(cell: str) -> str:
    """A text of a CSV without the apostrophe of `formula_safe`."""
    return cell.removeprefix("'")


def formula_safe(table: pd.DataFrame) -> pd.DataFrame:
    """The table with an apostrophe before texts that a spreadsheet would take for a formula (CWE-1236), or
    that begin with one.
    """
    begins = ("=", "+", "-", "@", "\t", "\r", "\n", "＝", "＋", "－", "＠", "'")
    return table.map(lambda cell: "'" + cell if isinstance(cell, str) and cell.startswith(begins) else cell)

"""JSON that is nothing but nested lists, as `json.dump(routed_experts.tolist(), file)` writes it; no tool's
own format.

Three deep it is [token][layer][k], four deep a list of requests, two deep counts [layer][expert]. The
outermost list may be left out and its members stand a line each (JSON lines). An object with a list of counts
for each layer ({"3": [4, 0, 1], ...}) is read too.
"""

from __future__ import annotations

import re
from typing import Any

import numpy as np

from moeviz.files.importers.arrays import from_arrays
from moeviz.files.importers.atlas import add_trace, depth
from moeviz.files.importers.collect import Routes
from moeviz.files.importers.counting import counted_rows
from moeviz.files.importers.names import About
from moeviz.files.importers.registry import Found, Options, importer
from moeviz.files.importers.routed import finish
from moeviz.files.importers.source import Source

NAME = "lists"
_LINES = re.compile(rb"\[[\d\s,.eE+-]*\][^\S\n]*\n\s*\[")
_LAYER = re.compile(r'\{\s*"(?:layer_?)?\d+"\s*:\s*\[\s*-?[\d.]')
_NUMBER = re.compile(r"(?:layer_?)?(\d{1,6})")


def sniff(source: Source) -> int:
    """A list in a list, a list of numbers on each line, or an object of a layer's numbers."""
    if source.head[:1] == b"[":
        return 2 * (source.head[1:].lstrip()[:1] == b"[" or bool(_LINES.match(source.head)))
    return 2 * bool(_LAYER.match(source.head[:200].decode("ascii", "replace")))


@importer(
    NAME, "JSON or JSON lines of nested lists: routes [token][layer][k], or counts [layer][expert]", sniff
)
def read(source: Source, options: Options) -> Found:
    """Raises TraceError."""
    value = source.lists()
    if isinstance(value, dict):
        return _counts_by_layer(source, options, value)
    deep = depth(value)
    if deep < 4 and (array := _rectangular(value)) is not None:
        return from_arrays(source, options, {"": array}, NAME)
    if deep not in (3, 4):
        raise source.error(
            f"holds lists {deep} deep; expected [token][layer][k], a list of those, or counts "
            "[layer][expert]."
        )
    routes, said = Routes(source), About()
    for number, request in enumerate(value if deep == 4 else [value]):
        place = f"request {number}"
        if not isinstance(request, list) or not request:
            raise source.error(f"{place} is {str(request)[:40]!r}; expected a list of tokens.")
        list(add_trace(source, options, routes, said, place, {"routing": request}, "routing", place))
    routed = routes.routed()
    routed.layers = ()  # places in a list number no layers
    return finish(source, options, routed, NAME)


def _rectangular(value: list[Any]) -> Any:
    try:
        found = np.array(value)
    except ValueError:
        return None
    return found if found.dtype.kind in "iuf" else None


def _counts_by_layer(source: Source, options: Options, value: dict[str, Any]) -> Found:
    rows: dict[tuple[int, int], float] = {}
    widths: set[int] = set()
    for name, counts in value.items():
        number = _NUMBER.fullmatch(name)
        if number is None or not isinstance(counts, list) or not counts:
            raise source.error(
                f"{name[:40]!r} is {str(counts)[:40]!r}; expected a layer's number and counts."
            )
        if not all(type(one) in (int, float) and abs(one) < 2**62 for one in counts):
            raise source.error(f"the counts of {name[:40]!r} are not all numbers that count uses.")
        if (int(number[1]), 0) in rows:
            raise source.error(f"layer {number[1]} stands twice.")
        rows |= {(int(number[1]), expert): float(one) for expert, one in enumerate(counts)}
        widths.add(len(counts))
    if len(widths) > 1:
        raise source.error(
            f"its lists have {min(widths)} to {max(widths)} numbers; expected a count of every expert of a "
            "layer in each. Lists of chosen experts are read as [token][layer][k]."
        )
    line = "the list under each number was taken for a layer's counts, one of each expert"
    return counted_rows(source, rows, options.experts or max(widths), NAME, [line])

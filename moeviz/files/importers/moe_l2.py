"""moe-l2's text: lines `EXPERT|L3|T1: [4, 7]` of layer 3 and token 1, among other lines of a log."""

from __future__ import annotations

import re

from moeviz.files.importers.collect import Routes
from moeviz.files.importers.registry import Found, Options, importer
from moeviz.files.importers.routed import finish
from moeviz.files.importers.source import Source
from moeviz.files.importers.values import expert_list, layer_number, whole

NAME = "moe-l2"
_LINE = re.compile(r"EXPERT\|L(\d{1,9})\|T(\d{1,9}):\s*\[([\d,\s-]*)\]\s*")
_ONE = re.compile(rb"EXPERT\|L\d+\|T\d+:\s*\[[\d,\s-]*\]\s*$", re.MULTILINE)  # ends its line, as in a log


@importer(NAME, "moe-l2's EXPERT lines", lambda source: 2 * bool(_ONE.search(source.content[:65_536])))
def read(source: Source, options: Options) -> Found:
    """Raises TraceError."""
    routes, others = Routes(source), 0
    for number, line in source.lines():
        place, start = f"line {number}", line.find("EXPERT|L")
        if start < 0:
            others += 1
            continue
        found = _LINE.match(line, start)
        parts = [part.strip() for part in found[3].split(",") if part.strip()] if found else []
        if found is None or not all(part.removeprefix("-").isdecimal() and len(part) < 10 for part in parts):
            raise source.error(f"{place} is {line[start : start + 60]!r}; expected EXPERT|L3|T1: [4, 7].")
        routes.add(
            place,
            "",
            whole(source, int(found[2]), place, "token"),
            layer_number(source, int(found[1]), place),
            expert_list(source, [int(part) for part in parts], place, "the list"),
            None,
        )
    routed = routes.routed()
    if others:
        routed.report.append(f"{others:,} other lines of the log are not used")
    return finish(source, options, routed, NAME)

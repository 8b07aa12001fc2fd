"""nunspark's JSON lines: `{"t": 17, "layer": 3, "fired": [4, 7], "batch_tokens": 1}`, a line for each call of
a layer.

`t` counts calls. Where batch_tokens is more than 1, `fired` is the union over a batch, which does not say
what a token used: such calls are left out and counted.
"""

from __future__ import annotations

from moeviz.files.importers.calls import Calls
from moeviz.files.importers.names import unused
from moeviz.files.importers.objects import json_lines
from moeviz.files.importers.registry import Found, Options, importer
from moeviz.files.importers.routed import finish
from moeviz.files.importers.source import Source
from moeviz.files.importers.values import expert_list, layer_number, whole
from moeviz.words import many

NAME = "nunspark"
_KEYS = ("t", "layer", "fired", "batch_tokens")


def sniff(source: Source) -> int:
    """By its keys."""
    return 3 * any(isinstance(one, dict) and one.keys() >= {"layer", "fired"} for one in source.peek())


@importer(NAME, "nunspark's calls", sniff)
def read(source: Source, options: Options) -> Found:
    """Raises TraceError."""
    calls, count, unions = Calls(source), 0, 0
    left: dict[str, None] = {}
    for place, row in json_lines(source):
        if "fired" not in row or "layer" not in row:
            raise source.error(f"{place} lacks layer or fired; its keys are {', '.join(row)[:80]}.")
        left.update(dict.fromkeys(key for key in row if key not in _KEYS))
        if whole(source, row.get("batch_tokens", 1), place, "batch_tokens") != 1:
            unions += 1
            continue
        count += 1
        ids = expert_list(source, row["fired"], place, "fired")
        calls.add(place, layer_number(source, row["layer"], place), [ids])
    if not count:
        raise source.error(
            f"holds {unions:,} calls of several tokens each: `fired` is their union, which does not say "
            "what a token used. Record decode, one token at a time."
        )
    routed = calls.routed()
    routed.report.append("tokens are not numbered: one ends where a layer comes again")
    if unions:
        routed.report.append(
            f"left out {many(unions, 'call')} of several tokens: `fired` is their union, not a token's choice"
        )
    routed.report += unused(left, "keys")
    return finish(source, options, routed, NAME)

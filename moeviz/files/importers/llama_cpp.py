"""llama.cpp's expert profile, as people patch it in: CSV, mostly without a head, of tensor, expert and uses:
`blk.3.ffn_gate_exps.weight,0,4`.

These are counts. Logs of selections (layer_id, expert_ids) are read as tables.
"""

from __future__ import annotations

import re

from moeviz.core.trace import MAX_EXPERTS, MAX_LAYERS
from moeviz.files.importers.counting import counted_rows
from moeviz.files.importers.registry import Found, Options, importer
from moeviz.files.importers.source import Source

NAME = "llama-cpp-profile"
_LINE = re.compile(
    r"blk\.(\d{1,6})\.(ffn_\w{1,20}_exps)(?:\.weight)?\s*[,;\t]\s*(\d{1,6})\s*[,;\t]\s*(\d{1,15})\s*"
)

_HEAD = re.compile(
    rb"(?:[\w ]{1,40}(?:[,;\t][\w ]{1,40}){2}\r?\n)?blk\.\d+\.ffn_\w+_exps"
)  # with a head or without


@importer(
    NAME,
    "llama.cpp's expert profile (counts)",
    lambda source: 3 * bool(_HEAD.match(source.head)),
)
def read(source: Source, options: Options) -> Found:
    """Raises TraceError."""
    counts: dict[
        str, dict[tuple[int, int], float]
    ] = {}  # of each kind of tensor: gate, up and down count the same uses
    for number, line in source.lines():
        found = _LINE.fullmatch(line)
        if found is None and number == 1 and "blk." not in line:
            continue  # names of columns
        if found is None or int(found[1]) >= 4 * MAX_LAYERS or int(found[3]) >= MAX_EXPERTS:
            raise source.error(f"line {number} is {line[:60]!r}; expected blk.3.ffn_gate_exps.weight,0,4.")
        own = counts.setdefault(found[2], {})
        if (key := (int(found[1]), int(found[3]))) in own:
            raise source.error(f"line {number} counts expert {key[1]} of layer {key[0]} twice.")
        own[key] = int(found[4])
    first = next(iter(counts))
    report = (
        [f"counts of {first} are taken; those of {', '.join(list(counts)[1:])} count the same uses"]
        if len(counts) > 1
        else []
    )
    return counted_rows(source, counts[first], options.experts, NAME, report)

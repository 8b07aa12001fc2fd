"""Wide tables: which columns hold the experts of one row, by their names.

Knows names only: neither cells nor what becomes of them.

    wide_columns(["token", "expert_0", "expert_1"], "expert")      # ["expert_0", "expert_1"]
"""

from __future__ import annotations

import re
from collections.abc import Sequence

from moeviz.files.importers.names import plain

_WIDE = {
    "expert": re.compile(
        r"(?:(?:e|expert|experts|expert_id|topk|topk_id|top|choice|selected)_?)?(\d{1,4})"
        r"|top_?(\d{1,4})_(?:expert|expert_id|id)"
    ),
    "weight": re.compile(
        r"(?:w|weight|weights|prob|score|gate|topk_weight)_?(\d{1,4})"
        r"|top_?(\d{1,4})_(?:weight|prob|score|gate)"
    ),
}
_OF_LAYER = re.compile(  # layer_3, or layer_3_expert_0
    r"(?:l|layer|layers|blk|block)_?(\d{1,6})(?:[_.]?(?:e|expert|top|topk|k|rank|choice|slot)_?(\d{1,4}))?"
)


def wide_columns(names: Sequence[str], what: str) -> list[str]:
    """Columns expert_0, expert_1, ... or weight_0, ... in their order; none where they do not count from 0 or
    1.
    """
    numbered = {int(m[1] or m[2]): name for name in names if (m := _WIDE[what].fullmatch(plain(name)))}
    if not numbered or sorted(numbered) not in (
        list(range(len(numbered))),
        list(range(1, len(numbered) + 1)),
    ):
        return []
    return [numbered[number] for number in sorted(numbered)]


def layer_columns(names: Sequence[str]) -> dict[int, list[str]]:
    """Columns of each layer, layer_3 with lists or layer_3_expert_0, layer_3_expert_1, ..., where a row is a
    token; empty where there are none.
    """
    found: dict[int, dict[int, str]] = {}
    for name in names:
        if m := _OF_LAYER.fullmatch(plain(name)):
            found.setdefault(int(m[1]), {})[int(m[2] or -1)] = name
    widths = {(-1 in own, len(own) if -1 in own else 0) for own in found.values()}
    if len(found) < 2 or len(widths) > 1 or widths & {(True, n) for n in range(2, len(names) + 1)}:
        return {}
    return {layer: [own[rank] for rank in sorted(own)] for layer, own in sorted(found.items())}

"""Tables for a terminal, drawn with rich, which is loaded when the first one is."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from rich.console import JustifyMethod

    from moeviz.core.settings import Settings
    from moeviz.numbers.medians import Repeated

WIDTH = 120  # where the output is no terminal
WORD = 30  # characters of a word that is not broken


def table(columns: Sequence[str], rows: Sequence[Sequence[str]], title: str = "") -> None:
    """Prints rows; every column but the first to the right, lines broken between words where they have to be.
    Texts of files do nothing to the terminal.
    """
    from rich import box
    from rich.console import Console
    from rich.table import Table

    from moeviz.words import harmless

    console = Console(soft_wrap=False, highlight=False, markup=False)
    if not console.is_terminal:
        console.width = WIDTH
    cells = [tuple(map(harmless, row)) for row in (columns, *rows)]
    gap = 3  # a space between columns, and one at both sides of it where there is room
    widths = _widths(cells, console.width - gap * len(columns))
    if sum(widths) > console.width - gap * len(columns):
        gap = 1
        widths = _widths(cells, console.width - gap * (len(columns) + 1))
    shown = Table(
        box=box.SIMPLE_HEAD,
        title=title or None,
        title_justify="left",
        pad_edge=False,
        padding=(0, (gap - 1) // 2),
    )
    for number, name in enumerate(cells[0]):
        justify: JustifyMethod = "right" if number else "left"
        shown.add_column(name, justify=justify, overflow="fold", width=widths[number])
    for row in cells[1:]:
        shown.add_row(*row)
    console.print(shown)


def _widths(cells: Sequence[Sequence[str]], room: int) -> list[int]:
    """Characters for each column: what it has, and where that is more than `room` in all, as much less as
    leaves the words of the widest columns whole. No column is narrower than its longest word, unless that is
    longer than `WORD`.
    """
    from rich.cells import cell_len

    wanted = [max(map(cell_len, column)) for column in zip(*cells, strict=True)]
    least = [
        max((min(cell_len(word), WORD) for cell in column for word in cell.split()), default=1)
        for column in zip(*cells, strict=True)
    ]
    while sum(wanted) > room and (wide := [n for n, width in enumerate(wanted) if width > least[n]]):
        wanted[max(wide, key=wanted.__getitem__)] -= 1
    return wanted


def comparison(
    measured: Sequence[tuple[Settings, Repeated]], checks: Sequence[tuple[bool | None, bool]]
) -> None:
    """What was measured, a row per settings.

    checks: whether logits are transformers' own (None: not verified), decisions the replay's.
    """
    from moeviz import words

    rows = []
    for (one, found), (same, equal) in zip(measured, checks, strict=True):
        median, least, most = found.median, found.least, found.most
        spread = ""
        if least and most and least.tokens_per_second is not None and most.tokens_per_second is not None:
            spread = f" [{words.digits(least.tokens_per_second)} to {words.digits(most.tokens_per_second)}]"
        rows.append(
            (
                one.label,
                words.per_second(median.times).removesuffix(" tokens/s") + spread,
                words.milliseconds(median.times.stall_ms_per_token if median.times else None),
                words.percent(median.decode.hit_ratio),
                words.size(median.moved.total),
                words.memory(median.fast_tier_bytes),
                {True: "same", False: "DIFFER", None: "-"}[same],
                "equal" if equal else "DIFFERS",
            )
        )
    table(("settings", "tokens/s", "stall", "hit ratio", "moved", "memory", "logits", "replay"), rows)

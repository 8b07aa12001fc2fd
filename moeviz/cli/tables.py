"""Tables for a terminal, drawn with rich, which is loaded when the first one is."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from moeviz.core.settings import Settings
    from moeviz.numbers.medians import Repeated

WIDTH = 120  # where the output is no terminal


def table(columns: Sequence[str], rows: Sequence[Sequence[str]], title: str = "") -> None:
    """Prints rows; every column but the first to the right. Texts of files do nothing to the terminal."""
    from rich import box
    from rich.console import Console
    from rich.table import Table

    from moeviz.words import harmless

    console = Console(soft_wrap=False, highlight=False, markup=False)
    if not console.is_terminal:
        console.width = WIDTH
    shown = Table(box=box.SIMPLE_HEAD, title=title or None, title_justify="left", pad_edge=False)
    for number, name in enumerate(columns):
        shown.add_column(harmless(name), justify="right" if number else "left", overflow="fold")
    for row in rows:
        shown.add_row(*map(harmless, row))
    console.print(shown)


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

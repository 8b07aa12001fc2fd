"""Small pictures as inline SVG, made of numbers: for the page, in light and dark, and for paper. No script,
no library, no font.

Ink is the text's own colour (`currentColor`), and marks differ in shape as well as in colour, so that a
black-and-white print says the
same. Every picture carries a sentence for those who cannot see it.

    bars([("LRU", 0.76), ("LFU (counts kept)", 0.73)], "share of needs that were hits")
"""

from __future__ import annotations

import html
from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from moeviz.amounts import digits, percent
from moeviz.charts.style import COMPUTE, OTHER, SERIES, STALL
from moeviz.words import points

WIDTH = 416  # of every picture, in its own units; a page scales it, on a phone to 358 px: text of 14 is 12 px
LETTER = 7.5  # width of a letter at the size of every text, with room for wider ones
DASHES = ("", "7 4", "2 3", "9 3 2 3")
HIT_COLOR, MISS_COLOR, KEPT_COLOR = "#009E73", "#D55E00", "#56B4E9"
DARK_INK, LIGHT_INK = "#000000", "#FFFFFF"  # on a coloured ground


def page(height: float, said: str, *parts: str) -> str:
    """A picture of WIDTH x height around its parts; `said` is what it shows, in a sentence."""
    return (
        f'<svg xmlns="http://www.w3.org/2000/svg" role="img" viewBox="0 0 {WIDTH} {height:.0f}" width="100%" '
        f'aria-label="{html.escape(said)}" font-family="system-ui, sans-serif" font-size="14" '
        f'fill="currentColor">{"".join(parts)}</svg>'
    )


def text(
    x: float,
    y: float,
    said: str,
    anchor: str = "start",
    size: int = 14,
    bold: bool = False,
    ink: str = "currentColor",
) -> str:
    """A line of text; `anchor`: start, middle or end."""
    weight = ' font-weight="700"' if bold else ""
    return (
        f'<text x="{x:.1f}" y="{y:.1f}" text-anchor="{anchor}" font-size="{size}"{weight} fill="{ink}">'
        f"{html.escape(said)}</text>"
    )


def box(
    x: float, y: float, wide: float, high: float, fill: str = "none", stroke: str = "currentColor"
) -> str:
    """A rectangle."""
    return (
        f'<rect x="{x:.1f}" y="{y:.1f}" width="{max(wide, 0):.1f}" height="{max(high, 0):.1f}" rx="3" '
        f'fill="{fill}" stroke="{stroke}" stroke-width="1.5"/>'
    )


def rule(x1: float, y1: float, x2: float, y2: float, dash: str = "", color: str = "currentColor") -> str:
    """A straight line."""
    return (
        f'<line x1="{x1:.1f}" y1="{y1:.1f}" x2="{x2:.1f}" y2="{y2:.1f}" stroke="{color}" stroke-width="1.5" '
        f'stroke-dasharray="{dash}"/>'
    )


def bars(
    rows: Sequence[tuple[str, float | None]],
    what: str,
    *,
    most: float = 1.0,
    unit: str = "%",
    marks: Sequence[tuple[str, float]] = (),
    series: Sequence[int] = (0, 1, 2),
) -> str:
    """Bars from left to right, a row each; of a row without a value a question mark stands. `marks`: named
    lines across the rows. `series`: whose colour the rows have, in turn: 0 and 1 are the boards. A number
    stands beside its bar, or in it where such a line would cross it.

    With unit "%" or "points" values are shares, and with none they are counts.
    """
    numbers = [number_of(value, unit) for _, value in rows if value is not None]
    left, high = 138.0, 34.0
    right = WIDTH - 14.0 - LETTER * max(4, *map(len, numbers))
    scale = (right - left) / (most or 1.0)
    base = 26 + high * len(rows)
    parts = [text(0, 16, what, bold=True)]
    for number, (name, value) in enumerate(rows):
        y = 26 + number * high
        parts.append(text(left - 8, y + 20, name, "end"))
        if value is None:
            parts += [box(left, y + 4, right - left, high - 10), text(left + 12, y + 20, "?", bold=True)]
            continue
        end, said = left + value * scale, number_of(value, unit)
        colour = series[number % len(series)]
        parts.append(box(left, y + 4, value * scale, high - 10, SERIES[colour]))
        if any(-4 < left + at * scale - end < 10 + LETTER * len(said) for _, at in marks):
            ink = LIGHT_INK if colour == 0 else DARK_INK
            parts.append(text(end - 8, y + 20, said, "end", ink=ink))
        else:
            parts.append(text(end + 6, y + 20, said))
    for number, (name, at) in enumerate(marks):
        x, y = left + at * scale, base + 16 + 17 * number
        parts.append(rule(x, 24, x, y - 4, DASHES[1 + number % 3]))
        anchor = "end" if x > WIDTH / 2 else "start"
        parts.append(text(x + (-6 if anchor == "end" else 6), y, name, anchor))
    said = "; ".join(f"{name}: {'?' if value is None else number_of(value, unit)}" for name, value in rows)
    said += "".join(f"; {name} at {number_of(at, unit)}" for name, at in marks)
    return page(base + 10 + 17 * len(marks), f"{what}. {said}", *parts)


def number_of(value: float, unit: str) -> str:
    """A number with its unit; with "%" or "points" the value is a share, with none a count."""
    match unit:
        case "%":
            return percent(value, 0)
        case "points":
            return points(value)
        case "":
            return f"{value:,.0f}"
    return f"{digits(value)} {unit}"


def curves(
    x: Sequence[int],
    lines: Sequence[tuple[str, Sequence[float]]],
    label: str,
    what: str,
    *,
    mark: tuple[int, str] | None = None,
    guess: tuple[int, str] | None = None,
    hidden: bool = False,
) -> str:
    """Shares (0 to 1) over x. `hidden`: only the first and the last point of each line. `mark`: a named
    place on x. `guess`: the place on x that somebody predicted, and who, with its point on the first line.
    """
    left, right, top, bottom = 50.0, WIDTH - 12.0, 34.0, 218.0
    low = int(min(min(values) for _, values in lines) * 10) / 10

    def at(where: float, share: float) -> tuple[float, float]:
        across = left + (where - x[0]) / max(x[-1] - x[0], 1) * (right - left)
        return across, bottom - (share - low) / (1 - low or 1) * (bottom - top)

    parts = [text(0, 16, what, bold=True)]
    for share in np.linspace(low, 1, 3):
        y = at(x[0], float(share))[1]
        parts += [rule(left, y, right, y, "1 5"), text(left - 10, y + 5, percent(share, 0), "end")]
    every = max(1, len(x) // 8)
    parts += [text(at(one, low)[0], bottom + 18, str(one), "middle") for one in x[::every]]
    parts.append(text(right, bottom + 36, label, "end"))
    across, row = 0.0, bottom + 54
    for number, (name, values) in enumerate(lines):
        if across + 36 + LETTER * len(name) > WIDTH:
            across, row = 0.0, row + 20
        color, dash = SERIES[number % len(SERIES)], DASHES[number % 4]
        points = [at(one, value) for one, value in zip(x, values, strict=True)]
        if hidden:
            ends = (points[0], points[-1])
            parts += [f'<circle cx="{a:.1f}" cy="{b:.1f}" r="6" fill="{color}"/>' for a, b in ends]
        else:
            path = " ".join(f"{a:.1f},{b:.1f}" for a, b in points)
            parts.append(
                f'<polyline points="{path}" fill="none" stroke="{color}" stroke-width="3" '
                f'stroke-dasharray="{dash}"/>'
            )
        parts.append(rule(across, row, across + 30, row, dash, color))
        parts.append(text(across + 36, row + 5, name))
        across += 60 + LETTER * len(name)
    if mark is not None:
        place = at(mark[0], low)[0]
        parts += [rule(place, top, place, bottom, "4 4"), text(place + 6, bottom - 8, mark[1])]
    if guess is not None:
        place, height = at(guess[0], lines[0][1][list(x).index(guess[0])])
        side, away = ("end", -6) if place > WIDTH / 2 else ("start", 6)
        parts += [
            rule(place, top - 16, place, bottom),
            text(place + away, top - 6, guess[1], side, bold=True),
        ]
        parts.append(
            f'<circle cx="{place:.1f}" cy="{height:.1f}" r="7" fill="none" stroke="currentColor" '
            'stroke-width="3"/>'
        )
    ends_said = "; ".join(
        f"{name} from {percent(values[0], 0)} to {percent(values[-1], 0)}" for name, values in lines
    )
    told = "".join(f"; {one[1]} at {one[0]}" for one in (mark, guess) if one is not None)
    return page(row + 14, f"{what}, over {label}: {ends_said}{told}", *parts)


def raster(cells: NDArray[np.bool_], what: str, across: str, mark: tuple[int, str] | None = None) -> str:
    """Which experts (rows) are used by which tokens (columns). cells: [E, tokens]; `mark`: a named column."""
    experts, tokens = cells.shape
    left, top, wide = 66.0, 30.0, (WIDTH - 70.0) / tokens
    high = min(20.0, 220.0 / experts)
    bottom = top + high * experts
    parts = [text(0, 16, what, bold=True)]
    parts += [
        text(left - 8, top + high * (row + 0.75), f"expert {row}" if experts < 12 else str(row), "end")
        for row in range(experts)
    ]
    marks = "".join(
        f"M{left + column * wide:.1f} "
        f"{top + row * high + 1.5:.1f}h{max(wide - 1, 1):.1f}v{high - 3:.1f}h-{max(wide - 1, 1):.1f}z"
        for row, column in np.argwhere(cells)
    )
    parts.append(f'<path d="{marks}" fill="{SERIES[0]}"/>')
    parts.append(box(left, top, wide * tokens, high * experts))
    parts.append(text(WIDTH - 4, bottom + 17, across, "end"))
    if mark is not None:
        x = left + mark[0] * wide
        parts += [
            rule(x, top - 4, x, bottom + 6, "5 3"),
            text(left, bottom + 17, f"dashed: {mark[1]}"),
        ]
    used = ", ".join(f"expert {row} {int(count)} times" for row, count in enumerate(cells.sum(1)))
    return page(bottom + 26, f"{what}: {used}", *parts)


PARTS = {"rest of the model": OTHER, "experts": COMPUTE, "waiting": STALL}  # of a token's time, as elsewhere


def stacks(rows: Sequence[tuple[str, Sequence[tuple[str, float]]]], what: str, unit: str) -> str:
    """Bars made of PARTS, a row each."""
    names = list(dict.fromkeys(name for _, parts in rows for name, _ in parts))
    most = max(sum(value for _, value in parts) for _, parts in rows) or 1.0
    left, right, high = 138.0, WIDTH - 58.0, 36.0
    drawn = [text(0, 16, what, bold=True)]
    for number, (name, parts) in enumerate(rows):
        x, y = left, 26 + number * high
        drawn.append(text(left - 8, y + 21, name, "end"))
        for part, value in parts:
            wide = value / most * (right - left)
            drawn.append(box(x, y + 4, wide, high - 10, PARTS[part]))
            if wide > 40:
                drawn.append(text(x + wide / 2, y + 21, digits(value), "middle", ink=DARK_INK))
            x += wide
        drawn.append(text(x + 6, y + 21, number_of(sum(value for _, value in parts), unit)))
    y, x = 34 + high * len(rows), 0.0
    for name in names:
        if x + 20 + LETTER * len(name) > WIDTH:
            x, y = 0.0, y + 20
        drawn += [
            box(x, y, 14, 14, PARTS[name]),
            text(x + 20, y + 12, name),
        ]
        x += 40 + LETTER * len(name)
    said = "; ".join(
        f"{name}: " + ", ".join(f"{part} {number_of(value, unit)}" for part, value in parts)
        for name, parts in rows
    )
    return page(y + 24, f"{what}. {said}", *drawn)

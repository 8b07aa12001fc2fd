"""What a notebook shows of a trace or a run: its numbers, and one small curve as plain SVG.

No script, no library, no network.

Everything that comes from a file is escaped.

    trace._repr_html_()
"""

from __future__ import annotations

import html
from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from moeviz import words
from moeviz.amounts import percent
from moeviz.core.run import Run
from moeviz.core.settings import Settings
from moeviz.core.trace import Trace
from moeviz.numbers import metrics
from moeviz.numbers.curves import curve

WIDTH, HEIGHT, LEFT, BOTTOM = 420, 150, 36, 18  # of the picture and its margins, in pixels
MOST_EVENTS = 60_000  # of a trace whose curves are computed while a cell waits
WINDOW = 16  # forward passes that a point of a run's curve is the mean of
_LINES = (
    ("#1f5fa8", ""),
    ("#c2571a", "6 3"),
    ("#666666", "2 3"),
)  # told apart by dashes, not by colour alone


def trace(found: Trace) -> str:
    """Shape, prompt and origin of a trace, and its hit ratio over slots for lru, lfu and the bound."""
    if found.layers * len(found.passes()) > MOST_EVENTS:
        return _page(
            "Trace", words.trace(found), "<p>The trace is too long for a curve in a cell: use mv.curve.</p>"
        )
    curves = [curve(found, Settings(policy, found.k)) for policy in ("lru", "lfu", "belady")]
    lines = [(words.policy_name(one.settings.policy), one.hit_ratio) for one in curves]
    picture = _svg(lines, curves[0].slots, "slots per MoE layer", "hit ratio")
    return _page("Trace", words.trace(found), picture)


def run(found: Run) -> str:
    """Settings and numbers of a run, and its hit ratio as it goes."""
    ratio = metrics.hit_ratio_over_time(found)
    window = min(WINDOW, len(ratio))
    smooth = np.convolve(ratio, np.full(window, 1 / window), "valid")
    passes = np.arange(window - 1, len(ratio))
    picture = _svg(
        [(words.label(found.settings), smooth)], passes, "forward pass", f"hit ratio, mean of {window} passes"
    )
    return _page(f"Run, {'measured' if found.measured else 'replayed'}", words.about(found), picture)


def _page(title: str, rows: Sequence[tuple[str, str]], picture: str) -> str:
    cells = "".join(
        f'<tr><th style="text-align:left">{html.escape(name)}</th>'
        f'<td style="text-align:left">{html.escape(text[:200])}</td></tr>'
        for name, text in rows
    )
    return f"<div><b>{html.escape(title)}</b><table>{cells}</table>{picture}</div>"


def _svg(
    lines: Sequence[tuple[str, NDArray[np.float64]]], x: NDArray[np.int64], label: str, title: str
) -> str:
    """Lines of shares (0 to 1) over x, labelled at the bottom; a sentence for those who cannot see them."""
    least = min(float(y.min()) for _, y in lines)
    low, high = int(least * 10) / 10, 1.0
    across = (x - x[0]) / max(int(x[-1] - x[0]), 1) * (WIDTH - LEFT - 8) + LEFT
    said = "; ".join(f"{name} from {words.percent(y[0])} to {words.percent(y[-1])}" for name, y in lines)
    parts = [
        f'<svg role="img" width="{WIDTH}" height="{HEIGHT + 18}" viewBox="0 0 {WIDTH} {HEIGHT + 18}" '
        'font-family="sans-serif" font-size="11" fill="currentColor">',
        f"<title>{html.escape(f'{title} over {label}: {said}')}</title>",
    ]
    for share in (low, (low + high) / 2, high):
        y = _down(share, low, high)
        parts.append(
            f'<line x1="{LEFT}" x2="{WIDTH}" y1="{y:.1f}" y2="{y:.1f}" stroke="#bbbbbb" stroke-width=".5"/>'
        )
        parts.append(f'<text x="{LEFT - 4}" y="{y + 4:.1f}" text-anchor="end">{percent(share, 0)}</text>')
    for (name, shares), (color, dash) in zip(lines, _LINES, strict=False):
        points = " ".join(
            f"{a:.1f},{_down(float(b), low, high):.1f}" for a, b in zip(across, shares, strict=True)
        )
        parts.append(
            f'<polyline points="{points}" fill="none" stroke="{color}" stroke-width="2" '
            f'stroke-dasharray="{dash}"><title>{html.escape(name)}</title></polyline>'
        )
    legend = ", ".join(
        f'<tspan fill="{color}">{html.escape(name)}</tspan>'
        for (name, _), (color, _) in zip(lines, _LINES, strict=False)
    )
    parts.append(f'<text x="{LEFT}" y="{HEIGHT}">{x[0]}</text>')
    parts.append(f'<text x="{WIDTH - 4}" y="{HEIGHT}" text-anchor="end">{x[-1]} {html.escape(label)}</text>')
    parts.append(f'<text x="{LEFT}" y="{HEIGHT + 14}">{html.escape(title)}: {legend}</text></svg>')
    return "".join(parts)


def _down(share: float, low: float, high: float) -> float:
    return 6 + (high - share) / (high - low or 1) * (HEIGHT - BOTTOM - 10)

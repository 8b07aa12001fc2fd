"""A run as one HTML page that any browser opens without a network: numbers, charts, tables, text.

Path("report.html").write_text(report(trace, run))
"""

from __future__ import annotations

import base64
import hashlib
import html
from collections.abc import Iterator
from dataclasses import replace
from typing import Any

from moeviz import words
from moeviz.charts import Chart, board, curves, hits, shares, style, times, usage
from moeviz.core.run import Run
from moeviz.core.settings import Settings
from moeviz.core.trace import Trace
from moeviz.numbers import metrics, timing
from moeviz.numbers.curves import bounds, curve, tells_gap

MOST_EVENTS = 60_000  # of a trace whose curves over all slot counts are drawn
MOST_TEXT = 2_000  # tokens shown
TERMS = (  # that the page uses and explains at its end
    *(
        "MoE layer",
        "expert",
        "router",
        "forward pass",
        "prefill",
        "decode",
        "slot",
        "access",
        "hit",
        "late hit",
    ),
    *(
        "miss",
        "hit ratio",
        "whole-token hit",
        "cold",
        "capacity",
        "collision",
        "pollution",
        "eviction",
        "policy",
        "bound",
        "belady",
        "gap captured",
    ),
    *("pre-fetch", "useful", "wasted", "stall", "measured", "replayed", "recorded"),
)
_CONFIG = '{"displaylogo":false,"responsive":true,"showSendToCloud":false,"plotlyServerURL":""}'
_DRAW = f"""
for (const one of document.querySelectorAll("script[type='application/json']")) {{
  const figure = JSON.parse(one.textContent);
  Plotly.newPlot(one.previousElementSibling, figure.data, figure.layout, {_CONFIG});
}}
"""
_STYLE = """
:root { color-scheme: light; }
body {
  font: 17px/1.5 system-ui, sans-serif; max-width: 64rem; margin: 2rem auto; padding: 0 1rem;
  color: #1a1a1a; background: #fff;
}
h1 { font-size: 1.9rem; } h2 { font-size: 1.35rem; margin: 2.2rem 0 0; }
table { border-collapse: collapse; margin: .8rem 0; font-variant-numeric: tabular-nums; }
th, td {
  border-bottom: 1px solid #ddd; padding: .3rem .9rem .3rem 0; text-align: left; vertical-align: top;
  overflow-wrap: anywhere;
}
.kind {
  font-size: .8rem; background: #eee; border-radius: .6rem; padding: .1rem .6rem; margin-left: .6rem;
  font-weight: 400; vertical-align: middle;
}
.table { max-height: 24rem; overflow: auto; }
.text { white-space: pre-wrap; overflow-wrap: anywhere; }
.text span { border-bottom: 3px solid; }
"""


def report(trace: Trace, run: Run) -> str:
    """HTML with Plotly inside it. Everything that comes from the trace is escaped; the page's policy lets
    only its own two scripts run.
    """
    from plotly.offline import get_plotlyjs

    parts = "".join(_sections(trace, run))
    plotly = get_plotlyjs()
    allowed = " ".join(
        f"'sha256-{base64.b64encode(hashlib.sha256(script.encode()).digest()).decode()}'"
        for script in (plotly, _DRAW)
    )
    policy = f"default-src 'none'; script-src {allowed}; style-src 'unsafe-inline'; img-src data: blob:"
    return (
        '<!doctype html><html lang="en"><head><meta charset="utf-8">'
        f'<meta http-equiv="Content-Security-Policy" content="{policy}">'
        '<meta name="viewport" content="width=device-width">'
        f"<title>moeviz: {_text(words.label(run.settings))}</title><style>{_STYLE}</style>"
        f"<script>{plotly}</script></head><body>{parts}<script>{_DRAW}</script></body></html>"
    )


def _sections(trace: Trace, run: Run) -> Iterator[str]:
    kind = "measured" if run.measured else "replayed"
    model = _text(trace.model or "an unknown model")
    yield f"<h1>What did the cache do?</h1><p>{_text(words.label(run.settings))} on a trace of {model}.</p>"
    yield _table(words.trace(trace))
    yield f"<h2>Numbers{_kind(kind)}</h2>" + _table(numbers(trace, run))
    named = [(words.label(run.settings), run)]
    yield _chart(hits.over_time(named))
    if timing.stack(run) is not None:
        yield _chart(times.where_time_goes([(words.label(run.settings), [run])]))
    yield _chart(usage.whole(trace))
    yield _chart(shares.skew(trace))
    yield _chart(shares.reuse(trace))
    if trace.layers * len(trace.passes()) <= MOST_EVENTS:
        yield _curves(trace, run.settings)
    else:
        yield f"<p>Curves over slot counts are left out of a trace of more than {MOST_EVENTS:,} events.</p>"
    yield _as_text(trace, run)
    yield "<h2>What the words mean</h2>" + _table(words.glossary(TERMS))


def numbers(trace: Trace, run: Run) -> list[tuple[str, str]]:
    """The numbers that people ask for first."""
    settings, tells = run.settings, tells_gap(run.settings)
    known = bounds(trace, settings, None, gap=tells and not settings.needs_calibration)  # it may be elsewhere
    captured = known.gap_captured if tells else None
    return words.numbers(metrics.summary(run), known.belady_hit_ratio, settings.rule, captured)


def _curves(trace: Trace, settings: Settings) -> str:
    plain = Settings(
        settings.policy if not settings.baseline else "lru",
        trace.k,
        "layer",
        calibration=settings.calibration,
    )
    named = [
        plain,
        *(replace(plain, policy=policy) for policy in ("lru", "lfu", "belady") if policy != plain.policy),
    ]
    known = [one for one in named if not one.needs_calibration]  # its calibration trace may not be at hand
    at = settings.room(*trace.shape).slots if settings.scope == "layer" and not settings.baseline else trace.k
    return _chart(curves.over_slots([curve(trace, one) for one in known], at))


def _as_text(trace: Trace, run: Run) -> str:
    """Tokens, underlined by what share of their experts was there."""
    shares = hits.of_last_passes(run, 1)
    spans, shown = [], 0
    for number, tokens in enumerate(trace.passes()):
        share = float(shares[number])
        color = style.STATE_COLORS[
            board.HIT if share > 2 / 3 else board.LATE if share > 1 / 3 else board.MISS
        ]
        title = f"pass {number}: {words.percent(share, 0)} of its accesses hit"
        text = "".join(trace.texts[tokens.start : min(tokens.stop, MOST_TEXT)])
        spans.append(f'<span title="{title}" style="border-color: {color}">{_text(text)}</span>')
        shown = min(tokens.stop, MOST_TEXT)
        if shown == MOST_TEXT:
            break
    rest = f"<p>{trace.tokens - shown:,} more tokens are not shown.</p>" if trace.tokens > shown else ""
    return (
        f"<h2>Which tokens found their experts?{_kind('measured' if run.measured else 'replayed')}</h2>"
        "<p>Underlined green where more than two thirds of a forward pass's accesses hit, orange where more "
        f'than a third, red below; point at a token for it.</p><p class="text">{"".join(spans)}</p>{rest}'
    )


def _chart(chart: Chart) -> str:
    """A figure, its finding, and the table behind it. Legend entries, ticks and hover texts come from the
    trace as HTML-safe text.
    """
    figure = chart.figure
    figure.update_layout(template="plotly_white", autosize=True)
    data = figure.to_json(engine="json").replace("<", "\\u003c")
    table = chart.table.to_html(index=False, border=0, float_format=lambda value: format(value, ".4g"))
    return (
        f"<h2>{_text(chart.title)}{_kind(chart.kind)}</h2><p>{_text(chart.alt)}</p>"
        f'<div role="img" aria-label="{_text(chart.title)}"></div>'
        f'<script type="application/json">{data}</script>'
        f'<details><summary>Table</summary><div class="table">{table}</div></details>'
    )


def _table(rows: list[tuple[str, str]]) -> str:
    return (
        "<table>"
        + "".join(f"<tr><th>{_text(name)}</th><td>{_text(value)}</td></tr>" for name, value in rows)
        + "</table>"
    )


def _kind(kind: str) -> str:
    return f'<span class="kind">{kind}</span>'


def _text(value: Any) -> str:
    return html.escape(str(value))

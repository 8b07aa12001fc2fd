"""`replay`: what a cache would have done on a trace, without the model.

python -m moeviz replay sample_traces/change-of-subject.moetrace --policy lfu --slots 3
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import click

from moeviz.cli.ending import refusing
from moeviz.cli.options import Place, json_option, registered, settings_of, settings_options, suiting


@registered
@click.command()
@click.argument("file", type=Place())
@settings_options
@json_option
def replay(file: Path, as_json: bool, **others: Any) -> None:
    """What would a cache have done? Replays a .moetrace FILE under any settings, without the model.

    The router's choices do not depend on the cache, so hits, misses and evictions are exactly those of a live
    run. Times are not: they are null here.

    \b
    Example:
      python -m moeviz replay sample_traces/change-of-subject.moetrace --policy lfu --slots 3
    """
    from moeviz.core.replay import replay as replay_trace
    from moeviz.core.trace import DECODE
    from moeviz.files import moetrace
    from moeviz.numbers import metrics, output, routing
    from moeviz.numbers.curves import bounds, tells_gap

    with refusing():
        settings = settings_of(others)
        trace, recorded = moetrace.load(file)
        settings = suiting(settings, trace)
        result = replay_trace(trace, settings)
        gap, known = as_json or tells_gap(settings), {settings: result}
        bound = bounds(trace, settings, recorded, gap=gap, replayed=known)
    found = metrics.summary(result)
    if as_json:
        ids: list[int] = []
        if recorded:
            ids = [token for row in recorded.outputs(len(trace.sequences())) for token in row]
        elif trace.token_ids is not None:
            ids = trace.token_ids[trace.phase == DECODE].tolist()
        text = "\n".join("".join(one.texts) for one in trace.split())
        habits = routing.habits(trace, settings.prefetch, settings.width, settings.threshold)
        click.echo(json.dumps(output.replayed(trace.model, settings, ids, text, found, bound, habits)))
        return
    from moeviz import words

    captured = bound.gap_captured if tells_gap(settings) else None
    click.echo(words.report(settings, found, bound=bound.belady_hit_ratio, captured=captured))

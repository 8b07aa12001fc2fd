"""`show` and `diff`: what a file holds, and what differs between two, for people and for a build.

python -m moeviz diff before.moetrace after.moetrace --fail-below hit_ratio=-0.01,tokens_per_second=-5%
"""

from __future__ import annotations

import json
import math
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from moeviz.cli.ending import Refused, refusing
from moeviz.cli.options import (
    Place,
    Text,
    json_option,
    registered,
    settings_of,
    settings_options,
    suiting,
)

if TYPE_CHECKING:
    from collections.abc import Iterable

    from moeviz.core.run import Run
    from moeviz.core.trace import Trace
    from moeviz.files.importers import Counted

TEXT = 300  # characters of a trace's text that a screen shows


@registered
@click.command()
@click.argument("file", type=Place())
@json_option
def show(file: Path, as_json: bool) -> None:
    """What does FILE hold? Its model, shape, prompt, text and routing, and the run recorded with it, in a
    screen.

    FILE is a .moetrace file or any other that `import` reads, counts among them.

    \b
    Example:
      python -m moeviz show sample_traces/bible.moetrace
    """
    from moeviz import words
    from moeviz.files.guarded import open_file
    from moeviz.files.importers import Counted
    from moeviz.numbers import metrics, output, routing

    with refusing():
        found = open_file(file)
    if isinstance(found, Counted):
        _show_counts(found, as_json)
        return
    trace, run = found.trace, found.run
    if as_json:
        recorded = (run.settings, metrics.summary(run)) if run else None
        values = output.shown(trace, found.format, found.report, routing.habits(trace), recorded)
        click.echo(json.dumps(values))
        return
    rows = [("Format", found.format), *words.trace(trace), *_notes(found.report, trace.notes)]
    text = "".join(trace.texts)
    rows.append(("Text", " ".join(text.split())[:TEXT] + (" ..." if len(text) > TEXT else "")))
    rows += words.routing(trace)
    click.echo(words.lines(rows))
    if run is not None:
        click.echo(f"\nThe recorded run, {'measured' if run.measured else 'replayed'}:")
        click.echo(words.lines(words.about(run, typed=True)))


def _notes(report: Iterable[str], told: Iterable[str]) -> list[tuple[str, str]]:
    """Lines of a reader's report that the file's own notes do not say already."""
    return [("Note", line) for line in report if line not in told]


def _show_counts(found: Counted, as_json: bool) -> None:
    from moeviz import words
    from moeviz.numbers import output

    counts = found.counts
    if as_json:
        values = output.counts_alone(counts.model, counts.counts, counts.notes, found.format, found.report)
        click.echo(json.dumps(values))
        return
    rows = [
        ("Format", found.format),
        *words.only_counts(counts.model, counts.counts),
        *_notes(found.report, ()),
    ]
    click.echo(words.lines(rows))


@registered
@click.command()
@click.argument("first", type=Place())
@click.argument("second", type=Place())
@settings_options
@click.option(
    "--replay",
    "replayed",
    is_flag=True,
    help="Compare replays under the settings given; else the recorded runs, where both files hold one.",
)
@click.option(
    "--fail-below",
    type=Text(),
    default="",
    metavar="NAME=LIMIT,...",
    help="Exit with 1 where a number of the second is further below the first than this: hit_ratio=-0.01, "
    "or in percent tokens_per_second=-5%. Names are those of --json's numbers.",
)
@json_option
def diff(first: Path, second: Path, replayed: bool, fail_below: str, as_json: bool, **others: Any) -> None:
    """What differs between two traces, or between the runs recorded with them?

    Model, prompt, settings, the routers' choices, hits, bytes and times. Exit code 1 where a limit of
    --fail-below is passed, 0 where none is, 2 where the files cannot be compared.

    \b
    Examples:
      python -m moeviz diff monday.moetrace today.moetrace --fail-below hit_ratio=-0.01,tokens_per_second=-5%
      python -m moeviz diff a.moetrace b.moetrace --replay --policy lfu --slots 3
    """
    limits = _limits(fail_below)
    from moeviz import api, words
    from moeviz.core.replay import replay
    from moeviz.numbers import differences, output

    with refusing():
        settings = settings_of(others)
        a, b = api.imported(first), api.imported(second)
        settings = suiting(settings, a.trace)
        runs: tuple[Run, Run]
        bare = list(dict.fromkeys(path.name for path, one in ((first, a), (second, b)) if one.run is None))
        if replayed or a.run is None or b.run is None:
            runs = replay(a.trace, settings), replay(b.trace, settings)
        else:
            runs = a.run, b.run
        rows = differences.between(*runs)
        passed = [text for name, limit in limits.items() if (text := _passed(name, limit, rows))]
    about = _about(a.trace, b.trace, *runs)
    if as_json:
        click.echo(json.dumps(output.differing(about, rows, passed)))
    else:
        from moeviz.cli.tables import table

        if about:
            table(("differs", first.name, second.name), [(name, *pair) for name, pair in about.items()])
        else:
            click.echo("Same model, prompt, settings and choices of the routers.")
        if replayed or bare:
            why = "" if replayed else f", since no run was recorded with {' and '.join(bare)}"
            click.echo(words.harmless(f"Numbers: both replayed under {settings.label}{why}."))
        else:
            under = dict.fromkeys(run.settings.label for run in runs)
            click.echo(words.harmless(f"Numbers: of the recorded runs, {' against '.join(under)}."))
        changed = [(name, *words.difference(name, one)) for name, one in rows.items() if one.changed]
        if changed:
            table(("number", first.name, second.name, "difference"), changed)
        else:
            click.echo("No number differs.")
        for text in passed:
            click.echo(text)
    if passed:
        click.get_current_context().exit(1)


def _about(a: Trace, b: Trace, first: Run, second: Run) -> dict[str, tuple[str, str]]:
    """What the two are, where they are not the same."""
    from moeviz import words

    pairs = {
        "model": (a.model[:60], b.model[:60]),
        "shape": tuple(f"{t.layers} x {t.num_experts}, top-{t.k}" for t in (a, b)),
        "tokens": tuple(f"{t.tokens:,}" for t in (a, b)),
        "prompt": tuple(" ".join(t.prompt.split())[:60] for t in (a, b)),
        "choices": words.choices(a, b),
        "settings": (first.settings.label, second.settings.label),
        "kind": tuple("measured" if run.measured else "replayed" for run in (first, second)),
        "slow tier": tuple(words.tier_row(run.tier) for run in (first, second)),
    }
    return {name: (one[0], one[1]) for name, one in pairs.items() if one[0] != one[1]}


def _limits(text: str) -> dict[str, tuple[float, bool]]:
    """name -> (limit, whether it is a share of the first). Raises Refused."""
    found = {}
    for part in filter(None, (one.strip() for one in text.split(","))):
        name, equals, value = part.partition("=")
        try:
            limit = float(value.removesuffix("%"))
        except ValueError:
            limit = math.nan
        if not equals or not -math.inf < limit <= 0:
            raise Refused(
                f"--fail-below {part[:60]!r} is no limit. Write a name and a number of at most 0: "
                "hit_ratio=-0.01 or tokens_per_second=-5%."
            )
        found[name] = (limit / 100, True) if value.endswith("%") else (limit, False)
    return found


def _passed(name: str, limit: tuple[float, bool], rows: dict[str, Any]) -> str:
    """The sentence of a limit that is passed; empty where it is kept. Raises Refused for an unknown name."""
    if name not in rows:
        raise Refused(f"--fail-below: there is no number {name[:40]!r} in both. There are {', '.join(rows)}.")
    one, (least, share) = rows[name], limit
    change = one.second - one.first
    floor = least * abs(one.first) if share else least
    if change >= floor:
        return ""
    allowed = f"{least:.1%}" if share else f"{least:g}"
    return f"FAILED     {name} went from {one.first:.6g} to {one.second:.6g}; the limit is {allowed}."

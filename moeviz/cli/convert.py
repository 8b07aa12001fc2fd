"""`import`, `split` and `export`: other tools' traces in, requests apart, files for other tools and for
people out.

python -m moeviz import routed.npy --experts 32 --out routed.moetrace
"""

from __future__ import annotations

import itertools
import os
from collections.abc import Iterable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from moeviz.cli.ending import keeps, refusing, writable, writing
from moeviz.cli.options import (
    Listing,
    Place,
    Text,
    given,
    not_used,
    out_option,
    registered,
    settings_of,
    settings_options,
    suiting,
)
from moeviz.core.settings import SETTINGS
from moeviz.errors import ExportError, TraceError

if TYPE_CHECKING:
    from moeviz.core.settings import Settings
    from moeviz.core.trace import Trace


def _importers() -> Iterable[str]:
    from moeviz.files import importers

    return importers.format_names()


def _exporters() -> Iterable[str]:
    from moeviz.files.exporters import EXPORTERS

    return (f"{name} ({one.what})" for name, one in EXPORTERS.items())


@registered
@click.command("import")
@click.argument("source", type=Place())
@click.option(
    "--format",
    "kind",
    cls=Listing,
    names=_importers,
    type=Text(),
    default="",
    help="Found by the content if left out; else path.py:name of your own, or one of {names}.",
)
@click.option(
    "--experts",
    type=click.IntRange(0),
    default=0,
    help="Experts of each layer, where the source does not say how many.",
)
@click.option(
    "--prompt-tokens",
    type=click.IntRange(-1),
    default=-1,
    help="Tokens of each request that are its prompt, where the source does not say.",
)
@click.option(
    "--axes",
    type=Text(),
    default="",
    help="Axes of an array, for example layer,token,k; found out if left out.",
)
@click.option(
    "--top-k",
    type=click.IntRange(0),
    default=0,
    help="Experts that a token uses, where the source holds all experts' numbers.",
)
@out_option("The .moetrace file to write, or the .moecounts where the source only counts.", required=True)
def import_(
    source: Path, kind: str, experts: int, prompt_tokens: int, axes: str, top_k: int, out: Path
) -> None:
    """Turn the trace of another tool into a .moetrace file, or its counts into a .moecounts file.

    What a file is shows in its content; .gz and .zst are unpacked. Nothing in it is run, and it is read in a
    process of its own with limits on memory and time. What was left out or had to be assumed is reported, and
    kept in the trace. Counts, which do not say which token used which expert, serve as calibration of the
    policy static and of warm starts.

    \b
    Examples:
      python -m moeviz import routed.npy --experts 32 --out routed.moetrace
      python -m moeviz import recorded.pt --out recorded.moetrace
      python -m moeviz import counts.csv --experts 64 --out popular.moecounts
    """
    from moeviz import words
    from moeviz.files import moecounts, moetrace
    from moeviz.files.guarded import open_file
    from moeviz.files.importers import Counted, Options
    from moeviz.words import many

    with refusing():
        found = open_file(source, Options(experts, prompt_tokens, axes, top_k), kind)
        if isinstance(found, Counted):
            if out.suffix != moecounts.SUFFIX:
                raise TraceError(
                    f"{source.name} holds counts, not a trace ({found.format}): which token used which "
                    "expert is not said, so no cache can be replayed. Give --out "
                    f"{out.with_suffix(moecounts.SUFFIX).name} to keep them as calibration."
                    + "".join(f" Or: {line}." for line in found.report if "--axes" in line)
                )
            content = moecounts.to_bytes(found.counts)
            layers, experts = found.counts.layers, found.counts.num_experts
            shape = f"{many(layers, 'MoE layer')} of {many(experts, 'expert')}"
        else:
            if out.suffix == moecounts.SUFFIX:
                raise TraceError(
                    f"{source.name} holds a trace. Give --out {out.with_suffix('.moetrace').name}."
                )
            trace = found.trace
            content = moetrace.to_bytes(trace, found.run)
            requests = f" of {many(len(trace.sequences()), 'request')}" if trace.sequence is not None else ""
            shape = (
                f"{many(trace.tokens, 'token')}{requests}, {many(trace.layers, 'MoE layer')} of "
                f"{many(trace.num_experts, 'expert')}, {trace.k} per token"
            )
        with writing(out):
            moetrace.write_atomically(out, content)
    for line in found.report:
        click.echo(words.harmless(f"note       {line}"))
    click.echo(f"saved      {out}: {found.format}, {shape}")


@registered
@click.command()
@click.argument("file", type=Place())
@click.option(
    "--into",
    type=Place(),
    required=True,
    metavar="FOLDER",
    help="The folder to write to, made if it is not there: a file for each request, NAME-1.moetrace, "
    "NAME-2.moetrace.",
)
@click.option(
    "--force",
    is_flag=True,
    help="Write over files that are there already, and remove those of an earlier split into more.",
)
def split(file: Path, into: Path, force: bool) -> None:
    """Write every request of a .moetrace FILE as a trace of its own.

    Each keeps its own order, so a cache replayed on it sees one request alone; a run recorded with FILE is of
    all of them and is left out. A folder of such traces is what sweep takes. A split that was cut off goes on
    where it was when the same command is given again.

    \b
    Example:
      python -m moeviz split requests.moetrace --into parts
    """
    from moeviz import words
    from moeviz.files import moetrace

    with refusing():
        trace, _ = moetrace.load(file)
        parts = trace.split()
        if len(parts) < 2:
            raise TraceError(f"{file.name} holds one request: there is nothing to split.")
        paths = [into / f"{file.stem}-{number}.moetrace" for number in range(1, len(parts) + 1)]
        if into.parent.is_dir() and not os.path.lexists(into):
            with writing(into, "--into"):
                into.mkdir(exist_ok=True)  # another split may have made it a moment ago
        left = []
        for path, part in zip(paths, parts, strict=True):
            there = not force and _holds(path, part)
            writable(path, overwrite=force or there, option="--into")
            left += [] if there else [(path, part)]
        for number, (path, part) in enumerate(left, start=len(parts) - len(left) + 1):
            with writing(path, "--into"):
                moetrace.write_atomically(path, moetrace.to_bytes(part))
            keeps(f"{into} holds {number} of {len(parts)} requests; the same command goes on from there.")
        for more in _of_longer_split(into, file.stem, len(parts), trace):
            if force:
                with writing(more, "--into"):
                    more.unlink()
                told = "was of an earlier split into more, and is removed"
            else:
                told = "is of another split; a sweep of the folder takes it too. --force removes it"
            click.echo(words.harmless(f"note       {more} {told}"))
    tokens = sorted(part.tokens for part in parts)
    click.echo(
        f"saved      {words.many(len(parts), 'request')} of {tokens[0]:,} to {tokens[-1]:,} tokens in {into}"
    )


def _of_longer_split(into: Path, stem: str, parts: int, trace: Trace) -> Iterator[Path]:
    """Files that go on with the numbers of a split of `trace` into `parts`, without a gap, and that a split
    can have written.
    """
    for number in itertools.count(parts + 1):
        path = into / f"{stem}-{number}.moetrace"
        if not path.is_file() or path.is_symlink() or not _is_request(path, trace):
            return
        yield path


def _is_request(path: Path, trace: Trace) -> bool:
    """Whether a file can be what a split of such a trace wrote: one request of its model without a run. A
    recording that only has such a name is not.
    """
    from moeviz.files import moetrace

    try:
        found, run = moetrace.load(path)
    except (TraceError, OSError):
        return False
    alike = (found.model, found.shape) == (trace.model, trace.shape)
    return alike and run is None and len(found.sequences()) == 1


def _holds(path: Path, trace: Trace) -> bool:
    """Whether a file is just what would be written: a split that was cut off has written it."""
    from moeviz.files import moetrace

    try:
        if not path.is_file():
            return False
        content = moetrace.to_bytes(trace)
        return path.stat().st_size == len(content) and path.read_bytes() == content
    except (OSError, ValueError):  # what is wrong with it is said where it is to be written
        return False


@registered
@click.command()
@click.argument("file", type=Place())
@settings_options
@click.option("--format", "kind", cls=Listing, names=_exporters, required=True, help="One of {names}.")
@click.option(
    "--recorded",
    is_flag=True,
    help="The run recorded in FILE with its measured times, instead of a replay under the settings given.",
)
@click.option("--policies", default="lru,lfu", show_default=True, help="Of a stage: a board for each.")
@out_option("The file to write.", required=True)
def export(file: Path, kind: str, recorded: bool, policies: str, out: Path, **others: Any) -> None:
    """Write a trace and what a cache did on it for other tools, or for people.

    A report is one page that any browser opens offline.

    \b
    Examples:
      python -m moeviz export sample_traces/bible.moetrace --recorded --format perfetto --out bible.json
      python -m moeviz export sample_traces/bible.moetrace --policy lfu --format report --out bible.html
      python -m moeviz export sample_traces/change-of-subject.moetrace --format stage --out lesson.html
    """
    from moeviz.core.owncode import short
    from moeviz.core.policies import load_policy
    from moeviz.core.replay import replay as replayed
    from moeviz.files import exporters, moetrace

    with refusing():
        settings = settings_of(others)
        if kind not in exporters.EXPORTERS:
            raise ExportError(
                f"format {kind!r} is not known. Choose one of {', '.join(exporters.EXPORTERS)}."
            )
        _say_unused(kind, exporters.EXPORTERS[kind].alone, recorded, settings)
        trace, own = moetrace.load(file)
        if exporters.EXPORTERS[kind].alone:
            content = exporters.content(kind, trace, None, None, file.as_posix())
            with writing(out):
                moetrace.write_atomically(out, content)
            click.echo(f"saved      {out}: the trace")
            return
        settings = suiting(settings, trace)
        if recorded and own is None:
            why = trace.notes[-1] if moetrace.left_out(trace) else f"{file.name} holds no recorded run."
            way = "Leave out --recorded to export a replay"
            if ".py:" in why:
                way += ", or name what is in its user's file with --policy or --prefetch to have that read"
            raise TraceError(f"{why} {way}.")
        if kind == "stage":
            from moeviz.charts.stage import stage

            chosen = [load_policy(name.strip()) for name in policies.split(",") if name.strip()]
            page = stage(trace, [replace(settings, policy=name) for name in chosen], recorded=own)
            with writing(out):
                moetrace.write_atomically(out, page.html.encode())
            click.echo(f"saved      {out}: {', '.join(map(short, chosen))}, replayed")
            return
        result = own if recorded and own is not None else replayed(trace, settings)
        beside = Path(os.path.relpath(file, out.parent)) if kind == "notebook" else file
        content = exporters.content(kind, trace, result, own, beside.as_posix())
        with writing(out):
            moetrace.write_atomically(out, content)
    click.echo(f"saved      {out}: {result.settings.label}, {'measured' if result.measured else 'replayed'}")


def _say_unused(kind: str, alone: bool, recorded: bool, settings: Settings) -> None:
    """Names what was given and has no say in this export. A policy or predictor of a user's own has: a run
    that was recorded under it cannot be read without it."""
    if kind == "stage":
        ignored = dict.fromkeys(given("policy"), "a stage has a board for each of --policies")
        ignored |= dict.fromkeys(given("recorded"), "a stage shows replays, with the recorded run's times")
    else:
        ignored = dict.fromkeys(given("policies"), "only a stage has several boards")
        if alone:
            why = f"{kind} holds the trace without any run"
            ignored |= dict.fromkeys(given("recorded", *SETTINGS), why)
        elif recorded:
            own = {name for name in ("policy", "prefetch") if ":" in getattr(settings, name)}
            others = [name for name in SETTINGS if name not in own]
            ignored |= dict.fromkeys(given(*others), "the recorded run has its own settings")
    for name, why in ignored.items():
        not_used(name, why)

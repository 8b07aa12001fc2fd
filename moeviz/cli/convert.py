"""`import` and `export`: other tools' traces in, files for other tools and for people out.

python -m moeviz import routed.npy --experts 32 --out routed.moetrace
"""

from __future__ import annotations

import os
from collections.abc import Iterable
from dataclasses import replace
from pathlib import Path
from typing import Any

import click

from moeviz.cli.options import (
    Listing,
    out_option,
    refusing,
    registered,
    settings_of,
    settings_options,
    writing,
)
from moeviz.errors import ExportError, TraceError


def _importers() -> Iterable[str]:
    from moeviz.files import imports

    return (*imports.FORMATS, "sglang")


def _exporters() -> Iterable[str]:
    from moeviz.files import exports

    return (f"{name} ({one.what})" for name, one in exports.FORMATS.items())


@registered
@click.command("import")
@click.argument("source", type=click.Path(path_type=Path))
@click.option(
    "--format",
    "kind",
    cls=Listing,
    names=_importers,
    default="",
    help="Found by the content if left out; else one of {names}.",
)
@click.option(
    "--experts",
    type=click.IntRange(0),
    default=0,
    help="Experts of each layer, where the source does not say how many.",
)
@out_option("The .moetrace file to write.", required=True)
def import_(source: Path, kind: str, experts: int, out: Path) -> None:
    """Turn the trace of another tool into a .moetrace file.

    Takes vLLM's routed experts (.npy, .npz), a per_token dump of SGLang's expert distribution recorder (.pt, read without running
    anything in it), JSON lines of routes, MoE-PolicyLang's recordings (JSON lines, parquet), MoE-Beyond's CSV, and a plain table
    (CSV or parquet) of token, layer, rank, expert and perhaps weight. What was left out or had to be assumed is reported.

    \b
    Example:
      python -m moeviz import routed.npy --experts 32 --out routed.moetrace
    """
    from moeviz import api

    with refusing():
        found = api.imported(source, experts=experts, format=kind)
        with writing(out):
            found.trace.save(out, found.run)
    for line in found.report:
        click.echo(f"note       {line}")
    shape = (
        f"{found.trace.tokens:,} tokens, {found.trace.layers} MoE layers of {found.trace.num_experts} experts, "
        f"{found.trace.k} per token"
    )
    click.echo(f"saved      {out}: {found.format}, {shape}")


@registered
@click.command()
@click.argument("file", type=click.Path(path_type=Path))
@settings_options
@click.option("--format", "kind", cls=Listing, names=_exporters, required=True, help="{names}.")
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
      python -m moeviz export sample_traces/bible.moetrace --policy lfu --slots 3 --format report --out bible.html
      python -m moeviz export sample_traces/change-of-subject.moetrace --format stage --out lesson.html
    """
    from moeviz.core.policies import load_policy
    from moeviz.core.replay import replay as replayed
    from moeviz.files import exports, moetrace

    with refusing():
        settings = settings_of(others)
        if kind not in exports.FORMATS:
            raise ExportError(f"format {kind!r} is not known. Choose one of {', '.join(exports.FORMATS)}.")
        trace, own = moetrace.load(file)
        if recorded and own is None:
            raise TraceError(f"{file.name} holds no recorded run. Leave out --recorded to export a replay.")
        if kind == "stage":
            from moeviz.charts.stage import stage

            chosen = [load_policy(name) for name in policies.split(",")]
            page = stage(trace, [replace(settings, policy=name) for name in chosen], recorded=own)
            with writing(out):
                moetrace.write_atomically(out, page.html.encode())
            click.echo(f"saved      {out}: {', '.join(chosen)}, replayed")
            return
        result = own if recorded and own is not None else replayed(trace, settings)
        beside = Path(os.path.relpath(file, out.parent)) if kind == "notebook" else file
        content = exports.content(kind, trace, result, own, beside.as_posix())
        with writing(out):
            moetrace.write_atomically(out, content)
    click.echo(f"saved      {out}: {result.settings.label}, {'measured' if result.measured else 'replayed'}")

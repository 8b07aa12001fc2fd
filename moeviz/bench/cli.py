"""`bench`: times moeviz itself, as ratios within one run.

python -m moeviz bench engine
"""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import click

from moeviz.cli.options import F, Number, refusing, registered

MOST = 1_000_000  # tokens of a made-up trace


@registered
@click.group()
def bench() -> None:
    """Times moeviz itself: ratios within one run, with median, least and most.

    \b
    Example:
      python -m moeviz bench engine
    """


def rounds(most: int) -> Callable[[F], F]:
    """`--repeats`, `most` by default."""
    return click.option(
        "--repeats",
        type=click.IntRange(1, 10_000),
        default=most,
        show_default=True,
        help="Rounds, interleaved.",
    )


def tokens(default: int, what: str, most: int = MOST) -> Callable[[F], F]:
    """`--tokens`."""
    return click.option(
        "--tokens", type=click.IntRange(2, most), default=default, show_default=True, help=what
    )


MADE_UP = "Tokens of a made-up trace of 24 layers, top-4 of 32 experts."


@bench.command("engine")
@rounds(5)
@tokens(100, "Tokens to generate in each round.", 1_000)
@click.option("--model", default="", help="Folder of a model; the bundled one if it is left out.")
@click.option("--json", "as_json", is_flag=True, help="One JSON object instead of lines.")
def bench_engine(repeats: int, tokens: int, model: str, as_json: bool) -> None:
    """Decoding beside transformers with all experts in memory, in float32 and bfloat16, on one thread."""
    from moeviz.bench.engine import engine

    with refusing():
        found = engine(repeats, tokens, model)
    if as_json:
        click.echo(json.dumps(found))
    else:
        show(found)


@bench.command("link")
@tokens(100, "Tokens to generate on each link.", 1_000)
def bench_link(tokens: int) -> None:
    """How well a paced link keeps its time: a copy's time over the time asked for, median [5th to 95th
    percentile].
    """
    from moeviz.bench.pacing import pacing

    with refusing():
        show(pacing(tokens))


@bench.command("loading")
def bench_loading() -> None:
    """Peak memory of loading models of 600 MB, against what has to be in memory, and the bytes written."""
    from moeviz.bench.loading import loading

    with refusing():
        show(loading())


@bench.command("replay")
@rounds(5)
@tokens(511, MADE_UP)
@click.option(
    "--trace", "file", type=click.Path(path_type=Path), help="A .moetrace file instead of the made-up trace."
)
def bench_replay(repeats: int, tokens: int, file: Path | None) -> None:
    """Replays, hits and curves of every policy, live policy work, and cachetools on the same accesses."""
    from moeviz.bench.replay import replaying
    from moeviz.core.trace import Trace

    with refusing():
        show(replaying(repeats, tokens, Trace.load(file) if file else None))


@bench.command("pages")
@tokens(100_000, MADE_UP)
@rounds(3)
def bench_pages(tokens: int, repeats: int) -> None:
    """Seconds that each Explore page takes to be made, on the samples and on a long trace."""
    from moeviz.bench.pages import pages

    with refusing():
        show(pages(tokens, repeats))


@bench.command("capture")
@rounds(25)  # short ones, that a slow spell of the machine meets plain and captured alike
@tokens(30, "Tokens to generate in each round.", 1_000)
def bench_capture(repeats: int, tokens: int) -> None:
    """What moeviz.capture costs the code that runs a model."""
    from moeviz.bench.capturing import capturing

    show(capturing(repeats, tokens))


@bench.command("fuzz")
@click.option(
    "--files",
    type=click.IntRange(1),
    default=300,
    show_default=True,
    help="Mutated files of each format: 300 are more than 10,000 in all.",
)
@click.option(
    "--seed", type=click.IntRange(0, 2**63 - 1), default=0, show_default=True, help="Of the mutations."
)
def bench_fuzz(files: int, seed: int) -> None:
    """Mutated files through the importer, each in a process of its own: accepted whole or refused, how slow
    and how large at worst.
    """
    from moeviz.bench.fuzz import fuzz

    with refusing():
        show(fuzz(files, seed))


@bench.command("soak")
@click.option(
    "--sessions",
    type=click.IntRange(1, 200),
    default=20,
    show_default=True,
    help="Browsers at the same time.",
)
@click.option(
    "--pause",
    type=Number(0, 600),
    default=10.0,
    show_default=True,
    help="Seconds that each looks at a page.",
)
@click.option(
    "--runs", type=click.IntRange(1, 100_000), default=100, show_default=True, help="Then, in one session."
)
def bench_soak(sessions: int, pause: float, runs: int) -> None:
    """A classroom: seconds to a page, what sessions and runs leave behind (needs Chromium)."""
    from moeviz.bench import soak

    with refusing():
        show(soak.visits(sessions, pause))
        show(soak.runs(runs))


@bench.command("stage")
@rounds(3)
@click.option(
    "--seconds",
    type=Number(1, 3_600),
    default=3.0,
    show_default=True,
    help="Played in each round.",
)
def bench_stage(repeats: int, seconds: float) -> None:
    """Pictures per second of the stage while it plays, key to picture, file to first picture; then how soon
    the app answers: first picture, changed boards, another page (needs Chromium).
    """
    from moeviz.bench.answering import answering
    from moeviz.bench.stage import stage

    with refusing():
        show(stage(seconds, repeats))
        show(answering(repeats))


def show(values: Mapping[str, Any]) -> None:
    """A line a number; spreads as median [least to most]."""
    for name, value in values.items():
        if isinstance(value, dict):
            value = f"{value['median']:.4g} [{value['least']:.4g} to {value['most']:.4g}]"
        click.echo(f"{name:52} {value if isinstance(value, str) else format(value, '.4g')}")

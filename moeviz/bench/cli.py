"""`bench`: times moeviz itself, as ratios within one run.

python -m moeviz bench engine
"""

from __future__ import annotations

import json
import sys
from collections.abc import Callable, Iterator, Mapping
from importlib import import_module
from pathlib import Path
from typing import Any

import click

from moeviz.bench.engine.rows import ROWS, Work
from moeviz.cli.ending import keeps, refusing
from moeviz.cli.options import Device, F, Number, Place, Text, registered
from moeviz.errors import MoevizError

TESTS = Path(__file__).parents[2] / "tests"
MOST = 1_000_000  # tokens of a made-up trace
Figures = Mapping[str, Any]  # by name: a number, a spread or a sentence
Measured = Figures | Iterator[Figures]  # or parts of them, one after the other


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
as_json = click.option("--json", "as_json", is_flag=True, help="One JSON object instead of lines.")
MEASURES: dict[str, Callable[..., Measured]] = {}  # command -> what it measures, given its options


def table(name: str) -> Callable[[Callable[..., Measured]], click.Command]:
    """Makes a command of a function that gives figures: it prints lines as they come, or one JSON object.
    What was measured is not lost where the rest is cut off.
    """

    def register(measure: Callable[..., Measured]) -> click.Command:
        def command(as_json: bool, **options: Any) -> None:
            found: dict[str, Any] = {}
            try:
                with refusing():
                    gather(found, name, options, as_json)
            finally:
                if as_json and found:
                    click.echo(json.dumps(found))

        MEASURES[name] = measure
        command.__doc__ = measure.__doc__
        command.__click_params__ = getattr(measure, "__click_params__", [])  # type: ignore[attr-defined]
        return bench.command(name)(as_json(command))

    return register


def gather(found: dict[str, Any], name: str, options: dict[str, Any], as_json: bool) -> None:
    """Measures, adds the figures to `found` as they come, and prints them unless one object is asked for.
    Raises MoevizError where a package is missing that only developers install."""
    try:
        figures = MEASURES[name](**options)
        for part in [figures] if isinstance(figures, Mapping) else figures:
            found.update(part)
            if found:
                keeps("What was measured by then is printed.")
            if not as_json:
                show(part)
    except ModuleNotFoundError as error:
        package = str(error.name).partition(".")[0]
        if package == "moeviz":
            raise
        raise MoevizError(
            f"bench {name} needs {package}, which is not installed. pip install -r requirements-dev.txt "
            "brings what benches need."
        ) from None


@table("engine")
@rounds(5)
@tokens(100, "Tokens to generate in each round.", 1_000)
@click.option(
    "--model", type=Text(), default="", help="Folder of a model; the bundled one if it is left out."
)
@click.option(
    "--device",
    type=Device(),
    default="cpu",
    show_default=True,
    help="The engine's fast tier, and where transformers computes: cpu, cuda, ...",
)
@click.option(
    "--only", multiple=True, type=click.Choice([*ROWS]), help="Only this row; may be given several times."
)
def bench_engine(repeats: int, tokens: int, model: str, device: str, only: tuple[str, ...]) -> Measured:
    """The engine beside transformers, beside its own copies and by itself, on one thread, with the goal of
    each ratio. All rows take half an hour; which one it is at is said on stderr.
    """
    from moeviz.bench.engine.rows import engine

    return engine(Work(repeats, tokens, model, device), only)


bench_engine.help = f"{bench_engine.help}\n\n\b\nRows:\n" + "\n".join(
    f"  {name:14}{what}" for name, what in ROWS.items()
)


@table("link")
@tokens(100, "Tokens to generate on each link.", 1_000)
def bench_link(tokens: int) -> Figures:
    """How well a paced link keeps its time: a copy's time over the time asked for, median [5th to 95th
    percentile].
    """
    from moeviz.bench.pacing import OF, pacing

    click.echo(OF, err=True)

    return pacing(tokens)


@table("loading")
def bench_loading() -> Iterator[Figures]:
    """Peak memory of loading models of 600 MB, against what has to be in memory, the bytes written, and what
    it costs to check an expert when it is first read.
    """
    from moeviz.bench.loading import checking, loading

    yield loading()
    yield checking()


@table("replay")
@rounds(5)
@tokens(511, MADE_UP)
@click.option("--trace", "file", type=Place(), help="A .moetrace file instead of the made-up trace.")
def bench_replay(repeats: int, tokens: int, file: Path | None) -> Figures:
    """Replays, hits and curves of every policy, live policy work, and other caches on the same accesses."""
    from moeviz.bench.replay import replaying
    from moeviz.core.trace import Trace

    return replaying(repeats, tokens, Trace.load(file) if file else None)


@table("pages")
@tokens(100_000, MADE_UP)
@rounds(3)
def bench_pages(tokens: int, repeats: int) -> Figures:
    """Seconds that each Explore page takes to be made, on the samples and on a long trace."""
    from moeviz.bench.pages import pages

    return pages(tokens, repeats)


@table("capture")
@rounds(25)  # short ones, that a slow spell of the machine meets plain and captured alike
@tokens(30, "Tokens to generate in each round.", 1_000)
def bench_capture(repeats: int, tokens: int) -> Figures:
    """What moeviz.capture costs the code that runs a model."""
    from moeviz.bench.capturing import capturing

    return capturing(repeats, tokens)


@table("fuzz")
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
def bench_fuzz(files: int, seed: int) -> Measured:
    """Mutated files through the importer, each in a process of its own: accepted whole or refused, how slow
    and how large at worst. They are made by tests/fuzz.py.
    """
    if not (TESTS / "fuzz.py").is_file():
        raise MoevizError(f"bench fuzz is {TESTS / 'fuzz.py'}, which is not there. Run it in a whole clone.")
    if str(TESTS) not in sys.path:
        sys.path.insert(0, str(TESTS))
    found: Measured = import_module("fuzz").fuzz(files, seed)
    return found


@table("soak")
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
def bench_soak(sessions: int, pause: float, runs: int) -> Iterator[Figures]:
    """A classroom: seconds to a page, what sessions and runs leave behind (needs Chromium). How far it is is
    said on stderr.
    """
    from moeviz.bench import soak

    yield from soak.visits(sessions, pause)
    yield from soak.runs(runs)


@table("stage")
@rounds(3)
@click.option(
    "--seconds",
    type=Number(1, 3_600),
    default=3.0,
    show_default=True,
    help="Played in each round.",
)
def bench_stage(repeats: int, seconds: float) -> Iterator[Figures]:
    """Pictures per second of the stage while it plays, key to picture, file to first picture; then how soon
    the app answers: first picture, changed boards, another page; how late pictures of a live run are; then
    the lecturer's clock (needs Chromium and the bundled model). Each of the four is printed as it comes; all
    take six minutes.
    """
    from moeviz.bench.answering import answering
    from moeviz.bench.frames import frames
    from moeviz.bench.lecturing import lecturing
    from moeviz.bench.stage import stage

    yield stage(seconds, repeats)
    yield answering(repeats)
    yield frames(repeats)
    yield lecturing(repeats)


@bench.command("all")
@as_json
def bench_all(as_json: bool) -> None:
    """Every table, one after the other, each as its own command measures it when it is given no options: an
    hour. One that cannot be measured here says why.
    """
    found: dict[str, dict[str, Any]] = {}
    try:
        for name in MEASURES:
            command = bench.commands[name]
            options = command.make_context(name, []).params
            del options["as_json"]
            if not as_json:
                click.echo(f"\n{name}: {command.get_short_help_str(100)}\n")
            found[name] = {}
            try:
                gather(found[name], name, options, as_json)
            except Exception as error:  # hours of other tables are not lost for a package or a browser
                why = (str(error).strip() or type(error).__name__).splitlines()[0]
                found[name]["not measured"] = why
                if not as_json:
                    show({"not measured": why})
    finally:
        if as_json:
            click.echo(json.dumps(found))


def show(values: Figures) -> None:
    """A line a number; spreads as median [least to most], and their goal."""
    for name, value in values.items():
        goal = ""
        if isinstance(value, dict):
            goal = f"  goal {value['goal']}" if "goal" in value else ""
            value = f"{value['median']:.4g} [{value['least']:.4g} to {value['most']:.4g}]"
        click.echo(f"{name:52} {value if isinstance(value, str) else format(value, '.4g')}{goal}")

"""`sweep`: many traces under many settings, one table.

python -m moeviz sweep sample_traces --policies all --out table.parquet
"""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import click

from moeviz.amounts import many
from moeviz.cli.ending import Refused, keeps, refusing, writing
from moeviz.cli.meter import Meter
from moeviz.cli.options import Listing, Place, Text, given, not_used, out_option, registered, setting_option
from moeviz.core.owncode import short
from moeviz.core.predictors import PREDICTORS, load_predictor
from moeviz.core.settings import SCOPES, SETTINGS, read

if TYPE_CHECKING:
    import pandas as pd

    from moeviz.numbers.differences import Interval

MOST_SLOTS = 1_000_000  # more experts than any model has; a range is written out, so it has an end
SHOWN = 8  # slot counts in the table that is printed
MOST_PROMPTS = 30  # in the table that is printed


@registered
@click.command()
@click.argument("files", nargs=-1, required=True, type=Place())
@click.option(
    "--policies",
    default="lru,lfu,belady",
    show_default=True,
    cls=Listing,
    names=lambda: SETTINGS["policy"].known or (),
    help="Policies, with commas: path.py:name, all, or some of {names}.",
)
@click.option(
    "--slots",
    default="all",
    show_default=True,
    help="Slots per layer, or in all: counts and ranges, 2,4,8 or 2-8; or all.",
)
@click.option(
    "--budgets",
    type=Text(),
    default="",
    help="Instead of slots: bytes for experts in all, with commas, 1GiB,3GiB.",
)
@setting_option("rule")
@click.option(
    "--scope",
    type=click.Choice([*SCOPES, "both"]),
    default="layer",
    show_default=True,
    help="Whose slots they are, each MoE layer's or the model's.",
)
@click.option(
    "--prefetch",
    default="none",
    show_default=True,
    help=f"Predictors, with commas: path.py:name, all, or some of {', '.join(PREDICTORS)}.",
)
@setting_option("lookahead")
@setting_option("width")
@click.option("--jobs", type=click.IntRange(1, 1_024), help="Local processes; left out: one for each core.")
@click.option(
    "--dask",
    "address",
    type=Text(),
    default="",
    help="Instead: the scheduler of a Dask cluster whose workers see the files under the same paths.",
)
@out_option("The table to write or to go on with, .parquet or .csv.", required=True, resumed=True)
def sweep(
    files: tuple[Path, ...],
    policies: str,
    slots: str,
    budgets: str,
    rule: str,
    scope: str,
    prefetch: str,
    lookahead: int,
    width: int,
    jobs: int | None,
    address: str,
    out: Path,
) -> None:
    """Replay many traces under many settings into one table, a row per trace x settings.

    FILES are .moetrace files, or folders of them. A sweep that was cut off goes on where it was when the same
    command is given again; more files or policies are added to the table. A file that is no trace is reported
    and skipped. static is calibrated on the trace itself.

    It ends with the best cache at each memory, and with what it hits more than lru: over all prompts (the
    median of what it hits more on each, while hit ratios are means), and on each prompt, with the range of 95
    of 100 redrawn samples. "no difference" is said where that range holds 0.

    \b
    Example:
      python -m moeviz sweep sample_traces --policies all --prefetch none,next-gate --out table.parquet
    """
    counts = _counts(slots)
    if address and given("jobs"):
        raise Refused("--jobs is of this machine's processes and --dask of a cluster's. Give one of them.")
    if prefetch.strip() == "none":
        for name in given("lookahead", "width"):
            not_used(name, "nothing is pre-fetched")
    from moeviz import sweeps
    from moeviz.core.policies import POLICIES, load_policy

    with refusing():
        sweeps.check_name(out)
        bytes_of = tuple(sorted({read("budget", one) for one in _names(budgets)}))
        plan = sweeps.Plan(
            tuple(POLICIES) if policies == "all" else tuple(map(load_policy, _names(policies))),
            tuple(SCOPES) if scope == "both" else (scope,),
            tuple(PREDICTORS) if prefetch == "all" else tuple(map(load_predictor, _names(prefetch))),
            lookahead,
            width,
            counts,
            bytes_of,
            rule,
        )
        found = [
            one for file in files for one in (sorted(file.glob("*.moetrace")) if file.is_dir() else [file])
        ]
        keeps(f"{sweeps.journal_of(out)} holds the rows so far; the same command goes on from there.")
        with Meter("curves replayed") as meter, writing(out), sweeps.executor(jobs, address) as executor:
            table = sweeps.sweep(found, plan, out, executor, meter.say, meter)
    _print(table)
    for line in sweeps.verdict(table):
        click.echo(line)
    click.echo(f"saved      {out}: {many(len(table), 'row')} of {many(table['digest'].nunique(), 'trace')}")
    asked = () if policies == "all" else plan.policies  # some need the router's weights
    if nothing := [short(one) for one in asked if one not in set(table["policy"])]:
        raise Refused(f"{', '.join(nothing)}: no row of it. What it was skipped for is said above.")


def _print(table: pd.DataFrame) -> None:
    """Hit ratios over all prompts at some of the slot counts, a row for every way to cache; the best at each
    memory; and the best one on every prompt."""
    from moeviz import sweeps, words
    from moeviz.cli.tables import table as printed

    found = sweeps.means(table)
    if not found:
        return
    shown = _some(found[0].slots)
    rooms = [sweeps.room_in_words(room, table) for room in shown]
    printed(
        ("hit ratio, mean over prompts", *rooms),
        [
            (
                one.name,
                *(
                    words.percent(dict(zip(one.slots, one.hit_ratio, strict=True)).get(room))
                    for room in shown
                ),
            )
            for one in found
        ],
    )
    best = sweeps.choices(table)
    if not best:
        return
    printed(
        ("at", "memory", "best", "hit ratio, mean", "against", "points more, median prompt", "95 of 100"),
        [
            (
                sweeps.room_in_words(one.room, table),
                words.memory(one.memory) if one.memory else "-",
                f"{one.best} (and {words.many(one.alike, 'other')})" if one.alike else one.best,
                words.percent(one.hit_ratio),
                one.rival,
                *_apart(one.difference),
            )
            for one in best
            if one.room in shown
        ],
    )
    table = sweeps.possible(table)
    two = sweeps.pair(table)
    if two is None:
        return
    first, second = two
    prompts = sweeps.by_prompt(table, first, second)
    printed(
        (f"{first} against {second}, all memories", "points more", "95 of 100"),
        [(one.file, *_apart(one.difference)) for one in prompts[:MOST_PROMPTS]],
    )
    if len(prompts) > MOST_PROMPTS:
        click.echo(f"and {len(prompts) - MOST_PROMPTS:,} prompts more; the table holds them all.")


def _some(of: tuple[int, ...]) -> list[int]:
    return sorted({of[round(n * (len(of) - 1) / max(SHOWN - 1, 1))] for n in range(SHOWN)})


def _apart(found: Interval) -> tuple[str, str]:
    """A difference in points and its range, or that there is none."""
    if found.low is None or found.high is None:
        return f"{found.middle * 100:+.1f}", "one prompt"
    if found.low <= 0 <= found.high:
        return "no difference", f"{found.low * 100:+.1f} to {found.high * 100:+.1f}"
    return f"{found.middle * 100:+.1f}", f"{found.low * 100:+.1f} to {found.high * 100:+.1f}"


def _names(text: str) -> tuple[str, ...]:
    return tuple(dict.fromkeys(name.strip() for name in text.split(",") if name.strip()))


def _counts(text: str) -> tuple[int, ...]:
    """2,4,8 or 2-8 as numbers; all: none named. Raises Refused."""
    if text == "all":
        return ()
    found: set[int] = set()
    for part in text.split(","):
        first, _, last = part.strip().partition("-")
        last = last or first
        if not all(one.isascii() and one.isdecimal() and len(one) <= 12 for one in (first, last)):
            raise Refused(f"--slots {text[:60]!r} is no list of counts. Write all, 2,4,8 or 2-8.")
        if int(last) < int(first):
            raise Refused(f"--slots {text[:60]!r} is no list of counts: {first}-{last} goes down. Write 2-8.")
        if int(last) > MOST_SLOTS:
            raise Refused(f"--slots {text[:60]!r}: no model has so many experts.")
        found |= set(range(int(first), int(last) + 1))
    return tuple(sorted(found))

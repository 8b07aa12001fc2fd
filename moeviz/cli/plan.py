"""`plan`: what would fit and how fast it would be, from a model's configuration and tensor headers alone.

python -m moeviz plan path/to/model --fast 8GiB --link "SATA SSD" --trace mine.moetrace
"""

from __future__ import annotations

import json
from contextlib import suppress
from dataclasses import asdict
from pathlib import Path

import click

from moeviz.cli.cache import bytes_of
from moeviz.cli.ending import Refused, refusing
from moeviz.cli.options import Device, Number, Place, Text, experts_option, json_option, registered


def _counts(text: str) -> list[int]:
    parts = [part.strip() for part in text.split(",") if part.strip()]
    if not all(part.isascii() and part.isdecimal() and len(part) <= 6 for part in parts):
        raise Refused(f"--slots {text[:60]!r} is no list of counts. Write 4 or 2,4,8.")
    return [int(part) for part in parts]


@registered
@click.command()
@click.argument("model", required=False, default="", type=Text())
@click.option(
    "--trace",
    "file",
    type=Place(),
    help="A .moetrace file of this model, or of one with as many experts, to tell hit ratios from.",
)
@click.option(
    "--calibration",
    "counted",
    type=Place(),
    help="A .moecounts file of this model (`import` makes one): what its busiest experts would hit.",
)
@click.option("--fast", help="Memory of the fast tier, as 8GiB. Left out: what is free here.")
@click.option(
    "--device",
    type=Device(),
    default="auto",
    show_default=True,
    help="The fast tier: auto: what is here; cpu; or cuda, ..., of any machine if --fast says its memory.",
)
@click.option(
    "--context",
    type=click.IntRange(1, 10_000_000),
    default=4_096,
    show_default=True,
    help="Tokens whose keys and values are kept.",
)
@click.option(
    "--slots",
    type=Text(),
    default="",
    help="Slots of each MoE layer, as 2,4,8. Left out: the most that fit.",
)
@click.option(
    "--link",
    type=Text(),
    default="",
    help="The link from the slow tier: SATA SSD, NVMe, PCIe 4, ..., GB/s or GB/s,ms; or measure: this disk.",
)
@click.option(
    "--fast-speed",
    type=Number(0.001, 1_000_000),
    help="GB/s at which the fast tier reads its own memory. Left out: measured where it is RAM.",
)
@click.option(
    "--dtype",
    type=click.Choice(["auto", "float32", "bfloat16", "float16"]),
    default="auto",
    show_default=True,
    help="Type of the weights; auto: the checkpoint's; on a CPU the faster of it and float32.",
)
@experts_option
@json_option
def plan(
    model: str,
    file: Path | None,
    counted: Path | None,
    fast: str | None,
    device: str,
    context: int,
    slots: str,
    link: str,
    fast_speed: float | None,
    dtype: str,
    experts: str,
    as_json: bool,
) -> None:
    """Say what of MODEL would fit in this machine's memory, and how fast it would be, before anything is
    loaded.

    MODEL is a folder or a hub id; the bundled model if it is left out. Only its configuration and the headers
    of its safetensors files are read. The next plan for a model says how far off the last one was, where the
    model has run since.

    \b
    Example: how many slots do 64 MiB give, and what would a SATA SSD make of them?
      python -m moeviz plan --fast 64MiB --link "SATA SSD" --trace sample_traces/bible.moetrace
    """
    from moeviz import words
    from moeviz.engine import plan as plans
    from moeviz.engine import planned
    from moeviz.files import moecounts, moetrace
    from moeviz.numbers import output
    from moeviz.numbers.plan import ASSUMPTIONS

    with refusing():
        trace, run = moetrace.load(file) if file is not None else (None, None)
        found = plans.make(
            model,
            dtype=dtype,
            experts=experts,
            device=device,
            fast=None if fast is None else bytes_of(fast),
            context=context,
            slots=_counts(slots),
            trace=trace,
            run=run,
            counts=moecounts.load(counted) if counted is not None else None,
            link=link,
            fast_speed=fast_speed,
        )
        last = planned.last(found.model)
        lines = words.lines(plans.rows(found))
    with suppress(OSError):  # a plan is of use where it cannot be kept, too
        planned.remember(found)
    if as_json:
        click.echo(json.dumps(output.planned(found, ASSUMPTIONS, asdict(last) if last else None)))
        return
    click.echo(lines)
    for sentence in (*found.notes, *ASSUMPTIONS):
        click.echo(f"- {sentence}")

"""`run`: a real model, its experts in the slow tier.

python -m moeviz run --prompt "In the beginning" --policy lfu --slots 4
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from moeviz.amounts import many
from moeviz.cli.ending import Refused, Stopping, keeps, refusing, writing
from moeviz.cli.loading import prepare
from moeviz.cli.options import (
    Place,
    given,
    json_option,
    model_options,
    out_option,
    registered,
    settings_of,
    settings_options,
)
from moeviz.core.settings import Settings
from moeviz.errors import StoreError

if TYPE_CHECKING:
    from moeviz.core.run import Run
    from moeviz.core.trace import Trace
    from moeviz.engine.loader import Loaded
    from moeviz.numbers.lossy import Lossy


@registered
@click.command()
@model_options
@settings_options
@click.option(
    "--future",
    type=Place(),
    help="Trace of this very run, for --policy belady or --prefetch oracle.",
)
@out_option("Save trace and run as a .moetrace file; an interrupted run keeps what it captured.")
@click.option(
    "--verify/--no-verify",
    default=True,
    show_default=True,
    help="Hold the logits against transformers' own model with every expert in memory, where that fits.",
)
@click.option(
    "--compute",
    type=click.Choice(["one-by-one", "grouped"]),
    default="one-by-one",
    show_default=True,
    help="grouped: the experts of a layer by one product; not lossless, and the difference is measured.",
)
@json_option
def run(
    model: str,
    prompts: tuple[str, ...],
    future: Path | None,
    out: Path | None,
    verify: bool,
    compute: str,
    as_json: bool,
    **others: Any,
) -> None:
    """Generate text with the experts of MODEL in the slow tier, and report what the cache did and what it
    cost.

    MODEL is a folder that save_pretrained wrote or a hub id of any mixture-of-experts model that transformers
    serves; the bundled model if it is left out.

    \b
    Example: is LFU faster than LRU, and does guessing help?
      python -m moeviz run --prompt "In the beginning" --policy lfu --slots 4 --prefetch next-gate
    """
    with refusing():
        settings = settings_of(others)
        known = _future(future)
        unnamed = () if given("slots") else (0,)
        loaded, options, (settings,) = prepare(model, others, [settings], unnamed)
        options = replace(options, compute=compute)
        from moeviz.engine import exactness, measure
        from moeviz.engine.planned import settle
        from moeviz.engine.session import generate

        measure.fitting(loaded, [settings])
        with Stopping() as stop, exactness.logits_seen(loaded) as logits:
            known = known or measure.look_ahead(loaded, prompts, settings, options, stop)
            logits.clear()  # of a run that looked ahead
            records, cut = [], None
            try:
                for record in generate(loaded, prompts, settings, options, stop, known) if not stop() else ():
                    records.append(record)
            except StoreError as error:  # the slow tier failed in the middle
                cut = error
            if not records:
                raise cut or KeyboardInterrupt
        trace, result = measure.to_recording(loaded, records, prompts, settings, options)
        kept, unsaved = _saved(out, trace, result)
        if cut is not None:
            raise StoreError(f"{cut} {kept}".strip())
        if stop():
            raise KeyboardInterrupt
        with suppress(OSError):  # what a later plan may want to know is no reason for a run to fail
            settle(trace, result, on_host=loaded.device.type == "cpu")
        lossless, why, difference = None, "", ""
        if compute == "grouped":
            difference = exactness.grouped_difference(loaded, prompts, settings, options)
        elif verify and not (why := exactness.not_verifiable(loaded)):
            lossless = exactness.reference(loaded, trace) == logits
        lossy, unknown = exactness.lossy_where_it_fits(loaded, trace) if verify else (None, "")

    told = Told(loaded, prompts, settings, result, lossless, why, difference, lossy, unknown)
    (told.as_json if as_json else told.as_text)()
    if unsaved is not None:
        raise unsaved
    if out is not None and not as_json:
        click.echo(f"saved      {out}")


@dataclass(frozen=True, slots=True)
class Told:
    """What `run` prints of a run."""

    loaded: Loaded
    prompts: Sequence[str]
    settings: Settings
    result: Run
    lossless: bool | None  # against transformers' own model; None where that was not compared
    why: str  # it was not
    difference: str  # of --compute grouped
    lossy: Lossy | None  # what the rounding of experts changed; None: nothing is rounded, or not measured
    unknown: str  # why it was not

    @property
    def rows(self) -> list[tuple[int, ...]]:
        """Ids of the tokens that each prompt was given."""
        return self.result.outputs(len(self.prompts))

    @property
    def texts(self) -> list[str]:
        return [self.loaded.tokenizer.decode(row) for row in self.rows]

    def as_json(self) -> None:
        """One object, and beside it on standard error what was not compared."""
        from moeviz.numbers import metrics, output

        ids, text = [token for row in self.rows for token in row], "\n".join(self.texts)
        numbers = metrics.summary(self.result)
        one = output.one_run(self.loaded.name, self.settings, ids, text, numbers, self.lossless, self.lossy)
        click.echo(json.dumps(one))
        for sentence in filter(None, (self.why or self.difference, self.unknown)):
            click.echo(sentence, err=True)

    def as_text(self) -> None:
        from moeviz import words
        from moeviz.numbers import metrics

        for prompt, text in zip(self.prompts, self.texts, strict=True):
            click.echo(words.harmless(prompt + text) + "\n")
        click.echo(words.report(self.settings, metrics.summary(self.result), self.lossless))
        if self.why or self.difference:
            click.echo(self.difference or f"Logits {self.why}")
        if unpack_ms := self.loaded.tier.unpack_ms:
            click.echo(words.unpacking(unpack_ms, self.result.mean_copied, self.result.mean_bytes))
        if rounding := self.loaded.rounding:
            click.echo(words.lossy(self.lossy) if self.lossy else self.unknown or words.rounded(rounding))


def _saved(out: Path | None, trace: Trace, result: Run) -> tuple[str, Refused | None]:
    """Keeps a run where it was asked for: where it is now, in words, and why it is not. What the run said is
    told all the same."""
    kept, unsaved = "", None
    if out is not None:
        try:
            with writing(out):
                trace.save(out, result)
            kept = f"{out} holds the {many(len(result.output_ids), 'token')} captured."
        except Refused as error:
            unsaved, kept = error, error.message
        keeps(kept)
    return kept, unsaved


def _future(file: Path | None) -> Trace | None:
    if file is None:
        return None
    from moeviz.core.trace import Trace

    return Trace.load(file)

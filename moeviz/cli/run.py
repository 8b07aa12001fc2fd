"""`run` and `compare`: a real model, its experts in the slow tier.

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
from moeviz.cli.ending import Refused, Stopping, keeps, progress_line, refusing, writing
from moeviz.cli.meter import Meter
from moeviz.cli.options import (
    Place,
    json_option,
    model_options,
    out_option,
    registered,
    setting_option,
    settings_from,
    settings_of,
    settings_options,
)
from moeviz.core import machines
from moeviz.core.settings import BASELINES, Settings
from moeviz.errors import StoreError

if TYPE_CHECKING:
    from moeviz.core.run import Run
    from moeviz.core.trace import Trace
    from moeviz.engine.loader import Loaded
    from moeviz.engine.session import Options
    from moeviz.numbers.lossy import Lossy
    from moeviz.numbers.medians import Repeated


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
        loaded, options = prepare(model, others, [settings])
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


@registered
@click.command()
@model_options
@setting_option("seed", "Seed of the sampling, and of policy random.")
@click.option(
    "--setting",
    "texts",
    multiple=True,
    metavar="NAME=VALUE,...",
    help="policy=lru,slots=4[,prefetch=next-gate,...]; give one for each to compare.",
)
@click.option(
    "--baselines",
    default=",".join(BASELINES),
    show_default=True,
    help="What to measure them against: names with commas, or an empty string.",
)
@click.option(
    "--repeats",
    type=click.IntRange(1, 1_000),
    default=3,
    show_default=True,
    help="Measurements of each, interleaved.",
)
@json_option
def compare(
    model: str,
    prompts: tuple[str, ...],
    texts: tuple[str, ...],
    baselines: str,
    repeats: int,
    as_json: bool,
    **others: Any,
) -> None:
    """Measure several settings and baselines on the same text, interleaved and repeated.

    Every run is checked twice: its logits against those of transformers' own model with every expert in
    memory, where that fits, and its hits, misses and evictions against a replay of the trace. A baseline that
    does not fit in memory is left out.

    \b
    Example:
      python -m moeviz compare --prompt "In the beginning" \\
          --setting policy=lru,slots=4 --setting policy=lfu,slots=4 --setting policy=lfu,prefetch=next-gate
    """
    with refusing():
        seed = others["seed"]
        chosen = [settings_from(text, seed=seed) for text in texts or ("policy=lru", "policy=lfu")]
        chosen += [Settings(baseline=name.strip()) for name in baselines.split(",") if name.strip()]
        if not chosen:
            raise Refused("There is nothing to measure. Give a --setting, or name --baselines.")
        click.echo(_plan_of(len(chosen), repeats, others["max_new_tokens"]), err=True)
        loaded, options = prepare(model, others, chosen)
        from moeviz.core.replay import replay
        from moeviz.engine import exactness, measure

        chosen, left_out = measure.fitting(loaded, chosen)
        trace, runs, logits = _measured(loaded, prompts, chosen, repeats, options)
        why = exactness.not_verifiable(loaded)
        lossy, unknown = exactness.lossy_where_it_fits(loaded, trace)
        expected = None if why else exactness.reference(loaded, trace)
        ((recording,), *measured_runs) = runs.values()
        replays = [replay(trace, settings) for settings in chosen]

    from moeviz.numbers import medians, output

    repeated = [medians.repeated(several) for several in measured_runs]
    rows = [
        output.compared(
            settings,
            len(several[0].output_ids),
            found,
            None if expected is None else all(one == expected for one in logits[number]),
            all(one.same_decisions(again) for one in several),
        )
        for number, (settings, several, found, again) in enumerate(
            zip(chosen, measured_runs, repeated, replays, strict=True)
        )
    ]
    for sentence in filter(None, [*left_out, why, unknown]):
        click.echo(sentence, err=True)
    if as_json:
        own = recording.outputs(len(prompts))
        ids, text = [token for row in own for token in row], "\n".join(map(loaded.tokenizer.decode, own))
        click.echo(
            json.dumps(output.comparison(loaded.name, "\n".join(prompts), ids, text, repeats, rows, lossy))
        )
        return
    checks = [(row["lossless"], row["equals_replay"]) for row in rows]
    _tell(loaded, list(zip(chosen, repeated, strict=True)), checks, lossy, repeats, others["threads"])


def _plan_of(settings: int, repeats: int, tokens: int) -> str:
    """What a comparison is going to do; how long that takes is not known before one run is done."""
    runs = many(1 + repeats * settings, "run")
    return (
        f"{runs} of up to {many(tokens, 'token')}: one to record the text, and "
        f"{many(repeats, 'measurement')} of each of {many(settings, 'setting')}. "
        "About how long they take is said after the first."
    )


def _tell(
    loaded: Loaded,
    measured: Sequence[tuple[Settings, Repeated]],
    checks: Sequence[tuple[bool | None, bool]],
    lossy: Lossy | None,
    repeats: int,
    threads: int,
) -> None:
    """Prints a comparison: its table, of what the figures are, and the verdicts."""
    from moeviz import words
    from moeviz.cli.tables import comparison

    comparison(measured, checks)
    kind = str(loaded.dtype).removeprefix("torch.")
    click.echo(
        f"\nMedians of {words.many(repeats, 'run')} [least to most], decode only; {kind} on {loaded.device}, "
        f"{words.many(threads, 'thread')}. {words.tier(loaded.tier)}\n"
    )
    click.echo(words.comparison_verdict(measured))
    for said in filter(None, [words.best_value(measured), lossy and words.lossy(lossy)]):
        click.echo(said)


def _measured(
    loaded: Loaded, prompts: Sequence[str], chosen: Sequence[Settings], repeats: int, options: Options
) -> tuple[Trace, dict[int, list[Run]], dict[int, list[list[int]]]]:
    """The trace; and by the number of the Settings, -1 for the recording run, its runs and a checksum of each
    run's logits of each pass. Says meanwhile how far it is.
    """
    from moeviz.engine import exactness, measure

    runs: dict[int, list[Run]] = {number: [] for number in range(-1, len(chosen))}
    logits: dict[int, list[list[int]]] = {number: [] for number in runs}
    trace, of = None, 1 + repeats * len(chosen)
    with exactness.logits_seen(loaded) as seen, Meter("runs", quiet=True) as meter:
        meter(0, of)
        found = measure.compare(loaded, prompts, chosen, repeats, options)
        for done, (_, number, recorded, result) in enumerate(found, start=1):
            trace = recorded or trace
            runs[number].append(result)
            logits[number].append(seen.copy())
            seen.clear()
            meter(done, of)
    assert trace is not None
    return trace, runs, logits


def prepare(model: str, others: dict[str, Any], settings: list[Settings]) -> tuple[Loaded, Options]:
    """Loaded model and generation options of the shared flags. Raises ModelError or StoreError.

    `settings` are checked against the model and memory as soon as its size is known: SettingsError or
    ModelError before anything is packed.
    """
    machines.find(others["link"])  # what cannot be read is said before anything is loaded
    for one in settings:
        if one.needs_calibration:
            from moeviz.files.library import named_trace

            named_trace(one.calibration)
    from moeviz.engine.imports import import_engine

    import_engine()
    from moeviz.engine.loader import BUNDLED, load, use_threads
    from moeviz.engine.measure import paced
    from moeviz.engine.session import Options

    use_threads(others["threads"])
    options = Options(
        others["max_new_tokens"],
        others["temperature"],
        others["seed"],
        not others["past_end"],
        others["then"],
    )

    def progress(share: float, what: str) -> None:
        progress_line(f"{share:4.0%} {what}", share == 1)

    loaded = load(
        model or BUNDLED,
        tier=others["tier"],
        device=others["device"],
        dtype=others["dtype"],
        experts=others["experts"],
        progress=progress,
        settings=settings,
    )
    return paced(loaded, others["link"]), options

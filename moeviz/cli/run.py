"""`run` and `compare`: a real model, its experts in the slow tier.

python -m moeviz run --prompt "In the beginning" --policy lfu --slots 4
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import asdict, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

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
        from moeviz.engine import measure
        from moeviz.engine.planned import settle
        from moeviz.engine.session import generate

        measure.fitting(loaded, [settings])
        with Stopping() as stop, measure.logits_seen(loaded) as logits:
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
        kept, unsaved = "", None
        if out is not None:
            try:
                with writing(out):
                    trace.save(out, result)
                kept = f"{out} holds the {len(result.output_ids)} tokens that were captured."
            except Refused as error:  # what the run said is told all the same
                unsaved, kept = error, error.message
            keeps(kept)
        if cut is not None:
            raise StoreError(f"{cut} {kept}".strip())
        if stop():
            raise KeyboardInterrupt
        with suppress(OSError):  # what a later plan may want to know is no reason for a run to fail
            settle(trace, result, on_host=loaded.device.type == "cpu")
        lossless, why, difference = None, "", ""
        if compute == "grouped":
            difference = measure.grouped_difference(loaded, prompts, settings, options)
        elif verify and not (why := measure.not_verifiable(loaded)):
            lossless = measure.reference(loaded, trace) == logits
        lossy, unknown = measure.lossy_where_it_fits(loaded, trace) if verify else (None, "")

    from moeviz import words
    from moeviz.numbers import metrics, output

    rows = result.outputs(len(prompts))
    texts = [loaded.tokenizer.decode(row) for row in rows]
    numbers = metrics.summary(result)
    if as_json:
        ids = [token for row in rows for token in row]
        text = "\n".join(texts)
        click.echo(json.dumps(output.one_run(loaded.name, settings, ids, text, numbers, lossless, lossy)))
        for sentence in filter(None, (why or difference, unknown)):
            click.echo(sentence, err=True)
        if unsaved is not None:
            raise unsaved
        return
    for prompt, text in zip(prompts, texts, strict=True):
        click.echo(words.harmless(prompt + text) + "\n")
    click.echo(words.report(settings, numbers, lossless))
    if why or difference:
        click.echo(difference or f"Logits {why}")
    if unpack_ms := loaded.tier.unpack_ms:
        click.echo(words.unpacking(unpack_ms, result.mean_copied, result.mean_bytes))
    if loaded.rounding:
        click.echo(words.lossy(lossy) if lossy else unknown or words.rounded(loaded.rounding))
    if unsaved is not None:
        raise unsaved
    if out is not None:
        click.echo(f"saved      {out}")


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
        loaded, options = prepare(model, others, chosen)
        from moeviz.core.replay import replay
        from moeviz.engine import measure

        chosen, left_out = measure.fitting(loaded, chosen)
        trace, runs, logits = _measured(loaded, prompts, chosen, repeats, options)
        why = measure.not_verifiable(loaded)
        lossy, unknown = measure.lossy_where_it_fits(loaded, trace)
        expected = None if why else measure.reference(loaded, trace)
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
        values = {
            "model": loaded.name,
            "prompt": "\n".join(prompts),
            "text": "\n".join(map(loaded.tokenizer.decode, recording.outputs(len(prompts)))),
            "token_ids": [token for row in recording.outputs(len(prompts)) for token in row],
            "repeats": repeats,
            "lossy": asdict(lossy) if lossy else None,
            "results": rows,
        }
        click.echo(json.dumps(values))
        return
    from moeviz import words
    from moeviz.cli.tables import comparison

    measured = list(zip(chosen, repeated, strict=True))
    comparison(measured, [(row["lossless"], row["equals_replay"]) for row in rows])
    kind = str(loaded.dtype).removeprefix("torch.")
    click.echo(
        f"\nMedians of {repeats} runs [least to most], decode only; {kind} on {loaded.device}, "
        f"{others['threads']} thread(s). {words.tier(loaded.tier)}\n"
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
    from moeviz.engine import measure

    runs: dict[int, list[Run]] = {number: [] for number in range(-1, len(chosen))}
    logits: dict[int, list[list[int]]] = {number: [] for number in runs}
    trace, of = None, 1 + repeats * len(chosen)
    with measure.logits_seen(loaded) as seen, Meter("runs", quiet=True) as meter:
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

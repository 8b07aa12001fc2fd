"""`run` and `compare`: a real model, its experts in the slow tier.

python -m moeviz run --prompt "In the beginning" --policy lfu --slots 4
"""

from __future__ import annotations

import json
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from moeviz.cli.options import (
    Refused,
    Stopping,
    json_option,
    keeps,
    model_options,
    out_option,
    progress_line,
    refusing,
    registered,
    setting_option,
    settings_of,
    settings_options,
    writing,
)
from moeviz.core.settings import BASELINES, Settings

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
    type=click.Path(path_type=Path),
    help="Trace of this very run, for --policy belady or --prefetch oracle.",
)
@out_option("Save trace and run as a .moetrace file; an interrupted run keeps what it captured.")
@click.option(
    "--verify/--no-verify",
    default=True,
    show_default=True,
    help="Run again with every expert resident and compare the tokens (needs room for all experts).",
)
@json_option
def run(
    model: str,
    prompt: str,
    future: Path | None,
    out: Path | None,
    verify: bool,
    as_json: bool,
    **others: Any,
) -> None:
    """Generate text with the experts of MODEL in the slow tier, and report what the cache did and what it cost.

    MODEL is a folder that save_pretrained wrote or a hub id of any mixture-of-experts model that transformers serves; the bundled
    model if it is left out.

    \b
    Example: is LFU faster than LRU, and does guessing help?
      python -m moeviz run --prompt "In the beginning" --policy lfu --slots 4 --prefetch next-gate
    """
    with refusing():
        settings = settings_of(others)
        known = _future(future)
        loaded, options = prepare(model, others)
        from moeviz.engine import measure
        from moeviz.engine.session import generate

        with Stopping() as stop:
            known = known or measure.look_ahead(loaded, prompt, settings, options, stop)
            records = list(generate(loaded, prompt, settings, options, stop, known)) if not stop() else []
            if not records:
                raise KeyboardInterrupt
        trace, result = measure.to_recording(loaded, records, prompt, settings, options)
        if out is not None:
            with writing(out):
                trace.save(out, result)
            keeps(f"{out} holds the {len(result.output_ids)} tokens that were captured.")
        if stop():
            raise KeyboardInterrupt
        lossless = None
        if verify:
            _, resident = measure.record(loaded, prompt, measure.RESIDENT, options)
            lossless = resident.output_ids == result.output_ids

    from moeviz import words
    from moeviz.numbers import metrics, output

    text = loaded.tokenizer.decode(result.output_ids)
    numbers = metrics.summary(result)
    if as_json:
        ids = list(result.output_ids)
        click.echo(json.dumps(output.one_run(loaded.name, settings, ids, text, numbers, lossless)))
        return
    click.echo(prompt + text + "\n")
    click.echo(words.report(settings, numbers, lossless))
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
    prompt: str,
    texts: tuple[str, ...],
    baselines: str,
    repeats: int,
    as_json: bool,
    **others: Any,
) -> None:
    """Measure several settings and baselines on one prompt, interleaved and repeated.

    Every run is checked twice: its tokens against those of the run with all experts resident, and its hits, misses and evictions
    against a replay of the trace.

    \b
    Example:
      python -m moeviz compare --prompt "In the beginning" \\
          --setting policy=lru,slots=4 --setting policy=lfu,slots=4 --setting policy=lfu,slots=4,prefetch=next-gate
    """
    with refusing():
        seed = others["seed"]
        chosen = [Settings.parse(text, seed=seed) for text in texts or ("policy=lru", "policy=lfu")]
        chosen += [Settings(baseline=name.strip()) for name in baselines.split(",") if name.strip()]
        if not chosen:
            raise Refused("There is nothing to measure. Give a --setting, or name --baselines.")
        loaded, options = prepare(model, others)
        from moeviz.core.replay import replay
        from moeviz.engine import measure

        runs: list[list[Run]] = [[] for _ in chosen]
        trace, resident = None, None
        began = time.monotonic()
        for share, number, recorded, result in measure.compare(loaded, prompt, chosen, repeats, options):
            if number < 0:
                trace, resident = recorded, result
            else:
                runs[number].append(result)
            progress_line(f"{share:4.0%} of the runs{_left(began, share)}", share == 1)
        assert trace is not None
        assert resident is not None
        replays = [replay(trace, settings) for settings in chosen]

    from moeviz.numbers import metrics, output

    repeated = [metrics.repeated(several) for several in runs]
    rows = [
        output.compared(
            settings,
            len(several[0].output_ids),
            found,
            all(one.output_ids == resident.output_ids for one in several),
            all(one.same_decisions(again) for one in several),
        )
        for settings, several, found, again in zip(chosen, runs, repeated, replays, strict=True)
    ]
    if as_json:
        values = {
            "model": loaded.name,
            "prompt": prompt,
            "text": loaded.tokenizer.decode(resident.output_ids),
            "token_ids": list(resident.output_ids),
            "repeats": repeats,
            "results": rows,
        }
        click.echo(json.dumps(values))
        return
    from moeviz import words
    from moeviz.cli.tables import comparison

    measured = list(zip(chosen, repeated, strict=True))
    checks = [(row["lossless"], row["equals_replay"]) for row in rows]
    comparison(measured, checks)
    click.echo(
        f"\nMedians of {repeats} runs [least to most], decode only; {str(loaded.dtype).removeprefix('torch.')} on "
        f"{loaded.device}, {others['threads']} thread(s). {words.tier(loaded.tier)}\n"
    )
    click.echo(words.comparison_verdict(measured))
    if value := words.best_value(measured):
        click.echo(value)


def _left(began: float, share: float) -> str:
    from moeviz import words

    spent = time.monotonic() - began
    return "" if share in (0, 1) else f", about {words.seconds_left(spent / share - spent)} left"


def prepare(model: str, others: dict[str, Any]) -> tuple[Loaded, Options]:
    """Loaded model and generation options of the shared flags. Raises ModelError or StoreError."""
    from moeviz.engine.loader import BUNDLED, load, use_threads
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
        progress=progress,
    )
    return loaded, options

"""`compare`: several settings of a real model, measured side by side.

python -m moeviz compare --prompt "In the beginning" --setting policy=lru --setting policy=lfu
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import click

from moeviz.amounts import many
from moeviz.cli.ending import Refused, refusing
from moeviz.cli.loading import prepare
from moeviz.cli.meter import Meter
from moeviz.cli.options import json_option, model_options, registered, setting_option, settings_from
from moeviz.core.settings import BASELINES, Settings
from moeviz.core.suiting import named

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
        texts = texts or ("policy=lru", "policy=lfu")
        chosen = [settings_from(text, seed=seed) for text in texts]
        unnamed = {number for number, text in enumerate(texts) if "slots" not in named(text)}
        chosen += [Settings(baseline=name.strip()) for name in baselines.split(",") if name.strip()]
        if not chosen:
            raise Refused("There is nothing to measure. Give a --setting, or name --baselines.")
        click.echo(_plan_of(len(chosen), repeats, others["max_new_tokens"]), err=True)
        loaded, options, chosen = prepare(model, others, chosen, unnamed)
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
    click.echo(words.comparison_verdict(measured, typed=True))
    for said in filter(None, [words.best_value(measured, typed=True), lossy and words.lossy(lossy)]):
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

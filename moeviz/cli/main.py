"""The same work without a browser: run a model and capture its trace, compare settings, replay a trace, time moeviz itself.

python -m moeviz run --prompt "In the beginning" --policy lfu --slots 4 --out mine.moetrace
"""

from __future__ import annotations

import json
import os
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import fields
from pathlib import Path
from typing import TYPE_CHECKING, Any, NoReturn, TypeVar

import click

import moeviz.bench.timings
from moeviz.core.policies import POLICIES, load_policy
from moeviz.core.predictors import PREDICTORS
from moeviz.core.replay import replay as replay_trace
from moeviz.core.run import Run
from moeviz.core.settings import BASELINES, WARM, Settings
from moeviz.core.trace import MAX_EXPERTS, MAX_LAYERS, Trace
from moeviz.errors import (
    ExportError,
    PolicyError,
    SettingsError,
    TraceError,
)
from moeviz.files import exporters, importers, moecounts, moetrace
from moeviz.files.guarded import open_file
from moeviz.files.importers import Counted, Options
from moeviz.files.moetrace import write_atomically
from moeviz.numbers import metrics, routing
from moeviz.numbers.curves import bounds

if TYPE_CHECKING:
    from moeviz.engine.loader import Loaded
    from moeviz.engine.session import Options

F = TypeVar("F", bound=Callable[..., Any])


class Refused(click.ClickException):
    """One message on standard error, exit code 2."""

    exit_code = 2


@click.group(context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 110})
def main() -> None:
    """Runs a mixture-of-experts model whose experts do not fit in fast memory, and shows what a cache makes of it.

    \b
    Start here:
      python -m moeviz run --prompt "In the beginning"
      python -m moeviz compare --prompt "In the beginning" --setting policy=lru --setting policy=lfu
      python -m moeviz replay sample_traces/change-of-subject.moetrace --policy lfu --slots 3
    """


def model_options(command: F) -> F:
    """Options of every command that runs a model."""
    for option in reversed(
        [
            click.argument("model", required=False, default=""),
            click.option("--prompt", required=True, help="Text for the model to go on from."),
            click.option(
                "--max-new-tokens",
                type=click.IntRange(1),
                default=64,
                show_default=True,
                help="Tokens to generate.",
            ),
            click.option(
                "--temperature",
                type=click.FloatRange(0),
                default=0.7,
                show_default=True,
                help="0: the likeliest token.",
            ),
            click.option(
                "--seed",
                type=click.IntRange(0),
                default=0,
                show_default=True,
                help="Of the sampling and of policy random.",
            ),
            click.option(
                "--tier",
                type=click.Choice(["disk", "host"]),
                default="disk",
                show_default=True,
                help="Where all experts live.",
            ),
            click.option(
                "--device", default="auto", show_default=True, help="Fast tier: auto, cpu, cuda, ..."
            ),
            click.option(
                "--dtype",
                type=click.Choice(["auto", "float32", "bfloat16", "float16"]),
                default="auto",
                show_default=True,
                help="auto: float32 on a CPU, else the checkpoint's.",
            ),
            click.option(
                "--threads", type=click.IntRange(1), default=1, show_default=True, help="Of torch, on a CPU."
            ),
            click.option(
                "--then", default="", help="A change of subject: halfway this text is fed, token by token."
            ),
            click.option("--past-end", is_flag=True, help="Go on when the model ends its text."),
            click.option(
                "--json", "as_json", is_flag=True, help="One JSON object on standard output, for programs."
            ),
        ]
    ):
        command = option(command)
    return command


def settings_options(command: F) -> F:
    """Options of every command that takes one Settings."""
    for option in reversed(
        [
            click.option(
                "--policy",
                default="lru",
                show_default=True,
                help=f"Who leaves: {', '.join(POLICIES)}; or path.py:name, a file of yours.",
            ),
            click.option(
                "--slots",
                type=int,
                default=4,
                show_default=True,
                help="Experts that fit in the fast tier, per MoE layer or in all.",
            ),
            click.option(
                "--scope",
                default="layer",
                show_default=True,
                help="layer: each MoE layer owns its slots; model: one pool for all.",
            ),
            click.option(
                "--prefetch",
                default="none",
                show_default=True,
                help=f"Guess what a later layer needs: {', '.join(PREDICTORS)}.",
            ),
            click.option(
                "--lookahead",
                type=int,
                default=1,
                show_default=True,
                help="How many MoE layers ahead a guess is made.",
            ),
            click.option(
                "--width",
                type=int,
                default=0,
                show_default=True,
                help="Experts guessed; 0: as many as the router chooses.",
            ),
            click.option(
                "--threshold",
                type=float,
                default=0.0,
                help="next-gate: guess until the probabilities reach this, instead of --width.",
            ),
            click.option(
                "--warm",
                default="cold",
                show_default=True,
                help=f"What is resident at the start: {', '.join(WARM)}.",
            ),
            click.option(
                "--calibration",
                default="",
                help="Trace file or sample for --policy static and --warm calibrated.",
            ),
            click.option(
                "--half-life", type=int, default=64, show_default=True, help="Tokens; of policy lfu-aged."
            ),
            click.option("--baseline", default="", help=f"Instead of a cache: {', '.join(BASELINES)}."),
        ]
    ):
        command = option(command)
    return command


def settings_of(options: dict[str, Any]) -> Settings:
    """Settings of the flags. Raises SettingsError or PolicyError."""
    known = {field.name for field in fields(Settings)}
    load_policy(options["policy"])
    return Settings(**{name: value for name, value in options.items() if name in known})


@main.command()
@model_options
@settings_options
@click.option(
    "--future",
    type=click.Path(path_type=Path),
    help="Trace of this very run, for --policy belady or --prefetch oracle.",
)
@click.option(
    "--out", type=click.Path(dir_okay=False, path_type=Path), help="Save trace and run as a .moetrace file."
)
@click.option(
    "--verify/--no-verify",
    default=True,
    show_default=True,
    help="Run again with every expert resident and compare the tokens (needs room for all experts).",
)
def run(
    model: str, prompt: str, future: Path | None, out: Path | None, verify: bool, as_json: bool, **others: Any
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
        known = Trace.load(future) if future else None
        if out is not None and not out.parent.is_dir():
            raise Refused(f"The folder {out.parent} for --out does not exist. Make it, or choose another.")
        loaded, options = prepare(model, others)
        from moeviz.engine import measure

        known = known or measure.look_ahead(loaded, prompt, settings, options)
        trace, result = measure.record(loaded, prompt, settings, options, future=known)
        lossless = None
        if verify:
            _, resident = measure.record(loaded, prompt, measure.RESIDENT, options)
            lossless = resident.output_ids == result.output_ids
        if out is not None:
            trace.save(out, result)
    text = loaded.tokenizer.decode(result.output_ids)
    values = {
        "model": loaded.name,
        "settings": settings.to_dict(),
        "tokens": len(result.output_ids),
        "text": text,
        "token_ids": list(result.output_ids),
        **metrics.summary(result),
        "lossless": lossless,
    }
    if as_json:
        click.echo(json.dumps(values))
        return
    click.echo(prompt + text + "\n")
    click.echo(report(settings, values))
    if out is not None:
        click.echo(f"saved      {out}")


@main.command()
@model_options
@click.option(
    "--setting",
    "texts",
    multiple=True,
    help="policy=lru,slots=4[,prefetch=next-gate,...]; give one for each to compare.",
)
@click.option(
    "--baselines",
    default="resident,on-demand,whole-layer",
    show_default=True,
    help="Comma-separated, or an empty string.",
)
@click.option(
    "--repeats",
    type=click.IntRange(1),
    default=3,
    show_default=True,
    help="Measurements of each, interleaved.",
)
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
        chosen = [Settings.parse(text) for text in texts or ("policy=lru", "policy=lfu")]
        chosen += [Settings(baseline=name.strip()) for name in baselines.split(",") if name.strip()]
        loaded, options = prepare(model, others)
        from moeviz.engine import measure

        runs: dict[int, list[Run]] = {number: [] for number in range(len(chosen))}
        trace, resident = None, None
        for share, number, recorded, result in measure.compare(loaded, prompt, chosen, repeats, options):
            if number < 0:
                trace, resident = recorded, result
            else:
                runs[number].append(result)
            if sys.stderr.isatty():
                click.echo(f"\r{share:4.0%} of the runs", nl=share == 1, err=True)
    assert trace is not None
    assert resident is not None
    rows = []
    for number, settings in enumerate(chosen):
        again = replay_trace(trace, settings)
        rows.append(
            {
                "label": settings.label,
                "settings": settings.to_dict(),
                "tokens": len(runs[number][0].output_ids),
                **metrics.repeated(runs[number]),
                "lossless": all(one.output_ids == resident.output_ids for one in runs[number]),
                "equals_replay": all(one.same_decisions(again) for one in runs[number]),
            }
        )
    text = loaded.tokenizer.decode(resident.output_ids)
    values = {
        "model": loaded.name,
        "prompt": prompt,
        "text": text,
        "token_ids": list(resident.output_ids),
        "repeats": repeats,
        "results": rows,
    }
    if as_json:
        click.echo(json.dumps(values))
        return
    click.echo(comparison_table(rows))
    tier = rows[0]["tier"]
    click.echo(
        f"\nmedians of {repeats} runs [least to most], decode only; {str(loaded.dtype).removeprefix('torch.')} on {loaded.device}, {others['threads']} thread(s); "
        f"slow tier {tier['kind']}: {tier['latency_ms']:.2f} ms, {tier['gigabytes_per_second']:.2f} GB/s"
    )


@main.command()
@click.argument("file", type=click.Path(path_type=Path))
@settings_options
@click.option("--seed", type=click.IntRange(0), default=0, show_default=True, help="Of policy random.")
@click.option("--json", "as_json", is_flag=True, help="One JSON object on standard output, for programs.")
def replay(file: Path, as_json: bool, **others: Any) -> None:
    """What would a cache have done? Replays a .moetrace FILE under any settings, without the model.

    The router's choices do not depend on the cache, so hits, misses and evictions are exactly those of a live run. Times are not:
    they are null here.

    \b
    Example:
      python -m moeviz replay sample_traces/change-of-subject.moetrace --policy lfu --slots 3
    """
    with refusing():
        settings = settings_of(others)
        trace, recorded = moetrace.load(file)
        result = replay_trace(trace, settings)
        bound = bounds(trace, settings, recorded)
    ids = list(recorded.output_ids) if recorded else trace.token_ids[trace.phase == 1].tolist()
    values = {
        "model": trace.model,
        "settings": settings.to_dict(),
        "tokens": len(ids),
        "text": "".join(trace.texts),
        "token_ids": ids,
        **metrics.summary(result),
        "lossless": None,
        "bounds": bound,
        "routing": routing.summary(trace, settings.prefetch, settings.width, settings.threshold),
    }
    if as_json:
        click.echo(json.dumps(values))
        return
    click.echo(report(settings, values))
    kinds = values["miss_kinds"]
    click.echo("misses     " + ", ".join(f"{count} {kind}" for kind, count in kinds.items()))
    if bound["belady_hit_ratio"] is not None:
        click.echo(f"bound      belady, which knows the future, would hit {bound['belady_hit_ratio']:.1%}")


@main.command("import")
@click.argument("source", type=click.Path(path_type=Path))
@click.option(
    "--format",
    "kind",
    default="",
    help=f"One of {', '.join(importers.format_names())}, or path.py:name of your own; found by the content if left out.",
)
@click.option(
    "--experts",
    type=int,
    default=0,
    help="Experts of each layer, where the source does not say how many.",
)
@click.option(
    "--prompt-tokens",
    type=int,
    default=-1,
    help="Tokens of each request that are its prompt, where the source does not say.",
)
@click.option("--axes", default="", help="Axes of an array, for example layer,token,k; found out if left out.")
@click.option("--top-k", type=int, default=0, help="Experts that a token uses, where the source holds all routers' numbers.")
@click.option(
    "--out",
    type=click.Path(dir_okay=False, path_type=Path),
    required=True,
    help="The .moetrace file to write, or the .moecounts where the source only counts.",
)
def import_(source: Path, kind: str, experts: int, prompt_tokens: int, axes: str, top_k: int, out: Path) -> None:
    """Turn the trace of another tool into a .moetrace file, or its counts into a .moecounts file.

    What a file is shows in its content; .gz and .zst are unpacked. Nothing in it is run, and it is read in a process of its own with
    limits on memory and time. What was left out or had to be assumed is reported, and kept in the trace. Counts (which token used which
    expert is not said) serve as calibration of the policy static and of warm starts.

    \b
    Examples:
      python -m moeviz import routed.npy --experts 32 --out routed.moetrace
      python -m moeviz import recorded.pt --out recorded.moetrace
      python -m moeviz import counts.csv --experts 64 --out popular.moecounts
    """
    with refusing():
        found = open_file(source, Options(experts, prompt_tokens, axes, top_k), kind)
        for line in found.report:
            click.echo(f"note       {line}")
        if isinstance(found, Counted):
            if out.suffix != moecounts.SUFFIX:
                raise TraceError(
                    f"{source.name} holds counts, not a trace ({found.format}): which token used which expert is not said, so no "
                    f"cache can be replayed. Give --out {out.with_suffix(moecounts.SUFFIX).name} to keep them as calibration."
                )
            write_atomically(out, moecounts.to_bytes(found.counts))
            shape = f"{found.counts.layers} MoE layers of {found.counts.num_experts} experts"
        else:
            if out.suffix == moecounts.SUFFIX:
                raise TraceError(f"{source.name} holds a trace. Give --out {out.with_suffix('.moetrace').name}.")
            trace = found.trace
            trace.save(out, found.run)
            requests = f" of {len(trace.sequences())} requests" if trace.sequence is not None else ""
            shape = (
                f"{trace.tokens:,} tokens{requests}, {trace.layers} MoE layers of {trace.num_experts} experts, {trace.k} per token"
            )
    click.echo(f"saved      {out}: {found.format}, {shape}")


@main.command()
@click.argument("file", type=click.Path(path_type=Path))
@settings_options
@click.option("--seed", type=click.IntRange(0), default=0, show_default=True, help="Of policy random.")
@click.option(
    "--format",
    "kind",
    type=click.Choice(list(exporters.EXPORTERS)),
    required=True,
    help="; ".join(f"{name}: {one.what}" for name, one in exporters.EXPORTERS.items()),
)
@click.option(
    "--recorded",
    is_flag=True,
    help="The run recorded in FILE with its measured times, instead of a replay under the settings given.",
)
@click.option(
    "--out", type=click.Path(dir_okay=False, path_type=Path), required=True, help="The file to write."
)
def export(file: Path, kind: str, recorded: bool, out: Path, **others: Any) -> None:
    """Write a trace and what a cache did on it for other tools, or for people: a report is one page that any browser opens offline.

    \b
    Examples:
      python -m moeviz export sample_traces/bible.moetrace --recorded --format perfetto --out bible.json
      python -m moeviz export sample_traces/bible.moetrace --policy lfu --slots 3 --format report --out bible.html
    """
    with refusing():
        settings = settings_of(others)
        trace, own = moetrace.load(file)
        if recorded and own is None:
            raise TraceError(f"{file.name} holds no recorded run. Leave out --recorded to export a replay.")
        result = own if recorded and own is not None else replay_trace(trace, settings)
        beside = Path(os.path.relpath(file, out.parent)) if kind == "notebook" else file
        write_atomically(out, exporters.content(kind, trace, result, own, beside.as_posix()))
    click.echo(f"saved      {out}: {result.settings.label}, {'measured' if result.measured else 'replayed'}")


@main.command()
@click.argument("files", nargs=-1, required=True, type=click.Path(path_type=Path))
@click.option(
    "--policies",
    default="lru,lfu,belady",
    show_default=True,
    help=f"all, or some of {', '.join(POLICIES)}, with commas.",
)
@click.option(
    "--slots",
    default="all",
    show_default=True,
    help="all, or counts and ranges: 2,4,8 or 2-8; per layer, or in all.",
)
@click.option(
    "--scope",
    type=click.Choice(["layer", "model", "both"]),
    default="layer",
    show_default=True,
    help="Slots per layer, or shared.",
)
@click.option(
    "--prefetch",
    default="none",
    show_default=True,
    help=f"all, or some of {', '.join(PREDICTORS)}, with commas.",
)
@click.option(
    "--lookahead",
    type=click.IntRange(1),
    default=1,
    show_default=True,
    help="How many MoE layers ahead a guess is made.",
)
@click.option(
    "--width",
    type=click.IntRange(0),
    default=0,
    show_default=True,
    help="Experts guessed; 0: as many as the router chooses.",
)
@click.option("--jobs", type=click.IntRange(1), help="Local processes; left out: one for each core.")
@click.option(
    "--dask",
    "address",
    default="",
    help="Instead: the scheduler of a Dask cluster whose workers see the files under the same paths.",
)
@click.option(
    "--out",
    type=click.Path(dir_okay=False, path_type=Path),
    required=True,
    help="The table to write or to go on with (parquet).",
)
def sweep(
    files: tuple[Path, ...],
    policies: str,
    slots: str,
    scope: str,
    prefetch: str,
    lookahead: int,
    width: int,
    jobs: int | None,
    address: str,
    out: Path,
) -> None:
    """Replay many traces under many settings into one table, a row per trace x settings.

    FILES are .moetrace files, or folders of them. A sweep that was cut off goes on where it was when the same command is given
    again; more files or policies are added to the table. A file that is no trace is reported and skipped. static is calibrated on
    the trace itself.

    \b
    Example:
      python -m moeviz sweep sample_traces --policies all --prefetch none,next-gate --out table.parquet
    """
    from moeviz import sweep as sweeps

    with refusing():
        plan = sweeps.Plan(
            tuple(POLICIES) if policies == "all" else _names(policies),
            ("layer", "model") if scope == "both" else (scope,),
            tuple(PREDICTORS) if prefetch == "all" else _names(prefetch),
            lookahead,
            width,
            _counts(slots),
        )
        found = [
            one for file in files for one in (sorted(file.glob("*.moetrace")) if file.is_dir() else [file])
        ]
        if not out.parent.is_dir():
            raise Refused(f"The folder {out.parent} for --out does not exist. Make it, or choose another.")
        shown = sys.stderr.isatty()

        def progress(done: int, of: int) -> None:
            if shown or done * 10 // of > (done - 1) * 10 // of:
                click.echo(
                    f"{chr(13) if shown else ''}{done:,} of {of:,} settings replayed",
                    nl=not shown or done == of,
                    err=True,
                )

        with sweeps.executor(jobs, address) as executor:
            table = sweeps.sweep(
                found, plan, out, executor, lambda line: click.echo(line, err=True), progress
            )
    click.echo(
        f"saved      {out}: {len(table):,} rows of {table['digest'].nunique() if len(table) else 0:,} traces"
    )


def _names(text: str) -> tuple[str, ...]:
    return tuple(dict.fromkeys(name.strip() for name in text.split(",") if name.strip()))


def _counts(text: str) -> tuple[int, ...]:
    """2,4,8 or 2-8 as numbers; all: none named. Raises Refused."""
    if text == "all":
        return ()
    found: set[int] = set()
    for part in text.split(","):
        first, _, last = part.strip().partition("-")
        if (
            not first.isdecimal()
            or not (last or first).isdecimal()
            or len(part) > 12
            or int(last or first) < int(first)
        ):
            raise Refused(f"--slots {text!r} is no list of counts. Write all, 2,4,8 or 2-8.")
        if int(last or first) > MAX_EXPERTS * MAX_LAYERS:
            raise Refused(f"--slots {text!r}: no model has so many experts.")
        found |= set(range(int(first), int(last or first) + 1))
    return tuple(sorted(found))


@main.group()
def bench() -> None:
    """Times moeviz itself: ratios within one run, with median, least and most.

    \b
    Example:
      python -m moeviz bench engine
    """


@bench.command("engine")
@click.option("--repeats", type=click.IntRange(1), default=5, show_default=True, help="Rounds, interleaved.")
@click.option("--tokens", type=click.IntRange(2), default=100, show_default=True, help="To generate in each.")
def bench_engine(repeats: int, tokens: int) -> None:
    """What recording the routers' guesses costs the bundled model."""
    show(moeviz.bench.timings.engine(repeats, tokens))


@bench.command("loading")
def bench_loading() -> None:
    """Peak memory of loading a model of 600 MB, against what has to be in memory."""
    show(moeviz.bench.timings.loading())


@bench.command("replay")
@click.option("--repeats", type=click.IntRange(1), default=5, show_default=True, help="Rounds, interleaved.")
@click.option(
    "--tokens",
    type=click.IntRange(2),
    default=511,
    show_default=True,
    help="Of a made-up trace of 24 layers, top-4 of 32 experts.",
)
@click.option(
    "--trace", "file", type=click.Path(path_type=Path), help="A .moetrace file instead of the made-up trace."
)
def bench_replay(repeats: int, tokens: int, file: Path | None) -> None:
    """Every policy at every slot count, one replay, and cachetools on the same accesses."""
    with refusing():
        trace = Trace.load(file) if file else None
    show(moeviz.bench.timings.replaying(repeats, tokens, trace))


@bench.command("pages")
@click.option(
    "--tokens",
    type=click.IntRange(2),
    default=100_000,
    show_default=True,
    help="Of a made-up trace of 24 layers, top-4 of 32 experts.",
)
@click.option("--repeats", type=click.IntRange(1), default=3, show_default=True, help="Rounds.")
def bench_pages(tokens: int, repeats: int) -> None:
    """Seconds that each Explore page takes to be made, on the samples and on a long trace."""
    show(moeviz.bench.timings.pages(tokens, repeats))


@bench.command("fuzz")
@click.option(
    "--files", type=click.IntRange(1), default=2_000, show_default=True, help="Mutated files of each format."
)
@click.option("--seed", type=click.IntRange(0), default=0, show_default=True, help="Of the mutations.")
def bench_fuzz(files: int, seed: int) -> None:
    """Mutated files through the importer: accepted whole or refused, how slow and how large at worst."""
    from moeviz.bench.fuzz import fuzz

    show(fuzz(files, seed))


@bench.command("board")
@click.option("--repeats", type=click.IntRange(1), default=3, show_default=True, help="Runs.")
@click.option("--seconds", type=click.FloatRange(1), default=5.0, show_default=True, help="Watched in each.")
def bench_board(repeats: int, seconds: float) -> None:
    """Pictures per second of the board while a model generates (needs Chromium)."""
    show(moeviz.bench.board(seconds, repeats))


def show(values: dict[str, Any]) -> None:
    """A line a number; spreads as median [least to most]."""
    for name, value in values.items():
        if isinstance(value, dict):
            value = f"{value['median']:.4g} [{value['least']:.4g} to {value['most']:.4g}]"
        click.echo(f"{name:52} {value if isinstance(value, str) else format(value, '.4g')}")


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
    progress: Callable[[float, str], None] = lambda share, what: None  # noqa: E731
    if sys.stderr.isatty():
        progress = lambda share, what: click.echo(f"\r\033[K{share:4.0%} {what}", nl=share == 1, err=True)  # noqa: E731
    loaded = load(
        model or BUNDLED,
        tier=others["tier"],
        device=others["device"],
        dtype=others["dtype"],
        progress=progress,
    )
    return loaded, options


@contextmanager
def refusing() -> Iterator[None]:
    """Turns what a user can mend into one message and exit code 2."""
    try:
        yield
    except (SettingsError, PolicyError, TraceError, ExportError) as error:
        raise Refused(str(error)) from None
    except (ValueError, RuntimeError) as error:
        _refuse_if_ours(error)
    except OSError as error:
        raise Refused(f"{error.filename or 'The file'}: {error.strerror or error}.") from None


def _refuse_if_ours(error: Exception) -> NoReturn:
    """The engine's errors, told apart here because importing them would load torch for every command."""
    if type(error).__name__ in ("ModelError", "StoreError", "SweepError"):
        raise Refused(str(error)) from None
    raise error


def report(settings: Settings, values: dict[str, Any]) -> str:
    """The numbers that people ask for first."""
    lines = [f"settings   {settings.label}"]
    for phase in ("decode", "prefill"):
        part = values[phase]
        if part["accesses"]:
            late = f", {part['late_hits']} late" if part["late_hits"] else ""
            lines.append(
                f"{phase:10} {part['hit_ratio']:.1%} of {part['accesses']} accesses hit{late}, {part['misses']} missed"
            )
    useful, wasted = values["bytes_prefetch_useful"], values["bytes_prefetch_wasted"]
    guessed = f", guesses {useful / 1e6:.1f} useful and {wasted / 1e6:.1f} wasted" if useful or wasted else ""
    lines.append(
        f"moved MB   demand {values['bytes_demand'] / 1e6:.1f}{guessed}; fast tier holds {values['fast_tier_bytes'] / 1e6:.1f}"
    )
    if values["tokens_per_second"]:
        lines.append(
            f"speed      {values['tokens_per_second']:.1f} tokens/s, first token after {values['ttft_ms']:.0f} ms, then "
            f"{values['tpot_ms_median']:.1f} ms each (p95 {values['tpot_ms_p95']:.1f})"
        )
        lines.append(
            f"per token  experts compute {values['compute_ms_per_token']:.1f} ms, stall {values['stall_ms_per_token']:.1f} ms, "
            f"link busy {values['transfer_ms_per_token']:.1f} ms"
        )
    if tier := values["tier"]:
        past = ", past the page cache" if tier["page_cache_bypassed"] else ""
        lines.append(
            f"slow tier  {tier['kind']}: {tier['latency_ms']:.2f} ms per expert, {tier['gigabytes_per_second']:.2f} GB/s{past}"
        )
    if values["lossless"] is not None:
        same = "the same as" if values["lossless"] else "NOT those of"
        lines.append(f"tokens     {same} the run with every expert resident")
    return "\n".join(lines)


def comparison_table(rows: list[dict[str, Any]]) -> str:
    """Plain text, a line per settings."""
    head = f"{'settings':32} {'tokens/s':>20} {'stall ms':>9} {'hit ratio':>9} {'MB moved':>9} {'tokens':>7} {'replay':>7}"
    lines = [head, "-" * len(head)]
    for row in rows:
        least, most = row["spread"]["tokens_per_second"] or (0, 0)
        moved = row["bytes_demand"] + row["bytes_prefetch_useful"] + row["bytes_prefetch_wasted"]
        speed = f"{row['tokens_per_second'] or 0:.1f} [{least:.1f} to {most:.1f}]"
        ratio = row["decode"]["hit_ratio"]
        lines.append(
            f"{row['label']:32} {speed:>20} {row['stall_ms_per_token'] or 0:9.1f} {'-' if ratio is None else f'{ratio:.3f}':>9} "
            f"{moved / 1e6:9.1f} {'same' if row['lossless'] else 'DIFFER':>7} {'equal' if row['equals_replay'] else 'DIFFERS':>7}"
        )
    return "\n".join(lines)

"""Runs for people and programs: one recorded run, or several Settings measured side by side.

for step in compare(load(), "In the beginning", [Settings(policy="lru"), Settings(policy="lfu")], repeats=3, options=Options()):
    ...
"""

from __future__ import annotations

import platform
from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path

import torch
import transformers

from moeviz.core.run import Run
from moeviz.core.settings import Settings
from moeviz.core.trace import Trace
from moeviz.engine.loader import Loaded
from moeviz.engine.records import ModelFacts, PassRecord, recording
from moeviz.engine.session import Options, generate

RESIDENT = Settings(baseline="resident")


def facts(loaded: Loaded) -> ModelFacts:
    """What a trace and a page need to know of a loaded model."""
    layout = loaded.store.layout
    return ModelFacts(
        name=loaded.name,
        revision=loaded.revision,
        layer_indices=tuple(layer.index for layer in loaded.layers),
        experts=loaded.experts,
        k=loaded.k,
        expert_bytes=layout.expert_bytes,
        context=loaded.context,
        device=str(loaded.device),
        dtype=str(loaded.dtype).removeprefix("torch."),
        tier=loaded.tier,
        versions={
            "torch": torch.__version__,
            "transformers": transformers.__version__,
            "python": platform.python_version(),
            "machine": _machine(loaded.device),
            "threads": str(torch.get_num_threads()),
        },
    )


def record(
    loaded: Loaded,
    prompt: str,
    settings: Settings,
    options: Options,
    stop: Callable[[], bool] = lambda: False,
    future: Trace | None = None,
) -> tuple[Trace, Run]:
    """One run from start to end, as `generate`. Raises SettingsError or ModelError."""
    records = list(generate(loaded, prompt, settings, options, stop, future))
    return to_recording(loaded, records, prompt, settings, options)


def look_ahead(
    loaded: Loaded,
    prompt: str,
    settings: Settings,
    options: Options,
    stop: Callable[[], bool] = lambda: False,
) -> Trace | None:
    """A trace of the run to come, recorded with every expert resident, for settings that have to know the future; else None."""
    if not settings.needs_future:
        return None
    return record(loaded, prompt, RESIDENT, replace(options, guesses=False), stop)[0]


def to_recording(
    loaded: Loaded, records: Sequence[PassRecord], prompt: str, settings: Settings, options: Options
) -> tuple[Trace, Run]:
    now = datetime.now(UTC).isoformat(timespec="seconds")
    return recording(records, facts(loaded), settings, prompt, options.seed, now)


def compare(
    loaded: Loaded,
    prompt: str,
    settings: Sequence[Settings],
    repeats: int,
    options: Options,
    stop: Callable[[], bool] = lambda: False,
) -> Iterator[tuple[float, int, Trace | None, Run]]:
    """Measures every Settings `repeats` times, interleaved: all once, all again, each round starting one further.

    First a run with all experts resident records the trace and warms up; it is yielded as number -1 and is no measurement. Then
    measured runs, which record no guesses beyond what they use; those that have to know the future are given the trace. Yields (share done, number of the Settings, trace or None, run);
    nothing more once `stop` says so.
    """
    for one in settings:  # before anything runs
        one.check(len(loaded.layers), loaded.experts, loaded.k, loaded.store.layout.expert_bytes)
    total = 1 + repeats * len(settings)
    trace, resident = record(loaded, prompt, RESIDENT, options, stop)
    yield 1 / total, -1, trace, resident
    quiet = replace(options, guesses=False)
    done = 1
    for round_number in range(repeats):
        for place in range(len(settings)):
            number = (place + round_number) % len(settings)
            records = list(generate(loaded, prompt, settings[number], quiet, stop, trace))
            if stop():
                return
            _, run = to_recording(loaded, records, prompt, settings[number], quiet)
            done += 1
            yield done / total, number, None, run


def _machine(device: torch.device) -> str:
    """Name of what computes."""
    if device.type == "cuda":
        return torch.cuda.get_device_name(device)
    if device.type != "cpu":
        return str(device)
    cpuinfo = Path("/proc/cpuinfo")
    if cpuinfo.exists():
        for line in cpuinfo.read_text(errors="replace").splitlines():
            if line.startswith("model name"):
                return line.partition(":")[2].strip()
    return platform.processor() or platform.machine()

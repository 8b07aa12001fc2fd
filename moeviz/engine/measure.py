"""Runs for people and programs: one recorded run, or several Settings measured side by side.

for step in compare(load(), "In the beginning", [Settings(policy="lru"), Settings(policy="lfu")], repeats=3,
options=Options()):
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

from moeviz.core import machines
from moeviz.core.run import Run
from moeviz.core.settings import Settings
from moeviz.core.trace import Trace
from moeviz.engine import memory, tier_time
from moeviz.engine.loader import Loaded
from moeviz.engine.records import ModelFacts, PassRecord, Prompt, recording
from moeviz.engine.session import COMPUTE, Options, generate
from moeviz.errors import ModelError

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
        link_bytes=layout.link_bytes if layout.packing else 0,
        context=loaded.context,
        device=str(loaded.device),
        dtype=str(loaded.dtype).removeprefix("torch."),
        tier=loaded.tier,
        rounding=loaded.rounding,
        versions={
            "torch": torch.__version__,
            "transformers": transformers.__version__,
            "python": platform.python_version(),
            "machine": _machine(loaded.device),
            "threads": str(torch.get_num_threads()),
        }
        | ({"notes": "; ".join(loaded.notes)} if loaded.notes else {}),
    )


def record(
    loaded: Loaded,
    prompt: Prompt,
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
    prompt: Prompt,
    settings: Settings,
    options: Options,
    stop: Callable[[], bool] = lambda: False,
) -> Trace | None:
    """A trace of the run to come, for settings that have to know the future; else None, as where `stop` said
    so before anything was recorded.

    It is recorded in the slots that the run itself will have, so it fits wherever the run does, and over no
    paced link, which changes nothing that is chosen.
    """
    if not settings.needs_future:
        return None
    recorded = _recorded(loaded, prompt, [settings], replace(options, guesses=False), stop)
    return recorded and recorded[0]


def _recorded(
    loaded: Loaded,
    prompt: Prompt,
    settings: Sequence[Settings],
    options: Options,
    stop: Callable[[], bool],
) -> tuple[Trace, Run] | None:
    """A recording for these settings over no paced link; None where it was stopped before its first pass."""
    loaded, chosen = paced(loaded, ""), recording_settings(settings)
    records = list(generate(loaded, prompt, chosen, options, stop))
    return to_recording(loaded, records, prompt, chosen, options) if records else None


def recording_settings(settings: Sequence[Settings]) -> Settings:
    """How to record a trace for these settings in no more memory than one of them takes: lru, in its
    slots."""
    for one in settings:
        if not one.baseline:
            return Settings(slots=one.slots, scope=one.scope, budget=one.budget)
    return Settings(baseline="on-demand")


def paced(loaded: Loaded, link: str) -> Loaded:
    """The same model behind a link that is paced to `link`, as `machines.find` takes it. Raises
    SettingsError or ModelError."""
    pace = machines.find(link)
    if pace == loaded.link:
        return loaded
    if pace is not None and loaded.device.type != "cpu":
        raise ModelError(
            f"A paced link copies into host memory, but the fast tier is {loaded.device}. Choose device cpu, "
            "or no link."
        )
    hardware = loaded.hardware
    tier = tier_time.measure(
        loaded.store, hardware.copier(loaded.store), hardware.unpacker(loaded.store), pace, hardware.overlaps
    )
    return replace(loaded, link=pace, tier=tier)


def fitting(loaded: Loaded, settings: Sequence[Settings]) -> tuple[list[Settings], list[str]]:
    """Settings that fit in the fast tier, and a sentence for every baseline that is left out because it does
    not.

    Raises ModelError where settings that are no baseline do not fit, or none at all.
    """
    return memory.fitting(settings, loaded.store.layout, loaded.k, loaded.device)


def to_recording(
    loaded: Loaded, records: Sequence[PassRecord], prompt: Prompt, settings: Settings, options: Options
) -> tuple[Trace, Run]:
    now = datetime.now(UTC).isoformat(timespec="seconds")
    found = facts(loaded)
    if options.compute != COMPUTE[0]:
        found.versions["compute"] = f"{options.compute}, not lossless"
    return recording(records, found, settings, prompt, options.seed, now)


def compare(
    loaded: Loaded,
    prompt: Prompt,
    settings: Sequence[Settings],
    repeats: int,
    options: Options,
    stop: Callable[[], bool] = lambda: False,
) -> Iterator[tuple[float, int, Trace | None, Run]]:
    """Measures every Settings `repeats` times, interleaved: all once, all again, each round starting one
    further.

    First a run under lru records the trace and warms up, over no slower link than there is, since no link
    changes what is chosen; it is yielded as number -1 and is no measurement. Then measured runs, which record
    no guesses beyond what they use; those that have to know the future are given the trace. Yields (share
    done, number of the Settings, trace or None, run); nothing more once `stop` says so. What does not fit is
    for `fitting` to say before.
    """
    for one in settings:  # before anything runs
        one.check(*loaded.shape)
    total = 1 + repeats * len(settings)
    recorded = _recorded(loaded, prompt, settings, options, stop)
    if recorded is None:
        return
    trace = recorded[0]
    yield 1 / total, -1, *recorded
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

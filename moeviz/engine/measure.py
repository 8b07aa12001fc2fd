"""Runs for people and programs: one recorded run, or several Settings measured side by side.

for step in compare(load(), "In the beginning", [Settings(policy="lru"), Settings(policy="lfu")], repeats=3,
options=Options()):
    ...
"""

from __future__ import annotations

import gc
import platform
import time
import zlib
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import numpy as np
import torch
import transformers
from numpy.typing import NDArray

from moeviz.core import machines
from moeviz.core.run import Run
from moeviz.core.settings import Settings
from moeviz.core.trace import PREFILL, Trace
from moeviz.engine import memory, tier_time
from moeviz.engine.loader import Loaded
from moeviz.engine.memory import lacking, resident_bytes
from moeviz.engine.outline import configuration
from moeviz.engine.records import ModelFacts, PassRecord, Prompt, recording
from moeviz.engine.serving import Serving
from moeviz.engine.session import COMPUTE, Batch, Options, generate, only_the_last_logits
from moeviz.engine.sources import cast, own
from moeviz.engine.store import HostStore
from moeviz.errors import ModelError, StoreError
from moeviz.numbers.lossy import Lossy, difference

RESIDENT = Settings(baseline="resident")
_COMPARED = 128  # tokens on which rounding is compared: their logits are all held at once
Logits = list[int]  # a checksum of the logits of each forward pass's last token


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


def grouped_difference(loaded: Loaded, prompt: Prompt, settings: Settings, options: Options) -> str:
    """How far the logits of each prompt's last token are from those of experts computed one by one where the
    experts of a layer are computed by one product, in words. Raises what `generate` raises.
    """
    last: list[torch.Tensor] = []
    hook = loaded.model.register_forward_hook(
        lambda module, args, output: last.append(output.logits[:, -1].float().cpu())
    )
    try:
        for compute in COMPUTE:
            one = replace(options, max_new_tokens=1, guesses=False, compute=compute)
            list(generate(loaded, prompt, recording_settings([settings]), one))
    finally:
        hook.remove()
    exact, other = last
    apart, largest = float((exact - other).abs().max()), float(exact.abs().max())
    return (
        "The experts of a layer are computed by one product, which is not lossless: the logits after the "
        f"prompt differ from those of experts computed one by one by at most {apart:.1e}, where the largest "
        f"is {largest:.3g}."
    )


@contextmanager
def logits_seen(loaded: Loaded) -> Iterator[Logits]:
    """Within the block, a checksum of the last token's logits of every forward pass is appended to the list
    that it gives."""
    seen: Logits = []

    def see(module: object, args: object, output: Any) -> None:
        seen.append(_checksum(output.logits))

    hook = loaded.model.register_forward_hook(see)
    try:
        yield seen
    finally:
        hook.remove()


def not_verifiable(loaded: Loaded) -> str:
    """Why `reference` cannot run, in words; empty where it can."""
    if loaded.rounding:
        return f"not those of transformers' own model: the experts are rounded to {loaded.rounding}."
    why = lacking(loaded.device, resident_bytes(loaded))
    return f"not verified: transformers' own model with every expert in memory {why}." if why else ""


def reference(loaded: Loaded, trace: Trace, stop: Callable[[], bool] = lambda: False) -> Logits | None:
    """What transformers itself gives for the tokens of a trace: the checkpoint by `from_pretrained`, all in
    memory, eager experts.

    A run is lossless where `logits_seen` saw the same. None where `stop` said so. Ask `not_verifiable`
    before.
    """
    model: Any = type(loaded.model)
    model = model.from_pretrained(
        str(loaded.folder),
        config=configuration(loaded.folder),  # of the text part, where the checkpoint holds more
        dtype=loaded.dtype,
        experts_implementation="eager",
        trust_remote_code=False,
    )
    model = model.to(loaded.device).eval()
    cast(model, {name: value.dtype for name, value in loaded.model.named_parameters()})
    own(model)
    # the logits are asked for as the run asks: other shapes may give other bits
    past, found = None, []
    batch = None
    for tokens in trace.passes():
        if stop():
            return None
        ids = trace.token_ids[tokens]
        if batch is None:
            rows = [ids] if trace.sequence is None else _rows(ids, trace.sequence[tokens])
            batch = Batch([row.tolist() for row in rows], loaded)
        else:
            batch.go_on(ids.tolist())
        with torch.inference_mode():
            output = model(
                **batch.inputs(), past_key_values=past, use_cache=True, **only_the_last_logits(model)
            )
        past = output.past_key_values
        found.append(_checksum(output.logits))
    del model, output, past
    gc.collect()
    return found


def lossy_where_it_fits(loaded: Loaded, trace: Trace) -> tuple[Lossy | None, str]:
    """`lossy`, or None and why it was not measured; None and nothing where nothing is rounded."""
    if not loaded.rounding:
        return None, ""
    try:
        return lossy(loaded, trace), ""
    except (ModelError, StoreError) as error:
        return None, str(error)


def lossy(loaded: Loaded, trace: Trace) -> Lossy:
    """What rounding changes on the first tokens of a trace's first request: the model against itself without
    rounding.

    The experts without rounding are filled into a slow tier for it. Raises StoreError where a disk has no
    room for them, ModelError where memory has none.
    """
    assert loaded.exact_store is not None
    if isinstance(loaded.store, HostStore):
        layout = loaded.store.layout
        why = lacking(torch.device("cpu"), layout.layers * layout.experts * layout.expert_bytes)
        if why:
            raise ModelError(f"What rounding changes is not measured: the experts without it {why}.")
    if trace.sequence is not None:
        trace = trace.of_sequence(int(trace.sequence[0]))
    exact = replace(loaded, store=loaded.exact_store(), rounding="")
    ids = trace.token_ids[:_COMPARED].tolist()
    try:
        logits, experts = _in_one_pass(loaded, ids)
        exact_logits, exact_experts = _in_one_pass(exact, ids)
    finally:
        exact.store.close()
    return difference(loaded.rounding, logits, exact_logits, experts, exact_experts)


def _in_one_pass(loaded: Loaded, ids: list[int]) -> tuple[NDArray[np.float32], NDArray[np.int16]]:
    """Logits [token, vocabulary] and choices [token, layer, k] of a text that is read as a prompt."""
    serving = Serving(loaded, Settings(slots=loaded.k), guesses=False)
    serving.start()
    try:
        start = time.perf_counter_ns()
        serving.begin_pass(PREFILL, len(ids))
        with torch.inference_mode():
            output = loaded.model(input_ids=torch.tensor([ids], device=loaded.device), use_cache=False)
        record = serving.end_pass(ids, ids[-1:], start)
    finally:
        serving.close()
    return output.logits[0].cpu().float().numpy(), np.array(record.experts, np.int16)


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
        one.check(len(loaded.layers), loaded.experts, loaded.k, loaded.store.layout.expert_bytes)
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


def _rows(ids: NDArray[np.int32], sequence: NDArray[np.int16]) -> list[NDArray[np.int32]]:
    """The tokens of each prompt of a batch."""
    return np.split(ids, np.flatnonzero(np.diff(sequence)) + 1)


def _checksum(logits: torch.Tensor) -> int:
    """Of the bits of the last token's logits. logits: [prompt, token, vocabulary]"""
    return zlib.crc32(logits[:, -1].contiguous().cpu().view(torch.uint8).numpy())


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

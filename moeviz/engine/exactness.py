"""What a run's logits are held against: transformers' own model with every expert in memory, the same model
without rounding, and experts computed one by one.

    with logits_seen(loaded) as logits:
        trace, run = record(loaded, "In the beginning", Settings("lfu"), Options())
    logits == reference(loaded, trace)      # lossless
"""

from __future__ import annotations

import gc
import time
import zlib
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from moeviz.core.settings import Settings
from moeviz.core.trace import PREFILL, Trace
from moeviz.engine.loader import Loaded
from moeviz.engine.measure import recording_settings
from moeviz.engine.memory import lacking, resident_bytes
from moeviz.engine.outline import configuration
from moeviz.engine.records import Prompt
from moeviz.engine.serving import Serving
from moeviz.engine.session import COMPUTE, Batch, Options, generate, only_the_last_logits
from moeviz.engine.sources import cast, own
from moeviz.engine.store import HostStore
from moeviz.errors import ModelError, StoreError
from moeviz.numbers.lossy import Lossy, difference

_COMPARED = 128  # tokens on which rounding is compared: their logits are all held at once
Logits = list[int]  # a checksum of the logits of each forward pass's last token


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


def _rows(ids: NDArray[np.int32], sequence: NDArray[np.int16]) -> list[NDArray[np.int32]]:
    """The tokens of each prompt of a batch."""
    return np.split(ids, np.flatnonzero(np.diff(sequence)) + 1)


def _checksum(logits: torch.Tensor) -> int:
    """Of the bits of the last token's logits. logits: [prompt, token, vocabulary]"""
    return zlib.crc32(logits[:, -1].contiguous().cpu().view(torch.uint8).numpy())

"""Generates text with a loaded model whose experts stand in an expert cache: the live counterpart of
`moeviz.core.replay`.

Prompt in, one record of each forward pass out. How experts are cached, copied and computed is the business of
`moeviz.engine.serving`.

    for record in generate(load(), "In the beginning", Settings(policy="lfu"), Options(max_new_tokens=20)):
        print(record.next_text, end="")
"""

from __future__ import annotations

import inspect
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass

import numpy as np
import torch
from torch import nn

from moeviz.core.settings import Settings
from moeviz.core.trace import DECODE, PREFILL, Trace
from moeviz.engine.hardware import Hardware
from moeviz.engine.loader import Loaded
from moeviz.engine.records import PassRecord
from moeviz.engine.serving import Serving
from moeviz.errors import ModelError

COMPUTE = ("one-by-one", "grouped")  # how the experts of a layer are computed; the first is lossless


@dataclass(frozen=True, slots=True)
class Options:
    """What to generate, apart from how experts are cached."""

    max_new_tokens: int = 64
    temperature: float = 0.7  # 0: the likeliest token each time
    seed: int = 0
    stop_at_end: bool = True  # of the model's text
    then: str = ""  # a change of subject: fed halfway, token by token, instead of what the model chooses
    guesses: bool = True  # record the routers' guesses in the trace; costs up to three more routers per layer
    compute: str = COMPUTE[0]


def generate(
    loaded: Loaded,
    prompt: str,
    settings: Settings,
    options: Options,
    stop: Callable[[], bool] = lambda: False,
    future: Trace | None = None,
) -> Iterator[PassRecord]:
    """Runs prompt and generation; one PassRecord per forward pass, the first for the whole prompt.

    `stop` is asked before every pass; `future` is a trace of the same run, for settings that have to know it.
    Raises SettingsError or ModelError before anything runs, and SettingsError where the run departs from its
    future.
    """
    ids = encode(loaded, prompt, options)
    script = list(loaded.tokenizer(options.then)["input_ids"]) if options.then else []
    if options.compute not in COMPUTE:
        raise ModelError(f"compute {options.compute!r} is not known. Choose one of {', '.join(COMPUTE)}.")
    serving = Serving(loaded, settings, future, options.guesses, options.compute == "grouped")
    return _generate(loaded, ids, script, serving, options, stop)


def encode(loaded: Loaded, prompt: str, options: Options) -> list[int]:
    """Token ids of a prompt. Raises ModelError where it is empty or too long."""
    ids = loaded.tokenizer(prompt)["input_ids"] if prompt.strip() else []
    if not ids:
        raise ModelError("The prompt is empty. Write a few words for the model to go on from.")
    if options.max_new_tokens < 1:
        raise ModelError(f"{options.max_new_tokens} new tokens were asked for. Ask for at least 1.")
    if len(ids) + options.max_new_tokens > loaded.context:
        raise ModelError(
            f"The prompt is too long: {len(ids)} tokens and {options.max_new_tokens} new ones are more than "
            f"the {loaded.context} that "
            f"the model can take. Shorten the prompt or ask for fewer tokens."
        )
    return list(ids)


def _generate(
    loaded: Loaded,
    ids: list[int],
    script: list[int],
    serving: Serving,
    options: Options,
    stop: Callable[[], bool],
) -> Iterator[PassRecord]:
    sampler = torch.Generator().manual_seed(options.seed)
    past = None  # the model makes its own cache in the first pass
    last_only = only_the_last_logits(loaded.model)
    ends = _ends(loaded) if options.stop_at_end else set()
    turn = options.max_new_tokens // 2  # where the script begins
    serving.start()
    try:
        for number in range(options.max_new_tokens):
            if stop():
                return
            start = time.perf_counter_ns()
            serving.begin_pass(DECODE if number else PREFILL, len(ids))
            with torch.inference_mode():
                inputs = loaded.hardware.upload(np.array([ids]))
                output = loaded.model(input_ids=inputs, past_key_values=past, use_cache=True, **last_only)
                past = output.past_key_values
                chosen = _choose(output.logits[0, -1], options.temperature, sampler, loaded.hardware)
            if 0 <= number - turn < len(script):
                chosen = script[number - turn]
            record = serving.end_pass(ids, chosen, start)
            yield record
            if chosen in ends and not (script and number < turn):
                return
            ids = [chosen]
    finally:
        serving.close()


def only_the_last_logits(model: nn.Module) -> dict[str, int]:
    """What asks a model for the logits of the last token alone, where its forward can be asked."""
    return {"logits_to_keep": 1} if "logits_to_keep" in inspect.signature(model.forward).parameters else {}


def _choose(logits: torch.Tensor, temperature: float, sampler: torch.Generator, hardware: Hardware) -> int:
    if temperature <= 0:
        return int(hardware.read(logits.argmax())[0])
    (found,) = hardware.read(logits.float())
    probability = (torch.from_numpy(found) / temperature).softmax(-1)
    return int(torch.multinomial(probability, 1, generator=sampler))


def _ends(loaded: Loaded) -> set[int]:
    ends = getattr(loaded.model.generation_config, "eos_token_id", None)
    return set(ends) if isinstance(ends, list) else {ends} - {None}

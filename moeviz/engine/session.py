"""Generates text with a loaded model whose experts stand in an expert cache: the live counterpart of
`moeviz.core.replay`.

Prompt in, one record of each forward pass out. How experts are cached, copied and computed is the business of
`moeviz.engine.serving`.

    for record in generate(load(), "In the beginning", Settings(policy="lfu"), Options(max_new_tokens=20)):
        print(record.next_texts[0], end="")
"""

from __future__ import annotations

import inspect
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import nn

from moeviz.core.settings import Settings
from moeviz.core.trace import DECODE, PREFILL, Trace
from moeviz.engine.hardware import Hardware
from moeviz.engine.loader import Loaded
from moeviz.engine.outline import unlike_tokenizer
from moeviz.engine.records import PassRecord, Prompt, prompts_of
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


MOST_PROMPTS = 16  # of a batch


def generate(
    loaded: Loaded,
    prompt: Prompt,
    settings: Settings,
    options: Options,
    stop: Callable[[], bool] = lambda: False,
    future: Trace | None = None,
) -> Iterator[PassRecord]:
    """Runs prompt and generation; one PassRecord per forward pass, the first for the whole prompt.

    Several prompts run as one batch, padded on the left, until the last of them has ended: every pass then
    needs the experts of all of them. `stop` is asked before every pass; `future` is a trace of the same run,
    for settings that have to know it. Raises SettingsError or ModelError before anything runs, and
    SettingsError where the run departs from its future.
    """
    batch = Batch([encode(loaded, one, options) for one in prompts_of(prompt)], loaded)
    script = list(loaded.tokenizer(options.then)["input_ids"]) if options.then else []
    if script and len(batch.ids) > 1:
        raise ModelError("A change of subject (then) goes with one prompt. Leave it out, or give one prompt.")
    if options.compute not in COMPUTE:
        raise ModelError(f"compute {options.compute!r} is not known. Choose one of {', '.join(COMPUTE)}.")
    serving = Serving(loaded, settings, future, options.guesses, options.compute == "grouped")
    return passes(loaded, batch, script, serving, options, stop)


def encode(loaded: Loaded, prompt: str, options: Options) -> list[int]:
    """Token ids of a prompt. Raises ModelError where it is empty or too long."""
    ids = loaded.tokenizer(prompt)["input_ids"] if prompt.strip() else []
    if not ids:
        raise ModelError("The prompt is empty. Write a few words for the model to go on from.")
    if why := unlike_tokenizer(loaded.model.config, ids):
        raise ModelError(f"{loaded.name}: {why}")
    if options.max_new_tokens < 1:
        raise ModelError(f"{options.max_new_tokens} new tokens were asked for. Ask for at least 1.")
    if len(ids) + options.max_new_tokens > loaded.context:
        raise ModelError(
            f"The prompt is too long: {len(ids)} tokens and {options.max_new_tokens} new ones are more than "
            f"the {loaded.context} that "
            f"the model can take. Shorten the prompt or ask for fewer tokens."
        )
    return list(ids)


class Batch:
    """Token ids of prompts that go through a model together: what enters it in the first pass and in every
    pass after it. Of one prompt, what it would be without a batch.

    Raises ModelError for no prompt or too many, and for a model that takes no attention mask.
    """

    def __init__(self, ids: Sequence[list[int]], loaded: Loaded) -> None:
        if not 1 <= len(ids) <= MOST_PROMPTS:
            raise ModelError(f"{len(ids)} prompts were given. Give 1 to {MOST_PROMPTS}.")
        self.ids = [list(row) for row in ids]  # of the next pass
        self._upload = loaded.hardware.upload
        self._padding = getattr(loaded.tokenizer, "pad_token_id", None) or 0
        width = max(map(len, ids))
        self._mask = np.array([[0] * (width - len(row)) + [1] * len(row) for row in ids])
        taken = inspect.signature(loaded.model.forward).parameters
        self._takes_positions = "position_ids" in taken
        if len(ids) > 1 and "attention_mask" not in taken:
            raise ModelError(
                f"{type(loaded.model).__name__} takes no attention mask, so prompts of a batch would see "
                "each other's padding. Give one prompt at a time."
            )

    @property
    def tokens(self) -> list[int]:
        """Of the next pass, without padding."""
        return [token for row in self.ids for token in row]

    @property
    def sequence(self) -> list[int]:
        """The prompt that each of `tokens` is of; empty where there is one."""
        if len(self.ids) == 1:
            return []
        return [number for number, row in enumerate(self.ids) for _ in row]

    @property
    def real(self) -> list[int] | None:
        """The rows of `tokens` among all that enter the model; None where nothing is padding."""
        lengths = {len(row) for row in self.ids}
        if len(lengths) == 1:
            return None
        return np.flatnonzero(self._mask[:, -max(lengths) :]).tolist()  # type: ignore[no-any-return]

    def inputs(self) -> dict[str, torch.Tensor]:
        """What the next pass is called with."""
        width = max(map(len, self.ids))
        rows = np.array([[self._padding] * (width - len(row)) + row for row in self.ids])
        if len(self.ids) == 1:
            return {"input_ids": self._upload(rows)}
        found = {"input_ids": rows, "attention_mask": self._mask}
        if self._takes_positions:
            found["position_ids"] = np.maximum(self._mask.cumsum(1) - 1, 0)[:, -width:]
        return {name: self._upload(np.ascontiguousarray(array)) for name, array in found.items()}

    def go_on(self, chosen: Sequence[int]) -> None:
        """Each prompt is followed by one more token."""
        self.ids = [[token] for token in chosen]
        self._mask = np.pad(self._mask, ((0, 0), (0, 1)), constant_values=1)


def passes(
    loaded: Loaded,
    batch: Batch,
    script: list[int],
    serving: Serving,
    options: Options,
    stop: Callable[[], bool] = lambda: False,
) -> Iterator[PassRecord]:
    """The forward passes of a run that `serving` serves. `script`: tokens fed from the middle on instead of
    what the model chooses; empty: none."""
    sampler = torch.Generator().manual_seed(options.seed)
    past = None  # the model makes its own cache in the first pass
    last_only = only_the_last_logits(loaded.model)
    ends = _ends(loaded) if options.stop_at_end else set()
    turn = options.max_new_tokens // 2  # where the script begins
    going = set(range(len(batch.ids)))  # prompts that have not ended
    serving.start()
    try:
        for number in range(options.max_new_tokens):
            if stop():
                return
            start = time.perf_counter_ns()
            tokens = batch.tokens
            serving.begin_pass(DECODE if number else PREFILL, len(tokens), batch.real)
            with torch.inference_mode():
                output = loaded.model(**batch.inputs(), past_key_values=past, use_cache=True, **last_only)
                past = output.past_key_values
                chosen = [
                    _choose(logits, options.temperature, sampler, loaded.hardware)
                    for logits in output.logits[:, -1]
                ]
            if 0 <= number - turn < len(script):
                chosen = [script[number - turn]]
            record = serving.end_pass(tokens, chosen, start, batch.sequence)
            yield record
            if not (script and number < turn):
                going -= {row for row, token in enumerate(chosen) if token in ends}
            if not going:
                return
            batch.go_on(chosen)
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

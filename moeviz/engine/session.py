"""Runs a loaded model through an expert cache and records every event: the live counterpart of `moeviz.core.replay`.

The cache decides, the link copies, this module waits and computes. It plugs into transformers' experts interface and calls each
architecture's own expert code, one expert at a time, on the weights that stand in a slot.

    for record in generate(load(), "In the beginning", Settings(policy="lfu"), Options(max_new_tokens=20)):
        print(record.next_text, end="")
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import nn
from transformers import DynamicCache
from transformers.integrations.moe import ALL_EXPERTS_FUNCTIONS

from moeviz.core.cache import NOBODY, ExpertCache, Load
from moeviz.core.oracle import knowledge
from moeviz.core.predictors import RouterGuess
from moeviz.core.settings import Settings
from moeviz.core.trace import DECODE, PREFILL, Trace
from moeviz.engine.experts import forward_for, on_slot
from moeviz.engine.link import DeviceLink, HostLink, Ticket, slots_for
from moeviz.engine.loader import Loaded
from moeviz.engine.records import PassRecord
from moeviz.errors import ModelError, SettingsError

LOOKAHEADS = 3  # guesses that a trace holds: for 1, 2 and 3 layers ahead
GUESSES = (
    8  # at least so many per layer, or all experts, so that a replay can try other widths and thresholds
)


@dataclass(frozen=True, slots=True)
class Options:
    """What to generate, apart from how experts are cached."""

    max_new_tokens: int = 64
    temperature: float = 0.7  # 0: the likeliest token each time
    seed: int = 0
    stop_at_end: bool = True  # of the model's text
    then: str = ""  # a change of subject: halfway this text is fed, token by token, instead of what the model would choose
    guesses: bool = True  # record the routers' guesses in the trace; costs up to three more routers per layer


def generate(
    loaded: Loaded,
    prompt: str,
    settings: Settings,
    options: Options,
    stop: Callable[[], bool] = lambda: False,
    future: Trace | None = None,
) -> Iterator[PassRecord]:
    """Runs prompt and generation; one PassRecord per forward pass, the first for the whole prompt.

    `stop` is asked before every pass; `future` is a trace of the same run, for settings that have to know it. Raises SettingsError or
    ModelError before anything runs, and SettingsError where the run departs from its future.
    """
    ids = encode(loaded, prompt, options)
    script = list(loaded.tokenizer(options.then)["input_ids"]) if options.then else []
    serving = Serving(loaded, settings, options, future)
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
            f"The prompt is too long: {len(ids)} tokens and {options.max_new_tokens} new ones are more than the {loaded.context} that "
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
    past = DynamicCache(config=loaded.model.config)
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
                inputs = torch.tensor([ids], device=loaded.device)
                logits = loaded.model(
                    input_ids=inputs, past_key_values=past, use_cache=True, logits_to_keep=1
                ).logits[0, -1]
                chosen = _choose(logits, options.temperature, sampler)
            if 0 <= number - turn < len(script):
                chosen = script[number - turn]
            record = serving.end_pass(ids, chosen, start)
            yield record
            if chosen in ends and not (script and number < turn):
                return
            ids = [chosen]
    finally:
        serving.close()


def _choose(logits: torch.Tensor, temperature: float, sampler: torch.Generator) -> int:
    if temperature <= 0:
        return int(logits.argmax())
    probability = (logits.float().cpu() / temperature).softmax(-1)
    return int(torch.multinomial(probability, 1, generator=sampler))


def _ends(loaded: Loaded) -> set[int]:
    ends = getattr(loaded.model.generation_config, "eos_token_id", None)
    return set(ends) if isinstance(ends, list) else {ends} - {None}


class HostClock:
    """Stamps of a CPU: nanoseconds."""

    def stamp(self) -> Any:
        return time.perf_counter_ns()

    def start(self) -> None:
        self._zero = time.perf_counter_ns()

    def ready(self, stamp: Any) -> bool:
        return stamp is not None

    def nanoseconds(self, stamp: Any) -> int:
        """Since the run began."""
        return int(stamp) - self._zero


class DeviceClock:
    """Stamps of an accelerator: events on its stream, read when they have passed, so that a stamp makes nothing wait."""

    def __init__(self, device: torch.device) -> None:
        self._device = device

    def stamp(self) -> Any:
        event = torch.Event(self._device, enable_timing=True)
        event.record(torch.accelerator.current_stream(self._device))
        return event

    def start(self) -> None:
        self._zero = self.stamp()

    def ready(self, stamp: Any) -> bool:
        return stamp is not None and bool(stamp.query())

    def nanoseconds(self, stamp: Any) -> int:
        stamp.synchronize()
        return int(self._zero.elapsed_time(stamp) * 1e6)


class Serving:
    """One run: cache, slots and link, called by the experts modules while the model computes."""

    def __init__(
        self, loaded: Loaded, settings: Settings, options: Options, future: Trace | None = None
    ) -> None:
        count = len(loaded.layers)
        size = loaded.store.layout.expert_bytes
        known = knowledge(settings, future)
        self.cache = ExpertCache(settings, count, loaded.experts, loaded.k, known, size)
        self._loaded = loaded
        self._settings = settings
        self._lookaheads = _lookaheads(settings, options, count)
        self._width = min(loaded.experts, max(2 * loaded.k, self.cache.width, GUESSES))
        by_routers = settings.by_routers
        if by_routers and any(layer.router is None for layer in loaded.layers):
            raise SettingsError(
                "prefetch 'next-gate' needs the layers' routers, which were not found in this model. Choose another."
            )
        self._by_routers = by_routers
        self._guesses_recorded = options.guesses
        self._needs_probabilities = options.guesses or (by_routers and settings.threshold > 0)
        self._on_host = loaded.device.type == "cpu"
        self._clock = HostClock() if self._on_host else DeviceClock(loaded.device)
        self._forward = forward_for(loaded.layers[0].experts, loaded.store.layout, loaded.device)
        self._link: HostLink | None = None

    # a run

    def start(self) -> None:
        """Takes the slots, plugs into the model."""
        loaded = self._loaded
        self._link = HostLink(loaded.store) if self._on_host else DeviceLink(loaded.store, loaded.device)
        self._slots = [
            slots_for(loaded.store, self.cache.slots, loaded.device) for _ in range(self.cache.pools)
        ]
        self._modules: dict[
            tuple[int, int], nn.Module
        ] = {}  # (layer, slot) -> the experts module on that slot's weights
        self._open_tickets: list[Ticket] = []
        self._fill()
        self._hooks = []
        for number, layer in enumerate(loaded.layers):
            layer.experts.moeviz = (self, number)
            if layer.router is not None:
                self._hooks.append(layer.router.register_forward_pre_hook(self._keep_router_input(number)))
        loaded.model.set_experts_implementation("moeviz")
        self._router_input: list[torch.Tensor | None] = [None] * len(loaded.layers)
        self._clock.start()

    def close(self) -> None:
        """Gives the slots back and leaves the model as it was."""
        if self._link is None:
            return
        self._link.close()
        self._link = None
        for hook in self._hooks:
            hook.remove()
        for layer in self._loaded.layers:
            del layer.experts.moeviz
        self._loaded.model.set_experts_implementation("eager")
        self._slots.clear()
        self._modules.clear()

    def begin_pass(self, phase: int, tokens: int) -> None:
        self.cache.begin_pass(phase, tokens)
        self._phase = phase
        self._stamps: list[tuple[Any, list[tuple[Any, Any]], list[tuple[Any, Any]]]] = []  # of each event
        self._chosen: list[tuple[list[list[int]], list[list[float]]]] = []  # per layer
        self._guesses: dict[tuple[int, int], RouterGuess] = {}  # (layer it is for, lookahead)

    def end_pass(self, ids: list[int], chosen: int, start: int) -> PassRecord:
        """The pass as plain data. Its last token has been read, so every stamp of it has passed.

        The time of the pass ends when its record is complete: what recording costs is part of it.
        """
        clock, recorder = self._clock, self.cache.recorder
        recorder.time_events(
            (
                clock.nanoseconds(began),
                sum(clock.nanoseconds(b) - clock.nanoseconds(a) for a, b in stalls),
                sum(clock.nanoseconds(b) - clock.nanoseconds(a) for a, b in computes),
            )
            for began, stalls, computes in self._stamps
        )
        decode = self._loaded.tokenizer.decode
        record = PassRecord(
            phase=self._phase,
            token_ids=ids,
            texts=[decode([token]) for token in ids],
            experts=_by_token([rows for rows, _ in self._chosen]),
            weights=_by_token([weights for _, weights in self._chosen]),
            guess=self._guess_rows(len(ids), lambda guess: guess.experts, -1),
            guess_probability=self._guess_rows(len(ids), lambda guess: guess.probabilities, 0.0),
            rows={},
            copies=self._finished_copies(),
            next_id=chosen,
            next_text=decode([chosen]),
        )
        recorder.time_pass(time.perf_counter_ns() - start)
        record.rows = recorder.take()
        return record

    # an event

    def serve(
        self, number: int, module: nn.Module, hidden: torch.Tensor, index: torch.Tensor, weights: torch.Tensor
    ) -> torch.Tensor:
        """Output of the experts of one MoE layer. hidden: [token, hidden]; index, weights: [token, k]"""
        assert self._link is not None
        began = self._clock.stamp()
        ids = index.cpu().numpy()
        chosen, chosen_weights = _strongest_first(ids, weights.float().cpu().numpy())
        waves = self.cache.demand(number, chosen, chosen_weights)
        late: set[int] = set()
        stalls: list[tuple[Any, Any]] = []
        computes: list[tuple[Any, Any]] = []
        parts: dict[int, tuple[Any, torch.Tensor]] = {}  # expert -> its tokens, its contribution to them
        for wave in waves:
            for load in wave.loads:
                self._submit(load)
            if wave is waves[-1]:
                self._note_guesses(number)
                for load in self.cache.speculate(number, self._routers_for(number)):
                    self._submit(load)
            slots = self._slots[self.cache.pool(number)]
            waiting = {expert for expert in wave.hits if self._link.is_late(slots[wave.slots[expert]])}
            late |= waiting
            ready = [expert for expert in wave.hits if expert not in waiting]
            for expert in [
                *ready,
                *(e for e in wave.hits if e in waiting),
                *(load.expert for load in wave.loads),
            ]:
                slot = wave.slots[expert]
                if expert not in ready:
                    before = self._clock.stamp()
                    self._link.wait(slots[slot])
                    stalls.append((before, self._clock.stamp()))
                rank, token = np.nonzero(
                    expert == ids.T
                )  # in the order of the eager code: by rank, then by token
                if not token.size:
                    continue  # whole-layer copies experts that nobody asked for
                before = self._clock.stamp()
                if len(ids) == 1:
                    part = self._forward(
                        self._module(number, slot, module), hidden, weights[:, rank[0] : rank[0] + 1]
                    )
                else:
                    rows = torch.from_numpy(token).to(hidden.device)
                    own = weights[rows, torch.from_numpy(rank).to(hidden.device), None]
                    part = self._forward(self._module(number, slot, module), hidden[rows], own)
                parts[expert] = token, part
                computes.append((before, self._clock.stamp()))
        before = self._clock.stamp()
        # In id order, whatever the slot or the wave: the resident model adds in that order, and sums of floats depend on it.
        out = torch.zeros_like(hidden)
        for expert in sorted(parts):
            token, part = parts[expert]
            if len(ids) == 1:
                out += part
            else:
                out.index_add_(0, torch.from_numpy(token).to(hidden.device), part)
        computes.append((before, self._clock.stamp()))

        if late:
            self.cache.recorder.late(late)
        self._stamps.append((began, stalls, computes))
        self._chosen.append((chosen, chosen_weights))
        return out

    def _module(self, number: int, slot: int, module: nn.Module) -> nn.Module:
        """The layer's experts module on a slot's weights."""
        if (number, slot) not in self._modules:
            record = self._slots[self.cache.pool(number)][slot]
            self._modules[number, slot] = on_slot(module, self._loaded.store.layout, record)
        return self._modules[number, slot]

    def _submit(self, load: Load) -> None:
        assert self._link is not None
        self._open_tickets.append(
            self._link.submit(load, self._slots[self.cache.pool(load.layer)][load.slot])
        )

    def _fill(self) -> None:
        """Copies who is resident from the start, before the clock runs."""
        assert self._link is not None
        for number, expert, slot in self.cache.initial:
            room = self._slots[self.cache.pool(number)][slot]
            self._link.submit(Load(number, expert, slot, NOBODY, -1, False), room)
            self._link.wait(room)

    # guesses

    def _keep_router_input(self, number: int) -> Callable[..., None]:
        def hook(module: nn.Module, args: tuple[Any, ...]) -> None:
            self._router_input[number] = args[0]

        return hook

    def _note_guesses(self, number: int) -> None:
        """Applies the routers of the next layers to what entered this layer's router."""
        entering = self._router_input[number]
        for d in self._lookaheads:
            target = number + d
            if target >= len(self._loaded.layers) or entering is None:
                continue
            router = self._loaded.layers[target].router
            if router is None:
                continue
            logits, chosen_weights, chosen = router(entering)
            # the router's own choice first (some add biases or groups to their logits), the others by their logits
            key = logits.double()
            key = key.scatter(1, chosen, 1e6 + chosen_weights.double())
            experts = key.topk(self._width, dim=1).indices
            # rounded as a trace stores them, so that a replay reaches a threshold where the run did
            probabilities = (
                logits.float().softmax(-1).gather(1, experts).half().tolist()
                if self._needs_probabilities
                else None
            )
            self._guesses[target, d] = RouterGuess(experts.tolist(), probabilities)

    def _routers_for(self, number: int) -> RouterGuess | None:
        d = self._settings.lookahead
        return self._guesses.get((number + d, d)) if self._by_routers else None

    def _guess_rows(
        self, tokens: int, of: Callable[[RouterGuess], Any], none: float
    ) -> list[list[list[list[Any]]]]:
        """[token, layer, lookahead, rank]; no lookaheads where guesses are not recorded."""
        ahead = range(1, LOOKAHEADS + 1) if self._guesses_recorded else ()
        empty = [none] * self._width
        return [
            [
                [of(self._guesses[layer, d])[token] if (layer, d) in self._guesses else empty for d in ahead]
                for layer in range(len(self._chosen))
            ]
            for token in range(tokens)
        ]

    def _finished_copies(self) -> list[tuple[int, int, int]]:
        """Copies that have arrived since the last pass."""
        done = [t for t in self._open_tickets if t.state == "done" and self._clock.ready(t.end)]
        self._open_tickets = [t for t in self._open_tickets if t.state != "dropped" and t not in done]
        return [
            (t.load.index, self._clock.nanoseconds(t.start), self._clock.nanoseconds(t.end)) for t in done
        ]


def _lookaheads(settings: Settings, options: Options, layers: int) -> list[int]:
    """How far ahead routers are asked."""
    ahead = set(range(1, LOOKAHEADS + 1)) if options.guesses else set()
    if settings.by_routers:
        ahead.add(settings.lookahead)
    return sorted(d for d in ahead if d < layers)


def _strongest_first(ids: Any, weights: Any) -> tuple[list[list[int]], list[list[float]]]:
    """Experts and weights of each token, strongest first, equal ones by lower id. [token, k] both"""
    order = np.lexsort((ids, -weights), axis=1)
    return np.take_along_axis(ids, order, 1).tolist(), np.take_along_axis(weights, order, 1).tolist()


def _by_token(layers: list[list[Any]]) -> list[list[Any]]:
    """[layer, token] -> [token, layer]"""
    return [list(rows) for rows in zip(*layers, strict=True)]


def _experts_forward(
    module: nn.Module, hidden: torch.Tensor, index: torch.Tensor, weights: torch.Tensor
) -> torch.Tensor:
    """What transformers calls for every experts module of a model that is being served."""
    serving, number = module.moeviz
    return serving.serve(number, module, hidden, index, weights)  # type: ignore[no-any-return]


ALL_EXPERTS_FUNCTIONS.register("moeviz", _experts_forward)

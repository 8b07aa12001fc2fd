"""Runs a loaded model through an expert cache and records every event: the live counterpart of
`moeviz.core.replay`.

The cache decides, the link copies, this module waits and computes. It plugs into transformers' experts
interface and calls each architecture's own expert code, one expert at a time, on the weights that stand in a
slot.

    for record in generate(load(), "In the beginning", Settings(policy="lfu"), Options(max_new_tokens=20)):
        print(record.next_text, end="")
"""

from __future__ import annotations

import inspect
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import nn
from transformers.integrations.moe import ALL_EXPERTS_FUNCTIONS

from moeviz.core.cache import NOBODY, ExpertCache, Load
from moeviz.core.oracle import knowledge
from moeviz.core.predictors import RouterGuess
from moeviz.core.settings import Settings
from moeviz.core.trace import DECODE, PREFILL, Trace
from moeviz.engine.experts import Expert
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
    then: str = ""  # a change of subject: fed halfway, token by token, instead of what the model chooses
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

    `stop` is asked before every pass; `future` is a trace of the same run, for settings that have to know it.
    Raises SettingsError or ModelError before anything runs, and SettingsError where the run departs from its
    future.
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
                inputs = torch.tensor([ids], device=loaded.device)
                output = loaded.model(input_ids=inputs, past_key_values=past, use_cache=True, **last_only)
                past = output.past_key_values
                chosen = _choose(output.logits[0, -1], options.temperature, sampler)
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
    """Stamps of an accelerator: events on its stream, read when they have passed, so that a stamp makes
    nothing wait.
    """

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
        if settings.rule != "pinned" and not settings.baseline:
            raise SettingsError(
                f"rule {settings.rule!r} is for replays: a layer needs its experts together, so a live run "
                "is pinned. Record it, then replay it under the rule."
            )
        by_routers = settings.by_routers
        if by_routers and all(layer.router is None for layer in loaded.layers):
            raise SettingsError(
                "prefetch 'next-gate' asks the layers' routers ahead, which this model's cannot be: "
                f"{'; '.join(loaded.notes)}. Choose another prefetch."
            )
        self._by_routers = by_routers
        self._guesses_recorded = options.guesses
        self._needs_probabilities = options.guesses or (by_routers and settings.threshold > 0)
        self._on_host = loaded.device.type == "cpu"
        self._clock = HostClock() if self._on_host else DeviceClock(loaded.device)
        self._link: HostLink | None = None

    # a run

    def start(self) -> None:
        """Takes the slots, plugs into the model."""
        loaded = self._loaded
        if self._on_host:
            self._link = HostLink(loaded.store, loaded.link)
        else:
            self._link = DeviceLink(loaded.store, loaded.device)
        self._slots = [
            list(slots_for(loaded.store, self.cache.slots, loaded.device)) for _ in range(self.cache.pools)
        ]
        self._experts: dict[tuple[int, int], Expert] = {}  # (layer, slot) -> the layer's code on that slot
        self._open_tickets: list[Ticket] = []
        self._coming: dict[tuple[int, int], Ticket] = {}  # (pool, slot) -> a copy not yet seen to be there
        self._fill()
        self._hooks = []
        for number, layer in enumerate(loaded.layers):
            layer.experts.moeviz = (self, number)
            if layer.chooser is not None and self._lookaheads and not layer.same_hidden:
                self._hooks.append(layer.chooser.register_forward_pre_hook(self._keep_router_input(number)))
        loaded.model.set_experts_implementation("moeviz")
        self._router_input: list[torch.Tensor | None] = [None] * len(loaded.layers)  # in this pass
        self._text = ""  # of the token that the last pass chose, which enters the next
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
        self._experts.clear()
        self._coming.clear()

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
        with torch.inference_mode():
            self._ask_the_rest()
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
        texts = [self._text] if self._phase == DECODE else [decode([token]) for token in ids]
        self._text = decode([chosen])
        record = PassRecord(
            phase=self._phase,
            token_ids=ids,
            texts=texts,
            experts=_by_token([rows for rows, _ in self._chosen]),
            weights=_by_token([weights for _, weights in self._chosen]),
            guess=self._guess_rows(len(ids), lambda guess: guess.experts, -1),
            guess_probability=self._guess_rows(len(ids), lambda guess: guess.probabilities, 0.0),
            rows={},
            copies=self._finished_copies(),
            next_id=chosen,
            next_text=self._text,
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
        clock, link, cache = self._clock, self._link, self.cache
        began = clock.stamp()
        if self._lookaheads and self._loaded.layers[number].same_hidden:
            self._router_input[number] = hidden
        rows = _Rows(hidden, index, weights)
        waves = cache.demand(number, rows.chosen, rows.strengths)
        pool = cache.pool(number)
        slots = self._slots[pool]
        late: list[int] = []
        stalls: list[tuple[Any, Any]] = []
        computes: list[tuple[Any, Any]] = []
        parts: dict[int, torch.Tensor] = {}  # expert -> its contribution to its tokens
        for wave in waves:
            for load in wave.loads:
                self._submit(load)
            if wave is waves[-1]:
                self._ask_at_once(number, len(index))
                for load in cache.speculate(number, self._routers_for(number)):
                    self._submit(load)
            where = wave.slots
            waiting = [
                e for e in wave.hits if (pool, where[e]) in self._coming and self._is_late(pool, where[e])
            ]
            late += waiting
            before = clock.stamp()
            for expert in wave.hits:
                if expert not in waiting:
                    parts[expert] = self._expert(number, where[expert], module)(*rows.of(expert))
            after = clock.stamp()
            computes.append((before, after))
            for expert in [*waiting, *(load.expert for load in wave.loads)]:
                link.wait(slots[where[expert]])
                self._coming.pop((pool, where[expert]), None)
                before = clock.stamp()
                stalls.append((after, before))
                if expert in rows.needed:  # whole-layer copies experts that nobody asked for
                    parts[expert] = self._expert(number, where[expert], module)(*rows.of(expert))
                after = clock.stamp()
                computes.append((before, after))
        out = rows.add(parts, self._loaded.recipe.sum_dtype)
        computes.append((after, clock.stamp()))

        if late:
            cache.recorder.late(late)
        self._stamps.append((began, stalls, computes))
        self._chosen.append((rows.chosen, rows.strengths))
        return out

    def _is_late(self, pool: int, slot: int) -> bool:
        """Whether a slot's copy is still on its way; once it is not, it is not asked again."""
        assert self._link is not None
        if self._link.is_late(self._slots[pool][slot]):
            return True
        del self._coming[pool, slot]
        return False

    def _expert(self, number: int, slot: int, module: nn.Module) -> Expert:
        """The layer's code on the weights that stand in a slot."""
        if (number, slot) not in self._experts:
            record = self._slots[self.cache.pool(number)][slot]
            tensors = self._loaded.store.layout.views(record)
            self._experts[number, slot] = self._loaded.recipe.way(module, tensors)
        return self._experts[number, slot]

    def _submit(self, load: Load) -> None:
        assert self._link is not None
        pool = self.cache.pool(load.layer)
        ticket = self._link.submit(load, self._slots[pool][load.slot])
        self._open_tickets.append(ticket)
        self._coming[pool, load.slot] = ticket

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
            self._router_input[number] = args[0] if args else None

        return hook

    def _ask_at_once(self, number: int, tokens: int) -> None:
        """Asks the routers of later layers about what entered this layer's: what pre-fetching needs now; of a
        prompt all of them.

        What only the record needs of one token waits for the end of the pass; a prompt's hidden states would
        take too much memory.
        """
        entering = self._router_input[number]
        if entering is None:
            return
        for d in self._lookaheads if tokens > 1 else [self._settings.lookahead] if self._by_routers else []:
            target = number + d
            if (
                target < len(self._loaded.layers)
                and (router := self._loaded.layers[target].router) is not None
            ):
                experts, probabilities = self._likeliest(*router.ask(entering))
                self._guesses[target, d] = RouterGuess(experts, probabilities)
        if tokens > 1:
            self._router_input[number] = None

    def _ask_the_rest(self) -> None:
        """Asks every router about the earlier layers' hidden states of this pass that it was not asked about,
        all at once.
        """
        asked: list[tuple[int, int]] = []
        logits: list[torch.Tensor] = []
        rankings: list[torch.Tensor] = []
        entered, guesses, ahead = self._router_input, self._guesses, self._lookaheads
        for target, layer in enumerate(self._loaded.layers):
            if layer.router is None:
                continue
            for d in ahead:
                if d > target or (target, d) in guesses or (entering := entered[target - d]) is None:
                    continue
                one, ranking = layer.router.ask(entering)
                asked.append((target, d))
                logits.append(one)
                rankings.append(ranking)
        if asked:
            every = torch.cat(logits)
            plain = all(one is ranking for one, ranking in zip(logits, rankings, strict=True))
            experts, probabilities = self._likeliest(every, every if plain else torch.cat(rankings))
            for n, place in enumerate(asked):
                guesses[place] = RouterGuess([experts[n]], probabilities and [probabilities[n]])
        self._router_input = [None] * len(self._router_input)

    def _likeliest(
        self, logits: torch.Tensor, ranking: torch.Tensor
    ) -> tuple[list[list[int]], list[list[float]] | None]:
        """Ids and probabilities of the experts that a router would choose next, likeliest first. [row, rank]
        both
        """
        experts = ranking.topk(self._width, dim=1).indices
        if not self._needs_probabilities:
            return experts.tolist(), None
        # rounded as a trace stores them, so that a replay reaches a threshold where the run did
        return experts.tolist(), logits.float().softmax(-1).gather(1, experts).half().tolist()

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


class _Rows:
    """The tokens of one event: which experts they need, and what each expert is given and gives back.

    `chosen`, `strengths`: [token, rank], strongest first, equal ones by lower id.
    """

    def __init__(self, hidden: torch.Tensor, index: torch.Tensor, weights: torch.Tensor) -> None:
        self._hidden, self._weights = hidden, weights
        self.chosen: list[list[int]]
        self.strengths: list[list[float]]
        if len(index) == 1 and self._one_token(*_as_lists(index, weights)):
            return
        self._ids = index.cpu().numpy()
        self._tokens: dict[int, torch.Tensor] = {}
        strengths = weights.float().cpu().numpy()
        order = np.lexsort((self._ids, -strengths), axis=1)
        self.chosen = np.take_along_axis(self._ids, order, 1).tolist()
        self.strengths = np.take_along_axis(strengths, order, 1).tolist()
        self.needed = set(self._ids.ravel().tolist())
        self._columns: dict[int, torch.Tensor] | None = None

    def _one_token(self, ids: list[int], strengths: list[float]) -> bool:
        """The short way of a single token, which needs no search; False where it names an expert twice."""
        if len(set(ids)) < len(ids):
            return False
        pairs = sorted(zip([-strength for strength in strengths], ids, strict=True))
        self.chosen = [[expert for _, expert in pairs]]
        self.strengths = [[-strength for strength, _ in pairs]]
        self._columns = dict(zip(ids, self._weights.unbind(1), strict=True))
        self.needed = self._columns.keys()
        return True

    def of(self, expert: int) -> tuple[torch.Tensor, torch.Tensor]:
        """What an expert is given: hidden states [n, hidden] and router weights, [n, 1] or [1], of its
        tokens.
        """
        if self._columns is not None:
            return self._hidden, self._columns[expert]
        rank, token = np.nonzero(
            expert == self._ids.T
        )  # in the order of the eager code: by rank, then by token
        device = self._hidden.device
        rows = self._tokens[expert] = torch.from_numpy(token).to(device)
        return self._hidden[rows], self._weights[rows, torch.from_numpy(rank).to(device), None]

    def add(self, parts: dict[int, torch.Tensor], dtype: torch.dtype) -> torch.Tensor:
        """The sum of the contributions of each expert, [token, hidden].

        In id order, whatever the slot or the wave: the resident model adds in that order, and sums of floats
        depend on it.
        """
        if self._columns is not None:
            first, *others = sorted(parts)
            total = parts[first]
            if total.dtype != dtype:
                total = total.to(dtype)
            for expert in others:
                part = parts[expert]
                total = total + (part if part.dtype == dtype else part.to(dtype))
            return total if dtype == self._hidden.dtype else total.to(self._hidden.dtype)
        total = torch.zeros_like(self._hidden, dtype=dtype)
        for expert in sorted(parts):
            total.index_add_(0, self._tokens[expert], parts[expert].to(dtype))
        return total.to(self._hidden.dtype)


def _as_lists(index: torch.Tensor, weights: torch.Tensor) -> tuple[list[int], list[float]]:
    """Ids and weights of one token, [1, k] both, in one copy from the device."""
    if index.device.type == "cpu":
        return index.tolist()[0], weights.tolist()[0]
    k = index.shape[1]
    both = torch.cat([index.float(), weights.float()], 1).tolist()[0]  # an id is far below float32's 2^24
    return [int(value) for value in both[:k]], both[k:]


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

"""The expert cache: which experts are resident, who is admitted and who leaves. Live engine and replay drive this one object.

Knows no times, no weights and no tensors: it decides, the engine copies. An event is (forward pass, MoE layer, set A of distinct
experts that the layer's tokens need); the rule that it follows:

1. The outcome of each member of A is read from residency before the event.
2. All of A is pinned: no member is evicted to admit another.
3. Each miss, strongest router weight first, takes a free slot or evicts the policy's lowest-scored resident that is not pinned.
4. Then A is touched, weakest first, strongest last; an expert that several tokens ask for counts once, with its largest weight.

An A larger than the slots (prefill) is served in waves of at most `slots` experts, residents first, then by id, each wave pinned and
touched by the same rules.

    cache = ExpertCache(Settings(slots=2), layers=1, experts=4, k=2)
    cache.demand(0, [[3, 1]], [[0.7, 0.3]])      # one Wave: misses 3 and 1
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, field

from moeviz.core.oracle import Knowledge, strongest
from moeviz.core.policies import EMA, POLICIES, Moment, Use
from moeviz.core.predictors import PREDICTORS, Context, RouterGuess
from moeviz.core.run import HIT, MISS, ExpertBytes, Recorder
from moeviz.core.settings import Settings
from moeviz.errors import SettingsError

Key = tuple[int, int]  # (MoE layer, expert)
NOBODY: Key = (-1, -1)  # the victim of a load into a free slot


@dataclass(slots=True)
class Load:
    """One expert to be copied into a slot."""

    layer: int
    expert: int
    slot: int  # in its pool: of the layer (scope layer) or of the model
    victim: Key  # who left that slot
    index: int  # number of the load in its run
    speculative: bool


@dataclass(frozen=True, slots=True)
class Choice:
    """How a victim was chosen: every resident of the pool at that moment."""

    load: Load
    scores: dict[Key, float]  # the victim's is the lowest of those that could leave
    pinned: frozenset[Key]  # by this event
    held: frozenset[Key]  # by guesses for events to come


@dataclass(slots=True)
class Wave:
    """Experts of one event that are in the fast tier together."""

    hits: list[int] = field(default_factory=list)
    loads: list[Load] = field(default_factory=list)  # in the order of the copies
    slots: dict[int, int] = field(default_factory=dict)  # expert -> its slot while this wave is served


class ExpertCache:
    """Slots and the policy that decides who leaves, for a whole model.

    `layers`, `experts`, `k`: MoE layers, experts of each, experts chosen per token. `known`: what the settings have to know besides.
    Raises SettingsError where they do not fit.
    """

    def __init__(
        self,
        settings: Settings,
        layers: int,
        experts: int,
        k: int,
        known: Knowledge = Knowledge(),  # noqa: B008
        expert_bytes: ExpertBytes = 0,
    ) -> None:
        settings.check(layers, experts, k)
        self.settings = settings
        self.layers, self.experts = layers, experts
        self.width = settings.width or k
        room = settings.room(layers, experts, k)
        self.pools, self.slots, self._keeps = room.pools, room.slots, room.keeps
        self._own_pools = self.pools == layers
        self._score = POLICIES[settings.policy]
        # a power for every touch is spared where nobody asks for it; a user's policy may
        self._ages = settings.policy == "lfu-aged" or ".py:" in settings.policy
        self._future = known.future
        self._now = Moment(settings.seed, layers, settings.half_life, self._next_use)
        self._predictor = PREDICTORS["none" if settings.baseline else settings.prefetch](
            Context(layers, experts, settings.lookahead, settings.threshold, self._truth)
        )
        self.uses = [
            [Use(layer, expert) for expert in range(experts)] for layer in range(layers)
        ]  # read it, leave it
        if known.calibration is not None:
            if [len(row) for row in known.calibration] != [experts] * layers:
                raise SettingsError(
                    f"the calibration trace is of another model: {len(known.calibration)} MoE layers of {len(known.calibration[0])} "
                    f"experts, not {layers} of {experts}. Choose a trace of this model."
                )
            for row, counts in zip(self.uses, known.calibration, strict=True):
                for use, count in zip(row, counts, strict=True):
                    use.calibrated = count
        self._slot_of: list[dict[Key, int]] = [{} for _ in range(self.pools)]  # residents of each pool
        self._free = [list(range(self.slots - 1, -1, -1)) for _ in range(self.pools)]
        self._held: dict[int, set[Key]] = {}  # for each later layer: what its pending guess holds
        self._pinned: set[Key] = set()  # by the last wave
        self._unused: dict[Key, int] = {}  # pre-fetched and not demanded yet -> index of the load
        self.choices: list[Choice] | None = None  # set it to a list to be told how every victim is chosen
        self.initial = self._warm_up()  # (layer, expert, slot) of who is resident when the run begins
        self.recorder = Recorder(settings, layers, experts, k, expert_bytes, self.initial)

    def _warm_up(self) -> list[tuple[int, int, int]]:
        """Fills the slots before the run begins, as the settings say."""
        everyone = [(layer, expert) for expert in range(self.experts) for layer in range(self.layers)]
        match self.settings.baseline or self.settings.warm:
            case "resident" | "first":
                chosen = everyone
            case "calibrated":
                chosen = sorted(everyone, key=lambda key: -self.uses[key[0]][key[1]].calibrated)
            case _:
                chosen = []
        placed = []
        for layer, expert in chosen:
            pool = self.pool(layer)
            if self._free[pool]:
                slot = self._slot_of[pool][layer, expert] = self._free[pool].pop()
                placed.append((layer, expert, slot))
        for layer, expert, _ in reversed(placed):  # who was placed first counts as the most recent
            self._now.clock += 1
            use = self.uses[layer][expert]
            use.loaded = use.last_touch = self._now.clock
        return placed

    # what is there

    def pool(self, layer: int) -> int:
        """Index of the pool that serves a layer."""
        return layer if self._own_pools else 0

    def slot(self, layer: int, expert: int) -> int:
        """Slot of a resident expert; KeyError where it is not resident."""
        return self._slot_of[self.pool(layer)][layer, expert]

    def residents(self, layer: int) -> list[int]:
        """Experts of a layer in the fast tier, ascending."""
        return sorted(expert for at, expert in self._slot_of[self.pool(layer)] if at == layer)

    def unused(self, layer: int) -> list[int]:
        """Residents of a layer that were pre-fetched and not demanded yet, ascending."""
        return sorted(expert for at, expert in self._unused if at == layer)

    @property
    def clock(self) -> int:
        """Touches and loads so far."""
        return self._now.clock

    @property
    def touched(self) -> int:
        """Touches so far."""
        return self._now.touches

    def scores(self, layer: int) -> dict[Key, float]:
        """Score of every resident of the layer's pool now; the lowest leaves."""
        return {
            key: self._score(self.uses[key[0]][key[1]], self._now) for key in self._slot_of[self.pool(layer)]
        }

    # what happens

    def begin_pass(self, phase: int, tokens: int) -> None:
        """A forward pass of so many tokens begins."""
        self._now.forward_pass += 1
        self._now.tokens += tokens
        self.recorder.add_pass(phase, tokens)

    def demand(
        self, layer: int, experts: Sequence[Sequence[int]], weights: Sequence[Sequence[float]]
    ) -> list[Wave]:
        """One event of the pass: decides who is a hit and who is loaded over whom, and records it.

        experts, weights: [token, rank], strongest first, -1 where a token uses fewer. Where no token needs an expert there is no event.
        The waves are decided together and must be served in order: a wave's copies overwrite experts of the one before.
        """
        need = strongest(experts, weights)
        now = self._now
        now.layer = layer
        if self._future is not None and set(self._future.needs(now.forward_pass, layer)) != need.keys():
            raise SettingsError(
                f"the run departs from the trace given as its future in forward pass {now.forward_pass}. Give a trace of the same "
                "prompt, seed and temperature, as long as the run."
            )
        self._held.pop(layer, None)  # the router has spoken: a wrong guess holds its slot no longer
        if not need:
            return []
        self._predictor.observe(layer, experts)

        pool = self.pool(layer)
        slot_of = self._slot_of[pool]
        if not self._keeps:
            self._free[pool] = list(range(self.slots - 1, -1, -1))
            slot_of.clear()
        self.recorder.add_event(
            layer, {expert: HIT if (layer, expert) in slot_of else MISS for expert in need}
        )
        waves = []
        for members in self._waves(layer, need):
            keys = [(layer, expert) for expert in members]
            self._pinned = set(keys)
            wave = Wave()
            for key in keys:
                expert = key[1]
                slot = slot_of.get(key)
                if slot is None:
                    load = self._admit(layer, expert, speculative=False)
                    assert load is not None, "a wave is no larger than its pool"
                    wave.loads.append(load)
                    wave.slots[expert] = load.slot
                else:
                    wave.hits.append(expert)
                    wave.slots[expert] = slot
                    if self._unused and (index := self._unused.pop(key, None)) is not None:
                        self.recorder.use_load(index)
            for expert in reversed(members):
                if expert in need:
                    self._touch(layer, expert, need[expert])
            waves.append(wave)
        return waves

    def _waves(self, layer: int, need: dict[int, float]) -> list[list[int]]:
        """Experts that are served together, strongest first in each wave; need: strongest first."""
        if len(need) <= self.slots and self.settings.baseline != "whole-layer":
            return [list(need)]
        slot_of = self._slot_of[self.pool(layer)]
        strength = {expert: rank for rank, expert in enumerate(need)}
        resident = sorted(expert for expert in need if (layer, expert) in slot_of)
        absent = sorted(expert for expert in need if (layer, expert) not in slot_of)
        if self.settings.baseline == "whole-layer":
            absent = list(range(self.experts))
        order = resident + absent
        return [
            sorted(order[start : start + self.slots], key=lambda expert: strength.get(expert, len(need)))
            for start in range(0, len(order), self.slots)
        ]

    def speculate(self, layer: int, routers: RouterGuess | None = None) -> list[Load]:
        """After the event of `layer`: pre-fetches for layer + lookahead. `routers`: next-gate's guesses for it.

        What a guess names is held until the event that it is for. Returns the copies; a guess that finds every slot held is dropped.
        """
        target = layer + self.settings.lookahead
        if target >= self.layers:
            return []
        guess = self._predictor.guess(target, routers, self.width)
        residents = self._slot_of[self.pool(target)]
        held = self._held.setdefault(target, set())
        held.update((target, expert) for expert in guess if (target, expert) in residents)
        loads = []
        for expert in guess:
            if (target, expert) in residents:
                continue
            if load := self._admit(target, expert, speculative=True):
                loads.append(load)
                held.add((target, expert))
            else:
                self.recorder.drop_guess()
        return loads

    def _admit(self, layer: int, expert: int, *, speculative: bool) -> Load | None:
        """Gives an absent expert a slot: a free one, or the victim's. None where a guess finds every slot held."""
        pool = self.pool(layer)
        slot_of, free = self._slot_of[pool], self._free[pool]
        victim = NOBODY
        if free:
            slot = free.pop()
        else:
            held = self._pinned.union(*self._held.values()) if self._held else self._pinned
            candidates = [key for key in slot_of if key not in held]
            if not candidates and not speculative:  # demand beats a guess
                candidates = [key for key in slot_of if key not in self._pinned]
            if not candidates:
                return None
            victim = min(candidates, key=self._rank)
            scores = self.scores(layer) if self.choices is not None else {}
            slot = slot_of.pop(victim)
            self._unused.pop(victim, None)
        slot_of[layer, expert] = slot
        self._now.clock += 1
        use = self.uses[layer][expert]
        use.loaded = use.last_touch = self._now.clock
        use.touches_resident = 0
        index = self.recorder.add_load(layer, expert, slot, victim, speculative)
        load = Load(layer, expert, slot, victim, index, speculative)
        if speculative:
            self._unused[layer, expert] = load.index
        if self.choices is not None and victim != NOBODY:
            self.choices.append(Choice(load, scores, frozenset(self._pinned), frozenset(held - self._pinned)))
        return load

    def _rank(self, key: Key) -> tuple[float, int, int, int]:
        """The least leaves: lowest score, then least recently used, then lower expert id."""
        layer, expert = key
        use = self.uses[layer][expert]
        return self._score(use, self._now), use.last_touch, expert, layer

    def _touch(self, layer: int, expert: int, weight: float) -> None:
        now = self._now
        now.clock += 1
        now.touches += 1
        use = self.uses[layer][expert]
        use.last_touch = now.clock
        use.touches += 1
        use.touches_resident += 1
        use.touch_number = now.touches
        use.touch_pass = now.forward_pass
        if self._ages:
            use.aged = 1.0 + use.aged * 2.0 ** ((use.touch_token - now.tokens) / now.half_life)
        use.touch_token = now.tokens
        use.average = EMA * weight + (1 - EMA) * use.average

    def _next_use(self, layer: int, expert: int) -> float:
        event = self._now.forward_pass * self.layers + self._now.layer
        return self._future.next_use(layer, expert, event) if self._future else math.inf

    def _truth(self, layer: int) -> list[int]:
        assert self._future is not None
        return self._future.needs(self._now.forward_pass, layer)

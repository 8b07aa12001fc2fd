"""The expert cache: which experts are resident, who is admitted and who leaves. Live engine and replay drive
this one object.

Knows no times, no weights and no tensors: it decides, the engine copies. An event is (forward pass, MoE
layer, set A of distinct experts that the layer's tokens need); the rule that it follows, `pinned`:

1. The outcome of each member of A is read from residency before the event.
2. All of A is pinned: no member is evicted to admit another.
3. Each miss, strongest router weight first, takes a free slot or evicts the policy's lowest-scored resident
   that is not pinned.
4. Then A is touched, weakest first, strongest last; an expert that several tokens ask for counts once, with
   its largest weight.

An A larger than the slots (prefill) is served in waves of at most `slots` experts, residents first, then by
id, each wave pinned and touched by the same rules. Under the rule `in-order` the strongest is touched first
and the weakest last. Under the rule `one-by-one` every member of A, strongest first, is a wave of its own and
its outcome is read when its turn comes, so that one member may leave for the next.

A guess takes slots right after the event at which it is made. Whom it names, there already or brought by it,
is held until the router of the guess's layer has spoken in this pass: no other guess evicts it, and demand
only where nobody else can leave. An arrival counts as the last use where recency is asked, and as no use
elsewhere. Slots, columns and victims are the business of `moeviz.core.pools`.

    cache = ExpertCache(Settings(slots=2), layers=1, experts=4, k=2)
    cache.demand(0, [[3, 1]], [[0.7, 0.3]])      # one Wave: misses 3 and 1
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

from moeviz.core.columns import Floats, Ints
from moeviz.core.oracle import Knowledge, strongest
from moeviz.core.policies import POLICIES
from moeviz.core.pools import Pools, in_waves
from moeviz.core.predictors import PREDICTORS, Context, RouterGuess, untold_truth
from moeviz.core.recorder import Recorder
from moeviz.core.run import HIT, MISS, ExpertBytes, layer_bytes
from moeviz.core.settings import Room, Settings
from moeviz.core.trace import Trace
from moeviz.core.use import Moment
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
    leavers: tuple[Key, ...] = ()  # who left besides the victim: experts differ in size


@dataclass(slots=True)
class Choice:
    """How a victim was chosen: every resident of the pool at that moment. A cell is layer x experts +
    expert."""

    victim: int  # cell
    residents: Ints  # cells
    scores: Floats  # of the residents; the victim's is the lowest of those that could leave
    pinned: Sequence[int]  # cells that this event needs, resident or not
    held: Sequence[int]  # cells held by guesses for events to come, resident or not
    why: str = ""  # in words, where the policy's lists say it
    load: int = -1  # number of the load that it made room for


@dataclass(slots=True)
class Wave:
    """Experts of one event that are in the fast tier together."""

    hits: list[int] = field(default_factory=list)
    loads: list[Load] = field(default_factory=list)  # in the order of the copies
    slots: dict[int, int] = field(default_factory=dict)  # expert -> its slot while this wave is served


def start(trace: Trace, settings: Settings, known: Knowledge, rooms: Sequence[Room]) -> Pools:
    """The pools of each room, one room after the other, as they are when a run of the trace begins."""
    first_use = known.future.next_uses()[1] if known.future else None
    return _pools(settings, trace.layers, trace.num_experts, known, rooms, first_use, trace.layer_bytes)[0]


def _pools(
    settings: Settings,
    layers: int,
    experts: int,
    known: Knowledge,
    rooms: Sequence[Room],
    first_use: Floats | None,
    sizes: NDArray[np.int64],
) -> tuple[Pools, list[tuple[int, int]]]:
    """Pools, filled as the settings say, and the place and slot of who is resident from the start."""
    pools = Pools(
        POLICIES[settings.policy],
        Moment(settings.seed, layers, settings.half_life),
        layers,
        experts,
        [limit for room in rooms for limit in room.limits],
        rooms[0].pools == layers,
        known.calibrated,
        first_use,
        np.repeat(sizes, experts) if rooms[0].bytes else None,
        rooms[0].bytes,
        settings.in_order,
    )
    everyone = np.arange(layers * experts).reshape(layers, experts).T.ravel()
    match settings.baseline or settings.warm:
        case "resident" | "first":
            chosen = everyone
        case "calibrated":
            assert known.calibrated is not None
            chosen = everyone[np.argsort(-known.calibrated[everyone], kind="stable")]
        case _:
            return pools, []
    return pools, [one for copy in range(len(rooms)) for one in pools.fill(chosen + copy * layers * experts)]


class ExpertCache:
    """Slots and the policy that decides who leaves, for a whole model.

    `layers`, `experts`, `k`: MoE layers, experts of each, experts chosen per token. `known`: what the
    settings have to know besides. `expert_bytes`: of one expert, for a budget in bytes. Raises SettingsError
    where they do not fit.
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
        settings.check(layers, experts, k, expert_bytes)
        known.check(layers, experts)
        self.settings = settings
        self.layers, self.experts = layers, experts
        self.width = settings.width or k
        room = settings.room(layers, experts, k, expert_bytes)
        self.pools, self.slots, self._keeps = room.pools, room.slots, room.keeps
        self._own_pools = self.pools == layers
        self._whole = settings.baseline == "whole-layer"
        self._future = known.future
        self._following: Floats | None = None
        first_use: Floats | None = None
        if known.future is not None:
            self._following, first_use = known.future.next_uses()
        self.room, placed = _pools(
            settings, layers, experts, known, [room], first_use, layer_bytes(expert_bytes, layers)
        )
        self.now = self.room.now
        self.initial = [(*self._key(place), slot) for place, slot in placed]  # who is resident from the start
        self._predictor = PREDICTORS["none" if settings.baseline else settings.prefetch](
            Context(layers, experts, settings.lookahead, settings.threshold, self._truth)
        )
        self._held: dict[int, set[int]] = {}  # for each later layer: places that its pending guess holds
        self._pinned: list[int] = []  # places of the last wave
        self._unused: dict[int, int] = {}  # place of who was pre-fetched and not demanded yet -> its load
        self._choices: list[Choice] | None = None
        self.recorder = Recorder(settings, layers, experts, k, expert_bytes, self.initial)

    # what is there

    def _key(self, place: int) -> Key:
        layer, expert = divmod(place, self.experts)
        return layer, expert

    def pool(self, layer: int) -> int:
        """Index of the pool that serves a layer."""
        return layer if self._own_pools else 0

    def slot(self, layer: int, expert: int) -> int:
        """Slot of a resident expert; KeyError where it is not resident."""
        slot = int(self.room.slot_of[layer * self.experts + expert])
        if slot < 0:
            raise KeyError((layer, expert))
        return slot

    def residents(self, layer: int) -> list[int]:
        """Experts of a layer in the fast tier, ascending."""
        own = self.room.slot_of[layer * self.experts : (layer + 1) * self.experts]
        found: list[int] = (own >= 0).nonzero()[0].tolist()
        return found

    def unused(self, layer: int) -> list[int]:
        """Residents of a layer that were pre-fetched and not demanded yet, ascending."""
        return sorted(place % self.experts for place in self._unused if place // self.experts == layer)

    def tell_choices(self, choices: list[Choice]) -> None:
        """From now on the list is told how every victim is chosen."""
        self._choices = choices
        self.room.watch = self._note_choice

    def _note_choice(self, row: int, place: int, victim: int) -> None:
        assert self._choices is not None
        held = [place for places in self._held.values() for place in places]
        residents, scores = self.room.residents(row).copy(), self.room.shown(row)
        self._choices.append(Choice(victim, residents, scores, self._pinned, held, self.room.why(victim)))

    # what happens

    def begin_pass(self, phase: int, tokens: int) -> None:
        """A forward pass of so many tokens begins."""
        self.now.forward_pass += 1
        self.now.tokens += tokens
        self.recorder.add_pass(phase, tokens)

    def demand(
        self, layer: int, experts: Sequence[Sequence[int]], weights: Sequence[Sequence[float]]
    ) -> list[Wave]:
        """One event of the pass: decides who is a hit and who is loaded over whom, and records it.

        experts, weights: [token, rank], strongest first, -1 where a token uses fewer. Where no token needs an
        expert there is no event. The waves are decided together and must be served in order: a wave's copies
        overwrite experts of the one before.
        """
        need = strongest(experts, weights)
        now = self.now
        now.layer = layer
        later: dict[int, float] = {}
        if self._future is not None:
            assert self._following is not None
            known = self._future.needs(now.forward_pass, layer)
            if set(known) != need.keys():
                raise SettingsError(
                    f"the run departs from the trace given as its future in forward pass {now.forward_pass}. "
                    "Give a trace of the same prompt, seed and temperature, as long as the run."
                )
            own = self._future.accesses(now.forward_pass, layer)
            later = dict(zip(known, self._following[own].tolist(), strict=True))
        self._held.pop(layer, None)  # the router has spoken: a wrong guess holds its slot no longer
        if not need:
            return []
        self._predictor.observe(layer, experts)
        pool = self.pool(layer)
        if not self._keeps:
            self.room.clear(pool)

        waves, outcomes = [], dict.fromkeys(need, MISS)
        loads: list[Load] = []
        for members in self._waves(layer, need):
            self._pinned = [layer * self.experts + expert for expert in members]
            found, came = self.room.serve_together(
                pool,
                self._pinned,
                [need.get(expert, 0.0) for expert in members],
                [later.get(expert, np.inf) for expert in members],
                self._held_slots(layer) if self._held else (),
            )
            wave = Wave()
            slots = dict(zip(members, found, strict=True))
            for rank, slot, victim in came:
                slots[members[rank]] = slot
                load = Load(
                    layer, members[rank], slot, self._key(victim) if victim >= 0 else NOBODY, -1, False
                )
                loads.append(load)
                wave.loads.append(load)
            if self.room.leavers:
                self._name_leavers(wave.loads)
            wave.hits = [expert for expert, slot in zip(members, found, strict=True) if slot >= 0]
            wave.slots = slots
            outcomes.update(dict.fromkeys(wave.hits, HIT))
            waves.append(wave)
        for wave in waves if self._unused else ():
            for expert in wave.hits:
                if (index := self._unused.pop(layer * self.experts + expert, None)) is not None:
                    self.recorder.use_load(index)
        self.recorder.add_event(layer, outcomes)
        self._record(loads)
        return waves

    def _held_slots(self, layer: int) -> list[int]:
        """Slots, in the pool of a layer, of residents that pending guesses hold."""
        slots = self.room.slot_of
        return [
            int(slots[place])
            for at, places in self._held.items()
            if at == layer or not self._own_pools
            for place in places
            if slots[place] >= 0
        ]

    def _record(self, loads: Sequence[Load]) -> None:
        """Gives loads their numbers, records them, and forgets the unused guesses that they evicted."""
        choice = len(self._choices or ())
        choice -= sum((load.victim != NOBODY) + len(load.leavers) for load in loads)
        for load in loads:
            load.index = self.recorder.add_load(
                load.layer, load.expert, load.slot, load.victim, load.speculative
            )
            if load.victim == NOBODY:
                continue
            for leaver in load.leavers:
                self.recorder.add_leaver(load.index, leaver)
            for layer, expert in (load.victim, *load.leavers):
                self._unused.pop(layer * self.experts + expert, None)
                if self._choices is not None:
                    self._choices[choice].load = load.index
                    choice += 1

    def _name_leavers(self, loads: Sequence[Load]) -> None:
        """Says of loads just decided who left besides their victims."""
        for load in loads:
            place = load.layer * self.experts + load.expert
            load.leavers = tuple(self._key(left) for came, left in self.room.leavers if came == place)
        self.room.leavers.clear()

    def _waves(self, layer: int, need: dict[int, float]) -> list[list[int]]:
        """Experts that are served together, strongest first in each wave; need: strongest first."""
        if self.settings.one_by_one:
            return [[expert] for expert in need]
        limit = self.room.limit(self.pool(layer), layer * self.experts)
        if len(need) <= limit and not self._whole:
            return [list(need)]
        everyone = range(self.experts) if self._whole else ()
        return in_waves(list(need), set(self.residents(layer)), limit, everyone)

    def speculate(self, layer: int, routers: RouterGuess | None = None) -> list[Load]:
        """After the event of `layer`: pre-fetches for layer + lookahead. `routers`: next-gate's guesses for
        it.

        What a guess names is held until the event that it is for. Returns the copies; a guess that finds
        every slot held is dropped.
        """
        target = layer + self.settings.lookahead
        if target >= self.layers:
            return []
        guess = self._predictor.guess(target, routers, self.width)
        slot_of = self.room.slot_of
        places = [target * self.experts + expert for expert in guess]
        held = self._held.setdefault(target, set())
        held.update(place for place in places if slot_of[place] >= 0)
        pool = self.pool(target)
        loads = []
        for place in places:
            if slot_of[place] >= 0:
                continue
            stay = self._held_slots(target)
            if not self._own_pools:
                stay += [int(slot_of[one]) for one in self._pinned]
            found = self.room.admit(pool, place, int(self.now.clock) + 1, stay)
            if found is None:
                self.recorder.drop_guess()
                continue
            self.now.clock += 1
            slot, victim = found
            load = Load(*self._key(place), slot, self._key(victim) if victim >= 0 else NOBODY, -1, True)
            self._name_leavers([load])
            self._record([load])
            self._unused[place] = load.index
            held.add(place)
            loads.append(load)
        return loads

    def _truth(self, layer: int) -> list[int]:
        if self._future is None:
            raise untold_truth(self.settings.prefetch)
        return self._future.needs(int(self.now.forward_pass), layer)

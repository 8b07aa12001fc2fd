"""Hit ratio over slot counts: what a replay at every slot count would give, for all of them at once.

The rule is `moeviz.core.cache`'s, and a test holds the two to the same hits; here all slot counts and layers go through the trace together, as
numpy arrays [expert, slot count, group]. A group is a pool: every MoE layer (scope layer), or the whole model (scope model). No
pre-fetching.

A policy whose scores do not depend on what is resident is a stack algorithm: one ranking of a group's experts serves all slot counts.
`lfu-resident` and `fifo` are none; their scores are kept for each slot count.

    curve(trace, Settings("lfu")).hit_ratio      # [slot count]
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from moeviz.core.cache import ExpertCache
from moeviz.core.oracle import Knowledge, knowledge
from moeviz.core.policies import EMA
from moeviz.core.replay import replay
from moeviz.core.run import HIT, Run
from moeviz.core.settings import Settings
from moeviz.core.trace import DECODE, PREFILL, Trace
from moeviz.numbers import metrics

Array = NDArray[Any]
NEVER = 2**22  # a next use that does not come: later than any step of a trace
PER_SLOTS = ("lfu-resident", "fifo")  # scores depend on what is resident


@dataclass(frozen=True, eq=False, slots=True)
class Curve:
    """Hits of one policy at several slot counts."""

    settings: Settings  # its slots do not apply
    slots: NDArray[np.int64]  # [n] per layer, or in all
    hits: NDArray[np.int64]  # [n, phase] prefill and decode
    accesses: NDArray[np.int64]  # [phase]

    @property
    def hit_ratio(self) -> NDArray[np.float64]:
        """Of decode, or of prefill where nothing was decoded. [n]"""
        phase = DECODE if self.accesses[DECODE] else PREFILL
        return self.hits[:, phase] / max(int(self.accesses[phase]), 1)


def slot_counts(trace: Trace, scope: str, most: int = 24) -> list[int]:
    """Scope layer: from k to every expert. Scope model: at most `most` counts, evenly from one token's need to every expert."""
    if scope == "layer":
        return list(range(trace.k, trace.num_experts + 1))
    need, every = trace.k * trace.layers, trace.num_experts * trace.layers
    return sorted({round(x) for x in np.linspace(need, every, most)})


def curve(
    trace: Trace,
    settings: Settings,
    slots: Sequence[int] | None = None,
    find: Callable[[str], Trace] | None = None,
) -> Curve:
    """Hits at each slot count (default: `slot_counts`). Raises SettingsError as `replay` does."""
    counts = np.array(slots if slots is not None else slot_counts(trace, settings.scope), np.int64)
    plain = replace(settings, prefetch="none", slots=int(counts[0]))
    passes = trace.passes()
    wide = [number for number, tokens in enumerate(passes) if tokens.stop - tokens.start > 1]
    # Forward passes up to the last of several tokens are served in waves, one slot count at a time.
    prefix = wide[-1] + 1 if wide else 0
    # Without a prefix the future is read off the steps themselves.
    known = knowledge(
        plain if prefix or plain.policy != "belady" else replace(plain, policy="lru"), trace, find
    )
    phases = np.array([trace.phase[tokens.start] for tokens in passes])
    needs = trace.events()
    per_pass = np.bincount(needs.forward_pass, np.diff(needs.first), len(passes)).astype(np.int64)
    accesses = np.array([per_pass[phases == phase].sum() for phase in (PREFILL, DECODE)], np.int64)
    uneven = trace.weights is None or bool((trace.experts < 0).any())  # what goes together needs full rows
    if uneven or prefix > 1 + len(passes) // 8:  # or hardly anything is left to go through together
        hits = np.array([_replayed(trace, replace(plain, slots=int(n)), find) for n in counts], np.int64)
    else:
        alike = prefix == 0 and plain.warm == "cold"  # nothing has happened: one empty cache stands for all
        caches = [
            _start(trace, replace(plain, slots=int(n)), known, passes[:prefix])
            for n in (counts[:1] if alike else counts)
        ]
        hits = np.array([found for _, found in caches] * (len(counts) if alike else 1), np.int64)
        if prefix < len(passes) and alike and _is_lru(plain):
            hits += _lru(trace, plain.scope, counts, [PREFILL, DECODE])
        elif prefix < len(passes):
            tokens = slice(passes[prefix].start, trace.tokens)
            rest = _Together(trace, plain, counts, [cache for cache, _ in caches], tokens, prefix).run()
            for phase in (PREFILL, DECODE):
                hits[:, phase] += rest[trace.phase[tokens] == phase].sum(0)
    return Curve(settings, counts, hits, accesses)


def bounds(trace: Trace, settings: Settings, recorded: Run | None) -> dict[str, float | None]:
    """What no policy can beat at these slots: belady's hits / accesses (of decode, or of prefill where nothing was decoded), and the least
    ms per output token on the machine of the recorded run (None without one). For a baseline both are None.
    """
    if settings.baseline:
        return {"belady_hit_ratio": None, "least_ms_per_token": None}
    bound = curve(trace, replace(settings, policy="belady", prefetch="none"), [settings.slots])
    misses = int(bound.accesses[DECODE] - bound.hits[0, DECODE])
    least = metrics.bandwidth_bound_ms(recorded, misses) if recorded else None
    return {"belady_hit_ratio": float(bound.hit_ratio[0]), "least_ms_per_token": least}


def knee(found: Curve) -> int | None:
    """Slot count where the curve bends most: furthest above the straight line between its ends (Satopaa et al. 2011); None where none is."""
    if len(found.slots) < 3:
        return None
    x = (found.slots - found.slots[0]) / (found.slots[-1] - found.slots[0])
    y = found.hit_ratio - found.hit_ratio[0]
    above = y / y[-1] - x if y[-1] > 0 else np.zeros(len(x))
    return int(found.slots[above.argmax()]) if above.max() > 0.01 else None


def _replayed(trace: Trace, settings: Settings, find: Callable[[str], Trace] | None) -> list[int]:
    run = replay(trace, settings, find)
    hit = run.accesses.outcome == HIT
    phase = run.passes.phase[run.events.forward_pass[run.accesses.event]]
    return [int(hit[phase == number].sum()) for number in (PREFILL, DECODE)]


def _start(
    trace: Trace, settings: Settings, known: Knowledge, passes: Sequence[slice]
) -> tuple[ExpertCache, list[int]]:
    """A cache that has seen the first passes, and its hits in them by phase."""
    cache = ExpertCache(settings, trace.layers, trace.num_experts, trace.k, known)
    hits = [0, 0]
    for tokens in passes:
        cache.begin_pass(int(trace.phase[tokens.start]), tokens.stop - tokens.start)
        assert trace.weights is not None, "a trace without weights is replayed"
        experts, weights = trace.experts[tokens].tolist(), trace.weights[tokens].tolist()
        for layer in range(trace.layers):
            waves = cache.demand(layer, [row[layer] for row in experts], [row[layer] for row in weights])
            hits[int(trace.phase[tokens.start])] += sum(len(wave.hits) for wave in waves)
    return cache, hits


def _is_lru(settings: Settings) -> bool:
    """In scope layer two policies of the whole model are lru."""
    return settings.policy == "lru" or (
        settings.scope == "layer" and settings.policy in ("least-stale", "layer-distance")
    )


def _lru(trace: Trace, scope: str, counts: Array, phases: Sequence[int]) -> Array:
    """Hits of lru from a cold start, one token per pass: an expert is resident where fewer others than slots were touched after it
    (Mattson et al. 1970). [n, phase]"""
    steps = trace.experts.astype(np.int64)  # [step, group, rank]
    experts = trace.num_experts
    if scope == "model":
        experts *= trace.layers
        steps = (steps + np.arange(trace.layers)[:, None] * trace.num_experts).reshape(-1, 1, trace.k)
    found = np.zeros((len(counts), len(phases)), np.int64)
    phase = np.repeat(trace.phase, len(steps) // trace.tokens)
    stamps = (
        np.arange(len(steps))[:, None] * trace.k + np.arange(trace.k)[::-1]
    )  # [step, rank] the strongest is touched last
    for group in range(steps.shape[1]):
        chosen = steps[:, group]
        last = np.full(experts, -1, np.int64)
        for start in range(0, len(chosen), 4_096):  # a piece at a time: [step, expert] would be large
            piece = slice(start, start + 4_096)
            touched = np.full((len(chosen[piece]) + 1, experts), -1, np.int64)
            touched[0] = last
            np.put_along_axis(touched[1:], chosen[piece], stamps[piece], 1)
            touched = np.maximum.accumulate(touched, 0)
            last = touched[-1]
            before = touched[:-1]
            own = np.take_along_axis(before, chosen[piece], 1)  # [step, rank]
            depth = (before[:, None, :] > own[:, :, None]).sum(2) + 1
            depth[own < 0] = experts + 1  # never touched: resident at no slot count
            for number, kind in enumerate(phases):
                levels = np.bincount(depth[phase[piece] == kind].ravel(), minlength=experts + 2)
                found[:, number] += levels.cumsum()[counts]
    return found


class _Together:
    """Every slot count and group, one token (scope layer) or event (scope model) after the other."""

    def __init__(
        self,
        trace: Trace,
        settings: Settings,
        counts: Array,
        caches: list[ExpertCache],
        tokens: slice,
        prefix: int,
    ) -> None:
        self._settings, self._counts = settings, counts
        self._layers, self._k = trace.layers, trace.k
        model = settings.scope == "model"
        chosen = trace.experts[tokens].astype(np.int64)  # [token, layer, rank]
        assert trace.weights is not None, "a trace without weights is replayed"
        weights = trace.weights[tokens].astype(np.float64)
        if model:  # one group of all layers' experts; a step is an event
            self._groups, self._experts = 1, trace.layers * trace.num_experts
            chosen = (chosen + np.arange(trace.layers)[:, None] * trace.num_experts).reshape(-1, 1, trace.k)
            weights = weights.reshape(-1, 1, trace.k)
            self._layer_of = np.repeat(np.arange(trace.layers), trace.num_experts)[:, None, None]
        else:
            self._groups, self._experts = trace.layers, trace.num_experts
            self._layer_of = np.arange(trace.layers)[None, None, :]
        self._expert_of = (np.arange(self._experts) % trace.num_experts)[:, None, None]
        self._steps_per_token = trace.layers if model else 1
        self._members, self._weights = (
            chosen[:, :, ::-1],
            weights[:, :, ::-1],
        )  # weakest first, as they are touched
        self._flat = (
            self._members * self._groups + np.arange(self._groups)[:, None]
        )  # places in an array [expert, group]
        if settings.policy == "belady":
            later, first = _next_steps(chosen, self._experts)
            self._next, self._next_use = later[:, :, ::-1], first[:, None, :]
        self._take_over(caches, trace, prefix, tokens.start)

    def _take_over(self, caches: list[ExpertCache], trace: Trace, prefix: int, token: int) -> None:
        """The state of caches that may have served a prompt. Where nothing has happened yet it is the same for all slot counts."""
        kept = caches[:1] if prefix == 0 else caches
        model = self._groups == 1

        def gather(of: Callable[[Any], float], some: list[ExpertCache], kind: type) -> Array:
            table: Array = np.array(
                [[[of(use) for use in row] for row in cache.uses] for cache in some], kind
            )  # [cache, layer, expert]
            return np.ascontiguousarray(
                table.reshape(len(some), -1).T[:, :, None] if model else table.transpose(2, 0, 1)
            )

        self._resident = np.zeros((self._experts, len(self._counts), self._groups), bool)
        for number, cache in enumerate(caches):
            for layer in range(trace.layers):
                for expert in cache.residents(layer):
                    self._resident[
                        (layer * trace.num_experts + expert, number, 0) if model else (expert, number, layer)
                    ] = True
        self._occupied = self._resident.sum(0)
        self._last = gather(lambda use: use.last_touch, caches, np.int64)
        self._touches = gather(lambda use: use.touches, kept, np.int64)
        self._number = gather(lambda use: use.touch_number, kept, np.int64)
        self._aged = gather(lambda use: use.aged, kept, np.float64)
        self._token_of = gather(lambda use: use.touch_token, kept, np.int64)
        self._average = gather(lambda use: use.average, kept, np.float64)
        self._pass_of = gather(lambda use: use.touch_pass, kept, np.int64)
        self._calibrated = gather(lambda use: use.calibrated, kept[:1], np.int64)
        if self._settings.policy in PER_SLOTS:
            shape = self._resident.shape
            self._loaded = np.broadcast_to(gather(lambda use: use.loaded, caches, np.int64), shape).copy()
            self._since = np.broadcast_to(
                gather(lambda use: use.touches_resident, caches, np.int64), shape
            ).copy()
        self._clock = 1 + max(int(self._last.max()), max(cache.clock for cache in caches))
        self._seen = caches[0].touched
        self._token, self._pass = token, prefix

    def run(self) -> Array:
        """Hits of every token at every slot count. [token, n]"""
        steps = len(self._members)
        found = np.zeros((steps, len(self._counts)), np.int64)
        limit = self._counts[:, None]
        groups = np.arange(self._groups)[:, None]
        kept = self._settings.policy in PER_SLOTS
        need = np.zeros((self._experts, 1, self._groups), bool)
        places = need.reshape(-1)
        for step in range(steps):
            members = self._members[step]  # [group, rank]
            places[self._flat[step]] = True
            inside = self._resident & need
            hits = np.add.reduce(inside, 0, np.int64)
            found[step] = np.add.reduce(hits, 1)
            self._occupied += self._k - hits
            over = self._occupied - limit  # [n, group] how many have to leave
            most = int(over.max())
            if most > 0:
                leaving = self._resident > need
                rank = self._rank(step)
                top = np.iinfo(rank.dtype).max
                keys = np.where(leaving, rank, top)
                for number in range(most):
                    victim = keys == np.minimum.reduce(keys, 0)
                    victim &= over > number
                    self._resident ^= victim
                    np.putmask(keys, victim, top)
                np.minimum(self._occupied, limit, out=self._occupied)
            if kept:
                self._load(step, members, inside, groups)
            self._resident |= need
            self._touch(step, members, groups)
            places[self._flat[step]] = False
        return np.asarray(found.reshape(-1, self._steps_per_token, len(self._counts)).sum(1))

    def _rank(self, step: int) -> Array:
        """Who leaves first has the least; the last touch breaks ties. [expert, 1 or n, group]"""
        match self._settings.policy:
            case "fifo":
                return np.asarray(self._loaded)
            case "lfu-resident":
                return np.asarray((self._since << 40) + self._last)
        score = self._score(step)
        if score is self._last or score.dtype == np.int64:
            key = score if score is self._last else (score << 40) + self._last
            if len(self._counts) == 1:
                return key
            order = np.argsort(key, axis=0)
        else:
            order = np.lexsort((np.broadcast_to(self._last, score.shape), score), axis=0)
        rank = np.empty(order.shape, np.uint8 if self._experts < 255 else np.uint32)
        places = np.arange(self._experts, dtype=rank.dtype)[:, None]
        for number in range(order.shape[1]):
            rank[order[:, number], number, np.arange(self._groups)] = places
        return rank

    def _score(self, step: int) -> Array:
        """As in `moeviz.core.policies`, for all experts; whatever depends on the moment is that of this step's event in every group."""
        token = self._token + step // self._steps_per_token + 1  # tokens that have entered the model
        layer = step % self._layers if self._groups == 1 else self._layer_of
        match self._settings.policy:
            case "lfu":
                score = self._touches
            case "lfu-aged":
                score = self._aged * 2.0 ** ((self._token_of - token) / self._settings.half_life)
            case "lfru":
                score = self._touches / (self._seen_at(step) - self._number + 1)
            case "random":
                score = _hash(self._settings.seed, self._seen_at(step), self._layer_of, self._expert_of)
            case "score-ema":
                score = self._average
            case "static":
                score = self._calibrated
            case "belady":
                score = (
                    -self._next_use
                )  # no further than 2 ** 22 steps, so that it fits beside the last touch
            case "layer-distance" if self._groups == 1:
                score = 1.0 - ((self._layer_of - layer) % self._layers) / self._layers
            case "least-stale" if self._groups == 1:
                now = self._pass + step // self._steps_per_token
                score = 2 * (self._pass_of == now) + (self._layer_of > layer)
            case _:
                return self._last
        return score if self._last.shape[1] == 1 else np.broadcast_to(score, self._last.shape)

    def _seen_at(self, step: int) -> Array:
        """Touches before this step's event, of all layers. [1, 1, group]"""
        before = self._seen + step * self._groups * self._k
        return np.asarray(before + np.arange(self._groups) * self._k)[None, None, :]

    def _load(self, step: int, members: Array, inside: Array, groups: Array) -> None:
        """Who was not resident is loaded, strongest first, at the clock of this step."""
        stamp = self._clock + np.arange(self._k)[::-1]  # the strongest first
        if len(self._counts) == 1:  # plain places are quicker
            loaded, since = self._loaded.reshape(-1), self._since.reshape(-1)
            at = self._flat[step]
            here = inside.reshape(-1)[at]
            loaded[at] = np.where(here, loaded[at], stamp)
            since[at] = np.where(here, since[at], 0) + 1
            return
        here = inside[members, :, groups]  # [group, rank, n]
        self._loaded[members, :, groups] = np.where(here, self._loaded[members, :, groups], stamp[:, None])
        self._since[members, :, groups] = np.where(here, self._since[members, :, groups], 0) + 1

    def _touch(self, step: int, members: Array, groups: Array) -> None:
        """Weakest first."""
        token = self._token + step // self._steps_per_token + 1
        order = np.arange(self._k)
        if self._last.shape[1] == 1:
            self._last.reshape(-1)[self._flat[step]] = self._clock + self._k + order
        else:
            self._last[members, :, groups] = (self._clock + self._k + order)[:, None]
        match self._settings.policy:
            case "lfu":
                self._touches[members, :, groups] += 1
            case "lfu-aged":
                age = (self._token_of[members, :, groups] - token) / self._settings.half_life
                self._aged[members, :, groups] = 1.0 + self._aged[members, :, groups] * 2.0**age
                self._token_of[members, :, groups] = token
            case "lfru":
                self._touches[members, :, groups] += 1
                self._number[members, :, groups] = (self._seen_at(step)[0, 0, :, None] + order + 1)[
                    :, :, None
                ]
            case "score-ema":
                self._average[members, :, groups] = (
                    EMA * self._weights[step][:, :, None] + (1 - EMA) * self._average[members, :, groups]
                )
            case "belady":
                self._next_use[members, 0, groups] = self._next[step]
            case "least-stale":
                self._pass_of[members, :, groups] = self._pass + step // self._steps_per_token
        self._clock += 2 * self._k


def _next_steps(members: Array, experts: int) -> tuple[Array, Array]:
    """Step of each member's next use in its group, and of each expert's first; NEVER where there is none.

    members: [step, group, rank]; gives [step, group, rank] and [expert, group].
    """
    steps, groups, k = members.shape
    later = np.full(members.shape, NEVER, np.int64)
    first = np.full((experts, groups), NEVER, np.int64)
    for group in range(groups):
        flat = members[:, group].ravel()
        order = np.argsort(flat, kind="stable")  # uses of one expert together, in time order
        same = flat[order][1:] == flat[order][:-1]
        row = np.full(steps * k, NEVER, np.int64)
        row[order[:-1][same]] = order[1:][same] // k
        later[:, group] = row.reshape(steps, k)
        begins = order[np.append(True, ~same)]
        first[flat[begins], group] = begins // k
    return later, first


def _hash(seed: int, touches: Array, layer: Array, expert: Array) -> Array:
    """The policy `random`'s, as float64."""
    z: Array = (np.uint64(seed % 2**16) << np.uint64(48)) ^ (touches.astype(np.uint64) << np.uint64(24))
    z = z ^ (layer.astype(np.uint64) << np.uint64(12)) ^ expert.astype(np.uint64)
    with np.errstate(over="ignore"):
        z = z + np.uint64(0x9E3779B97F4A7C15)
        z = (z ^ (z >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
        z = (z ^ (z >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    return np.asarray((z ^ (z >> np.uint64(31))).astype(np.float64))

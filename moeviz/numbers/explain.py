"""Why an expert left: every resident's score at that moment, the victim's beside the others', one sentence, and the regret.

Explainer(trace, settings).evictions(step=50, layer=3)[0].sentence
"""

from __future__ import annotations

import math
from bisect import bisect_left
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np

from moeviz.core.cache import Choice
from moeviz.core.oracle import Future
from moeviz.core.replay import replay
from moeviz.core.run import MISS
from moeviz.core.settings import Settings
from moeviz.core.trace import Trace
from moeviz.numbers import metrics

SAYS = {  # the victim's score, in words
    "lru": "last used {ago}, longer ago than any other that could leave",
    "lfu": "used {times} so far, no other that could leave was used less",
    "lfu-resident": "used {times} since it was last loaded, no other that could leave was used less",
    "lfu-aged": "its uses, old ones counting less, came to {score:.2f}, the least of all that could leave",
    "lfru": "uses over age came to {score:.4f}, the least of all that could leave",
    "fifo": "loaded before any other that could leave",
    "random": "drawn at random",
    "score-ema": "the router's weights for it averaged {score:.3f}, the least of all that could leave",
    "least-stale": "not needed in this forward pass so far and of a layer already passed, or else the oldest",
    "layer-distance": "its layer comes round last",
    "static": "used {times} in the calibration trace, no other that could leave was used less",
    "belady": "needed again later than any other that could leave",
}


@dataclass(frozen=True, slots=True)
class Resident:
    """One expert that was resident when a victim was chosen."""

    layer: int
    expert: int
    score: float
    status: str  # leaves, could leave, needed now, held by a guess
    last_use: int | None  # forward passes ago
    next_use: int | None  # in forward passes; None: never again


@dataclass(frozen=True, slots=True)
class Eviction:
    """One victim and why."""

    load: int  # index of the load that took its slot
    layer: int
    expert: int
    for_layer: int  # who came
    for_expert: int
    speculative: bool
    residents: tuple[Resident, ...]  # of the pool, the first to leave first
    belady: tuple[int, int]  # (layer, expert) that the bound would have dropped
    regret: (
        int | None
    )  # forward passes by which the victim comes back before belady's would; 0 none; None: would never have
    sentence: str

    @property
    def regretted(self) -> bool:
        return self.regret is None or self.regret > 0


class Explainer:
    """A replay that remembers how every victim was chosen."""

    def __init__(self, trace: Trace, settings: Settings, find: Callable[[str], Trace] | None = None) -> None:
        self._choices: list[Choice] = []
        self.trace, self.settings = trace, settings
        self.run = replay(trace, settings, find, self._choices)
        self._future = Future(trace)
        self._by_load = {choice.load.index: choice for choice in self._choices}

    def evictions(self, step: int, layer: int) -> list[Eviction]:
        """Who left at the event of a layer in a forward pass, in order; guesses made there included."""
        event = self.run.event(step, layer)
        if event is None:
            return []
        first, last = np.searchsorted(self.run.loads.event, [event, event + 1])
        return [
            self._explained(self._by_load[load], step * self.run.layers + layer)
            for load in range(first, last)
            if load in self._by_load
        ]

    def next_event(self, kind: str, step: int, layer: int) -> tuple[int, int] | None:
        """(step, layer) of the first event after this one with a miss, an eviction, a collision, or a regretted eviction."""
        events = self.run.events
        for row in self._events(kind):
            found = int(events.forward_pass[row]), int(events.layer[row])
            if found > (step, layer):
                return found
        return None

    def _moment(self, choice: Choice) -> int:
        """forward pass x L + layer of the event at which a victim was chosen, as the future counts."""
        row = int(self.run.loads.event[choice.load.index])
        events = self.run.events
        return int(events.forward_pass[row]) * self.run.layers + int(events.layer[row])

    def _events(self, kind: str) -> list[int]:
        run = self.run
        match kind:
            case "miss":
                found = run.accesses.event[run.accesses.outcome == MISS]
            case "eviction":
                found = run.loads.event[run.loads.victim_expert >= 0]
            case "collision":
                found = run.accesses.event[metrics.miss_kind_of_access(run) == 3]
            case _:
                found = np.array(
                    [run.loads.event[c.load.index] for c in self._choices if self._regrets(c)], np.int64
                )
        return sorted(set(found.tolist()))

    def _regrets(self, choice: Choice) -> bool:
        event = self._moment(choice)
        victim = self._future.next_use(*choice.load.victim, event)
        return any(self._future.next_use(*key, event) > victim for key in self._could_leave(choice))

    def _could_leave(self, choice: Choice) -> list[tuple[int, int]]:
        could = [key for key in choice.scores if key not in choice.pinned and key not in choice.held]
        return (
            could if choice.load.victim in could else [*could, choice.load.victim]
        )  # demand evicts a guess when nothing else is left

    def _explained(self, choice: Choice, event: int) -> Eviction:
        layers = self.run.layers
        victim = choice.load.victim
        could = self._could_leave(choice)

        def passes_to(when: float) -> int | None:
            return None if math.isinf(when) else int(when) // layers - event // layers

        residents = []
        for key, score in sorted(
            choice.scores.items(),
            key=lambda item: (item[0] != victim, item[0] not in could, item[1], item[0]),
        ):
            status = (
                "could leave" if key in could else "needed now" if key in choice.pinned else "held by a guess"
            )
            residents.append(
                Resident(
                    *key,
                    score,
                    "leaves" if key == victim else status,
                    self._ago(key, event),
                    passes_to(self._future.next_use(*key, event)),
                )
            )
        best = max(could, key=lambda key: (self._future.next_use(key[0], key[1], event), key == victim))
        mine, theirs = self._future.next_use(*victim, event), self._future.next_use(*best, event)
        regret: int | None = 0
        if theirs > mine:
            regret = None if math.isinf(theirs) else int(theirs - mine) // layers
        return Eviction(
            choice.load.index,
            *victim,
            choice.load.layer,
            choice.load.expert,
            choice.load.speculative,
            tuple(residents),
            best,
            regret,
            self._sentence(choice, event, could, best, passes_to(mine)),
        )

    def _ago(self, key: tuple[int, int], event: int) -> int | None:
        """Forward passes since the last use; None where there was none."""
        uses = self._future.uses(*key)
        at = bisect_left(uses, event)
        return event // self.run.layers - uses[at - 1] // self.run.layers if at else None

    def _sentence(
        self,
        choice: Choice,
        event: int,
        could: list[tuple[int, int]],
        best: tuple[int, int],
        back: int | None,
    ) -> str:
        layer, expert = choice.load.victim
        score = choice.scores[choice.load.victim]
        shared = self.settings.scope == "model"
        name = f"expert {expert}" + (f" of layer {layer}" if shared else "")
        ago = self._ago(choice.load.victim, event)
        words = (
            "never"
            if ago is None
            else "in this pass"
            if ago == 0
            else f"{ago} token{'s' if ago > 1 else ''} ago"
        )
        times = {1: "once", 2: "twice"}.get(int(score), f"{score:.0f} times") if math.isfinite(score) else ""
        says = SAYS.get(self.settings.policy, "its score was {score:.4g}, the least of all that could leave")
        says = says.format(score=score, ago=words, times=times)
        if len(could) == 1:
            says = "nothing else could leave"
        elif sum(choice.scores[key] == score for key in could) > 1 and self.settings.policy not in (
            "lru",
            "fifo",
            "random",
        ):
            says += ", and of those that tie the least recently used"
        again = (
            "never needed again"
            if back is None
            else "needed again in this pass"
            if back == 0
            else f"next needed {back} token{'s' if back > 1 else ''} later"
        )
        text = f"{name[0].upper()}{name[1:]} left: {says}; {again}"
        if best != choice.load.victim:
            text += f". Belady would have dropped expert {best[1]}" + (
                f" of layer {best[0]}" if shared else ""
            )
        return text + "."

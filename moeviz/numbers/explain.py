"""Why an expert left: every resident's score at that moment, the victim's beside the others', one sentence,
and the regret.

Explainer(trace, settings).evictions(step=50, layer=3)[0].sentence
"""

from __future__ import annotations

import math
from bisect import bisect_left
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from moeviz.core.cache import Choice
from moeviz.core.oracle import Future
from moeviz.core.policies import POLICIES
from moeviz.core.replay import replay, served
from moeviz.core.run import MISS
from moeviz.core.settings import Settings
from moeviz.core.trace import Trace
from moeviz.numbers import metrics


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

    load: int  # index of the load that it made room for
    layer: int
    expert: int
    for_layer: int  # who came
    for_expert: int
    speculative: bool
    residents: tuple[Resident, ...]  # of the pool, the first to leave first
    belady: tuple[int, int]  # (layer, expert) that belady would have dropped
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
        self.trace, self.settings = served(trace, settings), settings
        self.run = replay(trace, settings, find, self._choices)
        self._future = Future(self.trace, settings.one_by_one)
        self._load = [choice.load for choice in self._choices]  # ascending

    def evictions(self, step: int, layer: int) -> list[Eviction]:
        """Who left at the event of a layer in a forward pass, in order; guesses made there included. None
        where there was no event."""
        event = self.run.event(step, layer)
        if event is None:
            return []
        loads = np.searchsorted(self.run.loads.event, [event, event + 1])
        first, last = (bisect_left(self._load, int(load)) for load in loads)
        return [self._explained(choice) for choice in self._choices[first:last]]

    def next_event(self, kind: str, step: int, layer: int) -> tuple[int, int] | None:
        """(step, layer) of the first event after this one with a miss, an eviction, a collision, or a
        regretted eviction."""
        events = self.run.events
        found = self._events(kind)
        passes, layers = events.forward_pass[found], events.layer[found]
        after = np.flatnonzero((passes > step) | ((passes == step) & (layers > layer)))
        return (int(passes[after[0]]), int(layers[after[0]])) if after.size else None

    def _events(self, kind: str) -> NDArray[np.int64]:
        """Rows of the events of a kind, ascending."""
        run = self.run
        match kind:
            case "miss":
                found = run.accesses.event[run.accesses.outcome == MISS]
            case "eviction":
                found = run.loads.event[run.loads.victim_expert >= 0]
            case "collision":
                found = run.accesses.event[metrics.miss_kind_of_access(run) == 3]
            case _:
                found = run.loads.event[[choice.load for choice in self._choices if self._regrets(choice)]]
        return np.unique(found).astype(np.int64)

    def _moment(self, choice: Choice) -> float:
        """Number, as the future counts, of the event at which a victim was chosen."""
        run, event = self.run, self.run.loads.event[choice.load]
        step, layer = int(run.events.forward_pass[event]), int(run.events.layer[event])
        if self.settings.one_by_one and not run.loads.speculative[choice.load]:
            return self._future.number(step, layer, int(run.loads.expert[choice.load]))
        return step * run.layers + layer

    def _regrets(self, choice: Choice) -> bool:
        event = self._moment(choice)
        victim = self._future.next_use(*choice.victim, event)
        return any(self._future.next_use(*key, event) > victim for key in self._could_leave(choice))

    def _could_leave(self, choice: Choice) -> list[tuple[int, int]]:
        could = [key for key in choice.scores if key not in choice.pinned and key not in choice.held]
        return (
            could if choice.victim in could else [*could, choice.victim]
        )  # demand evicts a guess when nothing else is left

    def _explained(self, choice: Choice) -> Eviction:
        layers, loads = self.run.layers, self.run.loads
        event = self._moment(choice)
        now = int(event) // layers
        victim = choice.victim
        could = self._could_leave(choice)

        def passes_to(when: float) -> int | None:
            return None if math.isinf(when) else int(when) // layers - now

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
            choice.load,
            *victim,
            int(loads.layer[choice.load]),
            int(loads.expert[choice.load]),
            bool(loads.speculative[choice.load]),
            tuple(residents),
            best,
            regret,
            self._sentence(choice, event, could, best, passes_to(mine)),
        )

    def _ago(self, key: tuple[int, int], event: float) -> int | None:
        """Forward passes since the last use; None where there was none."""
        uses = self._future.uses(*key)
        at = int(np.searchsorted(uses, event))
        layers = self.run.layers
        return int(event) // layers - int(uses[at - 1]) // layers if at else None

    def _tokens(self, count: int) -> str:
        """Forward passes in words: of one token each, but for the rule `batch`."""
        if self.settings.batch:
            return f"{count} pass{'es' if count > 1 else ''}"
        return f"{count} token{'s' if count > 1 else ''}"

    def _sentence(
        self,
        choice: Choice,
        event: float,
        could: list[tuple[int, int]],
        best: tuple[int, int],
        back: int | None,
    ) -> str:
        layer, expert = choice.victim
        score = choice.scores[choice.victim]
        shared = self.settings.scope == "model"
        name = f"expert {expert}" + (f" of layer {layer}" if shared else "")
        ago = self._ago(choice.victim, event)
        words = "never" if ago is None else "in this pass" if ago == 0 else f"{self._tokens(ago)} ago"
        times = {1: "once", 2: "twice"}.get(int(score), f"{score:.0f} times") if math.isfinite(score) else ""
        policy = POLICIES[self.settings.policy]
        says = choice.why or policy.says.format(score=score, ago=words, times=times)
        if len(could) == 1:
            says = "nothing else could leave"
        elif not policy.distinct and sum(choice.scores[key] == score for key in could) > 1:
            says += ", and of those that tie the least recently used"
        again = (
            "never needed again"
            if back is None
            else "needed again in this pass"
            if back == 0
            else f"next needed {self._tokens(back)} later"
        )
        text = f"{name[0].upper()}{name[1:]} left: {says}; {again}"
        if best != choice.victim:
            text += f". Belady would have dropped expert {best[1]}" + (
                f" of layer {best[0]}" if shared else ""
            )
        return text + "."

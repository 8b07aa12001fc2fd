"""Why an expert left: every resident's score at that moment, the victim's beside the others', one sentence,
and the regret.

Explainer(trace, settings).evictions(step=50, layer=3)[0].sentence
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from functools import cached_property
from itertools import chain

import numpy as np
from numpy.typing import NDArray

from moeviz.core.cache import Choice
from moeviz.core.oracle import Future
from moeviz.core.owncode import short
from moeviz.core.policies import POLICIES
from moeviz.core.replay import replay, served
from moeviz.core.run import MISS, Run
from moeviz.core.settings import Settings
from moeviz.core.trace import Trace
from moeviz.errors import PolicyError
from moeviz.numbers import metrics

Ints = NDArray[np.int64]
Floats = NDArray[np.float64]
STATUS = ("leaves", "could leave", "needed now", "held by a guess")
NEVER = -1


@dataclass(frozen=True, slots=True)
class Resident:
    """One expert that was resident when a victim was chosen."""

    layer: int
    expert: int
    score: float
    status: str  # of STATUS
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
    regret: int | None  # forward passes by which belady's comes back later, 0: none; None: it never does
    why: str  # as its policy puts it
    tied: bool  # another that could leave had the same score
    sentence: str

    @property
    def regretted(self) -> bool:
        """Whether another that could leave is needed later, or never again."""
        return self.belady != (self.layer, self.expert)


@dataclass(frozen=True, slots=True)
class Chosen:
    """Every eviction of a run as columns: N evictions in the order of their loads, and R residents, those of
    one eviction together, the first to leave first. A cell is layer x experts + expert."""

    load: Ints  # [N] number of the load that it made room for
    first: Ints  # [N + 1] the victim's row among the residents, and then the number of residents
    alone: NDArray[np.bool_]  # [N] nobody else could leave
    tied: NDArray[np.bool_]  # [N] another that could leave had the same score
    belady: Ints  # [N] cell that belady would have dropped
    regret: Ints  # [N] as Eviction.regret; NEVER: belady's is never needed again
    cell: Ints  # [R]
    score: Floats  # [R]
    status: Ints  # [R] number into STATUS
    last_use: Ints  # [R] forward passes ago; NEVER: not before
    next_use: Ints  # [R] in forward passes; NEVER: not again

    @property
    def regretted(self) -> NDArray[np.bool_]:
        """As Eviction.regretted. [N]"""
        found: NDArray[np.bool_] = self.belady != self.cell[self.first[:-1]]
        return found


class Explainer:
    """A replay, and how every victim of it was chosen. `run`: the replay, where it is known already."""

    def __init__(
        self,
        trace: Trace,
        settings: Settings,
        find: Callable[[str], Trace] | None = None,
        run: Run | None = None,
    ) -> None:
        self._asked, self._find = trace, find
        self.trace, self.settings = served(trace, settings), settings
        self.run = replay(trace, settings, find) if run is None else run
        self._reasons: dict[tuple[float, int, bool, bool], str] = {}

    @cached_property
    def _choices(self) -> list[Choice]:
        """How every victim was chosen, in the order of their loads. It is found event by event, which without
        pre-fetching takes several times as long as the run: so only once it is asked. Raises PolicyError."""
        found: list[Choice] = []
        if not replay(self._asked, self.settings, self._find, found).same_decisions(self.run):
            names = {"policy": self.settings.policy, "predictor": self.settings.prefetch}
            told = [f"{kind} {short(name)!r}" for kind, name in names.items() if ":" in name]
            raise PolicyError(
                f"{' or '.join(told) or names['policy']} decided otherwise when it was asked again. Let it "
                "depend on what it is told alone: a policy that draws has now.seed, now.touches and use.key."
            )
        return found

    @cached_property
    def chosen(self) -> Chosen:
        """How every victim was chosen."""
        choices, run = self._choices, self.run
        experts = run.experts
        counts = np.array([len(choice.residents) for choice in choices], np.int64)
        first = np.concatenate([[0], np.cumsum(counts)])
        cell = np.concatenate([np.empty(0, np.int64), *(one.residents for one in choices)])
        score = np.concatenate([np.empty(0), *(one.scores for one in choices)])
        of = np.repeat(np.arange(len(choices)), counts)
        victim = cell == np.array([one.victim for one in choices], np.int64)[of]
        own = of * (run.layers * experts) + cell  # a resident of one choice
        status = np.ones(len(cell), np.int64)
        for number, cells in ((3, [one.held for one in choices]), (2, [one.pinned for one in choices])):
            those = np.repeat(np.arange(len(choices)), [*map(len, cells)]) * (run.layers * experts)
            status[np.isin(own, those + np.fromiter(chain.from_iterable(cells), np.int64))] = number
        # demand evicts a guess when nothing else is left: then any of them could leave
        guess_left = np.bincount(of[victim], status[victim] == 3, len(choices)) > 0
        status[guess_left[of] & (status == 3)] = 1
        status[victim] = 0

        load = np.array([one.load for one in choices], np.int64)
        future = Future(self.trace, self.settings.one_by_one)
        moment = self._moments(load, future)
        last, following = future.around(cell, moment[of])
        could = np.flatnonzero(status < 2)
        by_need = could[np.lexsort((status[could], -following[could], of[could]))]
        best = by_need[np.searchsorted(of[by_need], np.arange(len(choices)))]
        order = np.lexsort((cell, score, np.maximum(status, 1) > 1, status > 0, of))
        mine, theirs = following[order][first[:-1]], following[best]
        lowest = score[order][first[:-1]]
        same = np.bincount(of[could], score[could] == lowest[of[could]], len(choices))
        now = moment.astype(np.int64) // run.layers
        with np.errstate(invalid="ignore"):
            sooner = np.where(theirs > mine, theirs - mine, 0.0)
        return Chosen(
            load,
            first,
            np.bincount(of[could], minlength=len(choices)) == 1,
            same > 1,
            cell[best],
            _passes(sooner, run.layers),
            cell[order],
            score[order],
            status[order],
            np.where(last >= 0, now[of] - _passes(last, run.layers), NEVER)[order],
            np.where(np.isfinite(following), _passes(following, run.layers) - now[of], NEVER)[order],
        )

    def evictions(self, step: int, layer: int) -> list[Eviction]:
        """Who left at the event of a layer in a forward pass, in order; guesses made there included. None
        where there was no event."""
        event = self.run.event(step, layer)
        if event is None:
            return []
        loads = np.searchsorted(self.run.loads.event, [event, event + 1])
        return [self._explained(n) for n in range(*np.searchsorted(self.chosen.load, loads).tolist())]

    def next_event(self, kind: str, step: int, layer: int) -> tuple[int, int] | None:
        """(step, layer) of the first event after this one with a miss, an eviction, a collision, or a
        regretted eviction."""
        events = self.run.events
        found = self._events(kind)
        passes, layers = events.forward_pass[found], events.layer[found]
        after = np.flatnonzero((passes > step) | ((passes == step) & (layers > layer)))
        return (int(passes[after[0]]), int(layers[after[0]])) if after.size else None

    def reason(self, number: int) -> str:
        """Why the victim of an eviction left, as its policy puts it."""
        chosen = self.chosen
        row = chosen.first[number]
        if (why := self._choices[number].why) and not chosen.alone[number]:
            return why
        key = (
            float(chosen.score[row]),
            int(chosen.last_use[row]),
            bool(chosen.alone[number]),
            bool(chosen.tied[number]),
        )
        if key not in self._reasons:
            self._reasons[key] = self._reason(*key)
        return self._reasons[key]

    def measure(self, score: float, last_use: int | None) -> str:
        """The policy's words for one resident by itself, used last so many forward passes ago: "used 52 times
        so far"; empty where it has none."""
        words = POLICIES[self.settings.policy].measure
        return self._in_words(words, score, NEVER if last_use is None else last_use)

    def _events(self, kind: str) -> Ints:
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
                found = run.loads.event[self.chosen.load[self.chosen.regretted]]
        return np.unique(found).astype(np.int64)

    def _moments(self, load: Ints, future: Future) -> Floats:
        """Numbers, as the future counts, of the events at which victims of these loads were chosen."""
        run = self.run
        event = run.loads.event[load]
        step, layer = run.events.forward_pass[event].astype(np.int64), run.events.layer[event]
        found: Floats = (step * run.layers + layer).astype(np.float64)
        if self.settings.one_by_one:
            for n in np.flatnonzero(~run.loads.speculative[load]):
                found[n] = future.number(int(step[n]), int(layer[n]), int(run.loads.expert[load[n]]))
        return found

    def _explained(self, number: int) -> Eviction:
        chosen, loads, experts = self.chosen, self.run.loads, self.run.experts
        load = int(chosen.load[number])
        rows = slice(int(chosen.first[number]), int(chosen.first[number + 1]))
        residents = tuple(
            Resident(cell // experts, cell % experts, score, STATUS[status], _known(last), _known(following))
            for cell, score, status, last, following in zip(
                chosen.cell[rows].tolist(),
                chosen.score[rows].tolist(),
                chosen.status[rows].tolist(),
                chosen.last_use[rows].tolist(),
                chosen.next_use[rows].tolist(),
                strict=True,
            )
        )
        victim, belady = residents[0], divmod(int(chosen.belady[number]), experts)
        return Eviction(
            load,
            victim.layer,
            victim.expert,
            int(loads.layer[load]),
            int(loads.expert[load]),
            bool(loads.speculative[load]),
            residents,
            belady,
            _known(int(chosen.regret[number])),
            self.reason(number),
            bool(chosen.tied[number]),
            self._sentence(number, victim, belady),
        )

    def _tokens(self, count: int) -> str:
        """Forward passes in words."""
        if self.run.token_by_token:
            return f"{count} token{'s' if count > 1 else ''}"
        return f"{count} pass{'es' if count > 1 else ''}"

    def _reason(self, score: float, last_use: int, alone: bool, tied: bool) -> str:
        if alone:
            return "nothing else could leave"
        policy = POLICIES[self.settings.policy]
        says = self._in_words(policy.says, score, last_use)
        if tied and not policy.distinct:
            says += ", and of those that tie the least recently used"
        return says

    def _in_words(self, says: str, score: float, last_use: int) -> str:
        """A policy's words for a resident, filled in."""
        ago = {NEVER: "never", 0: "in this pass"}.get(last_use) or f"{self._tokens(last_use)} ago"
        many = f"{score:.0f} times" if math.isfinite(score) else "never"
        return says.format(score=score, ago=ago, times={1.0: "once", 2.0: "twice"}.get(score, many))

    def _sentence(self, number: int, victim: Resident, belady: tuple[int, int]) -> str:
        shared = self.settings.scope == "model"
        name = f"Expert {victim.expert}" + (f" of layer {victim.layer}" if shared else "")
        back = victim.next_use
        again = (
            "never needed again"
            if back is None
            else "needed again in this pass"
            if back == 0
            else f"next needed {self._tokens(back)} later"
        )
        text = f"{name} left: {self.reason(number)}; {again}"
        if belady != (victim.layer, victim.expert):
            text += f". Belady would have dropped expert {belady[1]}" + (
                f" of layer {belady[0]}" if shared else ""
            )
        return text + "."


def _passes(numbers: Floats, layers: int) -> Ints:
    """The forward passes of events' numbers; NEVER where they are not finite."""
    known = np.isfinite(numbers)
    return np.where(known, np.where(known, numbers, 0).astype(np.int64) // layers, NEVER)


def _known(passes: int) -> int | None:
    return None if passes == NEVER else passes

"""Hit ratio over slot counts: what a replay at every slot count would give, for all of them at once.

The slots, the rule and the scores are the replay's own (`moeviz.core.pools`): a slot count is so many more
pools. A stack algorithm from a cold start needs one ranking of experts for all slot counts
(`moeviz.numbers.stack`). No pre-fetching.

    curve(trace, Settings("lfu")).hit_ratio      # [slot count]
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from moeviz.core import serving
from moeviz.core.cache import start
from moeviz.core.onepool import quick
from moeviz.core.oracle import knowledge
from moeviz.core.policies import POLICIES
from moeviz.core.replay import check_trace, served
from moeviz.core.run import Run
from moeviz.core.settings import Room, Settings
from moeviz.core.steps import Steps
from moeviz.core.trace import DECODE, PREFILL, Trace
from moeviz.core.use import BY_EVENT
from moeviz.errors import SettingsError
from moeviz.numbers import metrics, stack, timing

if TYPE_CHECKING:
    from moeviz.charts.chart import Chart


@dataclass(frozen=True, eq=False, slots=True)
class Curve:
    """Hits of one policy at several slot counts."""

    settings: Settings  # its slots do not apply
    slots: NDArray[np.int64]  # [n] per layer, or in all
    hits: NDArray[np.int64]  # [n, phase] prefill and decode
    accesses: NDArray[np.int64]  # [phase]
    budgets: NDArray[np.int64] | None = None  # [n] bytes, where the curve is over budgets

    @property
    def phase(self) -> int:
        """Decode, or prefill where nothing was decoded."""
        return DECODE if self.accesses[DECODE] else PREFILL

    @property
    def hit_ratio(self) -> NDArray[np.float64]:
        """Of `phase` alone. [n]"""
        return self.hits[:, self.phase] / max(int(self.accesses[self.phase]), 1)

    def chart(self, *others: Curve, at: int = 0) -> Chart:
        """The curve as a chart, others of the same trace beside it: `.figure` shows it, `.table` holds its
        numbers. `at` is a slot count to mark; 0: the middle one.
        """
        from moeviz.charts.curves import over_slots

        return over_slots([self, *others], at or int(self.slots[len(self.slots) // 2]))


def slot_counts(trace: Trace, scope: str, most: int = 24) -> list[int]:
    """Scope layer: from k to every expert. Scope model: at most `most` counts, evenly from one token's need
    to every expert."""
    if scope == "layer":
        return list(range(trace.k, trace.num_experts + 1))
    need, every = trace.k * trace.layers, trace.num_experts * trace.layers
    return sorted({round(x) for x in np.linspace(need, every, most)})


def curve(
    trace: Trace,
    settings: Settings,
    slots: Sequence[int] | None = None,
    find: Callable[[str], Trace] | None = None,
    budgets: Sequence[int] | None = None,
) -> Curve:
    """Hits at each slot count (default: `slot_counts`), or at each budget in bytes. Raises SettingsError as
    `replay` does.

    Where layers' experts differ in size, a budget in scope model holds as many as fit, each with its own
    size: who leaves, leaves until who comes has room.
    """
    counts = list(slots) if slots is not None else slot_counts(trace, settings.scope)
    if settings.baseline:
        raise SettingsError(f"{settings.baseline} is no cache with slots, so it has no curve. Replay it.")
    if not len(counts if budgets is None else budgets):
        raise SettingsError("a curve is over slot counts, and none is named. Name one, or leave them out.")
    rooms = _rooms(trace, settings, counts, budgets)
    hits, accesses = _hits(trace, replace(settings, prefetch="none"), rooms, find)
    if budgets is not None:
        return Curve(settings, np.array([room.slots for room in rooms]), hits, accesses, np.array(budgets))
    return Curve(settings, np.array(counts, np.int64), hits, accesses)


def hits_by(
    trace: Trace,
    settings: Settings,
    labels: NDArray[np.intp],
    slots: Sequence[int] | None = None,
    find: Callable[[str], Trace] | None = None,
    budgets: Sequence[int] | None = None,
) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """As `curve`, with hits counted apart by labels [token, layer], whole numbers from 0: stretches of the
    text, or layers. A forward pass is counted under its first token. Hits [slot count, label] and accesses
    [label].
    """
    counts = slots if slots is not None else slot_counts(trace, settings.scope)
    rooms = _rooms(trace, settings, counts, budgets)
    return _hits(trace, replace(settings, prefetch="none"), rooms, find, labels)


def _rooms(
    trace: Trace, settings: Settings, slots: Sequence[int], budgets: Sequence[int] | None
) -> list[Room]:
    """Of each budget where there are some, else of each slot count. Raises SettingsError."""
    plain = replace(settings, prefetch="none", budget=0)
    if budgets is None:
        wanted = [replace(plain, slots=count) for count in slots]
    else:
        wanted = [replace(plain, budget=budget) for budget in budgets]
    for one in wanted:
        one.check(*trace.shape)
    return [one.room(*trace.shape) for one in wanted]


def _hits(
    trace: Trace,
    settings: Settings,
    rooms: Sequence[Room],
    find: Callable[[str], Trace] | None,
    labels: NDArray[np.intp] | None = None,
) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """Hits in each room by label [room, label], and accesses [label]; labels left out: by phase."""
    trace = served(trace, settings)
    check_trace(trace, settings)
    known = knowledge(settings, trace, find)
    known.check(trace.layers, trace.num_experts)
    if labels is not None:
        labels = labels[np.flatnonzero(np.diff(trace.forward_pass, prepend=-1))]
    steps = Steps(trace, known, settings, labels)
    found = np.zeros((len(rooms), steps.labels), np.int64)
    policy = POLICIES[settings.policy]
    fits = [
        at
        for at, room in enumerate(rooms)
        if settings.warm == "cold" and not room.bytes and steps.largest <= room.slots == min(room.limits)
    ]
    if len(fits) > 1 and policy.stack:
        depth = stack.depths(steps, start(trace, settings, known, rooms[:1]))
        found[fits] = stack.hits(depth, steps, np.array([rooms[at].slots for at in fits]))
    else:
        fits = []
    # these are served at one slot count at a time
    apart = bool(rooms[0].bytes or policy.lists is not None or policy.reads & BY_EVENT)
    together: list[int] = []
    for at in range(len(rooms)):
        if at not in fits:
            pools = start(trace, settings, known, [rooms[at]])
            if apart or quick(steps, pools):
                found[at] = serving.hits(steps, pools)[0]
            else:
                together.append(at)
    if together:
        found[together] = serving.hits(steps, start(trace, settings, known, [rooms[at] for at in together]))
    return found, np.bincount(steps.label, minlength=steps.labels)


@dataclass(frozen=True, slots=True)
class Bounds:
    """What no policy can beat on a trace; None where there is no such bound, or it is not known."""

    belady_hit_ratio: float | None = None  # of decode, or of prefill where nothing was decoded
    least_ms_per_token: float | None = None  # on the machine of the recorded run
    gap_captured: float | None = None  # (policy - lru) / (belady - lru), in hits, without pre-fetching


def bounds(
    trace: Trace,
    settings: Settings,
    recorded: Run | None,
    *,
    gap: bool = False,
    replayed: Mapping[Settings, Run] | None = None,
) -> Bounds:
    """What no policy can beat at these slots, and what these settings make of it. `gap`: whether that is
    asked for. `replayed`: what replays of these settings and others gave, which are not done again. For a
    baseline all are None.

    The bound is belady's under the settings' own rule. It is none (None) where a pool's experts differ in
    size: the fewest misses are then no longer had by who is needed again last.
    """
    room = settings.room(*trace.shape)
    if settings.baseline or room.bytes:
        return Bounds()
    hits: dict[str, list[int]] = {}  # by policy: of prefill and of decode
    accesses: list[int] = []
    for policy in {"belady", "lru", settings.policy} if gap else {"belady"}:
        one = replace(settings, policy=policy, prefetch="none")
        if replayed and one in replayed:
            counts = [metrics.counts(replayed[one], phase) for phase in (PREFILL, DECODE)]
            hits[policy], accesses = [each.hits for each in counts], [each.accesses for each in counts]
        else:
            (by_phase,), all_of_phase = _hits(trace, one, [room], None)
            hits[policy], accesses = by_phase.tolist(), all_of_phase.tolist()
    phase = DECODE if accesses[DECODE] else PREFILL
    least = captured = None
    if recorded:
        least = timing.bandwidth_bound_ms(recorded, accesses[DECODE] - hits["belady"][DECODE])
    if gap:
        own, lru, best = (hits[policy][phase] for policy in (settings.policy, "lru", "belady"))
        captured = metrics.gap_captured(own, lru, best)
    return Bounds(hits["belady"][phase] / max(accesses[phase], 1), least, captured)


def tells_gap(settings: Settings) -> bool:
    """Whether the gap captured says anything of these settings: of lru it is 0, of belady all, by what it
    means.
    """
    return settings.policy not in ("lru", "belady")


def knee(found: Curve) -> int | None:
    """Slot count where the curve bends most: furthest above the straight line between its ends (Satopaa et
    al. 2011); None where none is."""
    if len(found.slots) < 3:
        return None
    x = (found.slots - found.slots[0]) / (found.slots[-1] - found.slots[0])
    y = found.hit_ratio - found.hit_ratio[0]
    above = y / y[-1] - x if y[-1] > 0 else np.zeros(len(x))
    return int(found.slots[above.argmax()]) if above.max() > 0.01 else None

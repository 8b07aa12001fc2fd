"""What a sweep's table says: which cache to take at which memory, by how much, and how sure that is.

A prompt is one trace. Two caches are compared prompt by prompt, and the interval over all prompts is a
bootstrap's over those differences; within one prompt it is drawn over stretches of its text, so that a lucky
passage is seen as one.

    for one in choices(table): print(one.room, one.best, one.difference)
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from moeviz import words
from moeviz.core.policies import POLICIES
from moeviz.core.predictors import PREDICTORS
from moeviz.core.settings import Settings
from moeviz.core.trace import DECODE
from moeviz.numbers.curves import Curve, knee
from moeviz.numbers.differences import Interval, bootstrap, in_stretches

AGAINST = "lru"  # what others are measured against


@dataclass(frozen=True, slots=True)
class Means:
    """One way to cache, over all prompts of a table, at the slot counts (or budgets) that every prompt
    has."""

    name: str  # policy, and scope and predictor where the table has several
    by_prompt: dict[str, tuple[float, ...]]  # digest -> hit ratio at each slot count
    slots: tuple[int, ...]  # or budgets in bytes
    memory: tuple[float, ...]  # bytes of these slots, the mean over prompts; 0 where one is unknown

    @property
    def hit_ratio(self) -> tuple[float, ...]:
        """At each slot count, the mean over prompts: each counts alike."""
        return tuple(np.mean(list(self.by_prompt.values()), axis=0).tolist())

    @property
    def mean(self) -> float:
        return float(np.mean(self.hit_ratio))


@dataclass(frozen=True, slots=True)
class Choice:
    """The best cache in one amount of memory."""

    room: int  # slots, or a budget in bytes
    memory: float  # bytes; 0 where unknown
    best: str
    hit_ratio: float  # the mean over prompts
    rival: str  # lru; where that is the best, the next one
    difference: Interval  # hit ratio of the best less that of the rival, paired by prompt
    alike: int = 0  # others that hit as often as the best

    @property
    def clear(self) -> bool:
        """Whether the interval leaves out zero."""
        return self.difference.low is not None and self.difference.low > 0


@dataclass(frozen=True, slots=True)
class Prompt:
    """Two caches on one prompt."""

    file: str
    difference: Interval  # hit ratio of the first less that of the second; drawn over stretches of the text


def means(table: pd.DataFrame) -> list[Means]:
    """Every way to cache in a table, the one that hits most first; only slot counts that every prompt has are
    counted.
    """
    found = []
    for name, part in _ways(table):
        room = _room(part)
        counts = part.groupby(room)["digest"].nunique()
        shared = part[part[room].isin(counts.index[counts == part["digest"].nunique()])]
        if shared.empty:
            continue
        memory = shared["budget"].where(shared["budget"] > 0, _memory(shared))
        # The mean of what is known and of 0 for the rest would be the memory of no cache.
        at = shared.assign(memory=memory if (memory > 0).all() else 0).groupby(room)["memory"].mean()
        ratios = shared.pivot_table(index="digest", columns=room, values="hit_ratio")
        found.append(
            Means(
                name,
                {
                    str(digest): tuple(row)
                    for digest, row in zip(ratios.index, ratios.to_numpy(), strict=True)
                },
                tuple(int(count) for count in at.index),
                tuple(at.tolist()),
            )
        )
    return sorted(found, key=lambda one: -one.mean)


def _ways(table: pd.DataFrame) -> list[tuple[str, pd.DataFrame]]:
    """Rows of each way to cache under its name, which says no more than what differs in the table."""
    of = ("policy", "scope", "rule", "prefetch")
    several = [name for name in of if name == "policy" or table[name].nunique() > 1]
    called = {name: _called(table[name].unique()) for name in of}
    return [
        (", ".join(called[n][str(v)] for n, v in zip(of, values, strict=True) if n in several), part)
        for values, part in table.groupby(list(of))
    ]


def _called(names: Iterable[str]) -> dict[str, str]:
    """What names are called: those of a user's file without its folder, where that tells them apart."""
    short = {name: words.policy_name(name, typed=True) for name in names}
    alone = Counter(short.values())
    return {name: one if alone[one] == 1 else name for name, one in short.items()}


def _room(table: pd.DataFrame) -> str:
    """The column that says how much memory a row had."""
    return "budget" if (table["budget"] > 0).all() else "slots"


def _memory(table: pd.DataFrame) -> pd.Series:
    """Bytes of the slots of each row."""
    pools = np.where(table["scope"] == "layer", table["layers"], 1)
    return table["slots"] * pools * table["expert_bytes"]


def possible(table: pd.DataFrame) -> pd.DataFrame:
    """Rows of caches that one can have: those that have to know the future are bounds."""
    bounds = [name for name, one in POLICIES.items() if "future" in one.needs]
    oracles = [name for name, one in PREDICTORS.items() if "future" in one.needs]
    return table[~table["policy"].isin(bounds) & ~table["prefetch"].isin(oracles)]


def choices(table: pd.DataFrame) -> list[Choice]:
    """The best cache of each slot count, or budget, against `lru` (or against the next best where that is the
    best), of those that can be had."""
    table = possible(table)
    ways = means(table)
    found = []
    for room in sorted({count for way in ways for count in way.slots}):
        here = sorted(
            (way for way in ways if room in way.slots),
            key=lambda way: (-round(way.hit_ratio[way.slots.index(room)], 9), not _is_against(way)),
        )
        best, rival = here[0], _rival(here)
        if rival is None:
            continue
        at, other = best.slots.index(room), rival.slots.index(room)
        shared = best.by_prompt.keys() & rival.by_prompt.keys()
        apart = [best.by_prompt[one][at] - rival.by_prompt[one][other] for one in sorted(shared)]
        difference = bootstrap(apart)
        if len(apart) == 1:
            difference = by_prompt(table, best.name, rival.name, room)[0].difference
        most = best.hit_ratio[at]
        alike = sum(abs(way.hit_ratio[way.slots.index(room)] - most) < 1e-9 for way in here[1:])
        found.append(Choice(room, best.memory[at], best.name, most, rival.name, difference, alike))
    return found


def _rival(ways: Sequence[Means]) -> Means | None:
    """What the first of some ways is measured against: lru, else the next."""
    others = ways[1:]
    return next(filter(_is_against, others), others[0] if others else None)


def _is_against(way: Means) -> bool:
    return way.name.split(", ")[0] == AGAINST


def by_prompt(table: pd.DataFrame, first: str, second: str, room: int | None = None) -> list[Prompt]:
    """Two ways to cache, by their names in `means`, on each prompt that has both: at one slot count, or
    budget, or over all that both have."""
    ways = dict(_ways(table))
    a, b = ways[first], ways[second]
    keys = ["digest", _room(a)]
    both = a.merge(b, on=keys, suffixes=("", "_other"))
    if room is not None:
        both = both[both[keys[1]] == room]
    found = []
    for _, rows in both.groupby("digest"):
        hits, other, needed = (
            _stretches(rows[name]) for name in ("stretch_hits", "stretch_hits_other", "stretch_accesses")
        )
        interval = in_stretches(hits - other, needed)
        found.append(Prompt(str(rows["file"].iloc[0]), interval))
    return sorted(found, key=lambda one: one.file)


def _stretches(column: pd.Series[str]) -> NDArray[np.int64]:
    """The sum over rows. [stretch]"""
    numbers: NDArray[np.int64] = np.array([row.split() for row in column], np.int64)
    return np.asarray(numbers.sum(0), np.int64)


def verdict(table: pd.DataFrame) -> list[str]:
    """What a table says, in sentences: which cache hits most, by how much, where more memory stops to pay,
    and what dividing the slots over the layers would bring.
    """
    table = possible(table)
    if table.empty:
        return ["Every row knows the future: these are bounds, and there is nothing to choose."]
    found = means(table)
    if not found:
        return ["No slot count is shared by all traces, so that there is nothing to compare."]
    best = found[0]
    rival = _rival([best, *_like(best, found)])
    alone = f"{best.name}: {words.percent(best.mean)} of accesses hit, the mean over prompts."
    lines = [_against(table, best, rival) if rival is not None else alone]
    bend = knee(_as_curve(best))
    if bend is not None:
        at = best.slots.index(bend)
        held = f" in {words.memory(best.memory[at])}" if best.memory[at] and _room(table) == "slots" else ""
        lines.append(
            f"Best value for memory: {room_in_words(bend, table)} with {best.name}, "
            f"{words.percent(best.hit_ratio[at])} of accesses hit{held}; "
            "each further slot brings less than the average one."
        )
        lines += _divided(dict(_ways(table))[best.name], bend)
    elif len(best.slots) < 3:
        lines.append(
            "Best value for memory: not told; it takes three memories to see where more is worth less."
        )
    else:
        lines.append("Best value for memory: none stands out; each memory is worth what it adds.")
    return lines


def pair(table: pd.DataFrame) -> tuple[str, str] | None:
    """The best way to cache over all memories and the one that it is measured against; None where there is
    one way only."""
    found = means(possible(table))
    rival = _rival([found[0], *_like(found[0], found)]) if found else None
    return None if rival is None else (found[0].name, rival.name)


def _like(one: Means, of: Sequence[Means]) -> list[Means]:
    """Others with the same slot counts and prompts."""
    return [
        way
        for way in of
        if way is not one and way.slots == one.slots and way.by_prompt.keys() == one.by_prompt.keys()
    ]


def _against(table: pd.DataFrame, best: Means, rival: Means) -> str:
    if len(best.by_prompt) == 1:
        interval, over = by_prompt(table, best.name, rival.name)[0].difference, "stretches of this trace"
    else:
        apart = [
            float(np.mean(best.by_prompt[one]) - np.mean(rival.by_prompt[one])) for one in best.by_prompt
        ]
        interval, over = bootstrap(apart), words.many(len(apart), "trace")
    at = _of_rooms(table, best)
    if interval.low is None or interval.high is None:
        return f"{best.name} hits {words.points(interval.middle)} more than {rival.name} on this trace{at}."
    if interval.low <= 0 <= interval.high:
        return f"No difference between {best.name} and {rival.name} that holds over {over}{at}."
    where = "" if len(best.by_prompt) == 1 else " in the median prompt"
    first, second = (best, rival) if interval.low > 0 else (rival, best)  # best is so in the mean alone
    return (
        f"{first.name} hits {words.points(interval.middle)} more than {second.name}{where} "
        f"({spread(interval)} over {over}){at}."
    )


def _of_rooms(table: pd.DataFrame, way: Means) -> str:
    """That a difference is not of one amount of memory, where there are several."""
    if len(way.slots) == 1:
        return ""
    return f", the mean over {len(way.slots)} {'budgets' if _room(table) == 'budget' else 'slot counts'}"


def _divided(part: pd.DataFrame, slots: int) -> list[str]:
    """What slots divided over the layers by their curves bring, where the table knows."""
    rows = part[(part["slots"] == slots) & (part["split_hits"] >= 0)]
    if rows.empty:
        return []
    decode = rows["decode_accesses"] > 0
    hits = rows["decode_hits"].where(decode, rows["prefill_hits"])
    accesses = rows["decode_accesses"].where(decode, rows["prefill_accesses"])
    gain = bootstrap(((rows["split_hits"] - hits) / accesses).tolist())
    return [
        f"The same slots divided over the layers by what they are worth there, knowing the text: "
        f"{words.points(gain.middle)} more than {slots} in every layer."
    ]


def spread(interval: Interval) -> str:
    """The ends of an interval in points, without their sign: 0.4 to 1.2."""
    if interval.low is None or interval.high is None:
        return "no spread"
    least, most = sorted((abs(interval.low), abs(interval.high)))
    return f"{least * 100:.1f} to {most * 100:.1f}"


def room_in_words(room: int, table: pd.DataFrame) -> str:
    """4 slots; 3.00 GiB."""
    return words.memory(room) if _room(table) == "budget" else words.many(room, "slot")


def _as_curve(found: Means) -> Curve:
    """For `knee`: a million accesses stand for all."""
    hits = np.zeros((len(found.slots), 2), np.int64)
    hits[:, DECODE] = np.round(np.array(found.hit_ratio) * 1e6)
    return Curve(Settings(), np.array(found.slots, np.int64), hits, np.array([0, 1_000_000], np.int64))

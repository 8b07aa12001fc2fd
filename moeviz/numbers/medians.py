"""Several measured runs of the same Settings as one: the run in the middle, medians, and the least and most.

repeated([run, again, once_more]).median.times.tokens_per_second
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, fields, replace
from typing import Any

import numpy as np

from moeviz.core.run import Run
from moeviz.core.trace import DECODE
from moeviz.numbers.metrics import Counts, Summary, summary
from moeviz.numbers.timing import Stack, Timed, stack


@dataclass(frozen=True, slots=True)
class Repeated:
    """Repeats of the same Settings: their median, and the times of each."""

    median: Summary
    each: tuple[Timed, ...]  # none where nothing was measured

    @property
    def least(self) -> Timed | None:
        """The least of each time."""
        return _of_times(self.each, min)

    @property
    def most(self) -> Timed | None:
        """The most of each time."""
        return _of_times(self.each, max)


def repeated(runs: Sequence[Run]) -> Repeated:
    """What a timer does not touch is the same in every repeat; late hits, and hits with them, are a median
    like times. The speed is `median_speed`.
    """
    found = [summary(run) for run in runs]
    each = tuple(one.times for one in found if one.times is not None)
    middle = _of_times(each, lambda values: float(np.median(values)))
    if middle is not None and middle.tokens_per_second is not None:
        speeds = [one.tokens_per_second for one in each if one.tokens_per_second is not None]
        middle = replace(middle, tokens_per_second=median_speed(speeds))
    median = replace(
        found[0],
        whole=_median_counts([one.whole for one in found]),
        prefill=_median_counts([one.prefill for one in found]),
        decode=_median_counts([one.decode for one in found]),
        times=middle,
    )
    return Repeated(median, each)


def median_speed(speeds: Sequence[float]) -> float:
    """The speed at the median time: of an even number of repeats at the mean of the two times in the middle,
    which is what `median_stack` adds up to.
    """
    return float(1 / np.median(1 / np.asarray(speeds)))


def _median_counts(each: Sequence[Counts]) -> Counts:
    late = [one.late_hits for one in each if one.late_hits is not None]
    return replace(
        each[0],
        hits=int(np.median([one.hits for one in each])),
        late_hits=int(np.median(late)) if late else None,
    )


def _of_times(each: Sequence[Timed], of: Callable[[list[float]], float]) -> Timed | None:
    """One of several: `of` the values of each field that are known."""
    if not each:
        return None
    found = {
        one.name: [value for times in each if (value := getattr(times, one.name)) is not None]
        for one in fields(Timed)
    }
    reduced: dict[str, Any] = {name: of(values) if values else None for name, values in found.items()}
    return Timed(**reduced)


def median_run(runs: Sequence[Run]) -> Run:
    """The repeat whose decode took the median time, of two in the middle the sooner; the first one where none
    was measured.
    """
    return _in_the_middle(runs)[0]


def median_stack(runs: Sequence[Run]) -> Stack | None:
    """The stack of the repeat whose time per token is the median one, so that its parts still add up; of an
    even number of repeats the mean of the two in the middle. None where `stack` gives none.
    """
    found = [one for one in map(stack, _in_the_middle(runs)) if one is not None]
    if not found:
        return None
    return Stack(
        compute=float(np.mean([one.compute for one in found])),
        stall=float(np.mean([one.stall for one in found])),
        other=float(np.mean([one.other for one in found])),
    )


def _in_the_middle(runs: Sequence[Run]) -> Sequence[Run]:
    """Of the measured repeats the one, or of an even number the two, in the middle by the time of decode; the
    first one where none was measured.
    """
    known = [run for run in runs if run.times is not None]
    if not known:
        return runs[:1]
    order = sorted(
        known, key=lambda run: int(run.times.pass_wall[run.passes.phase == DECODE].sum()) if run.times else 0
    )
    return order[(len(order) - 1) // 2 : len(order) // 2 + 1]

"""What lessons compute with: the bundled samples, and replays of them.

The page hands in loaders that keep what they computed; without them everything is computed anew.

    lab = Lab()
    lab.run("bible", Settings("lfu", 4)).hit_ratio
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np

from moeviz.core.machines import find
from moeviz.core.replay import replay
from moeviz.core.run import HIT, Run
from moeviz.core.settings import Settings
from moeviz.core.trace import DECODE, Trace
from moeviz.errors import TraceError
from moeviz.files import moetrace
from moeviz.numbers import cost, metrics
from moeviz.numbers.cost import Costs

CHANGING = "change-of-subject"  # the sample whose text begins in one subject and ends in another


def _sample(name: str) -> tuple[Trace, Run | None]:
    return moetrace.load(moetrace.SAMPLES / f"{name}.moetrace")


@dataclass(frozen=True, slots=True)
class Lab:
    """Samples, replays, and the costs of the machine that recorded the samples."""

    load: Callable[[str], tuple[Trace, Run | None]] = _sample
    replays: Callable[[Trace, Settings], Run] = replay

    def trace(self, name: str = CHANGING) -> Trace:
        """A sample's trace."""
        return self.load(name)[0]

    def recorded(self, name: str = CHANGING) -> Run:
        """The run that was measured with a sample. Raises TraceError where the sample holds none."""
        run = self.load(name)[1]
        if run is None or run.times is None:
            raise TraceError(f"the sample {name} holds no measured run; the lessons need one.")
        return run

    def run(self, name: str, settings: Settings) -> Run:
        """A sample replayed."""
        return self.replays(self.trace(name), settings)

    def costs(self, link: str = "", name: str = CHANGING) -> Costs:
        """Costs fitted on a sample's measured run; with another link where one is named."""
        run = self.recorded(name)
        found = cost.fit(run)
        machine = find(link)
        return found if machine is None else found.on(machine, run.mean_copied)


def decode_ratio(run: Run) -> float:
    """Hits / accesses of the decoded tokens."""
    return metrics.counts(run, DECODE).hit_ratio or 0.0


def ratio_between(run: Run, first: int, last: int) -> float:
    """Hits / accesses in the forward passes from `first` to before `last`; 0 where nothing was needed."""
    passes = run.events.forward_pass[run.accesses.event]
    own = run.accesses.outcome[(passes >= first) & (passes < last)]
    return float(np.mean(own == HIT)) if own.size else 0.0

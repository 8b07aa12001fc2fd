"""Collects a run, row by row, in the process that serves it and in those that watch it.

The cache appends what it decides; an engine adds what only a clock can say. The rows are those of the tables
of `moeviz.core.run`, which is what comes out.

    recorder = Recorder(Settings(), layers=1, experts=4, k=2)
    recorder.add_pass(phase=1, tokens=1)
    recorder.add_event(0, {3: MISS})
    recorder.run().accesses.expert      # [3]
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from moeviz.core.run import COLUMNS, LATE, ExpertBytes, Run, Tier
from moeviz.core.settings import Settings


class Recorder:
    """Collects a run, row by row. The cache appends what it decides; an engine adds what only a clock can
    say."""

    def __init__(
        self,
        settings: Settings,
        layers: int,
        experts: int,
        k: int,
        expert_bytes: ExpertBytes = 0,
        start: Iterable[tuple[int, int, int]] = (),
        link_bytes: ExpertBytes = 0,
    ) -> None:
        """`start`: (layer, expert, slot) of who is resident when the run begins."""
        self._about = {"layers": layers, "experts": experts, "k": k, "expert_bytes": expert_bytes}
        self._about["link_bytes"] = link_bytes
        self.settings = settings
        self.columns: dict[str, list[int]] = {name: [] for name in COLUMNS}
        for layer, expert, slot in start:
            self.columns["start.layer"].append(layer)
            self.columns["start.expert"].append(expert)
            self.columns["start.slot"].append(slot)
        self.output_ids: list[int] = []
        self._taken = dict.fromkeys(COLUMNS, 0)
        self._newly_used: list[int] = []

    # what the cache decides

    def add_pass(self, phase: int, tokens: int) -> None:
        """A forward pass begins."""
        self.columns["passes.phase"].append(phase)
        self.columns["passes.tokens"].append(tokens)

    def add_event(self, layer: int, outcomes: Mapping[int, int]) -> None:
        """An event of the pass that was begun last. outcomes: expert -> HIT or MISS, of each expert that it
        needs."""
        c = self.columns
        at = len(c["events.layer"])
        c["events.forward_pass"].append(len(c["passes.phase"]) - 1)
        c["events.layer"].append(layer)
        c["events.dropped"].append(0)
        experts = sorted(outcomes)
        c["accesses.event"].extend([at] * len(experts))
        c["accesses.expert"].extend(experts)
        c["accesses.outcome"].extend([outcomes[expert] for expert in experts])

    def add_load(self, layer: int, expert: int, slot: int, victim: tuple[int, int], speculative: bool) -> int:
        """A load of the last event; victim: (layer, expert), or (-1, -1) for nobody. Returns its row."""
        c = self.columns
        row = len(c["loads.event"])
        c["loads.event"].append(len(c["events.layer"]) - 1)
        c["loads.layer"].append(layer)
        c["loads.expert"].append(expert)
        c["loads.slot"].append(slot)
        c["loads.victim_layer"].append(victim[0])
        c["loads.victim_expert"].append(victim[1])
        c["loads.speculative"].append(speculative)
        c["loads.used"].append(not speculative)
        return row

    def add_leaver(self, row: int, leaver: tuple[int, int]) -> None:
        """(layer, expert) that left for a load besides its victim. row: of the last load."""
        self.columns["leavers.load"].append(row)
        self.columns["leavers.layer"].append(leaver[0])
        self.columns["leavers.expert"].append(leaver[1])

    def use_load(self, row: int) -> None:
        """A pre-fetch was demanded while it was resident."""
        self.columns["loads.used"][row] = True
        self._newly_used.append(row)

    def drop_guess(self) -> None:
        """A guess made at the last event found no slot."""
        self.columns["events.dropped"][-1] += 1

    # what only a clock can say

    def late(self, experts: Iterable[int]) -> None:
        """These hits of the last event were still in flight."""
        c = self.columns
        last = len(c["events.layer"]) - 1
        late = set(experts)
        for row in range(len(c["accesses.event"]) - 1, -1, -1):
            if c["accesses.event"][row] != last:
                return
            if c["accesses.expert"][row] in late:
                c["accesses.outcome"][row] = LATE

    def time_events(self, times: Iterable[tuple[int, int, int]]) -> None:
        """(start, stall, compute) in nanoseconds of the events that have none yet, in their order."""
        for start, stall, compute in times:
            self.columns["times.event_start"].append(start)
            self.columns["times.event_stall"].append(stall)
            self.columns["times.event_compute"].append(compute)

    def time_pass(self, wall: int) -> None:
        """Nanoseconds of the last forward pass, the choice of its token included."""
        self.columns["times.pass_wall"].append(wall)

    def time_loads(self, copies: Iterable[Sequence[int]]) -> None:
        """(row, start, end) of copies that have arrived, in nanoseconds since the run began."""
        starts, ends = self.columns["times.load_start"], self.columns["times.load_end"]
        for row, start, end in copies:
            self._fill_load_times()
            starts[row], ends[row] = start, end

    def _fill_load_times(self) -> None:
        missing = len(self.columns["loads.event"]) - len(self.columns["times.load_start"])
        if missing > 0:
            self.columns["times.load_start"].extend([-1] * missing)
            self.columns["times.load_end"].extend([-1] * missing)

    # to other processes, and to readers

    def take(self) -> dict[str, list[int]]:
        """The rows that are new since the last call, by column, and under "used" the pre-fetches first used
        since then.

        Times of loads are not among them: `time_loads` says them when the copies have arrived.
        """
        rows = {
            name: column[self._taken[name] :]
            for name, column in self.columns.items()
            if len(column) > self._taken[name] and not name.startswith("times.load")
        }
        self._taken = {name: len(column) for name, column in self.columns.items()}
        rows["used"], self._newly_used = self._newly_used, []
        return rows

    def extend(self, rows: Mapping[str, Sequence[int]]) -> None:
        """Appends rows that another recorder's `take` gave."""
        for name, values in rows.items():
            if name == "used":
                for row in values:
                    self.columns["loads.used"][row] = True
            else:
                self.columns[name].extend(values)

    def run(self, tier: Tier | None = None, columns: Mapping[str, NDArray[Any]] | None = None) -> Run:
        """The Run so far; measured where its passes were timed. `columns`: whole ones, instead of rows
        appended one by one."""
        measured = bool(self.columns["times.pass_wall"])
        if measured:
            self._fill_load_times()
        whole = columns or {}
        found = {
            name: whole[name] if name in whole else np.array(self.columns[name], dtype)
            for name, dtype in COLUMNS.items()
            if measured or not name.startswith("times.")
        }
        return Run.of_columns(
            found, self.settings, **self._about, tier=tier, output_ids=tuple(self.output_ids)
        )

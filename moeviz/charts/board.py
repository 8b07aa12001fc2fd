"""Pictures for the board: the state of every expert and of every slot before each event, forward pass by
forward pass.

The same code draws a live run, fed with its records as they come, and a finished Run.
"""

from __future__ import annotations

from dataclasses import dataclass
from itertools import pairwise

import numpy as np
from numpy.typing import NDArray

from moeviz.core.run import MISS as RUN_MISS
from moeviz.core.run import Run

EMPTY, RESIDENT, HIT, LATE, MISS, PREFETCHED = range(
    6
)  # an expert's state; PREFETCHED: resident, brought by a guess, not used yet
STATES = ("not in fast tier", "resident", "hit", "late hit", "miss", "prefetched, unused")


@dataclass(frozen=True, eq=False, slots=True)
class Frame:
    """One forward pass: residency read before each layer's event, and the outcome of who was demanded."""

    state: NDArray[np.uint8]  # [L, E]
    slots: NDArray[np.int32]  # [L, slots] the expert in each slot, -1: free. Where layers share their slots
    # [1, slots] of layer x E + expert; no slots where nothing is kept


class Board:
    """Follows a run, forward pass by forward pass, as far as it has come."""

    def __init__(self, run: Run) -> None:
        self._shape = (run.layers, run.experts)
        room = run.room
        self._keeps, self._shared = room.keeps, room.pools == 1
        self._state = np.zeros(self._shape, np.uint8)
        rows = 1 if self._shared and self._keeps else run.layers
        self._slots = np.full((rows, room.slots if self._keeps else 0), -1, np.int32)
        self._drawn = 0
        for layer, expert, slot in zip(
            *(x.tolist() for x in (run.start.layer, run.start.expert, run.start.slot)), strict=True
        ):
            self._state[layer, expert] = RESIDENT
            self._place(layer, expert, slot)

    def _place(self, layer: int, expert: int, slot: int) -> None:
        if self._shared:
            self._slots[0, slot] = layer * self._shape[1] + expert
        else:
            self._slots[layer, slot] = expert

    def follow(self, run: Run) -> list[Frame]:
        """The frames of the forward passes that are new since the last call; `run` is the same run, perhaps
        longer.
        """
        access_at, load_at, pass_at = run.access_at.tolist(), run.load_at.tolist(), run.pass_at.tolist()
        layers, loads = run.events.layer.tolist(), run.loads
        arrivals = list(
            zip(
                loads.layer.tolist(),
                loads.expert.tolist(),
                loads.slot.tolist(),
                loads.victim_layer.tolist(),
                loads.victim_expert.tolist(),
                loads.speculative.tolist(),
                strict=True,
            )
        )
        others: dict[int, list[tuple[int, int]]] = {}  # who left for a load besides its victim
        for load, other_layer, other in run.leavers.rows():
            others.setdefault(load, []).append((other_layer, other))
        found = []
        for first, last in pairwise(pass_at[self._drawn :]):
            frame = Frame(self._state.copy(), self._slots.copy())
            for event in range(first, last):
                layer = layers[event]
                frame.state[layer] = self._state[layer]
                if not self._shared:
                    frame.slots[layer] = self._slots[layer]
                own = slice(access_at[event], access_at[event + 1])
                experts, outcome = run.accesses.expert[own], run.accesses.outcome[own]
                frame.state[layer, experts] = HIT + outcome
                if not self._keeps:
                    continue
                self._state[layer, experts[outcome != RUN_MISS]] = RESIDENT
                for load in range(load_at[event], load_at[event + 1]):
                    at, expert, slot, victim_layer, victim, guessed = arrivals[load]
                    if victim >= 0:
                        self._state[victim_layer, victim] = EMPTY
                    for key in others.get(load, ()):
                        self._state[key] = EMPTY
                        self._slots[self._slots == key[0] * self._shape[1] + key[1]] = -1
                    self._state[at, expert] = PREFETCHED if guessed else RESIDENT
                    self._place(at, expert, slot)
            found.append(frame)
        self._drawn += len(found)
        return found


def frames(run: Run) -> list[Frame]:
    """Every forward pass of a finished run."""
    return Board(run).follow(run)

"""Pictures for the board: the state of every expert and of every slot before each event, forward pass by forward pass.

The same code draws a live run, fed with its records as they come, and a finished Run.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from moeviz.core.run import EventRecord, ModelFacts, PassRecord, Recorder, Run
from moeviz.core.settings import Settings

EMPTY, RESIDENT, HIT, LATE, MISS, PREFETCHED = range(
    6
)  # an expert's state; PREFETCHED: resident, brought by a guess, not used yet
STATES = ("not in fast tier", "resident", "hit", "late hit", "miss", "prefetched, unused")


@dataclass(frozen=True, eq=False, slots=True)
class Frame:
    """One forward pass: residency read before each layer's event, and the outcome of who was demanded."""

    state: NDArray[np.uint8]  # [L, E]
    slots: NDArray[
        np.int32
    ]  # [L, slots] the expert in each slot, -1 where it is free; where layers share their slots [1, slots] of
    # layer x E + expert; no slots where nothing is kept


class Board:
    """Follows a run, forward pass by forward pass."""

    def __init__(
        self, settings: Settings, layers: int, experts: int, initial: Iterable[Sequence[int]] = ()
    ) -> None:
        self._shape = (layers, experts)
        self._keeps = settings.baseline in ("", "resident")
        self._state = np.zeros((layers, experts), np.uint8)
        slots = experts if settings.baseline else settings.slots
        self._shared = settings.scope == "model" and not settings.baseline
        self._slots = np.full(
            (1 if self._shared else layers, slots) if self._keeps else (layers, 0), -1, np.int32
        )
        self.begin(initial)

    def begin(self, initial: Iterable[Sequence[int]]) -> None:
        """Takes in layer, expert, slot of who is resident before the first forward pass."""
        for layer, expert, slot in initial:
            self._state[layer, expert] = RESIDENT
            self._place(layer, expert, slot)

    def _place(self, layer: int, expert: int, slot: int) -> None:
        if self._shared:
            self._slots[0, slot] = layer * self._shape[1] + expert
        else:
            self._slots[layer, slot] = expert

    def step(self, events: Sequence[EventRecord]) -> Frame:
        """The frame of the next forward pass."""
        frame = Frame(np.zeros(self._shape, np.uint8), self._slots.copy())
        for event in events:
            layer = event.layer
            frame.state[layer] = self._state[layer]
            if not self._shared:
                frame.slots[layer] = self._slots[layer]
            for outcome, experts in ((HIT, event.hits), (LATE, event.late), (MISS, event.misses)):
                frame.state[layer, experts] = outcome
            if not self._keeps:
                continue
            self._state[layer, [*event.hits, *event.late]] = RESIDENT
            for at, expert, slot, victim_layer, victim, speculative in event.loads:
                if victim >= 0:
                    self._state[victim_layer, victim] = EMPTY
                self._state[at, expert] = PREFETCHED if speculative else RESIDENT
                self._place(at, expert, slot)
        return frame


def frames(run: Run) -> list[Frame]:
    """Every forward pass of a finished run."""
    initial = zip(run.start_layer.tolist(), run.start_expert.tolist(), run.start_slot.tolist(), strict=True)
    board = Board(run.settings, run.layers, run.experts, initial)
    return [board.step(events) for events in run.passes()]


def slots_over_time(pictures: Sequence[Frame]) -> tuple[NDArray[np.uint8], NDArray[np.int32]]:
    """State and expert of every slot before each event of its layer (shared slots: before the pass). Both [F, row].

    Rows are slots, layer after layer; experts of shared slots are layer x E + expert; -1 is free.
    """
    holders = np.stack([frame.slots for frame in pictures])  # [F, L or 1, slots]
    states = np.stack([frame.state for frame in pictures])  # [F, L, E]
    flat = states.reshape(len(states), 1, -1) if holders.shape[1] != states.shape[1] else states
    found = np.take_along_axis(flat, np.maximum(holders, 0), 2)
    found[holders < 0] = EMPTY
    return found.reshape(len(states), -1), holders.reshape(len(states), -1)


class Watch:
    """A live run as far as it has come: its frames, its tokens and its Run."""

    def __init__(self, settings: Settings, facts: ModelFacts) -> None:
        self._board = Board(settings, facts.layers, facts.experts)
        self._recorder = Recorder(settings, facts.layers, facts.experts, facts.k, facts.expert_bytes)
        self._tier = facts.tier
        self.frames: list[Frame] = []
        self.texts: list[str] = []  # what entered each forward pass

    def update(self, passes: Sequence[PassRecord]) -> Run:
        """Takes in the passes that are new and gives the Run so far."""
        for record in passes[len(self.frames) :]:
            self._board.begin(record.initial)
            self.frames.append(self._board.step(record.events))
            self.texts.append("".join(record.texts))
            self._recorder.add_measured(record)
        return self._recorder.run(self._tier)

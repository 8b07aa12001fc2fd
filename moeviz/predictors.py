"""Predictors: an ordered list of experts that a layer will need, made before its router has spoken.

A predictor sees the router's choices so far and, for `next-gate`, the guesses that the model's own routers made; it knows neither
slots nor residency. A new one is one class under `@predictor`.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Sequence
from typing import Protocol

Guess = Sequence[Sequence[int]]  # [token, rank] experts, likeliest first, -1 where there is none


class Predictor(Protocol):
    """Guesses for one run, event by event."""

    def observe(self, layer: int, chosen: Sequence[Sequence[int]]) -> None:
        """The router of `layer` chose these experts. [token, rank], strongest first"""

    def guess(self, layer: int, routers: Guess | None, width: int) -> list[int]:
        """At most `width` distinct experts for `layer`, likeliest first; `routers` holds next-gate's guesses if there are any."""


PREDICTORS: dict[str, Callable[[int], Predictor]] = {}


def predictor(name: str) -> Callable[[Callable[[int], Predictor]], Callable[[int], Predictor]]:
    """Registers a predictor, made from the number of MoE layers, under a name."""

    def register(make: Callable[[int], Predictor]) -> Callable[[int], Predictor]:
        PREDICTORS[name] = make
        return make

    return register


@predictor("none")
class Nothing:
    """No pre-fetching."""

    def __init__(self, layers: int) -> None: ...

    def observe(self, layer: int, chosen: Sequence[Sequence[int]]) -> None: ...

    def guess(self, layer: int, routers: Guess | None, width: int) -> list[int]:
        return []


@predictor("previous-token")
class PreviousToken:
    """What this layer used for the token before. ProMoE's token-based baseline (arXiv 2410.22134)."""

    def __init__(self, layers: int) -> None:
        self._last: list[list[int]] = [[] for _ in range(layers)]

    def observe(self, layer: int, chosen: Sequence[Sequence[int]]) -> None:
        self._last[layer] = list(chosen[-1])

    def guess(self, layer: int, routers: Guess | None, width: int) -> list[int]:
        return self._last[layer][:width]


@predictor("next-gate")
class NextGate:
    """The router of the later layer applied to the hidden state that enters this layer's router (arXiv 2312.17238, 2511.05814).

    The guesses come with the event. Where an event has several tokens, the experts named by most of them come first, then the
    better ranked, then the lower id.
    """

    def __init__(self, layers: int) -> None: ...

    def observe(self, layer: int, chosen: Sequence[Sequence[int]]) -> None: ...

    def guess(self, layer: int, routers: Guess | None, width: int) -> list[int]:
        if routers is None:
            return []
        if len(routers) == 1:
            return [expert for expert in routers[0][:width] if expert >= 0]
        votes: Counter[int] = Counter()
        best: dict[int, int] = {}
        for row in routers:
            for rank, expert in enumerate(row[:width]):
                if expert >= 0:
                    votes[expert] += 1
                    best[expert] = min(rank, best.get(expert, rank))
        return sorted(votes, key=lambda e: (-votes[e], best[e], e))[:width]

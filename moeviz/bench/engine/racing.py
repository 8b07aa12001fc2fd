"""Decoding as a race: candidates by name, each of which generates once and gives its tokens per second.

Knows neither models nor goals.
"""

from __future__ import annotations

import statistics
from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import Any

from moeviz.bench.engine.rows import PROMPT
from moeviz.bench.rounds import interleaved, spread
from moeviz.core.run import Run
from moeviz.core.settings import Settings
from moeviz.engine import measure
from moeviz.engine.alone import BACKENDS, Alone
from moeviz.engine.loader import Loaded
from moeviz.engine.session import Options

Candidate = Callable[[], float]


def greedy(tokens: int, guesses: bool = True) -> Options:
    """So many tokens, the likeliest each time, past the end of the text."""
    return Options(max_new_tokens=tokens, temperature=0.0, stop_at_end=False, guesses=guesses)


def recorded(loaded: Loaded, settings: Settings, options: Options) -> Run:
    """A run of the bench's prompt; its `times` are there."""
    return measure.record(loaded, PROMPT, settings, options)[1]


def decode_ns(run: Run) -> list[int]:
    """Nanoseconds of each decode pass of a measured run."""
    assert run.times is not None
    passes: list[int] = run.times.pass_wall[1:].tolist()
    return passes


def served(loaded: Loaded, settings: Settings, options: Options) -> Candidate:
    """The engine, by its median decode pass."""
    return lambda: 1e9 / statistics.median(decode_ns(recorded(loaded, settings, options)))


def sampled(options: Options) -> Options:
    """Tokens drawn at random: a model of random weights that takes the likeliest soon repeats itself, and
    then misses nothing."""
    return replace(options, temperature=1.0)


def alone(model: Alone, tokens: int, backends: Sequence[str] = BACKENDS) -> dict[str, Candidate]:
    """transformers with all experts in memory, by its median decode pass, for each experts backend."""

    def speed(backend: str) -> Candidate:
        return lambda: 1e9 / statistics.median(model.pass_ns(backend, PROMPT, tokens)[1:])

    return {f"transformers, {backend}": speed(backend) for backend in backends}


def race(candidates: dict[str, Candidate], repeats: int) -> dict[str, list[float]]:
    """Tokens per second of each round, after one that warms up."""
    for one in candidates.values():
        one()
    return interleaved(candidates, repeats)


def fastest(found: dict[str, list[float]]) -> str:
    """The backend of transformers with the best median."""
    rivals = [name for name in found if name.startswith("transformers")]
    return max(rivals, key=lambda name: statistics.median(found[name]))


def over(ours: Sequence[float], theirs: Sequence[float]) -> list[float]:
    """Ratios round by round."""
    return [mine / other for mine, other in zip(ours, theirs, strict=True)]


def speeds(prefix: str, found: dict[str, list[float]]) -> dict[str, Any]:
    """Every candidate's tokens per second as figures."""
    return {f"{prefix}: tokens/s, {name}": spread(values) for name, values in found.items()}

"""Decoding as a race: candidates by name, each of which generates once and gives what each decode pass took.

A pass does the same work in every round, so its least time over the rounds is what it takes where nothing
else holds the machine up; the rounds themselves tell how much something does. Knows neither models nor goals.
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

Candidate = Callable[[], list[int]]  # ns of each decode pass
Rounds = list[list[int]]  # [round][pass]


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
    """The engine."""
    return lambda: decode_ns(recorded(loaded, settings, options))


def sampled(options: Options) -> Options:
    """Tokens drawn at random: a model of random weights that takes the likeliest soon repeats itself, and
    then misses nothing."""
    return replace(options, temperature=1.0)


def alone(model: Alone, tokens: int, backends: Sequence[str] = BACKENDS) -> dict[str, Candidate]:
    """transformers with all experts in memory, for each experts backend."""

    def passes(backend: str) -> Candidate:
        return lambda: model.pass_ns(backend, PROMPT, tokens)[1:]

    return {f"transformers, {backend}": passes(backend) for backend in backends}


def race(candidates: dict[str, Candidate], repeats: int) -> dict[str, Rounds]:
    """Every round of each, after one that warms up."""
    for one in candidates.values():
        one()
    return interleaved(candidates, repeats)


def undisturbed(rounds: Rounds) -> float:
    """Nanoseconds of the median pass, each pass at its best of the rounds."""
    return float(statistics.median(map(min, zip(*rounds, strict=True))))


def fastest(found: dict[str, Rounds]) -> str:
    """The backend of transformers whose passes are shortest, undisturbed."""
    rivals = [name for name in found if name.startswith("transformers")]
    return min(rivals, key=lambda name: undisturbed(found[name]))


def over(ours: Sequence[float], theirs: Sequence[float]) -> list[float]:
    """Ratios round by round."""
    return [mine / other for mine, other in zip(ours, theirs, strict=True)]


def faster(prefix: str, found: dict[str, Rounds], ours: str, theirs: str, goal: str) -> dict[str, Any]:
    """How many times another's tokens per second, by rounds and undisturbed, as figures."""
    return slower(f"{prefix}: {ours} / {theirs}", found[theirs], found[ours], goal)


def slower(name: str, ours: Rounds, theirs: Rounds, goal: str) -> dict[str, Any]:
    """How many times another's time of a pass, by rounds and undisturbed, as figures."""
    rounds = over(*([statistics.median(times) for times in one] for one in (ours, theirs)))
    best = undisturbed(ours) / undisturbed(theirs)
    return {name: spread(rounds, goal), f"{name}, each pass at its best": spread([best], goal)}


def speeds(prefix: str, found: dict[str, Rounds]) -> dict[str, Any]:
    """Every candidate's tokens per second as figures, by the median pass of a round."""
    return {
        f"{prefix}: tokens/s, {name}": spread([1e9 / statistics.median(one) for one in rounds])
        for name, rounds in found.items()
    }

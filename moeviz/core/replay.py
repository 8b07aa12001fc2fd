"""Replays a Trace through the expert cache: what would these Settings have done?

The cache is the live engine's own, so a measured run replayed under its Settings makes the same decisions, event for event.

    replay(Trace.load("sample_traces/bible.moetrace"), Settings(policy="lfu", slots=4))
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np

from moeviz.core.cache import Choice, ExpertCache
from moeviz.core.oracle import knowledge
from moeviz.core.policies import NEEDS_WEIGHTS
from moeviz.core.predictors import BY_ROUTERS, RouterGuess
from moeviz.core.run import Run
from moeviz.core.settings import Settings
from moeviz.core.trace import Trace
from moeviz.errors import SettingsError


def replay(
    trace: Trace,
    settings: Settings,
    find: Callable[[str], Trace] | None = None,
    choices: list[Choice] | None = None,
) -> Run:
    """The Run of these Settings on this Trace, without times.

    `find` gives the calibration trace of a name, `choices` is filled with how every victim was chosen. Raises SettingsError where
    the Settings do not fit the trace's model, or where they ask for guesses that the trace lacks.
    """
    known = knowledge(settings, trace, find)
    cache = ExpertCache(settings, trace.layers, trace.num_experts, trace.k, known, trace.expert_bytes)
    cache.choices = choices
    check_trace(trace, settings)
    experts, guess = trace.experts.tolist(), trace.guess.tolist()
    ranked = np.broadcast_to(np.arange(trace.k, 0, -1.0), trace.experts.shape)
    weights = (ranked if trace.weights is None else trace.weights).tolist()
    probability = None if trace.guess_probability is None else trace.guess_probability.tolist()
    by_routers = settings.prefetch in BY_ROUTERS and not settings.baseline
    d = settings.lookahead
    for tokens in trace.passes():
        cache.begin_pass(int(trace.phase[tokens.start]), tokens.stop - tokens.start)
        for layer in range(trace.layers):
            rows = [row[layer] for row in experts[tokens]]
            if not cache.demand(layer, rows, [row[layer] for row in weights[tokens]]):
                continue
            routers = None
            if by_routers and layer + d < trace.layers:
                given = (
                    None if probability is None else [row[layer + d][d - 1] for row in probability[tokens]]
                )
                routers = RouterGuess([row[layer + d][d - 1] for row in guess[tokens]], given)
            cache.speculate(layer, routers)
    return cache.recorder.run()


def check_trace(trace: Trace, settings: Settings) -> None:
    """Raises SettingsError where Settings ask for router weights or guesses that the trace does not hold."""
    if trace.weights is None and settings.policy in NEEDS_WEIGHTS and not settings.baseline:
        raise SettingsError(
            f"policy {settings.policy!r} needs the routers' weights, which this trace does not hold. Choose another policy."
        )
    if settings.prefetch not in BY_ROUTERS or settings.baseline:
        return
    lookaheads, width = trace.guess.shape[2:]
    if settings.lookahead > lookaheads:
        raise SettingsError(
            f"the trace holds next-gate guesses for {lookaheads} lookaheads, not for {settings.lookahead}."
        )
    if settings.threshold and trace.guess_probability is None:
        raise SettingsError(
            "the trace does not hold the probabilities of next-gate's guesses, so there is no threshold to reach. Use width."
        )
    if not settings.threshold and (settings.width or trace.k) > width:
        raise SettingsError(
            f"the trace holds {width} next-gate guesses per layer, not {settings.width or trace.k}."
        )

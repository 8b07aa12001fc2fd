"""Replays a Trace through the expert cache: what would these Settings have done?

The cache is the live engine's own, so a measured run replayed under its Settings makes the same decisions, event for event.

    replay(Trace.load("sample_traces/bible.moetrace"), Settings(policy="lfu", slots=4))
"""

from __future__ import annotations

from collections.abc import Callable

from moeviz.core.cache import Choice, ExpertCache, event_record
from moeviz.core.oracle import knowledge
from moeviz.core.predictors import BY_ROUTERS, RouterGuess
from moeviz.core.run import Recorder, Run
from moeviz.core.settings import Settings, SettingsError
from moeviz.core.trace import Trace


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
    cache = ExpertCache(settings, trace.layers, trace.num_experts, trace.k, knowledge(settings, trace, find))
    cache.choices = choices
    check_guesses(trace, settings)
    recorder = Recorder(settings, trace.layers, trace.num_experts, trace.k, trace.expert_bytes, cache.initial)
    experts, weights, guess = trace.experts.tolist(), trace.weights.tolist(), trace.guess.tolist()
    probability = None if trace.guess_probability is None else trace.guess_probability.tolist()
    by_routers = settings.prefetch in BY_ROUTERS and not settings.baseline
    d = settings.lookahead
    for tokens in trace.passes():
        events = []
        for layer in range(trace.layers):
            rows = [row[layer] for row in experts[tokens]]
            waves = cache.demand(layer, rows, [row[layer] for row in weights[tokens]])
            routers = None
            if by_routers and layer + d < trace.layers:
                known = (
                    None if probability is None else [row[layer + d][d - 1] for row in probability[tokens]]
                )
                routers = RouterGuess([row[layer + d][d - 1] for row in guess[tokens]], known)
            loads, dropped = cache.speculate(layer, routers)
            events.append(
                event_record(layer, {expert for row in rows for expert in row}, waves, loads, dropped)
            )
        recorder.add(int(trace.phase[tokens.start]), tokens.stop - tokens.start, events)
    return recorder.run()


def check_guesses(trace: Trace, settings: Settings) -> None:
    """Raises SettingsError where Settings ask for more of the routers' guesses than the trace holds."""
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

"""Replays a Trace through the expert cache: what would these Settings have done?

The cache is the live engine's own, so a measured run replayed under its Settings makes the same decisions, event for event.

    replay(Trace.load("sample_traces/bible.moetrace"), Settings(policy="lfu", slots=4))
"""

from __future__ import annotations

from moeviz.cache import ExpertCache, event_record
from moeviz.run import Recorder, Run
from moeviz.settings import Settings, SettingsError
from moeviz.trace import Trace


def replay(trace: Trace, settings: Settings) -> Run:
    """The Run of these Settings on this Trace, without times.

    Raises SettingsError where the Settings do not fit the trace's model, or where they ask for guesses that the trace lacks.
    """
    cache = ExpertCache(settings, trace.layers, trace.num_experts, trace.k)
    check_guesses(trace, settings)
    recorder = Recorder(settings, trace.layers, trace.num_experts, trace.k, trace.expert_bytes)
    experts, weights, guess = trace.experts.tolist(), trace.weights.tolist(), trace.guess.tolist()
    by_routers = settings.prefetch == "next-gate" and not settings.baseline
    d = settings.lookahead
    for tokens in trace.passes():
        events = []
        for layer in range(trace.layers):
            waves = cache.demand(layer, [row[layer] for row in experts[tokens]], [row[layer] for row in weights[tokens]])
            routers = None
            if by_routers and layer + d < trace.layers:
                routers = [row[layer + d][d - 1] for row in guess[tokens]]
            loads, dropped = cache.speculate(layer, routers)
            chosen = {expert for row in experts[tokens] for expert in row[layer]}
            events.append(event_record(layer, chosen, waves, loads, dropped))
        recorder.add(int(trace.phase[tokens.start]), tokens.stop - tokens.start, events)
    return recorder.run()


def check_guesses(trace: Trace, settings: Settings) -> None:
    """Raises SettingsError where Settings ask for more of the routers' guesses than the trace holds."""
    if settings.prefetch != "next-gate" or settings.baseline:
        return
    lookaheads, width = trace.guess.shape[2:]
    if settings.lookahead > lookaheads:
        raise SettingsError(f"the trace holds next-gate guesses for {lookaheads} lookaheads, not for {settings.lookahead}.")
    if (settings.width or trace.k) > width:
        raise SettingsError(f"the trace holds {width} next-gate guesses per layer, not {settings.width or trace.k}.")

"""Replays a Trace through the expert cache: what would these Settings have done?

The pools of slots, the rule and the scores are the live engine's own (`moeviz.core.pools`), so a measured run
replayed under its Settings makes the same decisions, event for event. With pre-fetching, a replay goes event
by event through the same `ExpertCache` as a live run; without, whole passes are served at once, since layers
that own their slots do not touch each other, and one pool by a heap where that finds the same victims.

    replay(Trace.load("sample_traces/bible.moetrace"), Settings(policy="lfu", slots=4))
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from moeviz.amounts import many
from moeviz.core.cache import Choice, ExpertCache
from moeviz.core.oracle import Knowledge, knowledge
from moeviz.core.policies import POLICIES
from moeviz.core.predictors import RouterGuess
from moeviz.core.run import HIT, MISS, Run
from moeviz.core.serving import serve
from moeviz.core.settings import Settings
from moeviz.core.steps import Steps
from moeviz.core.trace import DECODE, Trace
from moeviz.errors import SettingsError


def replay(
    trace: Trace,
    settings: Settings,
    find: Callable[[str], Trace] | None = None,
    choices: list[Choice] | None = None,
) -> Run:
    """The Run of these Settings on this Trace, without times.

    `find` gives the calibration trace of a name, `choices` is filled with how every victim was chosen. Raises
    SettingsError where the Settings do not fit the trace's model, or where they ask for guesses that the
    trace lacks.
    """
    trace = served(trace, settings)
    known = knowledge(settings, trace, find)
    cache = ExpertCache(settings, trace.layers, trace.num_experts, trace.k, known, trace.expert_bytes)
    check_trace(trace, settings)
    if choices is None and settings.prefetch == "none" and settings.baseline in ("", "resident"):
        run = _at_once(trace, cache, known)
    else:
        if choices is not None:
            cache.tell_choices(choices)
        run = _by_event(trace, cache)
    return replace(run, link_bytes=trace.link_bytes)


def served(trace: Trace, settings: Settings) -> Trace:
    """The trace in the forward passes in which the rule serves it: `batch:N` puts N decode tokens into one.
    Raises nothing."""
    if not settings.batch or settings.baseline:
        return trace
    decode = trace.phase == DECODE
    begins = np.flatnonzero(np.diff(decode, prepend=~decode[:1]))  # of each run of decode or prefill tokens
    since = np.arange(trace.tokens) - begins[np.searchsorted(begins, np.arange(trace.tokens), "right") - 1]
    new = np.where(decode, since % settings.batch == 0, np.diff(trace.forward_pass, prepend=-1) > 0)
    new[begins] = True
    return replace(trace, forward_pass=(np.cumsum(new) - 1).astype(np.int32))


def _at_once(trace: Trace, cache: ExpertCache, known: Knowledge) -> Run:
    """No pre-fetching: pools are served together where they can be, and the tables are made of whole
    columns."""
    steps = Steps(trace, known, cache.settings)
    served = serve(steps, cache.room)
    needs = trace.events()
    event, order, came = needs.access_event, needs.ascending, served.load
    outcome = np.where(served.hit, np.uint8(HIT), np.uint8(MISS))
    experts = trace.num_experts
    by_load = event[came]
    victim_layer = served.victim // experts  # of nobody -1 too
    columns: dict[str, NDArray[Any]] = {
        "passes.phase": trace.pass_phase,
        "passes.tokens": np.array([tokens.stop - tokens.start for tokens in trace.passes()], np.int32),
        "events.forward_pass": needs.forward_pass,
        "events.layer": needs.layer,
        "events.dropped": np.zeros(len(needs), np.int16),
        "accesses.event": event.astype(np.int32),
        "accesses.expert": needs.expert[order],
        "accesses.outcome": outcome[order],
        "loads.event": by_load.astype(np.int32),
        "loads.layer": needs.layer[by_load],
        "loads.expert": needs.expert[came],
        "loads.slot": served.load_slot.astype(np.int32),
        "loads.victim_layer": victim_layer.astype(np.int16),
        "loads.victim_expert": np.where(victim_layer < 0, -1, served.victim % experts).astype(np.int16),
        "loads.speculative": np.zeros(len(came), np.bool_),
        "loads.used": np.ones(len(came), np.bool_),
        "leavers.load": served.leaver_load.astype(np.int32),
        "leavers.layer": (served.leaver // experts).astype(np.int16),
        "leavers.expert": (served.leaver % experts).astype(np.int16),
    }
    return cache.recorder.run(columns=columns)


def _by_event(trace: Trace, cache: ExpertCache) -> Run:
    settings = cache.settings
    experts, guess = trace.experts.tolist(), trace.guess.tolist()
    ranked = np.broadcast_to(np.arange(trace.k, 0, -1.0), trace.experts.shape)
    weights = (ranked if trace.weights is None else trace.weights).tolist()
    probability = None if trace.guess_probability is None else trace.guess_probability.tolist()
    d = settings.lookahead
    for tokens in trace.passes():
        cache.begin_pass(int(trace.phase[tokens.start]), tokens.stop - tokens.start)
        for layer in range(trace.layers):
            rows = [row[layer] for row in experts[tokens]]
            if not cache.demand(layer, rows, [row[layer] for row in weights[tokens]]):
                continue
            routers = None
            if settings.by_routers and layer + d < trace.layers:
                given = (
                    None if probability is None else [row[layer + d][d - 1] for row in probability[tokens]]
                )
                routers = RouterGuess([row[layer + d][d - 1] for row in guess[tokens]], given)
            cache.speculate(layer, routers)
    return cache.recorder.run()


def check_trace(trace: Trace, settings: Settings) -> None:
    """Raises SettingsError where Settings ask for router weights or guesses that the trace does not hold."""
    if trace.weights is None and "weights" in POLICIES[settings.policy].needs and not settings.baseline:
        raise SettingsError(
            f"policy {settings.policy!r} needs the routers' weights, which this trace does not hold. Choose "
            "another policy."
        )
    if not settings.by_routers:
        return
    lookaheads, width = trace.guess.shape[2:]
    if settings.lookahead > lookaheads:
        raise SettingsError(
            f"the trace holds next-gate guesses for {many(lookaheads, 'lookahead')}, not for "
            f"{settings.lookahead}."
        )
    if settings.threshold and trace.guess_probability is None:
        raise SettingsError(
            "the trace does not hold the probabilities of next-gate's guesses, so there is no threshold to "
            "reach. Use width."
        )
    if not settings.threshold and (settings.width or trace.k) > width:
        raise SettingsError(
            f"the trace holds {width} next-gate guesses per layer, not {settings.width or trace.k}."
        )

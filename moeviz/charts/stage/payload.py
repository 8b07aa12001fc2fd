"""What the stage shows, packed for the browser: one trace, and one or more runs of it.

The browser derives the boards itself, by walking through who was needed and who was loaded; so 20,000 tokens
of the bundled model are a few megabytes, and a sample with two runs a few hundred kilobytes.

    runs = [replay(trace, Settings("lru")), replay(trace, Settings("lfu"))]
    payload = stage_payload(trace, runs, bound=replay(trace, Settings("belady")))
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from moeviz.charts.stage.packing import packed, pairs_of_bits
from moeviz.charts.stage.stories import stories_of
from moeviz.charts.stage.times import all_timed, times_of
from moeviz.charts.stage.words import KEYS, LEGEND, PHRASES, TOLD
from moeviz.core.policies import POLICIES, Policy
from moeviz.core.predictors import PREDICTORS, Kind
from moeviz.core.run import HIT, LATE, MISS, Run
from moeviz.core.settings import BASELINES, DEFAULTS
from moeviz.core.trace import Trace
from moeviz.errors import StageError
from moeviz.numbers import routing
from moeviz.numbers.cost import Costs, fit
from moeviz.numbers.explain import Explainer
from moeviz.numbers.subject import Change, known_domains, subject_changes
from moeviz.words import label, many, memory_held, prefetch_name, setting_name, setting_names

VERSION = 1
AROUND = 32  # tokens whose experts tell the domain of the one in their middle
MAX_ACCESSES = 6_000_000  # of the trace; each is a byte or two for the browser to fetch and to keep


def stage_payload(
    trace: Trace,
    runs: Sequence[Run],
    *,
    bound: Run | None = None,
    measured: Sequence[Run] = (),
    explainers: Sequence[Explainer | None] = (),
    parts: Sequence[Mapping[str, Any] | None] = (),
    changes: Sequence[Change] | None = None,
    title: str = "",
    verdict: str = "",
    menus: Mapping[str, Sequence[tuple[str | int, str]]] | None = None,
    actions: Sequence[Mapping[str, str]] = (),
    results: Mapping[str, Any] | None = None,
    live: bool = False,
) -> dict[str, Any]:
    """Everything that the stage's JavaScript needs, as values that JSON can hold.

    `runs`: runs of this trace under the settings of the boards; the first two are shown. `bound`: the run
    whose curve is drawn in grey. `measured`: measured runs of this trace; where each run has one with its
    settings, they take their times, else all are modelled from the first. `explainers`: for each run the one
    that tells why victims left; left out, the stories tell what is in the trace alone. `parts`: for each run
    what `run_part` gave for it, where that was kept: most of the work, since a changed setting changes one
    run. `changes`: where the subject changes; left out, they are found where the trace is the bundled
    model's. `menus`: for "policy", "slots" and "prefetch" the values that a board may be set to, with their
    labels; left out, only the given runs can be chosen. `actions`: buttons of the host, each with "id",
    "label" and "key", "quiet" where nothing may play meanwhile, and "about" where more is to be said of it.
    `results`: what `results_of` gave of a measured comparison.
    `live`: the trace still grows, so that nothing is known of what comes.

    Raises StageError where a run is not one of this trace, where there is none, or where the trace is too
    long.
    """
    _check(trace, runs, bound)
    passes = trace.passes()
    if changes is None:
        changes = subject_changes(trace)
    pass_of = np.repeat(np.arange(len(passes)), [part.stop - part.start for part in passes])
    names = setting_names([run.settings for run in runs])
    told = [*explainers, *[None] * (len(runs) - len(explainers))]
    kept = [*parts, *[None] * (len(runs) - len(parts))]
    alike = all_timed(runs, measured)
    given = [
        {**(part if part is not None else run_part(run, measured, explainer, alike=alike)), "name": name}
        for name, run, explainer, part in zip(names, runs, told, kept, strict=True)
    ]
    return {
        "version": VERSION,
        "id": _digest(trace, runs, bound, given),
        "trace": trace.digest,
        "title": title,
        "verdict": verdict,
        "live": live,
        "model": trace.model,
        "shape": _shape(trace),
        "texts": list(trace.texts),
        "counts": packed(np.array([part.stop - part.start for part in passes])),
        "phase": packed(runs[0].passes.phase),
        "needs": {
            "counts": packed(_per_event(runs[0], runs[0].accesses.event)),
            "experts": packed(runs[0].accesses.expert),
        },
        "runs": given,
        "bound": _bound(bound) if bound is not None else None,
        "domains": _domains(trace),
        "changes": [
            {"pass": int(pass_of[one.token]), "before": one.before, "after": one.after} for one in changes
        ],
        "menus": {name: [list(item) for item in items] for name, items in (menus or {}).items()},
        "actions": [dict(action) for action in actions],
        "results": dict(results) if results is not None else None,
        "phrases": PHRASES,
        "keys": KEYS,
        "glossary": TOLD,
        "legend": LEGEND,
    }


def _shape(trace: Trace) -> dict[str, int]:
    return {
        "layers": trace.layers,
        "experts": trace.num_experts,
        "k": trace.k,
        "passes": len(trace.passes()),
        "tokens": trace.tokens,
    }


def _bound(run: Run) -> dict[str, Any]:
    return {
        "id": run.digest,
        "hits": packed(_hits(run)),
        "name": setting_name(run.settings),
        "holds": not run.room.bytes,  # where sizes differ, belady is no bound
        "rule": "" if run.settings.rule == DEFAULTS["rule"] else run.settings.rule,
        "slots": run.room.slots,
        "slotsName": many(run.room.slots, "slot") + (" in all" if run.settings.scope == "model" else ""),
    }


def _check(trace: Trace, runs: Sequence[Run], bound: Run | None) -> None:
    """Raises StageError where the stage cannot show these runs."""
    if not runs:
        raise StageError("the stage needs at least one run. Replay the trace under a policy first.")
    shape = len(trace.passes()), trace.layers, trace.num_experts
    for run in (*runs, *([bound] if bound else [])):
        found = len(run.passes.phase), run.layers, run.experts
        if found != shape:
            raise StageError(
                f"a run of {many(found[0], 'pass')}, {many(found[1], 'layer')} and "
                f"{many(found[2], 'expert')} is none of this trace, which has {shape[0]}, {shape[1]} and "
                f"{shape[2]}. Replay this trace; boards share "
                "its passes, so a rule batch:N has to be the same on all of them."
            )
    if len(runs[0].accesses.event) > MAX_ACCESSES:
        raise StageError(
            f"the trace has {len(runs[0].accesses.event):,} accesses; the stage holds {MAX_ACCESSES:,}. "
            "Choose a window of the trace."
        )


def _digest(trace: Trace, runs: Sequence[Run], bound: Run | None, parts: Sequence[Mapping[str, Any]]) -> str:
    """Tells payloads apart by what is drawn: decisions, times, and whether evictions are told."""
    found = hashlib.blake2b(trace.digest.encode(), digest_size=12)
    for run in (*runs, *([bound] if bound else [])):
        found.update(run.digest.encode())
    for part in parts:
        times = part["times"]
        found.update(f"{times and times['wall']['data']} {part['story'] is None}".encode())
    return found.hexdigest()


def _hits(run: Run) -> NDArray[np.int64]:
    """Hits of each forward pass. [F]"""
    passes = run.events.forward_pass[run.accesses.event]
    return np.bincount(passes[run.accesses.outcome == HIT], minlength=len(run.passes.phase))


def _per_event(run: Run, rows: NDArray[Any]) -> NDArray[np.int64]:
    """How many rows belong to each MoE layer of each pass; events that need nobody have none. [F x L]"""
    number = run.events.forward_pass.astype(np.int64) * run.layers + run.events.layer
    return np.bincount(number[rows], minlength=len(run.passes.phase) * run.layers)


def _domains(trace: Trace) -> dict[str, Any] | None:
    """The domain that the experts around each token are nearest to. None where the domains are not known."""
    domains = known_domains(trace)
    if not domains:
        return None
    nearest = routing.likeness(trace, domains, AROUND, centred=True).argmax(0)
    return {
        "names": [name.capitalize() for name in domains],
        "nearest": packed(nearest),
        "around": min(AROUND, trace.tokens),
    }


def run_part(
    run: Run,
    measured: Sequence[Run] = (),
    explainer: Explainer | None = None,
    over: tuple[str, Costs] | None = None,
    fitted: Callable[[Run], Costs] = fit,
    soon: bool = False,
    alike: bool = True,
) -> dict[str, Any]:
    """What `stage_payload` says of one run. The explainer has to be of the run's own settings. `over`: a link
    and its costs, where times are to be modelled for it. `fitted`: gives the costs of a measured run, for
    whoever has kept them. `soon`: the host brings what is missing here later.
    """
    loads, settings = run.loads, run.settings
    own = run.events.layer[loads.event]
    victims = loads.victim_layer >= 0
    elsewhere = bool((loads.layer != own).any() or (loads.victim_layer != own)[victims].any())
    whole = int(run.layer_bytes.sum()) * run.experts
    return {
        "id": run.digest,
        "name": setting_name(settings),
        "label": label(settings),
        "policy": settings.policy,
        "means": {  # what its menus say of what is chosen
            "policy": BASELINES[settings.baseline]
            if settings.baseline
            else _text(POLICIES.get(settings.policy)),
            "prefetch": _text(PREDICTORS.get(settings.prefetch)),
        },
        "slots": run.room.slots if settings.budget else settings.slots,
        "scope": settings.scope,
        "prefetch": settings.prefetch,
        "prefetchName": prefetch_name(settings.prefetch),
        "baseline": settings.baseline,
        "keeps": settings.baseline in ("", "resident"),
        "memory": memory_held(run.fast_tier_bytes, whole, settings),
        "outcome": pairs_of_bits(_outcome(run)),
        "loads": {
            "counts": packed(_per_event(run, loads.event)),
            "expert": packed(loads.expert),
            "victim": packed(loads.victim_expert),
            "layer": packed(loads.layer) if elsewhere else None,
            "victimLayer": packed(loads.victim_layer) if elsewhere else None,
            "guess": packed(loads.speculative + 2 * loads.used.astype(np.uint8))
            if loads.speculative.any()
            else None,
            "leavers": {
                "load": packed(run.leavers.load),
                "cell": packed(run.leavers.layer.astype(np.int64) * run.experts + run.leavers.expert),
            }
            if len(run.leavers.load)
            else None,
        },
        "start": {"layer": packed(run.start.layer), "expert": packed(run.start.expert)},
        "times": times_of(run, measured, over, fitted, alike),
        "story": None if explainer is None else stories_of(explainer),
        "soon": soon,
    }


def is_timed(part: Mapping[str, Any], measured: Sequence[Run]) -> bool:
    """Whether a part of `run_part` has times, or its host is about to bring those of `measured`."""
    return bool(part["times"] or (part["soon"] and measured))


def as_watched(part: dict[str, Any]) -> dict[str, Any]:
    """A part whose times do not pass for measured ones: a watched run was slowed by being watched."""
    times = part["times"]
    if times is None:
        return part
    source = {"measured": "watched", "modelled": "modelled watched"}[times["source"]]
    return part | {"times": times | {"source": source}}


def _text(known: Policy | Kind | None) -> str:
    """Of a policy or predictor; nothing of one that this process has not loaded."""
    return known.text if known is not None else ""


def _outcome(run: Run) -> NDArray[np.uint8]:
    """0 hit, 1 late hit, 2 miss, whatever numbers the run uses. [M]"""
    found = np.zeros(len(run.accesses.outcome), np.uint8)
    found[run.accesses.outcome == LATE] = 1
    found[run.accesses.outcome == MISS] = 2
    return found

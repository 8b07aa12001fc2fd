"""Numbers for programs: what `--json` prints, in one place.

The keys are a promise, kept by `moeviz/output.schema.json` and a test.

json.dumps(summary(metrics.summary(run)))
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import asdict, fields
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from moeviz.core.run import Tier
from moeviz.core.settings import Settings
from moeviz.core.trace import Trace
from moeviz.numbers.lossy import Lossy
from moeviz.numbers.medians import Repeated
from moeviz.numbers.metrics import Counts, Summary
from moeviz.numbers.timing import Timed

if TYPE_CHECKING:
    from moeviz.numbers.curves import Bounds
    from moeviz.numbers.differences import Pair
    from moeviz.numbers.plan import Plan
    from moeviz.numbers.routing import Habits

TIMED = tuple(one.name for one in fields(Timed))


def summary(found: Summary) -> dict[str, Any]:
    """The numbers of a run; times are null where it was not measured."""
    return {
        **_counts(found.whole),
        "prefill": _counts(found.prefill),
        "decode": _counts(found.decode),
        "evictions": found.evictions,
        "bytes_demand": found.moved.demand,
        "bytes_prefetch_useful": found.moved.prefetch_useful,
        "bytes_prefetch_wasted": found.moved.prefetch_wasted,
        "fast_tier_bytes": found.fast_tier_bytes,
        "tier": _tier(found.tier),
        "miss_kinds": asdict(found.miss_kinds),
        "cache_as_predictor": asdict(found.cache_as_predictor) if found.cache_as_predictor else None,
        "prefetch_ledger": asdict(found.ledger),
        "whole_token_hits": asdict(found.served),
        "bytes_per_token": found.bytes_per_token,
        "overlap": found.overlap,
        "achieved_gigabytes_per_second": found.achieved_gigabytes_per_second,
        **_times(found.times),
    }


def trace(found: Trace) -> dict[str, Any]:
    """What a trace says of itself."""
    return {
        "model": found.model,
        "tokens": found.tokens,
        "forward_passes": len(found.passes()),
        "sequences": len(found.sequences()),
        "layers": found.layers,
        "experts": found.num_experts,
        "k": found.k,
        "expert_bytes": found.mean_bytes,
        "copied_bytes": found.mean_copied,
        "prompt": found.prompt,
        "text": "".join(found.texts),
        "recorded": found.recorded,
        "notes": list(found.notes),
    }


def repeated(found: Repeated) -> dict[str, Any]:
    """The numbers of repeats, medians of what was timed; `spread` is the least and the most of each time."""
    least, most = _times(found.least), _times(found.most)
    spread = {name: None if least[name] is None else [least[name], most[name]] for name in TIMED}
    return {**summary(found.median), "spread": spread}


def one_run(
    model: str,
    settings: Settings,
    token_ids: list[int],
    text: str,
    found: Summary,
    lossless: bool | None,
    lossy: Lossy | None = None,
) -> dict[str, Any]:
    """What `run` and `replay` say of a run.

    `lossless`: whether its logits are those of transformers' own model; None where nobody compared.
    `lossy`: what the rounding of its experts changed; None where they are not rounded.
    """
    return {
        "model": model,
        "settings": settings.to_dict(),
        "tokens": len(token_ids),
        "text": text,
        "token_ids": token_ids,
        **summary(found),
        "lossless": lossless,
        "lossy": asdict(lossy) if lossy else None,
    }


def compared(
    settings: Settings, tokens: int, found: Repeated, lossless: bool | None, equals_replay: bool
) -> dict[str, Any]:
    """What `compare` says of one of its settings."""
    return {
        "label": settings.label,
        "settings": settings.to_dict(),
        "tokens": tokens,
        **repeated(found),
        "lossless": lossless,
        "equals_replay": equals_replay,
    }


def comparison(
    model: str,
    prompt: str,
    token_ids: list[int],
    text: str,
    repeats: int,
    results: list[dict[str, Any]],
    lossy: Lossy | None,
) -> dict[str, Any]:
    """What `compare` says. `results`: `compared` of each of its settings."""
    return {
        "model": model,
        "prompt": prompt,
        "text": text,
        "token_ids": token_ids,
        "repeats": repeats,
        "lossy": asdict(lossy) if lossy else None,
        "results": results,
    }


def replayed(
    model: str,
    settings: Settings,
    token_ids: list[int],
    text: str,
    found: Summary,
    bound: Bounds,
    habits: Habits,
) -> dict[str, Any]:
    """What `replay` says."""
    one = one_run(model, settings, token_ids, text, found, None)
    return {**one, "bounds": asdict(bound), "routing": routing(habits)}


def routing(found: Habits) -> dict[str, Any]:
    """How a trace's routers choose; guesses are [lookahead][layer]."""
    return {
        "reuse_of_previous_token": found.reuse_of_previous_token,
        "reuse_by_chance": found.reuse_by_chance,
        "top_quarter_share": found.top_quarter_share.tolist(),
        "entropy": found.entropy.tolist(),
        "next_gate_recall": _known(found.next_gate_recall),
        "guesses": {
            "precision": [_known(row) for row in found.guesses.precision.tolist()],
            "recall": [_known(row) for row in found.guesses.recall.tolist()],
        }
        if found.guesses
        else None,
    }


def shown(
    found: Trace, format: str, report: list[str], habits: Habits, recorded: tuple[Settings, Summary] | None
) -> dict[str, Any]:
    """What `show` says of a trace. `recorded`: of the run in the same file."""
    run = {"settings": recorded[0].to_dict(), **summary(recorded[1])} if recorded else None
    return {**trace(found), "format": format, "report": report, "routing": routing(habits), "run": run}


def counts_alone(
    model: str, uses: NDArray[np.floating[Any]], notes: Sequence[str], format: str, report: list[str]
) -> dict[str, Any]:
    """What `show` says of counts without order. uses: [L, E]"""
    return {
        "format": format,
        "model": model,
        "layers": uses.shape[0],
        "experts": uses.shape[1],
        "uses": float(uses.sum()),
        "notes": list(notes),
        "report": report,
    }


def differing(
    about: Mapping[str, tuple[str, str]], numbers: Mapping[str, Pair], passed: list[str]
) -> dict[str, Any]:
    """What `diff` says: what the two are where they are not the same, their numbers, and the limits that were
    passed, in words."""
    return {
        "differs": {name: list(pair) for name, pair in about.items()},
        "numbers": {name: asdict(pair) for name, pair in numbers.items()},
        "passed_limits": passed,
    }


def planned(found: Plan, assumptions: Sequence[str], last_run: dict[str, Any] | None) -> dict[str, Any]:
    """What `plan` says. `assumptions`: of all plans, in words; `last_run`: how the last run of the model came
    out; None where there was none."""
    values = asdict(found)
    values["size"] |= {"all": found.size.all_unpacked, "all_packed": found.size.all_packed}
    return values | {"assumptions": list(assumptions), "last_run": last_run}


def _known(values: Sequence[float]) -> list[float | None]:
    return [None if math.isnan(value) else value for value in values]


def _counts(found: Counts) -> dict[str, Any]:
    return asdict(found) | {"hit_ratio": found.hit_ratio}


def _times(found: Timed | None) -> dict[str, float | None]:
    return {name: getattr(found, name) if found else None for name in TIMED}


def _tier(found: Tier | None) -> dict[str, Any] | None:
    return found.to_dict() if found else None

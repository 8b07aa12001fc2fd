"""Numbers for programs: what `--json` prints, in one place.

The keys are a promise, kept by `moeviz/output.schema.json` and a test.

json.dumps(summary(metrics.summary(run)))
"""

from __future__ import annotations

from dataclasses import asdict, fields
from typing import Any

from moeviz.core.run import Tier
from moeviz.core.settings import Settings
from moeviz.core.trace import Trace
from moeviz.numbers.lossy import Lossy
from moeviz.numbers.medians import Repeated
from moeviz.numbers.metrics import Counts, Summary, Timed

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


def _counts(found: Counts) -> dict[str, Any]:
    return asdict(found) | {"hit_ratio": found.hit_ratio}


def _times(found: Timed | None) -> dict[str, float | None]:
    return {name: getattr(found, name) if found else None for name in TIMED}


def _tier(found: Tier | None) -> dict[str, Any] | None:
    return found.to_dict() if found else None

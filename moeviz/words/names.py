"""What policies, predictors, settings, outcomes and kinds of miss are called where people read."""

from __future__ import annotations

from collections.abc import Sequence

from moeviz.amounts import budget, many, memory
from moeviz.core.owncode import short
from moeviz.core.settings import BASELINES, ITSELF, SCOPES, Settings

SIGNS = {  # what the state of an expert is called beside its colour and its sign
    "resident": "there",
    "hit": "needed, there",
    "late": "needed, on the way",
    "miss": "needed, not there",
    "prefetched": "fetched ahead",
}
OUTCOMES = ("hit", "late hit", "missed")
MISS_KINDS = ("", "cold", "capacity", "collision", "pollution")
POLICY_NAMES = {
    "lru": "LRU",
    "lru-2": "LRU-2",
    "lfu": "LFU (counts kept)",
    "lfu-resident": "LFU (counts lost)",
    "lfu-aged": "LFU (aged)",
    "lfuda": "LFUDA",
    "weighted-lfu": "LFU (weighted)",
    "lfru": "LFRU",
    "fifo": "FIFO",
    "random": "random",
    "score-ema": "router weight",
    "least-stale": "least stale",
    "layer-distance": "layer distance",
    "static": "static",
    "arc": "ARC",
    "s3-fifo": "S3-FIFO",
    "co-activation": "co-activation",
    "belady": "Belady",
}


def settings(found: Settings, typed: bool = False) -> str:
    """What a cache was told, as a sentence for someone who has not met the names. `typed` as in `label`."""
    if found.baseline:
        return f"{found.baseline}: {BASELINES[found.baseline]}."
    whose = "in each MoE layer" if found.scope == "layer" else "for all layers together"
    parts = [
        f"{policy_name(found.policy, typed)} with {many(found.slots, 'slot')} {whose} ({SCOPES[found.scope]})"
    ]
    if found.prefetch != "none":
        who = many(found.width, "expert") if found.width else "as many experts as the router chooses"
        if found.threshold and found.prefetch == "next-gate":
            who = f"experts until their probabilities reach {found.threshold:g}"
        parts.append(f"{found.prefetch} guesses {who}, {many(found.lookahead, 'layer')} ahead")
    if found.warm != "cold":
        parts.append(f"warm start: {found.warm}")
    return "; ".join(parts) + "."


def calibrated_on_itself(several: Sequence[Settings]) -> str:
    """What is to be known of those that are calibrated on the very trace that they are replayed on; empty
    where there are none."""
    told = []
    for one in several:
        if one.calibration == ITSELF:
            best = ": the best that fixed frequencies can do" if one.policy == "static" else ""
            told.append(f"{policy_name(one.policy)} is calibrated on this very trace{best}.")
    return " ".join(told)


def policy_name(name: str, typed: bool = False) -> str:
    """What a policy is called where people read; of a user's own file `mru.py:mru`. A predictor keeps its
    name. `typed`: for a terminal, where policies are called as they are typed."""
    return short(name) if typed else POLICY_NAMES.get(name, short(name))


def prefetch_name(name: str) -> str:
    """What a predictor is called on a board."""
    return "no pre-fetch" if name == "none" else f"pre-fetch: {short(name)}"


def label(found: Settings, typed: bool = False) -> str:
    """Settings in a few words, with the policy by its name: LRU, 4 slots, next-gate. `typed`: for a terminal,
    as its tables call them."""
    if typed:
        return found.label
    if found.baseline:
        return found.baseline
    name = policy_name(found.policy)
    if found.policy == "lfu-aged":
        name = bracketed(name, many(found.half_life, "token"))
    room = budget(found.budget) if found.budget else many(found.slots, "slot")
    return ", ".join([name, room + (" in all" if found.scope == "model" else ""), *found.further])


def bracketed(name: str, more: str) -> str:
    """A name and what tells it from another of its name: LRU (4 slots), LFU (counts kept, 4 slots)."""
    return f"{name[:-1]}, {more})" if name.endswith(")") else f"{name} ({more})"


def setting_name(found: Settings) -> str:
    """The policy's name, or the baseline's."""
    return found.baseline or policy_name(found.policy)


def setting_names(several: Sequence[Settings]) -> list[str]:
    """Names of settings that are shown side by side: the policies', and in brackets whatever else tells them
    apart.
    """
    told = [_apart(one) for one in several]
    caches = [parts for parts, one in zip(told, several, strict=True) if not one.baseline]
    names = []
    for one, parts in zip(several, told, strict=True):
        extra = [
            text for at, text in enumerate(parts) if text and len({other[at] for other in caches} - {""}) > 1
        ]
        name = setting_name(one)
        if extra and not one.baseline:
            name = bracketed(name, ", ".join(extra))
        names.append(name)
    return names


def _apart(found: Settings) -> list[str]:
    """All but the policy that may tell two caches apart, each in a few words."""
    guesses = found.prefetch != "none"
    return [
        budget(found.budget) if found.budget else many(found.slots, "slot"),
        "all layers share them" if found.scope == "model" else "each layer its own",
        short(found.prefetch) if guesses else "no pre-fetch",
        f"{found.lookahead} ahead" if guesses else "",
        f"width {found.width or 'as k'}" if guesses else "",
        f"threshold {found.threshold:g}" if guesses else "",
        f"{found.warm} start",
        found.rule,
        f"half-life {found.half_life}" if found.policy == "lfu-aged" else "",
        f"calibrated on {found.calibration}" if found.needs_calibration else "",
    ]


def memory_held(held: int, whole: int, found: Settings) -> str:
    """What the slots take, of what all experts would; the slots alone where sizes are not known."""
    if whole:
        return f"holds {memory(held)} of {memory(whole)}"
    return f"{many(found.slots, 'slot')} {'in all' if found.scope == 'model' else 'a layer'}"

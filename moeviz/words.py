"""Numbers, settings and results in words, once, for pages, reports, the command line and alt texts; and the
glossary.

Knows numbers and settings, neither figures nor widgets nor terminals. Texts are plain: whoever shows them
escapes them.

    verdict("lru", repeated(runs_of_lru), "lfu", repeated(runs_of_lfu))
    # 'lfu hits 4.0 points more than lru; speed: lfu is 9% faster in the median pair (1.07 to 1.12 of the
    # other's speed).'
"""

from __future__ import annotations

import math
import re
from collections.abc import Sequence
from dataclasses import asdict
from functools import lru_cache
from typing import Any

import numpy as np
from numpy.typing import NDArray

from moeviz.core.policies import POLICIES
from moeviz.core.predictors import PREDICTORS
from moeviz.core.run import HIT, Run, Tier
from moeviz.core.settings import BASELINES, SCOPES, Settings
from moeviz.core.trace import DECODE, Trace
from moeviz.numbers import metrics
from moeviz.numbers import routing as numbers_of_routing
from moeviz.numbers.differences import Interval, Pair, speed_ratio
from moeviz.numbers.lossy import Lossy
from moeviz.numbers.medians import Repeated
from moeviz.numbers.metrics import Counts, MissKinds, Moved, Summary, Timed
from moeviz.numbers.plan import break_even
from moeviz.numbers.subject import Change

UNKNOWN = "–"  # where there is no number
SUBJECTS = 3  # that one sentence can hold
SAME_TIME = 0.01  # modelled times that are no further apart are shown as equal
SAME = 5e-4  # hit ratios that differ by less are shown as equal

GLOSSARY = {
    # the model
    "MoE layer": "A layer that holds many experts and a router, and uses few of them for each token.",
    "expert": "One of a MoE layer's small networks; a token passes through the few that its router chooses.",
    "router": "The part of a MoE layer that chooses which experts compute a token.",
    "top-k": "How many experts a router chooses for each token.",
    "router weight": "How strongly a router wants an expert; the results of the chosen ones are mixed by it.",
    "token": "A piece of text, about a short word, that a model reads or writes in one step.",
    "forward pass": "One run through all layers: the whole prompt at first, then one token each time.",
    "pass": "A forward pass: one run through all layers.",
    "phase": "Reading the prompt (prefill), or writing token by token (decode).",
    "prompt": "The text that a model is given to go on with.",
    "context": "The tokens that a model still sees; it keeps keys and values of each.",
    "temperature": "How freely a model chooses its next token: at 0 always the likeliest.",
    "seed": "The number that chance begins with; with the same one a run comes out the same.",
    "prefill": "The first forward pass, which reads the whole prompt at once.",
    "decode": "The forward passes after the prompt, each of which writes one token.",
    # the tiers
    "fast tier": "Where experts are computed: an accelerator's memory, or RAM on a machine without one.",
    "device": "What computes and holds the fast tier: the CPU, or an accelerator such as a GPU.",
    "slow tier": "Where all experts live, a disk or the host's RAM; they have to be copied to compute.",
    "link": "The way from the slow tier to the fast one; it copies one expert at a time.",
    "slot": "Room for one expert in the fast tier.",
    "expert cache": "The slots, and the policy that decides who leaves when another expert needs one.",
    "compute": "The arithmetic of the layers, as against copying.",
    "PCIe": "The bus between a computer's own memory and its accelerator or drives.",
    "NVMe": "A drive on PCIe: several GB a second.",
    "SATA SSD": "A drive on an older bus: about half a GB a second.",
    "SD card": "A memory card: about a tenth of a GB a second.",
    "resident": "In a slot of the fast tier. As a baseline: every expert is, from the start.",
    "scope": "Whose the slots are: each MoE layer has its own (layer), or all layers share one pool (model).",
    "warm start": "What is resident when a run begins; a cold cache begins empty.",
    "budget": "Bytes for experts in all, in place of a number of slots.",
    "rule": "How the experts of an event are served: together (pinned), one by one, or in batches of tokens.",
    "pinned": "The rule that all experts of an event are needed at once: none leaves for another.",
    "one-by-one": "The rule of ordinary caches: one access after another, nothing is held.",
    "in-order": "As pinned, but the weakest of an event's experts counts as used last, not the strongest.",
    "batch": "The rule that several tokens at a time need the union of their experts.",
    "baseline": "A way without a cache of one's own choice, to compare with.",
    "on-demand": "The baseline that keeps nothing: every needed expert is copied every time.",
    "whole-layer": "The baseline that copies every expert of a layer each time the layer is reached.",
    # what happens
    "access": "One expert that one MoE layer needs in one forward pass.",
    "event": "One MoE layer in one forward pass, with all the experts that its tokens need there.",
    "hit": "An access whose expert was resident and loaded.",
    "late hit": "An access whose expert was still on its way when it was needed.",
    "miss": "An access whose expert was not in the fast tier: it has to be copied while compute waits.",
    "hit ratio": "Hits as a part of all accesses.",
    "eviction": "An expert loses its slot to another.",
    "victim": "The expert that an eviction drops.",
    "cold": "Kind of miss: the expert had never been loaded before.",
    "capacity": "Kind of miss: the expert was evicted in an earlier forward pass.",
    "collision": "Kind of miss: the expert was evicted earlier in the same forward pass that needs it.",
    "pollution": "Kind of miss: the expert was evicted by a pre-fetch that nobody used.",
    "regret": "An eviction is regretted where another expert could have left that was needed later.",
    "policy": "The rule that says which resident expert leaves: each gets a score, and the lowest leaves.",
    "score": "The number that a policy gives a resident expert; the lowest leaves.",
    "half-life": "Tokens after which a use counts half, for the policy lfu-aged.",
    "calibration": "Counts of each expert's use in an earlier trace, for policies that have to know them.",
    "bound": "What no policy can beat at these slots: belady's hits, which takes knowledge of the future.",
    "belady": "The policy that knows the future and drops the expert that is needed again last.",
    # pre-fetching
    "pre-fetch": "Copying an expert before it is needed, because it was guessed.",
    "guess": "An expert that a predictor expects a later layer to need.",
    "predictor": "What guesses which experts a later layer will need.",
    "demand": "A copy on demand: the expert was needed and was not there.",
    "lookahead": "How many MoE layers ahead a guess is made.",
    "width": "How many experts are guessed at a time.",
    "threshold": "The probability that the guessed experts have to reach together.",
    "precision": "The part of the guessed experts that were needed.",
    "recall": "The part of the needed experts that were guessed.",
    "useful": "A pre-fetch whose expert was needed before it was evicted.",
    "wasted": "A pre-fetch whose expert was evicted, or left over, without being needed.",
    # time
    "stall": "Time that compute waits for a copy.",
    "overlap": "The part of the copying that compute did not wait for: 1 - stall / transfer time.",
    "TTFT": "Time to first token: from the prompt to the first token that is written.",
    "TPOT": "Time per output token, once the first has been written.",
    "median": "The middle one of several numbers: half of them lie below it.",
    "p95": "Of a hundred times, 95 were at most this long.",
    "paced": "Slowed down, by waiting, to a rate that is named.",
    "lane": "A row of a drawing over time: what compute does, or the link.",
    "spread": "From the least to the most of the repeats of one measurement.",
    "measured": "Timed while the model ran.",
    "replayed": "What a cache would have done on a recorded trace: exact decisions, no times.",
    "modelled": "Computed by a cost model that was fitted on a measured run; not timed.",
    "recorded": "What the routers chose; it is the same for every cache.",
    "int8": "Experts rounded to 8 bits a weight: half of bfloat16, and not quite the same results.",
    "int4": "Experts rounded to 4 bits a weight: a quarter of bfloat16, and further from the same results.",
    "lossless": "The logits are those of transformers' own model with every expert in memory, bit for bit.",
    # things
    "trace": "What the routers chose for each token of a text, in a file; any cache can be replayed on it.",
    "run": "What a cache did on a trace, and how long it took where that was measured.",
    "published curve": "Hit ratios that others published, of their model and text; with their source.",
    "knee": "The number of slots beyond which each further slot brings less than the average one.",
    "break-even": "The hit ratio above which a cache beats keeping some layers resident in the same memory.",
    "skew": "How unevenly experts are used: the more, the more a few of them do most of the work.",
    "domain": "What kind of text it is, told from the experts alone: Bible, German, Python or another.",
    "cosine": "How alike two shares are: 1 where they are the same, 0 where nothing is in common.",
    "reuse": "The part of a token's experts that the token before it used in the same layer.",
    "entropy": "How evenly a layer's experts are used: 1 is even, 0 means that one expert gets every choice.",
}

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


# numbers


def percent(share: float | None, digits: int = 1) -> str:
    """A share of 1: 0.727 is 72.7%."""
    return UNKNOWN if share is None else f"{share:.{digits}%}"


def points(difference: float) -> str:
    """A difference of two shares: 0.04 is 4.0 points."""
    return f"{abs(difference) * 100:.1f} points"


def size(count: float) -> str:
    """Bytes that a file has or a link moves, in powers of 1,000."""
    for unit, one in (("TB", 1e12), ("GB", 1e9), ("MB", 1e6), ("kB", 1e3)):
        if count >= one:
            return f"{count / one:,.0f} {unit}" if count >= 10 * one else f"{count / one:,.1f} {unit}"
    return f"{count:,.0f} bytes"


def memory(count: float) -> str:
    """Bytes of memory, in powers of 1,024, as a budget is given."""
    for unit, one in (("TiB", 2**40), ("GiB", 2**30), ("MiB", 2**20), ("KiB", 2**10)):
        if count >= one:
            return f"{count / one:,.0f} {unit}" if count >= 10 * one else f"{count / one:,.1f} {unit}"
    return f"{count:,.0f} bytes"


def milliseconds(value: float | None) -> str:
    return UNKNOWN if value is None else f"{value:,.0f} ms" if value >= 100 else f"{value:.1f} ms"


def many(count: int, what: str) -> str:
    """A number of things that are counted: 1 token, 2 tokens, 3 passes."""
    plural = "es" if what.endswith("s") else "s"
    return f"{count:,} {what}{'' if count == 1 else plural}"


def pass_names(phase: NDArray[np.uint8], tokens: NDArray[np.integer[Any]]) -> list[str]:
    """What each forward pass is called, as on the stage: "the prompt", "token 12", or, where it takes in
    several tokens, "pass 12". phase, tokens: [F] of each pass, and how many go in
    """
    decoded = np.flatnonzero(phase == DECODE)
    begins = int(decoded[0]) if decoded.size else len(phase)
    names = ["the prompt"] if begins == 1 else [f"prompt, pass {number}" for number in range(begins)]
    return names + [
        f"token {number}" if one == 1 else f"pass {number}"
        for number, one in enumerate(tokens[begins:].tolist(), begins)
    ]


def passes_of(found: Run | Trace) -> list[str]:
    """What each forward pass of a run or a trace is called."""
    if isinstance(found, Trace):
        sizes = np.array([tokens.stop - tokens.start for tokens in found.passes()], np.int64)
        return pass_names(found.pass_phase, sizes)
    return pass_names(found.passes.phase, found.passes.tokens)


def from_to(names: Sequence[str]) -> str:
    """Several that follow each other: "tokens 3 to 9", "the prompt to token 2"."""
    first, last = names[0], names[-1]
    if first == last:
        return first
    what, _, number = last.rpartition(" ")
    if first.startswith(f"{what} "):
        return f"{what}{'es' if what.endswith('s') else 's'} {first.rpartition(' ')[2]} to {number}"
    return f"{first} to {last}"


def seconds_left(seconds: float) -> str:
    """About how long something still takes."""
    return f"{seconds / 60:.0f} min" if seconds >= 90 else f"{seconds:.0f} s"


def per_second(times: Timed | None) -> str:
    """Tokens per second of decode."""
    speed = times.tokens_per_second if times else None
    return UNKNOWN if speed is None else f"{speed:.1f} tokens/s"


def counted(found: Counts) -> str:
    """How many accesses hit."""
    late = f", {found.late_hits:,} came late" if found.late_hits else ""
    return f"{percent(found.hit_ratio)} of {found.accesses:,} accesses hit{late}, {found.misses:,} missed"


def misses(kinds: MissKinds) -> str:
    """Why experts were not there, the kinds that occurred first named."""
    return ", ".join(f"{count:,} {kind}" for kind, count in asdict(kinds).items())


def moved(found: Moved) -> str:
    """What went over the link."""
    guessed = found.prefetch_useful or found.prefetch_wasted
    parts = f", guesses {size(found.prefetch_useful)} useful and {size(found.prefetch_wasted)} wasted"
    return f"on demand {size(found.demand)}" + (parts if guessed else "")


NO_OVERLAP = (
    "The accelerator has one stream: copies and compute take turns, so that no copy is hidden behind compute."
)


def tier(found: Tier | None) -> str:
    """The slow tier as it was measured; empty where there was none."""
    if found is None:
        return ""
    bypassed = "past the page cache" if found.page_cache_bypassed else "not past the page cache"
    past = "in RAM" if found.kind == "host" else bypassed
    return (
        f"Slow tier {found.kind}, {past}: {found.latency_ms:.2f} ms per expert"
        + (f" ({found.unpack_ms:.2f} ms of it to unpack it)" if found.unpack_ms else "")
        + f", {found.gigabytes_per_second:.2f} GB/s{'; ' if found.pace else ''}{found.pace_in_words}."
        + ("" if found.overlaps else f" {NO_OVERLAP}")
    )


# settings


def settings(found: Settings) -> str:
    """What a cache was told, as a sentence for someone who has not met the names."""
    if found.baseline:
        return f"{found.baseline}: {BASELINES[found.baseline]}."
    whose = "in each MoE layer" if found.scope == "layer" else "for all layers together"
    parts = [f"{found.policy} with {found.slots:,} slots {whose} ({SCOPES[found.scope]})"]
    if found.prefetch != "none":
        many = f"{found.width} experts" if found.width else "as many experts as the router chooses"
        if found.threshold and found.prefetch == "next-gate":
            many = f"experts until their probabilities reach {found.threshold:g}"
        ahead = "1 layer" if found.lookahead == 1 else f"{found.lookahead} layers"
        parts.append(f"{found.prefetch} guesses {many}, {ahead} ahead")
    if found.warm != "cold":
        parts.append(f"warm start: {found.warm}")
    return "; ".join(parts) + "."


def policy_name(name: str) -> str:
    """What a policy is called where people read; of a user's own file the part after the colon."""
    return POLICY_NAMES.get(name, name.rpartition(":")[2])


def prefetch_name(name: str) -> str:
    """What a predictor is called in a menu."""
    return "no pre-fetch" if name == "none" else f"pre-fetch: {name.rpartition(':')[2]}"


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
            begins = name.removesuffix(")") + (", " if name.endswith(")") else " (")
            name = f"{begins}{', '.join(extra)})"
        names.append(name)
    return names


def _apart(found: Settings) -> list[str]:
    """All but the policy that may tell two caches apart, each in a few words."""
    guesses = found.prefetch != "none"
    return [
        memory(found.budget) if found.budget else f"{found.slots:,} slots",
        "all layers share them" if found.scope == "model" else "each layer its own",
        found.prefetch.rpartition(":")[2] if guesses else "no pre-fetch",
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
    return f"{found.slots} slots {'in all' if found.scope == 'model' else 'a layer'}"


# results


def verdict(first: str, a: Repeated, second: str, b: Repeated) -> str:
    """Which of two measured settings hits more and which is faster, with what the repeats allow to say."""
    return f"{hits_verdict(first, a.median.main, second, b.median.main)}; {speed_verdict(second, a, b)}."


def hits_verdict(first: str, a: Counts, second: str, b: Counts) -> str:
    """Which of two hits more. Hits are exact: a cache makes the same decisions every time."""
    difference = (b.hit_ratio or 0.0) - (a.hit_ratio or 0.0)
    if abs(difference) < SAME:
        return f"{first} and {second} hit alike ({percent(a.hit_ratio)})"
    winner, loser = (second, first) if difference > 0 else (first, second)
    return f"{winner} hits {points(difference)} more than {loser}"


def hit_verdict(found: Trace, runs: Sequence[Run], changes: Sequence[Change]) -> str:
    """Who of the first two runs hits more, over the whole text and on both sides of changes of subject, the
    prompt included. Says of how many tokens it speaks, since a measurement speaks of others. Empty where
    there is one run.
    """
    if len(runs) < 2:
        return ""
    names = setting_names([run.settings for run in runs[:2]])
    if names[0] == names[1]:
        return "Both are set alike."
    whole = hits_verdict(names[0], metrics.counts(runs[0]), names[1], metrics.counts(runs[1]))
    whole += f" over all {many(found.tokens, 'token')}"
    subjects = [changes[0].before, *(one.after for one in changes)] if changes else []
    if not 2 <= len(subjects) <= SUBJECTS:
        return f"{whole}."
    pass_of = np.repeat(np.arange(len(found.passes())), [part.stop - part.start for part in found.passes()])
    at = [0, *(int(pass_of[one.token]) for one in changes), len(runs[0].passes.phase)]
    short = [name.partition(" (")[0] for name in names]
    leaders = names if len(set(short)) < 2 else short
    parts = []
    for subject, first, last in zip(subjects, at, at[1:], strict=False):
        lead = _hit_ratio(runs[0], first, last) - _hit_ratio(runs[1], first, last)
        leader = leaders[0] if lead > 0 else leaders[1]
        says = "neither leads" if abs(lead) < SAME else f"{leader} leads by {points(lead)}"
        parts.append(f"in {subject.capitalize()} {says}")
    return f"{whole}: {', '.join(parts)}."


def _hit_ratio(run: Run, first: int, last: int) -> float:
    """Hits / accesses in the passes from `first` to before `last`."""
    passes = run.events.forward_pass[run.accesses.event]
    own = run.accesses.outcome[(passes >= first) & (passes < last)]
    return float((own == HIT).mean()) if own.size else 0.0


def speed_verdict(second: str, a: Repeated, b: Repeated) -> str:
    """Whether the second is faster than the first, round by round. Both are drawn as the median of their own
    repeats; where those say otherwise than the rounds, nobody is called faster.
    """
    found = speed_ratio(a, b)
    if found is None:
        return "speed: not measured"
    if found.low is None or found.high is None:
        return "speed: measured once, so that there is no spread to judge by"
    if found.low <= 1 <= found.high:
        return f"speed: no difference outside the spread ({second} at {_from_to(found)} of the other's speed)"
    faster = found.middle > 1
    drawn, other = ((one.median.times and one.median.times.tokens_per_second) or 0.0 for one in (b, a))
    if (drawn > other) is not faster:
        return (
            f"speed: no clear difference; {second} is {_faster(found.middle)} in the median pair, but not by "
            "the medians of each that are drawn here"
        )
    return (
        f"speed: {second} is {_faster(found.middle)} in the median pair ({_from_to(found)} of the other's "
        "speed)"
    )


def _faster(ratio: float) -> str:
    change = abs(ratio - 1)
    return f"{change:{'.0%' if change >= 0.01 else '.1%'}} {'faster' if ratio > 1 else 'slower'}"


def _from_to(found: Interval) -> str:
    return f"{found.low:.2f} to {found.high:.2f}"


def comparison_verdict(measured: Sequence[tuple[Settings, Repeated]]) -> str:
    """The sentence under a comparison: the cache that hits most and the first other one, in the order in
    which they were measured, so that it says of the speed of the second what the stage says.
    """
    caches = [(one, found) for one, found in measured if not one.baseline]
    if not caches:
        return "No cache was compared, only baselines."
    best, found = max(caches, key=lambda pair: pair[1].median.main.hit_ratio or 0.0)
    decoded = found.median.decoded
    of_tokens = f"Over the {many(decoded, 'decoded token')}: " if decoded else "Over the prompt: "
    others = [(one, other) for one, other in caches if one is not best]
    if not others:
        return f"{of_tokens}{best.label}: {counted(found.median.main)}."
    (first, a), (second, b) = (pair for pair in caches if pair[0] in (best, others[0][0]))
    names = setting_names([first, second])
    return of_tokens + verdict(names[0], a, names[1], b)


def worth_in_time(with_ms: float, without_ms: float) -> str:
    """Whether pre-fetching saved time, by the cost model's ms per output token; empty where nothing was
    decoded.
    """
    if math.isnan(with_ms) or math.isnan(without_ms):
        return ""
    change = with_ms / without_ms - 1
    verdict = f"it saves {-change:.0%}" if change < 0 else f"it costs {change:.0%} more"
    if abs(change) < SAME_TIME:
        verdict = "no difference"
    return (
        f"Worth it in time, as modelled: {milliseconds(with_ms)} a token with these guesses, "
        f"{milliseconds(without_ms)} without: {verdict}."
    )


def best_value(measured: Sequence[tuple[Settings, Repeated]]) -> str:
    """The cache that gains most speed over copying on demand, for each byte of fast memory; empty where that
    is not known.
    """
    timed = [
        (one, found.median.times.tokens_per_second, found.median.fast_tier_bytes)
        for one, found in measured
        if found.median.times and found.median.times.tokens_per_second
    ]
    floor = next((speed for one, speed, _ in timed if one.baseline == "on-demand"), None)
    gains = [
        ((speed - floor) / held, one, held)
        for one, speed, held in timed
        if floor is not None and held and not one.baseline
    ]
    if not gains:
        return ""
    gain, best, held = max(gains, key=lambda one: one[0])
    if gain <= 0:
        return "Best value for memory: none; copying on demand is as fast."
    return (
        f"Best value for memory: {best.label}, {gain * 100 * 2**20:.1f} tokens/s more than on demand for "
        f"each 100 MiB of its {memory(held)} of fast memory."
    )


def numbers(found: Summary, bound: float | None = None, rule: str = "pinned") -> list[tuple[str, str]]:
    """The numbers that people ask for first, (name, text) each.

    `bound`: belady's hit ratio under the run's `rule`, None where it is not known or no bound.
    """
    rows = [(f"Hit ratio of {found.phase}", counted(found.main))]
    if found.phase == "decode" and found.prefill.accesses:
        rows.append(("Hit ratio of prefill", counted(found.prefill)))
    if bound is not None:
        rows.append(
            (
                "Bound (replayed)",
                f"{percent(bound)} by belady, which knows the future, without pre-fetching"
                + ("" if rule == "pinned" else f", under the rule {rule}"),
            )
        )
    if found.served.pass_ratio is not None:
        rows.append(
            (
                "Tokens that waited for none",
                f"{percent(found.served.pass_ratio)} found every expert of every layer",
            )
        )
    rows += [("Misses of the whole run", misses(found.miss_kinds)), ("Evictions", f"{found.evictions:,}")]
    if found.ledger.issued:
        issued = (
            f"{found.ledger.issued:,} issued: {found.ledger.useful:,} useful, {found.ledger.wasted:,} wasted"
        )
        rows.append(("Pre-fetches", issued))
    if found.fast_tier_bytes:
        rows.append(("Moved over the link", f"{moved(found.moved)}; {size(found.bytes_per_token)} a token"))
        rows.append(("Memory of the slots", memory(found.fast_tier_bytes)))
    if found.times and found.times.tokens_per_second:
        first = f"the first after {milliseconds(found.times.ttft_ms)}"
        median, p95 = milliseconds(found.times.tpot_ms_median), milliseconds(found.times.tpot_ms_p95)
        each = f"then {median} each in the median (p95 {p95})"
        rows.append(("Speed", f"{per_second(found.times)} in the mean, {first}, {each}"))
        parts = (
            f"experts compute {milliseconds(found.times.compute_ms_per_token)}, "
            f"stall {milliseconds(found.times.stall_ms_per_token)}, "
            f"link busy {milliseconds(found.times.transfer_ms_per_token)}"
        )
        rows.append(("Time of a token", parts))
    if found.tier:
        rows.append(("Slow tier", tier(found.tier).removeprefix("Slow tier ").removesuffix(".")))
    return rows


_COMMANDS = re.compile(r"[\x00-\x08\x0b-\x1f\x7f-\x9f\u202a-\u202e\u2066-\u2069]")


def harmless(text: str) -> str:
    """Text of a file, without what commands a terminal or turns the text around it: control characters but
    tab and line feed, and Unicode's overrides of direction, become U+FFFD.
    """
    return _COMMANDS.sub("\ufffd", text)


def lines(rows: Sequence[tuple[str, str]]) -> str:
    """Rows of (name, text) for a terminal, whatever a file says."""
    width = max((len(name) for name, _ in rows), default=0)
    return harmless("\n".join(f"{name:{width}}  {text}" for name, text in rows))


def lossless(same: bool | None) -> str:
    """Whether the logits are those of transformers' own model; empty where nobody compared."""
    if same is None:
        return ""
    whose = "those" if same else "NOT those"
    return f"{whose} of transformers' own model with every expert in memory, bit for bit"


KEPT = (
    "lossless: the slow tier keeps experts as the checkpoint holds them. unpacked: lossless too, and sooner "
    "on a fast link, where the checkpoint packs them. int8 and int4: rounded, so that fewer bytes cross the "
    "link; lossy, and what it changes is measured."
)


def rounded(experts: str) -> str:
    """That a model's experts are rounded, for every place where its numbers are shown."""
    return f"Lossy: the experts are rounded to {experts}; text, logits and choices are the rounded model's."


def unpacking(ms: float, packed: int, unpacked: int) -> str:
    """What it costs that experts are unpacked as they arrive, and on which links it does not pay. packed,
    unpacked: bytes of an expert.
    """
    return (
        f"Experts are unpacked as they arrive, {milliseconds(ms)} each: on a link faster than "
        f"{break_even(packed, unpacked, ms):.2g} GB/s they come sooner with --experts unpacked, for "
        f"{unpacked / packed:.1f} times the bytes on disk and link."
    )


def lossy(found: Lossy) -> str:
    """What the rounding of experts changed."""
    return (
        f"Lossy: with experts in {found.experts}, logits differ by {found.mean:.2g} in the mean and "
        f"{found.largest:.2g} at most (they spread by {found.spread:.2g}), {percent(found.rerouted)} of the "
        f"chosen experts are others, and the likeliest next token is the same after "
        f"{percent(found.same_token)} of {found.tokens} tokens, against the same model without rounding."
    )


def report(settings: Settings, found: Summary, same: bool | None = None, bound: float | None = None) -> str:
    """A run for a terminal, a line a number."""
    rows = [("Settings", settings.label), *numbers(found, bound, settings.rule)]
    if same is not None:
        rows.append(("Logits", lossless(same)))
    return lines(rows)


def _expert(found: Trace) -> str:
    """How large one expert is, and how many bytes of it are copied where that is fewer."""
    if not found.mean_bytes:
        return "of unknown size"
    packed = f", packed {size(found.mean_copied)} over the link" if found.link_bytes else ""
    least, most = int(found.layer_bytes.min()), int(found.layer_bytes.max())
    if least < most:
        return f"{size(least)} to {size(most)}, by layer{packed}"
    return f"{size(found.mean_bytes)}{packed}"


def trace(found: Trace) -> list[tuple[str, str]]:
    """What a trace says of itself, (name, text) each."""
    lengths = [tokens.stop - tokens.start for tokens in found.passes()]
    requests = len(found.sequences())
    several = f" of {requests:,} requests" if requests > 1 else ""
    machine = found.recorded.get("machine", "a machine that is not named")
    layers, experts = many(found.layers, "MoE layer"), many(found.num_experts, "expert")
    passes = many(len(lengths), "forward pass")
    rows = [
        ("Model", found.model or "unknown"),
        ("Shape", f"{layers} of {experts}, {found.k} for each token"),
        ("Tokens", f"{found.tokens:,}{several} in {passes}, the longest of {max(lengths):,}"),
        ("Expert", _expert(found)),
        ("Recorded", f"{found.recorded.get('time', 'unknown when')}, on {machine}"),
    ]
    rows += [("Note", note) for note in found.notes]
    return [*rows, ("Prompt", found.prompt[:1_000])] if found.prompt else rows


def only_counts(model: str, uses: NDArray[np.float64]) -> list[tuple[str, str]]:
    """What counts without order say, (name, text) each. uses: [L, E]"""
    layers, experts = many(uses.shape[0], "MoE layer"), many(uses.shape[1], "expert")
    quarter = float(numbers_of_routing.top_share(uses).mean())
    return [
        ("Model", model or "unknown"),
        ("Shape", f"{layers} of {experts}"),
        ("Uses", f"{uses.sum():,.6g} in all"),
        ("Busiest quarter", f"the busiest quarter of a layer's experts gets {percent(quarter)} of the uses"),
    ]


def routing(found: Trace) -> list[tuple[str, str]]:
    """How a trace's routers choose, (name, text) each."""
    use = numbers_of_routing.usage(found)
    again = numbers_of_routing.reuse(found)
    quarter = float(numbers_of_routing.top_share(use).mean())
    rows = [
        (
            "Busiest quarter",
            f"the busiest quarter of a layer's experts gets {percent(quarter)} of the choices",
        )
    ]
    if not np.isnan(again).all():
        share, chance = percent(float(np.nanmean(again))), percent(found.k / found.num_experts)
        rows.append(
            ("Reuse", f"{share} of a token's experts were used by the token before (by chance {chance})")
        )
    if found.lookaheads:
        rows.append(("Guesses", f"the routers', for up to {found.lookaheads} layers ahead"))
    return rows


def choices(a: Trace, b: Trace) -> tuple[str, str]:
    """Whether the routers of two traces chose alike: the same word twice, or what each chose first that the
    other did not.
    """
    if a.experts.shape[1:] != b.experts.shape[1:]:
        return "of another model", "of another shape"
    tokens = min(a.tokens, b.tokens)
    other = np.argwhere((a.experts[:tokens] != b.experts[:tokens]).any(2))
    if not other.size:
        return (
            ("the same", "the same")
            if a.tokens == b.tokens
            else (many(a.tokens, "token"), many(b.tokens, "token"))
        )
    token, layer = (int(number) for number in other[0])
    return tuple(  # type: ignore[return-value]
        f"first other one: token {token}, layer {layer}: {', '.join(map(str, one.experts[token, layer]))}"
        for one in (a, b)
    )


def difference(name: str, pair: Pair) -> tuple[str, str, str]:
    """A number of two runs and what lies between them: first, second, difference."""
    change = pair.second - pair.first
    if name == "fast_tier_bytes":
        first, second, between = memory(pair.first), memory(pair.second), memory(abs(change))
    elif name.startswith("bytes_") or name.endswith("_bytes"):
        first, second, between = size(pair.first), size(pair.second), size(abs(change))
    elif "ratio" in name or name in ("overlap", "cache_as_predictor.precision", "cache_as_predictor.recall"):
        first, second, between = percent(pair.first), percent(pair.second), points(change)
    else:
        first, second, between = (f"{value:,.4g}" for value in (pair.first, pair.second, abs(change)))
        if float(change).is_integer():
            first, second, between = (f"{value:,.0f}" for value in (pair.first, pair.second, abs(change)))
    share = f" ({change / pair.first:+.1%})" if pair.first else ""
    return first, second, f"{'+' if change > 0 else '-'}{between}{share}"


def about(run: Run) -> list[tuple[str, str]]:
    """A run in its most asked numbers, for a notebook's cell or a file's listing."""
    said = settings(run.settings)
    return [("Settings", run.settings.label), ("In words", said), *numbers(metrics.summary(run))]


def glossary(terms: Sequence[str]) -> list[tuple[str, str]]:
    """Terms and what they mean, in the order given. Raises KeyError where one is not in the glossary."""
    return [(term, GLOSSARY[term]) for term in terms]


def _forms(term: str) -> str:
    """A pattern of a term, its plural and its past, with or without hyphens: policies, missed, prefetch."""
    stem = re.escape(term[:-1] if term.endswith("y") else term).replace(r"\-", "-?")
    return rf"{stem}(?:y|ies)" if term.endswith("y") else rf"{stem}(?:s|es|t?ed)?"


_TOLD = {  # names that a chart or a menu may show, and what each means
    **{name: one.text.partition("\n")[0] for name, one in PREDICTORS.items()},
    **{name: one.text.partition("\n")[0] for name, one in POLICIES.items()},
    **GLOSSARY,
}
_BY_LENGTH = sorted(_TOLD, key=len, reverse=True)  # so that "hit ratio" is found before "hit"
_TERMS = re.compile("|".join(rf"\b({_forms(term)})\b" for term in _BY_LENGTH), re.IGNORECASE)


def terms_in(*texts: str) -> list[str]:
    """Terms in these texts, singular or plural, each once: the glossary's, policies and predictors."""
    found = (
        _BY_LENGTH[match.lastindex - 1]
        for text in texts
        for match in _TERMS.finditer(text)
        if match.lastindex
    )
    return list(dict.fromkeys(found))


@lru_cache(4_096)
def tooltip(*texts: str, more: str = "") -> str | None:
    """What the terms in these texts mean, as Markdown for a tooltip; `more`, plain Markdown, stands before
    them. None where there is nothing to say.
    """
    told = [f"**{term}**: {_TOLD[term]}" for term in terms_in(*texts)]
    return "\n\n".join([*([more] if more else []), *told]) or None

"""What a run gave, in words: rows of (name, text), and the difference of two runs."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict

from moeviz.amounts import memory, milliseconds, percent, points, size, speed
from moeviz.core.run import Run
from moeviz.core.settings import Settings
from moeviz.numbers import metrics
from moeviz.numbers.differences import Pair
from moeviz.numbers.metrics import Counts, MissKinds, Moved, Summary
from moeviz.numbers.timing import Timed
from moeviz.words.names import label, policy_name
from moeviz.words.names import settings as in_words
from moeviz.words.plain import lines
from moeviz.words.terms import GLOSSARY
from moeviz.words.tiers import lossless, tier_row

MISSES = "Misses of the whole run"


def per_second(times: Timed | None) -> str:
    """Tokens per second of decode."""
    return speed(times.tokens_per_second if times else None)


def counted(found: Counts) -> str:
    """How many accesses hit."""
    late = f", {found.late_hits:,} came late" if found.late_hits else ""
    return f"{percent(found.hit_ratio)} of {found.accesses:,} accesses hit{late}, {found.misses:,} missed"


def misses(kinds: MissKinds) -> str:
    """Why experts were not there, by the kinds that occurred."""
    return ", ".join(f"{count:,} {kind}" for kind, count in asdict(kinds).items() if count) or "none"


def moved(found: Moved) -> str:
    """What went over the link."""
    guessed = found.prefetch_useful or found.prefetch_wasted
    parts = f", guesses {size(found.prefetch_useful)} useful and {size(found.prefetch_wasted)} wasted"
    return f"on demand {size(found.demand)}" + (parts if guessed else "")


def gap(captured: float, typed: bool = False) -> str:
    """How much of what is possible a policy gets, by `metrics.gap_captured`. `typed` as in `numbers`."""
    lru, belady = policy_name("lru", typed), policy_name("belady", typed)
    if captured < 0:
        return f"none: fewer hits than {lru}, by {percent(-captured, 0)} of what {belady} has more"
    return f"{percent(captured, 0)} of the hits that {belady} has more than {lru}"


def beyond_hits(several: Sequence[tuple[str, float | None, float | None]]) -> str:
    """What a hit ratio does not say, of several caches: the name of each, its part of whole tokens, and how
    much of what is possible it gets; None where there is no such number. Empty where there is none at all.
    """
    lru, belady = policy_name("lru"), policy_name("belady")
    whole = [f"{name} {percent(part)}" for name, part, _ in several if part is not None]
    gaps = [
        f"{name} {percent(captured, 0)}" if captured >= 0 else f"{name} none, it hits less than {lru}"
        for name, _, captured in several
        if captured is not None
    ]
    said = [
        (f"Whole-token hits, of decoded tokens: {', '.join(whole)}.", whole),
        (f"Gap captured, of what {belady} hits more than {lru}: {', '.join(gaps)}.", gaps),
    ]
    return " ".join(sentence for sentence, parts in said if parts)


def numbers(
    found: Summary,
    bound: float | None = None,
    rule: str = "pinned",
    captured: float | None = None,
    typed: bool = False,
) -> list[tuple[str, str]]:
    """The numbers that people ask for first, (name, text) each.

    `bound`: belady's hit ratio under the run's `rule`, None where it is not known or no bound. `captured`:
    how much of what is possible the policy gets, None where that is not known or says nothing. `typed`: for a
    terminal, where policies are called as they are typed.
    """
    rows = [(f"Hit ratio of {found.phase}", counted(found.main))]
    if found.phase == "decode" and found.prefill.accesses:
        rows.append(("Hit ratio of prefill", counted(found.prefill)))
    if bound is not None:
        rows.append(
            (
                "Bound (replayed)",
                f"{percent(bound)} by {policy_name('belady', typed)}, which knows the future, "
                "without pre-fetching" + ("" if rule == "pinned" else f", under the rule {rule}"),
            )
        )
    if captured is not None:
        rows.append(("Gap captured (replayed)", f"{gap(captured, typed)}, without pre-fetching"))
    if found.served.pass_ratio is not None:
        whole = f"{percent(found.served.pass_ratio)} of the tokens found every expert of every layer"
        rows.append(("Whole-token hits", whole))
    rows += [(MISSES, misses(found.miss_kinds)), ("Evictions", f"{found.evictions:,}")]
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
        rows.append(("Slow tier", tier_row(found.tier)))
    return rows


def report(
    settings: Settings,
    found: Summary,
    same: bool | None = None,
    bound: float | None = None,
    captured: float | None = None,
) -> str:
    """A run for a terminal, a line a number; under the misses what each kind that occurred means. `bound` and
    `captured` as in `numbers`.
    """
    rows = [("Settings", settings.label)]
    for name, text in numbers(found, bound, settings.rule, captured, typed=True):
        rows.append((name, text))
        if name == MISSES:
            kinds = [kind for kind, count in asdict(found.miss_kinds).items() if count]
            rows += [(f"  {kind}", GLOSSARY[kind].removeprefix("Kind of miss: ")) for kind in kinds]
    if same is not None:
        rows.append(("Logits", lossless(same)))
    return lines(rows)


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


def about(run: Run, typed: bool = False) -> list[tuple[str, str]]:
    """A run in its most asked numbers, for a notebook's cell or a file's listing. `typed` as in `numbers`."""
    rows = [("Settings", label(run.settings, typed)), ("In words", in_words(run.settings, typed))]
    return [*rows, *numbers(metrics.summary(run), typed=typed)]

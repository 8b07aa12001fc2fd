"""Which of several settings is better, and what the repeats of a measurement allow to say."""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np

from moeviz.amounts import many, memory, milliseconds, percent, points, speed
from moeviz.core.run import HIT, Run
from moeviz.core.settings import Settings
from moeviz.core.trace import DECODE, Trace
from moeviz.numbers import metrics
from moeviz.numbers.differences import Interval, bootstrap, gains, speed_ratio
from moeviz.numbers.medians import Repeated
from moeviz.numbers.metrics import Counts
from moeviz.numbers.subject import Change
from moeviz.numbers.timing import Timed
from moeviz.words.names import label, setting_names
from moeviz.words.results import counted

SUBJECTS = 3  # that one sentence can hold
SAME_TIME = 0.01  # modelled times that are no further apart are shown as equal
SAME = 5e-4  # hit ratios that differ by less are shown as equal


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
    whole += f" over {_text(found)}"
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


def _text(of: Trace) -> str:
    """How long a text is, as the stage numbers its tokens: those after the prompt, which is token 0."""
    decoded = int((of.phase == DECODE).sum())
    if len(of.sequences()) > 1 or not 0 < decoded < of.tokens:
        return f"all {many(of.tokens, 'token')}"
    return f"the prompt and {many(decoded, 'token')}"


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
    if not _as_drawn(found, a, b):
        return (
            f"speed: no clear difference; {second} is {_faster(found.middle)} in the median pair, but not by "
            "the medians of each that are drawn here"
        )
    return (
        f"speed: {second} is {_faster(found.middle)} in the median pair ({_from_to(found)} of the other's "
        "speed)"
    )


def _as_drawn(found: Interval, a: Repeated, b: Repeated) -> bool:
    """Whether the medians of each say of the faster what the rounds say."""
    drawn, other = ((one.median.times and one.median.times.tokens_per_second) or 0.0 for one in (b, a))
    return (drawn > other) is (found.middle > 1)


def why_slower(first: str, a: Repeated, second: str, b: Repeated) -> str:
    """Why the one that hits more is slower all the same: what a forward pass of decode spends where. Empty
    where it is not slower, or repeats do not allow to say so.
    """
    more, less = (first, a.median), (second, b.median)
    found, lead = speed_ratio(a, b), (less[1].main.hit_ratio or 0.0) - (more[1].main.hit_ratio or 0.0)
    if found is None or found.low is None or found.high is None or not _as_drawn(found, a, b):
        return ""
    slower = found.low > 1
    if lead > 0:
        more, less, slower = less, more, found.high < 1
    (name, its), (other, others) = more, less
    if abs(lead) < SAME or not slower or its.times is None or others.times is None:
        return ""
    times, theirs = _spent(its.times), _spent(others.times)
    waits, computes, rest = (
        f"{milliseconds(one)} ({milliseconds(two)})" for one, two in zip(times, theirs, strict=True)
    )
    said = (
        f"{name} hits more and is slower. A pass of it (in brackets {other}) waits {waits} for copies, "
        f"computes experts for {computes} and takes {rest} for the rest."
    )
    if its.ledger.wasted:
        count = f"{its.ledger.wasted:,} of {its.ledger.issued:,}"
        said += f" Of its guesses, prompt included, {count} brought nobody who was needed."
    return said


def _spent(times: Timed) -> tuple[float, float, float]:
    """Milliseconds of the median pass: waiting, experts' compute, and the rest of it."""
    waits, computes = times.stall_ms_per_token or 0.0, times.compute_ms_per_token or 0.0
    return waits, computes, max((times.tpot_ms_median or 0.0) - waits - computes, 0.0)


def _faster(ratio: float) -> str:
    change = abs(ratio - 1)
    return f"{change:{'.0%' if change >= 0.01 else '.1%'}} {'faster' if ratio > 1 else 'slower'}"


def _from_to(found: Interval) -> str:
    return f"{found.low:.2f} to {found.high:.2f}"


def comparison_verdict(measured: Sequence[tuple[Settings, Repeated]], typed: bool = False) -> str:
    """The sentence under a comparison: the cache that hits most and the first other one, in the order in
    which they were measured, so that it says of the speed of the second what the stage says. Where more hits
    were slower it says why. `typed`: for a terminal, with settings called as in the rows of its table.
    """
    caches = [(one, found) for one, found in measured if not one.baseline]
    if not caches:
        return "No cache was compared, only baselines."
    best, found = max(caches, key=lambda pair: pair[1].median.main.hit_ratio or 0.0)
    decoded = found.median.decoded
    of_tokens = f"Over the {many(decoded, 'decoded token')}: " if decoded else "Over the prompt: "
    others = [(one, other) for one, other in caches if one is not best]
    if not others:
        return f"{of_tokens}{label(best, typed)}: {counted(found.median.main)}."
    (first, a), (second, b) = (pair for pair in caches if pair[0] in (best, others[0][0]))
    names = [label(first, typed), label(second, typed)] if typed else setting_names([first, second])
    said = of_tokens + verdict(names[0], a, names[1], b)
    return f"{said} {why_slower(names[0], a, names[1], b)}".rstrip()


def worth_in_time(with_ms: float, without_ms: float, whose: str, timed: bool = True) -> str:
    """Whether pre-fetching saved time, by the cost model's ms per output token; empty where nothing was
    decoded. `whose`: the costs; `timed`: whether they are of this model.
    """
    if not timed:
        return (
            "This model was not timed, so that nothing is said of what its guesses save; What if tells times "
            "by the size of an expert and a machine."
        )
    if math.isnan(with_ms) or math.isnan(without_ms):
        return ""
    change = with_ms / without_ms - 1
    verdict = f"it saves {-change:.0%}" if change < 0 else f"it costs {change:.0%} more"
    if abs(change) < SAME_TIME:
        verdict = "no difference"
    return (
        f"Worth it in time, as modelled like the break-even with the costs of {whose}: "
        f"{milliseconds(with_ms)} a token with these guesses, {milliseconds(without_ms)} without: {verdict}."
    )


def best_value(measured: Sequence[tuple[Settings, Repeated]], typed: bool = False) -> str:
    """The cache that gains most speed over copying on demand, for each byte of fast memory, and those that
    the spread of the rounds does not tell from it; empty where that is not known. `typed` as in
    `comparison_verdict`.
    """
    floor = next((found for one, found in measured if one.baseline == "on-demand"), None)
    caches = [(one, found) for one, found in measured if not one.baseline]
    gained = [
        (float(np.median(each)), one, each, found.median.fast_tier_bytes)
        for one, found in caches
        if floor is not None and (each := gains(floor, found))
    ]
    if not gained:
        return ""
    gain, best, each, held = max(gained, key=lambda one: one[0])
    if gain <= 0:
        return "Best value for memory: none; copying on demand is as fast."
    if not _clear(each):
        return "Best value for memory: none; copying on demand is as fast, within the spread of the rounds."
    alike = [
        label(one, typed)
        for _, one, others, _ in gained
        if one is not best and not _clear([a - b for a, b in zip(each, others, strict=False)])
    ]
    said = (
        f"Best value for memory: {label(best, typed)}, {speed(gain * 100 * 2**20)} more than on demand for "
        f"each 100 MiB of its {memory(held)} of fast memory."
    )
    return said + (f" Not outside the spread: {', '.join(alike)}." if alike else "")


def _clear(apart: Sequence[float]) -> bool:
    """Whether differences, one a round, are on one side of 0; one alone has no spread to judge by."""
    found = bootstrap(apart)
    return found.low is None or found.high is None or not found.low <= 0 <= found.high

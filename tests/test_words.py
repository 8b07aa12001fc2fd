"""Words for people: the sentences say what the numbers are, and claim nothing beyond them."""

from __future__ import annotations

from dataclasses import replace

import pytest
from conftest import random_trace
from test_metrics import timed

from moeviz import words
from moeviz.core.replay import replay, served
from moeviz.core.run import Tier
from moeviz.core.settings import Settings
from moeviz.core.synthetic import synthetic
from moeviz.core.trace import DECODE
from moeviz.numbers import medians, metrics
from moeviz.numbers.metrics import Counts


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        (words.tier(None), ""),
        (
            words.tier(Tier("disk", 0.9, 0.87, True)),
            "Slow tier disk, past the page cache: 0.90 ms per expert, 0.87 GB/s.",
        ),
        (words.counted(Counts(10, 5, 2, 3)), "50.0% of 10 accesses hit, 2 came late, 3 missed"),
    ],
)
def test_numbers_in_words(text: str, shown: str) -> None:
    assert text == shown


def test_what_a_hit_ratio_does_not_say() -> None:
    """Of lru and belady the gap captured is 0 and all by what it means, so nobody is told of it."""
    told = words.beyond_hits([("lru", 0.25, None), ("lfu", 0.5, 0.375), ("mru", 0.0, -0.1)])
    assert told == (
        "Whole-token hits, of decoded tokens: lru 25.0%, lfu 50.0%, mru 0.0%. "
        "Gap captured, of what Belady hits more than LRU: lfu 38%, mru none, it hits less than LRU."
    )
    assert words.beyond_hits([("lru", None, None)]) == ""
    assert {"whole-token hit", "gap captured"} <= set(words.terms_in(told))
    assert words.gap(0.375) == "38% of the hits that Belady has more than LRU"
    assert words.gap(0.375, typed=True) == "38% of the hits that belady has more than lru"
    assert words.gap(-0.1, typed=True) == "none: fewer hits than lru, by 10% of what belady has more"


def test_a_verdict_says_points_and_claims_speed_only_outside_the_spread() -> None:
    run = replay(random_trace(1, tokens=60), Settings("lru", 3))
    other = replay(random_trace(1, tokens=60), Settings("belady", 3))
    more = words.percent(
        (metrics.counts(other, 1).hit_ratio or 0) - (metrics.counts(run, 1).hit_ratio or 0)
    ).removesuffix("%")
    slow = medians.repeated([timed(run, wall=wall) for wall in (10_000_000, 12_000_000, 11_000_000)])
    same = medians.repeated([timed(other, wall=wall) for wall in (11_000_000, 11_500_000, 11_000_000)])
    fast = medians.repeated([timed(other, wall=wall) for wall in (5_000_000, 6_000_000, 5_500_000)])
    assert words.verdict("lru", slow, "belady", same) == (
        f"belady hits {more} points more than lru; speed: no difference outside the spread (belady at "
        "0.91 to 1.04 of the other's speed)."
    )
    assert "speed: belady is 100% faster in the median pair (2.00 to 2.00" in words.verdict(
        "lru", slow, "belady", fast
    )
    seven = [[19, 29, 19, 27, 30, 16, 23], [18, 28, 18, 26, 29, 25, 22]]  # six of the rounds are faster
    a, b = (medians.repeated([timed(run, wall=ms * 1_000_000) for ms in walls]) for walls in seven)
    assert "no clear difference" in words.verdict("lru", a, "again", b)  # but its median bar is the slower
    once = medians.repeated([timed(run)])
    assert "measured once" in words.verdict("lru", once, "lru again", once)
    assert "lru and lru again hit alike" in words.verdict("lru", once, "lru again", once)
    assert "speed: not measured" in words.verdict(
        "a", medians.repeated([run]), "b", medians.repeated([other])
    )


def test_a_comparison_says_of_which_tokens_it_speaks() -> None:
    trace = random_trace(1, tokens=60)
    runs = [timed(replay(trace, Settings(name, 3))) for name in ("lru", "lfu")]
    decoded = int((trace.phase == DECODE).sum())
    found = [(run.settings, medians.repeated([run])) for run in runs]
    assert words.comparison_verdict(found).startswith(f"Over the {decoded} decoded tokens: ")
    assert f" over the prompt and {decoded} tokens" in words.hit_verdict(trace, runs, [])
    made = synthetic(20, 2, 8, 2)  # without a prompt
    runs = [replay(made, Settings(policy, 3)) for policy in ("lru", "lfu")]
    assert " over all 20 tokens" in words.hit_verdict(made, runs, [])


def test_a_comparison_says_why_more_hits_were_slower() -> None:
    trace = random_trace(1, tokens=60)

    def three(settings: Settings, wall: int, stall: int) -> tuple[Settings, medians.Repeated]:
        run = replace(replay(trace, settings), expert_bytes=1_000_000)
        return settings, medians.repeated([timed(run, wall + more, stall) for more in (0, 1_000, 2_000)])

    quick, slow = (10_000_000, 500_000), (20_000_000, 900_000)
    lru, best = Settings("lru", 3), Settings("belady", 3)
    said = words.comparison_verdict([three(lru, *quick), three(best, *slow)])
    assert (
        "Belady hits more and is slower. A pass of it (in brackets LRU) waits 2.70 ms (1.50 ms) for copies, "
        "computes experts for 0.60 ms (0.60 ms) and takes 16.7 ms (7.90 ms) for the rest."
    ) in said
    guessing = Settings("lru", 3, prefetch="transition")
    told = words.comparison_verdict([three(guessing, *slow), three(lru, *quick)], typed=True)
    ledger = metrics.summary(replay(trace, guessing)).ledger
    assert "hits more and is slower" in told
    guesses = f"Of its guesses, prompt included, {ledger.wasted} of {ledger.issued} brought nobody"
    assert told.endswith(f" {guesses} who was needed.")
    for a, b in ((slow, quick), (quick, quick)):
        assert "and is slower" not in words.comparison_verdict([three(lru, *a), three(best, *b)])
    seven = (
        [18, 28, 18, 26, 29, 25, 22],
        [19, 29, 19, 27, 30, 16, 23],
    )  # slower in six rounds, not in median
    found = [
        (one, medians.repeated([timed(replay(trace, one), wall=ms * 1_000_000) for ms in walls]))
        for one, walls in zip((lru, best), seven, strict=True)
    ]
    assert "no clear difference" in words.comparison_verdict(found)
    assert "and is slower" not in words.comparison_verdict(found)


def test_whether_guesses_are_worth_it_in_time_is_said_both_ways() -> None:
    assert words.worth_in_time(9.0, 10.0, "its own run").endswith(
        "9.00 ms a token with these guesses, 10.0 ms without: it saves 10%."
    )
    assert words.worth_in_time(12.0, 10.0, "its own run").endswith("it costs 20% more.")
    assert words.worth_in_time(10.0, 10.01, "its own run").endswith("no difference.")
    assert words.worth_in_time(float("nan"), 10.0, "its own run") == ""


def test_the_best_value_is_speed_gained_for_memory() -> None:
    trace = random_trace(1, tokens=60)

    def measured(settings: Settings, wall: int) -> tuple[Settings, medians.Repeated]:
        run = timed(replay(trace, settings), wall=wall)
        return settings, medians.repeated([replace(run, expert_bytes=1_000_000)])

    demand = measured(Settings(baseline="on-demand"), 40_000_000)
    few = measured(Settings("lru", 3), 20_000_000)
    many = measured(Settings("lru", 8), 18_000_000)
    assert "Best value for memory: LRU, 3 slots, 291 tokens/s more" in words.best_value([demand, many, few])
    assert "memory: lru, 3 slots, 291" in words.best_value([demand, many, few], typed=True)
    assert words.best_value([few, many]) == ""  # nothing to gain over
    assert "none" in words.best_value([demand, measured(Settings("lru", 3), 50_000_000)])


def test_no_best_value_is_named_that_the_spread_of_the_rounds_does_not_bear_out() -> None:
    trace = random_trace(1, tokens=60)

    def measured(settings: Settings, *walls: int) -> tuple[Settings, medians.Repeated]:
        runs = [timed(replay(trace, settings), wall=wall) for wall in walls]
        return settings, medians.repeated([replace(run, expert_bytes=1_000_000) for run in runs])

    demand = measured(Settings(baseline="on-demand"), 40_000_000, 41_000_000, 39_000_000)
    noise = measured(Settings("lru", 3), 39_000_000, 20_000_000, 60_000_000)
    assert words.best_value([demand, noise]).endswith("as fast, within the spread of the rounds.")
    two = [
        measured(Settings("lru", 3), 20_000_000, 21_000_000, 22_000_000),
        measured(Settings("lfu", 3), 21_000_000, 20_000_000, 22_500_000),
        measured(Settings("lru", 8), 20_000_000, 21_000_000, 22_000_000),  # as fast, for more memory
    ]
    said = words.best_value([demand, *two])
    assert "Best value for memory: LRU, 3 slots, " in said
    assert said.endswith(" Not outside the spread: LFU (counts kept), 3 slots.")


def test_a_policy_has_one_name_wherever_people_read() -> None:
    assert words.policy_name("lfu") == "LFU (counts kept)"
    assert words.policy_name("/home/me/mru.py:mru") == "mru.py:mru"
    assert words.prefetch_name("/home/me/mine.py:same-again") == "pre-fetch: mine.py:same-again"
    assert words.label(Settings("lfu", 1, prefetch="next-gate")) == "LFU (counts kept), 1 slot, next-gate"
    assert words.label(Settings("lfu-aged", 6)) == "LFU (aged, 64 tokens), 6 slots"
    assert words.label(Settings(slots=1_200, scope="model", warm="first")).startswith(
        "LRU, 1,200 slots in all, "
    )
    assert words.label(Settings(budget=3 * 2**30)) == "LRU, 3 GiB"
    assert words.label(Settings(baseline="on-demand")) == "on-demand"


def test_one_output_calls_a_policy_by_one_name() -> None:
    """In a terminal as it is typed and as its tables do, elsewhere by its name."""
    settings = [Settings("lfu-aged", 4), Settings("lru", 4)]
    runs = [replay(random_trace(1, tokens=60), one) for one in settings]
    found = [(run.settings, medians.repeated([run])) for run in runs]
    said = words.comparison_verdict(found, typed=True)
    assert "lfu-aged (64 tokens), 4 slots" in said
    assert "lru, 4 slots" in said
    assert "LFU (aged) " in words.comparison_verdict(found)
    for typed, names in ((True, ("lfu-aged", "belady", "lru")), (False, ("LFU (aged", "Belady", "LRU"))):
        summary = metrics.summary(runs[0])
        told = str(words.about(runs[0], typed) + words.numbers(summary, 0.5, captured=0.4, typed=typed))
        others = ("belady", "lfu-aged", "lru") if not typed else ("LFU", "Belady", "LRU")
        assert all(name in told for name in names)
        assert not any(name in told for name in others)
    assert "by belady" in words.report(settings[0], summary, bound=0.5)


@pytest.mark.parametrize(
    ("settings", "words_"),
    [
        (Settings("lfu", 3), "LFU (counts kept) with 3 slots in each MoE layer"),
        (Settings(slots=24, scope="model"), "one pool for all layers"),
        (Settings(baseline="resident"), "every expert in the fast tier from the start"),
        (
            Settings(prefetch="next-gate", lookahead=2, threshold=0.5),
            "until their probabilities reach 0.5, 2 layers",
        ),
        (Settings(warm="first"), "warm start: first"),
    ],
)
def test_settings_in_words(settings: Settings, words_: str) -> None:
    assert words_ in words.settings(settings)


def test_the_glossary_is_one_sentence_a_term() -> None:
    for term, sentence in words.GLOSSARY.items():
        assert sentence[0].isupper(), term
        assert sentence.endswith("."), term
        assert len(sentence) <= 160, term


def test_a_pass_is_called_as_on_the_stage() -> None:
    trace = random_trace(1, tokens=8, prompt=3)
    names = words.passes_of(trace)
    assert names == ["the prompt", "token 1", "token 2", "token 3", "token 4", "token 5"]
    assert words.passes_of(replay(trace, Settings("lru", 3))) == names
    assert [words.from_to(names[a:b]) for a, b in ((2, 5), (0, 3), (1, 2))] == [
        "tokens 2 to 4",
        "the prompt to token 2",
        "token 1",
    ]
    many = served(trace, Settings("lru", 3, rule="batch:2"))
    assert words.passes_of(many)[1] == "pass 1"


def test_who_is_calibrated_on_the_trace_itself_is_said() -> None:
    told = [Settings(name, 4, calibration=of) for name, of in (("static", "itself"), ("lru", ""))]
    said = "static is calibrated on this very trace: the best that fixed frequencies can do."
    assert words.calibrated_on_itself(told) == said
    assert words.calibrated_on_itself(told[1:]) == ""
    assert words.calibrated_on_itself([Settings("lru", 4, warm="calibrated", calibration="itself")]) == (
        "LRU is calibrated on this very trace."
    )

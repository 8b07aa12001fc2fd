"""A paced link: as slow as it was asked to be, and said so wherever the run goes."""

from __future__ import annotations

import itertools
import threading
import time
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch

from moeviz import words
from moeviz.core.cache import Load
from moeviz.core.machines import Machine, find
from moeviz.core.replay import replay
from moeviz.core.settings import Settings
from moeviz.engine import link, measure
from moeviz.engine.aligned import aligned
from moeviz.engine.loader import Loaded, load
from moeviz.engine.session import Options
from moeviz.errors import ModelError, SettingsError
from moeviz.files import moetrace

GREEDY = Options(max_new_tokens=4, temperature=0.0, stop_at_end=False)


@pytest.fixture(scope="module")
def model(tiny_model: Callable[[str], Path]) -> Loaded:
    return load(tiny_model("mixtral"), tier="host", device="cpu")


def test_every_copy_takes_at_least_as_long_as_on_the_link_that_was_asked_for(
    model: Loaded, tmp_path: Path
) -> None:
    asked = find("0.01,0.5")
    assert asked is not None
    trace, run = measure.record(measure.paced(model, "0.01,0.5"), "In it", Settings(slots=3), GREEDY)
    assert run.times is not None
    took = run.times.load_end - run.times.load_start
    assert len(took) > 0
    assert (took >= asked.copy_ms(model.store.layout.expert_bytes) * 1e6).all()
    assert replay(trace, run.settings).same_decisions(run)
    path = tmp_path / "paced.moetrace"
    moetrace.save(path, trace, run)
    kept = moetrace.load(path)[1]
    assert kept is not None
    assert kept.tier is not None
    assert kept.tier.pace == asked
    assert kept.tier.latency_ms >= asked.copy_ms(model.store.layout.expert_bytes)


def test_a_link_that_is_not_paced_says_nothing_of_a_pace(model: Loaded) -> None:
    assert measure.paced(model, "") is model
    slow = measure.paced(model, "SD card")
    assert slow.tier.pace == find("SD card")
    again = measure.paced(slow, "")
    assert again.tier.pace is None
    assert "pace" not in again.tier.to_dict()


def test_waiting_ends_when_it_is_due_and_not_before() -> None:
    for wait in (0, 20_000, 300_000, 2_000_000):
        due = time.perf_counter_ns() + wait
        link.wait_until(due)
        assert time.perf_counter_ns() >= due


@pytest.fixture
def slow() -> Machine:
    found = find("0.001,1")  # 15 ms a copy
    assert found is not None
    return found


def test_an_expert_is_there_when_the_link_would_have_brought_it_whenever_the_thread_wakes_up(
    model: Loaded, slow: Machine, monkeypatch: pytest.MonkeyPatch
) -> None:
    asleep = threading.Event()
    monkeypatch.setattr(link.PacedLink, "_settle", lambda self, ticket: asleep.wait())
    slots = aligned(1, model.store.layout.record_bytes)
    own = link.PacedLink(model.store, slow)
    ticket = own.submit(Load(0, 5, 0, (-1, -1), 0, False), slots[0])
    while ticket.state != "done":  # its bytes have been moved
        asleep.wait(0.001)
    before, late, after = time.perf_counter_ns(), own.is_late(slots[0]), time.perf_counter_ns()
    assert before < ticket.end if late else after >= ticket.end
    own.wait(slots[0])
    assert not own.is_late(slots[0])
    assert ticket.end - ticket.start >= slow.copy_ms(model.store.layout.link_bytes) * 1e6
    asleep.set()
    own.close()


def test_copies_count_one_after_the_other_and_only_late_bytes_make_one_longer(
    model: Loaded, slow: Machine
) -> None:
    least = round(slow.copy_ms(model.store.layout.link_bytes) * 1e6)
    own = link.PacedLink(model.store, slow)
    own.close()
    assert own._span(1_000, 1_000, 2_000, 2_000) == (1_000, 1_000 + least)
    # begun before the link is free: it counts from then on
    assert own._span(4_000, 5_000, 6_000, 6_000) == (1_000 + least, 1_000 + 2 * least)
    asked = 10 * least  # the link has been idle; bytes that come late, and are then unpacked
    late = asked + 3 * least
    assert own._span(asked, asked, late, late + 7) == (asked, late + 7)
    asked = 20 * least  # unpacking comes after the link, however soon the bytes were there
    assert own._span(asked, asked, asked + 5, asked + 12) == (asked, asked + least + 7)
    asked = 30 * least  # the thread wakes up late, but before they are due: it counts from when it was asked
    assert own._span(asked, asked + 50, asked + 60, asked + 60) == (asked, asked + least)
    asked = 40 * least  # and later than that: as much later as the bytes are there
    late = asked + 2 * least
    assert own._span(asked, late - 9, late, late) == (late - least, late)


def test_copies_are_told_one_after_the_other_however_late_compute_wakes_up(
    model: Loaded, monkeypatch: pytest.MonkeyPatch
) -> None:
    pace = find("1,0.5")
    assert pace is not None
    slots = aligned(3, model.store.layout.record_bytes)
    own = link.PacedLink(model.store, pace)
    wait_until = link.wait_until

    def too_late(due: int) -> None:
        wait_until(due + 1)
        with own._changed:
            own._changed.wait_for(lambda: not (own._copying or own._demand))

    monkeypatch.setattr(link, "wait_until", too_late)
    tickets = [own.submit(Load(0, n, n, (-1, -1), n, False), slots[n]) for n in range(3)]
    for slot in slots:
        own.wait(slot)
    own.close()
    for before, after in itertools.pairwise(tickets):
        assert before.end <= after.start
    assert tickets[-1].end - tickets[-1].start > own._least_ns  # nothing comes after it: told as it was


def test_one_tokens_small_experts_are_copied_by_who_needs_them_and_a_prompts_beside_it(
    model: Loaded, monkeypatch: pytest.MonkeyPatch
) -> None:
    made: list[tuple[bool, bool]] = []  # by the thread that computes, awaited
    copy = link.HostLink._copy

    def tell(self: link.HostLink, ticket: link.Ticket) -> None:
        made.append((threading.current_thread() is threading.main_thread(), ticket.awaited))
        copy(self, ticket)

    monkeypatch.setattr(link.HostLink, "_copy", tell)
    _, run = measure.record(model, "In it", Settings(slots=3), GREEDY)
    prompt = int((run.loads.event < len(model.layers)).sum())
    assert 0 < prompt < len(made)
    assert all(awaited for _, awaited in made[prompt:])
    assert any(by_compute for by_compute, _ in made[prompt:])  # the thread may still be awake of the prompt
    assert not all(awaited for _, awaited in made[:prompt])


def test_one_tokens_experts_are_computed_together_unless_a_copy_is_under_way_beside_them(
    model: Loaded, monkeypatch: pytest.MonkeyPatch
) -> None:
    counts: list[int] = []
    together = model.recipe.together
    assert together is not None

    class Counted(together):  # type: ignore[misc, valid-type]
        def __call__(self, experts: Sequence[Any], *given: torch.Tensor) -> Any:
            counts.append(len(experts))
            return super().__call__(experts, *given)

    counted = replace(model, recipe=replace(model.recipe, together=Counted))

    def run(one: Loaded, settings: Settings) -> tuple[set[int], tuple[int, ...]]:
        counts.clear()
        _, found = measure.record(one, "In it", settings, GREEDY)
        return set(counts), found.output_ids

    on_demand = Settings(baseline="on-demand")
    whole, expected = run(counted, on_demand)  # compute makes the copies itself
    assert whole == {model.k}
    assert run(measure.paced(counted, "1,0.5"), on_demand) == ({1}, expected)
    monkeypatch.setattr(link.HostLink, "is_late", lambda self, slot: True)  # the thread brings the guesses
    sizes, tokens = run(counted, Settings(slots=4, prefetch="next-gate"))
    assert 1 in sizes
    assert tokens == expected


def test_what_cannot_be_paced_is_one_message(model: Loaded) -> None:
    with pytest.raises(SettingsError, match="link 'tape' is not known"):
        measure.paced(model, "tape")
    with pytest.raises(ModelError, match="A paced link copies into host memory, but the fast tier is meta"):
        measure.paced(replace(model, device=torch.device("meta")), "SD card")


def test_a_link_that_the_tier_itself_does_not_reach_is_not_claimed(model: Loaded) -> None:
    fast = measure.paced(model, "10000")  # 14 kB in 1.4 ns
    assert words.pace(fast.tier) == "link paced to 10000 GB/s, 0 ms, which this tier does not reach"
    assert words.pace(measure.paced(model, "SD card").tier) == "link paced to SD card (0.1 GB/s, 0.25 ms)"
    assert words.pace(model.tier) == ""


def test_who_waits_for_a_copy_that_has_not_begun_makes_it(
    model: Loaded, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(link.HostLink, "_work", lambda self: None)  # a thread that is never awake in time
    slots = aligned(2, model.store.layout.record_bytes)
    own = link.HostLink(model.store)
    for slot, expert in enumerate((5, 6)):
        own.submit(Load(0, expert, slot, (-1, -1), slot, False), slots[slot])
    own.wait(slots[1])  # the second: what is before it in the queue comes first
    own.close()
    expected = aligned(1, model.store.layout.record_bytes)[0]
    for slot, expert in enumerate((5, 6)):
        model.store.read(0, expert, expected)
        assert torch.equal(slots[slot], expected)

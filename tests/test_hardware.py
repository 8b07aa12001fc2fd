"""The accelerator path without an accelerator: the bits of the CPU path, no race, one wait a layer."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from itertools import product
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from accelerator import Double

from moeviz import words
from moeviz.core.cache import Load
from moeviz.core.policies import POLICIES
from moeviz.core.predictors import PREDICTORS
from moeviz.core.replay import replay
from moeviz.core.run import Run, Tier
from moeviz.core.settings import Settings
from moeviz.core.trace import Trace
from moeviz.engine import exactness, measure
from moeviz.engine.link import DeviceLink, HostLink
from moeviz.engine.loader import Loaded, load
from moeviz.engine.serving import Serving
from moeviz.engine.session import Options
from moeviz.errors import ModelError, MoevizError

PROMPT = "How many experts?"
GREEDY = Options(max_new_tokens=4, temperature=0.0, stop_at_end=False)
TinyModel = Callable[[str], Path]
Seen = tuple[Trace, Run, exactness.Logits]


@pytest.fixture(scope="module", params=["disk", "host"])
def model(request: pytest.FixtureRequest, tiny_model: TinyModel) -> Loaded:
    return load(tiny_model("mixtral"), tier=request.param, device="cpu")


@pytest.fixture(scope="module")
def past(model: Loaded, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A trace of another prompt, to calibrate on."""
    path = tmp_path_factory.mktemp("past") / "past.moetrace"
    measure.record(model, "Another prompt", Settings(slots=4), GREEDY)[0].save(path)
    return path


def on_cpu(model: Loaded, settings: Settings, future: Trace | None = None) -> Seen:
    with exactness.logits_seen(model) as logits:
        return *measure.record(model, PROMPT, settings, GREEDY, future=future), logits


def on(double: Double, model: Loaded, settings: Settings, future: Trace | None = None) -> Seen:
    with exactness.logits_seen(model) as logits, double.computing():
        found = measure.record(replace(model, hardware=double), PROMPT, settings, GREEDY, future=future)
    assert double.unused == double.made, "an event is lost, and every run makes more of them"
    return *found, logits


def test_policies_and_prefetchers_give_the_bits_of_the_cpu_path(model: Loaded, past: Path) -> None:
    future, _, expected = on_cpu(model, Settings(slots=3))
    every = [Settings(policy, 3, prefetch=prefetch) for policy, prefetch in product(POLICIES, PREDICTORS)]
    every += [
        Settings(slots=7, scope="model", prefetch="next-gate", threshold=0.5),
        Settings(slots=4, prefetch="next-gate", lookahead=2, warm="first"),
        *(Settings(baseline=name) for name in ("resident", "on-demand", "whole-layer")),
    ]
    for settings in every:
        settings = replace(settings, calibration="" if settings.baseline else str(past))
        trace, run, logits = on(Double(), model, settings, future)
        assert logits == expected, settings.label
        assert replay(trace, settings).same_decisions(run), settings.label
        for field in ("experts", "weights", "guess", "guess_probability"):
            assert np.array_equal(getattr(trace, field), getattr(future, field)), (field, settings.label)


@pytest.mark.parametrize("double", [{"streams": 1}, {"pins": False}])
def test_what_a_backend_lacks_is_slower_and_said_and_as_right(model: Loaded, double: dict[str, Any]) -> None:
    made = Double(**double)
    settings = Settings(slots=3, prefetch="next-gate")
    assert on(made, model, settings)[2] == on_cpu(model, settings)[2]
    (note,) = made.notes
    assert "one stream" in note if "streams" in double else "can be pinned" in note


def test_what_padding_needs_is_computed_on_it_as_well(model: Loaded) -> None:
    prompts, settings = [PROMPT, "A"], Settings(slots=3, prefetch="next-gate")
    double = Double()
    with exactness.logits_seen(model) as expected, double.computing():  # torch folds a batch otherwise here
        measure.record(model, prompts, settings, GREEDY)
    with exactness.logits_seen(model) as logits, double.computing():
        trace, run = measure.record(replace(model, hardware=double), prompts, settings, GREEDY)
    assert logits == expected
    assert replay(trace, settings).same_decisions(run)
    assert double.unused == double.made


# what stands between compute and copies: who takes one of them out is told by wrong bits, or by a race


def forget_wait_event(patch: pytest.MonkeyPatch) -> None:
    patch.setattr(DeviceLink, "wait", HostLink.wait)


def forget_after(patch: pytest.MonkeyPatch) -> None:
    patch.setattr(DeviceLink, "_compute_so_far", HostLink._compute_so_far)


def forget_query(patch: pytest.MonkeyPatch) -> None:
    patch.setattr(DeviceLink, "_arrived", HostLink._arrived)


def forget_settle(patch: pytest.MonkeyPatch) -> None:
    patch.setattr(DeviceLink, "_settle", HostLink._settle)


MUTANTS = (forget_wait_event, forget_after, forget_query, forget_settle)


@pytest.mark.parametrize("forget", MUTANTS)
def test_whoever_takes_out_what_makes_copies_and_compute_wait_is_told(
    forget: Callable[[pytest.MonkeyPatch], None], model: Loaded, monkeypatch: pytest.MonkeyPatch
) -> None:
    settings = Settings(slots=3, prefetch="oracle")
    future, _, expected = on_cpu(model, Settings(slots=3))
    assert on(Double(slow=True), model, settings, future)[2] == expected
    forget(monkeypatch)

    def told() -> bool:
        try:
            return on(Double(slow=True), model, settings, future)[2] != expected
        except MoevizError:  # what was computed from a slot of NaN is no trace, or departs from the future
            return True
        except AssertionError as error:
            return "race" in str(error)

    if forget is forget_settle and model.tier.kind == "host":
        assert not told()  # a copy out of the slow tier itself has no buffer that could be filled too early
    else:
        assert any(told() for _ in range(8))  # a busy machine may keep the link's thread from being too early


def test_a_slot_is_not_overwritten_while_compute_is_held_back(
    model: Loaded, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Nothing but `after` keeps a copy from a slot that queued compute has yet to read."""
    first, second = Load(0, 1, 0, (-1, -1), 0, False), Load(0, 2, 0, (0, 1), 1, False)
    for kept in (True, False):
        double = Double()
        slot = double.slots(1, model.store.layout.record_bytes)[0]
        if not kept:
            forget_after(monkeypatch)
        link = double.link(model.store, None)
        link.submit(first, slot)
        link.wait(slot)
        with double.compute:
            slot.sum()  # queued, and from here on held back: the host does not wait for it
        link.submit(second, slot)
        if kept:
            link.wait(slot)
            assert double.compute.done == 0
        else:
            with pytest.raises(AssertionError, match="race"):
                link.wait(slot)
        link.close()


def test_a_pass_waits_once_a_layer_and_a_prompt_s_rows_go_up_at_once(
    model: Loaded, monkeypatch: pytest.MonkeyPatch
) -> None:
    counts: list[tuple[int, int]] = []  # of each pass: waits and uploads
    end_pass, hidden = Serving.end_pass, []

    for settings, guesses in (
        (Settings(slots=3, prefetch="next-gate"), True),
        (Settings(slots=3), True),
        (Settings(slots=3), False),
    ):
        double = Double()

        def count(self: Serving, *args: Any, double: Double = double) -> Any:
            record = end_pass(self, *args)
            counts.append((double.waits, double.uploads))
            double.waits = double.uploads = 0
            return record

        monkeypatch.setattr(Serving, "end_pass", count)
        counts.clear()
        with double.computing():
            options = replace(GREEDY, guesses=guesses)
            measure.record(replace(model, hardware=double), PROMPT, settings, options)
        hidden += double.hidden
        layers = len(model.layers)
        rest = 1 if guesses else 0  # what only the record needs
        prompt, decode = (layers + 1, layers + 1), (layers + 1 + rest, 1)  # 1: the token, which is chosen
        assert counts == [prompt, *[decode] * 3], settings.label  # and goes up
    assert hidden == []


def test_two_copies_are_in_flight_and_no_more(model: Loaded) -> None:
    double = Double(slow=True)
    on(double, model, Settings(slots=8, prefetch="frequency", width=6))
    assert double.copies.most == 2


def test_a_backend_without_events_is_refused_in_words() -> None:
    class Bare(Double):
        def event(self, timing: bool) -> Any:
            raise RuntimeError("Backend doesn't support events.")

    with pytest.raises(ModelError, match=r"has no events to wait for.*Choose cpu"):
        Bare()


def test_one_stream_is_said_where_the_stall_is_shown(model: Loaded) -> None:
    tier = replace(model.tier, overlaps=False)
    assert "no copy is hidden behind compute" in words.tier(tier)
    assert Tier.from_dict(tier.to_dict()) == tier
    assert "overlaps" not in model.tier.to_dict()
    assert "hidden" not in words.tier(model.tier)

"""A recorded run is believed only where it is what its own replay gives: every way of lying that we could
think of.
"""

from __future__ import annotations

import json
import struct
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
from safetensors.numpy import load as load_safetensors
from safetensors.numpy import save as save_safetensors

from moeviz.core.replay import replay
from moeviz.core.settings import Settings
from moeviz.errors import TraceError
from moeviz.files.moetrace import SAMPLES, from_bytes, load, to_bytes

TRACE, RUN = load(SAMPLES / "bible.moetrace")
assert RUN is not None
CONTENT = to_bytes(TRACE, RUN)


def lying(columns: dict[str, Any] | None = None, header: dict[str, Any] | None = None) -> bytes:
    """The sample's file with columns of its run, or fields of its run's header, changed."""
    (size,) = struct.unpack("<Q", CONTENT[:8])
    own = json.loads(json.loads(CONTENT[8 : 8 + size])["__metadata__"]["moetrace"])
    arrays = load_safetensors(CONTENT)
    for name, change in (columns or {}).items():
        array = arrays[f"run.{name}"].copy()
        arrays[f"run.{name}"] = array if change(array) is None else change(array)
    for name, value in (header or {}).items():
        own["run"][name] = own["run"][name] | value if isinstance(value, dict) else value
    return bytes(save_safetensors(arrays, {"moetrace": json.dumps(own)}))


def at(row: int, value: Any) -> Any:
    def change(array: np.ndarray) -> None:
        array[row] = value

    return change


def swap(first: int, second: int) -> Any:
    def change(array: np.ndarray) -> None:
        array[[first, second]] = array[[second, first]]

    return change


VICTIM = int(np.flatnonzero(RUN.loads.victim_expert >= 0)[0])
GUESS = int(np.flatnonzero(RUN.loads.speculative)[0])
HIT = int(np.flatnonzero(RUN.accesses.outcome == 0)[-1])
DEMANDED = int(np.flatnonzero(~RUN.loads.speculative)[0])
LIES: dict[str, tuple[dict[str, Any], dict[str, Any], str]] = {
    "a hit that was a miss": ({"accesses.outcome": at(HIT, 2)}, {}, "outcome contradicts the trace"),
    "all hits": ({"accesses.outcome": lambda a: a * 0}, {}, "outcome contradicts"),
    "another expert": ({"accesses.expert": at(0, 7)}, {}, "accesses.expert"),
    "an expert beyond the last": (
        {"accesses.expert": at(0, 8)},
        {},
        "accesses.expert holds a number outside 0 to 7",
    ),
    "an access of another event": ({"accesses.event": at(5, 0)}, {}, "accesses.event"),
    "events of one pass": ({"events.forward_pass": lambda a: a * 0}, {}, "events.forward_pass contradicts"),
    "layers in another order": ({"events.layer": swap(3, 4)}, {}, "events.layer"),
    "a slot beyond the last": ({"loads.slot": at(0, 4)}, {}, "loads.slot holds a number outside 0 to 3"),
    "a slot that is taken": ({"loads.slot": at(1, int(RUN.loads.slot[0]))}, {}, "loads.slot"),
    "another victim": (
        {"loads.victim_expert": at(VICTIM, (RUN.loads.victim_expert[VICTIM] + 1) % 8)},
        {},
        "victim_expert",
    ),
    "nobody left": (
        {"loads.victim_expert": at(VICTIM, -1), "loads.victim_layer": at(VICTIM, -1)},
        {},
        "victim_",
    ),
    "a victim of another layer": (
        {"loads.victim_layer": at(VICTIM, 7 - RUN.loads.victim_layer[VICTIM])},
        {},
        "victim_layer",
    ),
    "a guess that was a demand": ({"loads.speculative": at(GUESS, False)}, {}, "loads.speculative"),
    "a guess used or not": ({"loads.used": at(GUESS, not RUN.loads.used[GUESS])}, {}, "loads.used"),
    "an earlier load": ({"loads.event": at(40, 0)}, {}, "loads.event"),
    "dropped guesses": ({"events.dropped": at(9, 3)}, {}, "events.dropped"),
    "more tokens in a pass": ({"passes.tokens": at(3, 2)}, {}, "passes.tokens"),
    "a prefill that decodes": ({"passes.phase": at(0, 1)}, {}, "passes.phase is not the phase"),
    "someone there from the start": (
        {name: lambda a: np.zeros(1, a.dtype) for name in ("start.layer", "start.expert", "start.slot")},
        {},
        "start",
    ),
    "a late hit of who was never copied": ({"accesses.outcome": at(0, 1)}, {}, "outcome"),
    "a stall below 0": (
        {"times.event_stall": at(2, -5)},
        {},
        "times.event_stall holds a time that cannot be",
    ),
    "a copy that ends first": ({"times.load_end": at(2, 0)}, {}, "load_end is before load_start"),
    "a copy without an end": ({"times.load_start": at(GUESS, -1)}, {}, "began and did not end"),
    "a demand never copied": (
        {"times.load_start": at(DEMANDED, -1), "times.load_end": at(DEMANDED, -1)},
        {},
        "never copied",
    ),
    "events that go back": ({"times.event_start": swap(3, 60)}, {}, "event_start goes down"),
    "a time beyond all times": ({"times.pass_wall": at(0, 2**62)}, {}, "times.pass_wall"),
    "fewer times": ({"times.pass_wall": lambda a: a[:-1]}, {}, "times.pass_wall has not"),
    "another policy": ({}, {"settings": {"policy": "mru-none"}}, "policy"),
    "a policy that chooses otherwise": ({}, {"settings": {"policy": "random"}}, "contradicts|rows"),
    "more slots": ({}, {"settings": {"slots": 5}}, "contradicts|rows"),
    "slots beyond all experts": ({}, {"settings": {"slots": 99}}, "settings do not fit"),
    "no pre-fetching": ({}, {"settings": {"prefetch": "none"}}, "contradicts|rows"),
    "another model's shape": ({}, {"experts": 16}, "another shape"),
    "larger experts": ({}, {"expert_bytes": 10**400}, "expert_bytes"),
    "slightly larger experts": (
        {},
        {"expert_bytes": 1_179_649},
        "experts have 1179649 bytes, the trace's 1179648",
    ),
    "a faster tier than light": ({}, {"tier": {"latency_ms": float("inf")}}, "wrong type"),
    "a tier from which nothing comes": ({}, {"tier": {"gigabytes_per_second": 0.0}}, "wrong type"),
    "other words": ({}, {"output_ids": [1, 2, 3]}, "output_ids are not the tokens"),
}


@pytest.mark.parametrize("lie", LIES)
def test_a_run_that_contradicts_itself_or_its_trace_is_refused(lie: str) -> None:
    columns, header, words = LIES[lie]
    with pytest.raises(TraceError, match=words):
        from_bytes(lying(columns, header), "a.moetrace")


def test_the_truth_is_believed() -> None:
    trace, run = from_bytes(lying(), "a.moetrace")
    assert run is not None
    assert run.measured
    again = replay(trace, Settings("static", 4, calibration="itself"))
    assert from_bytes(to_bytes(trace, again))[1] is not None


@pytest.mark.parametrize("named", ["/etc/passwd", "../secret.moetrace", "notes.moecounts"])
def test_nothing_that_a_file_names_is_opened(named: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """The trace is read; its run, which needs another file, is left out and that is said."""
    from moeviz.files import library, moecounts

    for module, name in ((library, "named_trace"), (moecounts, "load")):
        monkeypatch.setattr(module, name, lambda path: pytest.fail(f"opened {path}"))
    trace, run = from_bytes(lying(header={"settings": {"policy": "static", "calibration": named}}))
    assert run is None
    assert "is not opened" in trace.notes[-1]


def test_half_a_character_is_refused() -> None:
    (size,) = struct.unpack("<Q", CONTENT[:8])
    own = json.loads(json.loads(CONTENT[8 : 8 + size])["__metadata__"]["moetrace"])
    for name in ("model", "prompt"):
        content = bytes(
            save_safetensors(load_safetensors(CONTENT), {"moetrace": json.dumps(own | {name: "\udfffx"})})
        )
        with pytest.raises(TraceError, match="lone surrogate"):
            from_bytes(content)


def test_a_run_without_times_has_no_late_hits() -> None:
    run = replay(TRACE, Settings(slots=4))
    outcome = run.accesses.outcome.copy()
    outcome[np.flatnonzero(outcome == 0)[0]] = 1
    with pytest.raises(TraceError, match="no times to tell them by"):
        from_bytes(to_bytes(TRACE, replace(run, accesses=replace(run.accesses, outcome=outcome))))

"""The trace and its file: what goes in comes out, and nothing invalid gets in."""

from __future__ import annotations

import json
import os
import struct
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from conftest import make_trace, random_trace
from hypothesis import given
from hypothesis import strategies as st
from safetensors.numpy import load as load_safetensors
from safetensors.numpy import save as save_safetensors

from moeviz.core.oracle import strongest
from moeviz.core.replay import replay
from moeviz.core.settings import Settings
from moeviz.core.trace import Trace
from moeviz.errors import TraceError
from moeviz.files import moetrace as module
from moeviz.files.moetrace import from_bytes, run_from_bytes, run_to_bytes, to_bytes, write_atomically
from moeviz.files.moetrace import load as load_file


@given(st.integers(0, 2**32 - 1), st.integers(1, 12), st.integers(1, 4), st.booleans())
def test_a_live_event_is_that_of_the_whole_trace(seed: int, tokens: int, k: int, weighed: bool) -> None:
    """Engine and replay say what an event needs in two ways: a pass at a time, and all at once."""
    rng = np.random.default_rng(seed)
    chosen = np.array([[rng.permutation(5)[:k] for _ in range(2)] for _ in range(tokens)], np.int16)
    for row in chosen.reshape(-1, k):  # some layers choose fewer, and then their last are -1
        row[int(rng.integers(1, k + 1)) :] = -1
    falling = -np.sort(-rng.integers(1, 4, chosen.shape), axis=2) / 4.0  # many are alike
    falling[chosen < 0] = 0
    trace = replace(
        make_trace(chosen.tolist(), 5, weights=falling),
        weights=falling.astype(np.float32) if weighed else None,
        forward_pass=np.sort(rng.integers(0, 4, tokens)).astype(np.int32),
    )
    by_rank = np.broadcast_to(np.arange(k, 0, -1.0), chosen.shape)  # where the router's weights are unknown
    weights = falling if weighed else by_rank
    live = [
        (step, layer, strongest(chosen[rows, layer].tolist(), weights[rows, layer].tolist()))
        for step, rows in enumerate(trace.passes())
        for layer in range(2)
    ]
    assert [(step, layer, list(need), list(need.values())) for step, layer, need in live] == list(
        trace.events()
    )


def same(a: Trace, b: Trace) -> bool:
    arrays = ("experts", "weights", "token_ids", "phase", "forward_pass", "guess")
    others = (
        "num_experts",
        "texts",
        "model",
        "revision",
        "layer_indices",
        "expert_bytes",
        "prompt",
        "seed",
        "recorded",
    )
    return all(np.array_equal(getattr(a, n), getattr(b, n)) for n in arrays) and all(
        getattr(a, n) == getattr(b, n) for n in others
    )


@given(seed=st.integers(0, 1_000), prompt=st.text(max_size=20), text=st.text(max_size=5))
def test_bytes_and_back(seed: int, prompt: str, text: str) -> None:
    plain = random_trace(seed, tokens=12)
    trace = replace(
        plain,
        prompt=prompt,
        texts=(text,) * 12,
        seed=seed,
        layer_indices=(1, 2, 3),
        recorded={"machine": text},
    )
    again, run = from_bytes(to_bytes(trace))
    assert same(trace, again)
    assert run is None


def test_a_recorded_run_travels_along(tmp_path: Path) -> None:
    trace = random_trace(1)
    run = replay(trace, Settings("lfu", 3, prefetch="next-gate", lookahead=2))
    trace.save(tmp_path / "a.moetrace", run)
    again, recorded = load_file(tmp_path / "a.moetrace")
    assert same(trace, again)
    assert recorded is not None
    assert recorded.settings == run.settings
    assert recorded.same_decisions(run)
    assert not recorded.measured


def changed(
    content: bytes, header: dict[str, Any] | None = None, tensors: dict[str, Any] | None = None
) -> bytes:
    """A trace file with fields of its header or tensors replaced; None takes one away."""
    (size,) = struct.unpack("<Q", content[:8])
    own = json.loads(json.loads(content[8 : 8 + size])["__metadata__"]["moetrace"])
    arrays = load_safetensors(content)
    for target, changes in ((own, header), (arrays, tensors)):
        for name, value in (changes or {}).items():
            target[name] = value
            if value is None:
                del target[name]
    return bytes(save_safetensors(arrays, {"moetrace": json.dumps(own)}))


GOOD = random_trace(0, tokens=10, layers=2, experts=6)


@pytest.mark.parametrize(
    ("header", "words"),
    [
        ({"format": "other"}, "does not name the format 'moetrace'"),
        ({"version": 99}, "version 99 of the format; this moeviz reads versions 1 and 2"),
        ({"version": True}, "version True"),
        ({"num_experts": "6"}, "num_experts is '6' in the header; expected int"),
        ({"num_experts": -1}, "expected a number from 0"),
        ({"num_experts": 4}, "experts holds . for token .* expected -1 to 3"),
        ({"num_experts": 10**6}, "1000000 num_experts; expected 1 to 4096"),
        ({"k": 3}, "k is 3 in the header, but experts has 2 choices"),
        ({"texts": ["a"]}, "texts has 1 entries; expected one for each of 10 tokens"),
        ({"texts": [1] * 10}, "expected a list of strings"),
        ({"layer_indices": [0]}, "layer_indices has 1 entries; expected 2"),
        ({"layer_indices": ["0", "1"]}, "expected a list of whole numbers"),
        ({"recorded": {"a": 1}}, "expected names and strings"),
        ({"prompt": None}, "prompt is None"),
        ({"run": {}}, "recorded run lacks or adds columns"),
    ],
)
def test_a_bad_header_is_refused_by_name(header: dict[str, Any], words: str) -> None:
    with pytest.raises(TraceError, match=words):
        from_bytes(changed(to_bytes(GOOD), header))


@pytest.mark.parametrize(
    ("tensors", "words"),
    [
        ({"experts": GOOD.experts.astype(np.int32)}, "experts is int32 with 3 dimensions; expected int16"),
        ({"experts": GOOD.experts[:, :, 0]}, "with 2 dimensions"),
        ({"experts": np.zeros_like(GOOD.experts)}, "names one expert twice for token 0 in layer 0"),
        ({"experts": GOOD.experts - 6}, "experts holds -"),
        ({"experts": GOOD.experts[:0]}, "the trace has 0 tokens"),
        ({"weights": GOOD.weights[:5]}, r"weights has shape \(5, 2, 2\); expected \(10, 2, 2\)"),
        (
            {"weights": np.full_like(GOOD.weights, np.nan)},
            "weights holds a value that is not a finite number",
        ),
        ({"phase": np.full(10, 2, np.uint8)}, "phase holds 2"),
        ({"phase": (np.arange(10) % 2).astype(np.uint8)}, "phase changes within a forward pass"),
        ({"forward_pass": np.arange(10, dtype=np.int32)[::-1].copy()}, "forward_pass goes down"),
        ({"forward_pass": np.arange(10, dtype=np.int32) - 1}, "forward_pass goes down"),
        ({"guess": np.full((10, 2, 9, 1), -1, np.int16), "guess_probability": None}, "at most 8 lookaheads"),
        ({"guess": np.full(GOOD.guess.shape, 6, np.int16)}, "guess holds 6"),
        ({"guess": GOOD.guess[:, :, :2]}, "guess_probability has shape"),
        ({"guess_probability": np.full(GOOD.guess.shape, 2, np.float16)}, "not from 0 to 1"),
        ({"phase": None}, "lacks phase"),
        ({"extra": np.zeros(1)}, "holds 'extra', which version 2"),
        ({"run.passes.phase": np.zeros(1, np.uint8)}, "header names no run"),
    ],
)
def test_a_bad_tensor_is_refused_by_name(tensors: dict[str, Any], words: str) -> None:
    with pytest.raises(TraceError, match=words):
        from_bytes(changed(to_bytes(GOOD), tensors=tensors))


@pytest.mark.parametrize(
    ("name", "value", "words"),
    [
        ("loads.expert", 77, "run.loads.expert holds a number outside 0 to 5"),
        ("accesses.outcome", 9, "run.accesses.outcome holds"),
        ("events.forward_pass", -1, "run.events.forward_pass"),
        ("loads.slot", -1, "run.loads.slot"),
    ],
)
def test_a_recorded_run_that_cannot_be_is_refused(name: str, value: int, words: str) -> None:
    run = replay(GOOD, Settings(slots=3))
    content = to_bytes(GOOD, run)
    array = run.columns()[name].copy()
    array[-1] = value
    with pytest.raises(TraceError, match=words):
        from_bytes(changed(content, tensors={"run." + name: array}))


def test_what_is_no_trace_is_refused() -> None:
    content = to_bytes(GOOD)
    for wrong, words in (
        (b"", "has 0 bytes and is no trace"),
        (content[:100], "only a part of a .moetrace file"),
        (content[:-5], "not a safetensors file"),
        (b"PK\x03\x04" + content[4:], "only a part of a .moetrace file"),
        (bytes(save_safetensors({"a": np.zeros(2)})), "no moetrace header"),
    ):
        with pytest.raises(TraceError, match=words):
            from_bytes(wrong)


def test_a_file_over_the_limit_is_refused_before_it_is_read(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "large.moetrace"
    GOOD.save(path)
    monkeypatch.setattr(module, "MAX_FILE_BYTES", 100)
    monkeypatch.setattr(Path, "read_bytes", lambda self: pytest.fail("read"))
    with pytest.raises(TraceError, match="a trace has at most 100"):
        load_file(path)


def test_writing_is_atomic(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "a.moetrace"
    write_atomically(path, b"old")

    def full(handle: int) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(OSError, match=rf"No space left on device: .*{path.name}"):
        write_atomically(path, b"new")
    assert path.read_bytes() == b"old"
    assert list(tmp_path.iterdir()) == [path]


@given(st.integers(0, 2**32))
def test_mutated_files_are_valid_or_refused(seed: int) -> None:
    """Never another exception, whatever the bytes."""
    rng = np.random.default_rng(seed)
    content = bytearray(to_bytes(GOOD, replay(GOOD, Settings(slots=3))))
    for _ in range(rng.integers(1, 6)):
        content[rng.integers(len(content))] = rng.integers(256)
    try:
        trace, _ = from_bytes(
            bytes(content[: len(content) - int(rng.integers(0, 3) == 0) * int(rng.integers(200))])
        )
    except TraceError:
        return
    replay(trace, Settings(slots=trace.k))


def test_a_run_travels_without_its_trace() -> None:
    run = replay(GOOD, Settings("lfu", slots=3))
    again = run_from_bytes(run_to_bytes(run))
    assert again.settings == run.settings
    assert again.same_decisions(run)
    assert len(run_to_bytes(run)) < len(to_bytes(GOOD, run))


@pytest.mark.parametrize("name", ["bible", "change-of-subject", "python-long"])
def test_files_of_the_first_version_are_read_with_their_runs(name: str) -> None:
    """The samples as they were before the second version of the format."""
    trace, run = load_file(Path(__file__).parent / "cases" / "version-1" / f"{name}.moetrace")
    assert run is not None
    assert run.measured
    assert run.same_decisions(replay(trace, run.settings))
    assert "".join(trace.texts)
    again, same = from_bytes(to_bytes(trace, run))
    assert again.digest == trace.digest
    assert same is not None
    assert same.same_decisions(run)
    assert same.times is not None
    assert run.times is not None
    assert (same.times.pass_wall == run.times.pass_wall).all()

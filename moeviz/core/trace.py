"""What the router chose: the `Trace`, and its file `*.moetrace`.

A trace belongs to a model and a prompt, not to any cache. The file is safetensors (nothing in it runs on load, and the format checks
every size) with a JSON header in its metadata. Readers check everything, name what is wrong, and repair nothing.

    trace = Trace.load("sample_traces/bible.moetrace")
"""

from __future__ import annotations

import hashlib
import json
import os
import struct
import tempfile
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property
from pathlib import Path
from typing import Any, TypeVar

import numpy as np
from numpy.typing import NDArray
from safetensors import SafetensorError
from safetensors.numpy import load as load_safetensors
from safetensors.numpy import save as save_safetensors

from moeviz.core.run import ModelFacts, PassRecord, Recorder, Run, RunError
from moeviz.core.settings import Settings

_T = TypeVar("_T", int, str)

FORMAT = "moetrace"
VERSION = 1
PREFILL, DECODE = 0, 1
MAX_FILE_BYTES = 500 * 2**20
MAX_TOKENS, MAX_LAYERS, MAX_EXPERTS, MAX_K = 2_000_000, 512, 4_096, 64
MAX_LOOKAHEAD = 8
RUN_PREFIX = "run."  # of the tensors of a recorded run in the same file

_TENSORS: dict[str, tuple[tuple[str, ...], int]] = {  # name -> allowed types, dimensions
    "experts": (("int16",), 3),
    "weights": (("float16", "float32"), 3),
    "token_ids": (("int32",), 1),
    "phase": (("uint8",), 1),
    "forward_pass": (("int32",), 1),
    "guess": (("int16",), 4),
    "guess_probability": (("float16",), 4),
}
_OPTIONAL = {"guess_probability"}


class TraceError(ValueError):
    """A trace that is not valid; the message names the field, what was found and what was expected."""


@dataclass(frozen=True, eq=False)
class Trace:
    """The router's choices for T tokens, L MoE layers, k chosen experts, D lookaheads, g guesses. Checked when made."""

    experts: NDArray[np.int16]  # [T, L, k] chosen experts, strongest first
    weights: NDArray[np.floating[Any]]  # [T, L, k] router weights
    token_ids: NDArray[np.int32]  # [T] the token that entered the model
    phase: NDArray[np.uint8]  # [T] 0 prefill, 1 decode
    forward_pass: NDArray[np.int32]  # [T] tokens of one forward pass share a number
    guess: NDArray[np.int16]  # [T, L, D, g] for layer l, made d + 1 layers earlier; -1 none
    num_experts: int  # E
    texts: tuple[str, ...]  # [T] the tokens as text
    model: str = ""  # id or folder name
    revision: str = ""
    layer_indices: tuple[int, ...] = ()  # of the MoE layers in the model; () where unknown
    expert_bytes: int = 0  # of one expert; 0 where unknown
    prompt: str = ""
    seed: int = 0
    recorded: dict[str, str] = field(default_factory=dict)  # versions, hardware, time
    guess_probability: NDArray[np.float16] | None = (
        None  # [T, L, D, g] softmax of the later router's logits; None where unknown
    )

    def __post_init__(self) -> None:
        _check_arrays(self)

    @cached_property
    def digest(self) -> str:
        """Tells traces apart by what they hold: equal for equal choices, guesses and texts, whatever the file's name."""
        found = hashlib.blake2b(
            repr((self.model, self.num_experts, self.expert_bytes, self.prompt, self.texts)).encode(),
            digest_size=16,
        )
        for name in _TENSORS:
            if (array := getattr(self, name)) is not None:
                found.update(repr((name, array.shape, str(array.dtype))).encode())
                found.update(np.ascontiguousarray(array).data)
        return found.hexdigest()

    @property
    def tokens(self) -> int:
        return int(self.experts.shape[0])

    @property
    def layers(self) -> int:
        return int(self.experts.shape[1])

    @property
    def k(self) -> int:
        return int(self.experts.shape[2])

    @property
    def lookaheads(self) -> int:
        return int(self.guess.shape[2])

    def passes(self) -> list[slice]:
        """The tokens of each forward pass, in order."""
        starts = np.flatnonzero(np.diff(self.forward_pass, prepend=self.forward_pass[0] - 1))
        return [slice(int(a), int(b)) for a, b in zip(starts, [*starts[1:], self.tokens], strict=True)]

    def window(self, first: int, count: int) -> Trace:
        """`count` forward passes from number `first` of `passes()`."""
        chosen = self.passes()[first : first + count]
        tokens = slice(chosen[0].start, chosen[-1].stop)
        parts = {
            name: getattr(self, name)[tokens]
            for name in (*_TENSORS, "texts")
            if getattr(self, name) is not None
        }
        return replace(self, **parts)

    def only(self, phase: int) -> Trace | None:
        """The tokens of PREFILL or of DECODE; None where there are none."""
        chosen = np.flatnonzero(self.phase == phase)
        if not chosen.size:
            return None
        parts = {name: getattr(self, name)[chosen] for name in _TENSORS if getattr(self, name) is not None}
        return replace(self, **parts, texts=tuple(self.texts[token] for token in chosen))

    def to_bytes(self, run: Run | None = None) -> bytes:
        """The file's content, with a recorded run beside the trace if one is given."""
        tensors = {
            name: np.ascontiguousarray(array)
            for name in _TENSORS
            if (array := getattr(self, name)) is not None
        }
        header: dict[str, Any] = {
            "format": FORMAT,
            "version": VERSION,
            "model": self.model,
            "revision": self.revision,
            "num_experts": self.num_experts,
            "k": self.k,
            "layer_indices": list(self.layer_indices),
            "expert_bytes": self.expert_bytes,
            "texts": list(self.texts),
            "prompt": self.prompt,
            "seed": self.seed,
            "recorded": self.recorded,
        }
        if run is not None:
            arrays, header["run"] = run.to_parts()
            tensors |= {RUN_PREFIX + name: array for name, array in arrays.items()}
        return bytes(save_safetensors(tensors, {"moetrace": json.dumps(header)}))

    def save(self, path: str | os.PathLike[str], run: Run | None = None) -> None:
        """Writes beside the place and renames, so that a reader never sees half a file. Raises OSError."""
        write_atomically(Path(path), self.to_bytes(run))

    @classmethod
    def load(cls, path: str | os.PathLike[str]) -> Trace:
        """Raises TraceError where the file is not a valid trace, OSError where it cannot be read."""
        return load_file(path)[0]


def recording(
    records: Sequence[PassRecord],
    facts: ModelFacts,
    settings: Settings,
    prompt: str,
    seed: int,
    recorded_at: str,
) -> tuple[Trace, Run]:
    """Trace and measured Run of what was captured, whether or not the run came to its end. Needs at least one pass."""
    recorder = Recorder(settings, facts.layers, facts.experts, facts.k, facts.expert_bytes)
    for record in records:
        recorder.add_measured(record)
    lengths = [len(record.token_ids) for record in records]
    tokens = sum(lengths)
    guess = np.array([row for record in records for row in record.guess], np.int16)
    probability = np.array([row for record in records for row in record.guess_probability], np.float16)
    trace = Trace(
        experts=np.array([row for record in records for row in record.experts], np.int16),
        weights=np.array([row for record in records for row in record.weights], np.float32),
        token_ids=np.array([token for record in records for token in record.token_ids], np.int32),
        phase=np.repeat(np.array([record.phase for record in records], np.uint8), lengths),
        forward_pass=np.repeat(np.arange(len(records), dtype=np.int32), lengths),
        guess=guess if guess.ndim == 4 else np.empty((tokens, facts.layers, 0, 0), np.int16),
        num_experts=facts.experts,
        texts=tuple(text for record in records for text in record.texts),
        model=facts.name,
        revision=facts.revision,
        layer_indices=facts.layer_indices,
        expert_bytes=facts.expert_bytes,
        prompt=prompt,
        seed=seed,
        recorded={**facts.versions, "time": recorded_at},
        guess_probability=probability if guess.ndim == 4 and probability.shape == guess.shape else None,
    )
    return trace, recorder.run(facts.tier)


def load_file(path: str | os.PathLike[str]) -> tuple[Trace, Run | None]:
    """Trace and, if the file has one, recorded run. Raises TraceError or OSError."""
    path = Path(path)
    size = path.stat().st_size
    if size > MAX_FILE_BYTES:
        raise TraceError(f"{path.name} has {size:,} bytes; a trace has at most {MAX_FILE_BYTES:,}.")
    return from_bytes(path.read_bytes(), path.name)


def from_bytes(content: bytes, name: str = "the file") -> tuple[Trace, Run | None]:
    """Trace and recorded run of a file's content; `name` is for messages. Raises TraceError."""
    if len(content) > MAX_FILE_BYTES:
        raise TraceError(f"{name} has {len(content):,} bytes; a trace has at most {MAX_FILE_BYTES:,}.")
    header = _header(content, name)
    try:
        tensors = load_safetensors(content)
    except (SafetensorError, KeyError, ValueError, TypeError) as error:
        raise TraceError(f"{name} is not a safetensors file: {error}.") from None
    missing = sorted(_TENSORS.keys() - _OPTIONAL - tensors.keys())
    if missing:
        raise TraceError(f"{name} lacks {', '.join(missing)}; a trace has {', '.join(_TENSORS)}.")
    own = {key: value for key, value in tensors.items() if not key.startswith(RUN_PREFIX)}
    unknown = sorted(own.keys() - _TENSORS.keys())
    if unknown:
        raise TraceError(
            f"{name} holds {', '.join(unknown)!r}, which version {VERSION} of the format does not know."
        )
    try:
        trace = Trace(
            **own,
            num_experts=_field(header, "num_experts", int),
            texts=_strings(header, "texts"),
            model=_field(header, "model", str),
            revision=_field(header, "revision", str),
            layer_indices=tuple(_integers(header, "layer_indices")),
            expert_bytes=_field(header, "expert_bytes", int),
            prompt=_field(header, "prompt", str),
            seed=_field(header, "seed", int),
            recorded=_recorded(header),
        )
        if _field(header, "k", int) != trace.k:
            raise TraceError(f"k is {header['k']} in the header, but experts has {trace.k} choices.")
        arrays = {
            key.removeprefix(RUN_PREFIX): value
            for key, value in tensors.items()
            if key.startswith(RUN_PREFIX)
        }
        run = None
        if "run" in header:
            run = Run.from_parts(arrays, header["run"])
            run.check_against(trace.layers, trace.num_experts, trace.k, len(trace.passes()))
        elif arrays:
            raise TraceError("the file holds a run's arrays, but its header names no run.")
    except (TraceError, RunError) as error:
        raise TraceError(f"{name}: {error}") from None
    return trace, run


def write_atomically(path: Path, content: bytes) -> None:
    """Raises OSError; then nothing of the file is left behind and an older one is untouched."""
    path.parent.mkdir(parents=True, exist_ok=True)
    handle, part = tempfile.mkstemp(dir=path.parent, prefix=path.name, suffix=".part")
    try:
        with os.fdopen(handle, "wb") as file:
            file.write(content)
            file.flush()
            os.fsync(file.fileno())
        umask = os.umask(0)
        os.umask(umask)
        os.chmod(part, 0o666 & ~umask)  # mkstemp's file is the owner's alone
        os.replace(part, path)
    except BaseException:
        Path(part).unlink(missing_ok=True)
        raise


def _header(content: bytes, name: str) -> dict[str, Any]:
    """The JSON header, read from the safetensors metadata without touching a tensor."""
    if len(content) < 8:
        raise TraceError(f"{name} has {len(content)} bytes and is no trace; expected a .moetrace file.")
    (size,) = struct.unpack("<Q", content[:8])
    if size > len(content) - 8:
        raise TraceError(f"{name} is not a .moetrace file, or only a part of one.")
    try:
        outer = json.loads(content[8 : 8 + size])
        header = json.loads(outer["__metadata__"]["moetrace"])
    except (ValueError, KeyError, TypeError, RecursionError):
        raise TraceError(f"{name} is not a .moetrace file: it has no moetrace header.") from None
    if not isinstance(header, dict) or header.get("format") != FORMAT:
        raise TraceError(f"{name} is not a .moetrace file: its header does not name the format {FORMAT!r}.")
    if type(header.get("version")) is not int or header["version"] != VERSION:
        raise TraceError(
            f"{name} has version {header.get('version')!r} of the format; this moeviz reads version {VERSION}."
        )
    return header


def _field(header: dict[str, Any], name: str, kind: type[_T]) -> _T:
    value = header.get(name)
    if type(value) is not kind:
        raise TraceError(f"{name} is {_short(value)} in the header; expected {kind.__name__}.")
    if kind is int and not 0 <= value < 2**62:  # type: ignore[operator]
        raise TraceError(f"{name} is {value} in the header; expected a number from 0.")
    return value


def _strings(header: dict[str, Any], name: str) -> tuple[str, ...]:
    value = header.get(name)
    if not isinstance(value, list) or not all(isinstance(item, str) for item in value):
        raise TraceError(f"{name} is {_short(value)} in the header; expected a list of strings.")
    return tuple(value)


def _integers(header: dict[str, Any], name: str) -> list[int]:
    value = header.get(name)
    if not isinstance(value, list) or not all(type(item) is int for item in value):
        raise TraceError(f"{name} is {_short(value)} in the header; expected a list of whole numbers.")
    return value


def _recorded(header: dict[str, Any]) -> dict[str, str]:
    value = header.get("recorded")
    if not isinstance(value, dict) or not all(isinstance(item, str) for item in value.values()):
        raise TraceError(f"recorded is {_short(value)} in the header; expected names and strings.")
    return value


def _short(value: object) -> str:
    text = repr(value)
    return text if len(text) <= 60 else text[:57] + "..."


def _check_arrays(trace: Trace) -> None:
    for name, (kinds, dimensions) in _TENSORS.items():
        array = getattr(trace, name)
        if array is None and name in _OPTIONAL:
            continue
        if array.dtype.name not in kinds or array.ndim != dimensions:
            raise TraceError(
                f"{name} is {array.dtype.name} with {array.ndim} dimensions; expected {' or '.join(kinds)} with {dimensions}."
            )
    tokens, layers, k = trace.experts.shape
    experts = trace.num_experts
    for name, value, most in (
        ("tokens", tokens, MAX_TOKENS),
        ("MoE layers", layers, MAX_LAYERS),
        ("k", k, MAX_K),
        ("num_experts", experts, MAX_EXPERTS),
    ):
        if not 1 <= value <= most:
            raise TraceError(f"the trace has {value} {name}; expected 1 to {most}.")
    if k > experts:
        raise TraceError(f"{k} experts are chosen per token, but num_experts is {experts}.")
    expected = {
        "weights": (tokens, layers, k),
        "token_ids": (tokens,),
        "phase": (tokens,),
        "forward_pass": (tokens,),
        "guess": (tokens, layers, *trace.guess.shape[2:]),
    }
    for name, shape in expected.items():
        if getattr(trace, name).shape != shape:
            raise TraceError(
                f"{name} has shape {getattr(trace, name).shape}; expected {shape}, as experts has."
            )
    if trace.guess.shape[2] > MAX_LOOKAHEAD or trace.guess.shape[3] > experts:
        raise TraceError(
            f"guess has shape {trace.guess.shape}; expected at most {MAX_LOOKAHEAD} lookaheads and {experts} guesses."
        )
    if trace.guess_probability is not None:
        if trace.guess_probability.shape != trace.guess.shape:
            raise TraceError(
                f"guess_probability has shape {trace.guess_probability.shape}; expected {trace.guess.shape}, as guess has."
            )
        if not ((trace.guess_probability >= 0) & (trace.guess_probability <= 1)).all():
            raise TraceError("guess_probability holds a value that is not from 0 to 1.")
    if len(trace.texts) != tokens:
        raise TraceError(f"texts has {len(trace.texts)} entries; expected one for each of {tokens} tokens.")
    if trace.layer_indices and len(trace.layer_indices) != layers:
        raise TraceError(f"layer_indices has {len(trace.layer_indices)} entries; expected {layers}.")
    _check_values("experts", trace.experts, 0, experts)
    _check_values("guess", trace.guess, -1, experts)
    ordered = np.sort(trace.experts, axis=2)
    if k > 1 and (twice := np.argwhere(ordered[:, :, 1:] == ordered[:, :, :-1])).size:
        token, layer, _ = twice[0]
        raise TraceError(f"experts names one expert twice for token {token} in layer {layer}.")
    if not np.isfinite(trace.weights).all():
        raise TraceError("weights holds a value that is not a finite number.")
    if (trace.phase > DECODE).any():
        raise TraceError(f"phase holds {trace.phase.max()}; expected 0 (prefill) or 1 (decode).")
    if (np.diff(trace.forward_pass) < 0).any() or trace.forward_pass[0] < 0:
        raise TraceError("forward_pass goes down; forward passes must be numbered in order, from 0 or more.")
    if (np.diff(trace.phase)[np.diff(trace.forward_pass) == 0] != 0).any():
        raise TraceError("phase changes within a forward pass.")


def _check_values(name: str, array: NDArray[np.int16], least: int, most: int) -> None:
    bad = np.argwhere((array < least) | (array >= most))
    if bad.size:
        token, layer = bad[0][:2]
        raise TraceError(
            f"{name} holds {array[tuple(bad[0])]} for token {token} in layer {layer}; expected {least} to {most - 1}."
        )

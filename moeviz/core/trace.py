"""What the router chose: the `Trace`. It belongs to a model and a text, not to any cache, and is checked when
it is made.

Not every token uses k experts in every layer: places that are not used hold -1, at the end of a row. An event
is a forward pass and a MoE layer in which any expert is needed; `events()` gives them all, with the experts
that each needs in the order in which a cache serves them. The file `*.moetrace` is the business of
`moeviz.files.moetrace`.

    trace = Trace.load("sample_traces/bible.moetrace")
    trace.events().expert       # of all events, one after the other
"""

from __future__ import annotations

import hashlib
import os
from collections.abc import Iterator
from dataclasses import dataclass, field, replace
from functools import cached_property
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from moeviz.amounts import many
from moeviz.core.run import ExpertBytes, Run, Sizes
from moeviz.core.use import MAX_EXPERTS as MAX_EXPERTS
from moeviz.errors import TraceError

if TYPE_CHECKING:
    from typing import Self

PREFILL, DECODE = 0, 1
MAX_TOKENS, MAX_LAYERS, MAX_K = 2_000_000, 512, 64
MAX_LOOKAHEAD = 8
MAX_SEQUENCES = 2**15

TENSORS: dict[str, tuple[tuple[str, ...], int]] = {  # name -> allowed types, dimensions
    "experts": (("int16",), 3),
    "weights": (("float16", "float32"), 3),
    "token_ids": (("int32",), 1),
    "phase": (("uint8",), 1),
    "forward_pass": (("int32",), 1),
    "sequence": (("int16",), 1),
    "guess": (("int16",), 4),
    "guess_probability": (("float16",), 4),
}
OPTIONAL = frozenset({"weights", "token_ids", "sequence", "guess_probability"})  # None where unknown


@dataclass(frozen=True, eq=False)
class Needs:
    """The N events of a trace and the M experts that they need, distinct in each event, strongest first."""

    forward_pass: NDArray[np.int32]  # [N] number among the passes of the trace, ascending
    layer: NDArray[np.int16]  # [N] ascending within a pass
    first: NDArray[np.int64]  # [N + 1] where the experts of each event begin, and M
    expert: NDArray[np.int16]  # [M]
    weight: NDArray[
        np.float64
    ]  # [M] the largest that any token of the event gave it; its rank's where weights are unknown

    def __len__(self) -> int:
        return len(self.layer)

    def __iter__(self) -> Iterator[tuple[int, int, list[int], list[float]]]:
        """(forward pass, layer, experts, weights) of each event."""
        experts, weights, first = self.expert.tolist(), self.weight.tolist(), self.first.tolist()
        for n, (step, layer) in enumerate(zip(self.forward_pass.tolist(), self.layer.tolist(), strict=True)):
            own = slice(first[n], first[n + 1])
            yield step, layer, experts[own], weights[own]

    @cached_property
    def access_event(self) -> NDArray[np.int64]:
        """Event of each needed expert. [M]"""
        return np.repeat(np.arange(len(self)), np.diff(self.first))

    @cached_property
    def ascending(self) -> NDArray[np.intp]:
        """The order in which the experts of each event stand by their ids. [M]"""
        return np.argsort(self.access_event * MAX_EXPERTS + self.expert, kind="stable")  # nearly sorted


@dataclass(frozen=True, eq=False)
class Trace(Sizes):
    """The router's choices for T tokens, L MoE layers, at most k chosen experts, D lookaheads, g guesses."""

    experts: NDArray[np.int16]  # [T, L, k] chosen experts, strongest first; -1: fewer were chosen
    weights: NDArray[np.floating[Any]] | None  # [T, L, k] router weights, 0 at -1
    token_ids: NDArray[np.int32] | None  # [T] the token that entered the model
    phase: NDArray[np.uint8]  # [T] 0 prefill, 1 decode
    forward_pass: NDArray[np.int32]  # [T] tokens of one forward pass share a number
    guess: NDArray[
        np.int16
    ]  # [T, L, D, g] for layer l, made d + 1 layers earlier; -1 none; D = 0 where there are none
    num_experts: int  # E
    texts: tuple[str, ...]  # [T] the tokens as text; empty strings where unknown
    model: str = ""  # id or folder name
    revision: str = ""
    layer_indices: tuple[int, ...] = ()  # of the MoE layers in the model; () where unknown
    expert_bytes: ExpertBytes = 0  # of one expert; 0 where unknown
    prompt: str = ""
    seed: int = 0
    recorded: dict[str, str] = field(default_factory=dict)  # versions, hardware, time
    guess_probability: NDArray[np.float16] | None = None  # [T, L, D, g] softmax of the later router's logits
    sequence: NDArray[np.int16] | None = None  # [T] which request a token belongs to; None where there is one
    link_bytes: ExpertBytes = 0  # that cross the link for one expert, where they are packed; 0: expert_bytes
    notes: tuple[str, ...] = ()  # what an importer left out or assumed, in words

    def __post_init__(self) -> None:
        _check_arrays(self)

    @cached_property
    def digest(self) -> str:
        """Tells traces apart by what they hold: equal for equal choices, guesses and texts, whatever the
        file's name."""
        about = (self.model, self.num_experts, self.expert_bytes, self.link_bytes, self.prompt, self.texts)
        found = hashlib.blake2b(repr(about).encode(), digest_size=16)
        for name in TENSORS:
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

    @property
    def shape(self) -> tuple[int, int, int, ExpertBytes]:
        """MoE layers, experts, k and bytes of an expert: what settings are checked against."""
        return self.layers, self.num_experts, self.k, self.expert_bytes

    @cached_property
    def _passes(self) -> list[slice]:
        starts = np.flatnonzero(np.diff(self.forward_pass, prepend=self.forward_pass[0] - 1))
        return [slice(int(a), int(b)) for a, b in zip(starts, [*starts[1:], self.tokens], strict=True)]

    def passes(self) -> list[slice]:
        """The tokens of each forward pass, in order."""
        return list(self._passes)

    @cached_property
    def pass_phase(self) -> NDArray[np.uint8]:
        """PREFILL or DECODE of each forward pass. [F]"""
        return self.phase[[tokens.start for tokens in self._passes]]

    def events(self) -> Needs:
        """Every event and the experts that it needs."""
        return self._events

    @cached_property
    def _events(self) -> Needs:
        lengths = np.array([tokens.stop - tokens.start for tokens in self._passes])
        number = np.repeat(np.arange(len(lengths)), lengths)  # of the pass of each token
        token, layer, rank = np.nonzero(self.experts >= 0)
        expert = self.experts[token, layer, rank].astype(np.int64)
        weight = (
            (self.k - rank).astype(np.float64)
            if self.weights is None
            else self.weights[token, layer, rank].astype(np.float64)
        )
        event = number[token] * self.layers + layer
        alone = lengths[number[token]] == 1
        if not alone.all():
            several = np.flatnonzero(~alone)
            own, most = _merged(event[several], expert[several], weight[several], self.num_experts)
            kept = np.concatenate([np.flatnonzero(alone), several[own]])
            weight = np.concatenate([weight[alone], most])
            order = np.argsort(event[kept], kind="stable")
            event, expert, weight = event[kept][order], expert[kept][order], weight[order]
        begins = np.flatnonzero(np.diff(event, prepend=-1))
        return Needs(
            (event[begins] // self.layers).astype(np.int32),
            (event[begins] % self.layers).astype(np.int16),
            np.append(begins, len(event)),
            expert.astype(np.int16),
            weight,
        )

    def _parts(self, tokens: slice | NDArray[np.intp]) -> dict[str, Any]:
        return {name: array[tokens] for name in TENSORS if (array := getattr(self, name)) is not None}

    def window(self, first: int, count: int) -> Self:
        """`count` forward passes from number `first` of `passes()`."""
        chosen = self._passes[first : first + count]
        tokens = slice(chosen[0].start, chosen[-1].stop)
        return replace(self, **self._parts(tokens), texts=self.texts[tokens])

    def only(self, phase: int) -> Self | None:
        """The tokens of PREFILL or of DECODE; None where there are none."""
        return self._where(self.phase == phase)

    def of_sequence(self, number: int) -> Self | None:
        """The tokens of one request; None where there are none."""
        if self.sequence is None:
            return self if number == 0 else None
        found = self._where(self.sequence == number)
        return None if found is None else replace(found, sequence=None)

    def sequences(self) -> list[int]:
        """Numbers of the requests, in the order in which they begin."""
        if self.sequence is None:
            return [0]
        numbers, first = np.unique(self.sequence, return_index=True)
        return [int(number) for number in numbers[np.argsort(first)]]

    def split(self) -> list[Self]:
        """One trace for each request, in the order in which they begin."""
        return [found for number in self.sequences() if (found := self.of_sequence(number)) is not None]

    def _where(self, chosen: NDArray[np.bool_]) -> Self | None:
        tokens = np.flatnonzero(chosen)
        if not tokens.size or not (self.experts[tokens] >= 0).any():
            return None
        return replace(self, **self._parts(tokens), texts=tuple(self.texts[token] for token in tokens))

    def __repr__(self) -> str:
        layers, of = many(self.layers, "MoE layer"), many(self.num_experts, "expert")
        model = repr(self.model[:80]) if self.model else "of an unknown model"
        return f"<Trace: {many(self.tokens, 'token')}, {layers} x {of}, top-{self.k}, {model}>"

    def _repr_html_(self) -> str:
        """What a notebook shows."""
        from moeviz.charts import inline

        return inline.trace(self)

    def save(self, path: str | os.PathLike[str], run: Run | None = None) -> None:
        """Writes a trace file, with a recorded run beside the trace if one is given. Raises OSError."""
        from moeviz.files import moetrace

        moetrace.save(path, self, run)

    @classmethod
    def load(cls, path: str | os.PathLike[str]) -> Trace:
        """From a trace file. Raises TraceError where it is not a valid one, OSError where it cannot be
        read."""
        from moeviz.files import moetrace

        return moetrace.load(path)[0]


def _merged(
    event: NDArray[np.int64], expert: NDArray[np.int64], weight: NDArray[np.float64], num_experts: int
) -> tuple[NDArray[np.int64], NDArray[np.float64]]:
    """One entry for each expert of an event, strongest first: positions [M] and largest weights [M].

    Of equal weights the one that a router names first counts as the stronger.
    """
    keys, first, inverse = np.unique(event * num_experts + expert, return_index=True, return_inverse=True)
    most = np.full(len(keys), -np.inf)
    np.maximum.at(most, inverse, weight)
    order = np.lexsort((first, -most, keys // num_experts))
    return first[order], most[order]


def _check_arrays(trace: Trace) -> None:
    for name, (kinds, dimensions) in TENSORS.items():
        array = getattr(trace, name)
        if array is None and name in OPTIONAL:
            continue
        if array.dtype.name not in kinds or array.ndim != dimensions:
            raise TraceError(
                f"{name} is {array.dtype.name} with {array.ndim} dimensions; "
                f"expected {' or '.join(kinds)} with {dimensions}."
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
    _check_shapes(trace)
    if len(trace.texts) != tokens:
        raise TraceError(f"texts has {len(trace.texts)} entries; expected one for each of {tokens} tokens.")
    if trace.layer_indices and len(trace.layer_indices) != layers:
        raise TraceError(f"layer_indices has {len(trace.layer_indices)} entries; expected {layers}.")
    for name in ("expert_bytes", "link_bytes"):
        sizes = getattr(trace, name)
        if isinstance(sizes, tuple) and len(sizes) != layers:
            raise TraceError(
                f"{name} has {len(sizes)} entries; expected one number, or one for each of {layers} layers."
            )
        if not all(0 <= size < 2**48 for size in (sizes if isinstance(sizes, tuple) else (sizes,))):
            raise TraceError(f"{name} holds a number that is not from 0 to {2**48 - 1}.")
    _check_experts(trace)
    _check_values("guess", trace.guess, -1, experts)
    if (trace.phase > DECODE).any():
        raise TraceError(f"phase holds {trace.phase.max()}; expected 0 (prefill) or 1 (decode).")
    if (np.diff(trace.forward_pass) < 0).any() or trace.forward_pass[0] < 0:
        raise TraceError("forward_pass goes down; forward passes must be numbered in order, from 0 or more.")
    if (np.diff(trace.phase)[np.diff(trace.forward_pass) == 0] != 0).any():
        raise TraceError("phase changes within a forward pass.")
    if trace.sequence is not None and (trace.sequence < 0).any():
        raise TraceError(f"sequence holds {trace.sequence.min()}; expected numbers of 0 or more.")
    _check_texts(trace)


def _check_shapes(trace: Trace) -> None:
    tokens, layers, k = trace.experts.shape
    expected = {
        "weights": (tokens, layers, k),
        "token_ids": (tokens,),
        "phase": (tokens,),
        "forward_pass": (tokens,),
        "sequence": (tokens,),
        "guess": (tokens, layers, *trace.guess.shape[2:]),
        "guess_probability": trace.guess.shape,
    }
    for name, shape in expected.items():
        array = getattr(trace, name)
        if array is not None and array.shape != shape:
            like = "guess" if name == "guess_probability" else "experts"
            raise TraceError(f"{name} has shape {array.shape}; expected {shape}, as {like} has.")
    if trace.guess.shape[2] > MAX_LOOKAHEAD or trace.guess.shape[3] > trace.num_experts:
        raise TraceError(
            f"guess has shape {trace.guess.shape}; expected at most {MAX_LOOKAHEAD} lookaheads "
            f"and {trace.num_experts} guesses."
        )
    if (
        trace.guess_probability is not None
        and not ((trace.guess_probability >= 0) & (trace.guess_probability <= 1)).all()
    ):
        raise TraceError("guess_probability holds a value that is not from 0 to 1.")


def _check_experts(trace: Trace) -> None:
    experts, k = trace.experts, trace.k
    _check_values("experts", experts, -1, trace.num_experts)
    if not (experts >= 0).any():
        raise TraceError("experts holds nothing but -1: no token uses any expert.")
    if k > 1:
        if (hole := np.argwhere((experts[:, :, :-1] < 0) & (experts[:, :, 1:] >= 0))).size:
            token, layer, _ = hole[0]
            raise TraceError(
                f"experts has -1 before an expert for token {token} in layer {layer}; unused places stand "
                "last."
            )
        ordered = np.sort(experts, axis=2)
        if (twice := np.argwhere((ordered[:, :, 1:] == ordered[:, :, :-1]) & (ordered[:, :, 1:] >= 0))).size:
            token, layer, _ = twice[0]
            raise TraceError(f"experts names one expert twice for token {token} in layer {layer}.")
    if trace.weights is not None:
        if not np.isfinite(trace.weights).all():
            raise TraceError("weights holds a value that is not a finite number.")
        if trace.weights[experts < 0].any():
            raise TraceError("weights holds a value other than 0 where experts is -1.")


def _check_texts(trace: Trace) -> None:
    """Lone surrogates cannot be written in UTF-8: no page, report or file could hold them."""
    for name in ("model", "revision", "prompt"):
        _check_unicode(name, getattr(trace, name))
    _check_unicode("texts", "".join(trace.texts))
    _check_unicode("recorded", "".join([*trace.recorded, *trace.recorded.values()]))
    _check_unicode("notes", "".join(trace.notes))


def _check_unicode(name: str, text: str) -> None:
    try:
        text.encode()
    except UnicodeEncodeError as error:
        raise TraceError(
            f"{name} holds {text[error.start]!r}, half of a character (a lone surrogate); expected Unicode "
            "text."
        ) from None


def _check_values(name: str, array: NDArray[np.int16], least: int, most: int) -> None:
    bad = np.argwhere((array < least) | (array >= most))
    if bad.size:
        token, layer = bad[0][:2]
        raise TraceError(
            f"{name} holds {array[tuple(bad[0])]} for token {token} in layer {layer}; "
            f"expected {least} to {most - 1}."
        )

"""Collects routes that stand one by one, in JSON lines, rows or text, and lays them out as [token, layer, k].

A route is what one token chose in one layer. Where a request counts its tokens from the begin again, a new
forward pass has begun.

    routes = Routes(source)
    routes.add("line 2", "r1", token=0, layer=3, ids=[4, 7], weights=[0.6, 0.4])
    return finish(source, options, routes.routed(), "routes")
"""

from __future__ import annotations

from array import array
from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from moeviz.core.trace import DECODE, MAX_TOKENS, PREFILL
from moeviz.files.importers.routed import Routed, check_shape
from moeviz.files.importers.source import Source
from moeviz.files.importers.values import MOST
from moeviz.words import many

UNKNOWN = -1


class _Request:
    """Tokens of one request, of the pass that it is in."""

    __slots__ = ("first", "number", "passes", "tokens")

    def __init__(self, number: int) -> None:
        self.number, self.passes = number, 0
        self.first = (UNKNOWN, UNKNOWN)
        self.tokens: dict[tuple[int, int], int] = {}


class Routes:
    """What a file says, route by route."""

    def __init__(self, source: Source) -> None:
        self.source = source
        self.report: list[str] = []
        self._requests: dict[str, _Request] = {}
        self._seen: list[int] = []  # of each token: its layers, a bit each
        self._about: dict[str, array[int]] = {
            name: array("q") for name in ("request", "pass", "number", "phase", "step", "id", "prompt")
        }
        self._texts: list[str] = []
        self._said: set[str] = set()  # of phase, step, id, text: what was said of any token
        self._same: dict[str, str] = {}  # texts that repeat are kept once
        self._token, self._layer, self._count = array("q"), array("i"), array("h")
        self._expert, self._weight = array("h"), array("f")
        self._unweighed = 0

    def __len__(self) -> int:
        return len(self._token)

    def add(
        self,
        place: str,
        request: str,
        token: int,
        layer: int,
        ids: Sequence[int],
        weights: Sequence[float] | None,
        phase: int = UNKNOWN,
        step: int = UNKNOWN,
        token_id: int = UNKNOWN,
        text: str | None = None,
        prompt: int = UNKNOWN,
    ) -> None:
        """`prompt`: tokens of the request's prompt. `place` is for messages. Raises TraceError where a token
        has a layer twice or is said two things of.
        """
        row = self._row(place, request, token, layer, step)
        self._seen[row] |= 1 << layer
        for name, value in (("phase", phase), ("id", token_id), ("prompt", prompt)):
            if value != UNKNOWN:
                known = self._about[name]
                if known[row] not in (UNKNOWN, value):
                    raise self.source.error(
                        f"{place}: token {token} has another {name} than in an earlier row."
                    )
                known[row] = value
                self._said.add(name)
        if text is not None:
            self._texts[row] = self._same.setdefault(text, text)
            self._said.add("text")
        self._token.append(row)
        self._layer.append(layer)
        self._count.append(len(ids))
        self._expert.extend(ids)
        if weights is None:
            self._unweighed += bool(ids)
            self._weight.extend([0.0] * len(ids))
        else:
            try:
                self._weight.extend(weights)
            except OverflowError:
                raise self.source.error(f"{place}: a weight is beyond 32-bit floating point.") from None

    def _row(self, place: str, request: str, token: int, layer: int, step: int) -> int:
        """The number of this token among all."""
        own = self._requests.get(request)
        if own is None:
            own = self._requests[request] = _Request(len(self._requests))
        row = own.tokens.get((step, token))
        if row is not None and self._seen[row] >> layer & 1:
            if own.first != (step, token) or step != UNKNOWN:
                raise self.source.error(
                    f"{place} has token {token} more than once in layer {layer}; expected each once."
                )
            own.tokens, row = {}, None
            own.passes += 1
        if row is None:
            row = own.tokens[step, token] = len(self._seen)
            if row >= MAX_TOKENS:
                raise self.source.error(f"holds more than {MAX_TOKENS:,} tokens.")
            own.first = (step, token) if len(own.tokens) == 1 else own.first
            self._seen.append(0)
            self._texts.append("")
            values = (own.number, own.passes, token, UNKNOWN, step, UNKNOWN, UNKNOWN)
            for column, value in zip(self._about.values(), values, strict=True):
                column.append(value)
            if step != UNKNOWN:
                self._said.add("step")
        return row

    def routed(self, **others: Any) -> Routed:
        """All of it, laid out. Raises TraceError."""
        source = self.source
        if not self._token:
            raise source.error("holds no routes.")
        about = {name: np.frombuffer(column, np.int64) for name, column in self._about.items()}
        if about["pass"].any():
            self._check_restarts(about)
        order = np.lexsort((about["number"], about["step"], about["pass"], about["request"]))
        keep = self._without_profile(about, order)
        order = order[keep]
        place = np.full(len(about["number"]), -1, np.int64)
        place[order] = np.arange(len(order))
        layer = np.frombuffer(self._layer, np.int32)
        layers, at = np.unique(layer, return_inverse=True)
        weighed = not self._unweighed
        ids, weights = scatter(
            source,
            place[np.frombuffer(self._token, np.int64)],
            at,
            np.frombuffer(self._count, np.int16),
            np.frombuffer(self._expert, np.int16),
            np.frombuffer(self._weight, np.float32) if weighed else None,
            (len(order), len(layers)),
        )
        if not weighed and np.frombuffer(self._weight, np.float32).any():
            self.report.append(f"weights are left out: {many(self._unweighed, 'route')} without one")
        step = None
        if self._numbered_by_phase(about):
            self.report.append("tokens are numbered from the begin again where decode begins")
        elif about["pass"].any():
            step = about["pass"][order]
            self.report.append(
                "where tokens are numbered from the begin again, a new forward pass was taken to begin; if "
                "it is another request, say so in a column request_id"
            )
        elif "step" in self._said:
            step = about["step"][order]
        return Routed(
            ids,
            weights,
            layers=[int(one) for one in layers],
            phase=self._phase({name: column[order] for name, column in about.items()}),
            forward_pass=step,
            sequence=about["request"][order] if len(self._requests) > 1 else None,
            token_ids=about["id"][order] if "id" in self._said and (about["id"][order] >= 0).all() else None,
            texts=[self._texts[row] for row in order.tolist()] if "text" in self._said else None,
            report=self.report,
            **others,
        )

    def _phase(self, about: dict[str, NDArray[np.int64]]) -> NDArray[np.uint8] | None:
        phase = about["phase"]
        if "phase" not in self._said:
            said = "prompt" in self._said
            return (
                by_prompts(about["request"], about["number"], about["prompt"], self.report) if said else None
            )
        if (phase == UNKNOWN).any():
            self.report.append(
                f"phases are not used: {many(int((phase == UNKNOWN).sum()), 'token')} without one"
            )
            return None
        return phase.astype(np.uint8)

    @staticmethod
    def _numbered_by_phase(about: dict[str, NDArray[np.int64]]) -> bool:
        """True where tokens are numbered from the begin again once in each request, which is where its
        prompt ends: then decode of many tokens is no single pass.
        """
        again, known = about["pass"] > 0, about["phase"]
        several = np.bincount(about["request"][again]).max(initial=0) > 1
        return bool(
            several
            and about["pass"].max() == 1
            and (known[~again] == PREFILL).all()
            and (known[again] == DECODE).all()
        )

    def _check_restarts(self, about: dict[str, NDArray[np.int64]]) -> None:
        """A pass that a restart began has the layers of the first, or it is no pass but a route that stands
        twice.
        """
        layers: dict[tuple[int, int], int] = {}
        for row, key in enumerate(zip(about["request"].tolist(), about["pass"].tolist(), strict=True)):
            layers[key] = layers.get(key, 0) | self._seen[row]
        for (request, number), found in layers.items():
            if number and found != layers[request, 0]:
                token = int(about["number"][(about["pass"] == number) & (about["request"] == request)][0])
                layer = (found & -found).bit_length() - 1
                raise self.source.error(
                    f"has token {token} more than once in layer {layer}, but not in all layers; expected "
                    "each route once, or tokens that are counted from the begin again with all layers in "
                    "each pass."
                )

    def _without_profile(
        self, about: dict[str, NDArray[np.int64]], order: NDArray[np.int64]
    ) -> NDArray[np.bool_]:
        """False for the tokens of a first pass that are all routed alike, as an engine's profile run is.
        [T]
        """
        keep = np.ones(len(order), np.bool_)
        first = (about["pass"] == 0) & (about["request"] == 0)
        if first.sum() < 4 or not about["pass"].any():
            return keep
        token, count = np.frombuffer(self._token, np.int64), np.frombuffer(self._count, np.int16)
        begins = np.cumsum(count.astype(np.int64)) - count
        chosen: dict[int, list[int]] = {}
        for route in np.flatnonzero(first[token]).tolist():
            own = self._expert[int(begins[route]) : int(begins[route]) + int(count[route])]
            if chosen.setdefault(self._layer[route], list(own)) != list(own):
                return keep
        self.report.append(
            f"the first pass was left out: its {int(first.sum()):,} tokens are all routed alike, as in a "
            "profile run"
        )
        keep[first[order]] = False
        return keep


def scatter(
    source: Source,
    token: NDArray[np.int64],
    layer: NDArray[np.int64],
    count: NDArray[np.int16],
    expert: NDArray[np.int16],
    weight: NDArray[np.float32] | None,
    shape: tuple[int, int],
) -> tuple[NDArray[np.int16], NDArray[np.float32] | None]:
    """[T, L, k] of N routes: each of a token (-1: left out) and a layer, with `count` of the M experts, in
    order. Raises TraceError.
    """
    k = max(int(count.max(initial=0)), 1)
    check_shape(source, (*shape, k), weight is not None)
    route = np.repeat(np.arange(len(count)), count)
    rank = np.arange(len(expert)) - np.repeat(np.cumsum(count.astype(np.int64)) - count, count)
    kept = token[route] >= 0
    ids = np.full((*shape, k), -1, np.int16)
    at = token[route][kept], layer[route][kept], rank[kept]
    ids[at] = expert[kept]
    if weight is None:
        return ids, None
    weights = np.zeros(ids.shape, np.float32)
    weights[at] = weight[kept]
    return ids, weights


def by_prompts(
    request: NDArray[np.int64], number: NDArray[np.int64], prompt: NDArray[np.int64], report: list[str]
) -> NDArray[np.uint8] | None:
    """Phases from the length of each request's prompt, all [token]; requests from 0. None, and a line of the
    report, where the tokens' numbers do not tell their places in their request.
    """
    first = np.full(int(request.max()) + 1, MOST)
    last = np.zeros_like(first)
    np.minimum.at(first, request, number)
    np.maximum.at(last, request, number)
    order = first.argsort()
    goes_on = (first[order][1:] == last[order][:-1] + 1).all() and first.min() in (0, 1)
    begin = first if (first == 1).all() or goes_on else np.zeros_like(first)
    from_begin = (first == begin)[request] | (first[request] >= prompt)  # or the prompt was not recorded
    distinct = len(np.unique(request << 31 | number)) == len(number)
    if (prompt < 0).any():
        report.append(
            f"lengths of prompts are not used: {many(int((prompt < 0).sum()), 'token')} without one"
        )
    elif not (from_begin.all() and distinct):
        report.append(
            "lengths of prompts are not used: tokens are not numbered from 0 or 1 in their requests"
        )
    else:
        return np.where(number - begin[request] < prompt, PREFILL, DECODE).astype(np.uint8)
    return None

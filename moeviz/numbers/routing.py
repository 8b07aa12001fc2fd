"""Numbers of a Trace alone, whatever the cache: who is used how much, what repeats, what guesses are worth.
Each with its formula.

reuse(Trace.load("sample_traces/bible.moetrace"))      # [layer]
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from moeviz.core.oracle import DOMAIN_USE, Future
from moeviz.core.predictors import PREDICTORS, Context, RouterGuess, untold_truth
from moeviz.core.trace import DECODE, Trace
from moeviz.errors import TraceError

Floats = NDArray[np.float64]


def usage(trace: Trace, weighted: bool = False, tokens: slice = slice(None)) -> Floats:
    """How often a token chose each expert, or the router weight it gave them, summed. [L, E]

    Raises TraceError where weights are asked for that the trace does not hold.
    """
    experts = trace.experts[tokens]
    token, layer, rank = np.nonzero(experts >= 0)
    weights = _weights(trace)[tokens][token, layer, rank].astype(np.float64) if weighted else None
    place = layer * trace.num_experts + experts[token, layer, rank]
    table = np.bincount(place, weights, trace.layers * trace.num_experts)
    return table.reshape(trace.layers, trace.num_experts).astype(np.float64)


def _weights(trace: Trace) -> NDArray[np.floating[Any]]:
    if trace.weights is None:
        raise TraceError(
            "the trace does not hold the routers' weights, so there is nothing to weigh experts by."
        )
    return trace.weights


def top_share(use: Floats, part: float = 0.25) -> Floats:
    """Share of a layer's choices that went to the busiest quarter of its experts. use: [L, E]; gives [L]"""
    most = max(1, round(part * use.shape[1]))
    return np.asarray(-np.sort(-use, 1)[:, :most].sum(1) / np.maximum(use.sum(1), 1e-12))


def entropy(use: Floats) -> Floats:
    """Shannon entropy of a layer's choices / log E: 1 where all experts are used alike, 0 where each
    token goes to the same one. use: [L, E]; gives [L]"""
    share = use / np.maximum(use.sum(1, keepdims=True), 1e-12)
    bits = -(share * np.log(np.maximum(share, 1e-300))).sum(1)
    return np.asarray(bits / np.log(use.shape[1])) if use.shape[1] > 1 else np.zeros(len(use))


def reuse(trace: Trace) -> Floats:
    """Share of a token's experts that the token before it in its sequence used too, in decode; chance is k /
    E.

    nan for layers without two decode tokens one after the other. [L]
    """
    same, chosen = np.zeros(trace.layers), np.zeros(trace.layers)
    for number in trace.sequences():
        own = trace.of_sequence(number)
        if own is None:
            continue
        decode = own.experts[own.phase == DECODE]
        known = decode[1:] >= 0
        known &= (decode[:-1] >= 0).any(
            2, keepdims=True
        )  # a layer that the token before left out says nothing
        again = (decode[1:, :, :, None] == decode[:-1, :, None, :]).any(3) & known  # [token, layer, rank]
        same += again.sum((0, 2))
        chosen += known.sum((0, 2))
    with np.errstate(invalid="ignore"):
        return np.asarray(same / np.where(chosen > 0, chosen, np.nan))


def coverage(use: Floats) -> Floats:
    """Share of a layer's choices that its busiest 1, 2, ... E experts got. use: [L, E]; gives [L, E], rising
    to 1"""
    return np.asarray((-np.sort(-use, 1)).cumsum(1) / np.maximum(use.sum(1, keepdims=True), 1e-12))


def together(trace: Trace, layer: int, later: int) -> Floats:
    """How often tokens that chose expert i in `layer` chose expert j in `later`, as shares of i's tokens;
    later = layer: of one layer. [E, E]; rows of experts that nobody chose are 0"""
    first, second = _chosen(trace, layer), _chosen(trace, later)
    return np.asarray((first.T @ second) / np.maximum(first.sum(0)[:, None], 1), np.float64)


def _chosen(trace: Trace, layer: int) -> NDArray[np.float32]:
    """1 where a token chose an expert of a layer. [T, E]"""
    found = np.zeros((trace.tokens, trace.num_experts), np.float32)
    token, rank = np.nonzero(trace.experts[:, layer] >= 0)
    found[token, trace.experts[token, layer, rank]] = 1
    return found


def similarity(a: Floats, b: Floats) -> Floats:
    """Cosine of two traces' expert use, layer by layer: 1 the same shares, 0 nothing in common. a, b: [...,
    L, E]; gives [..., L]"""
    return np.asarray(
        (a * b).sum(-1) / np.maximum(np.linalg.norm(a, axis=-1) * np.linalg.norm(b, axis=-1), 1e-12)
    )


def domain_use() -> dict[str, Floats]:
    """Share of a layer's choices that each expert of the bundled model got on held-out text of each domain.
    name -> [L, E]"""
    found = json.loads(DOMAIN_USE.read_text(encoding="utf-8"))
    return {name: np.array(shares) for name, shares in found.items()}


def likeness(trace: Trace, domains: Mapping[str, Floats], window: int = 32, centred: bool = False) -> Floats:
    """How alike the use of `window` tokens is to each domain's: cosine, mean over layers. [domain, T]

    The window of a token is the last tokens up to it, fewer where the text begins. With `centred` it lies
    around the token, at the ends of the text as near as it fits: so a change of subject is told where it is,
    not half a window later.
    """
    chosen = np.zeros((trace.tokens + 1, trace.layers, trace.num_experts), np.float32)
    token, layer, rank = np.nonzero(trace.experts >= 0)
    chosen[token + 1, layer, trace.experts[token, layer, rank]] = 1
    summed = chosen.cumsum(0)
    end = np.arange(1, trace.tokens + 1)
    if centred:
        end = np.clip(end + window // 2, min(window, trace.tokens), trace.tokens)
    use = summed[end] - summed[np.maximum(end - window, 0)]
    return np.stack(
        [similarity(use, np.broadcast_to(other, use.shape)).mean(1) for other in domains.values()]
    )


def tokens_of(trace: Trace, layer: int, expert: int) -> tuple[NDArray[np.int64], Floats]:
    """Tokens that chose an expert and the weight it got, heaviest first; in the text's order and nan where
    weights are unknown. Both [n]"""
    token, rank = np.nonzero(trace.experts[:, layer] == expert)
    if trace.weights is None:
        return token, np.full(len(token), np.nan)
    weight = trace.weights[token, layer, rank].astype(np.float64)
    order = np.argsort(-weight, kind="stable")
    return token[order], weight[order]


@dataclass(frozen=True, eq=False, slots=True)
class GuessQuality:
    """How good guesses for a layer are, d layers ahead, over decode events. nan where there is none. [D, L],
    lookahead 1 first"""

    precision: Floats  # |guess and A| / |guess|
    recall: Floats  # |guess and A| / |A|

    def at(self, lookahead: int) -> tuple[float, float]:
        """Mean precision and recall over the layers that are guessed for."""
        row = lookahead - 1
        if np.isnan(self.recall[row]).all():
            return float("nan"), float("nan")
        return float(np.nanmean(self.precision[row])), float(np.nanmean(self.recall[row]))


def guess_quality(
    trace: Trace, name: str, width: int = 0, threshold: float = 0.0, lookaheads: int = 3
) -> GuessQuality:
    """Every guess of a predictor, whatever is resident. Where guesses are as many as experts chosen,
    precision = recall.

    Lookaheads that the trace holds no router guesses for stay nan.
    """
    precision = np.full((lookaheads, trace.layers), np.nan)
    recall = precision.copy()
    for d in range(1, min(lookaheads, trace.layers - 1) + 1):
        if "routers" in PREDICTORS[name].needs and d > trace.lookaheads:
            continue
        found, guessed, needed = _guesses(trace, name, d, width or trace.k, threshold)
        with np.errstate(invalid="ignore", divide="ignore"):
            precision[d - 1] = found / guessed
            recall[d - 1] = found / needed
    precision[:, 0] = recall[:, 0] = np.nan
    return GuessQuality(precision, recall)


def _guesses(trace: Trace, name: str, d: int, width: int, threshold: float) -> tuple[Floats, Floats, Floats]:
    """Right guesses, guesses and needs of decode, per layer."""
    future = Future(trace) if "future" in PREDICTORS[name].needs else None
    now = 0

    def truth(layer: int) -> list[int]:
        if future is None:
            raise untold_truth(name)
        return future.needs(now, layer)

    predictor = PREDICTORS[name](Context(trace.layers, trace.num_experts, d, threshold, truth))
    layers, experts, routers = trace.layers, trace.experts.tolist(), None
    guess: Any = None  # [token][layer][rank] where the predictor reads them
    probability: Any = None
    if "routers" in PREDICTORS[name].needs:
        guess = trace.guess[:, :, d - 1].tolist()
        if trace.guess_probability is not None:
            probability = trace.guess_probability[:, :, d - 1].tolist()
    found, guessed, needed = (np.zeros(trace.layers) for _ in range(3))
    pending: dict[int, list[int]] = {}
    for tokens in trace.passes():
        decode = trace.phase[tokens.start] == DECODE
        own, ahead = experts[tokens], guess and guess[tokens]
        for layer in range(layers):
            rows = [row[layer] for row in own]
            need = {expert for row in rows for expert in row if expert >= 0}
            made = pending.pop(layer, None)
            if not need:  # no event, and no guess is made at it
                continue
            if decode and made is not None:
                found[layer] += len(need & set(made))
                guessed[layer] += len(made)
                needed[layer] += len(need)
            predictor.observe(layer, rows)
            target = layer + d
            if target < layers:
                if guess is not None:
                    known = None if probability is None else [row[target] for row in probability[tokens]]
                    routers = RouterGuess([row[target] for row in ahead], known)
                pending[target] = predictor.guess(target, routers, width)
        now += 1
    return found, guessed, needed


@dataclass(frozen=True, eq=False, slots=True)
class Habits:
    """How a trace's routers choose, in the numbers that people ask for first."""

    reuse_of_previous_token: float | None  # mean over layers; None where no token follows another
    reuse_by_chance: float
    top_quarter_share: Floats  # [L]
    entropy: Floats  # [L]
    next_gate_recall: tuple[float, ...]  # of guesses 1, 2 and 3 layers ahead, nan where none was made
    guesses: GuessQuality | None  # of the predictor that was asked for


def habits(trace: Trace, prefetch: str = "none", width: int = 0, threshold: float = 0.0) -> Habits:
    """Of this trace; `guesses` are those of the predictor `prefetch`."""
    use = usage(trace)
    again = reuse(trace)
    by_routers = guess_quality(trace, "next-gate") if trace.lookaheads else None
    recalls = [by_routers.at(d)[1] for d in range(1, 1 + min(3, trace.lookaheads))] if by_routers else []
    return Habits(
        None if np.isnan(again).all() else float(np.nanmean(again)),
        trace.k / trace.num_experts,
        top_share(use),
        entropy(use),
        tuple(recalls),
        None if prefetch == "none" else guess_quality(trace, prefetch, width, threshold),
    )

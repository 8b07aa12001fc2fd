"""What a sweep does with every trace, and the row that comes of it."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass, replace
from functools import lru_cache
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from moeviz.core.policies import POLICIES, load_policy
from moeviz.core.predictors import PREDICTORS, load_predictor
from moeviz.core.replay import replay, served
from moeviz.core.run import MISS
from moeviz.core.settings import SCOPES, Settings, calibrated
from moeviz.core.trace import DECODE, PREFILL, Trace
from moeviz.errors import SettingsError, SweepError
from moeviz.files.moetrace import load, shown
from moeviz.numbers import metrics
from moeviz.numbers.curves import hits_by, slot_counts
from moeviz.numbers.split import greedy, of_layers

Row = dict[str, Any]
STRETCHES = 16  # of a text, for the spread within it
STRETCHED = rf"\d+( \d+){{{STRETCHES - 1}}}"  # their numbers in a row
COLUMNS: dict[str, type] = {  # of the table
    "file": str,
    "digest": str,
    "model": str,
    "tokens": int,
    "layers": int,
    "experts": int,
    "k": int,
    "expert_bytes": int,
    "policy": str,
    "slots": int,  # per layer, or in all; of the largest layer under a budget
    "budget": int,  # bytes for experts in all; 0: slots were given
    "scope": str,
    "rule": str,
    "prefetch": str,
    "lookahead": int,
    "width": int,
    "calibration": str,
    "prefill_accesses": int,
    "prefill_hits": int,
    "decode_accesses": int,
    "decode_hits": int,
    "hit_ratio": float,
    "misses": int,
    "stretch_accesses": str,  # of decode (or prefill) in 16 equal stretches of it, as text: 12 12 12 ...
    "stretch_hits": str,
    "split_hits": int,  # with as many slots, divided over the layers by their curves; -1: not asked
    "guesses_issued": int,
    "guesses_useful": int,
    "guesses_wasted": int,
    "guesses_dropped": int,
    "bytes_moved": int,
}
KEY = (
    "digest",
    "policy",
    "scope",
    "rule",
    "prefetch",
    "lookahead",
    "width",
    "budget",
    "slots",
)  # what makes a row the same row


@dataclass(frozen=True, slots=True)
class Plan:
    """What to do with every trace. `slots` and `budgets` empty: every count of slots from one token's need to
    all experts. `budgets`: bytes for experts in all, instead of slots."""

    policies: tuple[str, ...] = tuple(POLICIES)
    scopes: tuple[str, ...] = ("layer",)
    prefetch: tuple[str, ...] = ("none",)
    lookahead: int = 1
    width: int = 0
    slots: tuple[int, ...] = ()
    budgets: tuple[int, ...] = ()
    rule: str = "pinned"

    def __post_init__(self) -> None:
        for policy in self.policies:  # of a user's file too
            load_policy(policy)
        for predictor in self.prefetch:
            load_predictor(predictor)
        for what, chosen, known in (
            ("policy", self.policies, tuple(POLICIES)),
            ("scope", self.scopes, tuple(SCOPES)),
            ("predictor", self.prefetch, tuple(PREDICTORS)),
        ):
            unknown = [name for name in chosen if name not in known]
            if unknown or not chosen:
                raise SweepError(
                    f"{', '.join(unknown) or 'nothing'!r} is no {what}. Choose from {', '.join(known)}."
                )
        if self.slots and self.budgets:
            raise SweepError("A sweep is over slots or over budgets in bytes. Give one of them.")
        if 0 in self.budgets:
            raise SweepError("A budget of 0 bytes holds no expert. Give more, for example 1GiB.")
        Settings(rule=self.rule)  # raises SettingsError where the rule is not known

    def tasks(self, trace: Trace) -> Iterator[tuple[Settings, tuple[int, ...]]]:
        """Settings, and the slot counts at which they are to be replayed; budgets where the settings have
        one."""
        for scope in self.scopes:
            for policy in self.policies:
                plain = calibrated(Settings(policy, scope=scope, rule=self.rule))
                counts = self._fitting(trace, plain)
                for predictor in self.prefetch if counts else ():
                    yield (
                        replace(
                            _at(plain, counts[0], bool(self.budgets)),
                            prefetch=predictor,
                            lookahead=self.lookahead,
                            width=self.width,
                        ),
                        counts,
                    )

    def _fitting(self, trace: Trace, settings: Settings) -> tuple[int, ...]:
        """The slot counts, or budgets, that are enough for the trace's model, and no more than it has
        experts."""
        if not self.budgets and not self.slots:
            return tuple(slot_counts(trace, settings.scope))
        return tuple(
            count
            for count in self.budgets or self.slots
            if _fits(trace, _at(settings, count, bool(self.budgets)))
        )


def _at(settings: Settings, count: int, in_bytes: bool) -> Settings:
    return replace(settings, budget=count) if in_bytes else replace(settings, slots=count, budget=0)


def _fits(trace: Trace, settings: Settings) -> bool:
    try:
        settings.check(*trace.shape)
    except SettingsError:
        return False
    return True


def key_of(trace: Trace, settings: Settings, count: int) -> tuple[Any, ...]:
    """What makes the row of a slot count, or of a budget where the settings have one, the same row."""
    one = _at(settings, count, bool(settings.budget))
    values = asdict(one) | {"digest": trace.digest, "slots": one.room(*trace.shape).slots}
    return tuple(values[name] for name in KEY)


def work(path: str, settings: Settings, counts: Sequence[int], divide: bool = True) -> list[Row]:
    """The rows of one trace and one settings at several slot counts, or budgets where the settings have one.
    `divide`: whether slots divided over the layers are asked for too, which takes every slot count.

    Raises MoevizError or OSError. Runs in any process.
    """
    load_policy(settings.policy)  # of a user's file: this process may not know it yet
    load_predictor(settings.prefetch)
    file = Path(path)
    trace = _loaded(path, file.stat().st_mtime_ns)
    about = {
        "file": shown(file.name),
        "digest": trace.digest,
        "model": trace.model,
        "tokens": trace.tokens,
        "layers": trace.layers,
        "experts": trace.num_experts,
        "k": trace.k,
        "expert_bytes": trace.mean_bytes,
    }
    chosen = {name: value for name, value in asdict(settings).items() if name in (*KEY, "calibration")}
    labels, kinds = _labels(trace), (1 + STRETCHES) * trace.layers
    in_bytes = bool(settings.budget)
    rows, moved = [], []
    ledgers: list[dict[str, Any]] = [{}] * len(counts)
    if settings.prefetch == "none":
        found, accesses = hits_by(
            trace, settings, labels, None if in_bytes else counts, budgets=counts if in_bytes else None
        )
        hits = np.pad(found, ((0, 0), (0, kinds - found.shape[1])))
        needed = np.pad(accesses, (0, kinds - len(accesses)))
        missed = (needed - hits).reshape(len(counts), -1, trace.layers).sum(1)
        moved = (missed @ trace.copied_bytes).tolist()
    else:
        hits = np.empty((len(counts), kinds), np.int64)
        first = np.flatnonzero(np.diff(served(trace, settings).forward_pass, prepend=-1))
        for n, count in enumerate(counts):
            run = replay(trace, _at(settings, count, in_bytes))
            event = run.accesses.event
            label = labels[first[run.events.forward_pass[event]], run.events.layer[event]]
            hits[n] = np.bincount(label[run.accesses.outcome != MISS], minlength=kinds)
            needed = np.bincount(label, minlength=kinds)
            ledgers[n] = asdict(metrics.ledger(run))
            moved.append(metrics.bytes_moved(run).total)
    divided = _divided(trace, settings, counts, hits) if divide else [-1] * len(counts)
    for n, count in enumerate(counts):
        one = _at(settings, count, in_bytes)
        guesses = {
            f"guesses_{name}": int(ledgers[n].get(name, 0))
            for name in ("issued", "useful", "wasted", "dropped")
        }
        rows.append(
            about
            | chosen
            | {"slots": one.room(*trace.shape).slots, "budget": one.budget, "split_hits": divided[n]}
            | _counted(_by_stretch(hits[n], trace), _by_stretch(needed, trace), _phase(trace))
            | guesses
            | {"bytes_moved": int(moved[n])}
        )
    return rows


def _phase(trace: Trace) -> int:
    """What counts: decode, or prefill where nothing was decoded."""
    return DECODE if (trace.phase == DECODE).any() else PREFILL


def _labels(trace: Trace) -> NDArray[np.intp]:
    """What hits of a trace are counted apart by: stretch of the text x layers + layer, where the stretches
    are those of the phase that counts, and the tokens of the other one are in the last. [token, layer]"""
    counts = trace.phase == _phase(trace)
    stretch = np.where(counts, (np.cumsum(counts) - 1) * STRETCHES // counts.sum(), STRETCHES)
    labels: NDArray[np.intp] = stretch[:, None] * trace.layers + np.arange(trace.layers)
    return labels


def _by_stretch(by_label: NDArray[np.int64], trace: Trace) -> NDArray[np.int64]:
    return np.asarray(by_label.reshape(-1, trace.layers).sum(1), np.int64)


def _counted(hits: NDArray[np.int64], accesses: NDArray[np.int64], phase: int) -> Row:
    """What a row says of hits and accesses by stretch."""
    own = "decode" if phase == DECODE else "prefill"
    other = "prefill" if phase == DECODE else "decode"
    return {
        f"{own}_accesses": int(accesses[:-1].sum()),
        f"{own}_hits": int(hits[:-1].sum()),
        f"{other}_accesses": int(accesses[-1]),
        f"{other}_hits": int(hits[-1]),
        "hit_ratio": int(hits[:-1].sum()) / int(accesses[:-1].sum()),
        "misses": int(accesses.sum() - hits.sum()),
        "stretch_accesses": " ".join(map(str, accesses[:-1])),
        "stretch_hits": " ".join(map(str, hits[:-1])),
    }


def _divided(trace: Trace, settings: Settings, counts: Sequence[int], hits: NDArray[np.int64]) -> list[int]:
    """Hits of as many slots divided over the layers by their curves, as `numbers.split` divides them; -1
    where layers do not own slots, or guesses take some. hits: [slot count, label]"""
    if settings.scope != "layer" or settings.prefetch != "none" or settings.budget:
        return [-1] * len(counts)
    whole = np.array(slot_counts(trace, "layer"))
    if counts == tuple(whole.tolist()):
        by_layer = hits.reshape(len(counts), -1, trace.layers)[:, :-1].sum(1)
    else:
        by_layer, _ = of_layers(trace, settings, whole)
    sizes, layers = np.maximum(trace.layer_bytes, 1), np.arange(trace.layers)
    found = []
    for count in counts:
        chosen = greedy(by_layer, whole, sizes, int(sizes.sum()) * count)
        found.append(int(by_layer[chosen - whole[0], layers].sum()))
    return found


@lru_cache(maxsize=2)
def _loaded(path: str, changed_ns: int) -> Trace:
    return load(path)[0]

"""The columns of use that a policy reads, of every expert in every pool, and its scores from them.

Only what the policy reads is kept, and what tells equal scores apart. Experts are named by their place, a
number; several slot counts at once are so many more places. Knows neither slots nor who is resident.

    columns = Columns(POLICIES["lfu"], Moment(0, 1, 64), layers=1, experts=4, size=4)
    columns.touch(np.array([2]), Touch(clock=1.0))
    columns.scores(np.arange(4))        # [0, 0, 1, 0]
"""

from __future__ import annotations

from dataclasses import fields
from typing import Any

import numpy as np
from numpy.typing import NDArray

from moeviz.core.owncode import failed
from moeviz.core.policies import Policy
from moeviz.core.use import BY_EVENT, CONSTANT, LOADED, MAX_EXPERTS, TOUCHED, Moment, Touch, Use
from moeviz.errors import PolicyError

Ints = NDArray[np.intp]
Floats = NDArray[np.float64]
LARGEST = np.finfo(np.float64).max


class _Taken:
    """The columns that a policy reads, of the experts that are resident."""

    def __getattr__(self, name: str) -> Any:
        raise PolicyError(
            f"the policy reads use.{name} at some moments and not at others. Let it read the same columns "
            "each time."
        )


class Columns:
    """`size`: places, each expert of the model once or, one after the other, several times.

    `calibrated`, `first_use`: [layers x experts] accesses in a calibration trace, and the number of the event
    that needs an expert first. `shared`: experts of all layers share a pool, and an event is one layer's.
    """

    def __init__(
        self,
        policy: Policy,
        now: Moment,
        layers: int,
        experts: int,
        size: int,
        calibrated: Floats | None = None,
        first_use: Floats | None = None,
        shared: bool = False,
    ) -> None:
        self.policy, self.now = policy, now
        copies = size // (layers * experts)
        reads = policy.reads
        kept = reads | {"last_touch"}
        place = np.tile(np.arange(layers * experts), copies)
        given = {
            "layer": place // experts,
            "expert": place % experts,
            "key": place // experts * MAX_EXPERTS + place % experts,
            "calibrated": 0.0 if calibrated is None else np.tile(calibrated, copies),
            "next_use": np.inf if first_use is None else np.tile(first_use, copies),
        }
        start = Use(**given)
        self.columns: dict[str, Floats] = {
            field.name: np.array(np.broadcast_to(getattr(start, field.name), size), np.float64)
            for field in fields(Use)
            if field.name in kept | CONSTANT
        }
        self.use = Use(**{field.name: self.columns.get(field.name, np.empty(0)) for field in fields(Use)})
        unread = {"last_touch"} - reads if policy.distinct else set()  # it tells equal scores apart
        touched = kept - unread
        self._touched = [(self.columns[name], rule) for name, rule in TOUCHED.items() if name in touched]
        self._loaded = [(self.columns[name], rule) for name, rule in LOADED.items() if name in kept]
        self.by_event = bool(reads & BY_EVENT)
        self._apart = shared and self.by_event  # company is of the event's layer only
        self._names = sorted(reads | {"layer"} if self._apart else reads)
        self._reading = [self.columns[name] for name in self._names]
        self._kept = kept
        # by place and expert of the same layer: events that needed both
        self._met = np.zeros((size if self.by_event else 0, experts), np.int32)
        self._number: Ints = place % experts
        self._met_begins: Ints = np.arange(size) * experts
        self._taken: Any = _Taken()

    def need(self, at: Ints, even: int) -> None:
        """Experts begin to be needed, those of a layer together, before it is known who of them is there.

        at: places, distinct, layer after layer. even: how many each layer needs, where all of these need as
        many; else 0.
        """
        if not even:
            layer = at // self._met.shape[1]
            begins = np.flatnonzero(np.diff(layer, prepend=-1))
            counts = np.diff(begins, append=len(at))
            for count in np.unique(counts).tolist():
                own = begins[counts == count, None] + np.arange(count)
                self.need(at[own].ravel(), count)
            return
        experts = self._met.shape[1]
        if len(at) == even:  # one layer's, as in a live run: its rows are fetched once
            begin = int(at[0]) // experts * experts
            numbers, of_layer = self._number.take(at), self._met[begin : begin + experts]
            rows = of_layer.take(numbers, 0)
            rows[:, numbers] += 1
            of_layer[numbers] = rows
            self.columns["company"][begin : begin + experts] = np.add.reduce(rows, 0, np.int32)
            return
        members, met, flat = at.reshape(-1, even), self._met, self._met.ravel()
        pairs = self._met_begins.take(members)[:, :, None] + self._number.take(members)[:, None]
        pairs = pairs.ravel()
        flat[pairs] = flat.take(pairs) + 1
        company = self.columns["company"].reshape(-1, met.shape[1])
        company[members[:, 0] // met.shape[1]] = np.add.reduce(met.take(members.T, 0), 0, np.int32)

    def touch(self, at: Any, touch: Touch) -> None:
        """Experts were used. at: places, distinct."""
        for column, rule in self._touched:
            column[at] = rule(self.use, at, touch)

    def load(self, at: Any, clock: Any) -> None:
        """Experts came into slots."""
        for column, rule in self._loaded:
            column[at] = rule(clock)

    def read(self, places: Ints) -> list[Floats]:
        """The columns that scores are made of, of experts now."""
        return [column.take(places) for column in self._reading]

    def scores(self, places: Ints) -> Floats:
        """The policy's scores of experts now, in an array of its own; never infinite above."""
        return self.scored(self.read(places), places.shape)

    def scored(self, columns: list[Floats], shape: tuple[int, ...]) -> Floats:
        """The policy's scores from columns that `read` gave; `shape`: theirs and the moment's together."""
        taken = self._taken
        for name, column in zip(self._names, columns, strict=True):
            setattr(taken, name, column)
        if self._apart:  # those of other layers than the event's have no company now
            taken.company = taken.company * (taken.layer == self.now.layer)
        found: Any = self._guarded(shape) if self.policy.guarded else self.policy.score(taken, self.now)
        if type(found) is not np.ndarray or found.dtype != np.float64 or found.shape != shape:
            found = np.array(np.broadcast_to(found, shape), np.float64)
        return found  # type: ignore[no-any-return]

    def _guarded(self, shape: tuple[int, ...]) -> Floats:
        """Scores of a policy of a user's own, which may raise and may give what is no number."""
        try:
            with np.errstate(all="ignore"):
                found: Any = self.policy.score(self._taken, self.now)
                found = np.nan_to_num(found, nan=-np.inf, posinf=LARGEST, neginf=-np.inf)
                return np.array(np.broadcast_to(found, shape), np.float64)
        except PolicyError:
            raise
        except (Exception, SystemExit) as error:
            raise failed("policy", self.policy.name, error) from error

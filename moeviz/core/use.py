"""What the cache knows of experts: columns of use, and what a touch or a load does to them.

A column holds one number for every expert, resident or not. Policies score experts by these columns; what a
touch or a load does to each is written once, in `TOUCHED` and `LOADED`, for the live cache, the replay and
the curves over all slot counts alike. Knows neither policies nor slots.

    use = Use(layer=0, expert=3, touches=5.0)
    TOUCHED["touches"](Use(0, 3, touches=np.array([5.0])), 0, Touch(clock=9.0))     # 6.0
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np

EMA = 0.3  # weight of the newest router weight in `score-ema`, as in moe-policylang
MAX_EXPERTS = 4_096  # of a layer

Column = Any  # one expert's number, or an array of them; whole numbers are exact up to 2 ** 53


@dataclass(slots=True)
class Use:
    """Columns of use: what the cache knows of each expert, whether or not it is resident. Each field is a
    number or an array."""

    layer: Column
    expert: Column
    key: Column = 0.0  # layer x 4,096 + expert
    last_touch: Column = -1.0  # clock of the last touch, or of the arrival of a pre-fetched expert
    loaded: Column = -1.0  # clock of the last load
    touches: Column = 0.0  # since the run began, kept when the expert is evicted
    touches_resident: Column = 0.0  # since the last load
    touch_number: Column = 0.0  # touches of any expert that the run had seen at this one's last, it included
    touch_before: Column = -1.0  # clock of the touch before the last one; -1: there was none
    touch_pass: Column = -1.0  # forward pass of the last touch
    touch_token: Column = 0.0  # tokens that had entered the model by then
    aged: Column = -np.inf  # log2 of the sum of its touches' 2 ** (tokens by then / half-life)
    average: Column = 0.0  # exponential average of the router weights it was chosen with
    weight: Column = 0.0  # sum of the router weights it was chosen with
    level: Column = 0.0  # the pool's level (`Touch`) at the last touch
    company: Column = 0.0  # events so far that needed both it and one of those that the latest event of its
    # layer needed, summed over these; a pass in which that layer needs nobody is no event of it
    calibrated: Column = 0.0  # accesses to it in the calibration trace
    next_use: Column = np.inf  # number of the event that needs it next, pass x layers + layer; infinity: none


@dataclass(slots=True)
class Moment:
    """When a score is asked for. In a replay of many pools at once, fields that differ between them are
    arrays [pool, 1]."""

    seed: int
    layers: int  # MoE layers of the model
    half_life: int  # tokens; of `lfu-aged`
    clock: Column = 0  # two ticks for every access (its load and its touch), one for every pre-fetch
    touches: Column = 0  # so far
    layer: Column = 0  # whose event this is
    forward_pass: Column = -1
    tokens: Column = 0  # that have entered the model, this pass's included


@dataclass(slots=True)
class Touch:
    """What the experts of one event, or of events in several pools, are touched with. Arrays are [member]."""

    clock: Column  # of each touch
    number: Column = 0.0  # touches of any expert, this one included
    weight: Column = 0.0  # of the router
    next_use: Column = np.inf
    forward_pass: Column = 0
    tokens: Column = 0
    half_life: int = 1
    level: Column = 0.0  # of the pool: the highest score of anyone evicted so far, 0 before


Places = Any  # which experts: an index into columns
CONSTANT = frozenset({"layer", "expert", "key", "calibrated"})
TOUCHED: dict[str, Callable[[Use, Places, Touch], Column]] = {  # in this order: old values are read first
    "touch_before": lambda use, at, touch: use.last_touch[at],
    "last_touch": lambda use, at, touch: touch.clock,
    "touches": lambda use, at, touch: use.touches[at] + 1.0,
    "touches_resident": lambda use, at, touch: use.touches_resident[at] + 1.0,
    "touch_number": lambda use, at, touch: touch.number,
    "touch_pass": lambda use, at, touch: touch.forward_pass,
    "aged": lambda use, at, touch: np.logaddexp2(use.aged[at], touch.tokens / touch.half_life),
    "touch_token": lambda use, at, touch: touch.tokens,
    "average": lambda use, at, touch: EMA * touch.weight + (1 - EMA) * use.average[at],
    "weight": lambda use, at, touch: use.weight[at] + touch.weight,
    "level": lambda use, at, touch: touch.level,
    "next_use": lambda use, at, touch: touch.next_use,
}
LOADED: dict[str, Callable[[Column], Column]] = {  # clock of the load -> new value
    "loaded": lambda clock: clock,
    "touches_resident": lambda clock: 0.0,
}
BY_EVENT = frozenset({"company"})  # change with every event of the pool, not with touches and loads alone
BY_RESIDENCY = frozenset({"loaded", "touches_resident", "level"})  # differ from one slot count to the next

"""Slots divided over the MoE layers by what they are worth there, against the same slots in every layer.

Layers that own their slots do not touch each other, so a layer's hits at n slots are the same whatever the
others have, and the hits of any division are a sum of single layers' curves.

    split(trace, Settings("lfu", slots=4)).gain      # hit ratio that the division brings
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from moeviz.core.settings import Settings
from moeviz.core.trace import DECODE, PREFILL, Trace
from moeviz.errors import SettingsError
from moeviz.numbers.curves import hits_by


@dataclass(frozen=True, slots=True)
class Split:
    """One amount of memory, divided in two ways. Hits are of decode, or of prefill where nothing was
    decoded."""

    equal: tuple[int, ...]  # slots of each layer, as the settings give them
    slots: tuple[int, ...]  # of each layer, as they are worth most
    equal_hits: int
    hits: int
    accesses: int

    @property
    def gain(self) -> float:
        """Hit ratio of the division less that of equal slots."""
        return (self.hits - self.equal_hits) / self.accesses if self.accesses else 0.0


def split(trace: Trace, settings: Settings, find: Callable[[str], Trace] | None = None) -> Split:
    """Divides the memory of the settings' slots, or budget, over the layers, greedily: the next slots go
    where they bring the most hits a byte.

    The division knows the trace on which it is judged, so its gain is about the most that one can have. Where
    a layer's curve is not concave, greedy looks past the dip: it takes all slots up to the best average gain
    at once. Raises SettingsError in scope model, where layers share their slots already, for a baseline, and
    as `replay` does.
    """
    if settings.scope != "layer" or settings.baseline:
        raise SettingsError("Only slots that MoE layers own can be divided over them. Choose scope layer.")
    settings.check(*trace.shape)
    equal = settings.room(*trace.shape).limits
    least = 1 if settings.one_by_one else trace.k
    counts = np.arange(least, trace.num_experts + 1)
    hits, accesses = of_layers(trace, settings, counts, find)
    sizes = np.maximum(trace.layer_bytes, 1)  # where the size is unknown, it is the same for all
    chosen = greedy(hits, counts, sizes, int(sizes @ equal))
    layers = np.arange(trace.layers)
    return Split(
        equal,
        tuple(chosen.tolist()),
        int(hits[np.array(equal) - least, layers].sum()),
        int(hits[chosen - least, layers].sum()),
        int(accesses.sum()),
    )


def of_layers(
    trace: Trace,
    settings: Settings,
    counts: NDArray[np.int64],
    find: Callable[[str], Trace] | None = None,
) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """Hits of every layer by itself at each slot count [slot count, layer], and its accesses [layer]; of
    decode, or of prefill where nothing was decoded."""
    phase = DECODE if (trace.phase == DECODE).any() else PREFILL
    counted = (trace.phase == phase)[:, None]
    labels = np.where(counted, np.arange(trace.layers), trace.layers)
    hits, accesses = hits_by(trace, settings, labels, counts.tolist(), find)
    return hits[:, : trace.layers], accesses[: trace.layers]


def greedy(
    hits: NDArray[np.int64], counts: NDArray[np.int64], sizes: NDArray[np.int64], memory: int
) -> NDArray[np.int64]:
    """Slots of each layer in so many bytes: the next ones go where they bring the most hits a byte.

    hits: [slot count, layer]; counts: the slot counts, one after the other; sizes: bytes of an expert of each
    layer.
    """
    at = np.zeros(hits.shape[1], np.intp)  # index of each layer's slot count
    left = memory - int(counts[0] * sizes.sum())
    while True:
        steps = []  # hits a byte, layer, slots; the best one of each layer
        for layer, here in enumerate(at.tolist()):
            size = int(sizes[layer])
            more = np.arange(1, min(len(counts) - 1 - here, left // size) + 1)
            if len(more):
                worth = (hits[here + more, layer] - hits[here, layer]) / (more * size)
                steps.append((float(worth.max()), -layer, int(more[worth.argmax()])))
        worth_most, layer, slots = max(steps, default=(0.0, 0, 0))
        if worth_most <= 0:
            return counts[at]
        at[-layer] += slots
        left -= slots * int(sizes[-layer])

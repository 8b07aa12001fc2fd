"""What is told of a published curve, and the registry that finds them all."""

from __future__ import annotations

import importlib
import pkgutil
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from pathlib import Path

from moeviz.core.policies import POLICIES
from moeviz.core.settings import SCOPES


@dataclass(frozen=True, slots=True)
class Published:
    """Hit ratios of one model on one text, as somebody published them."""

    whose: str  # the publication, short: "moe-trace"
    source: str  # where exactly the numbers stand
    model: str
    layers: int  # MoE layers
    experts: int  # in each
    k: int  # for each token
    scope: str  # a name of SCOPES
    told: str  # which text, and by which rule; sentences
    slots: tuple[float, ...]  # in each layer, or in all; not whole where bytes were given
    hit_ratio: Mapping[str, tuple[float, ...]]  # of decode, by policy, at each of `slots`

    def __post_init__(self) -> None:
        """Raises ValueError: what does not fit together was copied wrongly."""
        if self.scope not in SCOPES or not self.hit_ratio.keys() <= POLICIES.keys():
            raise ValueError(f"{self.name}: scope or policy is not known.")
        if any(len(ratios) != len(self.slots) for ratios in self.hit_ratio.values()):
            raise ValueError(f"{self.name}: a policy has not one hit ratio for each number of slots.")
        if not all(0 <= ratio <= 1 for ratios in self.hit_ratio.values() for ratio in ratios):
            raise ValueError(f"{self.name}: a hit ratio is no share.")
        if not all(0 < share <= 1 for share in self.shares):
            raise ValueError(f"{self.name}: there are more slots than experts.")

    @property
    def name(self) -> str:
        """What tells it from the others, in a legend or a menu."""
        return f"{self.model} ({self.whose})"

    @property
    def shares(self) -> tuple[float, ...]:
        """The part of all experts that has a slot: what models of different sizes can be compared by."""
        every = self.experts * (self.layers if self.scope == "model" else 1)
        return tuple(slots / every for slots in self.slots)

    def sentence(self) -> str:
        """Where the numbers stand and how they were made."""
        return (
            f"{self.name}: {self.layers} MoE layers of {self.experts} experts, {self.k} for each token. "
            f"{self.told} Source: {self.source}."
        )


_FOUND: list[Published] = []


def publish(
    whose: str,
    source: str,
    model: str,
    shape: tuple[int, int, int],
    scope: str,
    told: str,
    slots: Sequence[float],
    **percent: Sequence[float],
) -> None:
    """Registers a curve. shape: MoE layers, experts, k; percent: hits in percent by policy, with _ for -."""
    ratios = {
        policy.replace("_", "-"): tuple(round(one / 100, 5) for one in values)
        for policy, values in percent.items()
    }
    _FOUND.append(Published(whose, source, model, *shape, scope, told, tuple(slots), ratios))


@cache
def published() -> tuple[Published, ...]:
    """Every curve of every publication in this folder, by name."""
    for module in pkgutil.iter_modules([str(Path(__file__).parent)], "moeviz.numbers.published."):
        importlib.import_module(module.name)
    return tuple(sorted(_FOUND, key=lambda one: (one.name, one.scope)))


def of_model(name: str) -> list[Published]:
    """The curves of the model that a trace names, whoever hosts it and however it was packed."""
    own = name.rpartition("/")[2].lower()
    return [one for one in published() if one.model.lower() in own]

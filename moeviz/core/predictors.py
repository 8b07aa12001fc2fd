"""Predictors: an ordered list of experts that a layer will need, made before its router has spoken.

A predictor sees the router's choices so far and, for `next-gate`, the guesses that the model's own routers
made; it knows neither slots nor residency. A new one is one class under `@predictor`, here or in a file of
your own, named as `path.py:name` wherever a predictor is asked for:

    from moeviz.policies import predictor

    @predictor("same-again")
    class SameAgain:
        "What the latest event of any layer used."

        def __init__(self, context): self.last = []
        def observe(self, layer, chosen): self.last = [expert for expert in chosen[-1] if expert >= 0]
        def guess(self, layer, routers, width): return self.last[:width]
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, replace
from operator import index
from typing import TYPE_CHECKING, Any, Protocol

from moeviz.core.owncode import failed, first_paragraph, functions_of, not_ours, short
from moeviz.errors import PolicyError

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

Rows = Sequence[Sequence[int]]  # [token, rank] experts, strongest or likeliest first, -1 where there is none


@dataclass(frozen=True, slots=True)
class RouterGuess:
    """What later routers made of the hidden state that entered an earlier one."""

    experts: Rows
    probabilities: Sequence[Sequence[float]] | None = (
        None  # [token, rank]; None where a trace does not hold them
    )


@dataclass(frozen=True, slots=True)
class Context:
    """What a predictor has to know of a run before it begins."""

    layers: int
    experts: int
    lookahead: int  # a guess at layer l is for layer l + lookahead
    threshold: float  # of next-gate: guess until the probabilities reach it; 0: `width` guesses
    truth: Callable[[int], Sequence[int]] | None = (
        None  # what a layer will need in this forward pass, strongest first
    )


class Predictor(Protocol):
    """Guesses for one run, event by event."""

    def observe(self, layer: int, chosen: Rows) -> None:
        """The router of `layer` chose these experts."""

    def guess(self, layer: int, routers: RouterGuess | None, width: int) -> list[int]:
        """At most `width` distinct experts for `layer`, likeliest first; `routers` holds next-gate's guesses
        if there are any."""


NEEDS = frozenset({"routers", "future"})


@dataclass(frozen=True, slots=True)
class Kind:
    """A predictor and what it needs; made by `@predictor`, called with a run's Context."""

    name: str
    make: Callable[[Context], Predictor]
    needs: frozenset[str]  # "routers": the guesses of the model's routers; "future": the truth

    def __call__(self, context: Context) -> Predictor:
        return self.make(context) if self.make.__module__ == __name__ else _Guarded(self, context)

    @property
    def text(self) -> str:
        """What the predictor does, for people: its docstring."""
        return first_paragraph(self.make.__doc__)


class _Guarded:
    """A predictor of a user's own, which tells what it raises as any other fault of an input is told."""

    def __init__(self, kind: Kind, context: Context) -> None:
        self._name, self._experts = kind.name, context.experts
        self._by_routers = "routers" in kind.needs
        self._own: Predictor = self._told(kind.make, context)

    def observe(self, layer: int, chosen: Rows) -> None:
        self._told(lambda: self._own.observe(layer, chosen))

    def guess(self, layer: int, routers: RouterGuess | None, width: int) -> list[int]:
        given: Any = self._told(lambda: self._own.guess(layer, routers, width))
        if given is None:
            raise PolicyError(
                f"predictor {short(self._name)!r} guesses None. Let its guess return a list of experts, "
                "[] for none."
            )
        found: list[int] = self._told(lambda: list(map(index, given)))
        if odd := [expert for expert in found if not 0 <= expert < self._experts]:
            raise PolicyError(
                f"predictor {short(self._name)!r} guesses expert {odd[0]}; a layer has 0 to "
                f"{self._experts - 1}."
            )
        return found

    def _told(self, work: Callable[..., Any], *given: Any) -> Any:
        try:
            return work(*given)
        except PolicyError:
            raise
        except (Exception, SystemExit) as error:
            raised = failed("predictor", self._name, error)
            if error.args[:1] == ("'NoneType' object has no attribute 'experts'",) and not self._by_routers:
                raised = PolicyError(f"{raised} {_declare('routers')}")
            raise raised from error


def _declare(need: str) -> str:
    return f"A predictor is told that only where it is declared: write @predictor(name, needs={{{need!r}}})."


def untold_truth(name: str) -> PolicyError:
    """What is said of a predictor that asks what layers will need without having declared it."""
    return PolicyError(f"predictor {short(name)!r} asks for the truth. {_declare('future')}")


PREDICTORS: dict[str, Kind] = {}


def predictor(name: str, *, needs: Iterable[str] = ()) -> Callable[[Any], Any]:
    """Registers a predictor, a class or function made from the run's Context, under a name.

    `needs`: "routers" (the guesses that the model's own routers made) or "future" (the truth). Raises
    PolicyError for other needs, and ArgumentError where the name is moeviz's own.
    """
    if not set(needs) <= NEEDS:
        raise PolicyError(
            f"predictor {name!r} needs {needs}; a predictor may need {', '.join(sorted(NEEDS))}."
        )

    def register(make: Callable[[Context], Predictor]) -> Callable[[Context], Predictor]:
        if known := PREDICTORS.get(name):
            not_ours("predictor", name, known.make, make)
        PREDICTORS[name] = Kind(name, make, frozenset(needs))
        return make

    return register


def load_predictor(text: str) -> str:
    """The name of a predictor: as it is, or from a file as `path.py:name`, which runs that file. Raises
    PolicyError.

    Only for what a user typed: names that stand in a trace file never come here.
    """
    if text in PREDICTORS:
        return text
    found = functions_of("predictor", text, PREDICTORS)
    if found is None:
        return text
    PREDICTORS[text] = (
        replace(found, name=text) if isinstance(found, Kind) else Kind(text, found, frozenset())
    )
    return text


@predictor("none")
class Nothing:
    """No pre-fetching."""

    def __init__(self, context: Context) -> None: ...

    def observe(self, layer: int, chosen: Rows) -> None: ...

    def guess(self, layer: int, routers: RouterGuess | None, width: int) -> list[int]:
        return []


@predictor("previous-token")
class PreviousToken:
    """What this layer used for the token before. ProMoE's token-based baseline (arXiv 2410.22134)."""

    def __init__(self, context: Context) -> None:
        self._last: list[list[int]] = [[] for _ in range(context.layers)]

    def observe(self, layer: int, chosen: Rows) -> None:
        self._last[layer] = _chosen(chosen[-1])

    def guess(self, layer: int, routers: RouterGuess | None, width: int) -> list[int]:
        return self._last[layer][:width]


@predictor("frequency")
class Frequency:
    """The experts that this layer used most so far; ties by lower id."""

    def __init__(self, context: Context) -> None:
        self._counts = _zeros(context.layers, context.experts)

    def observe(self, layer: int, chosen: Rows) -> None:
        counts = self._counts[layer]
        for row in chosen:
            counts[_chosen(row)] += 1

    def guess(self, layer: int, routers: RouterGuess | None, width: int) -> list[int]:
        counts = self._counts[layer]
        return _most(counts, width)[: (counts > 0).sum()]


@predictor("transition")
class Transition:
    """What followed this layer's experts so far: T[i, j] counts how often j at the later layer followed i at
    the earlier, rows add-one smoothed and normalised, summed over the current experts. moe-policylang calls
    it affinity."""

    def __init__(self, context: Context) -> None:
        self._ahead, self._experts = context.lookahead, context.experts
        self._follow: dict[int, NDArray[np.float64]] = {}  # of each later layer that was seen [i, j]
        self._sums = _zeros(context.layers, context.experts)  # of its rows [later layer, i]
        self._now: dict[int, list[list[int]]] = {}  # the latest choices of each layer

    def observe(self, layer: int, chosen: Rows) -> None:
        rows = self._now[layer] = [_chosen(row) for row in chosen]
        if (source := layer - self._ahead) < 0:
            return
        if layer not in self._follow:
            self._follow[layer] = _zeros(self._experts, self._experts)
        follow, sums = self._follow[layer], self._sums[layer]
        for before, after in zip(self._now.get(source, ()), rows, strict=False):
            if before and after:
                follow[[[one] for one in before], after] += 1  # a row names nobody twice
                sums[before] += len(after)

    def guess(self, layer: int, routers: RouterGuess | None, width: int) -> list[int]:
        times = Counter(expert for row in self._now.get(layer - self._ahead, ()) for expert in row)
        if not times or layer not in self._follow:
            return list(range(min(width, self._experts)))
        current = list(times)
        scale = [*times.values()] / (self._sums[layer][current] + self._experts)
        return _most(((self._follow[layer][current] + 1) * scale[:, None]).sum(0), width)


@predictor("next-gate", needs={"routers"})
class NextGate:
    """The router of the later layer applied to the hidden state that enters this layer's router (arXiv
    2312.17238, 2511.05814).

    The guesses come with the event. Without a threshold the first `width` of each token; with one, as many as
    it takes until their probabilities reach it (SpecMD, arXiv 2602.03921), however many that is. Where an
    event has several tokens, the experts named by most of them come first, then the better ranked, then the
    lower id.
    """

    def __init__(self, context: Context) -> None:
        self._threshold = context.threshold

    def observe(self, layer: int, chosen: Rows) -> None: ...

    def guess(self, layer: int, routers: RouterGuess | None, width: int) -> list[int]:
        if routers is None:
            return []
        most = width
        rows = [row[:width] for row in routers.experts]
        if self._threshold and routers.probabilities is not None:
            rows = [
                _until(self._threshold, *pair)
                for pair in zip(routers.experts, routers.probabilities, strict=True)
            ]
            most = max(map(len, rows), default=0)
        if len(rows) == 1:
            return _chosen(rows[0])
        votes: Counter[int] = Counter()
        best: dict[int, int] = {}
        for row in rows:
            for rank, expert in enumerate(row):
                if expert >= 0:
                    votes[expert] += 1
                    best[expert] = min(rank, best.get(expert, rank))
        return sorted(votes, key=lambda e: (-votes[e], best[e], e))[:most]


@predictor("oracle", needs={"future"})
class Oracle:
    """The truth, issued as early as any guess: the ceiling that the link's bandwidth allows. It has to know
    the future."""

    def __init__(self, context: Context) -> None:
        assert context.truth is not None
        self._truth = context.truth

    def observe(self, layer: int, chosen: Rows) -> None: ...

    def guess(self, layer: int, routers: RouterGuess | None, width: int) -> list[int]:
        return list(self._truth(layer)[:width])


def _chosen(row: Sequence[int]) -> list[int]:
    """Without the places that hold nobody."""
    return [expert for expert in row if expert >= 0]


def _zeros(*shape: int) -> NDArray[np.float64]:
    import numpy as np  # not above: a command's help names the predictors, and would wait for it

    return np.zeros(shape)


def _most(counts: NDArray[np.float64], width: int) -> list[int]:
    """The experts of the highest counts, highest first, equal ones by lower id."""
    found: list[int] = (-counts).argsort(kind="stable")[:width].tolist()
    return found


def _until(threshold: float, experts: Sequence[int], probabilities: Sequence[float]) -> Sequence[int]:
    """The likeliest experts whose probabilities together reach the threshold; all of them where they do
    not."""
    reached = 0.0
    for rank, probability in enumerate(probabilities):
        reached += probability
        if reached >= threshold:
            return experts[: rank + 1]
    return experts

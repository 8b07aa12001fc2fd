"""What the routers of later layers would choose for the hidden state that enters an earlier one: the paper's
speculation, for pre-fetching and for the record.

What pre-fetching needs is asked in the event itself; what only the record needs of one token is asked once a
pass. Knows neither caches nor slots.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import torch
from numpy.typing import NDArray
from torch import nn

from moeviz.core.predictors import RouterGuess
from moeviz.core.settings import Settings
from moeviz.engine.loader import Loaded
from moeviz.engine.probe import LOOKAHEADS, Product
from moeviz.engine.reached import MoELayer

GUESSES = (
    8  # at least so many per layer, or all experts, so that a replay can try other widths and thresholds
)
Place = tuple[int, int]  # (layer that a guess is for, how many layers ahead it was made)


class Guesses:
    """The guesses of one forward pass after the other.

    `recorded`: whether the trace holds guesses for every lookahead; `width`: experts that a guess names at
    least.
    """

    def __init__(self, loaded: Loaded, settings: Settings, recorded: bool, width: int) -> None:
        self._layers: Sequence[MoELayer] = loaded.layers
        self._read = loaded.hardware.read
        self._recorded = recorded
        self._by_routers = settings.by_routers
        self._lookahead = settings.lookahead
        ahead = set(range(1, LOOKAHEADS + 1)) if recorded else set()
        if self._by_routers:
            ahead.add(self._lookahead)
        self._lookaheads = sorted(d for d in ahead if d < len(self._layers))
        self._width = min(loaded.experts, max(2 * loaded.k, width, GUESSES))
        self._with_probabilities = recorded or (self._by_routers and settings.threshold > 0)
        self._entered: list[torch.Tensor | None] = [None] * len(self._layers)  # the router, in this pass
        self._found: dict[Place, RouterGuess] = {}
        # by layer: for which later layers it is asked once a pass, and all their routers as one product
        self._places: list[list[Place]] = []
        self._products: list[Product] = []
        for number in range(len(self._layers)) if loaded.routers is not None else ():
            targets = range(number + 1, min(number + 1 + LOOKAHEADS, len(self._layers)))
            self._places.append([(target, target - number) for target in targets])
            self._products.append(loaded.routers.of(targets, loaded.experts))

    def begin_pass(self) -> None:
        self._found = {}

    def hooks(self) -> list[Any]:
        """Hooks that note what enters a router, where the experts are not given the same."""
        return [
            layer.chooser.register_forward_pre_hook(self._keep(number))
            for number, layer in enumerate(self._layers)
            if layer.chooser is not None and self._lookaheads and not layer.same_hidden
        ]

    def _keep(self, number: int) -> Callable[..., None]:
        def hook(module: nn.Module, args: tuple[Any, ...]) -> None:
            self._entered[number] = args[0] if args else None

        return hook

    def enter(self, number: int, hidden: torch.Tensor) -> None:
        """The experts of a layer are given this hidden state; [token, hidden]."""
        if self._lookaheads and self._layers[number].same_hidden:
            self._entered[number] = hidden

    def ask(self, number: int, tokens: int) -> tuple[list[Place], list[torch.Tensor]]:
        """Asks the routers of later layers about what entered this layer's: what pre-fetching needs now; of a
        prompt all of them.

        What only the record needs of one token waits for the end of the pass; a prompt's hidden states would
        take too much memory. Gives the guesses' places, and their tensors for `keep`, once they are read.
        """
        entering = self._entered[number]
        if entering is None:
            return [], []
        places: list[Place] = []
        tensors: list[torch.Tensor] = []
        for d in self._lookaheads if tokens > 1 else [self._lookahead] if self._by_routers else []:
            target = number + d
            if target < len(self._layers) and (router := self._layers[target].router) is not None:
                places.append((target, d))
                tensors += self._likeliest(*router.ask(entering))
        if tokens > 1:
            self._entered[number] = None
        return places, tensors

    def keep(
        self, places: Sequence[Place], found: Sequence[NDArray[Any]], real: Sequence[int] | None
    ) -> None:
        """Takes in the answers of `ask`: of each place experts and, where they are needed, probabilities.
        `real`: the rows that are no padding; None: all."""
        each = 2 if self._with_probabilities else 1
        for n, place in enumerate(places):
            answers = found[n * each : n * each + each]
            if real is not None:
                answers = [array[real] for array in answers]
            experts, *rest = (array.tolist() for array in answers)
            self._found[place] = RouterGuess(experts, rest[0] if rest else None)

    def of(self, number: int) -> RouterGuess | None:
        """What pre-fetching is told at a layer."""
        return self._found.get((number + self._lookahead, self._lookahead)) if self._by_routers else None

    def ask_the_rest(self) -> None:
        """Asks every router about the earlier layers' hidden states of this pass that it was not asked about,
        all at once.
        """
        if self._products and self._recorded:
            asked, logits, rankings = self._ask_side_by_side()
        else:
            asked, logits, rankings = self._ask_each()
        if asked:
            every = torch.cat(logits)
            plain = all(one is ranking for one, ranking in zip(logits, rankings, strict=True))
            found = self._read(*self._likeliest(every, every if plain else torch.cat(rankings)))
            experts, *rest = (array.tolist() for array in found)
            for n, place in enumerate(asked):
                if place not in self._found:
                    self._found[place] = RouterGuess([experts[n]], [rest[0][n]] if rest else None)
        self._entered = [None] * len(self._entered)

    def _ask_each(self) -> tuple[list[Place], list[torch.Tensor], list[torch.Tensor]]:
        """Places, logits and rankings of every router asked by itself."""
        asked: list[Place] = []
        logits: list[torch.Tensor] = []
        rankings: list[torch.Tensor] = []
        entered, ahead = self._entered, self._lookaheads
        for target, layer in enumerate(self._layers):
            if layer.router is None:
                continue
            for d in ahead:
                if d > target or (target, d) in self._found or (entering := entered[target - d]) is None:
                    continue
                one, ranking = layer.router.ask(entering)
                asked.append((target, d))
                logits.append(one)
                rankings.append(ranking)
        return asked, logits, rankings

    def _ask_side_by_side(self) -> tuple[list[Place], list[torch.Tensor], list[torch.Tensor]]:
        """The same of routers that stand side by side: each hidden state is multiplied once."""
        asked: list[Place] = []
        logits: list[torch.Tensor] = []
        for entering, places, product in zip(self._entered, self._places, self._products, strict=True):
            if entering is not None and places:
                asked += places
                rows = entering if entering.dim() == 2 else entering.flatten(0, -2)
                logits.append(product(rows).view(len(places), -1))
        return asked, logits, logits

    def _likeliest(self, logits: torch.Tensor, ranking: torch.Tensor) -> list[torch.Tensor]:
        """Ids and, where they are needed, probabilities of the experts that a router would choose next,
        likeliest first; [row, rank] both.
        """
        experts = ranking.topk(self._width, dim=1).indices
        if not self._with_probabilities:
            return [experts]
        # rounded as a trace stores them, so that a replay reaches a threshold where the run did
        return [experts, logits.float().softmax(-1).gather(1, experts).half()]

    def experts(self, tokens: int) -> list[list[list[list[int]]]]:
        """[token, layer, lookahead, rank]; no lookaheads where guesses are not recorded."""
        return self._table(tokens, lambda guess: guess.experts, -1)

    def probabilities(self, tokens: int) -> list[list[list[list[float]]]]:
        """The same of probabilities."""
        return self._table(tokens, lambda guess: guess.probabilities, 0.0)

    def _table(
        self, tokens: int, of: Callable[[RouterGuess], Any], none: float
    ) -> list[list[list[list[Any]]]]:
        ahead = range(1, LOOKAHEADS + 1) if self._recorded else ()
        empty = [none] * self._width
        found = self._found
        return [
            [
                [of(found[layer, d])[token] if (layer, d) in found else empty for d in ahead]
                for layer in range(len(self._layers))
            ]
            for token in range(tokens)
        ]

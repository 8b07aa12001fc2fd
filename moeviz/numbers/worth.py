"""What a guess has to be worth: the precision from which pre-fetching helps.

break_even_precision(fit(run), layers=8, k=2, lookahead=1, pollution=0.2)
"""

from __future__ import annotations

from moeviz.core.run import Run
from moeviz.numbers import metrics
from moeviz.numbers.cost import Costs


def break_even_precision(costs: Costs, layers: int, k: int, lookahead: int, pollution: float) -> float:
    """Share of guesses that has to be right for pre-fetching to save time.

    A right guess is copied while `lookahead` layers compute, so it saves min(copy, lookahead x time of a
    layer). A wrong one holds the link when the next layer needs it, for max(0, copy - time of a layer), and
    with probability `pollution` it took the slot of an expert that has to be copied again. With s saved and c
    lost the two are even at a precision of c / (c + s). Copies of one guess that hold up another are not
    looked at, so the figure is the least that a guess needs. All times in ms.
    """
    of_a_layer = (costs.other + k * layers * costs.expert) / layers
    saved = min(costs.copy, lookahead * of_a_layer)
    lost = max(0.0, costs.copy - of_a_layer) + pollution * costs.copy
    return lost / (lost + saved) if lost + saved else 0.0


def break_even_precisions(
    costs: Costs, layers: int, k: int, pollution: float, lookaheads: int = 3
) -> list[float]:
    """`break_even_precision` of guesses 1, 2, .. `lookaheads` layers ahead."""
    ahead = range(1, lookaheads + 1)
    return [break_even_precision(costs, layers, k, one, pollution) for one in ahead]


def pollution_of(run: Run) -> float:
    """Misses that wasted guesses caused / wasted guesses; 0 where no guess was wasted."""
    wasted = metrics.ledger(run).wasted
    return metrics.miss_kinds(run).pollution / wasted if wasted else 0.0

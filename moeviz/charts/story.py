"""One event in words: who was needed, who left for it and why, who else was there.

event(explainer, step=60, layer=3)      # 'Token 60, MoE layer 3: expert 1 hit, expert 6 missed (cold: ...).'
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from moeviz.core.policies import POLICIES
from moeviz.core.run import MISS
from moeviz.numbers import metrics
from moeviz.numbers.explain import Eviction, Explainer
from moeviz.words import MISS_KINDS, OUTCOMES, many, passes_of, policy_name

if TYPE_CHECKING:
    import pandas as pd

WHY = {  # kind of a miss -> the kind and what it means
    "cold": "cold: never loaded before",
    "capacity": "capacity: it left in an earlier pass",
    "collision": "collision: it left earlier in this pass",
    "pollution": "pollution: it left for a guess that nobody used",
}
MARKS = {
    "leaves": "✕ leaves",
    "could leave": "could leave",
    "needed now": "pinned: needed now",
    "held by a guess": "held by a guess",
}


def event(explainer: Explainer, step: int, layer: int) -> str:
    """What a MoE layer needed in a forward pass, and whether it was there."""
    run = explainer.run
    name = passes_of(run)[step]
    name = f"{name[0].upper()}{name[1:]}"
    row = run.event(step, layer)
    if row is None:
        return f"{name}, MoE layer {layer}: no expert was needed."
    own = run.accesses.event == row
    experts, outcomes = run.accesses.expert[own], run.accesses.outcome[own]
    kinds = metrics.miss_kind_of_access(run)[own]
    parts = [
        f"expert {expert} {OUTCOMES[outcome]}" + (f" ({WHY[MISS_KINDS[kind]]})" if outcome == MISS else "")
        for expert, outcome, kind in zip(experts.tolist(), outcomes.tolist(), kinds.tolist(), strict=True)
    ]
    return f"{name}, MoE layer {layer}: {', '.join(parts)}."


def eviction(explainer: Explainer, one: Eviction, layer: int) -> str:
    """Why an expert left at an event of `layer`, for whom, and whether it was regretted."""
    who = f"expert {one.for_expert}" + (f" of layer {one.for_layer}" if one.for_layer != layer else "")
    came = f"{who[0].upper()}{who[1:]}{', a guess,' if one.speculative else ''} took its slot."
    return f"{one.sentence} {came} {regret(explainer, one)}"


def regret(explainer: Explainer, one: Eviction) -> str:
    """By how much the victim comes back too early."""
    match one.regret:
        case _ if not one.regretted:
            return "No regret: no other that could leave is needed later."
        case 0:
            return "Regret: it is needed again in this pass, Belady's choice later in it."
        case None:
            return "Regret: another that could leave is never needed again."
        case passes:
            sooner = many(passes, "token" if explainer.run.token_by_token else "pass")
            return f"Regret: it is needed again {sooner} before Belady's choice."


def residents(explainer: Explainer, one: Eviction) -> pd.DataFrame:
    """Everyone resident when a victim was chosen, the first to leave first; the MoE layer where they are of
    several, and what the policy went by where it has words for it.
    """
    import pandas as pd

    found, units = one.residents, "tokens" if explainer.run.token_by_token else "passes"
    reads = [explainer.measure(other.score, other.last_use) for other in found]
    policy = POLICIES[explainer.settings.policy]
    scored = any(reads) and "{ago}" not in policy.measure  # when it was used last has a column of its own
    shared = len({other.layer for other in found}) > 1
    return pd.DataFrame(
        {
            **({"MoE layer": [str(other.layer) for other in found]} if shared else {}),
            "expert": [str(other.expert) for other in found],
            "choice": [
                MARKS[other.status]
                + (", Belady's choice" if (other.layer, other.expert) == one.belady else "")
                for other in found
            ],
            **({f"what {policy_name(policy.name)} goes by": reads} if scored else {}),
            f"last used, {units} ago": [_number(other.last_use, "not yet") for other in found],
            f"next needed, in {units}": [_number(other.next_use, "never again") for other in found],
        }
    )


def _number(passes: int | None, none: str) -> str:
    return none if passes is None else f"{passes:,}"

"""The game of lesson 3: guess who leaves at each eviction. Pure functions: a game and a move in, a game out.

game = guess(start(trace, "lru"), 4)
game.streak, game.round.sentence
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace

from moeviz.charts.style import SERIES
from moeviz.core.settings import Settings
from moeviz.core.trace import Trace
from moeviz.errors import SettingsError
from moeviz.lessons import drawing
from moeviz.numbers.explain import Eviction, Explainer
from moeviz.words import policy_name

RULES = {  # policy -> whom it drops
    "lru": "the expert that was used longest ago",
    "lfu": "the expert that was used least often since the run began",
    "lfu-resident": "the expert that was used least often since it was last loaded",
    "belady": "the expert that is needed again last, or never",
}
POLICIES = tuple(RULES)
SLOTS = 5
ROUNDS = 8
PAST, FUTURE = 18, 12  # tokens that a player sees of each expert
WARM = 24  # forward passes before the first round, so that there is a past


@dataclass(frozen=True, slots=True)
class Candidate:
    """An expert that could leave, and what the policy could know about it."""

    expert: int
    last_use: int | None  # forward passes ago; None: not yet used
    next_use: int | None  # in forward passes; None: never again
    uses: int  # since the run began
    uses_since_load: int
    history: tuple[bool, ...]  # used in each of the last PAST passes, the latest last
    future: tuple[bool, ...]  # used in each of the next FUTURE passes


@dataclass(frozen=True, slots=True)
class Round:
    """One eviction, as a question."""

    step: int  # forward pass
    layer: int
    newcomer: int
    candidates: tuple[Candidate, ...]  # by expert id
    victim: int
    sentence: str  # why it left


@dataclass(frozen=True, slots=True)
class Game:
    """Where a player stands."""

    policy: str
    rounds: tuple[Round, ...]
    at: int = 0  # number of the round
    guessed: int | None = None  # in this round
    hinted: bool = False  # in this round
    right: int = 0
    streak: int = 0  # guessed right in a row, without a hint
    best: int = 0  # the longest streak

    @property
    def round(self) -> Round:
        return self.rounds[self.at]

    @property
    def over(self) -> bool:
        """Whether the last round has been guessed."""
        return self.guessed is not None and self.at == len(self.rounds) - 1


def start(trace: Trace, policy: str, slots: int = SLOTS, rounds: int = ROUNDS, first: int = 0) -> Game:
    """A game on the evictions of a replay in which at least two experts could leave, spread over the text;
    at most one a pass.

    `first` shifts which of them are asked. Raises SettingsError for a policy that is not played, and where
    the trace holds no such
    eviction.
    """
    if policy not in POLICIES:
        raise SettingsError(
            f"the game is not played against {policy!r}. Choose one of {', '.join(POLICIES)}."
        )
    explainer = Explainer(trace, Settings(policy, slots))
    passes = len(explainer.run.passes.phase)
    found = []
    for step in range(min(WARM, passes // 2), passes):
        layer = (step + first) % trace.layers
        for one in explainer.evictions(step, layer)[:1]:
            if sum(resident.status in ("leaves", "could leave") for resident in one.residents) > 1:
                found.append(_round(trace, explainer, one, step))
    if not found:
        raise SettingsError(
            f"{slots} slots leave nothing to guess on this trace. Choose fewer slots or a longer trace."
        )
    every = max(1, len(found) // rounds)
    return Game(policy, tuple(found[first % every :: every][:rounds]))


def guess(game: Game, expert: int) -> Game:
    """The player says who leaves. A second guess in one round changes nothing. Raises SettingsError for an
    expert that cannot leave.
    """
    if game.guessed is not None:
        return game
    could = [one.expert for one in game.round.candidates]
    if expert not in could:
        raise SettingsError(f"expert {expert} cannot leave now. Choose one of {', '.join(map(str, could))}.")
    good = expert == game.round.victim
    streak = game.streak + (0 if game.hinted else 1) if good else 0
    return replace(game, guessed=expert, right=game.right + good, streak=streak, best=max(game.best, streak))


def hint(game: Game) -> Game:
    """The player asks for the numbers that the policy goes by; a round with a hint does not lengthen the
    streak.
    """
    return replace(game, hinted=True) if game.guessed is None else game


def onward(game: Game) -> Game:
    """The next round; the same game where this one has not been guessed, or was the last."""
    if game.guessed is None or game.over:
        return game
    return replace(game, at=game.at + 1, guessed=None, hinted=False)


def rule(game: Game) -> str:
    """What the board shows, and whom the policy drops."""
    return (
        f"A box is a token, filled where it used the expert. {policy_name(game.policy)} drops "
        f"{RULES[game.policy]}."
    )


def hint_text(game: Game) -> str:
    """What the policy goes by, a number for each candidate."""
    by: dict[str, tuple[str, Callable[[Candidate], str]]] = {
        "lru": ("Last used", lambda one: _passes(one.last_use, "ago", "not yet")),
        "lfu": ("Uses since the run began", lambda one: str(one.uses)),
        "lfu-resident": ("Uses since it was last loaded", lambda one: str(one.uses_since_load)),
        "belady": ("Next needed", lambda one: _passes(one.next_use, "later", "never again")),
    }
    name, of = by[game.policy]
    told = "; ".join(f"expert {one.expert}: {of(one)}" for one in game.round.candidates)
    return f"{name}. {told}."


def said(game: Game) -> str:
    """What came of the guess, and why the victim left; empty before the guess."""
    if game.guessed is None:
        return ""
    verdict = "Right." if game.guessed == game.round.victim else f"No, expert {game.round.victim} leaves."
    return f"{verdict} {game.round.sentence}"


def board(game: Game) -> str:
    """The candidates' past as a drawing, and the text to come where the policy may see it or the round is
    over.
    """
    now, seen = game.round, game.policy == "belady" or game.guessed is not None
    columns = PAST + (FUTURE if seen else 0)
    left, top, high = 84.0, 44.0, 30.0
    wide = (drawing.WIDTH - left - 8) / (PAST + FUTURE)
    parts = [
        drawing.text(0, 16, f"Layer {now.layer}: expert {now.newcomer} needs a slot. Who leaves?", bold=True),
        drawing.text(left + PAST * wide - 6, 36, "past, to now", "end"),
    ]
    if seen:
        parts.append(drawing.text(left + PAST * wide + 6, 36, "what is to come"))
    for row, one in enumerate(now.candidates):
        y = top + row * high
        mark = " ←" if game.guessed is not None and one.expert == now.victim else ""
        parts.append(drawing.text(left - 8, y + 19, f"expert {one.expert}{mark}", "end"))
        for column, used in enumerate((*one.history, *one.future)[:columns]):
            color = SERIES[0] if column < PAST else SERIES[1]
            parts.append(
                drawing.box(left + column * wide + 1, y + 4, wide - 3, high - 9, color if used else "none")
            )
    x, bottom = left + PAST * wide - 0.5, top + high * len(now.candidates)
    parts.append(drawing.rule(x, top - 6, x, bottom + 4))
    told = "; ".join(
        f"expert {one.expert} used in {sum(one.history)} of the last {PAST} passes" for one in now.candidates
    )
    return drawing.page(
        bottom + 8, f"Expert {now.newcomer} needs a slot in layer {now.layer}. {told}", *parts
    )


def _passes(count: int | None, when: str, never: str) -> str:
    if count is None:
        return never
    return f"{count} token{'' if count == 1 else 's'} {when}" if count else "in this pass"


def _round(trace: Trace, explainer: Explainer, one: Eviction, step: int) -> Round:
    passes = trace.passes()
    used = [trace.experts[tokens, one.layer] for tokens in passes]  # [pass][token, rank]
    loads = explainer.run.loads
    came_in = explainer.run.events.forward_pass[loads.event]
    could = sorted(
        (other for other in one.residents if other.status in ("leaves", "could leave")),
        key=lambda other: other.expert,
    )
    candidates = []
    for other in could:
        was = [bool((row == other.expert).any()) for row in used]
        own = (loads.layer == one.layer) & (loads.expert == other.expert) & (came_in < step)
        since = int(came_in[own].max()) if own.any() else 0
        past = was[max(step - PAST, 0) : step]
        coming = was[step : step + FUTURE]
        candidates.append(
            Candidate(
                other.expert,
                other.last_use,
                other.next_use,
                sum(was[:step]),
                sum(was[since:step]),
                _filled(past, PAST, before=True),
                _filled(coming, FUTURE),
            )
        )
    return Round(step, one.layer, one.for_expert, tuple(candidates), one.expert, one.sentence)


def _filled(row: Sequence[bool], length: int, before: bool = False) -> tuple[bool, ...]:
    empty = (False,) * (length - len(row))
    return (*empty, *row) if before else (*row, *empty)

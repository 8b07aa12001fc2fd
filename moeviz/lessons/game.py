"""The game of lesson 3: guess who leaves at each eviction. Pure functions: a game and a move in, a game out.

game = guess(start(trace, "lru"), 4)
game.streak, game.round.sentence
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

from moeviz.charts.style import SERIES
from moeviz.core.policies import POLICIES
from moeviz.core.replay import check_trace
from moeviz.core.settings import Settings, calibrated
from moeviz.core.trace import Trace
from moeviz.errors import SettingsError
from moeviz.lessons import drawing
from moeviz.numbers.explain import Eviction, Explainer
from moeviz.words import many, policy_name

LESSON = ("lru", "lfu", "lfu-resident", "belady")  # what the lesson is about; offered first
SLOTS = 5
ROUNDS = 8
PAST, FUTURE = 18, 12  # tokens that a player sees of each expert
WARM = 24  # forward passes before the first round, so that there is a past


@dataclass(frozen=True, slots=True)
class Candidate:
    """An expert that could leave, and what the policy could know about it."""

    expert: int
    measure: str  # what the policy goes by, of this expert, in its own words; empty: it has none
    history: tuple[bool, ...]  # used in each of the last PAST passes, the latest last
    future: tuple[bool, ...]  # used in this pass and in those after it, FUTURE in all


@dataclass(frozen=True, slots=True)
class Round:
    """One eviction, as a question."""

    step: int  # forward pass
    layer: int
    newcomer: int
    candidates: tuple[Candidate, ...]  # by expert id
    victim: int
    other: int  # somebody else who could leave
    why: str  # the victim left, as the policy puts it
    tied: bool  # another had the same score
    sentence: str  # why it left, whole


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


def choices(trace: Trace) -> tuple[str, ...]:
    """Every registered policy that the trace can serve, those of the lesson first."""
    return tuple(name for name in dict.fromkeys((*LESSON, *POLICIES)) if _fits(trace, name))


def _fits(trace: Trace, policy: str) -> bool:
    try:
        check_trace(trace, _settings(policy, SLOTS))
    except SettingsError:
        return False
    return True


def start(trace: Trace, policy: str, slots: int = SLOTS, rounds: int = ROUNDS, first: int = 0) -> Game:
    """A game on the evictions of a replay in which at least two experts could leave, spread over the text;
    at most one a pass.

    `first` shifts which of them are asked. A policy that needs a calibration gets the trace itself. Raises
    SettingsError for a policy that does not fit the trace, and where there is no such eviction.
    """
    explainer = Explainer(trace, _settings(policy, slots))
    passes = len(explainer.run.passes.phase)
    found = []
    for step in range(min(WARM, passes // 2), passes):
        layer = (step + first) % trace.layers
        for one in explainer.evictions(step, layer)[:1]:
            if sum(resident.status in ("leaves", "could leave") for resident in one.residents) > 1:
                found.append((one, step))
    if not found:
        raise SettingsError(
            f"{slots} slots leave nothing to guess on this trace. Choose fewer slots or a longer trace."
        )
    every = max(1, len(found) // rounds)
    asked = found[first % every :: every][:rounds]
    return Game(policy, tuple(_round(trace, explainer, one, step) for one, step in asked))


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
    """The player asks for what the policy goes by; a round with a hint does not lengthen the streak."""
    return replace(game, hinted=True) if game.guessed is None else game


def onward(game: Game) -> Game:
    """The next round; the same game where this one has not been guessed, or was the last."""
    if game.guessed is None or game.over:
        return game
    return replace(game, at=game.at + 1, guessed=None, hinted=False)


def rule(game: Game) -> str:
    """What the board shows, and whom the policy drops: the first sentence of its own text."""
    text = POLICIES[game.policy].text.partition(". ")[0].rstrip(".") or "whose score is lowest leaves"
    return f"A box is a token, filled where it used the expert. {policy_name(game.policy)}: {text}."


def hint_text(game: Game) -> str:
    """What the policy goes by, in its own words: of each candidate, or of the victim where the policy has
    none for the others; then with one more name, so that something is left to guess. Nothing helps where lots
    are drawn.
    """
    now, policy = game.round, POLICIES[game.policy]
    if any(one.measure for one in now.candidates):
        told = "; ".join(f"expert {one.expert}: {one.measure}" for one in now.candidates)
        tie = " Of those that tie the least recently used leaves." if now.tied and not policy.distinct else ""
        return f"{told[0].upper()}{told[1:]}.{tie}"
    if policy.drawn:
        return f"Who leaves: {now.why}. Nobody can know, and no guess is better than another."
    first, second = sorted((now.victim, now.other))
    return f"Who leaves: {now.why}. It is expert {first} or expert {second}."


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
    now, seen = game.round, "future" in POLICIES[game.policy].needs or game.guessed is not None
    columns = PAST + (FUTURE if seen else 0)
    left, top, high = 84.0, 64.0, 30.0
    wide = (drawing.WIDTH - left - 8) / (PAST + FUTURE)
    asks = f"Which expert does {policy_name(game.policy)} drop?"
    parts = [
        drawing.text(0, 16, f"Layer {now.layer}: expert {now.newcomer} needs a slot.", bold=True),
        drawing.text(0, 36, asks, bold=True),
        drawing.text(left + PAST * wide - 6, 56, "past", "end"),
    ]
    if seen:
        parts.append(drawing.text(left + PAST * wide + 6, 56, "now and to come"))
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


def _settings(policy: str, slots: int) -> Settings:
    return calibrated(Settings(policy, slots))


def _round(trace: Trace, explainer: Explainer, one: Eviction, step: int) -> Round:
    used = [trace.experts[tokens, one.layer] for tokens in trace.passes()]  # [pass][token, rank]
    could = [other for other in one.residents if other.status in ("leaves", "could leave")]
    sees = "future" in POLICIES[explainer.settings.policy].needs
    candidates = []
    for other in sorted(could, key=lambda other: other.expert):
        was = [bool((row == other.expert).any()) for row in used]
        measure = explainer.measure(other.score, other.last_use) or (_needed(other.next_use) if sees else "")
        past = _filled(was[max(step - PAST, 0) : step], PAST, before=True)
        candidates.append(Candidate(other.expert, measure, past, _filled(was[step : step + FUTURE], FUTURE)))
    return Round(
        step,
        one.layer,
        one.for_expert,
        tuple(candidates),
        one.expert,
        could[1].expert,
        one.why,
        one.tied,
        one.sentence,
    )


def _needed(passes: int | None) -> str:
    """When an expert is needed next, so many forward passes from now."""
    if passes is None:
        return "never needed again"
    return f"needed again {many(passes, 'token')} later" if passes else "needed in this pass"


def _filled(row: Sequence[bool], length: int, before: bool = False) -> tuple[bool, ...]:
    empty = (False,) * (length - len(row))
    return (*empty, *row) if before else (*row, *empty)

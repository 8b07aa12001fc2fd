"""Eviction policies: a score for every resident expert; the lowest leaves.

A score is an expression over columns of use (`Use`) and the moment (`Moment`). It is written once and works
on one expert's numbers and on arrays of any shape alike, so the live cache, the replay, the curves over all
slot counts and the explanations evaluate the very same function. What a touch or a load does to the columns
is written once too, in `moeviz.core.use`. Of equal scores the least recently used leaves; no two
residents were used last at the same moment. Where who leaves depends on lists of residents
and of those who left (arc, s3-fifo), what is decorated is a class of
`moeviz.core.lists.Lists` instead. A new policy is one function under `@policy`, here or in a file of your
own, named as `path.py:name` wherever a policy is asked for:

    from moeviz.policies import Moment, Use, policy

    @policy("mru", says="used more recently than any other that could leave")
    def mru(use: Use, now: Moment) -> float:
        "Most recently used leaves."
        return -use.last_touch
"""

from __future__ import annotations

import inspect
from collections.abc import Callable, Container, Iterable
from copy import deepcopy
from dataclasses import dataclass, fields, replace
from operator import index
from typing import Any, TypeVar

import numpy as np

from moeviz.core.lists import Arc, Lists, S3Fifo, wrong_victim
from moeviz.core.owncode import failed, first_paragraph, functions_of, not_ours, short, told
from moeviz.core.use import BY_EVENT, BY_RESIDENCY, Column, Moment, Use
from moeviz.errors import PolicyError

NEEDS = frozenset({"future", "calibration", "weights"})
NEED_OF = {"next_use": "future", "calibrated": "calibration", "average": "weights", "weight": "weights"}

Score = Callable[[Use, Moment], Any]
Shown = Callable[[Any, Moment], Any]  # scores -> what people are told


def as_it_is(score: Column, now: Moment) -> Column:
    """The score itself."""
    return score


def _lists_decide(use: Use, now: Moment) -> Column:
    """The score of a policy that has none."""
    raise PolicyError("a policy that keeps lists has no score for an expert by itself.")


@dataclass(frozen=True, slots=True)
class Policy:
    """A score and what it needs; made by `@policy`."""

    name: str
    score: Score
    says: str  # the victim's score in words: {ago}, {times} and {score} are filled in
    needs: frozenset[str]  # of NEEDS
    stack: bool  # who stays at n slots stays at n + 1: declared, never guessed
    reads: frozenset[str]  # columns of use
    steady: bool  # an expert's score changes only when the expert is touched or loaded
    distinct: bool  # no two residents have the same score
    guarded: bool  # its scores may hold what is no number
    drawn: bool = False  # by lot, from the run's seed, so that nobody can know them
    shown: Shown = as_it_is
    lists: type[Lists] | None = None  # that decide instead of the score

    def keep(self, slots: int) -> Lists:
        """The lists of one pool. Raises PolicyError where they cannot be made."""
        assert self.lists is not None
        own = self.lists.__module__ != Lists.__module__
        return _Guarded(self.name, self.lists, slots) if own else self.lists(slots)

    @property
    def text(self) -> str:
        """What the policy does, for people: the docstring of its score, or of its lists."""
        return first_paragraph((self.lists or self.score).__doc__)

    @property
    def measure(self) -> str:
        """`says` of one expert by itself, without the comparison that follows its last comma: "used {times}
        so far". Empty where it is about the victim alone."""
        alone = self.says.rpartition(",")[0]
        return alone if "{" in alone else ""


POLICIES: dict[str, Policy] = {}
Decorated = TypeVar("Decorated", Score, type[Lists])
ANY_SCORE = "its score was {score:.4g}, the least of all that could leave"


def policy(
    name: str,
    *,
    says: str = ANY_SCORE,
    needs: Iterable[str] = (),
    stack: bool = False,
    shown: Shown = as_it_is,
) -> Callable[[Decorated], Decorated]:
    """Registers a score, or a class of `Lists`, under a name.

    `says`: why the victim left, in words. `needs`: what has to be known besides the run: "future",
    "calibration" or "weights" (of the router); what a score reads is needed without being said. `stack`:
    True promises that more slots never lose a hit because the score depends on neither slots nor residency
    (Mattson et al. 1970); curves are then drawn faster. `shown`: what stands for a score in words and bars,
    in the same order of experts. Lists say themselves why, and need none of these. Raises PolicyError where
    the score is not an expression that works on arrays, `stack` cannot be true of it or lists lack a method,
    and ArgumentError where the name is moeviz's own.
    """

    def register(score: Decorated) -> Decorated:
        if known := POLICIES.get(name):
            not_ours("policy", name, known.lists or known.score, score)
        POLICIES[name] = replace(_examined(name, score, says, frozenset(needs), stack), shown=shown)
        return score

    return register


def load_policy(text: str) -> str:
    """The name of a policy: as it is, or from a file as `path.py:name`, which runs that file. Raises
    PolicyError.

    Only for what a user typed: names that stand in a trace file never come here.
    """
    if text in POLICIES:
        return text
    found = functions_of("policy", text, POLICIES)
    if found is None:
        return text
    if not isinstance(found, Policy):
        found = _examined(text, found, ANY_SCORE, frozenset(), False)
    POLICIES[text] = replace(found, name=text)
    return text


class _Seen:
    """Stands for a Use or a Moment and remembers which fields were asked for."""

    def __init__(self, values: dict[str, Any]) -> None:
        self._values = values
        self.asked: set[str] = set()

    def __getattr__(self, name: str) -> Any:
        self.asked.add(name)
        try:
            return self._values[name]
        except KeyError:
            raise AttributeError(f"there is no {name!r}; there are {', '.join(self._values)}") from None


def _examined(name: str, score: Score | type[Lists], says: str, needs: frozenset[str], stack: bool) -> Policy:
    """Evaluates a score once, on two experts at once, to see what it reads."""
    if isinstance(score, type):
        return _tried(name, score)
    if not needs <= NEEDS:
        raise PolicyError(
            f"policy {name!r} needs {', '.join(sorted(needs - NEEDS))}; a policy may need "
            f"{', '.join(sorted(NEEDS))}."
        )
    try:
        inspect.signature(score).bind(None, None)
    except ValueError:  # some of other languages tell nobody what they take
        pass
    except TypeError:
        raise PolicyError(
            f"policy {short(name)!r} is no function of two: what is known of each expert, and of now. "
            f"Write def {name.rpartition(':')[2]}(use, now): return -use.last_touch, for example."
        ) from None
    columns = {field.name: np.array([1.0, 2.0]) for field in fields(Use)}
    use = _Seen(columns)
    now = _Seen(
        {
            field.name: 3 if field.name in ("seed", "layers", "half_life") else np.full((2, 1), 3)
            for field in fields(Moment)
        }
    )
    try:
        with np.errstate(all="ignore"):
            found = score(use, now)  # type: ignore[arg-type]
            odd = np.iscomplexobj(found)
            scores = np.broadcast_to(np.asarray(0.0 if odd else found, np.float64), (2, 2))
        says.format(score=0.0, ago="", times="")
    except (KeyError, IndexError) as error:
        raise PolicyError(
            f"policy {name!r}: says={says!r} may hold {{ago}}, {{times}} and {{score}}, not {error}."
        ) from None
    except Exception as error:
        raise PolicyError(
            f"policy {name!r} does not work on arrays of experts: {told(name, error)}. Write an expression "
            "over columns of use, for example -use.last_touch, with np.where and np.maximum instead of if "
            "and max."
        ) from None
    if odd or np.isnan(scores).all():
        given = "a complex number" if odd else "None" if found is None else "nan"
        raise PolicyError(
            f"policy {name!r} gives {given} where a score is wanted. Let its "
            "function return a number, for example -use.last_touch."
        )
    if stack and (moves := sorted(use.asked & BY_RESIDENCY)):
        raise PolicyError(
            f"policy {name!r} is declared stack=True and reads use.{moves[0]}, which differs from one number "
            "of slots to the next. Leave stack=True out."
        )
    needs |= {need for column, need in NEED_OF.items() if column in use.asked}
    steady = now.asked <= {"seed", "layers", "half_life"} and not use.asked & BY_EVENT
    guarded, drawn = score.__module__ != __name__, "seed" in now.asked
    clocks = found is columns["last_touch"] or found is columns["loaded"]
    distinct = clocks or (drawn and not guarded)  # two draws of 52 bits, near enough
    return Policy(name, score, says, needs, stack, frozenset(use.asked), steady, distinct, guarded, drawn)


def _tried(name: str, lists: type[Lists]) -> Policy:
    """Lets one expert come, be used, and leave."""
    try:
        pool = lists(1)
        pool.missed(0)
        pool.came(0)
        pool.used(0, False)
        pool.used(0, True)
        pool.missed(1)
        found = pool.why(0), pool.leaves(()), pool.leaves(())
    except Exception as error:
        raise PolicyError(
            f"policy {name!r} does not keep lists as moeviz.policies.Lists says: {told(name, error)}."
        ) from None
    if not isinstance(found[0], str) or found[1:] != (0, -1):
        raise PolicyError(
            f"policy {name!r} does not keep lists as moeviz.policies.Lists says: of the one resident 0, why "
            f"it leaves is {found[0]!r}, and who leaves is {found[1]!r} and then {found[2]!r}, not 0 and -1."
        )
    return Policy(name, _lists_decide, "", frozenset(), False, frozenset(), False, True, False, lists=lists)


class _Guarded(Lists):
    """Lists of a user's own, which tell what they raise as any other fault of an input is told."""

    def __init__(self, name: str, lists: Callable[[int], Lists], slots: int) -> None:
        super().__init__(slots)
        self._name = name
        self._own: Lists = self._told(lambda: lists(slots))

    def __deepcopy__(self, memo: dict[int, Any]) -> _Guarded:
        return _Guarded(self._name, lambda slots: deepcopy(self._own, memo), self.slots)

    def missed(self, one: int) -> None:
        self._told(lambda: self._own.missed(one))

    def leaves(self, stays: Container[int]) -> int:
        found = self._told(lambda: self._own.leaves(stays))
        try:
            return index(found)  # whole numbers of numpy too
        except TypeError:
            raise wrong_victim(self._name) from None

    def came(self, one: int) -> None:
        self._told(lambda: self._own.came(one))

    def used(self, one: int, again: bool) -> None:
        self._told(lambda: self._own.used(one, again))

    def why(self, one: int) -> str:
        found: str = self._told(lambda: self._own.why(one))
        return found

    def _told(self, work: Callable[[], Any]) -> Any:
        try:
            return work()
        except PolicyError:
            raise
        except (Exception, SystemExit) as error:
            raise failed("policy", self._name, error) from error


@policy("lru", says="last used {ago}, longer ago than any other that could leave", stack=True)
def lru(use: Use, now: Moment) -> Column:
    """Least recently used leaves: whose last use is longest ago. Source: mixtral-offloading, arXiv
    2312.17238."""
    return use.last_touch


@policy("lfu", says="used {times} so far, no other that could leave was used less", stack=True)
def lfu(use: Use, now: Moment) -> Column:
    """Least frequently used leaves, counts kept: all uses since the run began, those before it last left
    too. arXiv 2511.05814 proposes LFU; the flavour is ours."""
    return use.touches


@policy("lfu-resident", says="used {times} since it was last loaded, no other that could leave was used less")
def lfu_resident(use: Use, now: Moment) -> Column:
    """Least frequently used leaves, counts lost on eviction: uses since it was last loaded. As MoE-Infinity,
    libCacheSim, cachetools."""
    return use.touches_resident


@policy(
    "lfu-aged",
    says="its uses, old ones counting less, came to {score:.2f}, the least of all that could leave",
    stack=True,
    shown=lambda score, now: np.exp2(score - now.tokens / now.half_life),
)
def lfu_aged(use: Use, now: Moment) -> Column:
    """Least frequently used leaves, old uses count less: each is halved every half-life of tokens. Decayed
    LFU."""
    return use.aged  # their sum halves for all alike, so that at any moment the order is that of the logs


@policy("lfru", says="uses over age came to {score:.4f}, the least of all that could leave", stack=True)
def lfru(use: Use, now: Moment) -> Column:
    """Frequency over age: touches kept / (touches of any expert since its last + 1). Source: tinyserve; vLLM
    PR 37190."""
    return use.touches / (now.touches + 1 - use.touch_number)


@policy(
    "lru-2",
    says="of all that could leave its use before the last lies furthest back, or there was none",
    stack=True,
)
def lru_2(use: Use, now: Moment) -> Column:
    """The use before the last counts, so that being used once does not keep an expert: the clock of the last
    but one touch. LRU-K with K = 2 (O'Neil, O'Neil, Weikum, SIGMOD 1993), its history kept when an expert
    leaves; the arrival of a pre-fetch counts as a use."""
    return use.touch_before


@policy(
    "lfuda",
    says="uses since it was last loaded, and the highest such sum that had left by its last use, came to "
    "{score:.0f}, the least of all that could leave",
)
def lfuda(use: Use, now: Moment) -> Column:
    """LFU with dynamic aging: touches since the last load + the highest score of anyone evicted before the
    last touch, so that what comes new can compete with old favourites. Arlitt, Cherkasova, Dilley, Friedrich,
    Jin 2000; Squid's cache_replacement_policy."""
    return use.touches_resident + use.level


@policy(
    "weighted-lfu",
    says="the router's weights for it added up to {score:.3f}, the least of all that could leave",
    needs={"weights"},
    stack=True,
)
def weighted_lfu(use: Use, now: Moment) -> Column:
    """Least wanted leaves: the router weights it was chosen with, summed, so that a strong choice counts more
    than a weak one. HybriMoE (arXiv 2504.05897) caches by router scores, averaged over time; the plain sum is
    ours."""
    return use.weight


@policy("fifo", says="loaded before any other that could leave")
def fifo(use: Use, now: Moment) -> Column:
    """First in, first out: the clock of the load."""
    return use.loaded


# SplitMix64's numbers and the moment's, made once, as arrays of no dimension, which numpy takes quickest
STEP, FIRST, SECOND, _12, _24, _27, _30, _31, ONE = (
    np.array(number, np.uint64)
    for number in (
        *(0x9E3779B97F4A7C15, 0xBF58476D1CE4E5B9, 0x94D049BB133111EB, 12, 24, 27, 30, 31),
        0x3FF << 52,  # the bits of 1.0
    )
)


@policy("random", says="drawn at random", stack=True)
def random(use: Use, now: Moment) -> Column:
    """Uniform: a hash of seed, touches so far and expert, so that a replay draws what the live run drew.

    SplitMix64 (Steele, Lea, Flood, OOPSLA 2014).
    """
    # All is done in place: an array of no dimension does not warn of overflow, as a number does.
    moment = np.asarray(now.touches).astype(np.uint64)
    moment <<= _24
    moment ^= (now.seed % 2**16 << 48) ^ ((now.seed >> 16) * 0x9E3779B97F4A7C15 % 2**64)
    moment += STEP
    z = np.asarray(np.add(np.asarray(use.key).astype(np.uint64), moment))
    shifted = np.empty_like(z)
    z ^= np.right_shift(z, _30, shifted)
    z *= FIRST
    z ^= np.right_shift(z, _27, shifted)
    z *= SECOND
    z ^= np.right_shift(z, _31, shifted)
    z >>= _12
    z |= ONE
    return z.view(np.float64)  # from 1 to below 2: as many bits as its fraction has, without converting any


@policy(
    "score-ema",
    says="the router's weights for it averaged {score:.3f}, the least of all that could leave",
    needs={"weights"},
    stack=True,
)
def score_ema(use: Use, now: Moment) -> Column:
    """Weakest leaves: an average of the router weights it was chosen with, in which late ones count more.
    s <- 0.3 w + 0.7 s. Source: moe-policylang."""
    return use.average


@policy(
    "least-stale",
    says="not needed in this forward pass so far and of a layer already passed, or else the oldest",
    stack=True,
)
def least_stale(use: Use, now: Moment) -> Column:
    """Experts untouched in this forward pass leave before touched ones; of those, layers already passed
    before layers to come; then the oldest touch. Our reading of SpecMD (arXiv 2602.03921), which has no
    public code. In scope `layer` it is lru."""
    touched = use.touch_pass == now.forward_pass
    to_come = use.layer > now.layer
    return touched * 2.0**49 + use.last_touch + to_come * 2.0**48


@policy("layer-distance", says="its layer comes round last", stack=True)
def layer_distance(use: Use, now: Moment) -> Column:
    """The expert whose layer comes round last leaves; where a layer has its own slots all are equal, and the
    least recently used leaves. Score: 1 - ((its layer - current layer) mod L) / L. HOBBIT (arXiv 2411.01433,
    eq. 3)."""
    ahead = use.layer - now.layer
    return 1.0 - ahead / now.layers - (ahead < 0)  # a layer already passed is a round further; % is slow


@policy(
    "static",
    says="used {times} in the calibration trace, no other that could leave was used less",
    needs={"calibration"},
    stack=True,
)
def static(use: Use, now: Moment) -> Column:
    """Least used in a calibration trace leaves; never adapts. As Fiddler and KTransformers place their
    experts."""
    return use.calibrated


policy("arc")(Arc)
policy("s3-fifo")(S3Fifo)


@policy(
    "co-activation",
    says="chosen {times} in the company of those needed here, the fewest times of all that could leave",
    stack=True,
)
def co_activation(use: Use, now: Moment) -> Column:
    """The expert leaves that was needed least often in the events that needed those needed now; for a guess,
    which comes before its layer's event, those that the layer's latest event needed. Made for a cache a
    layer: in one pool, experts of other layers were never needed in the same event, and leave first; served
    one by one, nobody has company, and it is lru. That experts of a layer are chosen in company is what
    co-activation profiles measure (mbolt; inter-layer affinity in ExFlow, arXiv 2401.08383); to let the
    others leave is our reading of it."""
    return use.company


@policy("belady", says="needed again later than any other that could leave", needs={"future"}, stack=True)
def belady(use: Use, now: Moment) -> Column:
    """The one needed again last leaves: minus its next use. The bound that no policy beats under the same
    rule; it has to know the future. Where a budget in bytes holds experts of different sizes it is no bound
    but a heuristic: who is needed last may free little. Belady 1966."""
    return -use.next_use

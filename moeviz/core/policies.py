"""Eviction policies: a score for every resident expert; the lowest leaves.

A policy sees one expert's record of use and the moment, nothing else, so the app can show every score at every eviction.
Ties leave by least recent use, then by lower expert id. A new policy is one function under `@policy`, here or in a file of
your own, named as `path.py:name` wherever a policy is asked for:

    from moeviz.policies import Moment, Use, policy

    @policy("mru")
    def mru(use: Use, now: Moment) -> float:
        "Most recently used leaves."
        return -use.last_touch
"""

from __future__ import annotations

import importlib.util
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from moeviz.errors import PolicyError

EMA = 0.3  # weight of the newest router weight in `score-ema`, as in moe-policylang


@dataclass(slots=True)
class Use:
    """One expert's history in a run, kept by the cache, whether or not the expert is resident."""

    layer: int
    expert: int
    last_touch: int = -1  # clock of the last touch, or of the arrival of a pre-fetched expert not touched yet
    loaded: int = -1  # clock of the last load
    touches: int = 0  # since the run began, kept when the expert is evicted
    touches_resident: int = 0  # since the last load
    touch_number: int = (
        0  # how many touches of any expert the run had seen at this one's last, itself included
    )
    touch_pass: int = -1  # forward pass of the last touch
    touch_token: int = 0  # tokens that had entered the model by then
    aged: float = 0.0  # touches, each halved every half-life, as of touch_token
    average: float = 0.0  # exponential average of the router weights it was chosen with
    calibrated: float = 0.0  # accesses to it in the calibration trace


@dataclass(slots=True)
class Moment:
    """When a score is asked for."""

    seed: int
    layers: int  # MoE layers of the model
    half_life: int  # tokens; of `lfu-aged`
    next_use: Callable[
        [int, int], float
    ]  # (layer, expert) -> number of the event that needs it next; infinity: none does
    clock: int = 0  # grows by one with every touch and every load
    touches: int = 0  # so far
    layer: int = 0  # whose event this is
    forward_pass: int = -1
    tokens: int = 0  # that have entered the model, this pass's included


Score = Callable[[Use, Moment], float]
POLICIES: dict[str, Score] = {}
NEEDS_FUTURE = frozenset({"belady"})
NEEDS_CALIBRATION = frozenset({"static"})
NEEDS_WEIGHTS = frozenset({"score-ema"})


def policy(name: str) -> Callable[[Score], Score]:
    """Registers a score under a name."""

    def register(score: Score) -> Score:
        POLICIES[name] = score
        return score

    return register


def load_policy(text: str) -> str:
    """The name of a policy: as it is, or from a file as `path.py:name`, which runs that file. Raises PolicyError.

    Only for what a user typed: names that stand in a trace file never come here.
    """
    file, colon, function = text.rpartition(":")
    if not (colon and file.endswith(".py")) or text in POLICIES:
        return text
    path = Path(file)
    if not path.is_file():
        raise PolicyError(
            f"policy {text!r}: there is no file {file}. Write path.py:name, or choose one of {', '.join(POLICIES)}."
        )
    known = dict(POLICIES)
    spec = importlib.util.spec_from_file_location("moeviz_user_policy", path)
    assert spec is not None
    assert spec.loader is not None
    try:
        module = importlib.util.module_from_spec(spec)
        spec.loader.exec_module(module)
    except Exception as error:
        raise PolicyError(f"policy {text!r}: {file} does not run: {type(error).__name__}: {error}") from None
    finally:
        own = {name: score for name, score in POLICIES.items() if known.get(name) is not score}
        POLICIES.clear()  # a file cannot replace what moeviz calls by that name
        POLICIES.update(known)
    score = own.get(function) or getattr(module, function, None)
    if not callable(score):
        names = ", ".join(own) or "none"
        raise PolicyError(f"policy {text!r}: {file} registers no policy {function!r}. It registers: {names}.")
    POLICIES[text] = score
    return text


@policy("lru")
def lru(use: Use, now: Moment) -> float:
    """Least recently used leaves: the clock of the last touch. Source: mixtral-offloading, arXiv 2312.17238."""
    return use.last_touch


@policy("lfu")
def lfu(use: Use, now: Moment) -> float:
    """Least frequently used leaves, counts kept: touches since the run began. arXiv 2511.05814 proposes LFU; the flavour is ours."""
    return use.touches


@policy("lfu-resident")
def lfu_resident(use: Use, now: Moment) -> float:
    """Least frequently used leaves, counts lost on eviction: touches since the last load. As MoE-Infinity, libCacheSim, cachetools."""
    return use.touches_resident


@policy("lfu-aged")
def lfu_aged(use: Use, now: Moment) -> float:
    """Least frequently used leaves, old touches count less: each is halved every half-life of tokens. Decayed LFU."""
    return use.aged * float(2.0 ** ((use.touch_token - now.tokens) / now.half_life))


@policy("lfru")
def lfru(use: Use, now: Moment) -> float:
    """Frequency over age: touches kept / (touches of any expert since its last + 1). Source: tinyserve; vLLM PR 37190."""
    return use.touches / (now.touches - use.touch_number + 1)


@policy("fifo")
def fifo(use: Use, now: Moment) -> float:
    """First in, first out: the clock of the load."""
    return use.loaded


@policy("random")
def random(use: Use, now: Moment) -> float:
    """Uniform: a hash of seed, touches so far and expert, so that a replay draws what the live run drew.

    SplitMix64 (Steele, Lea, Flood, OOPSLA 2014).
    """
    z = (now.seed << 48) ^ (now.touches << 24) ^ (use.layer << 12) ^ use.expert
    z = (z + 0x9E3779B97F4A7C15) & 0xFFFFFFFFFFFFFFFF
    z = ((z ^ (z >> 30)) * 0xBF58476D1CE4E5B9) & 0xFFFFFFFFFFFFFFFF
    z = ((z ^ (z >> 27)) * 0x94D049BB133111EB) & 0xFFFFFFFFFFFFFFFF
    return float(z ^ (z >> 31))


@policy("score-ema")
def score_ema(use: Use, now: Moment) -> float:
    """Weakest leaves: exponential average of the router weights it was chosen with, s <- 0.3 w + 0.7 s. Source: moe-policylang."""
    return use.average


@policy("least-stale")
def least_stale(use: Use, now: Moment) -> float:
    """Experts untouched in this forward pass leave before touched ones; of those, layers already passed before layers to come;
    then the oldest touch. Our reading of SpecMD (arXiv 2602.03921), which has no public code. In scope `layer` it is lru."""
    touched = use.touch_pass == now.forward_pass
    to_come = use.layer > now.layer
    return float((2 * touched + to_come) * 2**48 + use.last_touch)


@policy("layer-distance")
def layer_distance(use: Use, now: Moment) -> float:
    """The expert whose layer comes round last leaves: 1 - ((its layer - current layer) mod L) / L. HOBBIT (arXiv 2411.01433, eq. 3).
    In scope `layer` all are equal, and ties make it lru."""
    return 1.0 - ((use.layer - now.layer) % now.layers) / now.layers


@policy("static")
def static(use: Use, now: Moment) -> float:
    """Least used in a calibration trace leaves; never adapts. As Fiddler and KTransformers place their experts."""
    return use.calibrated


@policy("belady")
def belady(use: Use, now: Moment) -> float:
    """The one needed again last leaves: minus its next use. The bound that no policy beats; it has to know the future. Belady 1966."""
    return -now.next_use(use.layer, use.expert)

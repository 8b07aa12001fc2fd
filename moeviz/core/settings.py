"""What a cache is told to do: policy, slots, scope, pre-fetching. Frozen, checked once.

A field carries its default, its range and its help. The command line's options, the page's form and
`Settings.parse` are made from them, so a new setting is one line here. Knows neither models nor traces;
whether the slots are enough for a model is checked against its shape by `Settings.check`.

    Settings(policy="lfu", slots=4, prefetch="next-gate").label      # 'lfu, 4 slots, next-gate'
"""

from __future__ import annotations

import re
from collections.abc import Callable, Collection, Iterator
from contextlib import suppress
from dataclasses import Field, asdict, dataclass, field, fields, replace
from operator import index
from typing import TYPE_CHECKING, Any

from moeviz.amounts import budget, byte_count, many
from moeviz.core.owncode import short
from moeviz.core.predictors import PREDICTORS, load_predictor
from moeviz.errors import MoevizError, SettingsError

if TYPE_CHECKING:
    from moeviz.core.policies import Policy

SCOPES = {
    "layer": "each MoE layer owns its slots",
    "model": "one pool for all layers",
}
WARM = {
    "cold": "nothing is resident when the run begins",
    "first": "the first experts by id, as mixtral-offloading does",
    "calibrated": "the most used experts of the calibration trace",
}
ITSELF = (
    "itself"  # a calibration on the very trace that is replayed: the best that knowing the frequencies can do
)
BASELINES = {
    "resident": "every expert in the fast tier from the start: what offloading is measured against",
    "on-demand": "nothing is kept between events: every needed expert is copied every time",
    "whole-layer": "every expert of the layer is copied each time, as module-level offloading does",
}
MOST = 2**31 - 1  # of a whole number that counts slots, layers or tokens


class _Policies(Collection[str]):
    """The names of all policies. They are loaded when they are first asked for: a score needs numpy, which
    takes longer to load than a command's help takes to be shown."""

    def __contains__(self, name: object) -> bool:
        return name in _policies()

    def __iter__(self) -> Iterator[str]:
        return iter(_policies())

    def __len__(self) -> int:
        return len(_policies())


def _policies() -> dict[str, Policy]:
    from moeviz.core.policies import POLICIES

    return POLICIES


def _load_policy(text: str) -> str:
    from moeviz.core.policies import load_policy

    return load_policy(text)


@dataclass(frozen=True, slots=True)
class Setting:
    """What a field of `Settings` is for people, and which values it takes."""

    help: str
    least: float | None = None  # of a number
    most: float | None = None
    known: Collection[str] | None = None  # names that may be given; None: any text
    empty: bool = False  # whether an empty text may be given as well
    read: Callable[[str], Any] | None = (
        None  # makes the value of what a user typed; None: the field's type does
    )


def _setting(default: Any, help: str, **more: Any) -> Any:
    return field(default=default, metadata={"setting": Setting(help, **more)})


@dataclass(frozen=True, slots=True)
class Room:
    """How the fast tier is divided."""

    limits: tuple[int, ...]  # slots of each pool: one pool for each MoE layer, or one for all
    keeps: bool  # False: nothing stays between events
    bytes: int = (
        0  # that the residents of one pool may take, where layers' experts differ in size; 0: slots limit
    )

    @property
    def pools(self) -> int:
        return len(self.limits)

    @property
    def slots(self) -> int:
        """Of the largest pool."""
        return max(self.limits)


@dataclass(frozen=True, slots=True)
class Settings:
    """How experts are cached and pre-fetched in one run."""

    policy: str = _setting("lru", "Who leaves, or path.py:name", known=_Policies(), read=_load_policy)
    slots: int = _setting(4, "Experts that fit in the fast tier, per MoE layer or in all", least=1, most=MOST)
    scope: str = _setting("layer", "Whose slots they are, each MoE layer's or the model's", known=SCOPES)
    prefetch: str = _setting(
        "none",
        "How to guess what a later layer needs, or path.py:name",
        known=PREDICTORS,
        read=load_predictor,
    )
    lookahead: int = _setting(1, "How many MoE layers ahead a guess is made", least=1, most=MOST)
    width: int = _setting(0, "Experts guessed; 0: as many as the router chooses", least=0, most=MOST)
    threshold: float = _setting(
        0.0, "next-gate: guess until the probabilities reach this; 0: guess the width", least=0, most=1
    )
    warm: str = _setting("cold", "What is resident at the start", known=WARM)
    calibration: str = _setting(
        "",
        "Trace file, .moecounts or sample for policy static and for a calibrated start, or itself: the trace "
        "that is replayed",
    )
    half_life: int = _setting(
        64, "Tokens after which a use counts half, for policy lfu-aged", least=1, most=MOST
    )
    seed: int = _setting(0, "Seed of policy random", least=0, most=2**63 - 1)
    rule: str = _setting(
        "pinned",
        "How experts of an event are served: pinned (together, the strongest counts as used last), in-order "
        "(together, the weakest counts as used last), one-by-one, or batch:N (N decode tokens at "
        "a time)",
    )
    budget: int = _setting(
        0,
        "Bytes for experts in all, for example 3GiB, instead of slots; 0: slots",
        least=0,
        most=2**63 - 1,
        read=byte_count,
    )
    baseline: str = _setting("", "Instead of a cache", known=BASELINES, empty=True)

    def __post_init__(self) -> None:
        for name in SETTINGS:
            value = getattr(self, name)
            if KINDS[name] is int and not isinstance(value, bool):
                with suppress(TypeError):  # `check` says what is no whole number
                    value = index(value)  # of numpy's whole numbers too
                object.__setattr__(self, name, value)
            check(name, value)
        if not re.fullmatch("pinned|in-order|one-by-one|batch:[1-9][0-9]{0,6}", self.rule):
            raise SettingsError(
                f"rule {self.rule!r} is not known. Choose pinned, in-order, one-by-one or batch:N with a "
                "number N, for example batch:4."
            )

    @property
    def needs_calibration(self) -> bool:
        """True where a run has to be told how often a calibration trace used each expert."""
        return not self.baseline and (
            "calibration" in _policies()[self.policy].needs or self.warm == "calibrated"
        )

    @property
    def needs_future(self) -> bool:
        """True where a run has to be told what it will need."""
        return not self.baseline and (
            "future" in _policies()[self.policy].needs or "future" in PREDICTORS[self.prefetch].needs
        )

    @property
    def by_routers(self) -> bool:
        """True where guesses are made by the model's own routers."""
        return not self.baseline and "routers" in PREDICTORS[self.prefetch].needs

    @property
    def unused(self) -> dict[str, str]:
        """Fields that change nothing under these settings, and why."""
        if self.baseline:
            why = f"the baseline {self.baseline} is no cache that could be set"
            return {name: why for name in SETTINGS if name not in ("baseline", "seed")}
        found = {}
        if self.budget:
            found["slots"] = "the budget says how many there are"
        if self.prefetch == "none":
            found |= dict.fromkeys(("lookahead", "width", "threshold"), "nothing is pre-fetched")
        elif self.prefetch in PREDICTORS and ":" not in self.prefetch and not self.by_routers:
            found["threshold"] = "only next-gate knows how likely a guess is"
        if not self.needs_calibration:
            found["calibration"] = "neither the policy nor the warm start asks for one"
        if ":" not in self.policy and self.policy != "lfu-aged":
            found["half_life"] = "only lfu-aged has one"
        return found

    @property
    def one_by_one(self) -> bool:
        """True where the experts of an event are served one after the other and none is pinned."""
        return not self.baseline and self.rule == "one-by-one"

    @property
    def in_order(self) -> bool:
        """True where the experts of an event, which come together, count as used strongest first."""
        return not self.baseline and self.rule == "in-order"

    @property
    def batch(self) -> int:
        """Decode tokens that are served at a time; 0: as the trace has them."""
        return int(self.rule[6:]) if self.rule.startswith("batch:") else 0

    def check_live(self) -> None:
        """Raises SettingsError where these settings are for replays only."""
        if self.rule != "pinned" and not self.baseline:
            raise SettingsError(
                f"rule {self.rule!r} is for replays: a layer needs its experts together, so a live run "
                "is pinned. Record it, then replay it under the rule."
            )

    def check(self, layers: int, experts: int, k: int, expert_bytes: int | tuple[int, ...] = 0) -> None:
        """Raises SettingsError where a model of this shape cannot run under these settings."""
        if self.baseline:
            return
        least = 1 if self.one_by_one else k
        if self.budget:
            self._check_budget(layers, experts, least, expert_bytes)
        else:
            most = experts if self.scope == "layer" else experts * layers
            where = "each MoE layer" if self.scope == "layer" else "the model"
            if self.slots < least:
                raise SettingsError(
                    f"{many(self.slots, 'slot')} {'is' if self.slots == 1 else 'are'} too few: "
                    f"a token needs {k} experts of a layer at once. "
                    f"Choose {least} to {most} slots."
                )
            if self.slots > most:
                raise SettingsError(
                    f"{self.slots} slots are more than the {most} experts of {where}. Choose {least} to "
                    f"{most} slots."
                )
        if self.prefetch != "none" and self.lookahead >= layers:
            raise SettingsError(
                f"lookahead is {self.lookahead}, but there are {layers} MoE layers. Choose less than "
                f"{layers}."
            )
        if self.width > experts:
            raise SettingsError(
                f"width is {self.width}, but a layer has {experts} experts. Choose at most {experts}."
            )
        if self.needs_calibration and not self.calibration:
            what = (
                f"policy {self.policy!r}"
                if "calibration" in _policies()[self.policy].needs
                else "the warm start 'calibrated'"
            )
            raise SettingsError(
                f"{what} needs a calibration trace. Name a trace file or a sample, for example "
                "calibration=bible; in a replay itself will do."
            )

    def _check_budget(
        self, layers: int, experts: int, least: int, expert_bytes: int | tuple[int, ...]
    ) -> None:
        sizes = _by_layer(expert_bytes, layers)
        if _policies()[self.policy].lists and self.scope == "model" and len(set(sizes)) > 1:
            raise SettingsError(
                f"policy {self.policy!r} counts experts, not bytes, and those of different layers differ in "
                "size. Choose slots, scope layer or another policy."
            )
        if min(sizes) < 1:
            raise SettingsError(
                "a budget in bytes needs the size of an expert, which is not known here. Give slots."
            )
        need = least * max(sizes) * (layers if self.scope == "layer" else 1)  # layers share it equally
        if self.budget < need:
            raise SettingsError(
                f"a budget of {budget(self.budget)} is too small: {least} experts of a layer have to fit "
                "at once. "
                f"Give at least {budget(need)}."
            )

    def room(self, layers: int, experts: int, k: int, expert_bytes: int | tuple[int, ...] = 0) -> Room:
        """The slots that a model of this shape has under these settings.

        A budget in bytes is shared equally over the layers in scope layer; in scope model as many experts fit
        as their sizes allow.
        """
        match self.baseline:
            case "resident":
                return Room((experts,) * layers, True)
            case "on-demand":
                return Room((k,), False)
            case "whole-layer":
                return Room((experts,), False)
        if not self.budget:
            return Room((self.slots,) * layers if self.scope == "layer" else (self.slots,), True)
        sizes = _by_layer(expert_bytes, layers)
        if self.scope == "layer":
            return Room(tuple(min(experts, self.budget // layers // size) for size in sizes), True)
        if len(set(sizes)) == 1:
            return Room((min(experts * layers, self.budget // sizes[0]),), True)
        slots, left = 0, self.budget
        for size in sorted(sizes):
            fit = min(experts, left // size)
            slots, left = slots + fit, left - fit * size
        return Room((slots,), True, self.budget)

    @property
    def label(self) -> str:
        """Short and unambiguous, with names as they are typed. Programs read it (JSON, tables, Perfetto), so
        its form does not change; `words.label` is for people.
        """
        if self.baseline:
            return self.baseline
        name = short(self.policy) + (f" ({self.half_life} tokens)" if self.policy == "lfu-aged" else "")
        room = budget(self.budget) if self.budget else f"{self.slots} slots"
        return ", ".join([name, room + (" in all" if self.scope == "model" else ""), *self.further])

    @property
    def further(self) -> list[str]:
        """What a label says after the slots: all that is not as usual."""
        parts = []
        if self.prefetch != "none":
            parts.append(short(self.prefetch) + (f" +{self.lookahead}" if self.lookahead > 1 else ""))
            if self.threshold and self.prefetch == "next-gate":
                parts.append(f"to {self.threshold:g}")
            elif self.width:
                parts.append(f"width {self.width}")
        if self.rule != "pinned":
            parts.append(self.rule)
        if self.warm != "cold":
            parts.append(f"warm: {self.warm}")
        if self.needs_calibration:
            parts.append(f"calibrated on {self.calibration.rpartition('/')[2].removesuffix('.moetrace')}")
        return parts

    @classmethod
    def parse(cls, text: str, **defaults: Any) -> Settings:
        """From what a user typed, `policy=lru,slots=4,prefetch=next-gate`; unnamed fields keep their
        defaults, or those given.

        A policy `path.py:name` is loaded from its file. Raises SettingsError or PolicyError for an unknown
        field or value, or one that is given twice.
        """
        values: dict[str, Any] = {}
        for item in filter(None, (part.strip() for part in text.split(","))):
            name, equals, value = item.partition("=")
            if not equals or name not in SETTINGS:
                raise SettingsError(
                    f"{item!r} is not a setting. Write name=value with a name of {', '.join(SETTINGS)}."
                )
            if name in values:
                raise SettingsError(f"{name} is given twice. Leave one of them out.")
            values[name] = read(name, value)
        return cls(**(defaults | values))

    def to_dict(self) -> dict[str, str | int | float]:
        return asdict(self)

    @classmethod
    def from_dict(cls, values: dict[str, object]) -> Settings:
        """Raises SettingsError for an unknown name or a wrong type."""
        for name, value in values.items():
            if name not in SETTINGS or type(value) is not KINDS[name]:
                raise SettingsError(
                    f"settings hold {name}={value!r}, which this version does not know. "
                    f"It knows {', '.join(f'{known} ({kind.__name__})' for known, kind in KINDS.items())}."
                )
        return cls(**values)  # type: ignore[arg-type]


def _described(one: Field[Any]) -> Setting:
    setting = one.metadata["setting"]
    assert isinstance(setting, Setting)
    return setting


SETTINGS: dict[str, Setting] = {one.name: _described(one) for one in fields(Settings)}
KINDS: dict[str, type] = {
    one.name: {"int": int, "float": float, "str": str}[str(one.type)] for one in fields(Settings)
}
DEFAULTS: dict[str, Any] = {one.name: one.default for one in fields(Settings)}


def calibrated(settings: Settings) -> Settings:
    """Settings that name a calibration if they need one: where none is named, the trace that is replayed."""
    needs = settings.needs_calibration and not settings.calibration
    return replace(settings, calibration=ITSELF) if needs else settings


def check(name: str, value: object) -> None:
    """Raises SettingsError where a field cannot have this value."""
    setting, kind = SETTINGS[name], KINDS[name]
    if kind is str:
        if not isinstance(value, str):
            raise SettingsError(f"{name} is {_short(value)}; it must be a text.")
        if setting.known is not None and value not in setting.known and not (setting.empty and value == ""):
            raise SettingsError(
                f"{name} {_short(value)} is not known. Choose one of {', '.join(setting.known)}."
            )
        return
    least, most = setting.least, setting.most
    low = least is not None and isinstance(value, int | float) and not value >= least
    high = most is not None and isinstance(value, int | float) and not value <= most
    if type(value) is not kind or low or high:
        raise SettingsError(f"{name} is {_short(value)}; it must be {_numbers(kind, least, most, high)}.")


def read(name: str, text: str) -> Any:
    """The value of a field from what a user typed. Raises SettingsError, or PolicyError of a policy's
    file."""
    setting, kind = SETTINGS[name], KINDS[name]
    try:
        value = (setting.read or kind)(text)
    except MoevizError:
        raise
    except ValueError:
        numbers = _numbers(kind, setting.least, setting.most)
        if setting.read is byte_count:
            numbers = "bytes, for example 3GiB or 3000MiB"
        raise SettingsError(f"{name} is {_short(text)}; it must be {numbers}.") from None
    check(name, value)
    return value


def _short(value: object) -> str:
    text = repr(value)
    return text if len(text) <= 60 else f"{text[:57]}..."


def _numbers(kind: type, least: float | None, most: float | None, high: bool = False) -> str:
    """The numbers that a field takes, in words; an end that nobody reaches is named where it was passed."""
    what = "a whole number" if kind is int else "a number"
    if least is None:
        return what
    return (
        f"{what} of at least {least}"
        if most is None or (most >= MOST and not high)
        else f"{what} from {least} to {most}"
    )


def _by_layer(expert_bytes: int | tuple[int, ...], layers: int) -> tuple[int, ...]:
    return expert_bytes if isinstance(expert_bytes, tuple) else (expert_bytes,) * layers

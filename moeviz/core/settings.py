"""What a cache is told to do: policy, slots, scope, pre-fetching. Frozen, checked once.

Knows neither models nor traces; whether the slots are enough for a model is checked against its shape by `Settings.check`.

    Settings(policy="lfu", slots=4, prefetch="next-gate").label      # 'lfu, 4 slots, next-gate'
"""

from __future__ import annotations

from dataclasses import asdict, dataclass, fields

from moeviz.core.policies import NEEDS_CALIBRATION, POLICIES, load_policy
from moeviz.core.predictors import PREDICTORS
from moeviz.errors import PolicyError, SettingsError

SCOPES = ("layer", "model")
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


@dataclass(frozen=True, slots=True)
class Room:
    """How the fast tier is divided."""

    pools: int  # one for each MoE layer, or one for all
    slots: int  # of each pool
    keeps: bool  # False: nothing stays between events


@dataclass(frozen=True, slots=True)
class Settings:
    """How experts are cached and pre-fetched in one run."""

    policy: str = "lru"  # a name of POLICIES
    slots: int = 4  # experts per MoE layer (scope layer) or in all (scope model)
    scope: str = "layer"
    prefetch: str = "none"  # a name of PREDICTORS
    lookahead: int = 1  # a guess made at MoE layer l is for layer l + lookahead
    width: int = 0  # experts guessed; 0: as many as the router chooses (k)
    threshold: float = 0.0  # next-gate guesses until the probabilities reach it, instead of `width`; 0: no
    warm: str = "cold"  # a name of WARM: what is resident when the run begins
    calibration: str = (
        ""  # a trace file, a sample's name, or ITSELF; for `static` and the warm start `calibrated`
    )
    half_life: int = 64  # tokens; of the policy `lfu-aged`
    seed: int = 0  # of the policy `random`
    baseline: str = ""  # a name of BASELINES; then the fields above do not apply

    def __post_init__(self) -> None:
        _one_of("policy", self.policy, POLICIES)
        _one_of("scope", self.scope, SCOPES)
        _one_of("prefetch", self.prefetch, PREDICTORS)
        _one_of("warm", self.warm, WARM)
        if self.baseline:
            _one_of("baseline", self.baseline, BASELINES)
        for name, least in (("slots", 1), ("lookahead", 1), ("width", 0), ("half_life", 1), ("seed", 0)):
            value = getattr(self, name)
            if not isinstance(value, int) or value < least:
                raise SettingsError(f"{name} is {value!r}; it must be a whole number of at least {least}.")

        if not isinstance(self.threshold, float) or not 0 <= self.threshold <= 1:
            raise SettingsError(f"threshold is {self.threshold!r}; it must be a number from 0 to 1.")

    @property
    def needs_calibration(self) -> bool:
        """True where a run has to be told how often a calibration trace used each expert."""
        return not self.baseline and (self.policy in NEEDS_CALIBRATION or self.warm == "calibrated")

    def check(self, layers: int, experts: int, k: int) -> None:
        """Raises SettingsError where a model of this shape cannot run under these settings."""
        if self.baseline:
            return
        most = experts if self.scope == "layer" else experts * layers
        where = "each MoE layer" if self.scope == "layer" else "the model"
        if self.slots < k:
            raise SettingsError(
                f"{self.slots} slots are too few: a token needs {k} experts of a layer at once. Choose {k} to {most} slots."
            )
        if self.slots > most:
            raise SettingsError(
                f"{self.slots} slots are more than the {most} experts of {where}. Choose {k} to {most} slots."
            )
        if self.prefetch != "none" and self.lookahead >= layers:
            raise SettingsError(
                f"lookahead is {self.lookahead}, but there are {layers} MoE layers. Choose less than {layers}."
            )
        if self.width > experts:
            raise SettingsError(
                f"width is {self.width}, but a layer has {experts} experts. Choose at most {experts}."
            )
        if self.needs_calibration and not self.calibration:
            what = (
                f"policy {self.policy!r}"
                if self.policy in NEEDS_CALIBRATION
                else "the warm start 'calibrated'"
            )
            raise SettingsError(
                f"{what} needs a calibration trace. Name a trace file or a sample, for example calibration=bible."
            )

    def room(self, layers: int, experts: int, k: int) -> Room:
        """The slots that a model of this shape has under these settings."""
        match self.baseline:
            case "resident":
                return Room(layers, experts, True)
            case "on-demand":
                return Room(1, k, False)
            case "whole-layer":
                return Room(1, experts, False)
        return Room(layers if self.scope == "layer" else 1, self.slots, True)

    @property
    def label(self) -> str:
        """Short and unambiguous, for tables and legends."""
        if self.baseline:
            return self.baseline
        name = self.policy.rpartition("/")[2]
        if self.policy == "lfu-aged":
            name += f" ({self.half_life} tokens)"
        parts = [name, f"{self.slots} slots" + (" in all" if self.scope == "model" else "")]
        if self.prefetch != "none":
            parts.append(self.prefetch + (f" +{self.lookahead}" if self.lookahead > 1 else ""))
            if self.threshold and self.prefetch == "next-gate":
                parts.append(f"to {self.threshold:g}")
            elif self.width:
                parts.append(f"width {self.width}")
        if self.warm != "cold":
            parts.append(f"warm: {self.warm}")
        if self.needs_calibration:
            parts.append(f"calibrated on {self.calibration.rpartition('/')[2].removesuffix('.moetrace')}")
        return ", ".join(parts)

    @classmethod
    def parse(cls, text: str) -> Settings:
        """From what a user typed, `policy=lru,slots=4,prefetch=next-gate`; unnamed fields keep their defaults.

        A policy `path.py:name` is loaded from its file. Raises SettingsError for an unknown field or value.
        """
        values: dict[str, str | int | float] = {}
        for item in filter(None, (part.strip() for part in text.split(","))):
            name, equals, value = item.partition("=")
            kinds = {field.name: field.type for field in fields(cls)}
            if not equals or name not in kinds:
                raise SettingsError(
                    f"{item!r} is not a setting. Write name=value with a name of {', '.join(kinds)}."
                )
            kind, words = {"int": (int, "a whole number"), "float": (float, "a number")}.get(
                str(kinds[name]), (str, "")
            )
            try:
                values[name] = load_policy(value) if name == "policy" else kind(value)
            except PolicyError as error:
                raise SettingsError(str(error)) from None
            except ValueError:
                raise SettingsError(f"{name} is {value!r}; it must be {words}.") from None
        return cls(**values)  # type: ignore[arg-type]

    def to_dict(self) -> dict[str, str | int | float]:
        return asdict(self)

    @classmethod
    def from_dict(cls, values: dict[str, object]) -> Settings:
        """Raises SettingsError for an unknown name or a wrong type."""
        known = {field.name: field.type for field in fields(cls)}
        for name, value in values.items():
            kind = {"int": int, "str": str, "float": float}.get(str(known.get(name)))
            if kind is None or type(value) is not kind:
                raise SettingsError(f"settings hold {name}={value!r}, which this version does not know.")
        return cls(**values)  # type: ignore[arg-type]


def _one_of(name: str, value: str, known: object) -> None:
    if value not in known:  # type: ignore[operator]
        raise SettingsError(f"{name} {value!r} is not known. Choose one of {', '.join(known)}.")  # type: ignore[arg-type]

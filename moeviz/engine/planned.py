"""What earlier plans expected of a model and how its runs came out, kept in the user's data folder, so that
the next plan says how far off the last one was. Imports no torch.

    remember(plan)             # before
    settle(trace, run)         # after
    off_by(last(trace.model))  # both, in words
"""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass, fields
from pathlib import Path
from typing import Any, get_type_hints

from moeviz import words
from moeviz.core.run import Run
from moeviz.core.trace import DECODE, Trace
from moeviz.files import library
from moeviz.files.moetrace import write_atomically
from moeviz.numbers import metrics, timing
from moeviz.numbers import plan as plans
from moeviz.numbers.plan import Plan

_MOST_KEPT = 200  # models


@dataclass(frozen=True, slots=True)
class Ran:
    """What the last run of a model gave, and what had been planned for it."""

    expert_bytes: int  # in a slot: tells a run in float32 from one in bfloat16
    slots: int
    policy: str
    hit_ratio: float | None
    tokens_per_second: float | None
    compute_ms: float | None  # of a token, without waiting for copies
    planned_hit_ratio: float | None = None  # None where no plan had these slots
    planned_least: float | None = None  # tokens/s
    planned_most: float | None = None
    planned_compute_ms: float | None = None
    planned_link: str = ""
    planned_for: str = ""  # a policy, or EVEN where a plan without a trace spoke for all
    link: str = ""  # that it ran over, in words; empty where that is not known
    moved_bytes: int = 0  # of an expert, over the link
    unpack_ms: float = 0.0  # of an expert; 0 where none was packed
    on_host: bool = True  # its fast tier was RAM, not an accelerator


def remember(plan: Plan) -> None:
    """Keeps what a plan expects of each policy and slot count, for `settle`. Raises OSError."""
    kept, name = _kept(), who(plan.model)
    about = kept.pop(name, {})  # the newest stand last
    expected = {
        _key(plan.size.mean_bytes, plan.size.mean_moved, row.slots, one.policy, plan.memory.fast_is_host): {
            "planned_for": one.policy,
            "planned_hit_ratio": one.hit_ratio,
            "planned_least": one.band.least if one.band else None,
            "planned_most": one.band.most if one.band else None,
            "planned_compute_ms": plan.compute.ms if plan.compute else None,
            "planned_link": plan.link.label if plan.link else "",
        }
        for row in plan.rows
        for one in row.expected
        if one.policy in (*plans.POLICIES, plans.EVEN)
    }
    _keep({**kept, name: {**about, "expected": _table(about.get("expected")) | expected}})


def settle(trace: Trace, run: Run, on_host: bool = True) -> None:
    """Keeps how a measured run came out, beside what was planned for its model, policy and slots. `on_host`:
    its fast tier was RAM, not an accelerator. Raises OSError.

    Does nothing for a run that no plan speaks of: a baseline, a shared pool, pre-fetching, several texts at a
    time (a pass then brings several tokens, and takes longer than one text's).
    """
    settings, parts = run.settings, timing.stack(run)
    if parts is None or settings.baseline or settings.scope != "layer" or settings.prefetch != "none":
        return
    if (run.passes.tokens[run.passes.phase == DECODE] > 1).any():
        return
    found = metrics.summary(run)
    ran = Ran(
        run.mean_bytes,
        settings.slots,
        settings.policy,
        found.decode.hit_ratio,
        found.times.tokens_per_second if found.times else None,
        parts.compute + parts.other,
        link=words.tier_row(run.tier),
        moved_bytes=run.mean_copied,
        unpack_ms=run.tier.unpack_ms if run.tier else 0.0,
        on_host=on_host,
    )
    kept, name = _kept(), who(trace.model)
    about = kept.pop(name, {})
    expected = _table(about.get("expected"))
    for policy in (plans.EVEN, settings.policy):  # what was planned for the policy itself counts
        planned = expected.get(_key(run.mean_bytes, run.mean_copied, settings.slots, policy, on_host))
        ran = _ran(asdict(ran) | _table(planned)) or ran  # of a damaged file nothing
    _keep({**kept, name: {**about, "ran": asdict(ran)}})


def who(model: str) -> str:
    """A folder is the same however its path was written."""
    return str(Path(model).resolve()) if Path(model).is_dir() else model


def _key(expert_bytes: int, moved_bytes: int, slots: int, policy: str, on_host: bool) -> str:
    """Of what is expected. A run in another dtype, with its experts packed otherwise, or on an accelerator
    instead of the CPU, is another."""
    return f"{expert_bytes} {moved_bytes} {slots} {policy}{'' if on_host else ' on an accelerator'}"


def last(model: str) -> Ran | None:
    """How the last run of a model came out; None where there was none, or what was kept of it is damaged."""
    about = _kept().get(who(model), {})
    return _ran(about["ran"]) if "ran" in about else None


def _ran(values: Any) -> Ran | None:
    """What was kept of a run; None where a field is missing, unknown, of another type or no figure."""
    kinds = {one.name: get_type_hints(Ran)[one.name] for one in fields(Ran)}
    try:
        found = Ran(**values)
    except TypeError:
        return None
    for name, kind in kinds.items():
        value = getattr(found, name)
        number = isinstance(value, int | float) and not isinstance(value, bool)
        if not (isinstance(value, kind) or (number and isinstance(1.0, kind))):
            return None
        if number and not 0 <= value < 1e18:
            return None
    return found


def damaged(model: str) -> bool:
    """Whether something is kept of a model, or of any, that cannot be read."""
    try:
        about = _table(json.loads(file().read_bytes())).get(who(model), {})
    except OSError:
        return False
    except (ValueError, RecursionError):
        return True
    return not isinstance(about, dict) or ("ran" in about and _ran(about["ran"]) is None)


def last_alike(model: str, on_host: bool) -> Ran | None:
    """The last run, where its fast tier was of this kind: what a CPU takes says nothing of an accelerator."""
    ran = last(model)
    return ran if ran is not None and ran.on_host == on_host else None


def off_by(ran: Ran) -> list[tuple[str, str]]:
    """How far off the plan of a run was, (name, text) each."""
    what = (
        f"{ran.policy} with {words.many(ran.slots, 'slot')} a layer, each of {words.memory(ran.expert_bytes)}"
    )
    found = [("Last run", f"{what}, over {ran.link}" if ran.link else what)]
    compute = "" if ran.compute_ms is None else f", compute {words.milliseconds(ran.compute_ms)} a token"
    measured = f"{words.percent(ran.hit_ratio)} hit, {words.speed(ran.tokens_per_second)}{compute}"
    if ran.planned_hit_ratio is None:
        return [*found, ("  measured", f"{measured}; nothing had been planned for it")]
    even = " by even routing" if ran.planned_for == plans.EVEN else ""
    planned = f"{words.percent(ran.planned_hit_ratio)} hit{even}"
    if ran.planned_most is None or ran.tokens_per_second is None:
        return [*found, ("  planned", f"{planned}, no speed"), ("  measured", measured)]
    low, high = ran.planned_least or 0.0, ran.planned_most
    nearest = min(max(ran.tokens_per_second, low), high)
    off = round(ran.tokens_per_second / nearest - 1, 2) if nearest else 0.0
    side = "above" if off > 0 else "below"
    verdict = f"{words.percent(abs(off), 0)} {side} the plan" if off else "within the plan"
    least = ran.planned_least is None
    planned += f", {'at most' if least else f'{words.digits(low)} to'} {words.speed(high)}"
    if (ms := ran.planned_compute_ms) is not None:
        planned += f", compute {'at least ' * least}{words.milliseconds(ms)} a token"
    over = f", over {ran.planned_link}" if ran.planned_link else ""
    return [*found, ("  planned", f"{planned}{over}"), ("  measured", f"{measured}: {verdict}")]


def file() -> Path:
    """Where all of it stands."""
    return library.folder().parent / "plans.json"


def _kept() -> dict[str, dict[str, Any]]:
    """What is kept of each model. A file that cannot be read holds nothing: it is written anew."""
    try:
        found = _table(json.loads(file().read_bytes()))
    except (OSError, ValueError, RecursionError):
        return {}
    return {name: about for name, about in found.items() if isinstance(about, dict)}


def _table(found: Any) -> dict[str, Any]:
    return found if isinstance(found, dict) else {}


def _keep(kept: dict[str, dict[str, Any]]) -> None:
    newest = dict(list(kept.items())[-_MOST_KEPT:])
    write_atomically(file(), json.dumps(newest).encode())

"""What `import moeviz as mv` gives: the verbs of the library, each one call.

Settings may be given as a `Settings`, or as the name of a policy (of a user's file too, `path.py:name`) with
the other fields by name.

    trace, run = load("sample_traces/bible.moetrace")
    replay(trace, "lfu", slots=4).hit_ratio
"""

from __future__ import annotations

import os
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import fields, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from moeviz.core import given
from moeviz.core import replay as core
from moeviz.core.owncode import is_ours
from moeviz.core.policies import POLICIES
from moeviz.core.predictors import PREDICTORS
from moeviz.core.run import Run
from moeviz.core.settings import SETTINGS, Settings, read
from moeviz.core.suiting import Shape, named, suited
from moeviz.core.trace import Trace
from moeviz.errors import ArgumentError, SettingsError
from moeviz.numbers import metrics
from moeviz.numbers.curves import Curve
from moeviz.numbers.curves import curve as curve_of
from moeviz.numbers.explain import Explainer

if TYPE_CHECKING:
    import pandas as pd

    from moeviz.files.importers import Imported


def imported(
    path: str | os.PathLike[str],
    *,
    experts: int = 0,
    axes: str = "",
    prompt_tokens: int = -1,
    top_k: int = 0,
    format: str = "",
) -> Imported:
    """The trace of a file that any importer reads, with what was left out or had to be assumed.

    Raises ArgumentError, TraceError, OSError.

    What the file does not say: `experts`, E (0: the largest id + 1); `axes` of an array, such as
    "layer,token,k"; `prompt_tokens` of each request; `top_k` where all experts' numbers are there. `format`:
    empty, found by the content; a user's file as path.py:name.
    """
    given.a_path(path, "load")
    given.whole("load", experts=experts, prompt_tokens=prompt_tokens, top_k=top_k)
    from moeviz.files import importers
    from moeviz.files.guarded import open_file

    options = importers.Options(experts, prompt_tokens, axes, top_k)
    return importers.as_trace(Path(path).name, open_file(path, options, format))


def load(
    path: str | os.PathLike[str],
    *,
    experts: int = 0,
    axes: str = "",
    prompt_tokens: int = -1,
    top_k: int = 0,
    format: str = "",
) -> tuple[Trace, Run | None]:
    """Trace and, where the file holds one, recorded run, of any format; options as of `imported`.

    Raises ArgumentError, TraceError, OSError.
    """
    found = imported(
        path, experts=experts, axes=axes, prompt_tokens=prompt_tokens, top_k=top_k, format=format
    )
    return found.trace, found.run


def settings_of(settings: str | Settings, shape: Shape | None = None, **others: Any) -> Settings:
    """A Settings as it is, a policy's name, or `policy=lru,slots=4` as the command line takes it; `others`
    are fields by name. Slots that nobody names are those that suit a model of this shape.

    Raises SettingsError, or PolicyError of a policy's file.
    """
    if unknown := [name for name in others if name not in SETTINGS]:
        raise SettingsError(f"{unknown[0]!r} is not a setting. Choose from {', '.join(SETTINGS)}.")
    if isinstance(settings, Settings):
        return replace(settings, **_read(others))
    if not isinstance(settings, str):
        raise ArgumentError(
            f"settings are a policy's name, policy=lru,slots=4 or a moeviz.Settings; {given.shown(settings)} "
            "is none."
        )
    several = "=" in settings
    if several:
        found = replace(Settings.parse(settings), **_read(others))
    else:
        found = Settings(**{"policy": read("policy", settings)} | _read(others))
    if shape is None or "slots" in others or (several and "slots" in named(settings)):
        return found
    return suited(found, shape)


def _read(named: Mapping[str, Any]) -> dict[str, Any]:
    """Fields by name, policies and predictors of a user's file loaded."""
    own = ("policy", "prefetch")
    return {
        name: read(name, value) if name in own and isinstance(value, str) else value
        for name, value in named.items()
    }


def replay(trace: Trace, settings: str | Settings = "lru", **others: Any) -> Run:
    """What a cache would have done on a trace: `replay(trace, "lfu", slots=4, prefetch="next-gate")`.

    Raises ArgumentError, SettingsError.
    """
    given.a_trace(trace, "replay")
    return core.replay(trace, settings_of(settings, trace.shape, **others))


def summary(run: Run) -> metrics.Summary:
    """All numbers of a run, typed: `summary(run).decode.hit_ratio`, `.miss_kinds.cold`,
    `.times.tokens_per_second`. Raises ArgumentError.
    """
    given.a_run(run, "summary")
    return metrics.summary(run)


def compare(
    trace: Trace,
    settings: str | Settings | Sequence[str | Settings] = ("lru", "lfu", "belady"),
    slots: int | Sequence[int] = (),
    **others: Any,
) -> pd.DataFrame:
    """Replays every settings at every number of slots (default: its own, or as many as suit the trace), a row
    each. Raises ArgumentError, SettingsError.

    Columns: policy, slots, settings (the label), of decode (or of prefill where nothing was decoded)
    hit_ratio, accesses, hits and misses, and of the whole run, its prompt and pre-fetches included, evictions
    and bytes_moved, so that there may be more evictions than misses; and fast_tier_bytes.
    """
    given.a_trace(trace, "compare")
    import pandas as pd

    rows = []
    counts = given.wholes(slots, "compare", "slots")
    single = isinstance(settings, str | bytes) or not isinstance(settings, Iterable)
    several: Any = [settings] if single else settings
    for one in several:
        for at in [{"slots": count} for count in counts] or [{}]:
            chosen = settings_of(one, trace.shape, **others, **at)
            found = metrics.summary(core.replay(trace, chosen))
            rows.append(
                {
                    "policy": chosen.baseline or chosen.policy,
                    "slots": chosen.slots,
                    "settings": chosen.label,
                    "hit_ratio": found.main.hit_ratio,
                    "accesses": found.main.accesses,
                    "hits": found.main.hits,
                    "misses": found.main.misses,
                    "evictions": found.evictions,
                    "bytes_moved": found.moved.total,
                    "fast_tier_bytes": found.fast_tier_bytes,
                }
            )
    return pd.DataFrame(rows)


def curve(
    trace: Trace,
    settings: str | Settings = "lru",
    slots: int | Sequence[int] | None = None,
    **others: Any,
) -> Curve:
    """Hit ratio over slot counts, without pre-fetching; default: every count from one token's need to all
    experts. Raises ArgumentError, SettingsError.
    """
    given.a_trace(trace, "curve")
    counts = None if slots is None else given.wholes(slots, "curve", "slots")
    return curve_of(trace, settings_of(settings, trace.shape, **others), counts)


def explain(trace: Trace, settings: str | Settings = "lru", **others: Any) -> Explainer:
    """A replay that can say of every eviction why: `explain(trace, "lfu", slots=4).evictions(step=9,
    layer=3)[0].sentence`. Raises ArgumentError, SettingsError.
    """
    given.a_trace(trace, "explain")
    return Explainer(trace, settings_of(settings, trace.shape, **others))


def sweep(
    files: Iterable[str | os.PathLike[str]],
    out: str | os.PathLike[str],
    jobs: int | None = None,
    dask: str = "",
    **plan: Any,
) -> pd.DataFrame:
    """Many trace files under many settings, a row each, written to `out` (.parquet or .csv) and given.

    `plan`: fields of `moeviz.sweeps.Plan`, such as policies=("lru", "lfu"). Worker processes are started anew
    and run the calling script's file, so a script calls this under `if __name__ == "__main__":`. Raises
    ArgumentError, SweepError, OSError.
    """
    each = given.paths(files, "sweep")
    from moeviz import sweeps

    if jobs is not None:
        given.whole("sweep", jobs=jobs)
    given.fields("sweep", ["jobs", "dask", *(one.name for one in fields(sweeps.Plan))], plan)
    usual = {one.name: one.default for one in fields(sweeps.Plan)}
    for name, value in plan.items():
        if name in ("slots", "budgets"):
            plan[name] = tuple(given.wholes(value, "sweep", name))
        elif isinstance(usual[name], tuple):
            plan[name] = given.texts(value, "sweep", name)
        else:
            plan |= given.kinds("sweep", usual, {name: value})
    chosen = sweeps.Plan(**plan)
    known: dict[str, Any] = {one: POLICIES[one].lists or POLICIES[one].score for one in chosen.policies}
    known |= {one: PREDICTORS[one].make for one in chosen.prefetch}
    for name, made in known.items():
        if ":" not in name and not is_ours(made):
            raise ArgumentError(
                f"sweep works in processes of its own, which do not know {name!r} of this program. Put it "
                f"into a file and write path.py:{name}."
            )
    with sweeps.executor(jobs, dask) as executor:
        return sweeps.sweep(each, chosen, Path(out), executor)


def run(
    model: str | os.PathLike[str],
    prompt: str | Sequence[str],
    policy: str | Settings = "lru",
    *,
    tier: str = "disk",
    device: str = "auto",
    dtype: str = "auto",
    experts: str = "lossless",
    threads: int = 1,
    **others: Any,
) -> tuple[Trace, Run]:
    """Generates with the real engine, and gives the routers' choices and what the cache did, timed.

    `model`: a folder that save_pretrained wrote or a hub id, empty for the bundled model. `prompt`: a text,
    or up to 16 texts, which run as one batch and are requests of the trace. `others`: fields of
    Settings (slots, prefetch, ...) and of `moeviz.engine.session.Options` (max_new_tokens, temperature, ...);
    a seed is both's. `experts`: lossless, or int8 or int4, which is lossy. Raises ArgumentError, ModelError,
    StoreError, SettingsError.
    """
    given.a_name(model, "run")
    texts = prompt if isinstance(prompt, str) else given.texts(prompt, "run", "prompts", "texts")
    given.whole("run", threads=threads)
    if threads < 1:
        raise ArgumentError(f"threads of run is {threads}; it must be at least 1.")
    from moeviz.engine import measure
    from moeviz.engine.loader import BUNDLED, load, use_threads
    from moeviz.engine.session import Options

    usual = {one.name: one.default for one in fields(Options)}
    own = set(usual)
    given.fields("run", SETTINGS.keys() | usual.keys(), others)
    others |= given.kinds("run", usual, {name: value for name, value in others.items() if name in own})
    asked = {name: value for name, value in others.items() if name not in own - {"seed"}}
    settings_of(policy, **asked).check_live()  # what cannot be is said before anything is loaded
    options = Options(**{name: value for name, value in others.items() if name in own})
    use_threads(threads)
    loaded = load(
        model or BUNDLED,
        tier=tier,
        device=device,
        dtype=dtype,
        experts=experts,
        wanted=lambda shape: [settings_of(policy, shape, **asked)],
    )
    chosen = settings_of(policy, loaded.shape, **asked)
    try:
        future = measure.look_ahead(loaded, texts, chosen, options)
        return measure.record(loaded, texts, chosen, options, future=future)
    finally:
        loaded.store.close()

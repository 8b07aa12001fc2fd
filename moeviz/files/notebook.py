"""A run as a Jupyter notebook that loads the trace, computes the same numbers anew and says whether they are
the same.

Text from outside stands in its cells as quoted strings only.

    Path("numbers.ipynb").write_text(notebook(trace, run, "mine.moetrace"))
"""

from __future__ import annotations

import json
from pathlib import PurePath
from typing import Any

from nbformat import NotebookNode, v4, writes

from moeviz.core.owncode import short
from moeviz.core.run import Run
from moeviz.core.settings import Settings
from moeviz.core.trace import Trace
from moeviz.numbers import metrics
from moeviz.numbers.curves import bounds

_INTRODUCTION = """# What did the cache do?

Every number and curve below is computed from the trace by `moeviz`, which has to be installed where this
runs: start Jupyter in a checkout of it, or put the checkout on `PYTHONPATH`.
The trace file has to lie where `FILE` says."""

_BESIDE = " So has the file of a policy or predictor that is not moeviz's own: beside this notebook."

_CHECK = """now = {
    **{name: getattr(numbers.whole, name) for name in ("accesses", "hits", "misses")},
    "evictions": numbers.evictions,
    "prefill hits": numbers.prefill.hits,
    "decode hits": numbers.decode.hits,
    **{kind: getattr(numbers.miss_kinds, kind) for kind in ("cold", "capacity", "collision", "pollution")},
}
assert now == shown, f"{now} now, but {shown} then"
now"""

_BOUND = """bound = mv.replay(trace, SETTINGS, policy="belady", prefetch="none").hit_ratio
assert bound == BOUND, f"{bound} now, but {BOUND} then"
f"{run.hit_ratio:.1%} hit; {bound:.1%} would with knowledge of the future" """

_CURVES = """policies = dict.fromkeys((SETTINGS.policy, "lru", "lfu", "belady"))
curves = [mv.curve(trace, SETTINGS, policy=policy, prefetch="none"{more}) for policy in policies]
slots = pd.Index(curves[0].slots, name="slots")
pd.DataFrame({{one.settings.policy: one.hit_ratio for one in curves}}, index=slots)"""

_WHY = """explainer = mv.explain(trace, SETTINGS)
found = explainer.next_event("regret", 0, 0)
[eviction.sentence for eviction in explainer.evictions(*found)] if found else "There is none." """


def notebook(trace: Trace, run: Run, file: str) -> str:
    """Notebook (nbformat 4) as JSON. `file`: the trace's path as the notebook's reader has it."""
    settings = run.settings
    files = _beside(settings)
    said = settings.to_dict() | files
    own = ""
    if files["policy"].rpartition(":")[0].endswith(".py"):
        own = f"from moeviz.core.policies import load_policy\n\nload_policy({files['policy']!r})\n"
    if files["prefetch"].rpartition(":")[0].endswith(".py"):
        own += f"from moeviz.core.predictors import load_predictor\n\nload_predictor({files['prefetch']!r})\n"
    bound = bounds(trace, settings, None).belady_hit_ratio
    took = "run = recorded" if run.measured else "run = mv.replay(trace, SETTINGS)"
    kind = (
        "The run recorded in the file, as it was measured." if run.measured else "A replay under `SETTINGS`."
    )
    cells = [
        _text(_INTRODUCTION + (_BESIDE if own else "")),
        _code(
            f"import pandas as pd\n\nimport moeviz as mv\n\n{own}FILE = {file!r}\n"
            f"SETTINGS = mv.Settings(**{said!r})"
        ),
        _code("trace, recorded = mv.load(FILE)\ntrace"),
        _text(f"## The numbers\n\n{kind}"),
        _code(f"{took}\nrun"),
        _text("Are they the numbers that were shown where this notebook was made?"),
        _code(f"numbers = mv.summary(run)\nshown = {_shown(run)!r}\n{_CHECK}"),
    ]
    if bound is not None:
        cells += [
            _text(
                "## How much better could any policy be?\n\nWithout pre-fetching, with this memory and rule."
            ),
            _code(f"BOUND = {bound!r}\n{_BOUND}".rstrip()),
        ]
    more = ', baseline=""' if settings.baseline else ""
    cells += [_text("## How many slots are enough?"), _code(_CURVES.format(more=more))]
    if not settings.baseline:
        why = (
            "The first eviction that was regretted: the victim came back before another that could have left."
        )
        cells += [_text(f"## Why did an expert leave?\n\n{why}"), _code(_WHY.rstrip())]
    return str(
        writes(v4.new_notebook(cells=_numbered(cells), metadata={"language_info": {"name": "python"}}))
    )


def _beside(settings: Settings) -> dict[str, str]:
    """What settings say of files: without their folders, since a notebook is passed on."""
    files = {name: short(getattr(settings, name)) for name in ("policy", "prefetch")}
    return files | {"calibration": PurePath(settings.calibration).name}


def _shown(run: Run) -> dict[str, Any]:
    found = metrics.summary(run)
    shown = {
        "accesses": found.whole.accesses,
        "hits": found.whole.hits,
        "misses": found.whole.misses,
        "evictions": found.evictions,
        "prefill hits": found.prefill.hits,
        "decode hits": found.decode.hits,
        "cold": found.miss_kinds.cold,
        "capacity": found.miss_kinds.capacity,
        "collision": found.miss_kinds.collision,
        "pollution": found.miss_kinds.pollution,
    }
    return dict(json.loads(json.dumps(shown)))


def _numbered(cells: list[NotebookNode]) -> list[NotebookNode]:
    """With ids that are the same every time."""
    for number, cell in enumerate(cells):
        cell["id"] = f"cell-{number}"
    return cells


def _text(source: str) -> NotebookNode:
    cell: NotebookNode = v4.new_markdown_cell(source)
    return cell


def _code(source: str) -> NotebookNode:
    cell: NotebookNode = v4.new_code_cell(source)
    return cell

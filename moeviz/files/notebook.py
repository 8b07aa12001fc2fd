"""A run as a Jupyter notebook that loads the trace, computes the same numbers anew and says whether they are the same.

Path("numbers.ipynb").write_text(notebook(trace, run, "mine.moetrace"))
"""

from __future__ import annotations

import json
from typing import Any

from nbformat import NotebookNode, v4, writes

from moeviz.core.run import Run
from moeviz.core.trace import Trace
from moeviz.numbers import metrics
from moeviz.numbers.curves import bounds


def notebook(trace: Trace, run: Run, file: str) -> str:
    """Notebook (nbformat 4) as JSON. `file`: the trace's path as the notebook's reader has it. Text from outside stands in its cells as quoted strings only."""
    settings = run.settings.to_dict()
    took = (
        "trace, run = load(FILE)"
        if run.measured
        else "trace, recorded = load(FILE)\nrun = replay(trace, SETTINGS)"
    )
    own = (
        f"load_policy({run.settings.policy!r})\n"
        if run.settings.policy.rpartition(":")[0].endswith(".py")
        else ""
    )
    cells = [
        _text(
            "# What did the cache do?\n\nEvery number and figure below is computed from the trace by `moeviz`, which has to be installed where this "
            "runs: start Jupyter in a checkout of it, or put the checkout on `PYTHONPATH`. The trace file has to lie where `FILE` says."
        ),
        _code(
            "import pandas as pd\n\nfrom moeviz.charts import figures as charts\nfrom moeviz.numbers import metrics, routing\nfrom moeviz.numbers.curves import bounds, curve, knee\n"
            "from moeviz.numbers.explain import Explainer\nfrom moeviz.core.policies import load_policy\nfrom moeviz.core.replay import replay\nfrom moeviz.core.settings import Settings\n"
            f"from moeviz.files.moetrace import load\n\n{own}FILE = {file!r}\nSETTINGS = Settings(**{settings!r})"
        ),
        _text(
            "## The numbers\n\n"
            + (
                "The run recorded in the file, as it was measured."
                if run.measured
                else "A replay under `SETTINGS`."
            )
        ),
        _code(
            f"{took}\nnumbers = metrics.summary(run)\npd.json_normalize(numbers).T.rename(columns={{0: 'value'}})"
        ),
        _text("Are they the numbers that were shown where this notebook was made?"),
        _code(
            f"shown = {_shown(trace, run)!r}\nnow = {{\n    **{{name: numbers[name] for name in ('accesses', 'hits', 'misses', 'evictions')}},\n"
            "    **{f'{phase} hits': numbers[phase]['hits'] for phase in ('prefill', 'decode')},\n    **numbers['miss_kinds'],\n"
            "    **bounds(trace, SETTINGS, None),\n}\nassert now == shown, f'{now} now, but {shown} then'\nnow"
        ),
        _text("## Does the cache get better as it goes?"),
        _code("charts.hit_ratio_over_time([(run.settings.label, run)])"),
        _text("## Which experts did the tokens choose?"),
        _code("charts.heat(routing.usage(trace).T, 'expert', 'tokens')"),
        _text("## How many slots are enough?"),
        _code(
            "policies = ('lru', 'lfu', 'belady')\ncurves = [curve(trace, Settings(policy, trace.k)) for policy in policies]\n"
            "charts.slot_curves(curves, policies, SETTINGS.slots, knee(curves[0]))"
        ),
    ]
    if not run.settings.baseline:
        cells += [
            _text(
                "## Why did an expert leave?\n\nThe first eviction that was regretted: the victim came back before another that could have left."
            ),
            _code(
                "explainer = Explainer(trace, SETTINGS)\nfound = explainer.next_event('regret', 0, 0)\n"
                "[eviction.sentence for eviction in explainer.evictions(*found)] if found else 'There is none.'"
            ),
        ]
    return str(
        writes(v4.new_notebook(cells=_numbered(cells), metadata={"language_info": {"name": "python"}}))
    )


def _shown(trace: Trace, run: Run) -> dict[str, Any]:
    numbers = metrics.summary(run)
    shown = {
        **{name: numbers[name] for name in ("accesses", "hits", "misses", "evictions")},
        **{f"{phase} hits": numbers[phase]["hits"] for phase in ("prefill", "decode")},
        **numbers["miss_kinds"],
        **bounds(trace, run.settings, None),
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

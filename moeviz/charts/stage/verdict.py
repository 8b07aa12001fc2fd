"""One sentence on who hits more, over the whole text and on both sides of a change of subject. Hits only: it
knows no times.

hit_verdict(runs, changes)      # "LRU hits 3.6 points more: LFU leads by 2.0 in German, LRU by 9.8 in Python."
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from moeviz.charts.stage.words import setting_name
from moeviz.core.run import HIT, Run
from moeviz.core.trace import Trace
from moeviz.numbers.subject import Change

TIE = 0.05  # points; less is written as no difference


def hit_verdict(trace: Trace, runs: Sequence[Run], changes: Sequence[Change]) -> str:
    """Compares the first two runs in points of hit ratio. Empty where there is one run only, or two of the
    same name.
    """
    names = [setting_name(run.settings) for run in runs[:2]]
    if len(set(names)) < 2:
        return ""
    whole = _lead(runs, 0, len(runs[0].passes.phase))
    lead = (
        "Both hit equally often"
        if abs(whole) < TIE
        else f"{names[0] if whole > 0 else names[1]} hits {abs(whole):.1f} points more"
    )
    if not changes:
        return f"{lead} on this text."
    pass_of = np.repeat(np.arange(len(trace.passes())), [s.stop - s.start for s in trace.passes()])
    at = [0, *(int(pass_of[one.token]) for one in changes), len(runs[0].passes.phase)]
    subjects = [changes[0].before, *(one.after for one in changes)]
    if len(subjects) > 3:
        return f"{lead} on this text, which changes its subject {len(changes)} times."
    parts = []
    for subject, first, last in zip(subjects, at, at[1:], strict=False):
        points = _lead(runs, first, last)
        leader = names[0] if points > 0 else names[1]
        where = f"in {subject.capitalize()}"
        parts.append(
            f"{where} neither leads" if abs(points) < TIE else f"{where} {leader} leads by {abs(points):.1f}"
        )
    return f"{lead}: {', '.join(parts)}."


def _lead(runs: Sequence[Run], first: int, last: int) -> float:
    """Points by which the first run's hit ratio is above the second's, in the passes from `first` to before
    `last`.
    """
    ratios = []
    for run in runs[:2]:
        passes = run.events.forward_pass[run.accesses.event]
        own = run.accesses.outcome[(passes >= first) & (passes < last)]
        ratios.append(float((own == HIT).mean()) if own.size else 0.0)
    return 100 * (ratios[0] - ratios[1])

"""One sentence on who hits more, over the whole text and on both sides of a change of subject. Hits only: it
knows no times.

    hit_verdict(trace, runs, subject_changes(trace))    # "LRU hits 3.6 points more than LFU ..."
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from moeviz.charts.stage.words import setting_names
from moeviz.core.run import HIT, Run
from moeviz.core.trace import Trace
from moeviz.numbers.metrics import counts
from moeviz.numbers.subject import Change
from moeviz.words import SAME, hits_verdict, points

MOST = 3  # subjects that one sentence can hold


def hit_verdict(trace: Trace, runs: Sequence[Run], changes: Sequence[Change]) -> str:
    """Compares the hit ratios of the first two runs. Empty where there is one run, or two of one name."""
    names = setting_names([run.settings for run in runs[:2]])
    if len(set(names)) < 2:
        return ""
    whole = hits_verdict(names[0], counts(runs[0]), names[1], counts(runs[1]))
    subjects = [changes[0].before, *(one.after for one in changes)] if changes else []
    if not 2 <= len(subjects) <= MOST:
        return f"{whole}."
    pass_of = np.repeat(np.arange(len(trace.passes())), [part.stop - part.start for part in trace.passes()])
    at = [0, *(int(pass_of[one.token]) for one in changes), len(runs[0].passes.phase)]
    short = [name.partition(" (")[0] for name in names]
    leaders = names if len(set(short)) < 2 else short
    parts = []
    for subject, first, last in zip(subjects, at, at[1:], strict=False):
        lead = _ratio(runs[0], first, last) - _ratio(runs[1], first, last)
        leader = leaders[0] if lead > 0 else leaders[1]
        says = "neither leads" if abs(lead) < SAME else f"{leader} leads by {points(lead)}"
        parts.append(f"in {subject.capitalize()} {says}")
    return f"{whole}: {', '.join(parts)}."


def _ratio(run: Run, first: int, last: int) -> float:
    """Hits / accesses in the passes from `first` to before `last`."""
    passes = run.events.forward_pass[run.accesses.event]
    own = run.accesses.outcome[(passes >= first) & (passes < last)]
    return float((own == HIT).mean()) if own.size else 0.0

"""What a page says of caches beside their hit ratios: how many tokens waited for nobody, and how much of what
is possible a policy gets.

beyond.hits(trace, [(settings, run), (others, their_run)])
"""

from __future__ import annotations

from collections.abc import Iterable

import streamlit as st

from moeviz import words
from moeviz.app import kept, show
from moeviz.core.run import Run
from moeviz.core.settings import Settings
from moeviz.core.trace import DECODE, Trace
from moeviz.numbers import metrics


def hits(trace: Trace, several: Iterable[tuple[Settings, Run]]) -> None:
    """A line of whole-token hits and of gaps captured, with their sentences one touch away; `several`:
    settings, and what they did on the trace.
    """
    said = words.beyond_hits(
        [
            (words.policy_name(one.policy), metrics.whole(run, DECODE).pass_ratio, kept.gap(trace, one, run))
            for one, run in several
        ]
    )
    if said:
        st.caption(show.plain(said), help=words.tooltip(said))

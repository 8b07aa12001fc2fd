"""What a page says of caches beside their hit ratios: how many tokens waited for nobody, and how much of what
is possible a policy gets.

beyond.hits(trace, [Settings("lru", 4), Settings("lfu", 4)])
"""

from __future__ import annotations

from collections.abc import Sequence

import streamlit as st

from moeviz import words
from moeviz.app import kept, show
from moeviz.core.settings import Settings
from moeviz.core.trace import DECODE, Trace
from moeviz.numbers import metrics


def hits(trace: Trace, several: Sequence[Settings]) -> None:
    """A line of whole-token hits and of gaps captured, with their sentences one touch away. Raises
    SettingsError where settings do not fit the trace.
    """
    said = words.beyond_hits(
        [
            (words.policy_name(one.policy), metrics.whole(kept.replayed(trace, one), DECODE).pass_ratio, gap)
            for one in several
            for gap in [kept.gap(trace, one)]
        ]
    )
    if said:
        st.caption(show.plain(said), help=words.tooltip(said))

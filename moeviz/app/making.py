"""The sliders of the lesson that makes its own text: how skewed, how often again, how soon another subject.

shown = making.sliders()  # for teaching.reveal
"""

from __future__ import annotations

from typing import Any

import streamlit as st

from moeviz import words
from moeviz.core.trace import Trace
from moeviz.lessons import Shown, made_up
from moeviz.lessons.made_up import Recipe


def sliders() -> Shown:
    """A made-up text by its three numbers."""
    linked: dict[str, Any] = {"bind": "query-params"}
    with st.container(horizontal=True):
        skew = st.slider("Skew", 0.0, 3.0, 1.0, 0.1, key="skew", help=words.tooltip("skew"), **linked)
        reuse = st.slider("Reuse", 0.0, 1.0, 0.3, 0.05, key="reuse", help=words.tooltip("reuse"), **linked)
        change = st.select_slider(
            "Subject changes", [0, 120, 60, 30, 15], 60, key="change", format_func=_pace, **linked
        )
        seed = st.number_input(
            "Seed", 0, 10_000, 0, key="made_seed", width=110, help=words.tooltip("seed"), **linked
        )
    recipe = Recipe(float(skew), float(reuse), int(change), int(seed))
    return Shown(
        _made(recipe),
        made_up.boards(),
        "Your made-up text",
        int(change) or made_up.TOKENS // 2,
        changes=recipe.changes,
    )


def _pace(change: int) -> str:
    return f"every {words.many(change, 'token')}" if change else "never"


@st.cache_resource(show_spinner=False, max_entries=64)
def _made(recipe: Recipe) -> Trace:
    return recipe.trace()

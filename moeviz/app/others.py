"""Other people's published curves on What if: which are laid under one's own, and where they stand.

with forms.drawer(scope=scope, published=others.first(trace, scope)):
    laid = others.choose(trace, scope, begin="layer")
"""

from __future__ import annotations

import streamlit as st

from moeviz import words
from moeviz.app import forms
from moeviz.app.show import plain
from moeviz.core.settings import SCOPES
from moeviz.core.trace import Trace
from moeviz.numbers.published import Published, of_model, published


def first(trace: Trace, scope: str) -> list[str]:
    """Those that lie there from the start: of the trace's own model."""
    return [one.name for one in of_model(trace.model) if one.scope == scope]


def choose(trace: Trace, scope: str, begin: str) -> list[Published]:
    """Draws the choice of the scope of all curves, which begins as `begin`, and of the published ones."""
    st.segmented_control(
        "Scope",
        list(SCOPES),
        default=begin,
        required=True,
        key="scope",
        bind="query-params",
        help=words.tooltip("scope"),
    )
    known = {one.name: one for one in published() if one.scope == scope}
    names = forms.several(
        "Published curves",
        "published",
        list(known),
        first(trace, scope),
        words.tooltip("published curve", more="Dotted, where the same share of all experts has a slot."),
    )
    return [known[name] for name in names]


def sources(laid: list[Published]) -> None:
    """Where each stands, and how it was made."""
    for one in laid:
        st.caption(plain(one.sentence()))

"""Lessons: read, predict, reveal, why, try."""

from __future__ import annotations

import streamlit as st

from moeviz.app import bar, teaching

bar.within_app()
one = teaching.choose()
left, right = st.columns([2, 5], gap="medium")
with left:
    with st.container(key="lesson-text"):
        given = teaching.predict(one)
        if given is not None:
            teaching.explain(one, given)
    if given is not None:
        teaching.onward(one)
with right:
    views = ["Game", "Stage"] if one.extra == "game" else []
    view = "Stage"
    if views and given is not None:
        view = st.segmented_control(
            "Show", views, default="Stage", required=True, key="lesson_view", label_visibility="collapsed"
        )
    if (given is None and views) or view == "Game":
        teaching.play()
    elif given is None:
        teaching.pictures(one)
    elif one.extra == "sliders":
        teaching.reveal(teaching.sliders())
    else:
        teaching.reveal(teaching.answered(one.number).stage)

"""Lessons: read, predict, reveal, why, try."""

from __future__ import annotations

import streamlit as st

from moeviz.app import bar, making, playing, teaching

bar.within_app()
one = teaching.choose()
halves = [2, 5] if st.session_state.presenter else [4, 9]  # there the pictures of answers stand on the right
left, right = st.columns(halves, gap="medium")
with left:
    with st.container(key="lesson-text"):
        given = teaching.predict(one)
        beside = teaching.before(one) if given is None else teaching.explain(one, given)
    if given is not None:
        teaching.onward(one)
with right:
    match beside:
        case "Game":
            playing.play()
        case "Picture" if given is None:
            teaching.pictures(one)
        case "Picture" if given is not None:
            teaching.picture_of_answer(one, given)
        case _ if one.extra == "sliders":
            teaching.reveal(making.sliders())
        case _:
            teaching.reveal(teaching.answered(one.number).stage)

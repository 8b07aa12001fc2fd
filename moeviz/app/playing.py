"""The game on the lessons' page: who leaves? It lives in the session.

playing.play()
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial

import streamlit as st

from moeviz import words
from moeviz.app import components, show
from moeviz.app.teaching import LAB
from moeviz.core.policies import POLICIES
from moeviz.errors import MoevizError
from moeviz.lessons import game


def play() -> None:
    """The game: who leaves?"""
    state = st.session_state
    policy = st.selectbox(
        "Play against",
        game.choices(LAB.trace()),
        format_func=words.policy_name,
        key="against_policy",
        bind="query-params",
        width=260,
    )
    if state.get("game") is None or state.game.policy != policy:
        again, first = state.get("game_again", (policy, 0))
        try:
            state.game = _game(policy, first if again == policy else 0)
        except MoevizError as error:  # a policy of the user's own may say anything
            state.game = None
            st.error(show.plain(str(error)))
            return
    now: game.Game = state.game
    after_hint = ", which a hint does not lengthen" if now.hinted else ""
    streak = f"streak {now.streak}{after_hint} · best {now.best}"
    score = f"Round {now.at + 1} of {len(now.rounds)} · {now.right} right · {streak}"
    st.markdown(show.plain(game.rule(now)), help=show.plain(POLICIES[now.policy].text) or None)
    components.drawing(game.board(now), "game-board")
    with st.container(key="game-moves", horizontal=True, vertical_alignment="center"):
        for one in now.round.candidates:
            guess = partial(game.guess, expert=one.expert)
            _move(f"Expert {one.expert}", guess, now.guessed is not None)
        _move("Hint", game.hint, now.guessed is not None or now.hinted)
        if now.over:
            st.button("Play again", key="play-again", on_click=_again, args=(now,))
        elif now.guessed is not None:
            _move("Next round", game.onward, False)
    st.markdown(show.plain(game.said(now) or (game.hint_text(now) if now.hinted else score)))
    if now.guessed is not None or now.hinted:
        st.caption(score)


@st.cache_resource(show_spinner="Looking for evictions", max_entries=16)
def _game(policy: str, first: int) -> game.Game:
    return game.start(LAB.trace(), policy, first=first)


def _again(now: game.Game) -> None:
    """The next game, of other evictions. It is made where it is drawn, which tells of a failing policy."""
    st.session_state.update(game=None, game_again=(now.policy, now.rounds[0].step + 1))


def _move(label: str, move: Callable[[game.Game], game.Game], disabled: bool) -> None:
    state = st.session_state

    def done() -> None:
        state.game = move(state.game)

    st.button(label, key=f"move-{label}", on_click=done, disabled=disabled)

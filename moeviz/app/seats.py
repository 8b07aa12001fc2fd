"""What is tied to a session until its connection ends.

When a connection ends, Streamlit tells a script of that session to stop, and lets go of what the session
holds. The script goes on to its next call of Streamlit, and may tie anew by then what nobody lets go of any
more. So it asks here after it has tied something: who was told to stop unties it again.

    desk.enter(seats.session())
    seats.untie_if_gone(lambda: desk.leave(seats.session()))
"""

from __future__ import annotations

from collections.abc import Callable

import streamlit as st
from streamlit.runtime.scriptrunner import StopException, get_script_run_ctx


def session() -> str:
    """Streamlit's name for the session of this script; "" outside of one."""
    context = get_script_run_ctx()
    return context.session_id if context else ""


def untie_if_gone(untie: Callable[[], None]) -> None:
    """Calls `untie`, and ends the script, where this session's connection has ended since it began."""
    try:
        _ = "page" in st.session_state  # whoever asks for the state is told to stop
    except StopException:
        untie()
        raise

"""What a link restores besides the widgets that Streamlit binds to it: trace, its window, cursor, the boards
of the stage, there the layer at which slow motion stands, the expert that is asked about and the speed; what
other pages begin with, presenter mode, a first visit that goes on, the lesson and the progress in the
lessons.

Streamlit drops a page's parameters when another page is opened, so they are kept here and put back.
"""

from __future__ import annotations

import math
from collections.abc import Collection

import streamlit as st
from streamlit.runtime.scriptrunner import get_script_run_ctx

from moeviz.app.show import plain
from moeviz.core.policies import POLICIES
from moeviz.core.predictors import PREDICTORS
from moeviz.core.settings import SETTINGS, Settings
from moeviz.errors import SettingsError
from moeviz.words.names import POLICY_NAMES

NAMES = (
    *("trace", "window", "step", "slow", "a", "b", "asked", "speed", "begin"),
    *("presenter", "visit", "lesson", "progress"),
)
LISTS = ("policies", "published", "baselines")  # of them a link may say that nothing is chosen
MENUS = ("policy", "policies", "policy_export", "against_policy")  # widgets that a policy is chosen with
BOARD = ("policy", "slots", "prefetch")  # settings that are chosen on a board
# those that any link may name: no calibration, which is a file
LINKED = tuple(name for name in SETTINGS if name not in ("seed", "baseline", "calibration"))


def _kept() -> dict[str, str]:
    state = st.session_state
    if "links" not in state:
        state.links = {name: st.query_params[name] for name in NAMES if name in st.query_params}
    found: dict[str, str] = state.links
    return found


def get(name: str) -> str:
    """What the link says, or was told since; "" where nothing."""
    return _kept().get(name, "")


def count(name: str) -> int | None:
    """The whole number, 0 or more, that the link says; None where it says none."""
    text = get(name)
    return int(text) if text.isascii() and text.isdecimal() and len(text) < 9 else None


def put(name: str, value: str) -> None:
    """Tells the link; "" takes the parameter out. It is no step for the browser's Back: see keys.js."""
    kept = _kept()
    if value:
        kept[name] = value
        if st.query_params.get(name) != value:
            st.query_params[name] = value
    else:
        kept.pop(name, None)
        st.query_params.pop(name, None)


def put_default(name: str, value: str) -> None:
    """Tells the link what the page shows without being told. A session's first picture leaves the link as it
    came: keys.js, which sees to the browser's Back, comes with that picture only.
    """
    if get(name) or st.session_state.pictures > 1:
        put(name, value)


def refuse_senseless() -> None:
    """Takes out of the link what a widget that is bound to it fails over: numbers without an end, such as inf
    or 1e400, which is said, and empty values of what is no list. Comes before a page's widgets.
    """
    endless = {name: text for name, text in st.query_params.items() if _endless(text)}
    for name, text in endless.items():
        st.toast(plain(f"The link says {name}={text[:40]}, a number without an end; it is left out."))
    empty = [name for name, text in st.query_params.items() if not text and name not in LISTS]
    leave_out(*endless, *empty)


def name_policies() -> None:
    """Puts what the menus call a policy in the place of its id, by which a link written by hand names it: of
    the widgets that are bound to the link, which read there what their menus say. Comes before them.
    """
    for key in MENUS:
        said = st.query_params.get_all(key)
        called = [POLICY_NAMES.get(one, one) for one in said]
        if called != said:
            st.query_params[key] = called
            _begin_anew()


def leave_out(*names: str) -> None:
    """Takes these out of the link, also for the widgets that are bound to it and are still to be made."""
    for name in names:
        st.query_params.pop(name, None)
        st.session_state.get("links", {}).pop(name, None)
    if names:
        _begin_anew()


def _begin_anew() -> None:
    """Widgets that are still to be made begin with what the link says now."""
    context = get_script_run_ctx()
    if context is not None:
        with context.session_state.query_params() as params:
            params.set_initial_query_params_from_current()


def _endless(text: str) -> bool:
    try:
        return math.isinf(float(text))
    except ValueError:
        return False


def restore() -> None:
    """Takes what the link to this page says, and puts back what the change of pages dropped."""
    st.session_state.pictures = st.session_state.get("pictures", 0) + 1
    kept = _kept()
    kept.update({name: st.query_params[name] for name in NAMES if name in st.query_params})
    for name, value in list(kept.items()):  # an empty one is taken out
        put(name, value)


def settings(text: str, first: Settings, names: Collection[str] = BOARD) -> Settings:
    """Settings as a link says them: of a board, or those of `names`; the rest as in `first`.

    Raises SettingsError; no file that a link names is opened.
    """
    items = [item.partition("=")[::2] for item in text.split(",") if item]
    parts = dict(items)  # each once, before anything is read
    may = f"Such a link may say {', '.join(names)}, each once."
    for name, _ in items:
        if name not in SETTINGS:
            raise SettingsError(f"{name[:40]!r} is not a setting. {may}")
        if name not in names:
            raise SettingsError(f"{name} is not for a board alone, or not for a link. {may}")
        if len(parts) < len(items) and [one for one, _ in items].count(name) > 1:
            raise SettingsError(f"{name} is said twice. {may}")
    for name, known in (("policy", POLICIES), ("prefetch", PREDICTORS)):
        if parts.get(name, "none" if name == "prefetch" else "lru") not in known:
            raise SettingsError(f"{name} {parts[name][:40]!r} is not known.")
    return Settings.parse(",".join(f"{n}={v}" for n, v in parts.items()), **first.to_dict())


def said(found: Settings, first: Settings) -> str:
    """What `settings` reads, with all names that a link may say: where `found` is not as `first`."""
    changed = [name for name in LINKED if getattr(found, name) != getattr(first, name)]
    return ",".join(f"{name}={getattr(found, name)}" for name in changed)

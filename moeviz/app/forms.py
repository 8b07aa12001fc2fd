"""Forms made from the fields of `Settings`, and the drawer that holds what is not on a page's first screen.

form = forms.SettingsForm(trace, run)
form.show("policy", "slots")
with forms.drawer(form, paper=False):
    form.rest()
    paper = st.toggle("Paper colours", key="paper", bind="query-params")
settings = form.settings()      # None after one message
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from contextlib import AbstractContextManager
from dataclasses import replace
from typing import Any

import streamlit as st

from moeviz import words
from moeviz.app import links, traces, window
from moeviz.app.show import plain
from moeviz.core.policies import POLICIES
from moeviz.core.predictors import PREDICTORS
from moeviz.core.run import Run
from moeviz.core.settings import DEFAULTS, KINDS, SCOPES, SETTINGS, WARM, Settings
from moeviz.core.trace import MAX_LOOKAHEAD, Trace
from moeviz.errors import MoevizError
from moeviz.files.moetrace import sample_names

LABELS = {
    "policy": "Policy",
    "slots": "Slots per layer",
    "scope": "Scope",
    "prefetch": "Pre-fetch",
    "lookahead": "Lookahead",
    "width": "Width",
    "threshold": "Threshold",
    "warm": "Warm start",
    "calibration": "Calibration trace",
    "half_life": "Half-life in tokens",
    "rule": "Rule",
    "budget": "Bytes for experts in all, instead of slots",
}
FIELDS = [name for name in SETTINGS if name not in ("seed", "baseline")]
RULES = ["pinned", "in-order", "one-by-one", "batch:4", "batch:16"]
WIDTHS = {
    "policy": 160,
    "slots": 140,
    "prefetch": 170,
    "lookahead": 140,
    "width": 140,
    "threshold": 140,
    "warm": 160,
    "calibration": 230,
    "half_life": 180,
    "rule": 160,
    "budget": 330,
}


class SettingsForm:
    """Widgets of one Settings, for the shape of one trace. `name` tells several apart in the link."""

    def __init__(
        self,
        trace: Trace,
        run: Run | None,
        name: str = "",
        keys: Mapping[str, str] | None = None,
        begin: Settings | None = None,
    ) -> None:
        """`begin`: what fields begin with, in place of their defaults. `keys`: fields that are called
        otherwise in the link.
        """
        self.trace, self.name, self.keys = trace, name, dict(keys or {})
        self.first: dict[str, Any] = begin.to_dict() if begin is not None else dict(DEFAULTS)
        self.scope = scope(f"scope{name}", str(self.first["scope"]))
        if begin is None or begin.scope != self.scope:
            self.first["slots"] = traces.slots_for(trace, run, self.scope)
        self.values: dict[str, Any] = {}

    def key(self, field: str) -> str:
        return f"{self.keys.get(field, field)}{self.name}"

    def show(self, *fields: str) -> None:
        """Draws the widgets of these fields here."""
        for field in fields:
            self.values[field] = self._widget(field)

    def rest(self, *without: str) -> None:
        """Draws the widgets of all fields that were not shown, but for these, side by side."""
        with st.container(horizontal=True, vertical_alignment="bottom", key=f"fields{self.name}"):
            self.show(*(field for field in self._hidden() if field not in without))

    def _hidden(self) -> list[str]:
        return [field for field in FIELDS if field not in self.values]

    def changed(self) -> int:
        """How many of the fields that were not shown are not at their defaults."""
        state = st.session_state
        return sum(
            state.get(self.key(field), self._default(field)) != self._default(field)
            for field in self._hidden()
        )

    def _default(self, field: str) -> Any:
        unset = field == "calibration" and not self.first[field]
        return sample_names()[0] if unset else self.first[field]

    def settings(self, seed: int = 0) -> Settings | None:
        """The Settings, checked against the trace's shape; None after one message where they do not fit."""
        try:
            found = Settings(**{**self.first, **self.values, "seed": seed})
            found = found if found.needs_calibration else replace(found, calibration="")
            found.check(*self.trace.shape)
        except MoevizError as error:
            st.error(str(error))
            return None
        return found

    def _widget(self, field: str) -> Any:
        about, key, first = SETTINGS[field], self.key(field), self._default(field)
        label, help = LABELS.get(field, field.replace("_", " ").capitalize()), _help(field)
        bound: dict[str, Any] = {"key": key, "help": help, "bind": "query-params"}
        if field == "scope":
            return st.segmented_control(label, list(SCOPES), default=first, required=True, **bound)
        if field == "calibration":
            options = list(dict.fromkeys([first, *sample_names()]))
            width = px(WIDTHS[field])
            return (
                st.selectbox(label, options, accept_new_options=True, key=key, help=help, width=width) or ""
            )
        if field == "rule":
            options = list(dict.fromkeys([first, *RULES]))
            _refuse_unknown_rule(key, first)
            width = px(WIDTHS[field])
            return st.selectbox(label, options, accept_new_options=True, width=width, **bound) or first
        if KINDS[field] is str and about.known is None:
            return st.text_input(label, first, **bound)
        if KINDS[field] is str:
            options = list(about.known or ())
            return st.selectbox(
                label,
                options,
                options.index(first),
                format_func=words.policy_name,
                width=px(WIDTHS.get(field, "stretch")),
                **bound,
            )
        least, most = self._range(field)
        if field == "slots" and self.scope == "model":
            label = "Slots in all"
        follow(key, first, least, most)
        step = 0.1 if KINDS[field] is float else 1
        width = px(WIDTHS.get(field, "stretch"))
        return st.number_input(label, least, most, first, step=step, width=width, **bound)

    def _range(self, field: str) -> tuple[Any, Any]:
        """What a number may be for a trace of this shape."""
        trace, about = self.trace, SETTINGS[field]
        if field == "slots":
            return trace.k, trace.num_experts * (trace.layers if self.scope == "model" else 1)
        most = {
            "lookahead": MAX_LOOKAHEAD,
            "width": trace.num_experts,
            "half_life": 100_000,
            "budget": 2**53 - 1,  # what a browser's number can count to
        }
        kind = KINDS[field]
        return kind(about.least or 0), kind(most.get(field, about.most))


def scope(key: str, first: str) -> str:
    """What the widget of this key will be at, for whoever draws something before it: as chosen, or as the
    link says by which the page was opened.
    """
    found = str(st.session_state.get(key, st.query_params.get(key, first)))
    return found if found in SCOPES else first


def _refuse_unknown_rule(key: str, first: str) -> None:
    """Puts the first rule in the place of what is none, where a link names it or somebody typed it, and says
    so. Comes before the rule's widget.
    """
    state = st.session_state
    rule = state.get(key, st.query_params.get(key)) or first
    try:
        Settings(rule=str(rule))
    except MoevizError as error:
        st.toast(plain(f"{error} Shown is {first}."))
        links.leave_out(key)
        state.linked.pop(key, None)  # what the link said is told with this
        state[key] = first


def _help(field: str) -> str:
    known: Mapping[str, str] = {"scope": SCOPES, "warm": WARM}.get(field, {})
    if field in ("policy", "prefetch"):
        registry = POLICIES if field == "policy" else PREDICTORS
        known = {words.policy_name(name): one.text for name, one in registry.items()}
    lines = [f"- **{name}**: {what}" for name, what in known.items()]
    text = "\n".join([f"{SETTINGS[field].help}.", *lines])
    return words.tooltip(LABELS.get(field, field), more=text) or text


def follow(key: str, first: Any, least: Any, most: Any) -> None:
    """Readies a number's widget, which is to be made with `first` as its value: what nobody changed follows
    the trace, and nothing is out of range.
    """
    state, before = st.session_state, st.session_state.get(f"first-{key}")
    state[f"first-{key}"] = first
    unchanged = before not in (None, first) and state.get(key) == before
    if key in state and (unchanged or not least <= state[key] <= most):
        state[key] = first


def px(width: Any) -> Any:
    """A width in pixels, larger where the text is."""
    return round(width * window.larger()) if isinstance(width, int) else width


def drawer(form: SettingsForm | None = None, **more: Any) -> AbstractContextManager[Any]:
    """A drawer in the top bar for what is not on the first screen; its label counts what is not at its
    default.

    more: the page's own keys and their defaults.
    """
    with st.session_state.bar_slot:
        return st.popover(_label(form, more), icon=":material/tune:", key="drawer")


def more(**more: Any) -> AbstractContextManager[Any]:
    """The same of one form, where the form is. more: its keys and their defaults."""
    return st.popover(_label(None, more), icon=":material/tune:")


def _label(form: SettingsForm | None, more: Mapping[str, Any]) -> str:
    count = sum(st.session_state.get(key, default) != default for key, default in more.items())
    count += form.changed() if form is not None else 0
    return f"More · {count} set" if count else "More"


def number(label: str, key: str, most: int) -> int:
    """A whole number from 0 to `most`, which follows the trace."""
    return int(
        st.number_input(
            label,
            0,
            most,
            key=traces.fits(key, most),
            bind="query-params",
            width=px(130),
            help=words.tooltip(label),
        )
    )


def several(
    label: str, key: str, options: Sequence[str], first: Sequence[str], help: str | None
) -> list[str]:
    """Several of a few names; those that a link or another trace left and that are no option are dropped."""
    state = st.session_state
    if key in state:
        state[key] = [name for name in state[key] if name in options]
    given: dict[str, Any] = {} if key in state else {"default": list(first)}
    return list(st.multiselect(label, options, key=key, bind="query-params", help=help, **given))


def one_of(label: str, key: str, options: Sequence[int], first: int) -> int:
    """A slider over a few numbers; begins at the nearest to `first`, and again where its value is none of
    them.
    """
    nearest = min(options, key=lambda one: abs(one - first))
    if st.session_state.get(key) not in options:
        st.session_state.pop(key, None)
    if len(options) == 1:
        return options[0]
    return int(
        st.select_slider(
            label,
            options,
            nearest,
            key=key,
            bind="query-params",
            width=px(330),
            help=words.tooltip(label),
        )
    )

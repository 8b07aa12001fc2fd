"""What stands on every page: the current trace and presenter mode in the top bar, the keys, and what a bad
link held.
"""

from __future__ import annotations

import runpy
from pathlib import Path
from typing import Any

import streamlit as st

from moeviz import words
from moeviz.app import components, first_visit, jobs, lectern, links, traces, window
from moeviz.app.show import plain

STYLE = """<style>
.st-key-bar { position: fixed; top: 0.55rem; right: 1rem; width: min(29rem, 46vw); z-index: 1000000; }
[class*=st-key-fields] { width: min(35rem, 78vw); }
.stMainBlockContainer { padding: 4.25rem 2rem 12px; }
.stMainBlockContainer h1 { padding: 0 0 0.25rem; }
.st-key-keys { display: none; }
.stElementContainer.st-key-stage { opacity: 1 !important; } /* no run of the script dims it, however slow */
[data-testid=stLayoutWrapper]:has(> :is(.st-key-keys, .st-key-listener, .st-key-window)) {
  position: absolute; /* else a gap follows it */
}
@media (min-width: 901px) {
  [data-testid=stLayoutWrapper]:has(> .st-key-bar) { position: absolute; } /* it hangs in the header */
  /* a page's first screen: its charts share the height that the rest leaves. Every :has() here asks for
     children: one for all that is inside would be asked anew at each text of a figure that Plotly measures */
  .st-key-screen { flex: none; min-height: calc(100vh - var(--above, 4.25rem) - 13px); }
  .st-key-screen [data-testid=stLayoutWrapper]:has(> [class*=st-key-chart-]),
  .st-key-screen [data-testid=stLayoutWrapper]:has(> .stHorizontalBlock > .stColumn),
  .st-key-screen :is(.stColumn, .stColumn > .stVerticalBlock, [class*=st-key-chart-]),
  .st-key-screen [class*=st-key-chart-] > .stElementContainer:has(> [data-testid=stFullScreenFrame]),
  .st-key-screen [class*=st-key-chart-] > * > [data-testid=stFullScreenFrame] {
    flex: 1 1 0; display: flex; flex-direction: column;
  }
  .st-key-screen .stHorizontalBlock:has(> .stColumn) { flex: 1 1 0; }
  .st-key-screen > * > .st-key-head { flex: none; }
  .st-key-screen .st-key-head .stColumn:first-child { flex-grow: 1.25; } /* four controls in a row */
  .st-key-screen .stColumn { min-width: 0; }
  .st-key-screen [class*=st-key-chart-] > .stElementContainer:has(> [data-testid=stFullScreenFrame]) {
    min-height: 10rem; overflow: hidden;
  }
  .st-key-screen:has(> * > * > details[open]) [class*=st-key-chart-]
    > .stElementContainer:has(> [data-testid=stFullScreenFrame]) { min-height: 15rem; }
  [class*=st-key-heading-] { flex-wrap: nowrap; } /* a long title takes two lines, its badge none */
  [class*=st-key-heading-] > :first-child { flex: 0 1 auto; min-width: 0; }
  [class*=st-key-heading-] > :not(:first-child), [class*=st-key-heading-] > * > .stVerticalBlock {
    flex: none;
    width: auto;
  }
}
.stMain, .stMain:focus-visible { outline: none !important; }
[data-testid=stButtonGroup] [data-selected=true], [data-testid=stButtonGroup] [data-selected=true] p {
  color: var(--st-text-color, inherit) !important;
  font-weight: 700;
}
[data-testid=stSliderThumbValue] { color: inherit !important; }
button:is([kind=secondary], [kind=tertiary]):enabled:is(:hover, :active, [aria-expanded=true]) {
  color: inherit !important;
}
[data-testid=stCaptionContainer] { color: inherit !important; opacity: 0.82; }
@media (min-width: 1420px) { /* where they fit into half of it, the text begins where the right figure does */
  .st-key-screen .st-key-head .stColumn:first-child { flex-grow: 1 !important; }
}
@media (max-width: 900px) { .st-key-bar { position: static; width: 100%; z-index: auto; } }
@media (max-width: 640px) {
  .st-key-help, .st-key-present { display: none; }
  [data-testid=stExpandSidebarButton]::after { content: "Pages"; margin-left: 0.25rem; }
  [data-testid=stExpandSidebarButton] { width: auto; padding-inline: 0.4rem; }
  .stMainBlockContainer { padding: 4.25rem 1rem 12px; }
  .modebar-container { display: none; }
  .stMainBlockContainer > .stVerticalBlock > :has(.st-key-measuring) { order: -1; }
  [data-testid=stButtonGroup] [role=radiogroup] { flex-wrap: wrap; } /* else its end is out of sight */
  .st-key-paper-figure .xtick:not(:nth-child(4n + 1)) { display: none; }
  .st-key-paper-figure .heatmap-label text { font-size: 8px !important; } /* signs, in cells of 6 px */
  .st-key-Domains-0 .heatmap-label text { /* words, in cells that are higher than wide */
    font-size: 12px !important; transform: rotate(-90deg); transform-box: fill-box; transform-origin: center;
  }
}
</style>"""
STAGE, LESSONS = "Stage", "Lessons"
KEYS = {"p": "present", "?": "help"} | {str(n): f"choice-{n}" for n in range(1, 10)}
HELP = """
| key | what it does |
| --- | --- |
| ← → | where the text stands: move the cursor by one token; Home and End to the ends |
| Page up, Page down | by ten tokens |
| 1 to 9 | in a lesson: the answer of that number; where a slider answers, 1 reveals |
| P | presenter mode: large, without the bar at the top; P again ends it |
| ? | this list, and what the words mean |

The Stage has more keys; press ? there.
"""


def draw(page: str) -> None:
    """The bar, with room for the page's drawer. Comes before the page; `page` is its title."""
    state = st.session_state
    came = state.get("page") != page
    if came:
        state.page = page
        state.pop("seek", None)  # the stage takes up the cursor where the page before left it
        if "trace" in state and (named := st.query_params.get("trace", state.trace)) != state.trace:
            traces.show(named)  # a link from another page names it; the picker alone would keep its own
            traces.placed_in(named)
            for name in traces.PLACE:
                links.put(name, st.query_params.get(name, ""))
    first_visit.notice(page, came, STAGE, LESSONS)
    links.refuse_senseless()
    links.name_policies()
    state.setdefault("linked", {name: ",".join(st.query_params.get_all(name)) for name in st.query_params})
    links.restore()
    if (linked := links.get("presenter")) not in ("", "true"):
        st.toast(
            plain(f"The link says presenter={linked[:40]}, which is neither true nor left out; it is off.")
        )
        links.put("presenter", "")
    state.setdefault("presenter", links.get("presenter") == "true")
    # after Back, or told by a browser that had not heard of the last change yet, the address says another
    links.put("presenter", "true" if state.presenter else "")
    jobs.sit_down()
    lectern.sit_down()
    st.html(STYLE + (window.PRESENTER if state.presenter else ""))
    with st.container(key="listener"):  # with or without: what follows keeps its place, is not drawn twice
        if state.presenter:
            window.listen()
    with st.container(key="bar", horizontal=True, vertical_alignment="center", gap="small"):
        traces.picker()
        state.bar_slot = st.container(width="content")
        st.button(
            "", key="present", icon=":material/slideshow:", on_click=present, help="Presenter mode, key P"
        )
        if st.button("", key="help", icon=":material/help:", help="Keys and words, key ?"):
            _help()
    components.keys(page, first_visit.KEYS if page == STAGE else KEYS)  # the stage has more of its own


def present() -> None:
    """Presenter mode on or off; the link keeps it."""
    state = st.session_state
    state.presenter = not state.presenter
    links.put("presenter", "true" if state.presenter else "")


@st.dialog("Keys and words")
def _help() -> None:
    if st.session_state.page != LESSONS:  # which keeps its own lesson
        st.page_link("pages/lessons.py", label="How it works, in one minute", query_params={"lesson": "0"})
    st.markdown(HELP)
    st.markdown("**Words**")
    st.markdown("\n".join(f"- **{term}**: {sentence}" for term, sentence in words.GLOSSARY.items()))


def say_what_did_not_fit() -> None:
    """Once, after the first page is drawn: what the link asked for and did not get."""
    linked = st.session_state.linked
    unknown = [name for name in linked if name not in links.NAMES and name not in st.session_state]
    if unknown:
        named = ", ".join(name[:40] for name in unknown[:3]) + ("…" if unknown[3:] else "")
        st.toast(plain(f"The link names what this page does not ask for: {named}. It is left out."))
        for name in unknown:
            st.query_params.pop(name, None)
    for name, value in list(linked.items()):
        state = st.session_state.get(name)  # or what a page keeps for itself, which no link names
        told = isinstance(state, str | int | float | list) and name not in links.NAMES
        shown = _text(_called(state) if name in links.MENUS else state)
        if told and shown != value:
            st.toast(
                plain(f"The link says {name}={value[:40]}, which does not fit here; it is {shown[:40]}.")
            )
    linked.clear()


def _called(value: Any) -> Any:
    """Policies as their menus, and so the link, say them."""
    return (
        [words.policy_name(one) for one in value]
        if isinstance(value, list)
        else words.policy_name(str(value))
    )


def _text(value: object) -> str:
    if isinstance(value, bool):
        return str(value).lower()
    return ",".join(map(str, value)) if isinstance(value, list) else str(value)


def within_app() -> None:
    """Sees to it that app.py runs around a page.

    Where the first link that a fresh server is asked for names a page, Streamlit takes `pages/` for its older
    kind of app and runs the page's file alone; then app.py is run from here, which ends that for good.
    """
    if not st.session_state.pop("within_app", False):  # app.py says it anew each time
        runpy.run_path(str(Path(__file__).parents[2] / "app.py"))
        st.stop()

"""How large text is in presenter mode. The page's style makes it grow with the window, and figures, which are
drawn with sizes of their own, follow: the browser tells its text's size wherever that is not the last known.

    style = window.PRESENTER
    window.listen()
    larger = window.larger()
"""

from __future__ import annotations

from collections.abc import Mapping

import streamlit as st

# A projector's picture covers the same wall however many lines it has, so text is a share of the window: the
# smallest, 7/8 of a rem, has 22 px where the window has 1080 lines, and a rem never less than the 16 px of a
# desk.
PRESENTER = """<style>
html { font-size: max(16px, min(2.3333vh, 1.3125vw)) !important; }
[data-testid=stHeader], .st-key-bar, .st-key-drawer { display: none; }
[data-testid=stExpander], [data-testid=stDownloadButton] { display: none; }
.stMainBlockContainer { padding-top: 1rem !important; --above: 1rem; --title: 4.25rem; } /* one row */
.st-key-screen .st-key-head .stColumn:first-child { flex-grow: 1.25 !important; }
</style>"""
USUAL = 25  # px of a text on a projector of 1080 lines
DESK = 16  # px of a text outside presenter mode
_JS = """
const ends = new WeakMap()

export default function ({ data, parentElement, setStateValue }) {
  ends.get(parentElement)?.disconnect()
  const letter = parentElement.querySelector(".letter") // one rem wide
  const watch = new ResizeObserver(() => {
    const px = Math.round(letter.getBoundingClientRect().width)
    if (px && px !== data.px) setStateValue("px", px)
  })
  watch.observe(letter)
  ends.set(parentElement, watch)
  return () => watch.disconnect()
}
"""
_mount = st.components.v2.component(
    "moeviz_window",
    html='<i class="letter">\n</i>',
    css=".letter { position: absolute; visibility: hidden; width: 1rem; height: 1px }",
    js=_JS,
)


def listen() -> None:
    """Hears the size of the text in presenter mode; where it is another, the page is drawn again."""
    with st.container(key="window"):
        _mount(data={"px": _px()}, key="text-size", on_px_change=_nothing)


def larger() -> float:
    """How much larger than at a desk what has a size in pixels is to be: a figure's text, a field."""
    return _px() / DESK if st.session_state.get("presenter") else 1.0


def _px() -> int:
    told = st.session_state.get("text-size")
    px = told.get("px") if isinstance(told, Mapping) else None
    return min(max(px, DESK), 200) if isinstance(px, int) and not isinstance(px, bool) else USUAL


def _nothing() -> None:
    """Streamlit keeps a state only where somebody listens."""

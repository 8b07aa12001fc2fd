"""moeviz in the browser: `streamlit run app.py`, or with policies of your own, `-- --policy path.py:name`.

Streamlit imports this file once, for the server `app` in it, and runs it as a script for every picture.
"""

from pathlib import Path

import streamlit as st

from moeviz.app import bar, gate, own, server, show
from moeviz.errors import MoevizError, PolicyError

ICON = Path(__file__).parent / "pages" / "icon.svg"  # a named icon would be fetched from another host


def script() -> None:
    st.set_page_config(page_title="moeviz", page_icon=str(ICON), layout="wide")
    st.session_state.within_app = True
    page = st.navigation(
        [
            st.Page(
                "pages/stage.py", title=bar.STAGE, default=True, help="Two caches on one text, side by side."
            ),
            st.Page("pages/experts.py", title="Experts", help="Who is used, where and when."),
            st.Page(
                "pages/timeline.py",
                title="Timeline",
                help="Who was resident over the whole text, and why they left.",
            ),
            st.Page(
                "pages/prefetch.py",
                title="Prefetch",
                help="Whether guesses are right, in time and worth it.",
            ),
            st.Page("pages/what_if.py", title="What if", help="How many slots, which policy, which machine."),
            st.Page("pages/lessons.py", title="Lessons", help="Read, predict, reveal, and why."),
            st.Page("pages/library.py", title="Library", help="Open, keep, compare and export traces."),
        ],
        position="top",
    )
    try:
        own.register(own.given())
    except PolicyError as error:
        st.error(show.plain(str(error)))
    bar.draw(page.title)
    try:
        page.run()
    except MoevizError as error:  # what its widgets ask for cannot be with this trace; they stand above
        st.error(show.plain(str(error)))
    bar.say_what_did_not_fit()


if __name__ == "app":
    server.warm()
    app = st.App(
        __file__,
        middleware=[*gate.middleware(), *server.MIDDLEWARE],  # the gate first: students use other names
        lifespan=server.running,
    )
else:
    script()

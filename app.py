"""moeviz in the browser: `streamlit run app.py`."""

from pathlib import Path

import streamlit as st

ICON = Path(__file__).parent / "pages" / "icon.svg"  # a named icon would be fetched from another host
st.set_page_config(page_title="moeviz", page_icon=str(ICON), layout="wide")
st.session_state.within_app = True
page = st.navigation(
    {
        "Run": [
            st.Page("pages/live.py", title="Live", icon=":material/play_circle:", default=True),
            st.Page("pages/compare.py", title="Compare", icon=":material/speed:"),
        ],
        "Explore": [
            st.Page("pages/activations.py", title="Activations", icon=":material/grid_on:"),
            st.Page("pages/timeline.py", title="Cache timeline", icon=":material/timeline:"),
            st.Page("pages/prefetch.py", title="Prefetch", icon=":material/bolt:"),
            st.Page("pages/what_if.py", title="What if", icon=":material/query_stats:"),
        ],
        "Traces": [st.Page("pages/library.py", title="Library", icon=":material/folder_open:")],
    }
)
with st.sidebar:
    st.toggle(
        "Presenter mode",
        key="presenter",
        bind="query-params",
        help="Larger type for the back row, and only the controls of the lesson.",
    )
if st.session_state.presenter:
    st.html(
        "<style>html { font-size: 125% !important; } "
        "[data-testid=stPopover], [data-testid=stExpander], [data-testid=stDownloadButton] { display: none; }</style>"
    )
page.run()

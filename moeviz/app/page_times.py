"""Seconds that each Explore page takes to be made, on the samples and on a made-up trace, in a process of its
own that prints them, a line each: what was made, a tab, seconds.

python -m moeviz.app.page_times 511
"""

from __future__ import annotations

import sys
import time
from pathlib import Path

import streamlit as st
from streamlit.testing.v1 import AppTest

from moeviz.amounts import many
from moeviz.core.synthetic import synthetic

APP = Path(__file__).parents[2] / "app.py"


def page_times(tokens: int) -> None:
    """Prints them; nothing of the trace is kept from one page to the next."""
    long = synthetic(tokens)
    for page in ("experts", "timeline", "prefetch", "what_if"):
        for name, trace in (("a sample", None), (many(tokens, "token"), long)):
            app = AppTest.from_file(APP, default_timeout=300).run()
            if trace is not None:
                app.session_state["desk"].opened[name] = trace, None
                app.session_state["to_show"] = name
            st.cache_resource.clear()
            start = time.perf_counter()
            app.switch_page(f"pages/{page}.py").run()
            took = time.perf_counter() - start
            assert not app.exception, app.exception[0].value
            print(f"s, {page}, {name}", took, sep="\t")


if __name__ == "__main__":
    page_times(int(sys.argv[1]))

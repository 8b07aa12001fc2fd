"""Seconds that each Explore page takes to be made, on the samples and on a long trace.

python -m moeviz bench pages
"""

from __future__ import annotations

import subprocess
import sys
from typing import Any

from moeviz.bench.rounds import ROOT, spread

_PAGES = """
import sys, time
import streamlit as st
from streamlit.testing.v1 import AppTest
from moeviz.core.synthetic import synthetic
tokens = int(sys.argv[1])
long = synthetic(tokens)
for page in ("experts", "timeline", "prefetch", "what_if"):
    for name, trace in (("a sample", None), (f"{tokens:,} tokens", long)):
        app = AppTest.from_file("app.py", default_timeout=300).run()
        if trace is not None:
            app.session_state["desk"].opened[name] = trace, None
            app.session_state["to_show"] = name
        st.cache_resource.clear()
        start = time.perf_counter()
        app.switch_page(f"pages/{page}.py").run()
        took = time.perf_counter() - start
        assert not app.exception, app.exception[0].value
        print(f"s, {page}, {name}", took, sep="\t")
"""


def pages(tokens: int, repeats: int) -> dict[str, Any]:
    """Seconds from a click to a page that is made (the browser's drawing comes on top), with nothing of the
    trace kept from before.
    """
    found: dict[str, list[float]] = {}
    for _ in range(repeats):
        command = [sys.executable, "-c", _PAGES, str(tokens)]
        done = subprocess.run(
            command, check=True, cwd=ROOT, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True
        )
        for line in done.stdout.splitlines():
            name, took = line.split("\t")
            found.setdefault(name, []).append(float(took))
    return {name: spread(values) for name, values in found.items()}

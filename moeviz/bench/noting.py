"""The app's server, which notes when each forward pass of a watched run came in, for `moeviz.bench.frames`.

MOEVIZ_DATA=folder python -m moeviz.bench.noting run app.py     # as `python -m streamlit`
"""

from __future__ import annotations

import os
import runpy
import time
from pathlib import Path
from typing import Any

from moeviz.engine.client import Job

NOTES = "passes.txt"  # in the folder of the data: a line a pass, seconds since the epoch


def note(file: Path) -> None:
    """From now on every job of this process notes there when a pass came from the worker."""
    receive = Job.receive

    def noting(self: Job, message: dict[str, Any]) -> None:
        now = time.time()
        receive(self, message)
        if message["event"] == "pass":
            with file.open("a", encoding="ascii") as out:
                out.write(f"{now}\n")

    Job.receive = noting  # type: ignore[method-assign]


if __name__ == "__main__":
    note(Path(os.environ["MOEVIZ_DATA"]) / NOTES)
    runpy.run_module("streamlit", run_name="__main__", alter_sys=True)

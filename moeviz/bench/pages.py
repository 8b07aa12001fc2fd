"""Seconds that each Explore page takes to be made, on the samples and on a long trace.

python -m moeviz bench pages
"""

from __future__ import annotations

import subprocess
import sys
from typing import Any

from moeviz.bench.rounds import ROOT, spread


def pages(tokens: int, repeats: int) -> dict[str, Any]:
    """Seconds from a click to a page that is made (the browser's drawing comes on top), with nothing of the
    trace kept from before.
    """
    found: dict[str, list[float]] = {}
    for _ in range(repeats):
        command = [sys.executable, "-m", "moeviz.app.page_times", str(tokens)]
        done = subprocess.run(
            command, check=True, cwd=ROOT, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True
        )
        for line in done.stdout.splitlines():
            name, took = line.split("\t")
            found.setdefault(name, []).append(float(took))
    return {name: spread(values) for name, values in found.items()}

"""From the start of a process to the first token of `run`, with the files of python, its packages and the
model in the page cache.

python -m moeviz bench engine --only first-token
"""

from __future__ import annotations

import subprocess
import sys
import time
from collections.abc import Sequence
from functools import partial
from pathlib import Path
from typing import Any

from moeviz.bench.engine.rows import PROMPT, Work
from moeviz.bench.rounds import ROOT, interleaved, spread
from moeviz.errors import ModelError

RUN = ("-m", "moeviz", "run", "--prompt", PROMPT, "--max-new-tokens", "1", "--no-verify", "--threads", "1")
IMPORTS = ("-c", "from moeviz.engine.imports import import_engine; import_engine(); print()")


def measure(work: Work) -> dict[str, Any]:
    """Seconds until `run` tells of its first token, and until what it imports is imported. Raises ModelError
    where `run` refuses the model."""
    model = Path(work.model)  # the process is started in the checkout's folder
    run = [*RUN, "--device", work.device]
    if work.model:
        run.append(str(model.resolve()) if model.is_dir() else work.model)
    both = {"to the first token of run": run, "of it to import": IMPORTS}
    try:
        for command in both.values():
            seconds_to_output(command)  # warms up
    except subprocess.CalledProcessError as error:
        raise ModelError(
            f"`run` ends with exit code {error.returncode} before its first token. What it says: "
            f"python -m moeviz run {work.model}"
        ) from None
    found = interleaved({name: partial(seconds_to_output, one) for name, one in both.items()}, work.repeats)
    goals = {"to the first token of run": "<= 3.5"}
    return {f"s, {name}": spread(values, goals.get(name, "")) for name, values in found.items()}


def seconds_to_output(arguments: Sequence[str]) -> float:
    """Seconds from the start of a python with these arguments to the first thing that it prints; it ends by
    itself. Raises CalledProcessError where it fails."""
    start = time.perf_counter()
    command = [sys.executable, *arguments]
    with subprocess.Popen(command, cwd=ROOT, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL) as process:
        assert process.stdout is not None
        process.stdout.read(1)
        took = time.perf_counter() - start
        process.stdout.read()
    if process.returncode:
        raise subprocess.CalledProcessError(process.returncode, command)
    return took

"""Records the sample traces with the bundled model: one domain, a text that changes its subject midway, a
long one.

python -m moeviz.demo_model.samples
"""

from __future__ import annotations

import sys

import torch

from moeviz.core.settings import Settings
from moeviz.engine import measure
from moeviz.engine.loader import load
from moeviz.engine.session import Options
from moeviz.files.moetrace import SAMPLES

BIBLE = "And it came to pass in those days, that"
GERMAN = "Die Konfigurationsdatei enthält"
PYTHON = "\n\ndef main(argv):\n    for name in argv:\n        "
SAMPLE_RUNS = {  # name -> prompt, settings, options
    "bible": (BIBLE, Settings(prefetch="next-gate"), Options(max_new_tokens=160, stop_at_end=False)),
    "change-of-subject": (GERMAN, Settings(), Options(max_new_tokens=240, stop_at_end=False, then=PYTHON)),
    "python-long": (
        "class Parser:\n    def __init__(self, name):\n        ",
        Settings(),
        Options(max_new_tokens=520, stop_at_end=False),
    ),
}


def main() -> None:
    torch.set_num_threads(1)
    sys.setswitchinterval(5e-4)  # as the worker
    loaded = load()
    for name, (prompt, settings, options) in SAMPLE_RUNS.items():
        trace, run = measure.record(loaded, prompt, settings, options)
        trace.save(SAMPLES / f"{name}.moetrace", run)
        print(
            f"{name}: {trace.tokens} tokens\n{prompt}{loaded.tokenizer.decode(run.output_ids)}\n", flush=True
        )


if __name__ == "__main__":
    main()

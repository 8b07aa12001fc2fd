"""Two thousand mutated files of all formats in every run of the tests; `bench fuzz` does as many as one
likes.
"""

from __future__ import annotations

import pytest

from moeviz.bench import fuzz
from moeviz.files.importers import open_content
from moeviz.files.importers.registry import IMPORTERS, Options

NOT_THERE = {"table", "safetensors"}  # their seeds have other names, or it is moetrace's container


def test_every_seed_is_read_and_every_format_has_one() -> None:
    found = {
        kind: open_content(kind, content, Options(top_k=2 if kind == "rtrace" else 0)).format
        for kind, content in fuzz.seeds().items()
    }
    # sglang and vllm are what the torch and numpy formats call what they found
    assert set(found.values()) >= set(IMPORTERS) - NOT_THERE - {"torch"}
    assert {"sglang", "table"} <= set(found.values())


@pytest.mark.parametrize("seed", [0, 1])
def test_mutated_files_are_accepted_whole_or_refused(seed: int) -> None:
    found = fuzz.fuzz(35, seed)
    for name, value in found.items():
        if "slowest" in name:
            assert value <= 5_000, name  # the limit that the upload promises, tracing included
        if "memory" in name:
            assert value <= 256, name
        if "stumbled" in name:
            assert value == 0, name
    assert sum(value for name, value in found.items() if "accepted" in name) > 50

"""The small files that the fuzz begins with: one of every format, each of them whole."""

from __future__ import annotations

from seeds import seeds

from moeviz.files.importers import open_content
from moeviz.files.importers.registry import IMPORTERS, Options

NOT_THERE = {"table", "safetensors"}  # their seeds have other names, or it is moetrace's container


def test_every_seed_is_read_and_every_format_has_one() -> None:
    found = {
        kind: open_content(kind, content, Options(top_k=2 if kind == "rtrace" else 0)).format
        for kind, content in seeds().items()
    }
    # sglang and vllm are what the torch and numpy formats call what they found
    assert set(found.values()) >= set(IMPORTERS) - NOT_THERE - {"torch"}
    assert {"sglang", "table"} <= set(found.values())

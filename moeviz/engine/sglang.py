"""Reads what SGLang's expert distribution recorder dumped, without running anything that a pickle could hold."""

from __future__ import annotations

from pathlib import Path

import torch

from moeviz.errors import TraceError


def records(path: Path) -> object:
    """The records of a per_token dump, tensors and plain values only. Raises TraceError where the file holds anything else."""
    try:
        content = torch.load(path, map_location="cpu", weights_only=True)
    except Exception as error:  # torch and pickle raise whatever a broken file makes them stumble over
        raise TraceError(
            f"{path.name} is not a dump of SGLang's recorder: {str(error).strip().splitlines()[0][:120]}"
        ) from None
    if not isinstance(content, dict) or "records" not in content:
        raise TraceError(
            f"{path.name} holds no records; record with --expert-distribution-recorder-mode per_token."
        )
    return content["records"]

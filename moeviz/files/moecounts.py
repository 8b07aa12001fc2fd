"""Counts without order, `*.moecounts`: how often each expert of each layer was used, and nothing of when.

Many tools publish only these. They calibrate (`static`, the warm start `calibrated`, plans); no cache can be
replayed on them. The file is a safetensors file with the tensor `counts`, float64 [L, E], and a JSON header
in its metadata, as a `.moetrace` has.

    save("popular.moecounts", counts)
    replay(trace, Settings("static", 4, calibration="popular.moecounts"))
"""

from __future__ import annotations

import json
import os
import struct
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from safetensors import SafetensorError
from safetensors.numpy import load as load_safetensors
from safetensors.numpy import save as save_safetensors

from moeviz.core.trace import MAX_EXPERTS, MAX_LAYERS
from moeviz.errors import TraceError
from moeviz.files.reading import read_regular

FORMAT = "moecounts"
VERSION = 1
SUFFIX = ".moecounts"
MAX_FILE_BYTES = 64 * 2**20


@dataclass(frozen=True, eq=False, slots=True)
class Counts:
    """Uses of E experts of L MoE layers."""

    counts: NDArray[np.float64]  # [L, E], 0 or more
    layer_indices: tuple[int, ...] = ()  # of the MoE layers in the model; () where unknown
    model: str = ""
    notes: tuple[str, ...] = ()  # what an importer left out or assumed

    def __post_init__(self) -> None:
        """Raises TraceError."""
        array = self.counts
        if array.ndim != 2 or array.dtype != np.float64:
            raise TraceError(
                f"counts is {array.dtype} with {array.ndim} dimensions; expected float64 [layer, expert]."
            )
        layers, experts = array.shape
        if not (1 <= layers <= MAX_LAYERS and 1 <= experts <= MAX_EXPERTS):
            raise TraceError(
                f"counts has {layers:,} layers of {experts:,} experts; expected up to {MAX_LAYERS} of "
                f"{MAX_EXPERTS:,}."
            )
        if not np.isfinite(array).all() or (array < 0).any():
            raise TraceError("counts holds a number that is not 0 or more.")
        if not array.any():
            raise TraceError("counts holds nothing but 0: no expert was used.")
        if self.layer_indices and len(self.layer_indices) != layers:
            raise TraceError(f"layer_indices has {len(self.layer_indices)} entries; expected {layers}.")
        for name, text in (("model", self.model), ("notes", "".join(self.notes))):
            try:
                text.encode()
            except UnicodeEncodeError:
                raise TraceError(f"{name} holds half of a character (a lone surrogate).") from None

    @property
    def layers(self) -> int:
        return int(self.counts.shape[0])

    @property
    def num_experts(self) -> int:
        return int(self.counts.shape[1])


def to_bytes(counts: Counts) -> bytes:
    """The file's content."""
    header = {
        "format": FORMAT,
        "version": VERSION,
        "layer_indices": list(counts.layer_indices),
        "model": counts.model,
        "notes": list(counts.notes),
    }
    tensors = {"counts": np.ascontiguousarray(counts.counts)}
    return bytes(save_safetensors(tensors, {FORMAT: json.dumps(header)}))


def from_bytes(content: bytes, name: str = "the file") -> Counts:
    """Raises TraceError."""
    header = header_of(content)
    if header is None or header.get("version") != VERSION:
        raise TraceError(f"{name} is not a {SUFFIX} file of version {VERSION}.")
    try:
        tensors = load_safetensors(content)
        indices, model, notes = header["layer_indices"], header["model"], header["notes"]
        if tensors.keys() != {"counts"} or not isinstance(model, str):
            raise TypeError
        if not all(type(one) is int and 0 <= one < 2**31 for one in indices):
            raise TypeError
        if not all(isinstance(one, str) for one in notes):
            raise TypeError
        return Counts(tensors["counts"], tuple(indices), model, tuple(notes))
    except TraceError as error:
        raise TraceError(f"{name}: {error}") from None
    except (SafetensorError, KeyError, ValueError, TypeError):
        raise TraceError(f"{name} is not a {SUFFIX} file: a field is missing or of a wrong type.") from None


def header_of(content: bytes) -> dict[str, Any] | None:
    """The JSON header, None where this is no .moecounts file."""
    try:
        (size,) = struct.unpack("<Q", content[:8])
        if size > min(len(content) - 8, 2**20) or len(content) > MAX_FILE_BYTES:
            return None
        header = json.loads(json.loads(content[8 : 8 + size])["__metadata__"][FORMAT])
    except (struct.error, ValueError, KeyError, TypeError, RecursionError):
        return None
    return header if isinstance(header, dict) and header.get("format") == FORMAT else None


def load(path: str | os.PathLike[str]) -> Counts:
    """Raises TraceError or OSError."""
    return from_bytes(read_regular(path, MAX_FILE_BYTES), Path(path).name)

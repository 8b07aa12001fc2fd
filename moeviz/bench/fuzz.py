"""Mutated files through the importer: accepted whole or refused by TraceError, nothing else, and how slow and large at worst.

It stands here and not under tests/ because `python -m moeviz bench fuzz` runs as many files as one likes, on an installation without
the tests too; `tests/test_fuzz.py` runs a fixed number of them.

    python -m moeviz bench fuzz --files 2000
"""

from __future__ import annotations

import time
from typing import Any

from moeviz.core.synthetic import synthetic
from moeviz.errors import TraceError


def seeds() -> dict[str, bytes]:
    """A small valid file of every format that an upload may have."""
    import io
    import json

    import numpy as np

    from moeviz.core.replay import replay
    from moeviz.core.settings import Settings
    from moeviz.files import moetrace
    from moeviz.files.exports import table

    trace = synthetic(12, layers=3, experts=8, k=2)
    run = replay(trace, Settings(slots=3))
    array, packed, columns = io.BytesIO(), io.BytesIO(), io.BytesIO()
    np.save(array, trace.experts)
    np.savez_compressed(packed, routed_experts=trace.experts, weights=trace.weights)
    frame = table(trace, run)
    frame.to_parquet(columns)
    lines = [json.dumps({"num_experts": 8})]
    recording = [
        json.dumps({"model_name": "m", "num_layers": 3, "num_experts": 8, "top_k": 2, "num_entries": 36})
    ]
    beyond = ["Layer ID,Batch Number,Token,Activated Expert IDs"]
    for token, layers in enumerate(trace.experts.tolist()):
        for layer, ids in enumerate(layers):
            lines.append(json.dumps({"req_id": "r", "token_idx": token, "layer": layer, "topk_ids": ids}))
            recording.append(json.dumps({"t": token, "l": layer, "e": ids, "s": [0.75, 0.25]}))
            beyond.append(f'{layer},{token},"t","{ids}"')
    return {
        "moetrace": moetrace.to_bytes(trace, run),
        "npy": array.getvalue(),
        "npz": packed.getvalue(),
        "routes": "\n".join(lines).encode(),
        "policylang": "\n".join(recording).encode(),
        "moe-beyond": "\n".join(beyond).encode(),
        "csv": frame.to_csv(index=False).encode(),
        "parquet": columns.getvalue(),
    }


def mutated(content: bytes, rng: Any) -> bytes:
    """A file with a few bytes changed, pieces repeated, taken out, swapped for numbers that like to break things, or cut short."""
    bytes_ = bytearray(content)
    for _ in range(int(rng.integers(1, 6))):
        at = int(rng.integers(len(bytes_))) if bytes_ else 0
        match int(rng.integers(6)):
            case 0:
                bytes_[at : at + 1] = bytes([int(rng.integers(256))])
            case 1:
                bytes_[at : at + 8] = (0, 1, 2**31 - 1, 2**31, 2**63 - 1, 2**64 - 1)[
                    int(rng.integers(6))
                ].to_bytes(8, "little")
            case 2:
                del bytes_[at : at + int(rng.integers(1, 40))]
            case 3:
                bytes_[at:at] = bytes_[at : at + int(rng.integers(1, 200))]
            case 4:
                bytes_[at : at + 1] = str(
                    rng.choice(
                        ["-1", "1e999", "NaN", "null", '"', "{", "[" * 50, "99999999999999999999", "\ud7ff"]
                    )
                ).encode()
            case _:
                del bytes_[at:]
    return bytes(bytes_)


def fuzz(files: int, seed: int = 0) -> dict[str, Any]:
    """`files` mutations of a file of every format through the importer: accepted whole or refused by TraceError, nothing else.

    Raises what the importer raises beside TraceError, with the seed and number that make it happen again.
    """
    import tracemalloc

    import numpy as np

    from moeviz.core.replay import replay
    from moeviz.core.settings import Settings
    from moeviz.files.imports import read

    found: dict[str, Any] = {}
    for kind, content in seeds().items():
        accepted, slowest, most = 0, 0.0, 0
        for number in range(files):
            hostile = mutated(content, np.random.default_rng([seed, number]))
            tracemalloc.start()
            start = time.perf_counter()
            try:
                trace = read("file", hostile).trace
                accepted += 1
            except TraceError:
                trace = None
            except BaseException as error:
                error.add_note(f"file {number} of format {kind}, seed {seed}")
                raise
            slowest = max(slowest, time.perf_counter() - start)
            most = max(most, tracemalloc.get_traced_memory()[1])
            tracemalloc.stop()
            if trace is not None and trace.tokens * trace.layers < 1_000:  # what is accepted can be used
                replay(trace, Settings(slots=trace.k))
        found |= {
            f"{kind}: accepted of {files}": float(accepted),
            f"{kind}: slowest, ms": 1e3 * slowest,
            f"{kind}: most memory, MiB": most / 2**20,
        }
    return found

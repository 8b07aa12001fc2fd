"""A small valid file of every format that is read, made without the tools that write them: what the fuzz
mutates.

    seeds()["mbolt"]
"""

from __future__ import annotations

import base64
import gzip
import io
import json
import pickle
import re
import struct
import zipfile
from typing import Any

import numpy as np

from moeviz.core.replay import replay
from moeviz.core.settings import Settings
from moeviz.core.synthetic import synthetic
from moeviz.files import exporters, moecounts, moetrace
from moeviz.files.moecounts import Counts


def seeds() -> dict[str, bytes]:
    """A small valid file of every format that an upload may have."""
    trace = synthetic(12, layers=3, experts=8, k=2)
    run = replay(trace, Settings(slots=3))
    ids, rows = trace.experts, _rows(trace.experts)
    found = {
        "moetrace": moetrace.to_bytes(trace, run),
        "moecounts": moecounts.to_bytes(Counts(np.ones((3, 8)))),
        "npy": _npy(ids),
        "npz": _npz(routed_experts=ids, weights=trace.weights),
        "npz requests": _npz(a=ids[:5], b=ids[5:]),
        "torch": torch_zip(
            {"records": [_record(ids)], "last_physical_to_logical_map": np.tile(np.arange(8), (3, 1))}
        ),
        "torch counts": torch_zip({"rank": 0, "logical_count": np.ones((2, 3, 8), np.int64)}),
        "route trace": _route_trace(ids),
        "mbolt": _mbolt(ids),
        "rtrace": _rtrace(ids),
        "answers": _answers(ids),
        "atlas": _lines(
            [{"id": "a", "routing": ids.tolist(), "tokens": list("abcdefghijkl"), "prompt_tokens": 4}]
        ),
        "fingerprints": _fingerprints(ids),
        "routes": _lines(
            [{"num_experts": 8}, *({**row, "req_id": "r", "topk_weights": [0.7, 0.3]} for row in rows)]
        ),
        "routes, array": json.dumps(rows).encode(),
        "policylang": _lines(
            [
                {"num_experts": 8},
                *(
                    {"p": 0, "t": t, "l": n, "e": e, "s": [0.7, 0.3], "ph": "decode"}
                    for t, n, e in _each(ids)
                ),
            ]
        ),
        "moe-cache-lab": _lines(
            [
                {"record_type": "metadata", "num_experts": 8},
                *(
                    {
                        "record_type": "routing_selection",
                        "phase": "prompt",
                        "layer": n,
                        "token_position": t,
                        "selected_experts": e,
                    }
                    for t, n, e in _each(ids)
                ),
            ]
        ),
        "nunspark": _lines(
            [{"t": 3 * t + n, "layer": n, "fired": e, "batch_tokens": 1} for t, n, e in _each(ids)]
        ),
        "moe-l2": "\n".join(f"EXPERT|L{n}|T{t}: {e}" for t, n, e in _each(ids)).encode(),
        "moe-beyond": (
            "Layer ID,Batch Number,Token,Activated Expert IDs\n"
            + "\n".join(f'{n},{t},"t","{e}"' for t, n, e in _each(ids))
        ).encode(),
        "selection log": (
            "layer_id,expert_ids\n" + "\n".join(f"{n},{e[0]} {e[1]}" for _, n, e in _each(ids))
        ).encode(),
        "wide table": (
            "token;layer;expert_0;expert_1\n" + "\n".join(f"{t};{n};{e[0]};{e[1]}" for t, n, e in _each(ids))
        ).encode(),
        "llama.cpp profile": "\n".join(
            f"blk.{n}.ffn_gate_exps.weight,{e[0]},{t + 1}" for t, n, e in _each(ids[:1])
        ).encode(),
        "counts": b"layer_id,expert_id,count\n3,0,24\n3,1,39\n4,0,13\n",
        "lists": json.dumps(ids.tolist()).encode(),
        "lists of counts": json.dumps({f"layer_{n}": [3, 0, n, 5] for n in range(3)}).encode(),
        "matrix": b"4 0 1 7\n2.0e+00 2 9 0\n" * 4,
        "npz layers": _npz(**{f"layer_{n}": ids[:, n] for n in range(3)}),
        "table, a row a token": (
            "token,layer_0,layer_1,layer_2\n"
            + "\n".join(f"{t}," + ",".join(f"{a} {b}" for a, b in one) for t, one in enumerate(ids.tolist()))
        ).encode(),
    }
    for kind in ("csv", "parquet", "jsonl"):
        found[f"moeviz {kind}"] = exporters.content(kind, trace, run)
    long = "token,layer,rank,expert,weight,phase,text\n" + "\n".join(
        f"{t},{n},{rank},{one},0.5,decode,w" for t, n, e in _each(ids) for rank, one in enumerate(e)
    )
    found["table"] = long.encode()
    found["parquet"] = _parquet(ids)
    found["gz"] = gzip.compress(found["routes"], mtime=0)
    return found


def _each(ids: Any) -> list[tuple[int, int, list[int]]]:
    return [(t, n, e) for t, layers in enumerate(ids.tolist()) for n, e in enumerate(layers)]


def _rows(ids: Any) -> list[dict[str, Any]]:
    return [{"token_idx": t, "layer": n, "topk_ids": e} for t, n, e in _each(ids)]


def _lines(values: list[Any]) -> bytes:
    return "".join(json.dumps(value) + "\n" for value in values).encode()


def _npy(array: Any) -> bytes:
    file = io.BytesIO()
    np.save(file, array)
    return file.getvalue()


def _npz(**arrays: Any) -> bytes:
    file = io.BytesIO()
    np.savez_compressed(file, **arrays)
    return file.getvalue()


def _parquet(ids: Any) -> bytes:
    import pyarrow
    import pyarrow.parquet

    rows = _each(ids)
    columns = {
        "token_idx": [t for t, _, _ in rows],
        "layer_idx": [n for _, n, _ in rows],
        "selected_experts": [e for _, _, e in rows],
    }
    file = io.BytesIO()
    pyarrow.parquet.write_table(pyarrow.table(columns), file)
    return file.getvalue()


def _record(ids: Any) -> dict[str, Any]:
    return {
        "forward_pass_id": 1,
        "forward_mode": 1,
        "input_ids": list(range(12)),
        "topk_ids_of_layer": ids.transpose(1, 0, 2).astype(np.int32),
    }


def _route_trace(ids: Any) -> bytes:
    lines = [
        "# route_trace v1",
        "# model=m n_expert=8",
        "# layer=0 expert_bytes=7",
        "turn,phase,step,layer,slot,expert,weight,residency",
    ]
    lines += [f"0,1,{t},{n},{rank},{one},0.5,0" for t, n, e in _each(ids) for rank, one in enumerate(e)]
    return "\n".join(lines).encode()


def _mbolt(ids: Any) -> bytes:
    numbers = [0x544C424D, 1, 8, *(one for _, n, e in _each(ids) for one in (n, 2, 1, *e))]
    return struct.pack(f"<{len(numbers)}i", *numbers)


def _rtrace(ids: Any) -> bytes:
    softmax = np.linspace(0.3, 0.01, 8).astype("<f4").tobytes()
    return (
        b"RTRACE01"
        + struct.pack("<ii", 8, 0)
        + b"".join(struct.pack("<ii", t, n) + softmax for t, n, _ in _each(ids))
    )


def _answers(ids: Any) -> bytes:
    packed = base64.b64encode(ids.astype("<i4").tobytes()).decode()
    return json.dumps(
        {"meta_info": {"prompt_tokens": 4, "completion_tokens": 9, "routed_experts": packed}}
    ).encode()


def _fingerprints(ids: Any) -> bytes:
    data = [
        {f"token_{t}": {f"layer_{n}": {"selected_experts": e} for n, e in enumerate(own)}}
        for t, own in enumerate(ids.tolist())
    ]
    return json.dumps({"router_data": data, "full_text": "ab", "generated_only": "b"}).encode()


class _Pickler(pickle.Pickler):
    """Writes arrays as torch writes tensors, without torch."""

    def __init__(self, file: io.BytesIO) -> None:
        super().__init__(file, 2)
        self.storages: list[bytes] = []

    def persistent_id(self, value: Any) -> Any:
        return value.parts if isinstance(value, _Parts) else None

    def reducer_override(self, value: Any) -> Any:
        if not isinstance(value, np.ndarray):
            return NotImplemented
        kind = {"int64": "LongStorage", "int32": "IntStorage"}[value.dtype.name]
        self.storages.append(value.tobytes())
        parts = _Parts(("storage", _Global(kind), str(len(self.storages) - 1), "cpu", value.size))
        steps = tuple(step // value.itemsize for step in value.strides)
        return _rebuild_tensor_v2, (parts, 0, value.shape, steps, False, {})


class _Parts:
    def __init__(self, parts: tuple[Any, ...]) -> None:
        self.parts = parts


class _Global:
    """Pickled as the name of a storage class of torch."""

    def __init__(self, name: str) -> None:
        self.name = name

    def __reduce__(self) -> Any:
        return _stands_for, (self.name,)


def _rebuild_tensor_v2() -> None:
    """Stands for torch's function of this name."""


def _stands_for() -> None:
    """Stands for a storage class."""


def torch_zip(content: Any) -> bytes:
    """A `.pt` file of plain things and arrays."""
    file = io.BytesIO()
    pickler = _Pickler(file)
    pickler.dump(content)
    own = __name__.encode()
    pickled = file.getvalue().replace(
        b"c" + own + b"\n_rebuild_tensor_v2\n", b"ctorch._utils\n_rebuild_tensor_v2\n"
    )
    # a storage class is named, not made: GLOBAL, memo, its name, memo, TUPLE1, memo, REDUCE, memo becomes
    # GLOBAL
    pickled = re.sub(
        rb"(?:c" + re.escape(own) + rb"\n_stands_for\nq.|h.)X.\x00\x00\x00(\w+Storage)q.\x85q.R(q.)",
        lambda found: b"ctorch\n" + found[1] + b"\n" + found[2],
        pickled,
        flags=re.DOTALL,
    )
    packed = io.BytesIO()
    with zipfile.ZipFile(packed, "w") as archive:
        archive.writestr("archive/data.pkl", pickled)
        for number, storage in enumerate(pickler.storages):
            archive.writestr(f"archive/data/{number}", storage)
    return packed.getvalue()

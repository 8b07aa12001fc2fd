"""Mutated files of every format, read as an upload is, in processes of their own under its limits: accepted
whole or refused in a sentence, within memory and time.

The mutations know the formats: lines lose fields or get numbers that like to break things, members of a zip
are changed inside and packed again, headers of arrays and trace files say something else; and any byte of any
file may change.

It stands here and not under tests/ because `python -m moeviz bench fuzz` runs as many files as one likes, on
an installation without the tests too; `tests/test_fuzz.py` runs a fixed number of them.

    python -m moeviz bench fuzz --files 300
"""

from __future__ import annotations

import base64
import gzip
import io
import json
import os
import pickle
import re
import struct
import sys
import warnings
import zipfile
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
import psutil

from moeviz.core.replay import replay
from moeviz.core.settings import Settings
from moeviz.core.synthetic import synthetic
from moeviz.errors import MoevizError
from moeviz.files import exporters, guarded, moecounts, moetrace
from moeviz.files.importers import Options
from moeviz.files.moecounts import Counts

LONGEST = 600  # characters of a refusal that are told: a pipe takes so much at once
_MAXRSS = 1 if sys.platform == "darwin" else 1_024  # bytes of a unit of ru_maxrss

NASTY: tuple[Any, ...] = (
    *(-1, 0, 1, 2**31 - 1, 2**31, 2**63 - 1, 2**64, 10**30, 10**400, -(2**63), 1.5, 1e308, -0.0),
    *(float("nan"), float("inf"), True, None, "", "x", "\ud7ff", "\x00", "=1+1", "9" * 5_000),
    *([], [[]], {}, [1, 2], [[1, 2], [3]], {"a": 1}, ["1"], [None], [True, False]),
)


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


def mutated(content: bytes, rng: Any) -> bytes:
    """A file changed a few times, as one of its kind may be: see above."""
    for _ in range(int(rng.choice([1, 1, 1, 2, 3]))):
        change = _in_structure if rng.random() < 0.6 else _in_bytes
        content = change(content, rng)
    return content


def _in_structure(content: bytes, rng: Any) -> bytes:
    if content[:2] == b"\x1f\x8b":
        return _or_same(content, lambda: gzip.compress(mutated(gzip.decompress(content), rng), mtime=0))
    if content[:2] == b"PK":
        return _or_same(content, lambda: _in_zip(content, rng))
    if content[:6] == b"\x93NUMPY" and len(content) > 128:
        shape = (
            "("
            + ", ".join(str(rng.choice([0, 1, 2, 3, 12, 2**20, 2**40])) for _ in range(int(rng.integers(5))))
            + ")"
        )
        return (
            content[:10]
            + re.sub(rb"\([\d, ]*\)", shape.encode(), content[10:128]).ljust(118)[:118]
            + content[128:]
        )
    if content[8:9] == b"{" and len(content) > 16:
        return _or_same(content, lambda: _in_header(content, rng))
    if content[:1] in b"{[":
        return _or_same(content, lambda: _in_json(content, rng))
    if b"," in content[:200] and b"\0" not in content[:200]:
        return _in_cells(content, rng)
    return _in_bytes(content, rng)


def _or_same(content: bytes, change: Callable[[], bytes]) -> bytes:
    """What an earlier mutation broke cannot be taken apart again."""
    try:
        return change()
    except Exception:
        return content


def _in_zip(content: bytes, rng: Any) -> bytes:
    with zipfile.ZipFile(io.BytesIO(content)) as archive:
        members = [(name, archive.read(name)) for name in archive.namelist()]
    at = int(rng.integers(len(members)))
    name, own = members[at]
    match int(rng.integers(5)):
        case 0:
            members.append(members[at])
        case 1:
            members.pop(at)
        case 2:
            members[at] = (name + "x", own)
        case _:
            members[at] = (name, mutated(own, rng))
    packed = io.BytesIO()
    with (
        warnings.catch_warnings(action="ignore"),
        zipfile.ZipFile(packed, "w", int(rng.choice([zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED]))) as archive,
    ):
        for member, data in members:
            archive.writestr(member, data)  # of a name that stands twice zipfile warns
    return packed.getvalue()


def _in_header(content: bytes, rng: Any) -> bytes:
    (size,) = struct.unpack("<Q", content[:8])
    outer = json.loads(content[8 : 8 + size])
    kind = next(iter(outer["__metadata__"]))
    inner = json.loads(outer["__metadata__"][kind])
    if rng.random() < 0.6:
        _change(inner, rng)
        outer["__metadata__"][kind] = json.dumps(inner)
    else:
        _change(outer, rng)
    head = json.dumps(outer).encode()
    head += b" " * (-len(head) % 8)
    return struct.pack("<Q", len(head)) + head + content[8 + size :]


def _in_json(content: bytes, rng: Any) -> bytes:
    lines = content.split(b"\n")
    at = int(rng.integers(len(lines)))
    value = json.loads(lines[at] or b"{}")
    if rng.random() < 0.1:
        lines.insert(at, lines[at])
    else:
        _change(value, rng)
        lines[at] = json.dumps(value).encode()
    return b"\n".join(lines)


def _change(value: Any, rng: Any) -> None:
    """One value somewhere inside, or a key more or less."""
    while True:
        if isinstance(value, dict):
            places: list[Any] = list(value)
        elif isinstance(value, list):
            places = list(range(len(value)))
        else:
            return
        if not places:
            return
        at = places[int(rng.integers(len(places)))]
        if isinstance(value[at], (dict, list)) and rng.random() < 0.7:
            value = value[at]
            continue
        if rng.random() < 0.15:
            del value[at]
        else:
            value[at] = NASTY[int(rng.integers(len(NASTY)))]
        return


def _in_cells(content: bytes, rng: Any) -> bytes:
    lines = content.split(b"\n")
    at = int(rng.integers(len(lines)))
    cells = lines[at].split(b",")
    cell = int(rng.integers(len(cells)))
    match int(rng.integers(4)):
        case 0:
            cells.pop(cell)
        case 1:
            cells.insert(cell, cells[cell])
        case _:
            cells[cell] = str(NASTY[int(rng.integers(len(NASTY)))]).encode("utf-8", "surrogatepass")
    lines[at] = b",".join(cells)
    return b"\n".join(lines)


def _in_bytes(content: bytes, rng: Any) -> bytes:
    """A few bytes changed, pieces repeated, taken out, swapped for numbers that like to break things, or cut
    short.
    """
    data = bytearray(content)
    at = int(rng.integers(len(data))) if data else 0
    match int(rng.integers(6)):
        case 0:
            data[at : at + 1] = bytes([int(rng.integers(256))])
        case 1:
            number = (0, 1, 2**31 - 1, 2**31, 2**63 - 1, 2**64 - 1)[int(rng.integers(6))]
            data[at : at + 8] = number.to_bytes(8, "little")
        case 2:
            del data[at : at + int(rng.integers(1, 40))]
        case 3:
            data[at:at] = data[at : at + int(rng.integers(1, 200))]
        case 4:
            texts = ("-1", "1e999", "NaN", "null", '"', "{", "[" * 50, "99999999999999999999", "\ud7ff")
            data[at : at + 1] = texts[int(rng.integers(len(texts)))].encode("utf-8", "surrogatepass")
        case _:
            del data[at:]
    return bytes(data)


@dataclass(frozen=True, slots=True)
class Tried:
    """What became of one file in a process of its own."""

    kind: str  # of the answer: trace, counts, same, error; empty where the process ended without one
    said: str  # the refusal, or its beginning
    length: int  # of the refusal, characters
    seconds: float  # of processor time
    mib: float  # of memory beside what the process had at its start
    signal: int  # that ended the process; 0: none


def tried(content: bytes, options: Options) -> Tried:
    """Reads a file as an upload is read, in a forked process under its limits: forked, since ten thousand
    processes that each load numpy would take an hour. What is accepted is replayed there too.

    What a reader raises beside its own error ends that process with its traceback on standard error.
    """
    reading, writing = os.pipe()
    child = os.fork()
    if child == 0:
        os.close(reading)
        try:
            os.write(writing, b"%d\n" % psutil.Process().memory_info().rss)
            if (silent := os.open(os.devnull, os.O_WRONLY)) != 1:
                os.dup2(silent, 1)
            answer, rest = guarded.answer_of("file", content, options)
            _use(answer["kind"], content, rest)
            error = answer.get("error", "")
            told = {"kind": answer["kind"], "error": error[:LONGEST], "length": len(error)}
            os.write(writing, json.dumps(told).encode())
        finally:
            os._exit(0)
    os.close(writing)
    with os.fdopen(reading, "rb") as pipe:
        before, _, said = pipe.read().partition(b"\n")
    answer = json.loads(said or b"{}")
    _, status, used = os.wait4(child, 0)
    return Tried(
        answer.get("kind", ""),
        answer.get("error", ""),
        answer.get("length", 0),
        used.ru_utime + used.ru_stime,
        max(0, used.ru_maxrss * _MAXRSS - int(before)) / 2**20,
        os.WTERMSIG(status) if os.WIFSIGNALED(status) else 0,
    )


def _use(kind: str, content: bytes, rest: bytes) -> None:
    """What is accepted can be used."""
    if kind in ("trace", "same"):
        trace, _ = moetrace.from_bytes(content if kind == "same" else rest)
        if trace.tokens * trace.layers < 1_000:
            replay(trace, Settings(slots=trace.k))


def fuzz(files: int, seed: int = 0) -> Iterator[dict[str, Any]]:
    """`files` mutations of a file of every format, each in a process of its own: of each format how many were
    accepted, how many processes ended without an answer, and the slowest and the largest of them.

    A refusal that only the importers' last guard could word counts as "stumbled". The numbers of these files
    and the seed make them again.
    """
    if not hasattr(os, "fork"):
        raise MoevizError("bench fuzz needs a system whose processes fork: Linux or macOS.")
    import pyarrow.parquet  # noqa: F401  # before the fork, so that not every child loads it

    for kind, content in seeds().items():
        options = Options(top_k=2 if kind == "rtrace" else 0)
        every = [tried(mutated(content, np.random.default_rng([seed, n])), options) for n in range(files)]
        stumbled = [
            n for n, one in enumerate(every) if "cannot be read: " in one.said and "Error: " in one.said
        ]
        ended = [n for n, one in enumerate(every) if not one.kind]
        found: dict[str, Any] = {
            f"{kind}: accepted of {files}": float(sum(one.kind not in ("", "error") for one in every)),
            f"{kind}: stumbled": float(len(stumbled)),
            f"{kind}: ended without an answer": float(len(ended)),
            f"{kind}: longest refusal, characters": float(max(one.length for one in every)),
            f"{kind}: slowest, ms": 1e3 * max(one.seconds for one in every),
            f"{kind}: most memory, MiB": max(one.mib for one in every),
        }
        if stumbled or ended:
            found[f"{kind}: numbers of these"] = ", ".join(map(str, sorted({*stumbled, *ended})[:20]))
        yield found

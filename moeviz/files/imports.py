"""Reads traces that other tools wrote. Nothing in a file is run: no pickle, bounded sizes, every refusal a TraceError.

    read("routed.npy", content, experts=32).trace

Formats, found by their content:
- `moetrace`: moeviz's own.
- `vllm`: the routed experts that vLLM returns with a request (`routed_experts`, vLLM 0.23), saved by numpy: `.npy` integer
  [token, layer, k], or `.npz` with it as `routed_experts` or `experts`, and perhaps `weights` of the same shape.
- `routes`: JSON lines, first one about the model (perhaps with num_experts), then one for each token and layer with req_id, token_idx, layer,
  topk_ids and perhaps topk_weights. Requests follow each other in the order of the file.
- `policylang`: what MoE-PolicyLang's TraceRecording saves (1.0.0-dev, `integrations/trace_recorder.py`): JSON lines, first model_name,
  num_layers, num_experts, top_k, num_entries, then one for each token and layer with t, l, e and perhaps s, the scores of e; or parquet with
  columns of those names, or of the names of its fields: token_idx, layer_idx, selected_experts, router_scores.
- `sglang`: what SGLang's expert distribution recorder dumps in per_token mode (0.5, `eplb/expert_distribution.py`), a `.pt` file; for the
  command line only, read by `read_sglang` with torch's weights_only, so that no code in it runs.
- `moe-beyond`: CSV with the columns Layer ID, Batch Number, Token, Activated Expert IDs, a row per token and layer (MoE-Beyond).
- `table`: CSV or parquet with the columns token, layer, rank, expert and perhaps weight, a row per choice.
"""

from __future__ import annotations

import io
import json
import re
import zipfile
from collections.abc import Iterator
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from moeviz.core.run import Run
from moeviz.core.trace import MAX_EXPERTS, MAX_K, MAX_LAYERS, MAX_TOKENS, Trace
from moeviz.errors import TraceError
from moeviz.files.moetrace import MAX_FILE_BYTES, from_bytes

FORMATS = ("moetrace", "vllm", "routes", "policylang", "moe-beyond", "table")
_MOE_BEYOND = ("layer id", "batch number", "token", "activated expert ids")
_NUMBER = re.compile(r"\d+")
_ROUTES = ("token_idx", "layer", "topk_ids", "topk_weights")
_POLICYLANG = ("t", "l", "e", "s")
_POLICYLANG_FIELDS = ("token_idx", "layer_idx", "selected_experts", "router_scores")


@dataclass(frozen=True, eq=False, slots=True)
class Imported:
    """A trace and what was met on the way to it."""

    trace: Trace
    run: Run | None = None
    format: str = "moetrace"
    report: list[str] = field(default_factory=list)  # what was left out, and what had to be assumed


def read(name: str, content: bytes, format: str = "", experts: int = 0) -> Imported:
    """A file's content as a trace. `name` is for messages; `format` one of FORMATS or empty: found by content; `experts`: E, where the
    file does not say it, 0: the largest id + 1. Raises TraceError."""
    if len(content) > MAX_FILE_BYTES:
        raise TraceError(f"{name} has {len(content):,} bytes; a trace has at most {MAX_FILE_BYTES:,}.")
    if experts and not 1 <= experts <= MAX_EXPERTS:
        raise TraceError(f"{experts} experts were given; a layer has 1 to {MAX_EXPERTS}.")
    kind = format or _format_of(content)
    match kind:
        case "moetrace":
            trace, run = from_bytes(content, name)
            return Imported(trace, run)
        case "vllm":
            return _vllm(name, content, experts)
        case "routes":
            return _lines(name, content, experts, "routes", _ROUTES)
        case "policylang" if content[:4] == b"PAR1":
            return _from_table(name, content, experts)
        case "policylang":
            return _lines(name, content, experts, "policylang", _POLICYLANG)
        case "moe-beyond" | "table":
            return _from_table(name, content, experts)
    raise TraceError(f"format {kind!r} is not known. Choose one of {', '.join(FORMATS)}.")


def _format_of(content: bytes) -> str:
    if content[:6] == b"\x93NUMPY" or content[:4] == b"PK\x03\x04":
        return "vllm"
    if content[:4] == b"PAR1":
        return "table"
    start = content[:4096]
    if start.lstrip()[:1] == b"{":
        second = start.lstrip().partition(b"\n")[2].partition(b"\n")[0]
        return "policylang" if b'"e"' in second and b'"topk_ids"' not in second else "routes"
    if b"\x00" not in start and b"," in start.split(b"\n", 1)[0]:
        return "table"
    return "moetrace"


def _vllm(name: str, content: bytes, experts: int) -> Imported:
    arrays: dict[str, NDArray[Any]] = {}
    try:
        if content[:4] == b"PK\x03\x04":
            with zipfile.ZipFile(io.BytesIO(content)) as archive:
                size = sum(info.file_size for info in archive.infolist())
                if size > MAX_FILE_BYTES:
                    raise TraceError(
                        f"{name} would unpack to {size:,} bytes; a trace has at most {MAX_FILE_BYTES:,}."
                    )
            with np.load(io.BytesIO(content), allow_pickle=False) as archive:
                arrays = {
                    key: archive[key]
                    for key in archive.files
                    if key in ("routed_experts", "experts", "weights")
                }
        else:
            arrays = {"routed_experts": np.load(io.BytesIO(content), allow_pickle=False)}
    except TraceError:
        raise
    except Exception as error:  # numpy and zipfile raise whatever a broken file makes them stumble over
        raise TraceError(f"{name} is not an array that numpy saved: {str(error)[:120]}") from None
    ids = arrays.get("routed_experts", arrays.get("experts"))
    if ids is None:
        raise TraceError(f"{name} holds no array routed_experts or experts.")
    if ids.ndim != 3 or ids.dtype.kind not in "iu":
        raise TraceError(
            f"{name} holds {ids.dtype} with {ids.ndim} dimensions; expected whole numbers [token, layer, k]."
        )
    if ids.shape[0] > MAX_TOKENS or ids.shape[1] > MAX_LAYERS or ids.shape[2] > MAX_K or 0 in ids.shape:
        raise TraceError(
            f"{name} has shape {ids.shape}; expected up to {MAX_TOKENS:,} tokens, {MAX_LAYERS} layers and {MAX_K} experts per token."
        )
    weights = arrays.get("weights")
    if weights is not None and (weights.shape != ids.shape or weights.dtype.kind != "f"):
        raise TraceError(
            f"{name}: weights has shape {weights.shape}; expected {ids.shape}, as the experts have."
        )
    report: list[str] = []
    marked = _marked(
        ids.astype(np.int64), int(np.iinfo(ids.dtype).max) if ids.dtype.kind == "u" else 0, experts, report
    )
    kept, weights = _without_padding(marked, weights, report)
    return Imported(_trace(name, kept, weights, experts, report), None, "vllm", report)


def _marked(ids: NDArray[np.int64], largest: int, experts: int, report: list[str]) -> NDArray[np.int64]:
    """The ids with sentinels of empty places as -1. Two are in use: -1 in an unsigned type, which is its `largest` number, and the
    number of experts, one past the last id. A number that could be an expert counts only where a whole event holds nothing else."""
    marked = ids
    for sentinel in {largest, experts} - {0}:
        mask = ids == sentinel
        if sentinel < MAX_EXPERTS:
            mask &= mask.all(2, keepdims=True) & (ids.shape[2] > 1 or 0 < experts <= sentinel)
        if mask.any():
            report.append(
                f"{int(mask.any((1, 2)).sum()):,} tokens hold the id {sentinel}, which stands for an empty place"
            )
            marked = np.where(mask, -1, marked)
    return marked


def _without_padding(
    ids: NDArray[np.int64], weights: NDArray[Any] | None, report: list[str]
) -> tuple[NDArray[np.int64], NDArray[Any] | None]:
    """Drops rows of warm-up runs and of padding, which hold -1 or all one id, and says how many."""
    padded = (ids < 0).any((1, 2))
    same = (ids == ids[:, :1, :1]).all((1, 2)) if ids.shape[2] > 1 else np.zeros(len(ids), bool)
    drop = padded | same
    if padded.any():
        report.append(f"{int(padded.sum()):,} tokens with the id -1 (padding) were left out")
    if (same & ~padded).any():
        report.append(
            f"{int((same & ~padded).sum()):,} tokens with one id for all choices of all layers (warm-up) were left out"
        )
    return ids[~drop], None if weights is None else weights[~drop]


Route = tuple[int, int, list[int], list[float] | None]  # token, layer, ids, weights


def _lines(name: str, content: bytes, experts: int, kind: str, keys: tuple[str, str, str, str]) -> Imported:
    """JSON lines, the first about the model; keys: of token, layer, ids and weights in the others."""
    rows: list[Route] = []
    places: dict[tuple[str, int], int] = {}  # (request, token of it) -> token
    try:
        lines = content.decode("utf-8").splitlines()
        meta = json.loads(lines[0])
        known = meta.get("num_experts", 0) if isinstance(meta, dict) else 0
        known = known if type(known) is int and 0 < known <= MAX_EXPERTS else 0
        for number, line in enumerate(lines[1:], 2):
            if line.strip():
                route = json.loads(line)
                token, layer, ids, weights = _route(f"{name}, line {number}", route, keys, known)
                rows.append(
                    (
                        places.setdefault((str(route.get("req_id", "")), token), len(places)),
                        layer,
                        ids,
                        weights,
                    )
                )
    except TraceError:
        raise
    except (ValueError, KeyError, TypeError, IndexError, AttributeError, RecursionError) as error:
        raise TraceError(f"{name} is not JSON lines of routes: {str(error)[:100]}") from None
    return _of_routes(name, rows, experts or known, kind)


def _route(place: str, route: Any, keys: tuple[str, str, str, str], known: int) -> Route:
    """One line or row, checked. `place` is for messages; `known`: E where it is said. Weights of all E experts are read for the chosen ones."""
    missing = [key for key in keys[:3] if not isinstance(route, dict) or key not in route]
    if missing:
        raise TraceError(f"{place} lacks {', '.join(missing)}.")
    token, layer, ids, weights = route[keys[0]], route[keys[1]], route[keys[2]], route.get(keys[3])
    if not (isinstance(ids, list) and ids and all(type(one) is int for one in [token, layer, *ids])):
        raise TraceError(f"{place}: {keys[0]}, {keys[1]} and {keys[2]} must be whole numbers.")
    if not (0 <= layer < 2**31 and 0 <= token < 2**31 and all(-1 <= one < MAX_EXPERTS for one in ids)):
        raise TraceError(f"{place}: a number is out of range; at most {MAX_EXPERTS} experts are read.")
    if weights is not None:
        if len(weights) == known > len(ids) and max(ids) < known:
            weights = [weights[one] for one in ids]
        if len(weights) != len(ids) or not all(isinstance(one, (int, float)) for one in weights):
            raise TraceError(f"{place}: {keys[3]} must be a number for each of {len(ids)} experts.")
    return token, layer, ids, weights


def _of_routes(name: str, rows: list[Route], experts: int, kind: str) -> Imported:
    report: list[str] = []
    if not rows:
        raise TraceError(f"{name} holds no routes after its first line.")
    k = len(rows[0][2])
    ragged = next((row for row in rows if len(row[2]) != k), None)
    if ragged:
        raise TraceError(
            f"{name}: token {ragged[0]} in layer {ragged[1]} has {len(ragged[2])} experts; expected {k}, as the first has."
        )
    token, layer = (np.array([row[place] for row in rows], np.int64) for place in (0, 1))
    chosen = np.array([row[2] for row in rows], np.int64)
    weight = (
        None
        if any(row[3] is None for row in rows)
        else np.array([row[3] for row in rows], np.float64).astype(np.float32)
    )
    shaped, weights = _rectangle(name, token, layer, chosen, weight)
    kept, weights = _without_padding(shaped, weights, report)
    return Imported(_trace(name, kept, weights, experts, report), None, kind, report)


def from_records(name: str, records: object, experts: int) -> Imported:
    """The records of SGLang's recorder, already read: a list of dicts with forward_pass_id and topk_ids_of_layer, int [layer, token, k].

    Layers without experts and unused places of the fixed width k hold -1 and are left out. Raises TraceError.
    """
    report: list[str] = []
    try:
        passes = sorted((record for record in records), key=lambda record: int(record["forward_pass_id"]))  # type: ignore[attr-defined]
        arrays = [np.asarray(record["topk_ids_of_layer"]).transpose(1, 0, 2) for record in passes]
        ids = np.concatenate([array for array in arrays if array.shape[0]]).astype(np.int64)
        lengths = [array.shape[0] for array in arrays if array.shape[0]]
    except (KeyError, TypeError, ValueError, AttributeError) as error:
        raise TraceError(f"{name} holds no per_token records of SGLang: {str(error)[:100]}") from None
    used = ~(ids < 0).all((0, 2))
    width = ~(ids < 0).all((0, 1))
    if not used.all() or not width.all():
        report.append(
            f"{int((~used).sum())} layers without experts and {int((~width).sum())} unused places per token were left out"
        )
    ids = ids[:, used][:, :, width]
    if not ids.size:
        raise TraceError(f"{name} holds no routes.")
    pass_of = np.repeat(np.arange(len(lengths)), lengths)
    keep = ~(ids < 0).any((1, 2))
    kept, _ = _without_padding(ids, None, report)
    if len(kept) != int(keep.sum()):
        keep &= ~(ids == ids[:, :1, :1]).all((1, 2))
    trace = _trace(name, kept, None, experts, report)
    numbers = np.unique(pass_of[keep], return_inverse=True)[1].astype(np.int32)
    counts = np.bincount(numbers)
    phase = (counts[numbers] == 1).astype(np.uint8)
    report[-1] = (
        "forward passes of several tokens are taken for prefill, those of one for decode; only a recording of one request at a time is one text"
    )
    return Imported(replace(trace, forward_pass=numbers, phase=phase), None, "sglang", report)


def _rectangle(
    name: str, token: NDArray[Any], layer: NDArray[Any], ids: NDArray[np.int64], weight: NDArray[Any] | None
) -> tuple[NDArray[np.int64], NDArray[Any] | None]:
    """[token, layer, k] of rows in any order. Raises TraceError where a token lacks a layer or has it twice."""
    tokens, layers = np.unique(token), np.unique(layer)
    pairs, times = np.unique(
        np.searchsorted(tokens, token) * len(layers) + np.searchsorted(layers, layer), return_counts=True
    )
    wrong, number = (
        (pairs[times > 1], 2) if (times > 1).any() else (np.flatnonzero(pairs != np.arange(len(pairs))), 0)
    )
    if number or len(pairs) != len(tokens) * len(layers):
        at, below = divmod(int(wrong[0]) if len(wrong) else len(pairs), len(layers))
        raise TraceError(
            f"{name} has token {tokens[at]} {'more than once' if number else 'nowhere'} in layer {layers[below]}; "
            f"expected each of {len(tokens):,} tokens in each of {len(layers)} layers once."
        )
    order = np.lexsort((layer, token))
    shape = (len(tokens), len(layers), ids.shape[1])
    return ids[order].reshape(shape), None if weight is None else weight[order].reshape(shape)


def _from_table(name: str, content: bytes, experts: int) -> Imported:
    frame = _frame(name, content)
    columns = {str(column).strip().lower(): column for column in frame.columns}
    report: list[str] = []
    if set(_MOE_BEYOND) <= columns.keys():
        token, layer, ids = _moe_beyond(
            name, frame.rename(columns={columns[key]: key for key in _MOE_BEYOND})
        )
        weight: NDArray[Any] | None = None
        kind = "moe-beyond"
    elif named := next(
        (names for names in (_POLICYLANG, _POLICYLANG_FIELDS) if set(names[:3]) <= columns.keys()), None
    ):
        frame = frame.rename(columns={columns[one]: one for one in named if one in columns})
        rows = [
            _route(f"{name}, row {number + 1}", row, named, experts)
            for number, row in enumerate(_plain_rows(frame[[one for one in named if one in frame]]))
        ]
        return _of_routes(name, rows, experts, "policylang")
    elif {"token", "layer", "rank", "expert"} <= columns.keys():
        kind = "table"
        frame = frame.rename(columns={original: key for key, original in columns.items()})
        for column in ("token", "layer", "rank", "expert"):
            _whole(name, frame[column], column)
        frame = frame.sort_values(["token", "layer", "rank"], kind="stable").reset_index(drop=True)
        token, layer, ids, weight = _grouped(name, frame)
    else:
        found = ", ".join(str(column) for column in list(frame.columns)[:8])
        raise TraceError(
            f"{name} has the columns {found}; expected token, layer, rank, expert[, weight], or Layer ID, Batch Number, Token, Activated Expert IDs."
        )
    shaped, weights = _rectangle(name, token, layer, ids, weight)
    return Imported(_trace(name, shaped, weights, experts, report), None, kind, report)


def _plain_rows(frame: pd.DataFrame) -> Iterator[dict[str, Any]]:
    """Rows with lists and numbers of Python's own; lists that a CSV holds as text are read as JSON."""
    for row in frame.to_dict("records"):
        plain: dict[str, Any] = {}
        for key, value in row.items():
            if isinstance(value, str):
                try:
                    value = json.loads(value)
                except (ValueError, RecursionError):
                    value = None
            elif isinstance(value, (np.ndarray, np.generic)):
                value = value.tolist()
            plain[str(key)] = value if isinstance(value, (list, int)) else None
        yield plain


def _frame(name: str, content: bytes) -> pd.DataFrame:
    most = MAX_TOKENS * 8
    try:
        if content[:4] == b"PAR1":
            import pyarrow.parquet as parquet

            file = parquet.ParquetFile(io.BytesIO(content))
            unpacked = sum(
                file.metadata.row_group(n).total_byte_size for n in range(file.metadata.num_row_groups)
            )
            if file.metadata.num_rows > most or unpacked > MAX_FILE_BYTES:
                raise TraceError(
                    f"{name} has {file.metadata.num_rows:,} rows in {unpacked:,} bytes; at most {most:,} in {MAX_FILE_BYTES:,} are read."
                )
            return pd.DataFrame(file.read().to_pandas())
        frame = pd.read_csv(io.BytesIO(content), nrows=most + 1, encoding="utf-8")
    except TraceError:
        raise
    except Exception as error:  # parsers raise whatever a broken file makes them stumble over
        raise TraceError(f"{name} is not a table that can be read: {str(error)[:120]}") from None
    if len(frame) > most:
        raise TraceError(f"{name} has more than {most:,} rows.")
    if frame.empty:
        raise TraceError(f"{name} has no rows.")
    return frame


def _whole(name: str, column: pd.Series[Any], label: str) -> None:
    if column.dtype.kind not in "iu":
        values = column.tolist()
        bad = next((n for n, value in enumerate(values) if not isinstance(value, int)), 0)
        raise TraceError(
            f"{name}, row {bad + 1}: {label} is {str(values[bad])[:40]!r}; expected a whole number."
        )
    if (column < 0).any() or (column > 2**31).any():
        bad = int(np.argmax((column < 0) | (column > 2**31)))
        raise TraceError(f"{name}, row {bad + 1}: {label} is {column.iloc[bad]}; expected 0 or more.")


def _grouped(
    name: str, frame: pd.DataFrame
) -> tuple[NDArray[Any], NDArray[Any], NDArray[np.int64], NDArray[Any] | None]:
    """One row per token and layer of a table sorted by token, layer and rank."""
    k = int(frame["rank"].max()) + 1
    if k > MAX_K:
        raise TraceError(f"{name} has ranks up to {k - 1}; a token chooses at most {MAX_K} experts.")
    wrong = frame["rank"].to_numpy() != np.arange(len(frame)) % k
    if len(frame) % k or wrong.any():
        row = frame.iloc[int(np.argmax(wrong))] if wrong.any() else frame.iloc[-1]
        raise TraceError(
            f"{name}: token {row['token']} in layer {row['layer']} has not each rank from 0 to {k - 1} once."
        )
    pairs = frame[["token", "layer"]].to_numpy().reshape(-1, k, 2)
    if (pairs != pairs[:, :1]).any():
        row = pairs[int(np.argmax((pairs != pairs[:, :1]).any((1, 2))))][0]
        raise TraceError(
            f"{name}: token {row[0]} in layer {row[1]} has not each rank from 0 to {k - 1} once."
        )
    weight = None
    if "weight" in frame:
        if frame["weight"].dtype.kind not in "fiu":
            raise TraceError(f"{name}: weight holds {frame['weight'].dtype}; expected numbers.")
        weight = frame["weight"].to_numpy(np.float32).reshape(-1, k)
    return pairs[:, 0, 0], pairs[:, 0, 1], frame["expert"].to_numpy(np.int64).reshape(-1, k), weight


def _moe_beyond(name: str, frame: pd.DataFrame) -> tuple[NDArray[Any], NDArray[Any], NDArray[np.int64]]:
    """Tokens are numbered by their batch and their place in it, in the order of the file."""
    _whole(name, frame["layer id"], "Layer ID")
    _whole(name, frame["batch number"], "Batch Number")
    lists = [[int(number) for number in _NUMBER.findall(str(cell))] for cell in frame["activated expert ids"]]
    k = len(lists[0])
    for row, experts in enumerate(lists):
        if len(experts) != k or not k:
            raise TraceError(
                f"{name}, row {row + 1}: {len(experts)} expert ids; expected {k}, as in the first row."
            )
        if max(experts) >= MAX_EXPERTS:
            raise TraceError(
                f"{name}, row {row + 1}: expert {str(max(experts))[:20]}; at most {MAX_EXPERTS} experts are read."
            )
    layers = frame["layer id"].to_numpy()
    place = frame.groupby(["batch number", "layer id"], sort=False).cumcount().to_numpy()
    batch = frame["batch number"].to_numpy().astype(np.int64)
    return batch * (int(place.max()) + 1) + place, layers, np.array(lists, np.int64)


def _trace(
    name: str, ids: NDArray[np.int64], weights: NDArray[Any] | None, experts: int, report: list[str]
) -> Trace:
    """A decode trace of these choices. Raises TraceError with the file's name."""
    if not len(ids):
        raise TraceError(f"{name} holds no tokens but padding.")
    most = int(ids.max())
    if experts and most >= experts:
        token, layer = np.argwhere(ids >= experts)[0][:2]
        raise TraceError(
            f"{name}: token {token} in layer {layer} chose expert {most}, but there are {experts}."
        )
    if most >= MAX_EXPERTS:
        raise TraceError(f"{name} names expert {most}; at most {MAX_EXPERTS} experts are read.")
    if not experts:
        report.append(
            f"the file does not say how many experts a layer has; taken for {most + 1}, the largest id and one"
        )
    if weights is None:
        report.append("the file holds no router weights; the order of the choices stands for their strength")
        weights = np.broadcast_to(np.linspace(1, 0.5, ids.shape[2], dtype=np.float32), ids.shape)
    report.append("every token is taken for a forward pass of its own (decode)")
    try:
        return Trace(
            experts=ids.astype(np.int16),
            weights=np.ascontiguousarray(weights, np.float32),
            token_ids=np.zeros(len(ids), np.int32),
            phase=np.ones(len(ids), np.uint8),
            forward_pass=np.arange(len(ids), dtype=np.int32),
            guess=np.full((*ids.shape[:2], 0, 0), -1, np.int16),
            num_experts=experts or most + 1,
            texts=_numbered(len(ids)),
            model=name,
        )
    except TraceError as error:
        raise TraceError(f"{name}: {error}") from None


def _numbered(tokens: int) -> tuple[str, ...]:
    return tuple(f"·{n} " for n in range(tokens))

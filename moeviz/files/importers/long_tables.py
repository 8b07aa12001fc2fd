"""Long tables: a row for each choice of a router (token, layer, rank, expert, weight), or for each count
(layer, expert, count), from columns that are already read.

    from_columns(source, Options(), {"token": [0], "layer": [0], "expert": [3]}, "table")
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from moeviz.core.trace import MAX_EXPERTS, MAX_K, MAX_LAYERS, MAX_TOKENS
from moeviz.files.importers.collect import by_prompts, scatter
from moeviz.files.importers.counting import counted_rows
from moeviz.files.importers.names import meanings, phase_of, unused
from moeviz.files.importers.registry import Found, Options
from moeviz.files.importers.routed import Routed, finish
from moeviz.files.importers.source import Source
from moeviz.files.importers.tabular import whole_column
from moeviz.words import many


def is_long(names: Any) -> bool:
    """True of names of a row for each choice, or for each count."""
    found = meanings(names, "")
    return "expert" in found and "experts" not in found and "layer" in found


def _float_column(source: Source, values: Any, name: str) -> NDArray[np.float64]:
    if isinstance(values, list):
        bad = next((n for n, one in enumerate(values) if type(one) not in (int, float)), None)
        if bad is not None:
            raise source.error(f"row {bad + 1}: {name} is {str(values[bad])[:40]!r}; expected a number.")
        try:
            values = np.array([float(one) for one in values])
        except OverflowError:
            raise source.error(f"{name} holds a number beyond floating point.") from None
    found = np.asarray(values, np.float64)
    if len(beyond := np.flatnonzero(np.isfinite(found) & (np.abs(found) > np.finfo(np.float32).max))):
        at = int(beyond[0])
        raise source.error(f"row {at + 1}: {name} is {found[at]:g}; expected a number that float32 holds.")
    return found


def _first(
    source: Source, name: str, row: NDArray[np.int64], values: NDArray[np.int64], tokens: int
) -> NDArray[np.int64]:
    """One value for each token, the same in all of its rows. Raises TraceError."""
    found = np.full(tokens, -1, np.int64)
    found[row] = values
    if (found[row] != values).any():
        at = int(np.argmax(found[row] != values))
        raise source.error(f"row {at + 1}: {name} is another than in other rows of this token.")
    return found


def from_columns(
    source: Source,
    options: Options,
    columns: Mapping[str, Any],
    format: str,
    left: Sequence[str] = (),
    report: Sequence[str] = (),
    **others: Any,
) -> Found:
    """A trace of a long table, or counts. `left` names columns that were not read, `others` are fields of
    Routed. Raises TraceError.
    """
    found = meanings(columns, source.name)
    values = {meaning: columns[name] for meaning, name in found.items()}
    lines = [*report, *unused([*left, *(name for name in columns if name not in found.values())], "columns")]
    ints: dict[str, NDArray[np.int64]] = {
        meaning: whole_column(source, values[meaning], found[meaning])
        for meaning in ("token", "layer", "rank", "expert", "step", "token_id", "prompt_tokens")
        if meaning in values
    }
    for meaning, most in (("layer", 4 * MAX_LAYERS), ("expert", MAX_EXPERTS - 1), ("rank", MAX_K - 1)):
        if meaning in ints and (ints[meaning] > most).any():
            at = int(np.argmax(ints[meaning] > most))
            raise source.error(
                f"row {at + 1}: {found[meaning]} is {ints[meaning][at]}; expected at most {most}."
            )
    for meaning in ("token", "layer", "rank"):
        if meaning in ints and (ints[meaning] < 0).any():
            at = int(np.argmax(ints[meaning] < 0))
            raise source.error(f"row {at + 1}: {found[meaning]} is -1; expected 0 or more.")
    if "token" not in ints and "step" in ints and "count" not in values:
        _steps_number_tokens(source, ints, values, found, columns)
        lines.append(f"{found['step']} is taken for the number of the token")
    if "token" not in ints:
        if "count" not in values:
            raise source.error(
                f"has no column that numbers the tokens; its columns are {', '.join(columns)[:120]}."
            )
        uses = _float_column(source, values["count"], found["count"])
        if (ints["expert"] < 0).any() or (ints["layer"] < 0).any():
            raise source.error("counts a layer or an expert of the number -1.")
        rows: dict[tuple[int, int], float] = {}
        for layer, expert, count in zip(
            ints["layer"].tolist(), ints["expert"].tolist(), uses.tolist(), strict=True
        ):
            if (layer, expert) in rows:
                raise source.error(f"counts expert {expert} of layer {layer} twice.")
            rows[layer, expert] = count
        return counted_rows(source, rows, options.experts or others.get("experts", 0), format, lines)
    return _long(source, options, values, ints, found, format, lines, others)


def _check_apart(
    source: Source, event: NDArray[np.int64], ints: Mapping[str, NDArray[np.int64]], report: list[str]
) -> None:
    """Names rows of one token and layer that do not follow each other: they may be of several requests.

    event: of each row, one for each token and layer. Raises TraceError where they must be. A layer in which
    all is 0 is a dense one, which says nothing.
    """
    if len(np.flatnonzero(np.diff(event, prepend=-1))) == len(np.unique(event)):
        return
    again = "where several requests number their tokens alike, a column request has to tell them apart"
    order = np.lexsort((ints["expert"], event))
    twice = (np.diff(event[order]) == 0) & (np.diff(ints["expert"][order]) == 0)
    routed = np.isin(ints["layer"], ints["layer"][ints["expert"] > 0]) & (ints["expert"] >= 0)
    twice &= routed[order][1:]
    if twice.any():
        at = int(order[1:][twice][0])
        raise source.error(
            f"row {at + 1} has token {ints['token'][at]} and expert {ints['expert'][at]} of layer "
            f"{ints['layer'][at]} again: {again}."
        )
    report.append(
        f"rows of one token and layer stand apart in the file and are taken for one choice; {again}"
    )


def _steps_number_tokens(
    source: Source,
    ints: dict[str, NDArray[np.int64]],
    values: Mapping[str, Any],
    found: Mapping[str, str],
    columns: Mapping[str, Any],
) -> None:
    """Puts the steps in the place of tokens, where each step is one token: it has as many experts in each
    layer. Raises TraceError where that is not so.
    """
    requests = np.unique(np.array(values.get("request", np.zeros(len(ints["step"])))), return_inverse=True)[1]
    sizes = np.unique(np.stack([requests, ints["step"], ints["layer"]]), axis=1, return_counts=True)[1]
    if len(set(sizes.tolist())) > 1 or (ints["step"] < 0).any():
        raise source.error(
            f"has no column that numbers the tokens, and a {found['step']} may have several; its columns are "
            f"{', '.join(columns)[:120]}."
        )
    ints["token"] = ints.pop("step")


def _long(
    source: Source,
    options: Options,
    values: Mapping[str, Any],
    ints: Mapping[str, NDArray[np.int64]],
    found: Mapping[str, str],
    format: str,
    report: list[str],
    others: Mapping[str, Any],
) -> Found:
    """A trace of a row for each choice. values, ints: columns by meaning, ints those that are read as whole
    numbers; found: their names. Raises TraceError.
    """
    count = len(ints["token"])
    request = np.zeros(count, np.int64)
    if "request" in values:
        numbers: dict[str, int] = {}
        request = np.array(
            [numbers.setdefault(str(one), len(numbers)) for one in values["request"]], np.int64
        )
    step = ints.get("step", np.zeros(count, np.int64))
    row, begin = _numbered(source, request, step, ints["token"])
    skipped = np.diff(ints["token"][begin])[np.diff(request[begin]) == 0]
    if (lacking := int((skipped[skipped > 1] - 1).sum())) > 0:
        report.append(
            f"the file numbers {many(lacking, 'token')} between others without a row for them; those on both "
            "sides are taken to follow each other"
        )
    layers, layer = np.unique(ints["layer"], return_inverse=True)
    weight = _weights(source, values, found, report)
    ids, weights = _laid_out(source, values, ints, (row, layer), (len(begin), len(layers)), weight, report)
    routed = Routed(ids, weights, [int(one) for one in layers], report=report, **others)
    if "request" in values and int(request.max()) > 0:
        routed.sequence = request[begin]
    _describe(source, routed, values, ints, found, row, begin, request)
    return finish(source, options, routed, format)


def _numbered(
    source: Source, request: NDArray[np.int64], step: NDArray[np.int64], token: NDArray[np.int64]
) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """The number of each row's token among all, by request, step and token; and of each token its first row.
    Raises TraceError.
    """
    order = np.lexsort((token, step, request))
    new = np.zeros(len(token), np.bool_)
    new[0] = True
    for key in (request, step, token):
        new[1:] |= np.diff(key[order]) != 0
    if int(new.sum()) > MAX_TOKENS:
        raise source.error(f"holds more than {MAX_TOKENS:,} tokens.")
    row = np.empty(len(token), np.int64)
    row[order] = np.cumsum(new) - 1
    return row, order[new]


def _weights(
    source: Source, values: Mapping[str, Any], found: Mapping[str, str], report: list[str]
) -> NDArray[np.float64] | None:
    """Of each row; None where there are none, or not for all. Raises TraceError."""
    if "weight" not in values:
        return None
    weight = _float_column(source, values["weight"], found["weight"])
    if np.isnan(weight).any():
        report.append(f"weights are left out: {many(int(np.isnan(weight).sum()), 'row')} without one")
        return None
    return weight


def _laid_out(
    source: Source,
    values: Mapping[str, Any],
    ints: Mapping[str, NDArray[np.int64]],
    place: tuple[NDArray[np.int64], NDArray[np.int64]],
    shape: tuple[int, int],
    weight: NDArray[np.float64] | None,
    report: list[str],
) -> tuple[NDArray[np.int16], NDArray[np.float32] | None]:
    """Ids and weights [T, L, k] of rows that stand in any order. place: each row's number of its token and of
    its layer; shape: [T, L]. Raises TraceError.
    """
    row, layer = place
    count, width = len(row), shape[1]
    if "rank" in ints:
        rank: NDArray[Any] = ints["rank"]
    else:
        rank = np.arange(count) if weight is None else -weight
        report.append(
            f"no column says the rank: choices are ranked by {'row' if weight is None else 'weight'}"
        )
    by = np.lexsort((rank, layer, row))
    event = row[by] * width + layer[by]
    begins = np.flatnonzero(np.diff(event, prepend=-1))
    if "rank" in ints and (np.diff(rank[by])[np.diff(event) == 0] == 0).any():
        at = int(by[1:][(np.diff(event) == 0) & (np.diff(rank[by]) == 0)][0])
        raise source.error(
            f"row {at + 1} has rank {ints['rank'][at]} of token {ints['token'][at]} in layer "
            f"{ints['layer'][at]} again."
        )
    if not {"rank", "request", "step"} & (ints.keys() | values.keys()):
        _check_apart(source, row * width + layer, ints, report)
    sizes = np.diff(np.append(begins, count))
    if int(sizes.max()) > MAX_K:
        at = int(by[begins[int(np.argmax(sizes))]])
        raise source.error(
            f"token {ints['token'][at]} in layer {ints['layer'][at]} has {int(sizes.max())} experts; at "
            f"most {MAX_K} are read."
        )
    return scatter(
        source,
        row[by][begins],
        layer[by][begins],
        sizes.astype(np.int16),
        ints["expert"][by].astype(np.int16),
        None if weight is None else weight[by].astype(np.float32),
        shape,
    )


def _describe(
    source: Source,
    routed: Routed,
    values: Mapping[str, Any],
    ints: Mapping[str, NDArray[np.int64]],
    found: Mapping[str, str],
    row: NDArray[np.int64],
    begin: NDArray[np.int64],
    request: NDArray[np.int64],
) -> None:
    """Fills in what the rows say of their tokens: step, id, phase, text. row: each row's number of its token;
    begin: each token's first row; request: of each row. Raises TraceError.
    """
    report, tokens = routed.report, len(begin)
    for meaning in ("step", "token_id"):
        if meaning in ints and (ints[meaning] < 0).any():
            report.append(f"{found[meaning]} is not used: some rows have none")
    if "step" in ints and (ints["step"] >= 0).all():
        routed.forward_pass = ints["step"][begin]
    if "token_id" in ints and (ints["token_id"] >= 0).all():
        routed.token_ids = _first(source, found["token_id"], row, ints["token_id"], tokens)
    if "phase" in values and "" in values["phase"]:
        report.append(f"{found['phase']} is not used: some rows have none")
    elif "phase" in values:
        name = found["phase"]
        known = {one: phase_of(one, source.name, name) for one in set(values["phase"])}
        phase = np.array([known[one] for one in values["phase"]], np.int64)
        routed.phase = _first(source, name, row, phase, tokens).astype(np.uint8)
    elif "prompt_tokens" in ints:
        prompt = _first(source, found["prompt_tokens"], row, ints["prompt_tokens"], tokens)
        routed.phase = by_prompts(request[begin], ints["token"][begin], prompt, report)
    if "text" in values:
        routed.texts = [str(values["text"][at]) for at in begin.tolist()]

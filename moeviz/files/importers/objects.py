"""Routes that stand as objects, one for each token and layer: JSON lines, JSON arrays, rows of a table with
lists.

Shared by the formats that differ in names only (`names.ALIASES`). Knows no file.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from typing import Any

from moeviz.files.importers.calls import Calls
from moeviz.files.importers.collect import UNKNOWN, Routes
from moeviz.files.importers.names import About, about, meanings, phase_of, unused
from moeviz.files.importers.registry import Found, Options
from moeviz.files.importers.routed import finish
from moeviz.files.importers.source import Source
from moeviz.files.importers.values import expert_list, layer_number, weight_list, whole

Row = tuple[str, dict[str, Any]]  # where it stands, and what it says
KINDS = ("type", "record_type", "event", "kind")  # keys that say what a line is
HEADERS = ("meta", "metadata", "header", "run")


def json_lines(source: Source) -> Iterator[Row]:
    """The objects of a file of JSON lines, or of one JSON array. Raises TraceError."""
    if source.head[:1] == b"[":
        values = source.document()
        for number, value in enumerate(values, 1):
            yield f"entry {number}", _object(source, value, f"entry {number}")
        return
    for number, line in source.lines():
        yield f"line {number}", _object(source, source.json(line, f"line {number}"), f"line {number}")


def _object(source: Source, value: Any, place: str) -> dict[str, Any]:
    if not isinstance(value, dict):
        raise source.error(f"{place} is {str(value)[:40]!r}; expected an object.")
    return value


def header_and_rows(source: Source, rows: Iterator[Row]) -> tuple[About, Iterator[Row], list[str]]:
    """What the lines about the model say, and the lines that are routes; the third is filled with the kinds
    of those left out.
    """
    said = About()
    others: list[str] = []

    def routes() -> Iterator[Row]:
        seen = False
        for place, row in rows:
            kind = next((row[key] for key in KINDS if isinstance(row.get(key), str)), "")
            found = meanings(row, f"{source.name}: {place}")
            if "layer" in found and ("experts" in found or "expert" in found):
                seen = True
                yield place, row
            elif kind in HEADERS or (not seen and "layer" not in found and "token" not in found):
                own = about(
                    {key: value for key, value in row.items() if key not in KINDS}, f"{source.name}: {place}"
                )
                said.experts, said.model = own.experts or said.experts, own.model or said.model
                said.prompt, said.top_k = own.prompt or said.prompt, own.top_k or said.top_k
                said.prompt_tokens = max(own.prompt_tokens, said.prompt_tokens)
                said.unused += own.unused
            elif kind:
                others.append(kind)
            else:
                missing = [name for name in ("layer", "experts") if name not in found]
                raise source.error(
                    f"{place} lacks {' and '.join(missing)}; its keys are {', '.join(row)[:80]}."
                )

    return said, routes(), others


def read_rows(
    source: Source,
    options: Options,
    rows: Iterable[Row],
    said: About,
    format: str,
    others: list[str] | None = None,
    softmax: str = "",
    also: Callable[[str, dict[str, Any]], None] | None = None,
    used: Iterable[str] = (),
    recorded: dict[str, str] | None = None,
) -> Found:
    """A trace of routes as objects. Raises TraceError.

    `softmax` names a key with numbers of all experts that stand in where a row has no weights; `also` is
    shown every row's request and row; `used` names keys that the caller uses or knows to say nothing;
    `recorded` goes into the trace, as it is when all rows are read.
    """
    routes, calls = Routes(source), Calls(source)
    keys: dict[tuple[str, ...], dict[str, str]] = {}
    left: dict[str, None] = {}
    ordered = 0
    for place, row in rows:
        nameless = row.pop("", None) is not None  # and so found by no name that a row lacks
        names = tuple(row)
        found = keys.get(names)
        if found is None:
            found = keys[names] = meanings(row, f"{source.name}: {place}")
            if "experts" not in found:  # but one of them by itself, as no row before it
                raise source.error(f"{place} lacks experts; its keys are {', '.join(names)[:80]}.")
            known = {*found.values(), *used, *KINDS, softmax}
            left.update(dict.fromkeys(name for name in names if name not in known))
        if nameless:
            left[""] = None
        layer = layer_number(source, row[found["layer"]], place, found["layer"])
        chosen, name = row[found["experts"]], found["experts"]
        weights = row.get(found.get("weights", ""))
        request = str(row.get(found.get("request", ""), ""))
        if also:
            also(request, row)
        if isinstance(chosen, list) and chosen and isinstance(chosen[0], list):
            calls.add(place, layer, *_of_tokens(source, row, found, said.experts, place))
            ordered += 1
            continue
        ids = expert_list(source, chosen, place, name)
        own = weight_list(source, weights, ids, said.experts, place, found.get("weights", ""))
        if own is None and softmax and isinstance(row.get(softmax), list):
            own = weight_list(source, row[softmax], ids, len(row[softmax]), place, softmax)
        if "token" not in found:
            calls.row(place, layer, ids, own)
            ordered += 1
            continue
        text, said_phase = row.get(found.get("text", "")), row.get(found.get("phase", ""))
        where, prompt = f"{source.name}: {place}", found.get("prompt_tokens", "")
        routes.add(
            place,
            request,
            whole(source, row[found["token"]], place, found["token"]),
            layer,
            ids,
            own,
            phase=UNKNOWN if said_phase in (None, "") else phase_of(said_phase, where, found["phase"]),
            step=_optional(source, row.get(found.get("step", "")), place, found.get("step", "")),
            token_id=_optional(source, row.get(found.get("token_id", "")), place, found.get("token_id", "")),
            text=text if isinstance(text, str) else None,
            prompt=_optional(source, row.get(prompt), place, prompt),
        )
    if ordered and len(routes):
        raise source.error("some of its rows number their tokens and others do not.")
    if not ordered and not len(routes):
        raise source.error("holds no routes after its header.")
    collected = calls.routed() if ordered else routes.routed()
    if ordered:
        collected.report.append("tokens are not numbered: a forward pass ends where a layer comes again")
    collected.experts, collected.model, collected.prompt = said.experts, said.model, said.prompt
    collected.prompt_tokens = said.prompt_tokens
    collected.recorded = dict(recorded or {})
    collected.report += unused(said.unused, "keys of the header")
    collected.report += unused(left, "keys")
    for kind in sorted(set(others or [])):
        collected.report.append(f"{(others or []).count(kind):,} lines of kind {kind[:40]!r} are not used")
    return finish(source, options, collected, format)


def _of_tokens(
    source: Source, row: dict[str, Any], found: dict[str, str], experts: int, place: str
) -> tuple[list[list[int]], list[list[float]] | None]:
    """The experts of each token of a row that holds several, and their weights where it has them for all."""
    lists = [expert_list(source, one, place, found["experts"]) for one in row[found["experts"]]]
    weights = row.get(found.get("weights", ""))
    if not isinstance(weights, list) or len(weights) != len(lists):
        return lists, None
    return lists, [
        weight_list(source, one, ids, experts, place, found["weights"]) or []
        for one, ids in zip(weights, lists, strict=True)
    ]


def _optional(source: Source, value: Any, place: str, what: str) -> int:
    return UNKNOWN if value is None else whole(source, value, place, what, UNKNOWN)

"""Atlases: JSON lines with a whole trace in each, nested lists [token][layer][k] under one of the usual
names.

Each line is a request; beside the lists it may have weights of the same shape, token ids, texts, a phase for
each token and prompt_tokens.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from moeviz.core.trace import DECODE, PREFILL
from moeviz.files.importers.collect import UNKNOWN, Routes
from moeviz.files.importers.names import About, about, meanings, phase_of, plain, unused
from moeviz.files.importers.objects import json_lines
from moeviz.files.importers.registry import Found, Options, importer
from moeviz.files.importers.routed import finish
from moeviz.files.importers.source import Source
from moeviz.files.importers.values import expert_list, weight_list, whole

NAME = "atlas"
_LISTS = ("routing", "routes", "route", "trace", "expert_trace", "routing_trace")
_LAYERS = ("num_layers", "n_layers", "n_layer", "num_hidden_layers")
_OF_TOKENS = ("tokens", "token_ids", "input_ids", "texts", "token_texts", "phases", "phase")


def depth(value: Any) -> int:
    """How deep lists are nested, by their first members."""
    found = 0
    while isinstance(value, list):
        found += 1
        value = value[0] if value else None
    return found


def lists_of(row: dict[str, Any]) -> str:
    """The key of a whole trace in an object; empty where there is none."""
    own = meanings(row, "").get("experts", "")
    keys = [own] if own else []
    return next(
        (key for key in [*keys, *(key for key in row if plain(key) in _LISTS)] if depth(row[key]) == 3), ""
    )


def sniff(source: Source) -> int:
    """A line with lists three deep and no layer beside them."""
    try:
        return 2 * any(isinstance(one, dict) and bool(lists_of(one)) for one in source.peek())
    except ValueError:
        return 0


@importer(NAME, "atlases: JSON lines of whole traces", sniff)
def read(source: Source, options: Options) -> Found:
    """Raises TraceError."""
    routes, said = Routes(source), About()
    left: dict[str, None] = {}
    for place, row in json_lines(source):
        key = lists_of(row)
        if key:
            left.update(dict.fromkeys(add_trace(source, options, routes, said, place, row, key, place)))
        elif len(routes):
            raise source.error(
                f"{place} holds no lists [token][layer][k]; its keys are {', '.join(row)[:80]}."
            )
        else:
            _header(said, about(row, f"{source.name}: {place}"))
    routed = routes.routed(experts=said.experts, model=said.model)
    routed.layers = ()  # places in a list number no layers
    routed.report += unused([*said.unused, *left], "keys")
    return finish(source, options, routed, NAME)


def _by_token(
    source: Source, options: Options, routes: Routes, row: dict[str, Any], key: str, place: str
) -> dict[str, Any]:
    """The row with its lists as [token][layer][k]; in the file they may be [layer][token][k], as `--axes` or
    the row's own number of layers says. Raises TraceError.
    """
    lists = row[key]
    inner = {len(one) if isinstance(one, list) else 0 for one in lists}
    own = next((row[name] for name in row if plain(name) in _LAYERS), None)
    layer_first = type(own) is int and own == len(lists) and inner != {own}
    if options.axes:
        if options.axes not in ("token,layer,k", "layer,token,k"):
            raise source.error(f"--axes is {options.axes}; expected token,layer,k or layer,token,k.")
        layer_first = options.axes == "layer,token,k"
    if layer_first:
        if len(inner) > 1:
            raise source.error(f"{place}: the layers of {key} have different numbers of tokens.")
        row = row | {
            name: [list(token) for token in zip(*value, strict=True)]
            for name, value in row.items()
            if depth(value) == 3 and {len(one) if isinstance(one, list) else 0 for one in value} == inner
        }
        line = "lists are taken as layer,token,k"
    else:
        line = "lists are taken as token,layer,k"
        if max(inner) > max(len(lists), 8):
            line += (
                f", {max(inner):,} layers of {len(lists):,} tokens, which is unlikely: if the first axis is "
                "the layer, give --axes layer,token,k"
            )
    if line not in routes.report:
        routes.report.append(line)
    return row


def _header(said: About, own: About) -> None:
    said.experts, said.model = own.experts or said.experts, own.model or said.model
    said.unused += own.unused


def add_trace(
    source: Source,
    options: Options,
    routes: Routes,
    said: About,
    place: str,
    row: dict[str, Any],
    key: str,
    request: str,
) -> Iterator[str]:
    """One request's tokens; gives the names of keys that were not used. Raises TraceError."""
    if "" in row:  # what has no name is found by none
        yield ""
        row = {name: value for name, value in row.items() if name}
    row = _by_token(source, options, routes, row, key, place)
    lists = row[key]
    found = meanings(row, f"{source.name}: {place}")
    weights = row.get(found.get("weights", ""))
    weights = (
        weights if isinstance(weights, list) and depth(weights) == 3 and len(weights) == len(lists) else None
    )
    named = str(row.get(found.get("request", ""), request))
    used = {key, found.get("request", "")} | ({found["weights"]} if weights else set())
    of_tokens = {name: row[name] for name in row if plain(name) in _OF_TOKENS and isinstance(row[name], list)}
    of_tokens = {name: values for name, values in of_tokens.items() if len(values) == len(lists)}
    used |= of_tokens.keys()
    prompt = row.get(found.get("prompt_tokens", ""))
    if prompt is not None:
        prompt = whole(source, prompt, place, found["prompt_tokens"])
        used.add(found["prompt_tokens"])
    for number, layers in enumerate(lists):
        where = f"{place}, token {number}"
        if not isinstance(layers, list):
            raise source.error(f"{where} is {str(layers)[:40]!r}; expected a list of layers.")
        about_it: dict[str, Any] = {}
        if prompt is not None:
            about_it["phase"] = PREFILL if number < prompt else DECODE
        for name, values in of_tokens.items():
            value = values[number]
            if plain(name).startswith("phase"):
                about_it["phase"] = phase_of(value, f"{source.name}: {where}", name)
            elif isinstance(value, str):
                about_it["text"] = value
            else:
                about_it["token_id"] = whole(source, value, where, name, UNKNOWN)
        for layer, chosen in enumerate(layers):
            ids = expert_list(source, chosen, where, key)
            given = None
            if weights:
                own = weights[number]
                if not isinstance(own, list) or len(own) != len(layers):
                    raise source.error(f"{where}: weights have not the shape of {key}.")
                given = weight_list(source, own[layer], ids, said.experts, where, found["weights"])
            routes.add(where, named, number, layer, ids, given, **about_it)
    rest = about({name: value for name, value in row.items() if name not in used}, f"{source.name}: {place}")
    said.experts, said.model, said.prompt = (
        rest.experts or said.experts,
        rest.model or said.model,
        rest.prompt,
    )
    yield from rest.unused

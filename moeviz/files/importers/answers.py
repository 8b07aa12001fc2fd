"""Answers of inference servers that return routed experts, as JSON: one answer, a list of them, or a line
each.

SGLang 0.5 (`/generate` with return_routed_experts): `meta_info.routed_experts`, base64 of int32 [tokens,
layers, k] without its shape; the last sampled token is not computed, so tokens = prompt_tokens +
completion_tokens - 1. vLLM 0.21 to 0.23 (chat and completions): `routed_experts` of each choice as nested
lists, or base64 of an .npy; `prompt_routed_experts` beside them are the prompt's.
"""

from __future__ import annotations

import base64
import binascii
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numpy.typing import NDArray

from moeviz.core.trace import DECODE, MAX_K, MAX_LAYERS, PREFILL
from moeviz.files.importers.atlas import depth
from moeviz.files.importers.collect import UNKNOWN, Routes
from moeviz.files.importers.names import unused
from moeviz.files.importers.numpy_files import MAGIC, read_npy
from moeviz.files.importers.objects import json_lines
from moeviz.files.importers.registry import Found, Options, importer
from moeviz.files.importers.routed import check_shape, finish, narrow
from moeviz.files.importers.source import Source
from moeviz.files.importers.values import expert_list

NAME = "answers"
KEYS = (b'"routed_experts"', b'"prompt_routed_experts"')
_USAGE = ("prompt_tokens", "completion_tokens")
_META = ("id", *_USAGE, "routed_experts")
_ROW = ("choices", "usage", "model", "id", "object", "created")
_CHOICE = ("index", "routed_experts", "prompt_routed_experts", "prompt_token_ids", "token_ids")
SURE = 0.01  # a shape is taken where another would look like it by chance this rarely


@dataclass(eq=False, slots=True)
class _Answer:
    """One request."""

    place: str
    name: str
    experts: Any
    prompt: Any = None  # the prompt's own routes, where they stand apart
    prompt_tokens: int = UNKNOWN
    completion_tokens: int = UNKNOWN
    ids: list[int] = field(default_factory=list)  # of prompt and completion, where the answer has both
    model: str = ""


def sniff(source: Source) -> int:
    """JSON with an answer's keys around routed experts."""
    start = source.content[: 2**20]
    if source.head[:1] not in (b"{", b"[") or not any(key in source.content for key in KEYS):
        return 0
    return 3 * (
        b'"meta_info"' in source.content
        or b'"choices"' in start
        or b'"prompt_routed_experts"' in source.content
    )


@importer(NAME, "answers of SGLang and vLLM with routed experts (JSON)", sniff)
def read(source: Source, options: Options) -> Found:
    """Raises TraceError."""
    routes = Routes(source)
    report: list[str] = []
    left: dict[str, None] = {}  # keys that are not used
    model = ""
    for answer in _answers(source, left):
        model = model or answer.model
        _add(source, options, routes, answer, report)
    routed = routes.routed(model=model)
    routed.layers = ()  # places in an array number no layers
    routed.report = [*dict.fromkeys(report), *routed.report, *unused(left, "keys of the answer")]
    return finish(source, options, routed, NAME)


def _answers(source: Source, left: dict[str, None]) -> Iterator[_Answer]:
    """Every answer of the file; `left` is filled with the names of what is not used of them."""
    whole_document = source.head[:1] == b"[" or b"\n{" not in source.content
    values = source.document() if whole_document else None
    if values is None:
        rows = json_lines(source)
    else:
        listed = values if isinstance(values, list) else [values]
        rows = ((f"answer {n}" if len(listed) > 1 else "the answer", one) for n, one in enumerate(listed, 1))
    for place, row in rows:
        if not isinstance(row, dict):
            raise source.error(f"{place} is {str(row)[:40]!r}; expected an object.")
        if isinstance(meta := row.get("meta_info"), dict) and "routed_experts" in meta:
            left.update(dict.fromkeys(key for key in row if key != "meta_info"))
            left.update(dict.fromkeys(f"meta_info.{key}" for key in meta if key not in _META))
            yield _Answer(place, str(meta.get("id", place)), meta["routed_experts"], None, *_usage(meta))
            continue
        choices = row.get("choices") if isinstance(row.get("choices"), list) else [row]
        usage = row["usage"] if isinstance(row.get("usage"), dict) else row  # or beside the choices
        known = (*_ROW, *_CHOICE, *(_USAGE if usage is row else ()))
        left.update(dict.fromkeys(key for key in row if key not in known))
        prompt, completion = _usage(usage)
        found = False
        for number, choice in enumerate(choices or []):
            own = choice if isinstance(choice, dict) else {}
            before = own.get("prompt_routed_experts", row.get("prompt_routed_experts"))
            if "routed_experts" in own or before is not None:
                found = True
                left.update(
                    dict.fromkeys(f"choices.{key}" for key in own if own is not row and key not in _CHOICE)
                )
                model = row.get("model")
                count = completion if len(choices or []) == 1 else UNKNOWN
                yield _Answer(
                    place,
                    f"{place}, choice {number}",
                    own.get("routed_experts"),
                    before,
                    prompt,
                    count,
                    _token_ids(row, own),
                    model if isinstance(model, str) else "",
                )
        if not found:
            raise source.error(f"{place} holds no routed_experts; its keys are {', '.join(row)[:80]}.")


def _token_ids(row: dict[str, Any], own: dict[str, Any]) -> list[int]:
    """vLLM's return_token_ids: those of the prompt and of what was generated; empty where one is missing."""
    prompt = own.get("prompt_token_ids") or row.get("prompt_token_ids")
    ids = (
        [*prompt, *own["token_ids"]]
        if isinstance(prompt, list) and isinstance(own.get("token_ids"), list)
        else []
    )
    return ids if all(type(one) is int and 0 <= one < 2**31 for one in ids) else []


def _usage(usage: dict[str, Any]) -> tuple[int, int]:
    found = [usage.get(key) for key in _USAGE]
    prompt, completion = (one if type(one) is int and 0 <= one < 2**31 else UNKNOWN for one in found)
    return prompt, completion


def _add(source: Source, options: Options, routes: Routes, answer: _Answer, report: list[str]) -> None:
    parts = []
    for value in (answer.prompt, answer.experts):
        if value is not None:
            parts.append(_rows(source, options, answer, value, report, alone=answer.prompt is None))
    prompt = answer.prompt_tokens
    if answer.prompt is not None:
        prompt = len(parts[0])
    rows = [row for part in parts for row in part]
    if not rows:
        raise source.error(f"{answer.place} holds routed_experts without a token.")
    missing = prompt + answer.completion_tokens - 1 - len(rows)
    if answer.prompt is None and UNKNOWN not in (prompt, answer.completion_tokens) and missing > 0:
        prompt = max(prompt - missing, 0)  # routes end with the text; its begin was cached, or not recorded
        report.append("the first tokens of some prompts have no routes")
    ids = answer.ids
    if ids and len(rows) not in (len(ids) - 1, len(ids)):  # the last one sampled was not computed
        report.append("token ids are left out: routes are not as many")
        ids = []
    for number, layers in enumerate(rows):
        phase = UNKNOWN if prompt == UNKNOWN else PREFILL if number < prompt else DECODE
        for layer, chosen in enumerate(layers):
            place = f"{answer.place}, token {number}"
            routes.add(
                place,
                answer.name,
                number,
                layer,
                expert_list(source, chosen, place, "experts"),
                None,
                phase=phase,
                token_id=ids[number] if ids else UNKNOWN,
            )


def _rows(
    source: Source, options: Options, answer: _Answer, value: Any, report: list[str], alone: bool
) -> list[list[list[int]]]:
    """[token][layer][k]"""
    if isinstance(value, list):
        if not value:
            return []
        if depth(value) != 3 or not all(isinstance(row, list) for row in value):
            raise source.error(
                f"{answer.place}: routed_experts is nested {depth(value)} deep; expected [token][layer][k]."
            )
        return value
    if not isinstance(value, str):
        raise source.error(
            f"{answer.place}: routed_experts is {str(value)[:40]!r}; expected lists or base64."
        )
    try:
        content = base64.b64decode(value, validate=True)
    except (binascii.Error, ValueError) as error:
        raise source.error(f"{answer.place}: routed_experts is not base64: {str(error)[:60]}.") from None
    array = (
        read_npy(source, content)
        if content.startswith(MAGIC)
        else _shaped(source, options, answer, content, report, alone)
    )
    if array.ndim != 3 or array.dtype.kind not in "iu":
        raise source.error(
            f"{answer.place}: routed_experts is {array.dtype} {array.shape}; expected [token, layer, k]."
        )
    check_shape(source, array.shape, True)
    rows: list[list[list[int]]] = narrow(source, array).tolist()
    return rows


def _shaped(
    source: Source, options: Options, answer: _Answer, content: bytes, report: list[str], alone: bool
) -> NDArray[np.int32]:
    """int32 without a shape: tokens from the usage, k from `--top-k` or worked out: a token never has one
    expert twice.
    """
    if not content or len(content) % 4:
        raise source.error(f"{answer.place}: routed_experts has {len(content):,} bytes; expected int32.")
    flat = np.frombuffer(content, "<i4")
    advice = "Give --top-k, the experts that a token uses."
    prompt, completion = answer.prompt_tokens, answer.completion_tokens
    if UNKNOWN in (prompt, completion) or not alone:
        raise source.error(
            f"{answer.place}: the shape of routed_experts cannot be known without prompt_tokens and "
            "completion_tokens. Save the whole answer, or the decoded array as .npy."
        )
    tokens = next(
        (n for n in (prompt + completion - 1, prompt + completion) if n > 0 and len(flat) % n == 0), 0
    )
    if not tokens:
        raise source.error(
            f"{answer.place}: {len(flat):,} numbers do not fit {prompt:,} + {completion:,} tokens of the "
            "same layers and experts."
        )
    width = len(flat) // tokens
    k = options.top_k
    if k and width % k:
        raise source.error(
            f"{answer.place}: --top-k is {k}, but each of {tokens:,} tokens has {width:,} numbers."
        )
    if not k:
        fit = [
            n for n in range(2, min(MAX_K, width) + 1) if width % n == 0 and _distinct(flat.reshape(-1, n))
        ]
        k = max(fit, default=1)
        most = int(flat.max()) + 1
        if any(_chance(tokens * width // k, k, n, most) > SURE for n in fit if n < k):
            raise source.error(
                f"{answer.place}: {width:,} numbers a token may be "
                f"{' or '.join(f'{width // n} layers of {n}' for n in fit)}. {advice}"
            )
        report.append(
            f"the shape was worked out: {tokens:,} tokens x {width // k} layers x {k} experts (--top-k sets "
            "it)"
        )
    if width // k > MAX_LAYERS:
        raise source.error(
            f"{answer.place}: {width // k:,} layers of {k}; expected up to {MAX_LAYERS}. {advice}"
        )
    return flat.reshape(tokens, width // k, k)


def _distinct(rows: NDArray[np.int32]) -> bool:
    ordered = np.sort(rows, axis=1)
    return not ((ordered[:, 1:] == ordered[:, :-1]) & (ordered[:, 1:] >= 0)).any()


def _chance(rows: int, k: int, smaller: int, experts: int) -> float:
    """How likely rows of k distinct ids are where each is really k / smaller layers that choose on their
    own.
    """
    each = 1.0
    for taken in range(smaller, k, smaller):
        for one in range(smaller):
            each *= max(experts - taken - one, 0) / max(experts - one, 1)
    return float(each**rows)

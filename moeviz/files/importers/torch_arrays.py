"""`.pt`, torch's own file: a bare tensor, a dict of tensors, or what SGLang's expert distribution recorder
dumped.

SGLang 0.5 (`eplb/expert_distribution.py`): in mode `per_token` a dict with `records`, each with
forward_pass_id, forward_mode (1 extend, 2 decode, 3 mixed, 5 verify), input_ids and topk_ids_of_layer [layer,
token, k], physical ids where last_physical_to_logical_map says so; in mode `stat` a dict with logical_count
[step, layer, expert], which is also what ktransformers places experts by; mode `per_pass` holds the counts of
each pass. A list of tensors [token, expert] is read as a layer each, as transformers gives router_logits.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numpy.typing import NDArray

from moeviz.core.trace import DECODE, MAX_EXPERTS, MAX_K, MAX_LAYERS, MAX_TOKENS, PREFILL
from moeviz.files.importers.arrays import from_arrays
from moeviz.files.importers.names import ALIASES, meanings, plain, unused
from moeviz.files.importers.numpy_files import ZIP
from moeviz.files.importers.registry import Found, Options, importer
from moeviz.files.importers.routed import Routed, check_shape, finish, narrow
from moeviz.files.importers.source import Source
from moeviz.files.importers.torch_files import Tensor, TorchFile
from moeviz.words import many

NAME = "torch"
_MODES = {1: PREFILL, 2: DECODE, 3: PREFILL, 5: DECODE}  # SGLang's ForwardMode
_NUMBERS = (*ALIASES["num_experts"], *ALIASES["prompt_tokens"])  # of a dict, beside its tensors
_MIXED = 3  # a piece of a prompt together with requests that decode
_VERIFY = 5  # drafts of speculative decoding, most of which may be rejected
_USED = {"forward_pass_id", "forward_mode", "input_ids", "topk_ids_of_layer"}


def sniff(source: Source) -> int:
    """Torch's zip has its pickle among the first members."""
    return 2 * (source.content[:4] == ZIP and b"/data.pkl" in source.content[:4096])


@importer(NAME, "torch's .pt: tensors, SGLang's expert distribution recorder", sniff)
def read(source: Source, options: Options) -> Found:
    """Raises TraceError; the advice in it depends on what the file holds."""
    file = TorchFile(source)
    content = file.content
    if isinstance(content, Tensor):
        return from_arrays(source, options, {"": file.array(content)}, NAME)
    if isinstance(content, list | tuple) and content and all(isinstance(one, Tensor) for one in content):
        what = "layer" if len(content[0].shape) == 2 else "request"  # router_logits of transformers
        arrays = {f"{what} {number}": file.array(one) for number, one in enumerate(content)}
        return from_arrays(source, options, arrays, NAME)
    if not isinstance(content, dict) or not content:
        raise source.error(
            f"holds a {type(content).__name__}; expected a tensor, a dict of tensors, or SGLang's records."
        )
    if "records" in content:
        return _sglang(source, options, file, content)
    if "logical_count" in content:
        counts = {"logical_count": file.array(_tensor(source, content["logical_count"], "logical_count"))}
        return from_arrays(source, options, counts, "sglang")
    content = _layers_named(content)
    tensors = {str(key): one for key, one in content.items() if isinstance(one, Tensor)}
    keys = ", ".join(str(key)[:40] for key in list(content)[:8])
    nested = {str(name) for value in content.values() if isinstance(value, dict) for name in value}
    if any(key.endswith((".weight", ".bias")) for key in (*tensors, *nested)):
        raise source.error(
            f"holds a model's weights ({keys}), no trace. Run the model and record it: python -m moeviz run "
            "FOLDER."
        )
    if not tensors:
        raise source.error(f"holds a dict with {keys}: no tensor, and no records of SGLang's recorder.")
    source.afford(
        sum(8 * int(np.prod(one.shape, dtype=np.float64)) for one in tensors.values()), "its tensors"
    )
    arrays = {key: file.array(one) for key, one in tensors.items()}
    numbers = {str(key): one for key, one in content.items() if plain(key) in _NUMBERS}
    numbers = {key: one for key, one in numbers.items() if type(one) is int and abs(one) < 2**31}
    found = from_arrays(source, options, arrays | {key: np.array(one) for key, one in numbers.items()}, NAME)
    found.report.extend(
        unused([key for key in content if str(key) not in (tensors.keys() | numbers.keys())], "keys")
    )
    return found


def _layers_named(content: dict[Any, Any]) -> dict[Any, Any]:
    """A dict with a name for each tensor of its one list of a tensor a layer, as transformers gives
    router_logits; as it is where there is no such list, or several, or a tensor of experts beside it.
    """
    listed = {
        key: value
        for key, value in content.items()
        if isinstance(value, list | tuple)
        and len(value) > 1
        and all(isinstance(one, Tensor) and len(one.shape) == 2 for one in value)
    }
    tensors = {str(key) for key, value in content.items() if isinstance(value, Tensor)}
    if len(listed) != 1 or "experts" in meanings(tensors, ""):
        return content
    ((key, value),) = listed.items()
    return {name: one for name, one in content.items() if name != key} | {
        f"layer {number}": one for number, one in enumerate(value)
    }


def _tensor(source: Source, value: Any, what: str) -> Tensor:
    if not isinstance(value, Tensor):
        raise source.error(f"{what} is a {type(value).__name__}; expected a tensor.")
    return value


def _sglang(source: Source, options: Options, file: TorchFile, content: dict[Any, Any]) -> Found:
    passes = _records(source, content)
    seen = _seen(source, file, passes)
    if not seen.chosen:
        raise source.error("is an empty recording: no forward pass had a token.")
    if len({one.shape[1:] for one in seen.chosen}) > 1:
        raise source.error("its forward passes have different numbers of layers or experts per token.")
    check_shape(source, (sum(seen.lengths), *seen.chosen[0].shape[1:]), False)
    all_ids, experts = np.concatenate(seen.chosen), 0
    report: list[str] = []
    if "last_physical_to_logical_map" in content:
        mapping = file.array(
            _tensor(source, content["last_physical_to_logical_map"], "last_physical_to_logical_map")
        )
        all_ids, experts = _logical(source, all_ids, mapping, report)
    step = np.repeat(np.arange(len(seen.lengths)), seen.lengths)
    routed = Routed(all_ids, forward_pass=step, experts=experts, report=report)
    if seen.assumed < len(seen.lengths):
        routed.phase = np.array(seen.phases, np.uint8)
    if len(seen.ids) == len(all_ids) and all(0 <= one < 2**31 for one in seen.ids):
        routed.token_ids = np.array(seen.ids, np.int64)
    report += _said(seen, step)
    report += unused(sorted({str(key) for one in passes for key in one} - _USED), "keys of the records")
    others = [key for key in content if key not in ("records", "last_physical_to_logical_map")]
    report += unused(others, "keys")
    return finish(source, options, routed, "sglang")


def _records(source: Source, content: dict[Any, Any]) -> list[dict[Any, Any]]:
    """The records of forward passes, in their order. Raises TraceError."""
    records = content["records"]
    if not isinstance(records, list) or not all(isinstance(one, dict) for one in records):
        raise source.error("its records are no list of dicts, as SGLang's recorder dumps them.")
    if not records:
        raise source.error(
            "is an empty recording: nothing was run between start and stop. Send requests between "
            "/start_expert_distribution_record and /dump_expert_distribution_record."
        )
    if not any("topk_ids_of_layer" in record for record in records):
        what = "per_pass" if any("global_physical_count" in record for record in records) else "other"
        raise source.error(
            f"was recorded in {what} mode: it counts each forward pass and does not say which token used "
            "which expert. Record with --expert-distribution-recorder-mode per_token."
        )
    return sorted(records, key=lambda one: _number(source, one.get("forward_pass_id"), "forward_pass_id"))


@dataclass(slots=True)
class _Seen:
    """What the forward passes of a recording say, those without a token left out."""

    chosen: list[NDArray[np.int16]] = field(default_factory=list)  # of each pass, [token, layer, k]
    lengths: list[int] = field(default_factory=list)  # tokens of each pass
    phases: list[int] = field(default_factory=list)  # of each token
    ids: list[int] = field(default_factory=list)  # of the tokens whose pass has one for each
    assumed: int = 0  # passes that do not say what they did
    mixed: int = 0
    verified: int = 0


def _seen(source: Source, file: TorchFile, passes: list[dict[Any, Any]]) -> _Seen:
    """Raises TraceError."""
    seen, tokens = _Seen(), 0
    for record in passes:
        tensor = _tensor(source, record.get("topk_ids_of_layer"), "topk_ids_of_layer")
        if len(tensor.shape) != 3:
            raise source.error(f"topk_ids_of_layer is {tensor.shape}; expected [layer, token, k].")
        layers, count, k = tensor.shape
        tokens += count
        if tokens > MAX_TOKENS or layers > MAX_LAYERS or k > MAX_K:
            raise source.error(
                f"records {tokens:,} tokens x {layers:,} layers x {k}; expected up to {MAX_TOKENS:,} tokens."
            )
        source.places(tokens, layers, k, False)
        if count == 0:
            continue
        seen.chosen.append(narrow(source, file.array(tensor)).transpose(1, 0, 2))
        mode = one if type(one := record.get("forward_mode")) is int else 0
        seen.assumed += mode not in _MODES
        seen.mixed += mode == _MIXED
        seen.verified += mode == _VERIFY
        seen.phases += [_MODES.get(mode, PREFILL if count > 1 else DECODE)] * count
        seen.lengths.append(count)
        own = record.get("input_ids")
        if isinstance(own, list) and len(own) == count and all(type(one) is int for one in own):
            seen.ids.extend(own)
    return seen


def _said(seen: _Seen, step: NDArray[np.int64]) -> list[str]:
    """What was assumed or is not said. step: the forward pass of each token"""
    report: list[str] = []
    if seen.assumed:
        report.append(
            f"forward_mode does not say what {many(seen.assumed, 'pass')} did: those of several tokens "
            "are taken for prefill, those of one for decode"
        )
    if len(seen.ids) != len(step):
        report.append("input_ids do not stand beside every token; token ids are left out")
    if seen.mixed:
        report.append(
            f"{many(seen.mixed, 'pass')} decoded beside a prompt (mixed); all of it counts as prefill"
        )
    if seen.verified:
        report.append(
            f"{many(seen.verified, 'pass')} verified drafts: those that were rejected are among the tokens, "
            "since the file does not say which; their experts were needed just the same"
        )
    if (np.bincount(step[np.array(seen.phases) == DECODE]) > 1).any():
        report.append("passes decode several tokens at once; whose token is whose is not said")
    return report


def _logical(
    source: Source, ids: NDArray[np.int16], mapping: NDArray[Any], report: list[str]
) -> tuple[NDArray[np.int16], int]:
    """Physical ids as logical ones, and how many logical experts there are. mapping: [layer, physical]"""
    if (
        mapping.ndim != 2
        or mapping.dtype.kind not in "iu"
        or mapping.shape[0] != ids.shape[1]
        or not mapping.size
    ):
        raise source.error(
            f"last_physical_to_logical_map is {mapping.dtype} {mapping.shape}; expected a row for each of "
            f"{ids.shape[1]} layers."
        )
    if int(mapping.min()) < 0 or int(mapping.max()) >= MAX_EXPERTS or int(ids.max()) >= mapping.shape[1]:
        raise source.error(
            "last_physical_to_logical_map does not name a logical expert for every physical one."
        )
    experts = int(mapping.max()) + 1
    if (mapping == np.arange(mapping.shape[1])).all():
        return ids, experts
    report.append(
        f"{mapping.shape[1]} physical ids a layer were mapped to {experts} logical experts, by the last map "
        "of the recording"
    )
    layer = np.arange(ids.shape[1])[None, :, None]
    mapped = np.where(ids >= 0, mapping[layer, np.maximum(ids, 0)], -1).astype(np.int16)
    return mapped, experts


def _number(source: Source, value: Any, what: str) -> int:
    if type(value) is not int or not 0 <= value < 2**62:
        raise source.error(f"{what} is {str(value)[:40]!r}; expected a whole number.")
    return value

"""Arrays of routed experts, whatever file they stand in: which array is what, and which axis.

Knows numpy arrays by name, no file; what their numbers mean stands in `choices`, what other arrays say of a
token in `beside`. Integer [token, layer, k] is what most engines give; where the second axis is longer than
any model is deep it must be [layer, token, k]; anything else is said with `--axes`. Two axes are counts,
[layer, expert].
"""

from __future__ import annotations

import math
import re
from collections.abc import Mapping
from dataclasses import replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from moeviz.core.trace import MAX_LAYERS
from moeviz.errors import TraceError
from moeviz.files.importers.beside import describe
from moeviz.files.importers.choices import are_marks, highest, of_marks, whole_numbers, without_sentinels
from moeviz.files.importers.counting import counted
from moeviz.files.importers.names import meanings, plain, unused
from moeviz.files.importers.registry import Found, Options
from moeviz.files.importers.routed import Routed, check_shape, finish
from moeviz.files.importers.source import Source
from moeviz.words import many

Array = NDArray[Any]
ROUTED = "routed_experts"  # what vLLM and SGLang call [token, layer, k]
PROMPT = "prompt_routed_experts"  # vLLM, beside routed_experts of what was generated
COUNTS = ("logical_count", "counts", "count", "expert_counts", "activation_counts")
DEEPEST = 128  # layers of the deepest models; fewer tokens than that may be the layers
_DIGITS = re.compile(r"\d+")
_OF_LAYERS = re.compile(r".*(?:layer|block|blk).*|l?[\W_]*")  # names of arrays, without their number


def from_arrays(source: Source, options: Options, arrays: Mapping[str, Array], format: str) -> Found:
    """A trace, or counts, of the arrays of one file. Raises TraceError."""
    if not arrays:
        raise source.error("holds no array.")
    for name, array in arrays.items():
        if array.dtype.kind not in "biufUS":
            raise source.error(f"{_called(name)} holds {array.dtype}; expected numbers.")
    for name in arrays:
        if plain(name) in COUNTS and arrays[name].ndim in (2, 3):
            rest = unused([other for other in arrays if other != name], "arrays")
            return counted(source, _summed(source, arrays[name], name), format, rest)
    found = meanings(arrays, source.name)
    if len(arrays) == 1 and "experts" not in found:
        found = {"experts": next(iter(arrays))}
    if plain(PROMPT) in (plain(name) for name in arrays):
        return _prompt_and_rest(source, options, arrays, found, format)
    if "experts" not in found:
        if stacked := _layers_apart(arrays):
            return _from_layers(source, options, arrays, stacked, format)
        return _requests(source, options, arrays, format)
    ids = arrays[found["experts"]]
    if options.axes == "token,k" and ids.ndim == 2:  # of a model with one MoE layer
        own = [found[name] for name in ("experts", "weights") if name in found]
        arrays = {name: a[:, None] if name in own and a.ndim == 2 else a for name, a in arrays.items()}
        options, ids = replace(options, axes="token,layer,k"), arrays[found["experts"]]
    if ids.ndim == 2 and not options.axes and ids.dtype.kind in "iuf" and "weights" not in found:
        return counted(
            source,
            ids,
            format,
            [
                "two axes were taken for counts, [layer, expert]; --axes token,layer reads them as routes "
                "of one expert, --axes token,k as those of one layer",
                *unused([name for name in arrays if name != found["experts"]], "arrays"),
            ],
        )
    report: list[str] = []
    axes = _axes(source, options, ids, report, known=plain(found["experts"]) == ROUTED)
    chosen, weights, experts = _choices(
        source, options, _turned(ids, axes), found["experts"], arrays, found, axes, report
    )
    sequences, tokens = (ids.shape[axes[0]] if len(axes) == 4 else 1), chosen.shape[0]
    routed = Routed(chosen, weights, experts=experts, report=report)
    if sequences > 1:
        routed.sequence = np.repeat(np.arange(sequences), tokens // sequences)
    used = {found[name] for name in ("experts", "weights") if name in found}
    if sequences > 1:  # what stands beside them as [sequence, token], a mask above all, follows the tokens
        each = (sequences, tokens // sequences)
        arrays = {name: a.reshape(-1) if a.shape == each else a for name, a in arrays.items()}
    used |= describe(source, routed, arrays, found, tokens)
    report += unused([name for name in arrays if name not in used], "arrays")
    try:
        return finish(source, options, routed, format)
    except TraceError as error:
        if options.axes or not _repeats(chosen):
            raise
        taken = "token,layer,k" if axes[0] == 0 else "layer,token,k"
        raise TraceError(
            f"{error} The axes were taken as {taken} of {ids.shape}; if they are others, name them, for "
            f"example --axes {'layer,token,k' if taken[0] == 't' else 'token,layer,k'}."
        ) from None


def _repeats(ids: NDArray[np.int16]) -> bool:
    """True where a token has an expert of a layer twice; 0 alone, as a dense layer has it, is none. ids:
    [token, layer, k]"""
    ordered = np.sort(ids, axis=2)
    twice = (ordered[:, :, 1:] == ordered[:, :, :-1]) & (ordered[:, :, 1:] >= 0)
    return bool((twice & (ordered[:, :, -1:] > 0)).any())


def _called(name: str) -> str:
    return f"the array {name[:40]!r}" if name else "the array"


def _axes(
    source: Source, options: Options, ids: Array, report: list[str], known: bool = False
) -> tuple[int, ...]:
    """Positions of ([sequence,] token, layer, k) among the array's axes; k is missing where each token has
    one expert. known: whether the array's name says that the tokens come first.
    """
    shape = ids.shape
    if options.axes:
        named = options.axes.split(",")
        if len(named) != ids.ndim:
            raise source.error(f"--axes names {len(named)} axes, but the array has {ids.ndim}: {shape}.")
    elif ids.ndim == 3:
        named = ["token", "layer", "k"]
        if shape[1] > MAX_LAYERS >= shape[0]:
            named = ["layer", "token", "k"]
    else:
        raise source.error(
            f"holds an array with {ids.ndim} dimensions, {shape}; expected [token, layer, k]. Name the "
            "axes, for example --axes sequence,token,layer,k."
        )
    order = tuple(named.index(axis) for axis in ("sequence", "token", "layer", "k") if axis in named)
    sizes = dict(zip(named, shape, strict=True))
    report.append(
        f"the axes are taken as {','.join(named)}: {many(sizes['token'], 'token')} x "
        f"{many(sizes['layer'], 'layer')}"
    )
    if not (options.axes or known) and named[0] == "token" and sizes["layer"] > 8:
        doubt = ""
        if sizes["layer"] > sizes["token"]:
            doubt = f"{sizes['layer']:,} layers of {sizes['token']:,} tokens are unlikely"
        elif sizes["token"] <= DEEPEST:
            doubt = f"{sizes['token']:,} tokens are few, and a model may have as many layers"
        if doubt:
            report.append(f"{doubt}: if the first axis is the layer, give --axes layer,token,k")
    return order


def _turned(array: Array, axes: tuple[int, ...]) -> Array:
    """[token, layer, k], sequences one after the other."""
    turned = np.transpose(array, axes)
    if len(axes) == 2:
        return turned[:, :, None]
    return turned.reshape(math.prod(turned.shape[:2]), *turned.shape[2:]) if len(axes) == 4 else turned


def _choices(
    source: Source,
    options: Options,
    ids: Array,
    name: str,
    arrays: Mapping[str, Array],
    found: Mapping[str, str],
    axes: tuple[int, ...],
    report: list[str],
) -> tuple[NDArray[np.int16], NDArray[np.float32] | None, int]:
    """Ids and weights [T, L, k], and how many experts the array itself says there are."""
    if 0 in ids.shape:
        raise source.error(f"{_called(name)} is empty: {ids.shape}.")
    if are_marks(ids):
        return of_marks(source, ids, _weights(source, arrays, found, axes, ids.shape), report)
    if ids.dtype.kind == "f" and np.isnan(ids).any() and whole_numbers(np.nan_to_num(ids, nan=-1)):
        report.append(f"NaN stands for an unused place, in {many(int(np.isnan(ids).sum()), 'place')}")
        ids = np.nan_to_num(ids, nan=-1)
    if ids.dtype.kind == "f" and not whole_numbers(ids):
        if not options.top_k:
            raise source.error(
                f"{_called(name)} holds {ids.dtype} that are no whole numbers, as router logits are: "
                f"{ids.shape}. Give --top-k N to read the N highest of each as the chosen experts, or save "
                "the chosen ids."
            )
        report += unused([found["weights"]] if "weights" in found else [], "beside router logits")
        return highest(source, options.top_k, ids, report)
    if ids.dtype.kind not in "iuf":
        raise source.error(f"{_called(name)} holds {ids.dtype}; expected whole numbers [token, layer, k].")
    if ids.dtype.kind == "f":
        report.append(f"ids stand as {ids.dtype}, all of them whole numbers")
    weights = _weights(source, arrays, found, axes, ids.shape)
    check_shape(source, ids.shape, weights is not None)
    chosen = without_sentinels(source, ids, options.experts, report)
    return chosen, None if weights is None else weights.astype(np.float32), 0


def _weights(
    source: Source,
    arrays: Mapping[str, Array],
    found: Mapping[str, str],
    axes: tuple[int, ...],
    shape: tuple[int, ...],
) -> Array | None:
    """As the array of the experts stands, in its own type; None where there are none."""
    if "weights" not in found:
        return None
    weights = arrays[found["weights"]]
    if weights.dtype.kind != "f":
        raise source.error(f"weights hold {weights.dtype}; expected floating point numbers.")
    if weights.ndim != len(axes) or _turned(weights, axes).shape != shape:
        raise source.error(f"weights has shape {weights.shape}; expected {shape}, as the experts have.")
    return _turned(weights, axes)


def _prompt_and_rest(
    source: Source, options: Options, arrays: Mapping[str, Array], found: Mapping[str, str], format: str
) -> Found:
    """vLLM's two arrays: of the prompt, and of what was generated."""
    prompt = next(name for name in arrays if plain(name) == PROMPT)
    rest = found.get("experts")
    names = [prompt] if rest is None else [prompt, rest]
    for name in names:
        if arrays[name].ndim != 3 or arrays[name].dtype.kind not in "iu":
            raise source.error(
                f"{_called(name)} is {arrays[name].dtype} {arrays[name].shape}; expected [token, layer, k]."
            )
        if arrays[name].shape[1:] != arrays[prompt].shape[1:]:
            raise source.error(
                f"{_called(name)} has shape {arrays[name].shape}; {prompt} has {arrays[prompt].shape}."
            )
    report: list[str] = []
    check_shape(source, (sum(len(arrays[name]) for name in names), *arrays[prompt].shape[1:]), False)
    ids = np.concatenate(
        [
            without_sentinels(source, arrays[name], options.experts, report)
            for name in names
            if arrays[name].size
        ]
    )
    first = len(arrays[prompt])
    routed = Routed(ids, phase=(np.arange(len(ids)) >= first).astype(np.uint8), report=report)
    own = {plain(name): name for name in arrays}
    before, after = (own.get(name, "") for name in ("prompt_token_ids", "token_ids"))
    if (
        before
        and after
        and (token_ids := _ids_of(arrays[before], arrays[after], first, len(ids))) is not None
    ):
        routed.token_ids = token_ids
        names += [before, after]
    report += unused([name for name in arrays if name not in names], "arrays")
    return finish(source, options, routed, format)


def _ids_of(prompt: Array, generated: Array, first: int, tokens: int) -> NDArray[np.int64] | None:
    """Token ids of a request; of what was generated, the last token was not computed and may stand beyond
    the routes. None where they do not fit.
    """
    if (
        prompt.shape != (first,)
        or generated.ndim != 1
        or {prompt.dtype.kind, generated.dtype.kind} - set("iu")
    ):
        return None
    found = np.concatenate([prompt, generated]).astype(np.int64)[:tokens]
    return found if len(found) == tokens else None


def _layers_apart(arrays: Mapping[str, Array]) -> dict[str, int]:
    """Names of arrays [token, k] that are numbered as layers are (layer_0, blk.0, 0), with their numbers;
    empty where there are none, or where they differ in shape.
    """
    found: dict[str, int] = {}
    for name, array in arrays.items():
        digits = _DIGITS.findall(name)
        if array.ndim == 2 and array.dtype.kind in "iuf" and len(digits) == 1 and len(digits[0]) < 6:
            found[name] = int(digits[0])
    shapes = {arrays[name].shape for name in found}
    stems = {_DIGITS.sub("", name) for name in found}
    alike = len(shapes) == len(stems) == 1 and len(set(found.values())) == len(found) > 1
    of_layers = alike and _OF_LAYERS.fullmatch(next(iter(stems)).lower())
    return found if of_layers and max(found.values()) < 4 * MAX_LAYERS else {}


def _from_layers(
    source: Source, options: Options, arrays: Mapping[str, Array], layers: Mapping[str, int], format: str
) -> Found:
    """An array [token, k] of each layer, or [token, expert] of router logits."""
    names = sorted(layers, key=lambda name: layers[name])
    tokens, width = arrays[names[0]].shape
    source.afford(8 * tokens * width * len(names), "its layers together")
    together = np.stack([arrays[name] for name in names], axis=1)
    rest = {name: array for name, array in arrays.items() if name not in layers}
    rest |= {"experts": together}
    if options.axes in ("", "token,layer,k"):
        rest |= {"layer_indices": np.array([layers[name] for name in names])}
    found = from_arrays(source, options, rest, format)
    found.report.append(f"{len(names)} arrays are taken for a layer each, by their numbers")
    return found


def _requests(source: Source, options: Options, arrays: Mapping[str, Array], format: str) -> Found:
    """One array a request, whatever their names: whole numbers where there are any, else marks, else what may
    stand for either, or be router logits.
    """
    three = {name: a for name, a in arrays.items() if a.ndim == 3 and 0 not in a.shape}
    kinds = ((name, [one for one in three if three[one].dtype.kind in name]) for name in ("iu", "b", "f"))
    names = next((found for _, found in kinds if found), [])
    report: list[str] = []
    if options.axes and names:
        axes = _axes(source, options, arrays[names[0]], [])
        report.append(f"the axes of each are taken as {options.axes}")
        three = {name: _turned(arrays[name], axes) for name in names}
    shapes = {three[name].shape[1:] for name in names}
    if len(shapes) != 1:
        seen = ", ".join(f"{name} {a.dtype} {a.shape}" for name, a in list(arrays.items())[:6])
        raise source.error(
            "holds no array routed_experts or experts, nor integer [token, layer, k] of one shape a "
            f"request; it holds {seen[:200]}."
        )
    each = [three[name] for name in names]
    if each[0].dtype.kind in "iu" and len({a.dtype for a in each}) > 1:
        # the largest number of each type stands for an unused place
        check_shape(source, (sum(map(len, each)), *each[0].shape[1:]), False)
        each = [without_sentinels(source, a, options.experts, report) for a in each]
    source.afford(sum(a.nbytes for a in each), "its requests together")
    ids, weights, experts = _choices(
        source, options, np.concatenate(each), names[0], arrays, {}, (0, 1, 2), report
    )
    sequence = np.repeat(np.arange(len(each)), [len(a) for a in each])
    if len(each) > 1:
        report.append(f"{len(each):,} arrays are taken for a request each, in their order")
    report += unused([name for name in arrays if name not in names], "arrays")
    return finish(
        source, options, Routed(ids, weights, sequence=sequence, experts=experts, report=report), format
    )


def _summed(source: Source, array: Array, name: str) -> Array:
    """[layer, expert] of counts that may be split over steps. [step, layer, expert]"""
    if array.dtype.kind not in "iuf":
        raise source.error(f"{_called(name)} holds {array.dtype}; expected numbers.")
    source.afford(array[0].size * 8 if array.ndim == 3 and len(array) else 0, "the counts")
    return array.sum(0, dtype=np.float64) if array.ndim == 3 else array

"""How large a mixture-of-experts model is, from the names and shapes of its tensors: the dense part, every
expert, keys and values.

Knows checkpoints that hold each expert by itself (Mixtral, Qwen-MoE, DeepSeek) and those that stack a layer's
experts (GPT-OSS, Granite-MoE), in plain types, mxfp4 and fp8. Opens no file, knows no machine. Anything it
cannot tell for certain is a ModelError or a sentence in `notes`, never a guess.

    sizes(headers.read("moeviz/demo_model"), "float32").mean_bytes        # 1179648
"""

from __future__ import annotations

import math
import re
from collections import Counter, defaultdict
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, replace
from typing import Any

from moeviz.amounts import size
from moeviz.errors import ModelError
from moeviz.numbers.lossy import EXPERTS, LOSSLESS, UNPACKED, rounded_bytes

DTYPES = {"float32": 4, "bfloat16": 2, "float16": 2}  # of a run -> bytes of a weight
PACKED = ("mxfp4", "fp8")  # quantisations that are understood; the slow tier keeps them, a slot unpacks them
K_FIELDS = ("num_experts_per_tok", "num_experts_per_token", "moe_topk", "top_k_experts", "moe_k")

_ALONE = re.compile(r"(?P<block>.+)\.experts\.(?P<expert>\d+)\.(?P<part>.+)")
_STACKED = re.compile(r"(?P<block>.+)\.experts\.(?P<part>\D.*)")
_STACKED_BY_NAME = re.compile(
    r"(?P<block>.+)\.(?P<part>(input|output)_linear\.weight)"
)  # Granite-MoE, JetMoE
_LAYER = re.compile(r"(?P<before>.*?)\.(?P<number>\d+)(\..*|$)")
_FLOATS = ("F", "BF")  # how the names of types of real numbers begin
_SCALE = re.compile(r"_scale(s|_inv)?$")
_PACKED_PART = re.compile(r"_(blocks|scales)$")  # of a tensor in mxfp4
_KEYS_VALUES = re.compile(r"\.[kv]_proj\.weight$")


@dataclass(frozen=True, slots=True)
class Tensor:
    """A tensor of a safetensors file, without its values."""

    dtype: str  # as safetensors names it: BF16, U8, F8_E4M3, ...
    shape: tuple[int, ...]

    @property
    def count(self) -> int:
        return math.prod(self.shape)

    @property
    def bytes(self) -> int:
        bits = int(re.sub(r"\D", "", self.dtype.partition("_")[0]) or 8)  # F8_E4M3 has 8, BOOL too
        return -(-self.count * bits // 8)


@dataclass(frozen=True, slots=True)
class Headers:
    """What a checkpoint says of itself."""

    config: Mapping[str, Any]  # config.json
    tensors: Mapping[str, Tensor]  # by name


@dataclass(frozen=True, slots=True)
class MoELayerSize:
    """The experts of one MoE layer, all alike."""

    layer: int  # number among the model's layers
    experts: int  # E
    packed: int  # bytes of one expert as the checkpoint holds it
    unpacked: int  # bytes of one expert in the dtype of the run: what a slot takes
    moved: int  # bytes of one expert that the slow tier holds and the link copies


@dataclass(frozen=True, slots=True)
class Attention:
    """What the attention of one layer keeps of each token."""

    values: int  # numbers a token
    window: int  # tokens that it keeps at most; 0: all


@dataclass(frozen=True, slots=True)
class ModelSize:
    """How many bytes a model's parts take."""

    architecture: str
    quantisation: str  # of the checkpoint: mxfp4, fp8, or empty
    dtype: str  # of the run
    k: int  # experts that a token uses in a layer
    dense: int  # bytes of everything but experts, in the dtype of the run
    dense_packed: int  # the same as the checkpoint holds it
    layers: tuple[MoELayerSize, ...]
    attention: tuple[Attention, ...] | None  # a layer each; None where the checkpoint does not say
    longest: int  # tokens that the model takes; 0 where the checkpoint does not say
    notes: tuple[str, ...]  # what was assumed or left out, a sentence each
    kept: str = (
        ""  # how the slow tier packs experts: as the checkpoint (mxfp4, fp8) or rounded; empty: it does not
    )
    matrices: tuple[
        tuple[int, int], ...
    ] = ()  # (outputs, inputs) of each matrix of an expert of the first layer

    @property
    def num_experts(self) -> int:
        """E, the most of any layer."""
        return max(layer.experts for layer in self.layers)

    @property
    def mean_bytes(self) -> int:
        """Bytes of one expert in a slot, the mean over layers."""
        return round(sum(layer.unpacked for layer in self.layers) / len(self.layers))

    @property
    def mean_moved(self) -> int:
        """Bytes of one expert on the link, the mean over layers."""
        return round(sum(layer.moved for layer in self.layers) / len(self.layers))

    @property
    def all_packed(self) -> int:
        return self.dense_packed + sum(layer.experts * layer.packed for layer in self.layers)

    @property
    def all_unpacked(self) -> int:
        return self.dense + self.slot_bytes(self.num_experts)

    @property
    def slow_tier(self) -> int:
        """Bytes of all experts as the slow tier holds them."""
        return sum(layer.experts * layer.moved for layer in self.layers)

    @property
    def active(self) -> int:
        """Bytes of weights that computing one token reads in the fast tier: the dense part and k experts a
        layer.
        """
        return self.dense + sum(self.k * layer.unpacked for layer in self.layers)

    def slot_bytes(self, slots: int) -> int:
        """Of so many slots in each MoE layer; a layer has no use for more slots than experts."""
        return sum(min(slots, layer.experts) * layer.unpacked for layer in self.layers)

    def cache_bytes(self, context: int) -> int | None:
        """Keys and values of one sequence of so many tokens in the dtype of the run; None where it is not
        known.
        """
        if self.attention is None:
            return None
        kept = sum(one.values * min(context, one.window or context) for one in self.attention)
        return kept * DTYPES[self.dtype]


def sizes(headers: Headers, dtype: str, experts: str = LOSSLESS) -> ModelSize:
    """Sizes of a model that runs in `dtype`, a name of DTYPES, with its experts in the slow tier as `experts`
    says, a name of EXPERTS. Raises ModelError where the headers do not say.
    """
    if experts not in EXPERTS:
        raise ModelError(f"experts {experts!r} is not known. Choose one of {', '.join(EXPERTS)}.")
    method = _quantisation(headers.config)
    architecture = ", ".join(map(str, headers.config.get("architectures") or ["unknown"]))
    notes: list[str] = []
    tensors = _loaded(headers, notes)
    found = _experts(tensors)
    if not found:
        raise ModelError(
            f"No experts were found among the {len(headers.tensors):,} tensors of this {architecture} "
            "checkpoint. Choose a mixture-of-experts model, for example a Mixtral."
        )
    within = {name for parts in found.values() for expert in parts.values() for name in expert}
    dense = {name: tensor for name, tensor in tensors.items() if name not in within}
    blocks = sorted(found.items(), key=lambda one: _number(one[0]))
    layers = tuple(_layer(block, parts, tensors, method, dtype) for block, parts in blocks)
    hidden = _whole(headers.config, "hidden_size", "d_model")
    kept, matrices = "", tuple(_matrices(_one(blocks[0][1]), tensors, method, hidden))
    if bits := EXPERTS[experts]:
        kept = experts
        layers = tuple(
            replace(
                layer, moved=_rounded(layer, _matrices(_one(parts), tensors, method, hidden), bits, dtype)
            )
            for layer, (_, parts) in zip(layers, blocks, strict=True)
        )
    elif method and experts == UNPACKED:
        notes.append(f"The experts are quantised ({method}); they are kept unpacked, as was asked for.")
    elif method and (
        len({_form(_one(parts), tensors) for _, parts in blocks}) > 1
        or any(layer.packed >= layer.unpacked for layer in layers)
    ):
        notes.append(
            f"The experts are quantised ({method}), but not in the same way in all layers: "
            "they are kept unpacked."
        )
    elif method:
        kept = method
        layers = tuple(replace(layer, moved=layer.packed) for layer in layers)
        notes.append(
            f"The experts are quantised ({method}): so they stay on disk and link, and a slot unpacks them."
        )
    return ModelSize(
        architecture,
        method,
        dtype,
        _k(headers.config),
        sum(_unpacked(name, tensor, method, dtype) for name, tensor in dense.items()),
        sum(tensor.bytes for tensor in dense.values()),
        layers,
        _attention(headers.config, dense, _before(next(iter(found))), notes),
        _whole(headers.config, "max_position_embeddings"),
        tuple(notes),
        kept,
        matrices,
    )


def field(config: Mapping[str, Any], *names: str) -> Any:
    """The first of these fields that the text part of a configuration has, else the whole; None where neither
    has one.
    """
    text = config.get("text_config")
    for part in (text if isinstance(text, dict) else {}, config):
        for name in names:
            if part.get(name) is not None:
                return part[name]
    return None


def checkpoint_dtype(config: Mapping[str, Any]) -> str:
    """The dtype in which transformers would load a checkpoint; bfloat16 where it does not say."""
    found = str(field(config, "dtype", "torch_dtype") or "").removeprefix("torch.")
    return found if found in DTYPES else "bfloat16"


def _quantisation(config: Mapping[str, Any]) -> str:
    about = field(config, "quantization_config")
    if about is None:
        return ""
    method = str(about.get("quant_method", "unknown")) if isinstance(about, dict) else "unknown"
    if method not in PACKED:
        raise ModelError(
            f"The checkpoint is quantised as {method[:40]}, which moeviz does not unpack. Choose a "
            f"checkpoint that is not quantised, or in {' or '.join(PACKED)}."
        )
    return method


def _k(config: Mapping[str, Any]) -> int:
    found = field(config, *K_FIELDS)
    most = max(found, default=None) if isinstance(found, list) else found
    if not isinstance(most, int) or most < 1:
        raise ModelError(
            "The model's configuration does not say how many experts a token uses (num_experts_per_tok)."
        )
    return most


def _whole(config: Mapping[str, Any], *names: str) -> int:
    """A field that is a positive whole number; 0 where there is none."""
    found = field(config, *names)
    return found if isinstance(found, int) and not isinstance(found, bool) and found > 0 else 0


def _before(block: str) -> str:
    """What stands before the layer's number: "model.layers" of "model.layers.3.mlp"."""
    found = _LAYER.match(block)
    return found["before"] if found else ""


def _number(name: str) -> int:
    found = _LAYER.match(name)
    return int(found["number"]) if found else 0


def _loaded(headers: Headers, notes: list[str]) -> dict[str, Tensor]:
    """The tensors that transformers would load: not those of layers that only help to train, and a tied
    output layer once.
    """
    tensors = dict(headers.tensors)
    text = {
        _before(match["block"]) for name in tensors if (match := _ALONE.match(name) or _STACKED.match(name))
    }
    last = _whole(headers.config, "num_hidden_layers", "n_layers") or math.inf
    extra = [
        name
        for name in tensors
        if name.startswith("mtp.") or ".mtp." in name or (_before(name) in text and _number(name) >= last)
    ]
    if extra:
        skipped = sum(tensors.pop(name).bytes for name in extra)
        notes.append(
            f"{len(extra):,} tensors ({size(skipped)}) of layers that predict further tokens are not loaded."
        )
    embedded = any(name.endswith("embed_tokens.weight") for name in tensors)
    tied = field(headers.config, "tie_word_embeddings") is True and embedded
    if tied and tensors.pop("lm_head.weight", None) is not None:
        notes.append("The output layer is the embedding (tie_word_embeddings) and is counted once.")
    return tensors


def _experts(tensors: Mapping[str, Tensor]) -> dict[str, dict[int, list[str]]]:
    """Names of the tensors of each MoE layer's experts: block -> expert -> names. Stacked experts stand under
    -1.
    """
    found: dict[str, dict[int, list[str]]] = defaultdict(lambda: defaultdict(list))
    for name, tensor in tensors.items():
        if match := _ALONE.match(name):
            found[match["block"]][int(match["expert"])].append(name)
        elif (match := _STACKED.match(name)) or (
            len(tensor.shape) == 3 and (match := _STACKED_BY_NAME.match(name))
        ):
            found[match["block"]][-1].append(name)
    return found


def _layer(
    block: str, experts: dict[int, list[str]], tensors: Mapping[str, Tensor], method: str, dtype: str
) -> MoELayerSize:
    if -1 in experts:
        names = experts[-1]
        number = Counter(tensors[name].shape[:1] for name in names).most_common(1)[0][0]
        odd = [name for name in names if tensors[name].shape[:1] != number] or names
        if odd != names or len(experts) > 1 or not number or not number[0]:
            raise ModelError(
                f"{odd[0]} has the shape {list(tensors[odd[0]].shape)}, which does not stack one piece for "
                "each expert like the layer's other tensors. The layout of this checkpoint is not known."
            )
        packed, unpacked = (size // number[0] for size in _both(names, tensors, method, dtype))
        return MoELayerSize(_number(block), number[0], packed, unpacked, unpacked)
    each = {_both(names, tensors, method, dtype) for names in experts.values()}
    if len(each) != 1 or sorted(experts) != list(range(len(experts))):
        raise ModelError(
            f"The experts of {block} are not all there, or not all of one size ({len(experts)} were found). "
            "Save or download the checkpoint again."
        )
    packed, unpacked = each.pop()
    return MoELayerSize(_number(block), len(experts), packed, unpacked, unpacked)


def _one(experts: dict[int, list[str]]) -> list[str]:
    """The tensors of one expert of a layer: those of the first, or those that stack all."""
    return experts[min(experts)]


def _form(names: Iterable[str], tensors: Mapping[str, Tensor]) -> tuple[Any, ...]:
    """What the slow tier tells layers apart by: types and shapes of an expert's tensors."""
    parts = (
        (_ALONE.match(name) or _STACKED.match(name) or _STACKED_BY_NAME.match(name), name) for name in names
    )
    return tuple(sorted((match["part"], tensors[name]) for match, name in parts if match is not None))


def _matrices(
    names: Iterable[str], tensors: Mapping[str, Tensor], method: str, hidden: int
) -> list[tuple[int, int]]:
    """(outputs, inputs) of each matrix of one expert. hidden: numbers that an expert gives back for a token.

    A stack of plain tensors may hold its matrices the other way round (GPT-OSS), which shows in where the
    hidden size stands: in the one that leads back to it, or, where that is square, in the one that leads on.
    """
    shapes = []
    for name in names:
        shape = tensors[name].shape if _ALONE.match(name) else tensors[name].shape[1:]
        if method and _SCALE.search(name):
            continue
        if method == "mxfp4" and name.endswith("_blocks"):
            shape = shape[0], 2 * math.prod(shape[1:])
        elif len(shape) != 2:
            continue
        turned = not _ALONE.match(name) and not _PACKED_PART.search(name)
        shapes.append((name, shape[0], shape[1], turned))
    plain = [(name, rows, columns) for name, rows, columns, turned in shapes if turned]
    turn = any(rows != hidden == columns for name, rows, columns in plain if "down" in name) or any(
        rows == hidden != columns for name, rows, columns in plain if "gate" in name or "up" in name
    )
    return [(columns, rows) if turned and turn else (rows, columns) for _, rows, columns, turned in shapes]


def _rounded(layer: MoELayerSize, matrices: list[tuple[int, int]], bits: int, dtype: str) -> int:
    """Bytes of one expert with its matrices rounded; what is no matrix stays as it is."""
    plain = DTYPES[dtype] * sum(rows * columns for rows, columns in matrices)
    return layer.unpacked - plain + sum(rounded_bytes(bits, *matrix) for matrix in matrices)


def _both(names: Iterable[str], tensors: Mapping[str, Tensor], method: str, dtype: str) -> tuple[int, int]:
    """Bytes of an expert's tensors in the checkpoint, and loaded."""
    packed = unpacked = 0
    for name in names:
        tensor = tensors[name]
        if not (tensor.dtype.startswith(_FLOATS) or (method == "mxfp4" and _PACKED_PART.search(name))):
            raise ModelError(
                f"{name} holds {tensor.dtype}, and the configuration names no quantisation that says what "
                "that means. The layout of this checkpoint is not known."
            )
        packed += tensor.bytes
        unpacked += _unpacked(name, tensor, method, dtype)
    return packed, unpacked


def _unpacked(name: str, tensor: Tensor, method: str, dtype: str) -> int:
    """Bytes of a tensor once it is loaded in the dtype of the run; 0 for the scales of a packed one, which go
    into its values.
    """
    if method and _SCALE.search(name):
        return 0
    if method == "mxfp4" and _PACKED_PART.search(name):
        return 2 * tensor.count * DTYPES[dtype]  # two values of four bits in a byte
    return tensor.count * DTYPES[dtype] if tensor.dtype.startswith(_FLOATS) else tensor.bytes


def _attention(
    config: Mapping[str, Any], dense: Mapping[str, Tensor], before: str, notes: list[str]
) -> tuple[Attention, ...] | None:
    """What each layer keeps of a token: the compressed latents of multi-head latent attention, else the rows
    of its keys and values.
    """
    layers = _whole(config, "num_hidden_layers", "n_layers")
    latent = _whole(config, "kv_lora_rank")
    if latent and layers:
        values = {number: latent + _whole(config, "qk_rope_head_dim") for number in range(layers)}
    else:
        values = defaultdict(int)
        for name, tensor in dense.items():
            if _KEYS_VALUES.search(name) and _before(name) == before:
                values[_number(name)] += tensor.shape[0]
        if not values:
            values = _by_configuration(config, layers)
    if not values:
        notes.append(
            "The checkpoint does not say what its attention keeps of a token: "
            "keys and values are not counted."
        )
        return None
    if layers > len(values):
        notes.append(
            f"{layers - len(values)} of {layers} layers keep no keys and values (or share them); "
            "what small state they keep is not counted."
        )
    return tuple(Attention(count, _window(config, number)) for number, count in sorted(values.items()))


def _by_configuration(config: Mapping[str, Any], layers: int) -> dict[int, int]:
    """Rows of keys and values where one tensor holds them together with the queries."""
    heads = _whole(config, "num_attention_heads", "n_heads")
    kept = _whole(config, "num_key_value_heads") or heads
    wide = _whole(config, "head_dim") or (_whole(config, "hidden_size", "d_model") // heads if heads else 0)
    return dict.fromkeys(range(layers), 2 * kept * wide) if kept * wide else {}


def _window(config: Mapping[str, Any], layer: int) -> int:
    """Tokens that the attention of a layer looks back at most; 0: all."""
    kinds = field(config, "layer_types")
    kind = kinds[layer] if isinstance(kinds, list) and layer < len(kinds) else None
    if kind == "chunked_attention":
        return _whole(config, "attention_chunk_size")
    if kind == "sliding_attention" or (kind is None and field(config, "use_sliding_window") is not False):
        return _whole(config, "sliding_window")
    return 0

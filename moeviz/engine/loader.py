"""Loads any transformers MoE with its experts in the slow tier, never holding more of them in memory than one
layer, and writing each of them once.

loaded = load("moeviz/demo_model", tier="disk")
"""

from __future__ import annotations

import hashlib
import json
import os
import sys
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cache
from pathlib import Path
from typing import Any

import torch
import transformers
from torch import nn
from transformers import AutoConfig, AutoTokenizer
from transformers.utils import cached_file

from moeviz import words
from moeviz.core.machines import Machine
from moeviz.core.oracle import BUNDLED_NAME
from moeviz.core.run import Tier
from moeviz.core.settings import Settings
from moeviz.engine.cachefolder import SUFFIX, alone_at, cache_folder, make_room
from moeviz.engine.checkpoint import check_files, check_report, named, needs_code, no_code
from moeviz.engine.experts import Recipe, RecipeError, recipe_for, stacked
from moeviz.engine.hardware import Hardware, hardware_of
from moeviz.engine.kinds import model_class, no_experts, no_plain_weights, no_text_model, text_part
from moeviz.engine.memory import fitting, lacking
from moeviz.engine.packing import Rounded, as_stored, rounded
from moeviz.engine.probe import Product, Reached, Router, is_experts, probe, side_by_side
from moeviz.engine.sources import LayerSources, Sources, load_dense
from moeviz.engine.store import (
    DiskStore,
    HostStore,
    LayerOf,
    Layout,
    Packing,
    Row,
    Store,
    is_complete,
    measure,
    pages,
    write_file,
)
from moeviz.errors import ModelError, StoreError
from moeviz.files.headers import CHOOSE, no_folder, no_hub_id
from moeviz.numbers.lossy import LOSSLESS, UNPACKED
from moeviz.numbers.sizes import K_FIELDS

transformers.utils.logging.set_verbosity_error()  # what matters is raised; progress is reported by `load`
transformers.utils.logging.disable_progress_bar()

BUNDLED = Path(__file__).parent.parent / "demo_model"
TIERS = ("disk", "host")
DTYPES = ("auto", "float32", "bfloat16", "float16")
Progress = Callable[[float, str], None]


@dataclass(frozen=True, eq=False, slots=True)
class MoELayer:
    """One MoE layer of a loaded model."""

    index: int  # among the model's layers
    experts: nn.Module  # its stacked parameters are on the meta device
    chooser: nn.Module | None  # the module that chooses among them
    router: Router | None  # None where it cannot be asked ahead: then no next-gate guesses for this layer
    same_hidden: bool  # the experts are given the very hidden state that the chooser was given


@dataclass(frozen=True, eq=False, slots=True)
class Loaded:
    """A model whose experts are in the slow tier."""

    name: str
    revision: str
    model: nn.Module
    tokenizer: Any
    layers: tuple[MoELayer, ...]
    experts: int  # E
    k: int
    store: Store
    tier: Tier
    device: torch.device
    dtype: torch.dtype
    context: int  # tokens that fit
    folder: Path  # the checkpoint
    recipe: Recipe  # how its experts are computed one at a time
    hardware: Hardware  # on what
    text_of: Callable[[int], str]  # of a token; the tokenizer, which takes its time, is asked once for each
    routers: Product | None = None  # of all layers, side by side; None where they are asked one by one
    link: Machine | None = None  # what every copy is slowed down to; None: as fast as it goes
    notes: tuple[str, ...] = ()  # what this model does not have, and what was chosen for it, in words
    rounding: str = ""  # to which the experts are rounded; empty: none, lossless
    exact_store: Callable[[], Store] | None = None  # fills a slow tier without the rounding


@dataclass(frozen=True, eq=False, slots=True)
class _Known:
    """What is known of a model before any weight is read."""

    name: str
    folder: Path
    config: Any
    tokenizer: Any
    skeleton: nn.Module  # on the meta device
    device: torch.device
    hardware: Hardware
    dtype: torch.dtype
    notes: tuple[str, ...]


@dataclass(frozen=True, eq=False, slots=True)
class _Filling:
    """What fills a slow tier."""

    known: _Known
    sources: Sources
    layers: tuple[LayerSources, ...]  # of the MoE layers, in order
    plain: Layout  # of experts as they are computed
    transposed: bool  # matrices stand as [in, out]
    tier: str
    progress: Progress


def load(
    name: str | os.PathLike[str] = BUNDLED,
    *,
    tier: str = "disk",
    device: str = "auto",
    dtype: str = "auto",
    experts: str = LOSSLESS,
    progress: Progress = lambda share, what: None,
    settings: Sequence[Settings] = (),
) -> Loaded:
    """Model from a folder or hub id. tier: disk or host; device: auto, cpu, cuda, ...; dtype: auto or a name
    of DTYPES; experts: how the slow tier keeps them, a name of `lossy.EXPERTS`.

    `settings`: of the runs to come. Those that do not fit the model, or whose slots do not fit in memory, are
    refused as soon as its configuration is known where that tells, and always before anything is packed.

    Raises SettingsError or ModelError for them, ModelError where it is no MoE that transformers' experts
    interface serves, StoreError where the slow tier has no room.
    """
    progress(0.0, "reading the configuration")
    bits = rounded(experts)
    if tier not in TIERS:
        raise ModelError(f"tier {tier!r} is not known. Choose one of {', '.join(TIERS)}.")
    known = _known(name, device, dtype, settings)
    progress(0.1, "reading the dense part")
    model, sources, report = _guard(
        name,
        lambda: load_dense(type(known.skeleton), known.folder, known.config, known.device, known.dtype),
    )
    if sources.missing:
        report["missing_keys"] = {*report["missing_keys"], *sources.missing}
    check_report(name, report)
    model.eval()  # and parameters as they come: torch folds a batch by requires_grad, and rounds by it
    own(model, in_pages=True)
    reached = _reached(name, model, known.tokenizer, known.device)
    paths = {id(module): path for path, module in model.named_modules()}
    layout = _layout(name, [one.experts for one in reached], known.dtype)
    _check(settings, layout, reached[0].k, known.device)
    recipe = _recipe(name, reached[0], layout, known.device)
    filling = _Filling(
        known,
        sources,
        tuple(sources.layer(paths[id(one.experts)]) for one in reached),
        layout,
        bool(reached[0].experts.is_transposed),
        tier,
        progress,
    )
    store = _fill(filling, experts)
    progress(0.95, "measuring the slow tier")
    loaded = Loaded(
        name=known.name,
        revision=known.folder.name if "snapshots" in known.folder.parts else "",
        model=model,
        tokenizer=known.tokenizer,
        layers=tuple(
            MoELayer(
                _layer_index(paths[id(one.experts)], number),
                one.experts,
                one.chooser,
                one.router,
                one.same_hidden,
            )
            for number, one in enumerate(reached)
        ),
        experts=layout.experts,
        k=reached[0].k,
        store=store,
        tier=measure(
            store,
            known.hardware.copier(store),
            known.hardware.unpacker(store),
            overlaps=known.hardware.overlaps,
        ),
        device=known.device,
        dtype=known.dtype,
        context=int(getattr(known.config.get_text_config(), "max_position_embeddings", None) or 1_000_000),
        folder=known.folder,
        recipe=recipe,
        hardware=known.hardware,
        routers=side_by_side([one.router for one in reached], reached[0].hidden_dtype),
        text_of=cache(lambda token: str(known.tokenizer.decode([token]))),
        notes=(*known.notes, *known.hardware.notes, *_notes(reached)),
    )
    if store.layout.packing is not None:
        packed = words.unpacking(loaded.tier.unpack_ms, store.layout.link_bytes, store.layout.expert_bytes)
        loaded = replace(loaded, notes=(*loaded.notes, packed))
    if bits:
        notes = (*loaded.notes, words.rounded(experts))
        plain = replace(filling, progress=lambda share, what: None)  # which comes later, if it is asked for
        loaded = replace(loaded, rounding=experts, exact_store=lambda: _fill(plain, LOSSLESS), notes=notes)
    progress(1.0, "; ".join(("ready", *loaded.notes)))
    return loaded


def configuration(name: str | os.PathLike[str]) -> tuple[Any, Path]:
    """The configuration of the part of a model that writes, and the folder that it is in.

    Packed weights are to be unpacked as they load, whatever kernels for them this machine may have. Raises
    ModelError.
    """
    config, folder = _config(str(name))
    config = text_part(config)
    if isinstance(quantised := getattr(config, "quantization_config", None), dict):
        config.quantization_config = quantised | {"dequantize": True}
    return config, folder


def _known(name: str | os.PathLike[str], device: str, dtype: str, settings: Sequence[Settings]) -> _Known:
    """Raises ModelError for what cannot be run, SettingsError for settings that do not fit it."""
    place = _device(device)
    hardware = hardware_of(place)
    config, folder = configuration(name)
    for why in (no_text_model(name, config), no_plain_weights(name, config)):
        if why:
            raise ModelError(why)
    tokenizer = _tokenizer(name, folder)
    if dtype not in DTYPES:
        raise ModelError(f"dtype {dtype!r} is not known. Choose one of {', '.join(DTYPES)}.")
    with torch.device("meta"):
        skeleton = _guard(name, lambda: model_class(config).from_config(config, trust_remote_code=False))
    every = [module for module in skeleton.modules() if is_experts(module)]
    if not every:
        raise ModelError(no_experts(name, config, skeleton))
    kind, why = _dtype(dtype, config, place, every[0])
    dense = _dense_bytes(skeleton, kind)
    if (early := _shape(every, config, kind)) is not None:
        _check(settings, *early, place, dense)
    check_files(folder)
    if short := lacking(place, dense):
        raise ModelError(
            f"The dense part of {name}, which stays in the fast tier, {short}. Choose a smaller model, or a "
            "dtype of fewer bytes."
        )
    notes = (why,) if why else ()
    return _Known(_short_name(name), folder, config, tokenizer, skeleton, place, hardware, kind, notes)


def _check(
    settings: Sequence[Settings], layout: Layout, k: int, device: torch.device, dense: int = 0
) -> None:
    """Raises SettingsError for settings that do not fit a model of this shape, ModelError where their slots
    do not fit in memory, beside a dense part that has still to be read."""
    for one in settings:
        one.check(layout.layers, layout.experts, k, layout.expert_bytes)
    fitting(settings, layout, k, device, dense)


def _fill(filling: _Filling, experts: str) -> Store:
    """The slow tier: in memory, or in a file that is written unless it is there. experts: how it keeps them,
    a name of `lossy.EXPERTS`. Raises StoreError.
    """
    known, plain = filling.known, filling.plain
    packing: Packing | None = None
    if bits := rounded(experts):
        packing = Rounded(bits, plain.shapes, plain.dtype, filling.transposed)
    elif experts != UNPACKED:
        packing = as_stored(filling.layers, plain, known.config)
    layout = Layout(plain.layers, plain.experts, plain.dtype, plain.shapes, packing)
    layers = _layers_of(filling, packing)
    if filling.tier == "host":
        if short := lacking(torch.device("cpu"), layout.bytes):
            raise StoreError(f"The slow tier in memory {short}. Choose --tier disk.")
        return HostStore(layout, layers, known.hardware.host_memory, known.hardware.let_go)
    path = cache_folder() / f"{_fingerprint(known.folder, layout)}{SUFFIX}"

    def waiting() -> None:
        filling.progress(0.3, "another process is filling the slow tier with this model")

    with alone_at(path, waiting):
        if not is_complete(layout, path):
            make_room(layout.bytes, path)
            write_file(layout, layers, path, known.name)
        return DiskStore(layout, path)


def _dense_bytes(skeleton: nn.Module, dtype: torch.dtype) -> int:
    """What everything but the experts takes."""
    experts = {id(p) for m in skeleton.modules() if is_experts(m) for p in m.parameters()}
    return sum(p.numel() for p in skeleton.parameters() if id(p) not in experts) * dtype.itemsize


def _reached(name: object, model: nn.Module, tokenizer: Any, device: torch.device) -> list[Reached]:
    """The MoE layers that text reaches. Raises ModelError where there are none, or they are not alike."""
    ids = list(tokenizer("In the beginning")["input_ids"])[:4] or [0]
    if why := unlike_tokenizer(model.config, ids):
        raise ModelError(f"{name}: {why}")
    reached: list[Reached] = _guard(name, lambda: probe(model, ids, device))
    if not reached:
        raise ModelError(
            f"No experts of {name} are reached by text. Choose a model whose text layers are a MoE."
        )
    if not min(one.k for one in reached):
        raise ModelError(
            f"The configuration of {name} says that a token uses no expert at all. Save or download the "
            "checkpoint again."
        )
    modules = [id(one.experts) for one in reached]
    if len(set(modules)) < len(modules):
        raise ModelError(
            f"{name} uses the same experts more than once for a token, which moeviz cannot tell apart. "
            "Choose another MoE."
        )
    if len({one.k for one in reached}) > 1:
        raise ModelError(
            f"The MoE layers of {name} use different numbers of experts per token "
            f"({', '.join(str(one.k) for one in reached)}), which moeviz cannot serve. Choose another MoE."
        )
    return reached


def unlike_tokenizer(config: Any, ids: Sequence[int]) -> str:
    """Why the tokenizer that gave these ids is not the model's own, in words; empty where it may be."""
    words_known = getattr(config.get_text_config(), "vocab_size", None)
    if not isinstance(words_known, int) or max(ids) < words_known:
        return ""
    return (
        f"its tokenizer gives the id {max(ids):,}, but the model knows {words_known:,} tokens: they are of "
        "different models. Put the model's own tokenizer files beside config.json."
    )


def _layout(name: object, modules: list[nn.Module], dtype: torch.dtype) -> Layout:
    """The record of one expert, from the stacked parameters of every layer. Raises ModelError where layers
    differ.
    """
    kinds = {tuple((key, tuple(value.shape)) for key, value in stacked(module).items()) for module in modules}
    counts = {shape[0] for kind in kinds for _, shape in kind}
    if len(kinds) > 1 or len(counts) > 1:
        raise ModelError(
            f"The MoE layers of {name} differ in the number or the size of their experts, which moeviz "
            "cannot serve. "
            "Choose another MoE."
        )
    return Layout(len(modules), counts.pop(), dtype, {key: shape[1:] for key, shape in kinds.pop()})


def _recipe(name: object, reached: Reached, layout: Layout, device: torch.device) -> Recipe:
    try:
        with torch.inference_mode():
            return recipe_for(reached.experts, layout, device, reached.hidden_dtype, reached.weights_dtype)
    except RecipeError as error:
        raise ModelError(f"{name} cannot be run: {error}. Choose another MoE, or another dtype.") from None


def _notes(reached: list[Reached]) -> tuple[str, ...]:
    """What is said of layers whose routers cannot be asked ahead."""
    blind = [one for one in reached if one.router is None]
    if not blind:
        return ()
    return (
        f"no router guesses for {len(blind)} of {len(reached)} MoE layers: "
        + " and ".join(sorted({one.why_not for one in blind})),
    )


def own(model: nn.Module, in_pages: bool = False) -> None:
    """Moves parameters out of the mapped checkpoint into memory of their own, one at a time.

    A mapping would stay as long as one of them stands in it; and a CPU's matrix kernels may round differently
    by address, so that the bits of a run would depend on the layout of a file. `in_pages`: all in one block
    of huge pages, where there are any.
    """
    held = [one for one in model.parameters() if one.device.type == "cpu"]
    if not in_pages:
        for parameter in held:
            parameter.data = parameter.data.clone()
        return
    row = Row({str(number): (one.dtype, tuple(one.shape)) for number, one in enumerate(held)})
    places = row.views(pages(row.bytes)) if held else {}
    for parameter, place in zip(held, places.values(), strict=True):
        if parameter.is_contiguous():
            parameter.data = place.copy_(parameter.data)
        else:  # its strides decide which kernel multiplies with it
            parameter.data = parameter.data.clone()


def use_threads(count: int) -> None:
    """Threads of torch on a CPU; and the reader thread need not wait 5 ms for the interpreter."""
    torch.set_num_threads(count)
    sys.setswitchinterval(5e-4)


def _device(name: str) -> torch.device:
    if name == "auto":
        return (
            torch.accelerator.current_accelerator()
            if torch.accelerator.is_available()
            else torch.device("cpu")
        )  # type: ignore[return-value]
    refusal = (
        f"device {name!r} is not available here. Choose cpu, or auto for the accelerator if there is one."
    )
    try:
        device = torch.device(name)
        if device.type == "meta":
            raise ModelError(
                f"device {name!r} computes nothing: its tensors have no values. Choose cpu or auto."
            )
        if device.type != "cpu":
            torch.empty(0, device=device)
    except (RuntimeError, AssertionError, NotImplementedError):
        raise ModelError(refusal) from None
    if device.type not in ("cpu", getattr(torch.accelerator.current_accelerator(), "type", "cpu")):
        raise ModelError(refusal)  # a device of torch that is no accelerator, such as one that only compiles
    return device


def _dtype(name: str, config: Any, device: torch.device, experts: nn.Module) -> tuple[torch.dtype, str]:
    """The dtype to compute in, and in words how it was chosen where it was measured.

    An accelerator computes in the checkpoint's own. On a CPU bfloat16 is the faster on some and ten times the
    slower on others, so one of the model's experts is tried in both; float32 is never given up for less
    precision than the checkpoint has.
    """
    if name != "auto":
        return getattr(torch, name), ""
    found = config.get_text_config().dtype
    own = found if isinstance(found, torch.dtype) else torch.bfloat16
    if device.type != "cpu" or own == torch.float32:
        return own, ""
    took = _expert_ms(experts, (torch.float32, own))
    kind = own if took[own] < 0.9 * took[torch.float32] else torch.float32  # a tie is float32, run after run
    shown = ", ".join(f"{str(one).removeprefix('torch.')} {ms:.3f} ms" for one, ms in took.items())
    return kind, f"dtype chosen by one expert's time for one token: {shown}"


def _expert_ms(experts: nn.Module, dtypes: Sequence[torch.dtype]) -> dict[torch.dtype, float]:
    """Milliseconds of one token's products with the matrices of one expert, by dtype.

    Experts are taken in turn, as many as fill 32 MB, because one that stays in the processor's cache would
    hide what moving it costs. It is the thread's own time and the least of some rounds, taken in turn: what
    else the machine does should not decide.
    """
    shapes = [tuple(p.shape[1:]) for p in stacked(experts).values() if p.dim() == 3]
    work: dict[torch.dtype, list[tuple[torch.Tensor, torch.Tensor]]] = {}
    for dtype in dtypes:
        size = sum(rows * columns for rows, columns in shapes) * dtype.itemsize
        work[dtype] = [
            (torch.zeros(1, columns, dtype=dtype), weights)
            for rows, columns in shapes
            for weights in torch.zeros(max(1, 32_000_000 // size), rows, columns, dtype=dtype)
        ]
    least = dict.fromkeys(dtypes, float("inf"))
    with torch.inference_mode():
        for _ in range(6):
            for dtype, products in work.items():
                start = time.thread_time_ns()
                for hidden, weights in products:
                    nn.functional.linear(hidden, weights)
                per_expert = (time.thread_time_ns() - start) / (len(products) / len(shapes))
                least[dtype] = min(least[dtype], per_expert / 1e6)
    return least


def _config(name: str) -> tuple[Any, Path]:
    if why := no_folder(name):
        raise ModelError(why)
    folder = Path(name)
    try:
        config = AutoConfig.from_pretrained(name, trust_remote_code=False)
        where = cached_file(name, "config.json")
        if not folder.is_dir():
            from huggingface_hub import snapshot_download

            where = str(
                Path(snapshot_download(name, allow_patterns=["*.json", "*.safetensors", "*.model", "*.txt"]))
                / "config.json"
            )
    except (OSError, ValueError) as error:
        if needs_code(error):
            raise no_code(name) from None
        first = str(error).strip().splitlines()[0]
        if not folder.is_dir():
            raise ModelError(no_hub_id(name, first)) from None
        if "does not recognize this architecture" in first:
            raise ModelError(
                f"{name} is of a type that transformers {transformers.__version__} does not have: "
                f"{_type(folder)}. Choose a checkpoint of one that it has."
            ) from None
        raise ModelError(f"{name} cannot be read as a model: {first} {CHOOSE}") from None
    except Exception as error:  # a field of another type, which each architecture's own checks tell of
        told = " ".join(str(error).split()) or type(error).__name__
        raise ModelError(f"{name} cannot be read as a model: {told[:200]}. {CHOOSE}") from None
    return config, Path(str(where)).parent


def _type(folder: Path) -> str:
    """What a folder's configuration calls its model, where transformers does not know it."""
    return str(json.loads((folder / "config.json").read_bytes()).get("model_type"))[:60]


def _tokenizer(name: object, folder: Path) -> Any:
    """Read first of all: without one no prompt can be run, and nothing should have been packed by then."""
    try:
        return AutoTokenizer.from_pretrained(str(folder), trust_remote_code=False)
    except Exception as error:
        first = (str(error).strip() or type(error).__name__).splitlines()[0].rstrip(".: ")
        raise ModelError(
            f"{name} has no tokenizer that can be read ({first}). Put the tokenizer's files (tokenizer.json, "
            "tokenizer_config.json) beside config.json."
        ) from None


def _guard(name: object, do: Callable[[], Any]) -> Any:
    """Turns what transformers raises for a broken checkpoint into one message."""
    try:
        return do()
    except (StoreError, ModelError):
        raise
    except ModuleNotFoundError as error:
        raise ModelError(
            f"{name} needs the package {error.name}, which is not installed. Install it: pip install "
            f"{error.name}"
        ) from None
    except OSError as error:
        if error.errno == 28:
            raise StoreError(
                f"There is no space left to load {name}. Make room, or set MOEVIZ_CACHE to a folder on a "
                "larger disk."
            ) from None
        raise ModelError(f"{name} cannot be loaded: {str(error).strip().splitlines()[0]}") from None
    except Exception as error:
        if needs_code(error):
            raise no_code(name) from None
        text = (str(error).strip() or type(error).__name__).splitlines()[0]
        raise ModelError(f"{name} cannot be loaded: {text}") from None


def _shape(every: list[nn.Module], config: Any, dtype: torch.dtype) -> tuple[Layout, int] | None:
    """Layout of the slots and k as the configuration tells them; None where only a pass can tell."""
    text = config.get_text_config()
    k = next((value for field in K_FIELDS if isinstance(value := getattr(text, field, None), int)), None)
    kinds = {tuple((key, tuple(p.shape)) for key, p in stacked(module).items()) for module in every}
    if not k or len(kinds) > 1:
        return None
    shapes = dict(kinds.pop())
    counts = {shape[0] for shape in shapes.values()}
    if len(counts) > 1:
        return None
    return Layout(len(every), counts.pop(), dtype, {key: shape[1:] for key, shape in shapes.items()}), k


def _layer_index(path: str, number: int) -> int:
    """Index of an experts module's layer among the model's layers, from its path."""
    return next((int(part) for part in path.split(".") if part.isdigit()), number)


def _layers_of(filling: _Filling, packing: Any) -> Iterator[LayerOf]:
    """What the records of one MoE layer after the other hold."""
    alike = filling.layers[0].form if filling.layers[0].one_by_one() else None
    for number, layer in enumerate(filling.layers):
        if layer.form == alike or layer.one_by_one():
            yield _each(layer, packing)
        else:
            yield _out_of(_whole(layer, filling), packing)
        filling.sources.let_go()
        filling.progress(0.3 + 0.6 * (number + 1) / len(filling.layers), "filling the slow tier")


def _each(layer: LayerSources, packing: Any) -> LayerOf:
    """Experts read one by one."""
    if packing is None:
        return lambda expert: layer.make(layer.one(expert))
    if isinstance(packing, Rounded):
        return lambda expert: packing.pack(layer.make(layer.one(expert)))
    return layer.one


def _out_of(whole: Mapping[str, torch.Tensor], packing: Any) -> LayerOf:
    """Experts out of stacked tensors."""
    if packing is None:
        return lambda expert: {name: tensor[expert] for name, tensor in whole.items()}
    return lambda expert: packing.pack({name: tensor[expert] for name, tensor in whole.items()})


def _whole(layer: LayerSources, filling: _Filling) -> dict[str, torch.Tensor]:
    """The stacked parameters of a layer. Raises ModelError where they are not as the configuration says."""
    layout = filling.plain
    tensors: dict[str, torch.Tensor] = _guard(filling.known.name, layer.whole)
    short = [n for n, shape in layout.shapes.items() if tensors[n].shape != (layout.experts, *shape)]
    if short:
        raise ModelError(
            f"{named(f'{layer.path}.{name}' for name in short)}: the checkpoint holds another number of "
            "experts, or experts of another size, than its configuration says. Save or download the "
            "checkpoint again."
        )
    return tensors


def _fingerprint(folder: Path, layout: Layout) -> str:
    """Changes whenever the packed experts would."""
    digest = hashlib.sha256(f"2 {transformers.__version__} {layout.about()}".encode())
    for path in sorted([*folder.glob("*.safetensors"), *folder.glob("*.bin"), folder / "config.json"]):
        about = path.stat()
        digest.update(f"{path.resolve()} {about.st_size} {about.st_mtime_ns}".encode())
    return digest.hexdigest()[:24]


def _short_name(name: str | os.PathLike[str]) -> str:
    return BUNDLED_NAME if Path(name).resolve() == BUNDLED.resolve() else str(name)

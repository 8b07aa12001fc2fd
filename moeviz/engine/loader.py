"""Loads any transformers MoE with its experts in the slow tier, never holding more of them in memory than one
layer.

loaded = load("moeviz/demo_model", tier="disk")
"""

from __future__ import annotations

import gc
import hashlib
import logging
import os
import sys
import time
import warnings
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
import transformers
from accelerate.hooks import remove_hook_from_module
from torch import nn
from transformers import AutoConfig, AutoTokenizer
from transformers.utils import cached_file

from moeviz.core.machines import Machine
from moeviz.core.oracle import BUNDLED_NAME
from moeviz.core.run import Tier
from moeviz.engine.cachefolder import SUFFIX, cache_folder, filling, make_room, read_seal
from moeviz.engine.checkpoint import check_files, check_report, named, needs_code, no_code
from moeviz.engine.experts import Recipe, RecipeError, recipe_for, stacked
from moeviz.engine.hardware import Hardware, hardware_of
from moeviz.engine.kinds import model_class, no_experts, no_folder, no_plain_weights, no_text_model, text_part
from moeviz.engine.probe import Reached, Router, is_experts, probe
from moeviz.engine.store import DiskStore, HostStore, Layout, Store, is_complete, measure, write_file
from moeviz.errors import ModelError, StoreError

transformers.utils.logging.set_verbosity_error()  # what matters is raised; progress is reported by `load`
transformers.utils.logging.disable_progress_bar()
logging.getLogger("accelerate.big_modeling").setLevel(logging.ERROR)
warnings.filterwarnings(
    "ignore", message="The following device_map keys"
)  # of tensors that stand beside the experts

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
    link: Machine | None = None  # what every copy is slowed down to; None: as fast as it goes
    notes: tuple[str, ...] = ()  # what this model does not have, and what was chosen for it, in words


def load(
    name: str | os.PathLike[str] = BUNDLED,
    *,
    tier: str = "disk",
    device: str = "auto",
    dtype: str = "auto",
    progress: Progress = lambda share, what: None,
    check: Callable[[int, int, int], None] = lambda layers, experts, k: None,
) -> Loaded:
    """Model from a folder or hub id. tier: disk or host; device: auto, cpu, cuda, ...; dtype: auto or a name
    of DTYPES.

    `check` is given the number of MoE layers, of experts in each, and of experts chosen per token as soon as
    they are known, before anything is packed, so that settings that do not fit the model are refused early;
    what it raises is passed on.

    Raises ModelError where it is no MoE that transformers' experts interface serves, StoreError where the
    slow tier has no room.
    """
    progress(0.0, "reading the configuration")
    if tier not in TIERS:
        raise ModelError(f"tier {tier!r} is not known. Choose one of {', '.join(TIERS)}.")
    place = _device(device)
    hardware = hardware_of(place)
    config, folder = _config(str(name))
    config = text_part(config)
    for why in (no_text_model(name, config), no_plain_weights(name, config)):
        if why:
            raise ModelError(why)
    tokenizer = _tokenizer(name, folder)
    if dtype not in DTYPES:
        raise ModelError(f"dtype {dtype!r} is not known. Choose one of {', '.join(DTYPES)}.")
    with torch.device("meta"):
        skeleton = _guard(name, lambda: model_class(config).from_config(config, trust_remote_code=False))
    every = [path for path, module in skeleton.named_modules() if is_experts(module)]
    if not every:
        raise ModelError(no_experts(name, config, skeleton))
    if (early := _shape(skeleton, every, config)) is not None:
        check(*early)
    kind, why_dtype = _dtype(dtype, config, place, skeleton.get_submodule(every[0]))
    cached = cache_folder() / f"{_fingerprint(folder, kind)}{SUFFIX}"
    stored = check_files(folder)
    sizes = {
        f"{path}.{key}": p.numel() * kind.itemsize
        for path in every
        for key, p in stacked(skeleton.get_submodule(path)).items()
    }

    def waiting() -> None:
        progress(0.1, "another process is filling the slow tier with this model")

    progress(0.1, "reading the dense part")
    with filling(cached, waiting) as offload:
        # what the checkpoint does not hold stacked, transformers writes once, stacked, for us to pack
        scratch = sum(size for key, size in sizes.items() if key not in stored)
        packed = 0 if tier == "host" or read_seal(cached) else sum(sizes.values())
        make_room(packed, scratch, cached)
        placement = _placement(skeleton, set(every), str(place))
        model, report = _guard(
            name,
            lambda: model_class(config).from_pretrained(
                str(folder),
                config=config,
                device_map=placement,
                offload_folder=str(offload),
                dtype=kind,
                experts_implementation="eager",
                trust_remote_code=False,
                output_loading_info=True,
                ignore_mismatched_sizes=True,  # so that the report names them; `check_report` refuses them
            ),
        )
        check_report(name, report)
        weights = {path: _on_host(model.get_submodule(path)._hf_hook.weights_map) for path in every}
        _bring_shared(model, every, place)
        remove_hook_from_module(model, recurse=True)  # accelerate's would load all experts of a layer
        model.eval()  # and parameters as they come: torch folds a batch by requires_grad, and rounds by it
        own(model)
        reached = _reached(name, model, tokenizer, place)
        paths = {id(module): path for path, module in model.named_modules()}
        layout = _layout(name, [one.experts for one in reached], kind)
        check(layout.layers, layout.experts, reached[0].k)
        recipe = _recipe(name, reached[0], layout, place)
        layers = _layers_of(
            {path: weights[path] for path in (paths[id(one.experts)] for one in reached)},
            layout,
            lambda done: progress(0.3 + 0.6 * done, "filling the slow tier"),
        )
        store = _guard(name, lambda: _filled(name, tier, layout, layers, cached, hardware))
    del weights
    gc.collect()
    progress(0.95, "measuring the slow tier")
    moe_layers = tuple(
        MoELayer(
            _layer_index(paths[id(one.experts)], number),
            one.experts,
            one.chooser,
            one.router,
            one.same_hidden,
        )
        for number, one in enumerate(reached)
    )
    context = int(getattr(config.get_text_config(), "max_position_embeddings", None) or 1_000_000)
    loaded = Loaded(
        name=_short_name(name),
        revision=folder.name if "snapshots" in folder.parts else "",
        model=model,
        tokenizer=tokenizer,
        layers=moe_layers,
        experts=layout.experts,
        k=reached[0].k,
        store=store,
        tier=measure(store, hardware.copier(store), overlaps=hardware.overlaps),
        device=place,
        dtype=kind,
        context=context,
        folder=folder,
        recipe=recipe,
        hardware=hardware,
        notes=(*((why_dtype,) if why_dtype else ()), *hardware.notes, *_notes(reached)),
    )
    progress(1.0, "; ".join(("ready", *loaded.notes)))
    return loaded


def _filled(
    name: str | os.PathLike[str],
    tier: str,
    layout: Layout,
    layers: Iterator[Mapping[str, torch.Tensor]],
    cached: Path,
    hardware: Hardware,
) -> Store:
    """The slow tier with the experts of all `layers`; a file that is there already is used again."""
    if tier == "host":
        return HostStore(layout, layers, hardware.host_memory, hardware.let_go)
    if not is_complete(layout, cached):
        write_file(layout, layers, cached, _short_name(name))
    return DiskStore(layout, cached)


def _reached(name: object, model: nn.Module, tokenizer: Any, device: torch.device) -> list[Reached]:
    """The MoE layers that text reaches. Raises ModelError where there are none, or they are not alike."""
    ids = list(tokenizer("In the beginning")["input_ids"])[:4] or [0]
    reached: list[Reached] = _guard(name, lambda: probe(model, ids, device))
    if not reached:
        raise ModelError(
            f"No experts of {name} are reached by text. Choose a model whose text layers are a MoE."
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


def _bring_shared(model: nn.Module, paths: list[str], device: torch.device) -> None:
    """Puts on the device what all experts of a layer share, a norm for example: only stacked parameters are
    offloaded.
    """
    for path in paths:
        for module in list(model.get_submodule(path).modules())[1:]:
            for key, parameter in list(module.named_parameters(recurse=False)):
                if parameter.device.type == "meta":
                    value = module._hf_hook.weights_map[key].to(device, parameter.dtype)
                    module._parameters[key] = nn.Parameter(value, requires_grad=parameter.requires_grad)


def own(model: nn.Module) -> None:
    """Moves parameters out of the mapped checkpoint into memory of their own, one at a time.

    A mapping would stay as long as one of them stands in it; and a CPU's matrix kernels may round differently
    by address, so that the bits of a run would depend on the layout of a file.
    """
    for parameter in model.parameters():
        if parameter.device.type == "cpu":
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
        raise ModelError(
            f"{name} cannot be read as a model: {first} Choose a folder with a model, or a hub id that is "
            "reachable."
        ) from None
    return config, Path(str(where)).parent


def _tokenizer(name: object, folder: Path) -> Any:
    """Read first of all: without one no prompt can be run, and nothing should have been packed by then."""
    try:
        return AutoTokenizer.from_pretrained(str(folder), trust_remote_code=False)
    except Exception as error:
        first = (str(error).strip() or type(error).__name__).splitlines()[0]
        raise ModelError(
            f"{name} has no tokenizer that can be read: {first} Put the tokenizer's files (tokenizer.json, "
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


def _shape(skeleton: nn.Module, every: list[str], config: Any) -> tuple[int, int, int] | None:
    """MoE layers, experts and k as the configuration tells them; None where only a pass can tell."""
    text = config.get_text_config()
    fields = ("num_experts_per_tok", "num_experts_per_token", "moe_topk", "top_k_experts", "moe_k")
    k = next((value for field in fields if isinstance(value := getattr(text, field, None), int)), None)
    sizes = {tuple(p.shape) for path in every for p in stacked(skeleton.get_submodule(path)).values()}
    counts = {shape[0] for shape in sizes}
    return (len(every), counts.pop(), k) if k and len(counts) == 1 else None


def _layer_index(path: str, number: int) -> int:
    """Index of an experts module's layer among the model's layers, from its path."""
    return next((int(part) for part in path.split(".") if part.isdigit()), number)


def _placement(module: nn.Module, experts: set[str], device: str, prefix: str = "") -> dict[str, str]:
    """A device map that names the experts' modules "disk" and everything beside them `device`."""
    places = {
        prefix + name: device
        for name, _ in [*module.named_parameters(recurse=False), *module.named_buffers(recurse=False)]
    }
    for name, child in module.named_children():
        path = prefix + name
        if path in experts:
            places[path] = "disk"
        elif any(other.startswith(path + ".") for other in experts):
            places |= _placement(child, experts, device, path + ".")
        else:
            places[path] = device
    return places


def _layers_of(
    weights: Mapping[str, Mapping[str, torch.Tensor]], layout: Layout, progress: Callable[[float], None]
) -> Iterator[Mapping[str, torch.Tensor]]:
    """Stacked weights of one MoE layer after the other. weights: path of its experts -> accelerate's map.

    Some architectures leave them in an offload folder, some in the checkpoint, and the map knows where.
    """
    for number, (path, one) in enumerate(weights.items()):
        tensors = {name: one[name].to(layout.dtype) for name in layout.shapes}
        short = [n for n, shape in layout.shapes.items() if tensors[n].shape != (layout.experts, *shape)]
        if short:
            raise ModelError(
                f"{named(f'{path}.{name}' for name in short)}: the checkpoint holds another number of "
                "experts, or experts of another size, than its configuration says. Save or download the "
                "checkpoint again."
            )
        yield tensors
        del tensors  # before the next layer is read
        progress((number + 1) / len(weights))


def _on_host(weights: Any) -> Any:
    """accelerate's map of offloaded weights, which then reads them on the host, and not through the device
    that the model is on: that would hold a layer's experts beside the slots, and safetensors does not know
    every device.
    """
    inner = weights
    while not hasattr(inner, "device"):  # a map of a map, which adds a prefix to the names
        inner = inner.dataset
    inner.device = None
    return weights


def _fingerprint(folder: Path, dtype: torch.dtype) -> str:
    """Changes whenever the packed experts would."""
    digest = hashlib.sha256(f"1 {transformers.__version__} {dtype}".encode())
    for path in sorted([*folder.glob("*.safetensors"), *folder.glob("*.bin"), folder / "config.json"]):
        about = path.stat()
        digest.update(f"{path.resolve()} {about.st_size} {about.st_mtime_ns}".encode())
    return digest.hexdigest()[:24]


def _short_name(name: str | os.PathLike[str]) -> str:
    return BUNDLED_NAME if Path(name).resolve() == BUNDLED.resolve() else str(name)

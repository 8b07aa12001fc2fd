"""Loads any transformers MoE with its experts in the slow tier, never holding more of them in memory than one layer.

loaded = load("moeviz/demo_model", tier="disk")
"""

from __future__ import annotations

import gc
import hashlib
import logging
import os
import sys
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
import transformers
from accelerate.hooks import remove_hook_from_module
from torch import nn
from transformers import AutoConfig, AutoModelForCausalLM, AutoTokenizer
from transformers.utils import cached_file

from moeviz.core.machines import Machine
from moeviz.core.oracle import BUNDLED_NAME
from moeviz.core.run import Tier
from moeviz.engine.cachefolder import SUFFIX, cache_folder, filling, make_room, read_seal
from moeviz.engine.checkpoint import check_files, check_report, named, needs_code, no_code
from moeviz.engine.store import DiskStore, HostStore, Layout, Store, is_complete, measure, write_file
from moeviz.errors import ModelError, StoreError

transformers.utils.logging.set_verbosity_error()  # what matters is raised; progress is reported by `load`
transformers.utils.logging.disable_progress_bar()
logging.getLogger("accelerate.big_modeling").setLevel(logging.ERROR)

BUNDLED = Path(__file__).parent.parent / "demo_model"
TIERS = ("disk", "host")
DTYPES = ("auto", "float32", "bfloat16", "float16")
Progress = Callable[[float, str], None]


@dataclass(frozen=True, eq=False, slots=True)
class MoELayer:
    """One MoE layer of a loaded model."""

    index: int  # among the model's layers
    experts: nn.Module  # its parameters are on the meta device
    router: nn.Module | None  # None where it could not be found; then the layer has no next-gate guesses


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
    link: Machine | None = None  # what every copy is slowed down to; None: as fast as it goes


def load(
    name: str | os.PathLike[str] = BUNDLED,
    *,
    tier: str = "disk",
    device: str = "auto",
    dtype: str = "auto",
    progress: Progress = lambda share, what: None,
) -> Loaded:
    """Model from a folder or hub id. tier: disk or host; device: auto, cpu, cuda, ...; dtype: auto or a name of DTYPES.

    Raises ModelError where it is no MoE that transformers' experts interface serves, StoreError where the slow tier has no room.
    """
    progress(0.0, "reading the configuration")
    if tier not in TIERS:
        raise ModelError(f"tier {tier!r} is not known. Choose one of {', '.join(TIERS)}.")
    place = _device(device)
    config, folder = _config(str(name))
    kind = _dtype(dtype, config, place)
    with torch.device("meta"):
        skeleton = _guard(name, lambda: AutoModelForCausalLM.from_config(config, trust_remote_code=False))
    names = [path for path, module in skeleton.named_modules() if is_experts(module)]
    if not names:
        raise ModelError(
            f"{name} is not a mixture-of-experts model that transformers {transformers.__version__} serves through its experts "
            f"interface (its architecture is {', '.join(config.architectures or ['unknown'])}). Choose a MoE, for example a Mixtral."
        )
    experts, k = _shape(skeleton, names[0], config)
    parameters = dict(skeleton.get_submodule(names[0]).named_parameters())
    layout = Layout(
        len(names), experts, kind, {key: tuple(value.shape[1:]) for key, value in parameters.items()}
    )
    cached = cache_folder() / f"{_fingerprint(folder, kind)}{SUFFIX}"
    stored = check_files(folder)
    sizes = {
        f"{path}.{key}": p.numel() * kind.itemsize
        for path in names
        for key, p in skeleton.get_submodule(path).named_parameters()
    }

    def waiting() -> None:
        progress(0.1, "another process is filling the slow tier with this model")

    progress(0.1, "reading the dense part")
    with filling(cached, waiting) as offload:
        # what the checkpoint does not hold stacked, transformers writes once, stacked, for us to pack
        scratch = sum(size for key, size in sizes.items() if key not in stored)
        packed = 0 if tier == "host" or read_seal(cached) else sum(sizes.values())
        make_room(packed, scratch, cached)
        placement = _placement(skeleton, set(names), str(place))
        model, report = _guard(
            name,
            lambda: AutoModelForCausalLM.from_pretrained(
                str(folder),
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
        layers = _layers_of(
            model, names, kind, lambda done: progress(0.3 + 0.6 * done, "filling the slow tier")
        )
        store: Store
        if tier == "host":
            store = HostStore(layout, layers, pinned=place.type != "cpu")
        else:
            if not is_complete(layout, cached):
                write_file(layout, layers, cached, _short_name(name))
            store = DiskStore(layout, cached)
    remove_hook_from_module(model, recurse=True)  # accelerate's would load all experts of a layer
    model.eval().requires_grad_(False)
    own(model)
    gc.collect()
    progress(0.95, "measuring the slow tier")
    tokenizer = _guard(name, lambda: AutoTokenizer.from_pretrained(str(folder), trust_remote_code=False))
    moe_layers = tuple(_moe_layer(model, path) for path in names)
    context = int(getattr(config.get_text_config(), "max_position_embeddings", None) or 1_000_000)
    loaded = Loaded(
        name=_short_name(name),
        revision=folder.name if "snapshots" in folder.parts else "",
        model=model,
        tokenizer=tokenizer,
        layers=moe_layers,
        experts=experts,
        k=k,
        store=store,
        tier=measure(store),
        device=place,
        dtype=kind,
        context=context,
        folder=folder,
    )
    progress(1.0, "ready")
    return loaded


def own(model: nn.Module) -> None:
    """Moves parameters out of the mapped checkpoint into memory of their own, one at a time.

    A mapping would stay as long as one of them stands in it; and a CPU's matrix kernels may round differently by address, so that the
    bits of a run would depend on the layout of a file.
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
    try:
        device = torch.device(name)
        if device.type != "cpu":
            torch.empty(0, device=device)
    except (RuntimeError, AssertionError, NotImplementedError):
        raise ModelError(
            f"device {name!r} is not available here. Choose cpu, or auto for the accelerator if there is one."
        ) from None
    return device


def _dtype(name: str, config: Any, device: torch.device) -> torch.dtype:
    if name not in DTYPES:
        raise ModelError(f"dtype {name!r} is not known. Choose one of {', '.join(DTYPES)}.")
    if name != "auto":
        return getattr(torch, name)  # type: ignore[no-any-return]
    if device.type == "cpu":
        return torch.float32  # half precision is emulated on most CPUs: ten times slower than float32 on one without AVX-512 BF16
    found = config.get_text_config().dtype
    return found if isinstance(found, torch.dtype) else torch.bfloat16


def _config(name: str) -> tuple[Any, Path]:
    folder = Path(name)
    if folder.is_dir() and not (folder / "config.json").exists():
        raise ModelError(
            f"The folder {name} has no config.json, so it is no model. Choose a folder that save_pretrained wrote."
        )
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
            f"{name} cannot be read as a model: {first} Choose a folder with a model, or a hub id that is reachable."
        ) from None
    return config, Path(str(where)).parent


def _guard(name: object, do: Callable[[], Any]) -> Any:
    """Turns what transformers raises for a broken checkpoint into one message."""
    try:
        return do()
    except (StoreError, ModelError):
        raise
    except OSError as error:
        if error.errno == 28:
            raise StoreError(
                f"There is no space left to load {name}. Make room, or set MOEVIZ_CACHE to a folder on a larger disk."
            ) from None
        raise ModelError(f"{name} cannot be loaded: {str(error).strip().splitlines()[0]}") from None
    except Exception as error:
        if needs_code(error):
            raise no_code(name) from None
        text = (str(error).strip() or type(error).__name__).splitlines()[0]
        raise ModelError(f"{name} cannot be loaded: {text}") from None


def is_experts(module: nn.Module) -> bool:
    """transformers' `use_experts_implementation` leaves these marks on an experts module."""
    return hasattr(module, "_is_expert_parallel") and hasattr(module, "has_gate")


def _shape(skeleton: nn.Module, path: str, config: Any) -> tuple[int, int]:
    experts = next(iter(skeleton.get_submodule(path).parameters())).shape[0]
    text = config.get_text_config()
    for field in ("num_experts_per_tok", "num_experts_per_token", "moe_topk", "top_k_experts", "moe_k"):
        if isinstance(k := getattr(text, field, None), int):
            return experts, k
    router = _router(skeleton.get_submodule(path.rpartition(".")[0]))
    if router is not None and isinstance(k := getattr(router, "top_k", None), int):
        return experts, k
    raise ModelError(
        "The model's configuration does not say how many experts a token uses (num_experts_per_tok)."
    )


def _router(block: nn.Module) -> nn.Module | None:
    """The module beside the experts that chooses among them."""
    for name in ("gate", "router"):
        module = getattr(block, name, None)
        if isinstance(module, nn.Module) and hasattr(module, "weight"):
            return module
    return None


def _moe_layer(model: nn.Module, path: str) -> MoELayer:
    index = next(int(part) for part in path.split(".") if part.isdigit())
    return MoELayer(index, model.get_submodule(path), _router(model.get_submodule(path.rpartition(".")[0])))


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
    model: nn.Module, names: list[str], dtype: torch.dtype, progress: Callable[[float], None]
) -> Iterator[Mapping[str, torch.Tensor]]:
    """Stacked weights of one MoE layer after the other, through accelerate's hook: some architectures leave them in an offload folder,
    some in the checkpoint, and the hook knows where."""
    for number, path in enumerate(names):
        module = model.get_submodule(path)
        weights = module._hf_hook.weights_map
        tensors = {name: weights[name].to(dtype) for name, _ in module.named_parameters()}
        short = [name for name, asked in module.named_parameters() if tensors[name].shape != asked.shape]
        if short:
            raise ModelError(
                f"{named(f'{path}.{name}' for name in short)}: the checkpoint holds another number of experts, or experts "
                "of another size, than its configuration says. Save or download the checkpoint again."
            )
        yield tensors
        progress((number + 1) / len(names))


def _fingerprint(folder: Path, dtype: torch.dtype) -> str:
    """Changes whenever the packed experts would."""
    digest = hashlib.sha256(f"1 {transformers.__version__} {dtype}".encode())
    for path in sorted([*folder.glob("*.safetensors"), *folder.glob("*.bin"), folder / "config.json"]):
        about = path.stat()
        digest.update(f"{path.resolve()} {about.st_size} {about.st_mtime_ns}".encode())
    return digest.hexdigest()[:24]


def _short_name(name: str | os.PathLike[str]) -> str:
    return BUNDLED_NAME if Path(name).resolve() == BUNDLED.resolve() else str(name)

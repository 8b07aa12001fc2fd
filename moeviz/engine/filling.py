"""Fills the slow tier out of a checkpoint, one layer in memory at a time, each expert once.

Knows neither how a model computes nor which of its experts will be used.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
import transformers

from moeviz.engine.cachefolder import SUFFIX, alone_at, cache_folder, make_room
from moeviz.engine.checkpoint import guarded, named
from moeviz.engine.layout import Layout, Packing
from moeviz.engine.memory import lacking
from moeviz.engine.outline import Outline
from moeviz.engine.packing import Rounded, as_stored, rounded
from moeviz.engine.sources import LayerSources, Sources
from moeviz.engine.store import DiskStore, HostStore, LayerOf, Store, is_complete, write_file
from moeviz.errors import ModelError, StoreError
from moeviz.numbers.lossy import UNPACKED

Progress = Callable[[float, str], None]


@dataclass(frozen=True, eq=False, slots=True)
class Filling:
    """What a slow tier is filled with."""

    name: str  # of the model
    known: Outline
    sources: Sources
    layers: tuple[LayerSources, ...]  # of the MoE layers, in order
    plain: Layout  # of experts as they are computed
    transposed: bool  # matrices stand as [in, out]
    tier: str
    progress: Progress


def fill(filling: Filling, experts: str) -> Store:
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
            write_file(layout, layers, path, filling.name)
        return DiskStore(layout, path)


def _layers_of(filling: Filling, packing: Any) -> Iterator[LayerOf]:
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


def _whole(layer: LayerSources, filling: Filling) -> dict[str, torch.Tensor]:
    """The stacked parameters of a layer. Raises ModelError where they are not as the configuration says."""
    layout = filling.plain
    tensors: dict[str, torch.Tensor] = guarded(filling.name, layer.whole)
    short = [n for n, shape in layout.shapes.items() if tensors[n].shape != (layout.experts, *shape)]
    if short:
        found, first = tensors[short[0]].shape, short[0]
        lacking = "".join(f" It lacks expert {one}." for one in layer.lacking[:1])
        raise ModelError(
            f"{named(f'{layer.path}.{name}' for name in short)}: the checkpoint holds another number of "
            f"experts, or experts of another size, than its configuration says ({first} would be "
            f"{list(found)}, and not {[layout.experts, *layout.shapes[first]]}).{lacking} Save or download "
            f"{filling.name} again."
        )
    return tensors


def _fingerprint(folder: Path, layout: Layout) -> str:
    """Changes whenever the packed experts would."""
    digest = hashlib.sha256(f"2 {transformers.__version__} {layout.about()}".encode())
    for path in sorted([*folder.glob("*.safetensors"), *folder.glob("*.bin"), folder / "config.json"]):
        about = path.stat()
        digest.update(f"{path.resolve()} {about.st_size} {about.st_mtime_ns}".encode())
    return digest.hexdigest()[:24]

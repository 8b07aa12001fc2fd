"""Loads any transformers MoE with its experts in the slow tier, never holding more of them in memory than one
layer, and writing each of them once.

loaded = load("moeviz/demo_model", tier="disk")
"""

from __future__ import annotations

import os
import sys
from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import cache
from pathlib import Path
from typing import Any

import torch
import transformers
from torch import nn

from moeviz import words
from moeviz.core.machines import Machine
from moeviz.core.oracle import BUNDLED_NAME
from moeviz.core.run import Tier
from moeviz.core.suiting import Shape
from moeviz.engine.checkpoint import check_report, guarded
from moeviz.engine.dense import Dense, same_inputs
from moeviz.engine.experts import Recipe
from moeviz.engine.filling import Filling, Progress, fill
from moeviz.engine.hardware import Hardware
from moeviz.engine.kinds import not_followed
from moeviz.engine.memory import Wanted, check_fit
from moeviz.engine.outline import outline_of
from moeviz.engine.packing import rounded
from moeviz.engine.probe import Product, side_by_side
from moeviz.engine.reached import MoELayer, layers_of, layout_of, notes_of, reached_layers, recipe_of
from moeviz.engine.sources import load_dense, own
from moeviz.engine.store import Store
from moeviz.engine.tier_time import measure
from moeviz.errors import ModelError
from moeviz.numbers.lossy import LOSSLESS

transformers.utils.logging.set_verbosity_error()  # what matters is raised; progress is reported by `load`
transformers.utils.logging.disable_progress_bar()

BUNDLED = Path(__file__).parent.parent / "demo_model"
TIERS = ("disk", "host")


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
    dense: Dense  # what stands in for modules of its dense part while it runs
    text_of: Callable[[int], str]  # of a token; the tokenizer, which takes its time, is asked once for each
    routers: Product | None = None  # of all layers, side by side; None where they are asked one by one
    link: Machine | None = None  # what every copy is slowed down to; None: as fast as it goes
    notes: tuple[str, ...] = ()  # what this model does not have, and what was chosen for it, in words
    rounding: str = ""  # to which the experts are rounded; empty: none, lossless
    exact_store: Callable[[], Store] | None = None  # fills a slow tier without the rounding

    @property
    def shape(self) -> Shape:
        """What settings are checked against."""
        return len(self.layers), self.experts, self.k, self.store.layout.expert_bytes


def load(
    name: str | os.PathLike[str] = BUNDLED,
    *,
    tier: str = "disk",
    device: str = "auto",
    dtype: str = "auto",
    experts: str = LOSSLESS,
    progress: Progress = lambda share, what: None,
    wanted: Wanted = lambda shape: (),
) -> Loaded:
    """Model from a folder or hub id. tier: disk or host; device: auto, cpu, cuda, ...; dtype: auto or a name
    of DTYPES; experts: how the slow tier keeps them, a name of `lossy.EXPERTS`.

    `wanted`: settings of the runs to come, asked for once the model's shape is known. Those that do not fit
    it, or whose slots do not fit in memory, are refused as soon as the configuration is known where that
    tells, and always before anything is packed.

    Raises SettingsError or ModelError for them, ModelError where it is no MoE that transformers' experts
    interface serves, StoreError where the slow tier has no room.
    """
    progress(0.0, "reading the configuration")
    bits = rounded(experts)
    if tier not in TIERS:
        raise ModelError(f"tier {tier!r} is not known. Choose one of {', '.join(TIERS)}.")
    shown = BUNDLED_NAME if Path(name).resolve() == BUNDLED.resolve() else str(name)
    known = outline_of(name, device, dtype, wanted)
    progress(0.1, "reading the dense part")
    model, sources, report = guarded(
        name,
        lambda: load_dense(type(known.skeleton), known.folder, known.config, known.device, known.dtype),
    )
    if sources.missing:
        report["missing_keys"] = {*report["missing_keys"], *sources.missing}
    check_report(name, report)
    model.eval()  # and parameters as they come: torch folds a batch by requires_grad, and rounds by it
    own(model, in_pages=True)
    with same_inputs(model) as together:
        reached = reached_layers(name, model, known.tokenizer, known.device)
    paths = {id(module): path for path, module in model.named_modules()}
    layout = layout_of(name, [one.experts for one in reached], known.dtype)
    check_fit(wanted, layout, reached[0].k, known.device)
    recipe = recipe_of(name, reached[0], layout, known.device)
    filling = Filling(
        shown,
        known,
        sources,
        tuple(sources.layer(paths[id(one.experts)]) for one in reached),
        layout,
        bool(reached[0].experts.is_transposed),
        tier,
        progress,
    )
    store = fill(filling, experts)
    progress(0.95, "measuring the slow tier")
    loaded = Loaded(
        name=shown,
        revision=known.folder.name if "snapshots" in known.folder.parts else "",
        model=model,
        tokenizer=known.tokenizer,
        layers=layers_of(reached, paths),
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
        dense=Dense(model, together),
        routers=side_by_side([one.router for one in reached], reached[0].hidden_dtype),
        text_of=cache(lambda token: str(known.tokenizer.decode([token]))),
        notes=(*known.notes, *known.hardware.notes, *notes_of(reached)),
    )
    if other := not_followed(model.generation_config):
        loaded = replace(loaded, notes=(*loaded.notes, other))
    if store.layout.packing is not None:
        packed = words.unpacking(loaded.tier.unpack_ms, store.layout.link_bytes, store.layout.expert_bytes)
        loaded = replace(loaded, notes=(*loaded.notes, packed))
    if bits:
        notes = (*loaded.notes, words.rounded(experts))
        plain = replace(filling, progress=lambda share, what: None)  # which comes later, if it is asked for
        loaded = replace(loaded, rounding=experts, exact_store=lambda: fill(plain, LOSSLESS), notes=notes)
    progress(1.0, "; ".join(("ready", *loaded.notes)))
    return loaded


def use_threads(count: int) -> None:
    """Threads of torch on a CPU; and the reader thread need not wait 5 ms for the interpreter."""
    torch.set_num_threads(count)
    sys.setswitchinterval(5e-4)

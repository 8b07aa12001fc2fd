"""A plan for a model on this machine, before anything is loaded. Imports no torch.

Reads what the machine has (memory, free disk, an accelerator's memory where the system says so without
torch), and measures this disk where it is asked to. What is kept of a plan, and how far off the last one was,
stands in `planned`.

    found = make("moeviz/demo_model", fast=32 * 2**20, link="SATA SSD")
    print(words.lines(rows(found)))
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path

from moeviz import words
from moeviz.core.machines import DEVICES, Machine, find
from moeviz.core.oracle import BUNDLED_NAME
from moeviz.core.run import Run
from moeviz.core.trace import Trace
from moeviz.engine import planned, tiers
from moeviz.engine.architectures import check_type
from moeviz.engine.cachefolder import cache_folder
from moeviz.engine.unpack_time import unpack_ms
from moeviz.errors import SettingsError
from moeviz.files import headers
from moeviz.files.moecounts import Counts
from moeviz.numbers import plan as plans
from moeviz.numbers import timing
from moeviz.numbers.lossy import EXPERTS, LOSSLESS
from moeviz.numbers.plan import Compute, Memory, Plan
from moeviz.numbers.sizes import Headers, ModelSize, checkpoint_dtype, sizes

BUNDLED = Path(__file__).parent.parent / "demo_model"
MEASURE = "measure"  # --link measure: this disk
_IN_LATENCY = (
    "What unpacking an expert takes is in the link's latency: the trace's run measured the two as one."
)


def make(
    model: str = "",
    *,
    dtype: str = "auto",
    experts: str = LOSSLESS,
    device: str = "auto",
    fast: int | None = None,
    context: int = 4_096,
    slots: Sequence[int] = (),
    trace: Trace | None = None,
    run: Run | None = None,
    counts: Counts | None = None,
    link: str = "",
    fast_speed: float | None = None,
) -> Plan:
    """The plan for a folder or hub id (empty: the bundled model) on this machine.

    experts: how the slow tier keeps them, a name of `lossy.EXPERTS`; device: auto (what is here), cpu, or an
    accelerator's name, of one that may be in another machine; fast: bytes of the fast tier (None: what is
    free); run: the recorded run of `trace`; counts: of this model's experts, without order; link: as
    `machines.find` takes it, or MEASURE; fast_speed: GB/s at which the fast tier reads its own memory (None:
    measured where it is RAM). Raises ModelError, SettingsError, StoreError.
    """
    read = headers.read(model or str(BUNDLED))
    check_type(model, read.config)
    name = BUNDLED_NAME if not model or Path(model).resolve() == BUNDLED.resolve() else model
    memory = this_machine(fast, device)
    size = _size(read, name, dtype, experts, memory.fast_is_host)
    same = trace is not None and (planned.who(trace.model), trace.mean_bytes) == (
        planned.who(name),
        size.mean_bytes,
    )
    own = run if same else None
    machine = trace.recorded.get("machine", "a machine that it does not name") if trace is not None else ""
    in_latency = not link and size.kept and own is not None and _unpacks_in_latency(own)
    found = plans.plan(
        name,
        size,
        memory,
        context=min(context, size.longest or context),
        slots=slots,
        trace=trace,
        counts=None if counts is None else counts.counts,
        link=_link(link, size, own),
        compute=_compute(name, size, memory, own, machine, fast_speed),
        unpacking=None if in_latency else _unpacking(name, size, memory, own),
    )
    notes = [*found.notes]
    if found.unpacking is not None:
        notes.append(words.unpacking(found.unpacking.ms, size.mean_moved, size.mean_bytes))
    if in_latency:
        notes.append(_IN_LATENCY)
    if planned.damaged(name):
        notes.append(
            f"What was kept of earlier plans and runs is damaged, and is left out: {planned.file()}."
        )
    return replace(found, notes=tuple(notes))


def _size(read: Headers, name: str, dtype: str, experts: str, on_cpu: bool) -> ModelSize:
    """Sizes in the dtype of the run. On a CPU `auto` is measured once the model is loaded: until this one has
    run, the plan takes float32 and says so.
    """
    own = checkpoint_dtype(read.config)
    if dtype != "auto" or not on_cpu or own == "float32":
        return sizes(read, own if dtype == "auto" else dtype, experts)
    before, found = planned.last_alike(name, on_cpu), sizes(read, own, experts)
    if before is not None and found.mean_bytes == before.expert_bytes:
        return found
    found = sizes(read, "float32", experts)
    note = (
        f"On a CPU a run takes the faster of float32 and {own}, measured as it loads; --dtype plans for one."
    )
    return replace(found, notes=(*found.notes, note))


def rows(plan: Plan) -> list[tuple[str, str]]:
    """A plan for people, (name, text) each."""
    size, memory, layers = plan.size, plan.memory, plan.size.layers
    packed, unpacked = ({getattr(layer, kind) for layer in layers} for kind in ("packed", "unpacked"))
    experts = {layer.experts for layer in layers}
    limit = ", this model's own limit: it takes no more" if plan.context == size.longest else ""
    keys = words.UNKNOWN if plan.cache_bytes is None else words.memory(plan.cache_bytes)
    found = [
        ("Model", f"{plan.model} ({size.architecture}), planned in {size.dtype}"),
        ("MoE layers", f"{len(layers)}, each of {_range(experts, str)} experts, {size.k} for each token"),
        ("Dense part", f"{words.memory(size.dense)} ({words.memory(size.dense_packed)} in the checkpoint)"),
        ("One expert", f"{_range(unpacked)} in a slot ({_range(packed)} in the checkpoint)"),
        ("On disk and link", _kept_as(plan)),
        ("All", f"{words.memory(size.all_unpacked)} ({words.memory(size.all_packed)} in the checkpoint)"),
        ("Keys and values", f"{keys} for {words.many(plan.context, 'token')}{limit}"),
        ("Fast tier", f"{words.memory(memory.fast)}: {memory.fast_what}"),
        ("Slots that fit", _slots(plan)),
    ]
    need = words.memory(size.slow_tier)
    room = f"{need} of {words.memory(memory.disk)} free in {memory.disk_where}"
    found.append(("Slow tier disk", f"{_fits(plan.disk_fits)}: {room}"))
    found.append(
        ("Link", plan.link.label if plan.link else "not known: add --link, for example --link measure")
    )
    found.append(("Compute", _compute_row(plan.compute)))
    if (ran := planned.last(plan.model)) is not None:
        found += planned.off_by(ran)
    for row in plan.rows:
        has = f"{_fits(row.fits)}: fast tier {words.memory(row.fast)} of {words.memory(memory.fast)}"
        there = f"slow tier host {_fits(row.host_fits)}: {need} of {words.memory(memory.host)}"
        beside = " beside them" if memory.fast_is_host else ""
        found.append((f"{words.many(row.slots, 'slot')} a layer", f"{has}; {there}{beside}"))
        for one in row.expected:
            found.append((f"  {one.policy}", f"{words.percent(one.hit_ratio)} hit{_speed(one.band)}"))
    return found


def _kept_as(plan: Plan) -> str:
    """How the slow tier holds an expert, whether that is lossless, and what unpacking it takes."""
    size = plan.size
    moved = f"{_range({layer.moved for layer in size.layers})} an expert"
    if not size.kept:
        return f"{moved}, as in a slot; lossless"
    how = f"{moved}, in {size.kept}; {'LOSSY' if EXPERTS.get(size.kept) else 'lossless'}"
    if plan.unpacking is None:
        return how
    return f"{how}; unpacked in {words.milliseconds(plan.unpacking.ms)}, {plan.unpacking.source}"


def _compute_row(compute: Compute | None) -> str:
    if compute is None:
        return "not known: add --fast-speed GB/s, or --trace with a measured run of this model"
    least = "at least " if compute.at_least else ""
    return f"{least}{words.milliseconds(compute.ms)} a token, {compute.source}"


def _range(values: set[int], say: Callable[[int], str] = words.memory) -> str:
    least, most = min(values), max(values)
    return say(least) if least == most else f"{say(least)} to {say(most)}"


def _slots(plan: Plan) -> str:
    size = plan.size
    if plan.slots >= size.num_experts:
        return f"all {size.num_experts} of every MoE layer: nothing has to be offloaded"
    spare = words.memory(plans.fast_bytes(size, plan.slots, plan.context))
    short = (
        "" if plan.slots >= size.k else f"; a token needs {size.k}, so that it does not run in this memory"
    )
    beside = f"{spare} with the dense part, keys and values"
    return f"{plan.slots} of {size.num_experts} in each MoE layer ({beside}){short}"


def _fits(yes: bool) -> str:
    return "fits" if yes else "does NOT fit"


def _speed(band: plans.Band | None) -> str:
    if band is None:
        return ""
    copied = f", {words.mean(band.misses, 'copy')} and {words.milliseconds(band.copies_ms)} of link a token"
    if band.most is None:
        return f"{copied}: no limit by the link"
    least = "at most " if band.least is None else f"{words.digits(band.least)} to "
    return f"{copied}: {least}{words.speed(band.most)}"


# this machine


def this_machine(fast: int | None = None, device: str = "auto") -> Memory:
    """What is free here. fast: bytes of the fast tier, where the user says so; device: auto, cpu, or an
    accelerator's name, perhaps with its number. Raises SettingsError where nothing says how much of its
    memory is free, and for a device that torch has no kind of.
    """
    kind, _, number = device.partition(":")
    if kind not in DEVICES or not (device == kind or (number.isdecimal() and len(number) < 4)):
        raise SettingsError(
            f"device {device[:40]!r} is not known. Choose one of {', '.join(DEVICES)}, or cuda:1."
        )
    host = tiers.host_free()
    disk, where = tiers.disk_free(cache_folder())
    accelerator = None if kind == "cpu" else tiers.accelerator_free(kind, int(number or 0))
    on_host = kind == "cpu" or (kind == "auto" and accelerator is None)
    free = host if on_host else accelerator
    what = "RAM that is free on this machine" if on_host else "free on the accelerator"
    if number and not on_host:
        what += f" {device}"
    if fast is not None:
        what = f"as --fast says, of {'RAM' if on_host else 'an accelerator'}"
        if device == "auto" and on_host:
            what += " (of a card: --device cuda)"
        free = fast
    if free is None:
        raise SettingsError(
            f"Nothing here says how much memory of device {device!r} is free. Say it, for example --fast "
            "24GB."
        )
    return Memory(free, what, on_host, host, disk, str(where))


def _link(text: str, size: ModelSize, own: Run | None) -> Machine | None:
    """The link that a user named; left out: that of the recorded run of this model."""
    if text == MEASURE:
        return tiers.measure_disk(max(layer.moved for layer in size.layers), cache_folder())
    if text or own is None or own.tier is None or not own.tier.gigabytes_per_second:
        return find(text)
    tier = own.tier
    return plans.as_measured(
        f"{tier.kind}, as the trace's run measured it",
        tier.latency_ms - tier.unpack_ms,
        tier.gigabytes_per_second,
        own.mean_copied,
    )


def _unpacks_in_latency(own: Run) -> bool:
    """Whether a run measured copying and unpacking as one time: one of packed experts, recorded before the
    two were told apart."""
    return own.tier is not None and not own.tier.unpack_ms and own.mean_copied < own.mean_bytes


def _compute(
    name: str, size: ModelSize, memory: Memory, own: Run | None, machine: str, fast_speed: float | None
) -> Compute | None:
    """What a token takes without copies: as this model's last run had it, else at least what reading its
    weights takes.
    """
    if fast_speed is None:
        before = planned.last_alike(name, memory.fast_is_host)
        if before is not None and before.compute_ms is not None and before.expert_bytes == size.mean_bytes:
            return Compute(before.compute_ms, "as the last run of this model measured it here")
        if own is not None and (parts := timing.stack(own)) is not None:
            return Compute(parts.compute + parts.other, f"as the trace's run measured it on {machine}")
        if not memory.fast_is_host:
            return None
        speed = tiers.memory_speed()
        source = f"from RAM at {words.rate(speed)}, as measured"
    else:
        speed, source = fast_speed, f"at {fast_speed:g} GB/s"
    source = f"to read its weights once {source}; after a run, a plan knows what it takes"
    return Compute(size.active / speed / 1e6, source, at_least=True)


def _unpacking(name: str, size: ModelSize, memory: Memory, own: Run | None) -> Compute | None:
    """What unpacking an expert takes: as this model's last run had it, as the trace's run, else as this
    processor does it.
    """
    if not size.kept:
        return None
    bytes_of, ran = (size.mean_bytes, size.mean_moved), planned.last_alike(name, memory.fast_is_host)
    if ran is not None and ran.unpack_ms and (ran.expert_bytes, ran.moved_bytes) == bytes_of:
        return Compute(ran.unpack_ms, "as the last run of this model measured it here")
    if own is not None and own.tier is not None and own.tier.unpack_ms and own.mean_copied == bytes_of[1]:
        return Compute(own.tier.unpack_ms, "as the trace's run measured it")
    if not memory.fast_is_host:
        return None
    took = unpack_ms(size.kept, size.dtype, size.matrices)
    return None if took is None else Compute(took, "measured here")

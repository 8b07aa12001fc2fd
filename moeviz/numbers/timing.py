"""Where the time of a measured run went, each number with its formula; what a run would take elsewhere is the
business of `moeviz.numbers.cost`.

    timed(run).tokens_per_second
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from moeviz.core.run import Run
from moeviz.core.trace import DECODE, PREFILL


@dataclass(frozen=True, slots=True)
class Stack:
    """Where the time of an output token goes, in ms: a mean over decode passes.

    Adds up to the time per output token.
    """

    compute: float  # experts at work
    stall: float  # compute waits for a copy
    other: float  # the dense part, the choice of the token, bookkeeping


def stack(run: Run) -> Stack | None:
    """None where the run was not measured or has no decode pass."""
    if run.times is None or not (run.passes.phase == DECODE).any():
        return None
    decode = run.passes.phase == DECODE
    events = decode[run.events.forward_pass]
    passes = int(decode.sum())
    compute = run.times.event_compute[events].sum() / passes / 1e6
    stall = run.times.event_stall[events].sum() / passes / 1e6
    wall = run.times.pass_wall[decode].sum() / passes / 1e6
    return Stack(float(compute), float(stall), float(wall - compute - stall))


def transfer_ms_per_token(run: Run) -> float | None:
    """Time that the link was busy with copies issued in decode, per output token."""
    if run.times is None or not (run.passes.phase == DECODE).any():
        return None
    began = (run.times.load_start >= 0) & (
        run.passes.phase[run.events.forward_pass[run.loads.event]] == DECODE
    )
    busy = (run.times.load_end - run.times.load_start)[began].sum()
    return float(busy / (run.passes.phase == DECODE).sum() / 1e6)


def overlap(run: Run) -> float | None:
    """1 - stall / transfer of decode: the share of copying that compute did not wait for.

    None where nothing was copied or measured.
    """
    transfer, parts = transfer_ms_per_token(run), stack(run)
    return 1 - parts.stall / transfer if transfer and parts else None


def achieved_gigabytes_per_second(run: Run) -> float | None:
    """Bytes of all copies / time that the link was busy; to be held against the tier's own.

    None where nothing was copied or measured.
    """
    if run.times is None:
        return None
    began = run.times.load_start >= 0
    busy = int((run.times.load_end - run.times.load_start)[began].sum())
    return float(run.copied_bytes[run.loads.layer[began]].sum() / busy) if busy else None


def bandwidth_bound_ms(run: Run, unavoidable_misses: int) -> float | None:
    """Least time per output token: max(compute and other, bytes of unavoidable misses / the tier's
    bandwidth). None where not measured.

    unavoidable_misses: belady's in decode, at the same slots and scope.
    """
    parts = stack(run)
    if parts is None or run.tier is None:
        return None
    tokens = int((run.passes.phase == DECODE).sum())
    link = unavoidable_misses * run.mean_copied / tokens / (run.tier.gigabytes_per_second * 1e6)
    return max(parts.compute + parts.other, link)


@dataclass(frozen=True, slots=True)
class Timed:
    """What a timer said of a run. A number is None where the run has no pass that it could be of.

    In a batch a pass brings a token to every prompt: tokens per second count them all, the others are times
    of a pass.
    """

    tokens_per_second: float | None  # of decode
    ttft_ms: float  # time to first token
    tpot_ms_median: float | None  # time per output token
    tpot_ms_p95: float | None
    stall_ms_per_token: float | None
    compute_ms_per_token: float | None
    transfer_ms_per_token: float | None


def timed(run: Run) -> Timed | None:
    """None where the run was not measured."""
    if run.times is None:
        return None
    decode = run.passes.phase == DECODE
    decode_ms = run.times.pass_wall[decode] / 1e6
    parts = stack(run)
    known = decode_ms.size > 0
    return Timed(
        tokens_per_second=run.tokens_per_second,
        ttft_ms=float(run.times.pass_wall[run.passes.phase == PREFILL].sum() / 1e6),
        tpot_ms_median=float(np.median(decode_ms)) if known else None,
        tpot_ms_p95=float(np.percentile(decode_ms, 95)) if known else None,
        stall_ms_per_token=parts.stall if parts else None,
        compute_ms_per_token=parts.compute if parts else None,
        transfer_ms_per_token=transfer_ms_per_token(run),
    )

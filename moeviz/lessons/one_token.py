"""Lesson 0, "How it works": one token of the bundled model, step by step, read in a minute."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from moeviz.amounts import milliseconds, percent
from moeviz.charts.style import SERIES
from moeviz.core.run import HIT, MISS, Run
from moeviz.core.trace import DECODE, Trace
from moeviz.lessons import drawing
from moeviz.lessons.lab import Lab
from moeviz.lessons.lesson import Answer, Guess, Picture, Said, Shown, Try, lesson
from moeviz.numbers import metrics, timing
from moeviz.numbers.explain import Explainer
from moeviz.numbers.lanes import Segment, measured_lanes
from moeviz.words import size

WARM = 20  # forward passes until the cache is full
WORD = 4  # letters of a token that reads like a word
LOOKS = {  # kind of a stretch of time -> its name, and its colour
    "demand": ("copy", drawing.MISS_COLOR),
    "stall": ("waits", "none"),
    "expert": ("works", drawing.HIT_COLOR),
}


@dataclass(frozen=True, eq=False, slots=True)
class Moment:
    """One MoE layer in one forward pass: a hit, a miss, and somebody who leaves."""

    trace: Trace
    run: Run
    event: int
    load: int
    there: int  # the expert that was a hit
    missing: int  # the one that was not

    @property
    def step(self) -> int:
        return int(self.run.events.forward_pass[self.event])

    @property
    def layer(self) -> int:
        return int(self.run.events.layer[self.event])

    @property
    def victim(self) -> int:
        return int(self.run.loads.victim_expert[self.load])

    @property
    def token(self) -> int:
        return int(self.trace.passes()[self.step].start)


def moment(lab: Lab) -> Moment:
    """The first event of the changing sample's decode, once the cache is warm, with one hit and one miss
    that evicts.

    Of a token that reads like a word. Raises ValueError where there is none.
    """
    trace, run = lab.trace(), lab.recorded()
    loads, events = run.loads, run.events
    for event in np.flatnonzero((events.forward_pass >= WARM) & (events.layer > 0)):
        own = slice(int(run.access_at[event]), int(run.access_at[event + 1]))
        outcome, expert = run.accesses.outcome[own], run.accesses.expert[own]
        came = range(int(run.load_at[event]), int(run.load_at[event + 1]))
        demanded = [load for load in came if not loads.speculative[load] and loads.victim_expert[load] >= 0]
        word = trace.texts[trace.passes()[int(events.forward_pass[event])].start].strip()
        if sorted(outcome.tolist()) == [HIT, MISS] and len(demanded) == 1 and len(word) >= WORD:
            there, missing = int(expert[outcome == HIT][0]), int(expert[outcome == MISS][0])
            return Moment(trace, run, int(event), demanded[0], there, missing)
    raise ValueError("no event of the sample has one hit and one miss that evicts.")


def residents(found: Moment) -> list[int]:
    """Experts of the layer that had a slot before the event, ascending."""
    run = found.run
    held = {
        int(e) for layer, e in zip(run.start.layer, run.start.expert, strict=True) if layer == found.layer
    }
    for load in range(int(run.load_at[found.event])):
        if run.loads.victim_layer[load] == found.layer:
            held.discard(int(run.loads.victim_expert[load]))
        if run.loads.layer[load] == found.layer:
            held.add(int(run.loads.expert[load]))
    return sorted(held)


def _weights(found: Moment) -> list[float]:
    """What the router gave those that it chose; a trace holds no other's. Raises ValueError without them."""
    if found.trace.weights is None:
        raise ValueError("the sample holds no weights of its routers; the lesson needs them.")
    given: list[float] = found.trace.weights[found.token, found.layer].tolist()
    return given


def _drawn(found: Moment, upto: int, said: str, lanes: Sequence[Segment]) -> str:
    """Router, slots, link and compute, as far as the story has come."""
    trace, held = found.trace, residents(found)
    chosen = trace.experts[found.token, found.layer].tolist()
    weights = _weights(found)
    parts = [
        drawing.text(0, 16, "router", bold=True),
        drawing.text(0, 34, f"layer {found.layer}"),
        drawing.text(0, 122, "fast tier", bold=True),
        drawing.text(0, 140, f"{len(held)} slots"),
        drawing.text(0, 222, "slow tier", bold=True),
        drawing.text(0, 240, "all experts"),
    ]
    side, left = 34.0, 88.0
    for expert in range(trace.num_experts):
        x = left + expert * (side + 7)
        wanted = upto >= 1 and expert in chosen
        parts.append(drawing.text(x + side / 2, 18, str(expert), "middle"))
        if wanted:
            share = weights[chosen.index(expert)]
            parts.append(drawing.box(x, 26, side * share, 22, SERIES[1], stroke="none"))
            parts.append(drawing.text(x + side / 2, 64, percent(share, 0), "middle", bold=True))
        parts.append(drawing.box(x, 26, side, 22))
        gone = upto >= 4 and expert == found.victim
        came = upto >= 4 and expert == found.missing
        if upto >= 2 and ((expert in held and not gone) or came):
            color = drawing.KEPT_COLOR
            if upto >= 3 and expert in chosen:
                color = drawing.HIT_COLOR
            parts.append(drawing.box(x, 104, side, 44, color))
            mark = "●" if upto >= 3 and expert == found.there else "✓" if came else ""
            parts.append(drawing.text(x + side / 2, 133, f"{expert} {mark}".strip(), "middle", 15, bold=True))
        elif upto >= 2:
            parts.append(drawing.box(x, 104, side, 44))
            if gone:
                parts.append(drawing.text(x + side / 2, 131, "left", "middle"))
            if upto == 3 and expert == found.missing:
                parts.append(drawing.text(x + side / 2, 133, "✕", "middle", 18, bold=True))
        parts.append(drawing.box(x, 204, side, 40))
        parts.append(drawing.text(x + side / 2, 229, str(expert), "middle"))
        if came:
            middle = x + side / 2
            parts.append(drawing.rule(middle, 200, middle, 156, "6 4", drawing.MISS_COLOR))
            parts.append(
                f'<path d="M{middle - 7:.0f} 164L{middle:.0f} 152L{middle + 7:.0f} 164z" '
                f'fill="{drawing.MISS_COLOR}"/>'
            )
    height = 262.0
    if upto >= 5:
        begin, end = min(one.start for one in lanes), max(one.end for one in lanes)
        scale, height = (drawing.WIDTH - 110) / max(end - begin, 1e-9), 330.0
        rows = {"link": 262.0, "compute": 294.0}
        parts += [drawing.text(0, y + 17, name, bold=True) for name, y in rows.items()]
        for one in lanes:
            (kind, fill), y = LOOKS[one.kind], rows[one.lane]
            x, wide = left + (one.start - begin) * scale, (one.end - one.start) * scale
            parts.append(drawing.box(x, y, wide, 24, fill))
            labels = f"{kind} {milliseconds(one.end - one.start)}", kind
            fitting = [label for label in labels if 16 + drawing.LETTER * len(label) < wide]
            parts += [drawing.text(x + 8, y + 17, label) for label in fitting[:1]]
    return drawing.page(height, said, *parts)


def pictures(lab: Lab) -> tuple[Picture, ...]:
    """The steps of one event, and the sum over the token."""
    found = moment(lab)
    trace, run, times = found.trace, found.run, found.run.times
    assert times is not None, "the lab's runs are measured"
    chosen = trace.experts[found.token, found.layer].tolist()
    held = residents(found)
    copied = float(times.load_end[found.load] - times.load_start[found.load]) / 1e6
    waited = times.event_stall[found.event] / 1e6
    lanes = [one for one in measured_lanes(run, found.step) if one.layer == found.layer and one.kind in LOOKS]
    left = next(
        one
        for one in Explainer(trace, run.settings).evictions(found.step, found.layer)
        if one.expert == found.victim
    )
    events = run.events.forward_pass == found.step
    stall, compute = (float(one[events].sum()) / 1e6 for one in (times.event_stall, times.event_compute))
    wall = float(times.pass_wall[found.step]) / 1e6
    token = trace.texts[found.token].strip()
    shares = " and ".join(percent(one, 0) for one in _weights(found))
    said = (
        f"The token “{token}” reaches MoE layer {found.layer}. Its {trace.num_experts} experts are small "
        "networks. Computing all for every token would be slow, so a router chooses.",
        f"The router scores every expert and takes the {trace.k} highest: {chosen[0]} and {chosen[1]}. Shown "
        f"are the scores of these two, by which they will count: {shares}. The others' are not recorded.",
        "All experts live in the slow tier. The fast tier, where computing happens, has room for "
        f"{len(held)} of this layer's: its slots hold {', '.join(map(str, held))}.",
        f"Expert {found.there} is there: a hit. Expert {found.missing} is not: a miss.",
        f"Every slot is taken, so somebody leaves. {left.sentence.split('. Belady')[0].rstrip('.')}. "
        f"Expert {found.missing} crosses the link: {size(run.mean_copied)}.",
        f"The copy took {milliseconds(copied)}. Compute does what it can meanwhile, then waits "
        f"{milliseconds(waited)} for expert {found.missing}: a stall. Then both results are mixed by their "
        "scores.",
        f"Over all {trace.layers} MoE layers this token took {milliseconds(wall)}: "
        f"{milliseconds(compute)} computing experts, {milliseconds(stall)} waiting for copies, "
        f"{milliseconds(wall - compute - stall)} for the rest of the model.",
    )
    drawn = [_drawn(found, min(step, 5), text, lanes) for step, text in enumerate(said[:-1])]
    rest = max(wall - compute - stall, 0.0)
    sum_of = drawing.stacks(
        [(f"token {found.step}", [("rest of the model", rest), ("experts", compute), ("waiting", stall)])],
        "Where this token's time went",
        "ms",
    )
    return tuple(Picture(svg, text) for svg, text in zip([*drawn, sum_of], said, strict=True))


@lesson(
    0,
    "How it works: a model whose experts do not fit",
    minutes=4,  # for a class; to read it takes one
    read=(
        "A mixture-of-experts model keeps most of its weights in experts, and uses few of them for each "
        "token. So they can live where there is much room but little speed, and be copied when needed.",
        "Follow one token of the model that comes with moeviz, in one minute. Every number was measured.",
    ),
    ask="Over the whole text: what percentage of a token's time is spent waiting for experts to be copied?",
    predict=Guess(0, 100, "%", close=8),
    claim=(10, 50),
    pictures=pictures,
    goes_wrong="Some take the expert cache for a cache of results. What is kept are weights: nothing "
    "that was computed is used twice. Some expect the wait to be nearly everything; ask what else has to "
    "happen for a token.",
    try_it=Try("stage", "Watch every token on the stage", {"trace": "sample: change-of-subject"}),
)
def answer(lab: Lab) -> Answer:
    run = lab.recorded()
    parts = timing.stack(run)
    assert parts is not None, "the sample decodes"
    whole = parts.compute + parts.stall + parts.other
    found = moment(lab)
    hits = metrics.counts(run, DECODE)
    misses = (hits.accesses - hits.hits) / max(int((run.passes.phase == DECODE).sum()), 1)
    needs = found.trace.k * found.trace.layers
    why = (
        Said(
            f"Of {milliseconds(whole)} per token, compute waits {milliseconds(parts.stall)}: "
            f"{percent(parts.stall / whole, 0)}. It computes experts for {milliseconds(parts.compute)}; "
            f"the rest of the model takes {milliseconds(parts.other)}."
        ),
        Said(
            f"A token needs {needs} experts, {found.trace.k} in each of {found.trace.layers} layers. "
            f"{misses:.1f} of them are misses, and each is a copy of {size(run.mean_copied)}. With fewer "
            "misses, less waiting: that is what a cache policy is for.",
            0 < misses < needs,
        ),
    )
    title = "One token: who is needed, who is there, who crosses the link"
    stage = Shown(found.trace, (run.settings,), title, found.step, (0, found.layer, found.missing), run)
    return Answer(100 * parts.stall / whole, why, stage)

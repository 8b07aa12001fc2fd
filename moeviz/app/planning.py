"""A plan for a model before it is loaded, on What if: the numbers of `python -m moeviz plan`, and that
command.

The model's folder is typed here and comes from nowhere else: no link opens one.
"""

from __future__ import annotations

import re
import shlex
from contextlib import suppress
from typing import NamedTuple

import pandas as pd
import streamlit as st

from moeviz import words
from moeviz.amounts import byte_count
from moeviz.app import forms, jobs, machines, traces
from moeviz.app.show import plain
from moeviz.core.machines import TYPED, Machine
from moeviz.engine import plan as plans
from moeviz.engine import planned
from moeviz.errors import MoevizError
from moeviz.files import library
from moeviz.numbers.lossy import EXPERTS, LOSSLESS
from moeviz.numbers.plan import ASSUMPTIONS, Plan

NONE = "none"
FIELDS = {  # what the command line has an option for -> where it is said here
    "--fast-speed": "“Speed of the fast tier” (More, beside it)",
    "--fast": "“Memory of the fast tier”",
    "--experts": "“Experts”",
    "--device": "“Device” (More, beside it)",
    "--link": "“Slow tier” (above)",
    "--trace": "“Trace” (at the top)",
    "--calibration": "“Counts” (More, beside it)",
    "--dtype": "“--dtype” of the command below",
}
CONTEXT = 4_096  # tokens
COUNTS = "counts.moecounts"


class Made(NamedTuple):
    """A plan, and what it was made with."""

    plan: Plan
    trace: str  # name; "" for none
    command: str  # that gives it too
    files: tuple[
        tuple[str, str], ...
    ]  # name in the app and file name of what that command reads and no file is


def section(here: traces.Here | None, place: Machine | None) -> None:
    """The form, and the plan that it was last asked for.

    here: the trace that tells hit ratios; place: the slow tier chosen on the page.
    """
    with st.expander("Plan for a model, before anything is loaded", icon=":material/memory:", key="plan"):
        with st.form("plan-form", border=False):
            asked = _asked()
            if st.form_submit_button("Plan", type="primary"):
                st.session_state.plan = _made(here, place, *asked)
        found = st.session_state.get("plan")
        if isinstance(found, str):
            st.error(plain(found))
        elif found is not None:
            _show(found, here.name if here else "")


def _asked() -> tuple[str, str, str, str, int, float, str]:
    """Model, how its experts are kept, fast memory, its device, context, GB/s of the fast tier, counts."""
    with st.container(horizontal=True, vertical_alignment="bottom"):
        model = st.text_input(
            "Model",
            key="plan_model",
            placeholder="the bundled model",
            width=330,
            help="A folder that save_pretrained wrote, or a hub id. Only its configuration and the headers "
            "of its safetensors files are read.",
        )
        experts = st.selectbox(
            "Experts",
            list(EXPERTS),
            key="plan_experts",
            width=130,
            help=words.tooltip("expert", more=words.KEPT),
        )
        fast = st.text_input(
            "Memory of the fast tier",
            key="plan_fast",
            placeholder="what is free here",
            width=190,
            help=words.tooltip("fast tier", more="For example 8GiB. Left out: what is free on this machine."),
        )
        with forms.more(plan_device="auto", plan_context=CONTEXT, plan_speed=0.0, plan_counts=NONE):
            device = st.text_input(
                "Device",
                "auto",
                key="plan_device",
                help=words.tooltip(
                    "device",
                    "fast tier",
                    more="auto: what is here; cpu; or cuda, cuda:1, ... of any machine, with its memory.",
                ),
            )
            context = st.number_input(
                "Context in tokens",
                1,
                10_000_000,
                CONTEXT,
                key="plan_context",
                help=words.tooltip("context", "token"),
            )
            speed = st.number_input(
                "Speed of the fast tier, GB/s",
                0.0,
                100_000.0,
                0.0,
                key="plan_speed",
                help=words.tooltip(
                    "fast tier",
                    more="How fast it reads its own memory. 0: measured, where it is this machine's RAM.",
                ),
            )
            counted = NONE
            if names := list(jobs.desk().counted):
                counted = st.selectbox(
                    "Counts", [NONE, *names], key="plan_counts", help=words.tooltip("calibration")
                )
    return model.strip(), experts, fast.strip(), device.strip() or "auto", int(context), float(speed), counted


def _made(
    here: traces.Here | None,
    place: Machine | None,
    model: str,
    experts: str,
    fast: str,
    device: str,
    context: int,
    speed: float,
    counted: str,
) -> Made | str:
    """The plan, or one message."""
    counts = jobs.desk().counted.get(counted)
    try:
        memory = byte_count(fast) if fast else None
    except ValueError:
        return f"The memory {fast[:40]!r} is not known. Write for example 8GiB or 8GB."
    link = _link(place)
    try:
        with st.spinner("Reading the model's configuration"):
            found = plans.make(
                model,
                experts=experts,
                fast=memory,
                device=device,
                context=context,
                trace=here.trace if here else None,
                run=here.run if here else None,
                counts=counts,
                link=link,
                fast_speed=speed or None,
            )
    except (MoevizError, OSError) as error:
        return said(str(error))
    with suppress(OSError):  # a plan is of use where it cannot be kept, too
        planned.remember(found)
    parts = ["python", "-m", "moeviz", "plan", *([model] if model else []), "--context", str(context)]
    parts += ["--experts", experts] if experts != LOSSLESS else []
    parts += ["--fast", fast] if fast else []
    parts += ["--device", device] if device != "auto" else []
    parts += ["--link", link] if link else []
    parts += ["--fast-speed", f"{speed:g}"] if speed else []
    missing = []
    if here is not None:
        file = traces.file(here.name) if here.name in traces.names() else None  # a window has none
        name = library.safe_name(here.name.partition(": ")[2] or here.name) + library.SUFFIX
        parts += ["--trace", str(file or name)]
        missing += [] if file else [(here.name, name)]
    if counts is not None:
        parts += ["--calibration", COUNTS]
        missing.append((counted, COUNTS))
    return Made(found, here.name if here else "", shlex.join(parts), tuple(missing))


def _link(place: Machine | None) -> str:
    """As `--link` takes it; empty for none, and for the own run's, which a plan takes by itself."""
    if place is None or place.name == machines.OWN:
        return ""
    return f"{place.gigabytes_per_second:g},{place.latency_ms:g}" if place.name == TYPED else place.name


def said(text: str) -> str:
    """A plan's text with the page's own fields in place of options of the command line."""
    text = text.replace(", for example --link measure", "").replace("--device cuda", "cuda as --device")
    for option, field in FIELDS.items():
        text = re.sub(rf"{option}(?![\w-])", field, text)
    return text


def _show(found: Made, trace: str) -> None:
    """The plan. trace: the name of the page's own now, "" for none."""
    if found.trace != trace:
        st.info(plain(f"Made with {found.trace or 'no trace'}. Plan again for what is chosen now."))
    rows = [(plain(name.strip()), plain(said(text))) for name, text in plans.rows(found.plan)]
    st.markdown("**The plan**", help=words.tooltip(*(name for name, _ in rows)))
    st.table(pd.DataFrame(rows, columns=["what", "planned"]).set_index("what"))
    for sentence in (*found.plan.notes, *ASSUMPTIONS):
        st.caption(plain(said(sentence)))
    st.code(found.command, language="bash")
    for name, file in found.files:
        st.caption(plain(f"The command reads {file}: download {name} in the Library under that name first."))

"""Widgets that several pages ask with, and the command lines that do what was asked."""

from __future__ import annotations

import shlex
from dataclasses import dataclass, replace
from typing import Any

import streamlit as st

from moeviz.app import common
from moeviz.core.policies import POLICIES
from moeviz.core.predictors import PREDICTORS
from moeviz.core.settings import DEFAULTS, SCOPES, SETTINGS, WARM, Settings
from moeviz.engine.client import Job, ModelSpec
from moeviz.errors import SettingsError

POLICY_HELP = "Who leaves when an expert needs a slot:\n" + "\n".join(
    f"- **{name}** {one.text}" for name, one in POLICIES.items()
)


PREFETCH_HELP = "Guess what the next layer needs and copy it early:\n" + "\n".join(
    f"- **{name}** {one.text.splitlines()[0]}" for name, one in PREDICTORS.items()
)


@dataclass(frozen=True)
class Preset:
    """A few words to start from."""

    prompt: str
    then: str = ""  # fed halfway


PRESETS = {
    "Bible": Preset("And it came to pass in those days, that"),
    "Spanish": Preset("Y aconteció después de estas cosas, que"),
    "German": Preset("Die Konfigurationsdatei enthält"),
    "Python": Preset("class Parser:\n    def __init__(self, name):\n        "),
    "Jargon": Preset(":hack: n. A program that"),
    "Changes subject": Preset(
        "Die Konfigurationsdatei enthält", then="\n\ndef main(argv):\n    for name in argv:\n        "
    ),
}


def prompt_controls(prefix: str) -> tuple[str, str]:
    """Preset and prompt; gives (prompt, the text fed halfway)."""
    key = f"{prefix}_prompt"

    def fill() -> None:
        if chosen := st.session_state[f"{prefix}_preset"]:
            st.session_state[key] = PRESETS[chosen].prompt

    st.session_state.setdefault(key, PRESETS["Bible"].prompt)
    st.pills(
        "Prompt: start from a preset, or write your own",
        list(PRESETS),
        key=f"{prefix}_preset",
        on_change=fill,
        default="Bible",
    )
    prompt = st.text_area("Prompt", key=key, height=68, label_visibility="collapsed")
    chosen = PRESETS.get(st.session_state[f"{prefix}_preset"] or "")
    then = chosen.then if chosen and prompt == chosen.prompt else ""
    if then:
        st.caption(
            f"Halfway the text changes to `{' '.join(then.split())}`, fed token by token; then the model goes on."
        )
    return prompt, then


def settings_controls(name: str, first: Settings, *, sampled: int = 0) -> Settings | None:
    """Widgets of one Settings; None, after one message, where they do not fit together. `name` tells several apart in the URL."""
    columns: Any = {"bind": "query-params"}
    policy = st.selectbox(
        "Policy",
        list(POLICIES),
        list(POLICIES).index(first.policy),
        key=f"policy{name}",
        help=POLICY_HELP,
        width=150,
        **columns,
    )
    scope = st.session_state.get(f"scope{name}", first.scope)
    slots = st.number_input(
        "Slots per layer" if scope == "layer" else "Slots in all",
        1,
        100_000,
        first.slots,
        key=f"slots{name}",
        width=130,
        help=f"{SETTINGS['slots'].help}. The bundled model has 8 layers of 8 experts and uses 2 of each layer at a time.",
        **columns,
    )
    prefetch = st.selectbox(
        "Pre-fetch",
        list(PREDICTORS),
        list(PREDICTORS).index(first.prefetch),
        key=f"prefetch{name}",
        help=PREFETCH_HELP,
        width=160,
        **columns,
    )
    with st.popover("More", icon=":material/more_horiz:"):
        st.segmented_control(
            "Scope",
            list(SCOPES),
            default=first.scope,
            required=True,
            key=f"scope{name}",
            **columns,
            help="\n".join(f"- **{n}**: {what}" for n, what in SCOPES.items()),
        )
        lookahead = st.number_input(
            "Lookahead",
            1,
            8,
            DEFAULTS["lookahead"],
            key=f"lookahead{name}",
            help=SETTINGS["lookahead"].help,
            **columns,
        )
        width = st.number_input(
            "Width",
            0,
            512,
            DEFAULTS["width"],
            key=f"width{name}",
            help=SETTINGS["width"].help,
            **columns,
        )
        threshold = st.number_input(
            "Threshold",
            0.0,
            1.0,
            DEFAULTS["threshold"],
            0.1,
            key=f"threshold{name}",
            **columns,
            help=SETTINGS["threshold"].help,
        )
        warm = st.selectbox(
            "Warm start",
            list(WARM),
            key=f"warm{name}",
            help="\n".join(f"- **{n}**: {what}" for n, what in WARM.items()),
            **columns,
        )
        calibration = st.selectbox(
            "Calibration trace",
            common.sample_names(),
            key=f"calibration{name}",
            accept_new_options=True,
            help=SETTINGS["calibration"].help,
        )
        half_life = st.number_input(
            "Half-life in tokens",
            1,
            100_000,
            DEFAULTS["half_life"],
            key=f"halflife{name}",
            help=SETTINGS["half_life"].help,
            **columns,
        )
    try:
        settings = Settings(
            policy,
            slots,
            scope,
            prefetch,
            lookahead,
            width,
            float(threshold),
            warm,
            calibration or "",
            half_life,
            sampled,
        )
    except SettingsError as error:
        st.error(str(error))
        return None
    return settings if settings.needs_calibration else replace(settings, calibration="")


def model_controls(prefix: str) -> tuple[ModelSpec, dict[str, Any]]:
    """Model, tier and sampling, behind a popover: nobody needs them for a first look."""
    with st.popover("Model and tier", icon=":material/tune:"):
        name = st.text_input(
            "Model",
            key=f"{prefix}_model",
            placeholder="the bundled model",
            help="A folder that save_pretrained wrote, or a hub id, of any mixture-of-experts model of transformers.",
        )
        tier = st.segmented_control(
            "Slow tier",
            ["disk", "host"],
            default="disk",
            required=True,
            key=f"{prefix}_tier",
            bind="query-params",
            help="disk: files read past the page cache. host: RAM, copied into the slots.",
        )
        device = st.text_input(
            "Fast tier",
            "auto",
            key=f"{prefix}_device",
            help="auto: the accelerator if there is one; or cpu, cuda, ...",
        )
        temperature = st.number_input(
            "Temperature", 0.0, 2.0, 0.7, 0.1, key=f"{prefix}_temperature", help="0: the likeliest token."
        )
        seed = st.number_input("Seed", 0, 2**31 - 1, 0, key=f"{prefix}_seed", bind="query-params")
    return ModelSpec(name.strip(), tier, device.strip() or "auto"), {"temperature": temperature, "seed": seed}


def run_or_stop(label: str, icon: str, job: Job | None) -> bool:
    """One button: it starts a job, or stops the one that runs. True where a job is to start."""
    if job is None or job.finished:
        return st.button(
            label, type="primary", icon=icon, shortcut="g"
        )  # R is taken: Streamlit reruns a page with it
    if st.button("Stop", icon=":material/stop:"):
        common.client().stop(job)
    return False


def changed(settings: Settings) -> dict[str, Any]:
    """Fields that differ from what moeviz takes when nothing is said, and always the policy and the slots."""
    plain = Settings().to_dict()
    return {
        name: value
        for name, value in settings.to_dict().items()
        if name in ("policy", "slots") or value != plain[name]
    }


def setting(settings: Settings) -> str:
    """As `python -m moeviz compare --setting` takes it."""
    return ",".join(f"{name}={value}" for name, value in changed(settings).items())


def flags(settings: Settings) -> list[str]:
    """As `python -m moeviz run` takes them."""
    return [
        part
        for name, value in changed(settings).items()
        if name != "seed"
        for part in (f"--{name.replace('_', '-')}", str(value))
    ]


def command(name: str, job: Job, *own: str) -> str:
    """The command line that does what a job did, ready to be copied; `own`: the flags of this command alone."""
    parts = [
        "python",
        "-m",
        "moeviz",
        name,
        *([job.model.name] if job.model.name else []),
        "--prompt",
        job.prompt,
        *own,
    ]
    parts += [
        "--max-new-tokens",
        str(job.max_new_tokens),
        "--temperature",
        str(job.temperature),
        "--seed",
        str(job.seed),
        "--past-end",
    ]
    return shlex.join(
        [
            *parts,
            "--tier",
            job.model.tier,
            "--device",
            job.model.device,
            *(["--then", job.then] if job.then else []),
            *(["--link", job.model.link] if job.model.link else []),
        ]
    )

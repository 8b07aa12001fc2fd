"""What a run of the model needs to be told besides the cache's settings: prompt, model, length, sampling."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import streamlit as st

from moeviz import words
from moeviz.app import forms
from moeviz.core.machines import LINKS
from moeviz.core.trace import Trace
from moeviz.engine.client import Job, ModelSpec
from moeviz.numbers.lossy import EXPERTS, LOSSLESS


@dataclass(frozen=True, slots=True)
class Preset:
    """A few words to start from."""

    prompt: str
    then: str = ""  # fed halfway
    tokens: int = 120


PRESETS = {
    "Bible": Preset("And it came to pass in those days, that"),
    "Spanish": Preset("Y aconteció después de estas cosas, que"),
    "German": Preset("Die Konfigurationsdatei enthält"),
    "Python": Preset("class Parser:\n    def __init__(self, name):\n        "),
    "Jargon": Preset(":hack: n. A program that"),
    "Changes subject": Preset(
        "Die Konfigurationsdatei enthält",
        then="\n\ndef main(argv):\n    for name in argv:\n        ",
        tokens=240,  # as many on each side as the others have in all
    ),
}
PACED = {f"{name}, paced": ("host", name) for name in LINKS}
REAL = "this disk"
TIERS = {
    **PACED,
    REAL: ("disk", ""),
    "this RAM": ("host", ""),
}  # name -> slow tier and what its link is paced to
TOKENS = 2, 100_000  # least and most that are asked for
LEAST_REPEATS = 5  # of fewer pairs the interval says little
DEFAULTS: dict[str, Any] = {
    "repeats": 5,
    "tier": "SATA SSD, paced",  # where LRU against LFU is a larger difference than a laptop's noise
    "temperature": 0.7,
    "seed": 0,
    "device": "auto",
    "model": "",
    "experts": LOSSLESS,
}


@dataclass(frozen=True, slots=True)
class Ask:
    """Everything but the cache's settings."""

    prompt: str
    then: str
    tokens: int
    repeats: int
    model: ModelSpec
    temperature: float
    seed: int

    def job(self, kind: str, settings: list[Any]) -> Job:
        return Job(
            kind,
            self.prompt,
            settings,
            self.model,
            max_new_tokens=self.tokens,
            temperature=self.temperature,
            seed=self.seed,
            stop_at_end=False,
            then=self.then,
            repeats=self.repeats,
        )


def preset_of(trace: Trace) -> str:
    """The preset whose text the trace begins with, so that a sample and its preset agree; "" where it begins
    with other words.
    """
    same = [name for name, one in PRESETS.items() if one.prompt == trace.prompt]
    changes = [
        name for name in same if PRESETS[name].then and PRESETS[name].then.strip() in "".join(trace.texts)
    ]
    return next(iter(changes or same), "")


def began_with(trace: Trace) -> tuple[str, str]:
    """The prompt of a run that gave a text like the trace's, and what was fed halfway."""
    return trace.prompt, _chosen(preset_of(trace)).then


def defaults(trace: Trace) -> dict[str, Any]:
    """What the widgets begin with, by their keys. Preset and prompt follow the trace, and the number of
    tokens the preset, where nobody chose another preset or wrote a prompt.
    """
    state = st.session_state
    first = preset_of(trace) or "Bible"
    follows = state.get("preset") in (None, state.get("first_preset"))
    written = state.get("prompt", "") not in ("", _chosen(state.get("preset")).prompt)
    other = follows and not written and state.get("prompt_of") != trace.digest
    if other or "preset" not in state:
        state.prompt, state.preset = PRESETS[first].prompt, first
    elif state.preset and state.prompt != PRESETS[state.preset].prompt:
        state.preset = None  # one's own words are no preset's
    state.prompt_of, state.first_preset = trace.digest, first
    usual = _chosen(state.preset).tokens
    forms.follow("tokens", usual, *TOKENS)
    return {**DEFAULTS, "tokens": usual, "prompt": PRESETS[first].prompt}


def _chosen(name: str | None) -> Preset:
    return PRESETS.get(name or "", Preset(""))


def ask() -> Ask:
    """Draws the widgets here; after `defaults`."""
    chosen, prompt = _words()
    then = chosen.then if prompt == chosen.prompt else ""
    if then:
        st.caption(
            f"Halfway the text changes to `{' '.join(then.split())}`, fed token by token; "
            "then the model goes on."
        )
    tokens, repeats, temperature, seed = _numbers(chosen)
    return Ask(prompt, then, tokens, repeats, _model(), temperature, seed)


def _words() -> tuple[Preset, str]:
    """Draws what the model is given: the preset, and the prompt as it stands."""
    state = st.session_state

    def fill() -> None:
        if chosen := state.preset:
            state.prompt = PRESETS[chosen].prompt

    # the drawer's widgets are mounted when it is opened, and then show only what this script run has set
    state.prompt, state.preset = state.prompt, state.preset
    st.pills(
        "Prompt: a preset, or your own words",
        list(PRESETS),
        key="preset",
        persist_state="session",
        on_change=fill,
        help=words.tooltip("prompt"),
    )
    prompt = st.text_area(
        "Prompt",
        key="prompt",
        persist_state="session",
        height=72,
        label_visibility="collapsed",
        help=words.tooltip("prompt"),
    )
    return _chosen(state.preset), prompt


def _numbers(chosen: Preset) -> tuple[int, int, float, int]:
    """Draws how many tokens and repeats, the temperature and the seed."""
    with st.container(horizontal=True, vertical_alignment="bottom"):
        linked: dict[str, Any] = {"bind": "query-params", "width": 125}
        forms.follow("tokens", chosen.tokens, *TOKENS)
        tokens = st.number_input(
            "New tokens", *TOKENS, chosen.tokens, key="tokens", help=words.tooltip("token"), **linked
        )
        repeats = st.number_input("Repeats", LEAST_REPEATS, 50, DEFAULTS["repeats"], key="repeats", **linked)
        temperature = st.number_input(
            "Temperature",
            0.0,
            2.0,
            DEFAULTS["temperature"],
            0.1,
            key="temperature",
            persist_state="session",
            width=125,
            help=words.tooltip("temperature"),
        )
        seed = st.number_input(
            "Seed", 0, 2**31 - 1, DEFAULTS["seed"], key="seed", help=words.tooltip("seed"), **linked
        )
    return int(tokens), int(repeats), float(temperature), int(seed)


def _model() -> ModelSpec:
    """Draws which model runs, and between which tiers."""
    name = st.text_input(
        "Model",
        key="model",
        persist_state="session",
        placeholder="the bundled model",
        help="A folder that save_pretrained wrote, or a hub id, of any MoE model of transformers.",
    )
    with st.container(horizontal=True, vertical_alignment="bottom"):
        tier, link = TIERS[
            st.selectbox(
                "Slow tier",
                list(TIERS),
                list(TIERS).index(DEFAULTS["tier"]),
                key="tier",
                bind="query-params",
                width=220,
                help=words.tooltip(
                    "slow tier",
                    *TIERS,
                    more="Paced: real in everything but the link, whose copies are slowed down to that rate. "
                    "This disk: files read past the page cache. This RAM: as fast as it copies.",
                ),
            )
        ]
        device = st.text_input(
            "Fast tier",
            DEFAULTS["device"],
            key="device",
            persist_state="session",
            width=160,
            help=words.tooltip("fast tier", more="auto: the accelerator if there is one; or cpu, cuda, ..."),
        )
        experts = st.selectbox(
            "Experts",
            list(EXPERTS),
            key="experts",
            persist_state="session",
            width=130,
            help=words.tooltip("expert", more=words.KEPT),
        )
    return ModelSpec(name.strip(), tier, device.strip() or "auto", experts=experts, link=link)

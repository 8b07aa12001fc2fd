"""What the Run pages share: the worker's client, presets, samples, the board."""

from __future__ import annotations

import base64
import re
import runpy
import shlex
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import plotly.graph_objects as go
import streamlit as st

from moeviz import charts, library
from moeviz.board import STATES, Frame, frames
from moeviz.exchange import exports
from moeviz.exchange.exports import formula_safe
from moeviz.explain import Explainer
from moeviz.knowledge import SAMPLES
from moeviz.offload.client import Client, Job, ModelSpec, Owner
from moeviz.policies import POLICIES
from moeviz.predictors import PREDICTORS
from moeviz.replay import replay
from moeviz.run import Run, Tier
from moeviz.settings import SCOPES, WARM, Settings, SettingsError
from moeviz.trace import Trace, TraceError, load_file

WHOLE, WINDOW = (
    13_000,
    6_144,
)  # events of a trace that Explore pages show at once; of a longer one so many at a time, replayed while one waits
HERE = Path(__file__).parent
JOBS = ("live_job", "compare_job", "check_job")  # in the session's state
FIRST_SAMPLE = SAMPLES / "change-of-subject.moetrace"
POLICY_HELP = "Who leaves when an expert needs a slot:\n" + "\n".join(
    f"- **{name}** {score.__doc__}" for name, score in POLICIES.items()
)
PREFETCH_HELP = "Guess what the next layer needs and copy it early:\n" + "\n".join(
    f"- **{name}** {(make.__doc__ or '').splitlines()[0]}" for name, make in PREDICTORS.items()
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
    "Changes subject": Preset("Die Konfigurationsdatei enthält", then="\n\ndef main(argv):\n    for name in argv:\n        "),
}

_mount = st.components.v2.component(
    "moeviz_board",
    html=(HERE / "board.html").read_text(),
    css=(HERE / "board.css").read_text() + f":host, .board {{ --miss: {charts.STATE_COLORS[4]}; }}\n",
    js=(HERE / "board.js").read_text(),
)
_strip = st.components.v2.component(
    "moeviz_strip",
    html=(HERE / "strip.html").read_text(),
    css=(HERE / "strip.css").read_text()
    + ":host, .strip-of-tokens { "
    + " ".join(f"--{name}: {charts.STATE_COLORS[STATES.index(state)]};" for name, state in
               (("resident", "resident"), ("hit", "hit"), ("late", "late hit"), ("miss", "miss")))
    + " }\n",
    js=(HERE / "strip.js").read_text(),
)  # fmt: skip


def within_app() -> None:
    """Sees to it that app.py runs around this page, and that closing its tab frees the session's jobs.

    Where the first link that a fresh server is asked for names a page, Streamlit takes `pages/` for its older kind of app and runs the
    page's file alone; then app.py is run from here, which ends that for good.
    """
    if not st.session_state.get("within_app"):
        runpy.run_path(str(HERE.parent / "app.py"))
        st.stop()
    jobs = [job for name in JOBS if (job := st.session_state.get(name)) is not None]
    if jobs:
        _owner().hold(jobs)


@st.cache_resource
def client() -> Client:
    """The one worker process of this server, started by its first job."""
    return Client()


@st.cache_resource(scope="session", show_spinner=False, on_release=Owner.leave)
def _owner() -> Owner:
    return Owner(client())


def waiting(job: Job) -> bool:
    """Says so where others' jobs run before this one."""
    place = client().place(job)
    if place:
        st.info(f"{place} other run{'s' if place > 1 else ''} before yours; it starts by itself.", icon=":material/hourglass:")
    return bool(place)


@st.cache_resource(show_spinner=False)
def sample(path: Path) -> tuple[Trace, Run]:
    """A bundled trace and the run recorded with it."""
    trace, run = load_file(path)
    if run is None:
        raise TraceError(f"{path.name} holds no recorded run.")
    return trace, run


def board(run_id: str, frames: Sequence[Frame], texts: Sequence[str], live: bool, key: str, at: int = 0, seek: int = 0) -> int:
    """Draws the board and returns the pass at which its user stopped. It begins at pass `at` and goes there again when `seek` changes.

    While live, only the latest frames are sent.
    """
    start = max(0, len(frames) - 64) if live else 0
    part = frames[start:]
    layers, experts = part[0].state.shape if part else (1, 1)
    slots = part[0].slots.shape[1] if part and len(part[0].slots) == layers else 0  # shared slots have no layer of their own
    data = {
        "run": run_id,
        "start": start,
        "live": live,
        "at": at,
        "seek": seek,
        "layers": layers,
        "experts": experts,
        "slots": slots,
        "colors": charts.STATE_COLORS,
        "glyphs": charts.STATE_GLYPHS,
        "names": STATES,
        "frames": _base64([frame.state for frame in part], np.uint8),
        "slotFrames": _base64([frame.slots for frame in part], np.int16) if slots else "",
        "texts": list(texts[start:]),
    }
    result = _mount(data=data, key=key, on_step_change=lambda: None)
    step = result.step if isinstance(result.step, int) else at
    return min(max(step, 0), max(len(frames) - 1, 0))


def strip(of: str, texts: Sequence[str], kinds: Sequence[str], titles: Sequence[str], key: str, at: int) -> int:
    """Draws tokens, marked by kind (most, some, few; chosen, first; or nothing), and returns the one at which its user stopped.

    It begins at `at`, and again where `of` changes.
    """
    data = {"of": of, "at": at, "texts": list(texts), "kinds": list(kinds), "titles": list(titles)}
    result = _strip(data=data, key=key, on_step_change=lambda: None)
    step = result.step if isinstance(result.step, int) else at
    return min(max(step, 0), max(len(texts) - 1, 0))


def _base64(arrays: Sequence[np.ndarray[Any, Any]], kind: type) -> str:
    return base64.b64encode(b"".join(np.ascontiguousarray(a, kind).tobytes() for a in arrays)).decode()


def prompt_controls(prefix: str) -> tuple[str, str]:
    """Preset and prompt; gives (prompt, the text fed halfway)."""
    key = f"{prefix}_prompt"

    def fill() -> None:
        if chosen := st.session_state[f"{prefix}_preset"]:
            st.session_state[key] = PRESETS[chosen].prompt

    st.session_state.setdefault(key, PRESETS["Bible"].prompt)
    st.pills(
        "Prompt: start from a preset, or write your own", list(PRESETS), key=f"{prefix}_preset", on_change=fill, default="Bible"
    )
    prompt = st.text_area("Prompt", key=key, height=68, label_visibility="collapsed")
    chosen = PRESETS.get(st.session_state[f"{prefix}_preset"] or "")
    then = chosen.then if chosen and prompt == chosen.prompt else ""
    if then:
        st.caption(f"Halfway the text changes to `{' '.join(then.split())}`, fed token by token; then the model goes on.")
    return prompt, then


@st.cache_resource(show_spinner=False, max_entries=32)
def kept_trace(path: Path, changed_ns: int) -> tuple[Trace, Run | None]:
    """A trace of the library, read again when its file has changed."""
    return load_file(path)


def traces() -> dict[str, tuple[Trace, Run | None]]:
    """Every trace that this browser session can explore, by name: its own latest runs first, then the samples."""
    found: dict[str, tuple[Trace, Run | None]] = {}
    live: Job | None = st.session_state.get("live_job")
    if live is not None and live.finished and (captured := live.recording()):
        found["the latest run of Live"] = captured
    compare: Job | None = st.session_state.get("compare_job")
    if compare is not None and compare.finished and compare.trace is not None:
        found["the latest comparison"] = compare.trace, compare.resident
    found |= st.session_state.get("opened", {})  # uploads of this session; others do not see them
    for kept in library.names():
        path = library.path(kept)
        try:
            found[f"library: {kept}"] = kept_trace(path, path.stat().st_mtime_ns)
        except (TraceError, OSError):
            continue  # the Library page says what is wrong with it
    return found | {f"sample: {name}": sample(SAMPLES / f"{name}.moetrace") for name in sample_names()}


def trace_picker(first: str = "change-of-subject") -> tuple[str, Trace, Run | None]:
    """Which trace the page is about, the same on every Explore page; a long one in windows."""
    found = traces()
    names = list(found)
    if st.session_state.get("trace") not in names:
        st.session_state.pop("trace", None)
    with st.container(horizontal=True, vertical_alignment="bottom"):
        name = st.selectbox(
            "Trace", names, names.index(f"sample: {first}"), key="trace", bind="query-params", width=330, persist_state="session"
        )
        trace, run = found[name]
        count, most = len(trace.passes()), max(1, WINDOW // trace.layers)
        if count * trace.layers > WHOLE:
            start = st.number_input(f"From pass (of {count:,})", 0, count - 1, 0, most, key=fits("window", count - 1), width=190)
            trace, run = trace.window(start, most), None
            name = f"{name}, passes {start:,} to {min(start + most, count) - 1:,}"
            st.caption(f"A long trace is explored {most:,} forward passes at a time; the cache begins the window cold.")
    return name, trace, run


def plain(text: str) -> str:
    """Text as text where Streamlit reads Markdown: what stands in a trace, a prompt or a file name must not become a link or a picture.

    A bare address becomes a link even where it is escaped, so an invisible word joiner breaks it.
    """
    joiner = "\u2060"
    broken = text.replace("://", joiner + "://").replace("www.", "www" + joiner + ".").replace("@", "@" + joiner)
    return re.sub(r"([\\`*_{}\[\]()#+\-.!|~<>$:&])", r"\\\1", broken)


def fits(key: str, most: int) -> str:
    """The key of a widget whose range depends on the trace; what another trace left in it is dropped where it is out of range."""
    value = st.session_state.get(key)
    if isinstance(value, int) and not 0 <= value <= most:
        del st.session_state[key]
    return key


def download(
    label: str,
    content: Callable[[], bytes | str],
    name: str,
    icon: str = "download",
    help: str | None = None,
    key: str | None = None,
) -> None:
    """A button that saves a file of that name. The file is made when it is asked for, and the page is not drawn again for it."""
    st.download_button(label, content, name, on_click="ignore", icon=f":material/{icon}:", help=help, key=key)


def exporter(name: str, trace: Trace, run: Callable[[], Run], own: Run | None, key: str) -> None:
    """A format and its download. `run` gives the run to write, when it is asked for; `own`, a measured run of the trace, gives times."""
    kinds = [kind for kind in exports.FORMATS if kind != "perfetto" or (own is not None and own.measured)]
    file = library.safe_name(name.partition(": ")[2] or name)
    with st.container(horizontal=True, vertical_alignment="bottom"):
        kind = st.selectbox("Format", kinds, key=f"format-{key}", width=220)
        suffix, what = exports.FORMATS[kind].suffix, exports.FORMATS[kind].what
        download("Export", lambda: exports.content(kind, trace, run(), own, f"{file}.moetrace"), file + suffix,
                 key=f"export-{key}", icon="ios_share")  # fmt: skip
        if kind == "notebook":
            download("The trace it loads", lambda: trace.to_bytes(own), f"{file}.moetrace", key=f"loads-{key}")
    times = " A replay is drawn with costs fitted on the recorded run." if kind == "perfetto" else ""
    st.caption(f"{plain(file + suffix)}: {what}.{times}")


def chart(figure: go.Figure, title: str, table: pd.DataFrame, key: str, kind: str) -> None:
    """A figure with its heading, the badge of its numbers, and the table behind it with a CSV one click away."""
    with st.container(horizontal=True, vertical_alignment="center"):
        st.subheader(plain(title), width="content")
        badge(kind)
    st.plotly_chart(figure, key=key, alt=f"{title}. The table below it holds the numbers.")
    with st.expander("Table"):
        st.dataframe(table, hide_index=True)
        download("CSV", lambda: csv(table), f"{key}.csv", key=f"{key}-csv")


KINDS = {
    "measured": ("blue", ":material/timer:", "Timed while the model ran."),
    "replayed": ("gray", ":material/replay:", "Exact decisions of a cache on a recorded trace; not timed."),
    "modelled": ("orange", ":material/function:", "By a cost model fitted on a measured run, not timed."),
    "recorded": ("gray", ":material/description:", "What the routers chose; the same for every cache."),
}


def badge(kind: str) -> None:
    color, icon, help = KINDS[kind]
    st.badge(kind, color=color, icon=icon, help=help)  # type: ignore[arg-type]


def stacked(rows: Sequence[np.ndarray[Any, Any]]) -> np.ndarray[Any, Any]:
    return np.stack(rows)


def csv(table: pd.DataFrame) -> str:
    return formula_safe(table).to_csv(index=False)


BY_CONTENT = {Trace: lambda trace: trace.digest}  # two sessions' uploads may share name and size


@st.cache_resource(show_spinner="Replaying the trace", max_entries=24, hash_funcs=BY_CONTENT)
def explained(trace: Trace, settings: Settings) -> Explainer:
    return Explainer(trace, settings)


@st.cache_resource(show_spinner="Replaying the trace", max_entries=64, hash_funcs=BY_CONTENT)
def replayed(trace: Trace, settings: Settings) -> Run:
    return replay(trace, settings)


@st.cache_resource(show_spinner=False, max_entries=24, hash_funcs={Run: lambda run: run.digest})
def pictures(run: Run) -> list[Frame]:
    """The board's frames of a whole run."""
    return frames(run)


def settings_controls(name: str, first: Settings, *, sampled: int = 0) -> Settings | None:
    """Widgets of one Settings; None, after one message, where they do not fit together. `name` tells several apart in the URL."""
    columns: Any = {"bind": "query-params"}
    policy = st.selectbox(
        "Policy", list(POLICIES), list(POLICIES).index(first.policy), key=f"policy{name}", help=POLICY_HELP, width=150, **columns
    )
    scope = st.session_state.get(f"scope{name}", first.scope)
    slots = st.number_input("Slots per layer" if scope == "layer" else "Slots in all", 1, 100_000, first.slots, key=f"slots{name}", width=130,
                            help="Experts that fit in the fast tier. The bundled model has 8 layers of 8 experts and uses 2 of each layer at a time.", **columns)  # fmt: skip
    prefetch = st.selectbox("Pre-fetch", list(PREDICTORS), list(PREDICTORS).index(first.prefetch), key=f"prefetch{name}", help=PREFETCH_HELP,
                            width=160, **columns)  # fmt: skip
    with st.popover("More", icon=":material/more_horiz:"):
        st.segmented_control("Scope", SCOPES, default=first.scope, required=True, key=f"scope{name}", **columns,
                             help="layer: each MoE layer owns its slots. model: one pool for all layers.")  # fmt: skip
        lookahead = st.number_input(
            "Lookahead", 1, 8, 1, key=f"lookahead{name}", help="How many MoE layers ahead a guess is made.", **columns
        )
        width = st.number_input(
            "Width", 0, 512, 0, key=f"width{name}", help="Experts guessed; 0: as many as the router chooses.", **columns
        )
        threshold = st.number_input("Threshold", 0.0, 1.0, 0.0, 0.1, key=f"threshold{name}", **columns,
                                    help="next-gate: guess until the probabilities reach this, instead of a width; 0: no.")  # fmt: skip
        warm = st.selectbox(
            "Warm start",
            list(WARM),
            key=f"warm{name}",
            help="\n".join(f"- **{n}**: {what}" for n, what in WARM.items()),
            **columns,
        )
        calibration = st.selectbox("Calibration trace", sample_names(), key=f"calibration{name}", accept_new_options=True,
                                   help="For the policy static and the warm start calibrated: a sample, or the path of a .moetrace file.")  # fmt: skip
        half_life = st.number_input(
            "Half-life in tokens", 1, 100_000, 64, key=f"halflife{name}", help="Of the policy lfu-aged.", **columns
        )
    try:
        settings = Settings(
            policy, slots, scope, prefetch, lookahead, width, float(threshold), warm, calibration or "", half_life, sampled
        )
    except SettingsError as error:
        st.error(str(error))
        return None
    return settings if settings.needs_calibration else replace(settings, calibration="")


def sample_names() -> list[str]:
    return sorted(path.stem for path in SAMPLES.glob("*.moetrace"))


def model_controls(prefix: str) -> tuple[ModelSpec, dict[str, Any]]:
    """Model, tier and sampling, behind a popover: nobody needs them for a first look."""
    with st.popover("Model and tier", icon=":material/tune:"):
        name = st.text_input("Model", key=f"{prefix}_model", placeholder="the bundled model",
                             help="A folder that save_pretrained wrote, or a hub id, of any mixture-of-experts model of transformers.")  # fmt: skip
        tier = st.segmented_control("Slow tier", ["disk", "host"], default="disk", required=True, key=f"{prefix}_tier", bind="query-params",
                                    help="disk: files read past the page cache. host: RAM, copied into the slots.")  # fmt: skip
        device = st.text_input(
            "Fast tier", "auto", key=f"{prefix}_device", help="auto: the accelerator if there is one; or cpu, cuda, ..."
        )
        temperature = st.number_input(
            "Temperature", 0.0, 2.0, 0.7, 0.1, key=f"{prefix}_temperature", help="0: the likeliest token."
        )
        seed = st.number_input("Seed", 0, 2**31 - 1, 0, key=f"{prefix}_seed", bind="query-params")
    return ModelSpec(name.strip(), tier, device.strip() or "auto"), {"temperature": temperature, "seed": seed}


def run_or_stop(label: str, icon: str, job: Job | None) -> bool:
    """One button: it starts a job, or stops the one that runs. True where a job is to start."""
    if job is None or job.finished:
        return st.button(label, type="primary", icon=icon, shortcut="g")  # R is taken: Streamlit reruns a page with it
    if st.button("Stop", icon=":material/stop:"):
        client().stop(job)
    return False


def tier_in_words(tier: Tier | None) -> str:
    """The slow tier as it was measured."""
    if tier is None:
        return ""
    past = "past the page cache" if tier.page_cache_bypassed else "not past the page cache" if tier.kind == "disk" else "in RAM"
    return f"Slow tier {tier.kind}, {past}: {tier.latency_ms:.2f} ms per expert, {tier.gigabytes_per_second:.2f} GB/s."


def megabytes(count: int) -> str:
    return f"{count / 1e6:,.0f} MB" if count >= 1e7 else f"{count / 1e6:,.1f} MB"


def changed(settings: Settings) -> dict[str, Any]:
    """Fields that differ from what moeviz takes when nothing is said, and always the policy and the slots."""
    plain = Settings().to_dict()
    return {name: value for name, value in settings.to_dict().items() if name in ("policy", "slots") or value != plain[name]}


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
    parts = ["python", "-m", "moeviz", name, *([job.model.name] if job.model.name else []), "--prompt", job.prompt, *own]
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
        [*parts, "--tier", job.model.tier, "--device", job.model.device, *(["--then", job.then] if job.then else [])]
    )

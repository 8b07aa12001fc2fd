"""The stage as one HTML page that needs no network, and as the output of a notebook's cell.

stage(trace, ["lru", "lfu"]).save("lesson.html")
"""

from __future__ import annotations

import base64
import hashlib
import html
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

from moeviz.charts.stage.payload import stage_payload
from moeviz.core.given import a_trace
from moeviz.core.owncode import short
from moeviz.core.policies import load_policy
from moeviz.core.replay import replay
from moeviz.core.run import Run
from moeviz.core.settings import SETTINGS, Settings
from moeviz.core.suiting import bounding, suited
from moeviz.core.trace import Trace
from moeviz.errors import StageError
from moeviz.numbers.explain import Explainer
from moeviz.numbers.subject import subject_changes
from moeviz.words import hit_verdict

HERE = Path(__file__).parent
PARTS = (  # concatenated in this order into one scope; none of them imports another
    "decode",
    "model",
    "walk",
    "facts",
    "times",
    "sheet",
    "strip",
    "grid",
    "cells",
    "board",
    "link",
    "curves",
    "story",
    "results",
    "transport",
    "keys",
    "cursor",
    "play",
    "stage",
)
_MOUNT = """
const said = JSON.parse(document.getElementById("payload").textContent)
const stage = MoevizStage.mount(document.getElementById("stage"), said)
window.moevizStage = stage
"""


@cache
def script() -> str:
    """The stage's JavaScript: one constant `MoevizStage` with `mount(element, payload, host)`."""
    parts = "\n".join((HERE / "js" / f"{name}.js").read_text(encoding="utf-8") for name in PARTS)
    return f'const MoevizStage = (() => {{\n"use strict"\n{parts}\nreturn {{ mount }}\n}})()\n'


@cache
def style() -> str:
    """The stage's style sheet."""
    return (HERE / "stage.css").read_text(encoding="utf-8")


def stage_html(payload: Mapping[str, Any], presenter: bool = False) -> str:
    """A whole page that works from a file: it may not reach the network, and only its own script may run."""
    code, look = script() + _MOUNT, style()
    allowed = (
        "default-src 'none'; base-uri 'none'; form-action 'none'; "
        f"script-src 'sha256-{_hash(code)}'; style-src 'sha256-{_hash(look)}'"
    )
    data = json.dumps(payload, ensure_ascii=False, separators=(",", ":")).replace("<", "\\u003c")
    name = html.escape(str(payload.get("title") or "moeviz stage"))
    return (
        '<!doctype html>\n<html lang="en">\n<head>\n<meta charset="utf-8">\n'
        f'<meta http-equiv="Content-Security-Policy" content="{allowed}">\n'
        '<meta name="viewport" content="width=device-width, initial-scale=1">\n'
        f'<title>{name}</title>\n<style>{look}</style>\n</head>\n<body class="moeviz-page">\n'
        f'<main id="stage"{" data-presenter" if presenter else ""}></main>\n'
        f'<script type="application/json" id="payload">{data}</script>\n'
        f"<script>{code}</script>\n</body>\n</html>\n"
    )


def _hash(text: str) -> str:
    return base64.b64encode(hashlib.sha256(text.encode()).digest()).decode()


@dataclass(frozen=True, slots=True)
class StagePage:
    """A stage that is ready: the last value of a notebook's cell shows it, `save` writes it as one file."""

    html: str

    def save(self, path: str | Path) -> None:
        """Writes the page. Raises OSError."""
        Path(path).write_text(self.html, encoding="utf-8")

    def _repr_html_(self) -> str:
        """A frame of its own, so that neither the notebook's styles nor its keys meet the stage's."""
        return (
            f'<iframe srcdoc="{html.escape(self.html)}" sandbox="allow-scripts" title="moeviz stage" '
            'style="width: 100%; height: 720px; border: 0"></iframe>'
        )


def _settings(one: str | Settings, slots: int) -> Settings:
    if isinstance(one, Settings):
        return one
    if one.partition("=")[0] in SETTINGS:
        return Settings.parse(one, slots=slots)
    return Settings(load_policy(one), slots)


def stage(
    trace: Trace,
    policies: Sequence[str | Settings] = ("lru", "lfu"),
    slots: int | None = None,
    *,
    recorded: Run | None = None,
    title: str = "Which cache suits this text?",
    presenter: bool = False,
) -> StagePage:
    """Replays a trace under each policy, or under whole settings, as Settings or in words as
    `policy=lru,prefetch=next-gate`, and shows the first two side by side.

    `slots`: of those that name none themselves; left out, as many as suit the trace.
    `recorded`: a measured run of the trace, for times. Raises ArgumentError, and SettingsError where settings
    do not fit the trace.
    """
    a_trace(trace, "stage")
    if not policies:
        raise StageError("no policy was named. Name one or two, for example lru and lfu.")
    usual = slots or suited(Settings(), trace.shape).slots
    settings = [_settings(one, usual) for one in policies]
    explainers = [Explainer(trace, one) for one in settings]
    # of boards with other slots that of the larger: it holds for both
    bound = replay(trace, bounding(settings[:2], trace.shape))
    runs = [one.run for one in explainers]
    served = explainers[0].trace  # under a rule batch:N, with that rule's passes
    changes = subject_changes(served)
    payload = stage_payload(
        served,
        runs,
        bound=bound,
        measured=[recorded] if recorded is not None and recorded.measured else [],
        explainers=explainers,
        changes=changes,
        title=title,
        verdict=hit_verdict(served, runs, changes),
    )
    for board in payload["runs"]:  # a file that is passed on says nothing of this machine's folders
        board |= {name: short(board[name]) for name in ("policy", "prefetch")}
    return StagePage(stage_html(payload, presenter))

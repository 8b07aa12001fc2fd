"""GPT-OSS expert fingerprints (AmanPriyanshu/GPT-OSS-MoE-ExpertFingerprinting at 72b368f): one JSON document
a conversation.

`router_data` is a list of `{"token_N": {"layer_L": {"selected_experts": [...], "selected_probs": [...]}}}`,
beside `full_text` and `generated_only`. The tokens are those that were generated.
"""

from __future__ import annotations

import re
from typing import Any

import numpy as np

from moeviz.core.trace import DECODE
from moeviz.files.importers.collect import Routes
from moeviz.files.importers.names import about, unused
from moeviz.files.importers.registry import Found, Options, importer
from moeviz.files.importers.routed import finish
from moeviz.files.importers.source import Source
from moeviz.files.importers.values import expert_list, layer_number, weight_list

NAME = "fingerprints"
_NUMBERED = re.compile(r"(?:token|layer)_(\d{1,9})")
_USED = ("router_data", "full_text", "generated_only")


@importer(
    NAME,
    "GPT-OSS expert fingerprints (JSON)",
    lambda source: 3 * (source.head[:1] == b"{" and b'"router_data"' in source.content),
)
def read(source: Source, options: Options) -> Found:
    """Raises TraceError."""
    document = source.document()
    data = document.get("router_data") if isinstance(document, dict) else None
    if not isinstance(data, list) or not all(isinstance(one, dict) for one in data):
        raise source.error("has no list router_data of objects.")
    routes, token = Routes(source), -1
    for entry in data:
        for name, layers in entry.items():
            token += 1  # numbers begin again in some files; the list's order is the text's
            if _NUMBERED.fullmatch(name) is None or not isinstance(layers, dict):
                raise source.error(f"router_data holds {name[:40]!r}; expected token_0, token_1, ...")
            for key, choice in layers.items():
                _add(source, routes, token, name, key, choice)
    said = about({key: one for key, one in document.items() if key not in _USED}, source.name)
    full, generated = document.get("full_text"), document.get("generated_only")
    routed = routes.routed(experts=said.experts, model=said.model)
    if isinstance(full, str) and isinstance(generated, str) and full.endswith(generated):
        routed.prompt = full[: len(full) - len(generated)]
    else:
        routed.report.append("full_text does not end with generated_only; where the prompt ends is not known")
    if options.prompt_tokens < 0:
        routed.report.append("all tokens were generated (decode), as this data set records them")
        routed.phase = np.full(len(routed.ids), DECODE, np.uint8)
    routed.report += unused(said.unused, "keys")
    return finish(source, options, routed, NAME)


def _add(source: Source, routes: Routes, token: int, name: str, key: str, choice: Any) -> None:
    place = f"{name}, {key[:40]}"
    number = _NUMBERED.fullmatch(key)
    if number is None or not isinstance(choice, dict):
        raise source.error(f"{place}: expected layer_0, layer_1, ... with selected_experts.")
    ids = expert_list(source, choice.get("selected_experts"), place, "selected_experts")
    weights = weight_list(source, choice.get("selected_probs"), ids, 0, place, "selected_probs")
    routes.add(place, "", token, layer_number(source, int(number[1]), place), ids, weights)

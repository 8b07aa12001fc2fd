"""Loads the model that the options of `run` and `compare` name, and says meanwhile how far that is. Imports
torch only then.

    loaded, options = prepare("", others, [Settings("lfu", 4)])
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from moeviz.cli.ending import progress_line
from moeviz.core import machines
from moeviz.core.settings import Settings

if TYPE_CHECKING:
    from moeviz.engine.loader import Loaded
    from moeviz.engine.session import Options


def prepare(model: str, others: dict[str, Any], settings: list[Settings]) -> tuple[Loaded, Options]:
    """Loaded model and generation options of the shared flags. Raises ModelError or StoreError.

    `settings` are checked against the model and memory as soon as its size is known: SettingsError or
    ModelError before anything is packed.
    """
    machines.find(others["link"])  # what cannot be read is said before anything is loaded
    for one in settings:
        if one.needs_calibration:
            from moeviz.files.library import named_trace

            named_trace(one.calibration)
    from moeviz.engine.imports import import_engine

    import_engine()
    from moeviz.engine.loader import BUNDLED, load, use_threads
    from moeviz.engine.measure import paced
    from moeviz.engine.session import Options

    use_threads(others["threads"])
    options = Options(
        others["max_new_tokens"],
        others["temperature"],
        others["seed"],
        not others["past_end"],
        others["then"],
    )

    def progress(share: float, what: str) -> None:
        progress_line(f"{share:4.0%} {what}", share == 1)

    loaded = load(
        model or BUNDLED,
        tier=others["tier"],
        device=others["device"],
        dtype=others["dtype"],
        experts=others["experts"],
        progress=progress,
        settings=settings,
    )
    return paced(loaded, others["link"]), options

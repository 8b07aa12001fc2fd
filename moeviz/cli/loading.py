"""Loads the model that the options of `run` and `compare` name, and says meanwhile how far that is. Imports
torch only then.

    loaded, options, settings = prepare("", others, [Settings("lfu", 4)])
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from moeviz.cli.ending import progress_line
from moeviz.core import machines
from moeviz.core.settings import Settings
from moeviz.core.suiting import Shape, suited

if TYPE_CHECKING:
    from collections.abc import Container

    from moeviz.engine.loader import Loaded
    from moeviz.engine.session import Options


def prepare(
    model: str, others: dict[str, Any], settings: list[Settings], unnamed: Container[int] = ()
) -> tuple[Loaded, Options, list[Settings]]:
    """Loaded model, generation options of the shared flags, and the settings: of those whose numbers are
    `unnamed`, with as many slots as suit the model. Raises ModelError or StoreError.

    The settings are checked against the model and memory as soon as its size is known: SettingsError or
    ModelError before anything is packed.
    """
    machines.find(others["link"])  # what cannot be read is said before anything is loaded
    for one in settings:
        one.check_live()
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

    def wanted(shape: Shape) -> list[Settings]:
        return [suited(one, shape) if n in unnamed else one for n, one in enumerate(settings)]

    def progress(share: float, what: str) -> None:
        progress_line(f"{share:4.0%} {what}", share == 1)

    loaded = load(
        model or BUNDLED,
        tier=others["tier"],
        device=others["device"],
        dtype=others["dtype"],
        experts=others["experts"],
        progress=progress,
        wanted=wanted,
    )
    return paced(loaded, others["link"]), options, wanted(loaded.shape)

"""See why an offloaded mixture-of-experts model is slow, and what caching and pre-fetching do about it.

    import moeviz as mv

    trace, run = mv.load("sample_traces/bible.moetrace")        # any format that the importers read
    lfu = mv.replay(trace, "lfu", slots=4)                      # a Run: lfu.hit_ratio, lfu.loads.expert
    mv.compare(trace, ["lru", "lfu"], slots=[2, 4, 6])          # a DataFrame
    trace, run = mv.run("", "In the beginning", policy="lfu")   # the real engine, with the bundled model

Importing this loads neither numpy nor torch nor pandas; a name loads what it needs when it is first asked
for.
"""

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from moeviz.api import compare as compare
    from moeviz.api import curve as curve
    from moeviz.api import explain as explain
    from moeviz.api import load as load
    from moeviz.api import replay as replay
    from moeviz.api import run as run
    from moeviz.api import summary as summary
    from moeviz.api import sweep as sweep
    from moeviz.charts.stage import stage as stage
    from moeviz.core.policies import policy as policy
    from moeviz.core.predictors import predictor as predictor
    from moeviz.core.run import Run as Run
    from moeviz.core.settings import Settings as Settings
    from moeviz.core.synthetic import synthetic as synthetic
    from moeviz.core.trace import Trace as Trace
    from moeviz.engine.capture import capture as capture
    from moeviz.errors import MoevizError as MoevizError
    from moeviz.files.exporters.registry import exporter as exporter
    from moeviz.files.importers.registry import importer as importer

__version__ = "0.1.0"  # as pyproject.toml has it
WHERE = {  # name -> the module that has it
    "MoevizError": "moeviz.errors",
    "Run": "moeviz.core.run",
    "Settings": "moeviz.core.settings",
    "Trace": "moeviz.core.trace",
    "capture": "moeviz.engine.capture",
    "compare": "moeviz.api",
    "curve": "moeviz.api",
    "explain": "moeviz.api",
    "exporter": "moeviz.files.exporters.registry",
    "importer": "moeviz.files.importers.registry",
    "load": "moeviz.api",
    "policy": "moeviz.core.policies",
    "predictor": "moeviz.core.predictors",
    "replay": "moeviz.api",
    "run": "moeviz.api",
    "stage": "moeviz.charts.stage",
    "summary": "moeviz.api",
    "sweep": "moeviz.api",
    "synthetic": "moeviz.core.synthetic",
}
__all__ = list(WHERE)


def __getattr__(name: str) -> Any:
    if name not in WHERE:
        raise AttributeError(f"module 'moeviz' has no attribute {name!r}; it has {', '.join(WHERE)}")
    found = getattr(import_module(WHERE[name]), name)
    globals()[name] = found
    return found


def __dir__() -> list[str]:
    return sorted({*globals(), *WHERE})

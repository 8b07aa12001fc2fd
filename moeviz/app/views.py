"""What the Experts page shows of one trace, by the name of a view."""

from __future__ import annotations

from moeviz.charts import Chart, domains, usage
from moeviz.core.trace import Trace

TWO = "Two traces"


def names(trace: Trace) -> list[str]:
    """The views that a trace can have."""
    own = ["Domains"] if domains.known(trace) else []
    return ["Now", "Skew", "Reuse", "Together", "One expert", *own, TWO]


def charts(view: str, trace: Trace, step: int, weighted: bool, layer: int, expert: int) -> list[Chart]:
    """The charts of a view; none for two traces, which need the other one."""
    match view:
        case "Now":
            nearest = [domains.nearest(trace, step)] if domains.known(trace) else []
            return [usage.now_and_so_far(trace, step, weighted), *nearest]
        case "Skew":
            return [usage.skew(trace, weighted), usage.coverage(trace, weighted)]
        case "Reuse":
            return [usage.reuse(trace)]
        case "Together":
            later = [layer, layer + 1] if layer + 1 < trace.layers else [layer]
            return [usage.together(trace, layer, one) for one in later]
        case "One expert":
            return [usage.one_expert(trace, layer, expert)]
        case "Domains":
            return [domains.favourites(), domains.nearest(trace, step)]
    return []

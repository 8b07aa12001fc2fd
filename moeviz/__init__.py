"""See why an offloaded mixture-of-experts model is slow, and what caching and pre-fetching do about it."""

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from moeviz.charts.stage import stage as stage
    from moeviz.engine.capture import capture as capture


def __getattr__(name: str) -> Any:
    """`moeviz.capture` and `moeviz.stage`, without loading torch or pandas for whoever does not ask for them."""
    if name == "capture":
        from moeviz.engine.capture import capture

        return capture
    if name == "stage":
        from moeviz.charts.stage import stage

        return stage
    raise AttributeError(f"module 'moeviz' has no attribute {name!r}")

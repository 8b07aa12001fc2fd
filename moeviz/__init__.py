"""See why an offloaded mixture-of-experts model is slow, and what caching and pre-fetching do about it."""

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from moeviz.engine.capture import capture as capture


def __getattr__(name: str) -> Any:
    """`moeviz.capture`, without loading torch for whoever does not ask for it."""
    if name == "capture":
        from moeviz.engine.capture import capture

        return capture
    raise AttributeError(f"module 'moeviz' has no attribute {name!r}")

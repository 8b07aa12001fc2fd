"""Shares, bytes, times, rates and counts in words, and bytes out of words: one wording for every layer above.

memory(3 * 2**30)     # '3.0 GiB'
milliseconds(0.9)     # '0.90 ms'
many(2, "pass")       # '2 passes'
"""

from __future__ import annotations

import re
from collections.abc import Sequence

UNKNOWN = "–"  # where there is no number
_UNITS: dict[str, int] = {"": 1, "b": 1} | {
    f"{letter}{ending}": base**power
    for ending, base in (("b", 1000), ("", 1000), ("ib", 1024), ("i", 1024))
    for power, letter in enumerate("kmgt", 1)
}
_FILES = (("TB", 1e12), ("GB", 1e9), ("MB", 1e6), ("kB", 1e3))
_MEMORY = (("TiB", 2**40), ("GiB", 2**30), ("MiB", 2**20), ("KiB", 2**10))


def percent(share: float | None, digits: int = 1) -> str:
    """A share of 1: 0.727 is 72.7%."""
    return UNKNOWN if share is None else f"{share:.{digits}%}"


def points(difference: float) -> str:
    """A difference of two shares: 0.04 is 4.0 points."""
    return f"{abs(difference) * 100:.1f} points"


def size(count: float) -> str:
    """Bytes that a file has or a link moves, in powers of 1,000."""
    return _bytes(count, _FILES)


def memory(count: float) -> str:
    """Bytes of memory, in powers of 1,024."""
    return _bytes(count, _MEMORY)


def budget(count: int) -> str:
    """Bytes that somebody gave, in powers of 1,024, with the digits that tell two budgets apart: 2.93 GiB."""
    return next((f"{count / one:.4g} {unit}" for unit, one in _MEMORY if count >= one), f"{count} bytes")


def _bytes(count: float, units: Sequence[tuple[str, float]]) -> str:
    for unit, one in units:
        if count >= one:
            return f"{count / one:,.0f} {unit}" if count >= 10 * one else f"{count / one:,.1f} {unit}"
    return f"{count:,.0f} bytes"


def digits(value: float) -> str:
    """A measured number with the digits that it can have: 1,234; 134; 11.3; 0.90; 0.012."""
    if value >= 10:
        return f"{value:,.0f}" if value >= 100 else f"{value:.1f}"
    return f"{value:.2f}" if value >= 0.1 else f"{value:.2g}"


def milliseconds(value: float | None) -> str:
    return UNKNOWN if value is None else f"{digits(value)} ms"


def rate(gigabytes_per_second: float) -> str:
    """Bytes that cross a link in a second."""
    return f"{digits(gigabytes_per_second)} GB/s"


def speed(tokens_per_second: float | None) -> str:
    """Tokens that a model writes in a second."""
    return UNKNOWN if tokens_per_second is None else f"{digits(tokens_per_second)} tokens/s"


def many(count: int, what: str) -> str:
    """A number of things that are counted: 1 token, 2 tokens, 3 passes, 4 copies."""
    return f"1 {what}" if count == 1 else f"{count:,} {_several(what)}"


def part_of(count: int, whole: int, what: str) -> str:
    """Some of a number of things: 3 of 8 experts."""
    return f"{count:,} of {many(whole, what)}"


def mean(count: float, what: str) -> str:
    """A number of things that need not be whole: 1.4 experts."""
    return f"{count:,.1f} {_several(what)}"


def _several(what: str) -> str:
    if what.endswith("y"):
        return f"{what[:-1]}ies"
    return f"{what}{'es' if what.endswith('s') else 's'}"


def seconds_left(seconds: float) -> str:
    """About how long something still takes."""
    return f"{seconds / 60:.0f} min" if seconds >= 90 else f"{seconds:.0f} s"


def byte_count(text: str) -> int:
    """Bytes from what a user typed: 3GiB, 3000 MB, 1.5e9. Raises ValueError."""
    found = re.fullmatch(r"\s*([0-9.]+(?:e[0-9]+)?)\s*([a-z]*)\s*", text.lower())
    if found is None or found[2] not in _UNITS:
        raise ValueError(text)
    value = float(found[1]) * _UNITS[found[2]]
    if value >= 2**63:
        raise ValueError(text)
    return round(value)

"""Texts and rows for a terminal, whatever a file says."""

from __future__ import annotations

import re
from collections.abc import Sequence

_COMMANDS = re.compile(r"[\x00-\x08\x0b-\x1f\x7f-\x9f\u202a-\u202e\u2066-\u2069]")


def harmless(text: str) -> str:
    """Text of a file, without what commands a terminal or turns the text around it: control characters but
    tab and line feed, and Unicode's overrides of direction, become U+FFFD.
    """
    return _COMMANDS.sub("\ufffd", text)


def lines(rows: Sequence[tuple[str, str]]) -> str:
    """Rows of (name, text) for a terminal, whatever a file says."""
    width = max((len(name) for name, _ in rows), default=0)
    return harmless("\n".join(f"{name:{width}}  {text}" for name, text in rows))

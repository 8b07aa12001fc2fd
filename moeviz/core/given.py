"""What a caller of the library gave in the place of a trace, a run, paths or a model, checked where it comes
in: a verb says in words what it takes, and how one has that.

    a_trace("mine.moetrace", "replay")      # ArgumentError: ... is a path: trace, run = load(path) gives ...
"""

from __future__ import annotations

import os
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

import numpy as np

from moeviz.core.run import Run
from moeviz.core.trace import Trace
from moeviz.errors import ArgumentError

SHOWN = 60  # characters of a text that was given
GIVES = "trace, run = moeviz.load(path) gives the Trace."


def a_trace(given: Any, verb: str) -> None:
    """Raises ArgumentError where `given`, the first argument of `verb`, is no Trace."""
    if isinstance(given, Trace):
        return
    if isinstance(given, str | os.PathLike):
        why = f"{shown(given)} is a path: {GIVES}"
    elif isinstance(given, tuple) and given and isinstance(given[0], Trace):
        why = "moeviz.load gives two: trace, run = moeviz.load(path)."
    elif isinstance(given, Run):
        why = f"a Run does not hold the Trace it is of: {GIVES}"
    else:
        why = f"{shown(given)} is none: {GIVES}"
    raise ArgumentError(f"{verb} takes a Trace first, and {why}")


def a_run(given: Any, verb: str) -> None:
    """Raises ArgumentError where `given`, the first argument of `verb`, is no Run."""
    if not isinstance(given, Run):
        raise ArgumentError(
            f"{verb} takes a Run, and {shown(given)} is none: moeviz.replay(trace, ...) gives one, and so "
            "does moeviz.load(path) of a file that holds one."
        )


def a_path(given: Any, verb: str) -> None:
    """Raises ArgumentError where `given`, the first argument of `verb`, is no path."""
    if not isinstance(given, str | os.PathLike):
        raise ArgumentError(f"{verb} takes the path of a file, and {shown(given)} is none.")


def a_name(given: Any, verb: str) -> None:
    """Raises ArgumentError where `given`, the first argument of `verb`, does not name a model."""
    if isinstance(given, str | os.PathLike):
        return
    way = "moeviz.capture(model) records one of your own while your code runs it."
    if isinstance(given, Trace):
        way = "moeviz.replay(trace, ...) is for what was recorded."
    raise ArgumentError(
        f"{verb} takes the folder or hub id of a model first, and {shown(given)} is none: {way}"
    )


def whole(verb: str, **given: Any) -> None:
    """Raises ArgumentError where one of these is no whole number; a bool is none."""
    for name, value in given.items():
        if isinstance(value, bool) or not isinstance(value, int | np.integer):
            raise ArgumentError(f"{name} of {verb} is a whole number, and {shown(value)} is none.")


def wholes(given: Any, verb: str, name: str) -> list[int]:
    """A whole number or several of them, as a list. Raises ArgumentError."""
    given = given.tolist() if isinstance(given, np.ndarray) else given
    found = list(given) if isinstance(given, Iterable) and not isinstance(given, str | bytes) else [given]
    for one in found:
        if isinstance(one, bool) or not isinstance(one, int | np.integer):
            raise ArgumentError(
                f"{name} of {verb} are whole numbers, and {shown(one)} is none: write {name}=[4, 8]."
            )
    return [int(one) for one in found]


def texts(given: Any, verb: str, name: str, what: str = "names") -> tuple[str, ...]:
    """Several texts, called `what`; one by itself will do. Raises ArgumentError for anything else."""
    found = (given,) if isinstance(given, str) else given
    if not isinstance(found, Iterable) or isinstance(found, bytes):
        raise ArgumentError(f"{name} of {verb} are {what}, and {shown(given)} is none.")
    found = tuple(found)
    for one in found:
        if not isinstance(one, str):
            raise ArgumentError(f"{name} of {verb} are {what}, and {shown(one)} is none.")
    return found


def kinds(verb: str, usual: Mapping[str, Any], given: Mapping[str, Any]) -> dict[str, Any]:
    """What was given, as Python's own numbers. Raises ArgumentError where a value is of another kind than the
    usual one of its name."""
    found = dict(given)
    for name, value in given.items():
        kind = type(usual[name])
        if kind is int:
            whole(verb, **{name: value})
            found[name] = int(value)
        elif kind is float:
            number(verb, **{name: value})
            found[name] = float(value)
        elif kind is bool and not isinstance(value, bool):
            raise ArgumentError(f"{name} of {verb} is True or False, and {shown(value)} is neither.")
        elif kind is str and not isinstance(value, str):
            raise ArgumentError(f"{name} of {verb} is a text, and {shown(value)} is none.")
    return found


def number(verb: str, **given: Any) -> None:
    """Raises ArgumentError where one of these is no number; a bool is none."""
    for name, value in given.items():
        if isinstance(value, bool) or not isinstance(value, int | float | np.integer | np.floating):
            raise ArgumentError(f"{name} of {verb} is a number, and {shown(value)} is none.")
        if value != value:
            raise ArgumentError(f"{name} of {verb} is a number, and nan is none.")


def fields(verb: str, known: Iterable[str], given: Iterable[str]) -> None:
    """Raises ArgumentError where something is given by a name that is not known."""
    if unknown := sorted(set(given) - set(known)):
        raise ArgumentError(f"{verb} knows no {unknown[0]!r}. It takes {', '.join(sorted(known))}.")


def paths(given: Any, verb: str) -> list[Path]:
    """`given`, the first argument of `verb`, as paths. Raises ArgumentError where it is not several paths."""
    if isinstance(given, str | os.PathLike):
        raise ArgumentError(f"{verb} takes several paths, and {shown(given)} is one: write [path].")
    found = list(given) if isinstance(given, Iterable) else [given]
    for one in found:
        if not isinstance(one, str | os.PathLike):
            raise ArgumentError(
                f"{verb} takes a list of paths, and {shown(one)} is none: trace.save(path) makes a file of "
                "a Trace."
            )
    return [Path(one) for one in found]


def shown(given: Any) -> str:
    """What was given, in short: a text as it is, of other things their kind."""
    if isinstance(given, str | os.PathLike):
        return repr(os.fspath(given)[:SHOWN])
    if given is None:
        return "None"
    name = type(given).__name__
    return f"{'an' if name[0] in 'aeiouAEIOU' else 'a'} {name}"

"""The formats that can be read, found by their content or by name; a user's own file can add one.

    from moeviz.files.importers.registry import importer

    @importer("mine", "my recorder's lines", sniff=lambda source: 2 * source.head.startswith(b"MINE"))
    def read(source, options):
        "Made by my recorder 1.0."
        return finish(source, options, Routed(ids), "mine")

`sniff` says how sure it is that a file is of its format: 0 not, 1 could be, 2 is. `read` gives an `Imported`
trace, or `Counted` where the file only counts, and raises TraceError and nothing else.
"""

from __future__ import annotations

import importlib.util
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from moeviz.core.owncode import not_ours
from moeviz.core.run import Run
from moeviz.core.trace import MAX_EXPERTS, MAX_K, MAX_TOKENS, Trace
from moeviz.errors import TraceError
from moeviz.files.importers.looks import looks_like
from moeviz.files.importers.source import Source
from moeviz.files.moecounts import Counts

AXES = ("sequence", "token", "layer", "k")


@dataclass(frozen=True, slots=True)
class Options:
    """What the user says where a file does not."""

    experts: int = 0  # of each layer; 0: as the file says, or the largest id + 1
    prompt_tokens: int = -1  # of each request; -1: as the file says
    axes: str = ""  # of an array, for example "layer,token,k"; empty: found out
    top_k: int = 0  # experts that a token uses, where a file holds all routers' numbers or a shape is open

    def __post_init__(self) -> None:
        """Raises TraceError."""
        for name, value, least, most, has in (
            ("experts", self.experts, 0, MAX_EXPERTS, "a layer has 1"),
            ("experts a token", self.top_k, 0, MAX_K, "a token uses 1"),
            ("prompt tokens", self.prompt_tokens, -1, MAX_TOKENS, "a request has 0"),
        ):
            if not least <= value <= most:
                raise TraceError(f"{value} {name} were given; {has} to {most:,}.")
        if self.axes:
            named = self.axes.split(",")
            enough = {"token", "layer"} <= set(named) <= set(AXES) or self.axes == "token,k"
            if len(set(named)) < len(named) or not enough:
                raise TraceError(
                    f"--axes is {self.axes[:60]!r}; name each axis once, for example token,layer,k or "
                    "layer,token,k."
                )


class Watched(Options):
    """Options that know which of them a reader has asked for. Made as Options are, so that a reader may hand
    on a changed copy (`dataclasses.replace`)."""

    __slots__ = ("asked_for",)
    asked_for: set[str]

    def __post_init__(self) -> None:
        object.__setattr__(self, "asked_for", set())
        Options.__post_init__(self)
        self.asked_for.clear()

    def __getattribute__(self, name: str) -> Any:
        if name in NAMES:
            object.__getattribute__(self, "asked_for").add(name)
        return object.__getattribute__(self, name)

    @property
    def not_used(self) -> list[str]:
        """A sentence for each option that was given and that the reader had no use for."""
        given = {name: object.__getattribute__(self, name) for name in NAMES}
        return [
            f"--{name.replace('_', '-')} is not used ({value} was given): the file says itself {NAMES[name]}"
            for name, value in given.items()
            if value != getattr(AS_SAID, name) and name not in self.asked_for
        ]


NAMES = {  # of the options, and what they tell
    "experts": "how many experts a layer has",
    "prompt_tokens": "which tokens are prompt, or has no tokens",
    "axes": "what its axes are, or has none",
    "top_k": "how many experts a token uses",
}
AS_SAID = Options()  # nothing but what the file says


@dataclass(frozen=True, eq=False, slots=True)
class Imported:
    """A trace and what was met on the way to it."""

    trace: Trace
    run: Run | None = None
    format: str = "moetrace"
    report: list[str] = field(default_factory=list)  # what was left out, and what had to be assumed


@dataclass(frozen=True, eq=False, slots=True)
class Counted:
    """How often each expert was used, from a file that does not say when."""

    counts: Counts
    format: str
    report: list[str] = field(default_factory=list)


Found = Imported | Counted
Read = Callable[[Source, Options], Found]


@dataclass(frozen=True, slots=True)
class Importer:
    """One format."""

    name: str
    what: str  # in words, for help and the upload
    sniff: Callable[[Source], int]
    read: Read


IMPORTERS: dict[str, Importer] = {}


def importer(name: str, what: str, sniff: Callable[[Source], int]) -> Callable[[Read], Read]:
    """Registers the reader of a format. Raises ArgumentError where the name is moeviz's own."""

    def register(read: Read) -> Read:
        if known := IMPORTERS.get(name):
            not_ours("importer", name, known.read, read)
        IMPORTERS[name] = Importer(name, what, sniff, read)
        return read

    return register


def format_names() -> list[str]:
    """Names for `--format`, moeviz's own first."""
    return sorted(IMPORTERS, key=lambda name: (name != "moetrace", name))


def none_of_them(source: Source, looks: str = "") -> TraceError:
    """The refusal of a file that no format fits; `looks` says what it looks like, where a reader knows."""
    return TraceError(
        f"{source.name} is none of the formats that are read: {looks or looks_like(source)} Read are "
        f"{', '.join(format_names())} (`import --help` says more), each also as .gz or .zst."
    )


def load_importer(text: str) -> str:
    """The format of a name, or of a user's file as `path.py:name`, which is run. Raises TraceError."""
    path, colon, name = text.rpartition(":")
    if not colon or not path.endswith(".py"):
        if text not in IMPORTERS:
            raise TraceError(
                f"format {text[:40]!r} is not known. Choose one of {', '.join(format_names())}, or "
                "path.py:name."
            )
        return text
    spec = importlib.util.spec_from_file_location(f"moeviz_importer_{Path(path).stem}", path)
    if spec is None or spec.loader is None or not Path(path).is_file():
        raise TraceError(
            f"{path} is no Python file. Give path.py:name, with the name that @importer registers."
        )
    try:
        spec.loader.exec_module(importlib.util.module_from_spec(spec))
    except Exception as error:  # a user's file can raise anything
        raise TraceError(f"{path} cannot be run: {type(error).__name__}: {error}") from None
    if name not in IMPORTERS:
        raise TraceError(
            f"{path} registers no importer {name!r}. Put @importer({name!r}, ...) over its reader."
        )
    return name

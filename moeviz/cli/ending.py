"""How a command ends: with one message where it is refused, with a file that is whole, or with what an
interruption keeps.

    with refusing(), writing(out):
        moetrace.write_atomically(out, content)
"""

from __future__ import annotations

import re
import signal
import stat
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import click

from moeviz.errors import MoevizError

LONGEST = 400  # characters of a word in a message: a path is shown, a page is not
INTERRUPTED = 130  # the exit code of a program that SIGINT ended


class Refused(click.ClickException):
    """One message on standard error, exit code 2. It may quote a file, whose text does nothing there."""

    exit_code = 2

    def __init__(self, message: str) -> None:
        from moeviz.words import harmless

        shorter = re.sub(rf"\S{{{LONGEST + 1},}}", lambda word: f"{word[0][: LONGEST // 2]}...", message)
        super().__init__(harmless(shorter))


def writable(path: Path, *, overwrite: bool, option: str = "--out") -> Path:
    """A path where a file may be written. Raises Refused, before any work is done."""
    folder = path.parent
    try:
        if not folder.is_dir():
            if folder.exists():
                raise Refused(f"{folder} for {option} is no folder. Choose another.")
            raise Refused(f"The folder {folder} for {option} does not exist. Make it, or choose another.")
        mode = path.stat().st_mode
    except FileNotFoundError:
        if path.is_symlink():
            raise Refused(f"{path} is a link to nothing. Choose another name for {option}.") from None
        return path
    except (OSError, ValueError) as error:
        reason = error.strerror if isinstance(error, OSError) else error
        raise Refused(
            f"{option} {str(path)[:80]!r} cannot be a file: {reason}. Choose another name."
        ) from None
    if not stat.S_ISREG(mode):
        what = "a folder" if stat.S_ISDIR(mode) else "no regular file"
        raise Refused(f"{path} is {what}. Choose the name of a file for {option}.")
    if not overwrite:
        raise Refused(
            f"{path} is there already. Add --force to write over it, or choose another name for {option}."
        )
    return path


@contextmanager
def writing(path: Path, option: str = "--out") -> Iterator[None]:
    """Turns a write that fails into one message that names the file, its folder and the way out."""
    try:
        yield
    except BrokenPipeError:
        raise
    except OSError as error:
        raise Refused(
            f"{path} cannot be written in the folder {path.parent.resolve()}: {error.strerror or error}. "
            f"Make room there, or choose a {option} in another folder."
        ) from None


@contextmanager
def refusing() -> Iterator[None]:
    """Turns what a user can mend into one message and exit code 2; everything else is a fault of moeviz and
    stays one.
    """
    try:
        yield
    except MoevizError as error:
        raise Refused(str(error)) from None
    except BrokenPipeError:
        raise  # whoever read the output has left: not a fault of any file
    except OSError as error:
        raise Refused(f"{error.filename or 'The file'}: {error.strerror or error}.") from None


class Stopping:
    """True once SIGINT has come: the work ends at its next step, and what there is can be kept.

    A second one ends at once.
    """

    def __init__(self) -> None:
        self.asked = False

    def __call__(self) -> bool:
        return self.asked

    def _ask(self, *_: object) -> None:
        if self.asked:
            raise KeyboardInterrupt
        self.asked = True

    def __enter__(self) -> Stopping:
        self._before = signal.signal(signal.SIGINT, self._ask)
        return self

    def __exit__(self, *_: object) -> None:
        signal.signal(signal.SIGINT, self._before)


def keeps(sentence: str) -> None:
    """Says what an interruption from here on leaves behind, and where."""
    click.get_current_context().find_root().meta["moeviz.kept"] = sentence


def progress_line(text: str, last: bool) -> None:
    """One line of a terminal that is written over; nothing where standard error is no terminal."""
    if sys.stderr.isatty():
        click.echo(f"\r\033[K{text}", nl=last, err=True)

"""How far a command is: a bar of rich in a terminal, which is loaded when the first one is drawn.

with Meter("curves replayed") as meter:
    meter(3, 40)
"""

from __future__ import annotations

import sys
import time
from typing import TYPE_CHECKING

import click

if TYPE_CHECKING:
    from rich.progress import Progress


class Meter:
    """What is done, of how much, and the time left: a bar in a terminal, else a line for every tenth.

    It begins with the first call, which may say that nothing is done yet. `what`: what is counted. `quiet`:
    something is measured meanwhile, from which drawing takes time: the bar is drawn only when more is done,
    and elsewhere there is a line after the first only.
    """

    def __init__(self, what: str, *, quiet: bool = False) -> None:
        self._what, self._quiet = what, quiet

    def __enter__(self) -> Meter:
        self._began = time.monotonic()
        self._bar: Progress | None = None
        return self

    def __exit__(self, *_: object) -> None:
        if self._bar is not None:
            self._bar.stop()

    def __call__(self, done: int, of: int) -> None:
        if self._bar is None and sys.stderr.isatty():
            from rich.console import Console
            from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

            columns = (
                MofNCompleteColumn(),
                TextColumn(self._what),
                BarColumn(),
                TimeRemainingColumn(),
            )
            console = Console(stderr=True)
            self._bar = Progress(*columns, console=console, transient=True, auto_refresh=not self._quiet)
            self._task = self._bar.add_task("", total=of)
            self._bar.start()
        tenth = done > 0 and done * 10 // of > (done - 1) * 10 // of
        if self._bar is not None:
            self._bar.update(self._task, completed=done, total=of, refresh=self._quiet)
        elif done == 1 < of if self._quiet else tenth:
            from moeviz import words

            spent = time.monotonic() - self._began
            left = f", about {words.seconds_left(spent / done * (of - done))} left" if done < of else ""
            self.say(f"{done:,} of {of:,} {self._what}{left}")

    def say(self, line: str) -> None:
        """A line of its own, above the bar."""
        if self._bar is not None:
            self._bar.console.print(line, markup=False, highlight=False)
        else:
            click.echo(line, err=True)

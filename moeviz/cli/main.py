"""The same work without a browser: run a model, compare settings, replay, convert, sweep; and what moeviz
itself costs.

    python -m moeviz run --prompt "In the beginning" --policy lfu --slots 4 --out mine.moetrace

A command is a function under `@registered` in any file of this folder; this module finds them, and knows none
of them.
"""

from __future__ import annotations

import importlib
import os
import pkgutil
import sys
from typing import Any

import click

import moeviz.cli
from moeviz.cli.ending import INTERRUPTED
from moeviz.cli.options import COMMANDS


class Commands(click.Group):
    """Every registered command. Ends in one of three ways: 0, 2 with one message, or 130 after SIGINT."""

    def list_commands(self, ctx: click.Context) -> list[str]:
        return sorted(_found())

    def get_command(self, ctx: click.Context, name: str) -> click.Command | None:
        if name in _files():  # most commands stand in a file of their name: the others are not loaded then
            importlib.import_module(f"moeviz.cli.{name}")
        return COMMANDS.get(name) or _found().get(name)

    def resolve_command(self, ctx: click.Context, args: list[str]) -> Any:
        """As click's; one who looks for what `export` writes as if it were a command is told so."""
        try:
            return super().resolve_command(ctx, args)
        except click.UsageError as error:
            from moeviz.files.exporters.registry import EXPORTERS

            if args[0] in EXPORTERS:
                way = f"Write: export FILE --format {args[0]} --out FILE."
                raise click.UsageError(f"{error.message} {way}", ctx) from None
            raise

    def main(self, *arguments: Any, **named: Any) -> Any:
        """As click's, but for how a program ends that was interrupted, or whose output cannot be written."""
        named["standalone_mode"] = False
        code: Any = 0
        try:
            code = super().main(*arguments, **named)
        except click.Abort:
            code = INTERRUPTED
        except click.ClickException as error:
            if isinstance(error, click.NoSuchOption):
                error = _without_a_flag(error)
            error.show()
            code = error.exit_code
        except OSError as error:
            code = _output_failed(error)
        sys.exit(code if isinstance(code, int) else 0)

    def invoke(self, ctx: click.Context) -> Any:
        try:
            return super().invoke(ctx)
        except KeyboardInterrupt:
            kept = ctx.meta.get("moeviz.kept", "Nothing was kept.")
            click.echo(f"\nInterrupted. {kept}", err=True)
            ctx.exit(INTERRUPTED)


def _found() -> dict[str, click.Command]:
    """Every command; the files that define them load what they need when they are called."""
    for name in _files():
        importlib.import_module(f"moeviz.cli.{name}")
    importlib.import_module("moeviz.bench.cli")
    return COMMANDS


def _without_a_flag(error: click.NoSuchOption) -> click.UsageError:
    """For who gives an argument as if it were an option: that it is none."""
    command = error.ctx.command if error.ctx else None
    for one in command.params if command else ():
        if isinstance(one, click.Argument) and f"--{one.name}" == error.option_name:
            name = one.human_readable_name
            way = f"{name} is given without a flag: {error.ctx.command_path} {name}." if error.ctx else ""
            return click.UsageError(f"There is no option {error.option_name}. {way}", error.ctx)
    return error


def _files() -> list[str]:
    return [one.name for one in pkgutil.iter_modules(moeviz.cli.__path__)]


def _output_failed(error: OSError) -> int:
    """Standard output stands on a full disk, or is closed."""
    os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())  # what is buffered has nowhere to go
    click.echo(f"Error: The output cannot be written: {error.strerror or error}.", err=True)
    return 2


@click.group(cls=Commands, context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 110})
@click.version_option(moeviz.__version__, message="moeviz %(version)s")
def main() -> None:
    """Runs a mixture-of-experts model whose experts do not fit in fast memory, and shows what a cache makes
    of it.

    \b
    Start here:
      python -m moeviz run --prompt "In the beginning"
      python -m moeviz compare --prompt "In the beginning" --setting policy=lru --setting policy=lfu
      python -m moeviz replay sample_traces/change-of-subject.moetrace --policy lfu --slots 3
    """

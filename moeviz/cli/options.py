"""What the commands share: their options, and the kinds of values that these take.

Options of `Settings` are made from its fields, so that a new setting is an option of every command without a
line here. Loads neither torch nor pandas nor plotly: `--help` needs none of them.
"""

from __future__ import annotations

import math
import re
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

import click
from click.core import ParameterSource

from moeviz.cli.ending import Refused, writable
from moeviz.core import settings as known
from moeviz.core.machines import DEVICES, LINKS
from moeviz.core.settings import DEFAULTS, KINDS, SETTINGS, Settings
from moeviz.core.suiting import named, suited
from moeviz.errors import MoevizError, SettingsError
from moeviz.numbers.lossy import EXPERTS, LOSSLESS

if TYPE_CHECKING:
    from moeviz.core.trace import Trace

F = TypeVar("F", bound=Callable[..., Any])
C = TypeVar("C", bound=click.Command)

COMMANDS: dict[str, click.Command] = {}  # by name; filled by the files that define them

MOST_THREADS = 1_024
MOST_TOKENS = 10_000_000  # more than any model takes; the model's own limit is said once it is loaded


def registered(command: C) -> C:
    """Makes a command one of `python -m moeviz`."""
    assert command.name is not None
    COMMANDS[command.name] = command
    return command


class Place(click.Path):
    """A file or folder that is read, or a folder to write to; "" would be the current folder, which nobody
    named.
    """

    def __init__(self) -> None:
        super().__init__(path_type=Path)

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> Any:
        if value == "":
            self.fail("an empty text names no file.", param, ctx)
        return super().convert(value, param, ctx)


class Text(click.ParamType[str]):
    """A text that may be left out, but not be given as "", which is what an unset variable of a script makes
    of it: a run would not be paced, say, and nobody would know.
    """

    name = "text"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> str:
        if value == "" and _typed(param, ctx):
            self.fail("an empty text names nothing. Give a value, or leave it out.", param, ctx)
        return str(value)


def _typed(param: click.Parameter | None, ctx: click.Context | None) -> bool:
    """Whether the value of a parameter stands on the command line, and is no default."""
    source = ctx and param and param.name and ctx.get_parameter_source(param.name)
    return source is ParameterSource.COMMANDLINE


class Number(click.FloatRange):
    """A number in a range; not "nan", which is in every range that click checks, nor infinity."""

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> float:
        found = float(super().convert(value, param, ctx))
        if not math.isfinite(found):
            self.fail(f"{found} is not a finite number.", param, ctx)
        return found


class Device(click.ParamType[str]):
    """A kind of device that torch can compute on, perhaps with a number."""

    name = "device"

    def convert(self, value: str, param: click.Parameter | None, ctx: click.Context | None) -> str:
        if re.fullmatch(rf"({'|'.join(DEVICES)})(:\d{{1,3}})?", value) is None:
            raise Refused(
                f"device {value[:40]!r} is not available here. Choose one of {', '.join(DEVICES)}, or cuda:1."
            )
        return value


class Listing(click.Option):
    """An option whose help names what a registry holds; the registry is loaded when the help is shown."""

    def __init__(self, *arguments: Any, names: Callable[[], Iterable[str]], **named: Any) -> None:
        super().__init__(*arguments, **named)
        self._names = names

    def get_help_record(self, ctx: click.Context) -> tuple[str, str] | None:
        record = super().get_help_record(ctx)
        return record and (record[0], record[1].replace("{names}", ", ".join(self._names())))


class Value(click.ParamType[Any]):
    """A value of a field of Settings, read and checked by it, so that page and command line refuse it in the
    same words.
    """

    def __init__(self, field: str) -> None:
        self.field = field
        self.name = {int: "integer", float: "number", str: "text"}[KINDS[field]]

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> Any:
        if not isinstance(value, str):
            return value
        try:
            found = known.read(self.field, value)
            return _not_nothing(self.field, found) if _typed(param, ctx) else found
        except MoevizError as error:
            raise Refused(str(error)) from None


def _not_nothing(field: str, value: Any) -> Any:
    """The value of a field of Settings that was typed. In a Settings a budget of 0 means slots, and an empty
    text that nothing is named; whoever types the one means no memory, and the other is a variable of a script
    that is not set. Raises SettingsError.
    """
    if value == "":
        raise SettingsError(f"{field} is empty, which names nothing. Give a value, or leave it out.")
    if field == "budget" and not value:
        raise SettingsError(
            "A budget of 0 bytes holds no expert. Give more, for example 1GiB, or leave it out and give "
            "slots."
        )
    return value


def settings_from(text: str, **defaults: Any) -> Settings:
    """Settings as `--setting` names them. Raises SettingsError."""
    found = Settings.parse(text, **defaults)
    names = named(text)
    if not names:
        raise SettingsError(
            "an empty --setting names nothing. Write name=value, for example policy=lfu,slots=4, or leave it "
            "out."
        )
    for name in names:
        _not_nothing(name, getattr(found, name))
    return found


def setting_option(name: str, help: str = "", shown: str = "") -> Callable[[F], F]:
    """The option of one field of Settings; `help` where it says more here than there, `shown` what stands for
    its default there."""
    default, about = DEFAULTS[name], SETTINGS[name]
    known = about.known
    return click.option(
        f"--{name.replace('_', '-')}",
        cls=Listing,
        names=lambda: known or (),
        type=Value(name),
        default=default,
        show_default=shown or default != "",
        help=help or (f"{about.help}." if known is None else f"{about.help}: {{names}}."),
    )


def settings_options(command: F) -> F:
    """Options of every command that takes one Settings: all its fields. Of slots that are not given there are
    as many as suit the model."""
    for name in reversed(SETTINGS):
        shown = "4, or what suits the model" if name == "slots" else ""
        command = setting_option(name, shown=shown)(command)
    return command


def suiting(settings: Settings, trace: Trace) -> Settings:
    """Settings of the flags for a trace: of slots that were not given as many as suit it."""
    return settings if given("slots") else suited(settings, trace.shape)


def settings_of(options: dict[str, Any]) -> Settings:
    """Settings of the flags; those that change nothing are named. Raises SettingsError."""
    found = Settings(**{name: options[name] for name in SETTINGS if name in options})
    for name, why in found.unused.items():
        if given(name):
            not_used(name, why)
    return found


def given(*names: str) -> list[str]:
    """Those of the current command's options that stand on the command line."""
    context = click.get_current_context()
    return [name for name in names if context.get_parameter_source(name) is ParameterSource.COMMANDLINE]


def not_used(name: str, why: str) -> None:
    """Says that an option that was given has no say here."""
    click.echo(f"note       --{name.replace('_', '-')} is not used: {why}", err=True)


def model_options(command: F) -> F:
    """Options of every command that runs a model; the seed is that of Settings, used for the sampling too."""
    for option in reversed(
        (
            click.argument("model", required=False, default="", type=Text()),
            click.option(
                "--prompt",
                "prompts",
                required=True,
                multiple=True,
                help="Text for the model to go on from; given several times (up to 16), texts of one batch, "
                "which goes on until the last one ends.",
            ),
            click.option(
                "--max-new-tokens",
                type=click.IntRange(1, MOST_TOKENS),
                default=64,
                show_default=True,
                help="Tokens to generate.",
            ),
            click.option(
                "--temperature",
                type=Number(0, 100),
                default=0.7,
                show_default=True,
                help="How freely a token is drawn; 0: always the likeliest.",
            ),
            click.option(
                "--tier",
                type=click.Choice(["disk", "host"]),
                default="disk",
                show_default=True,
                help="The slow tier, where all experts live.",
            ),
            click.option(
                "--link",
                type=Text(),
                default="",
                help=f"Pace every copy to a slower link: {', '.join(LINKS)}, or GB/s, or GB/s,ms.",
            ),
            click.option(
                "--device",
                type=Device(),
                default="auto",
                show_default=True,
                help="The fast tier: auto, cpu, cuda, ...",
            ),
            click.option(
                "--dtype",
                type=click.Choice(["auto", "float32", "bfloat16", "float16"]),
                default="auto",
                show_default=True,
                help="Type of the weights; auto: the checkpoint's; on a CPU the faster of it and float32.",
            ),
            experts_option,
            click.option(
                "--threads",
                type=click.IntRange(1, MOST_THREADS),
                default=1,
                show_default=True,
                help="Threads of torch on a CPU.",
            ),
            click.option(
                "--then",
                type=Text(),
                default="",
                help="A change of subject: halfway this text is fed, token by token.",
            ),
            click.option("--past-end", is_flag=True, help="Go on when the model ends its text."),
        )
    ):
        command = option(command)
    return command


def experts_option(command: F) -> F:
    return click.option(
        "--experts",
        type=click.Choice(list(EXPERTS)),
        default=LOSSLESS,
        show_default=True,
        help="How the slow tier keeps experts: as the checkpoint does; unpacked, where that one packs them "
        "(the same text, sooner on a fast link); or rounded, which is lossy.",
    )(command)


def json_option(command: F) -> F:
    return click.option(
        "--json", "as_json", is_flag=True, help="One JSON object on standard output, for programs."
    )(command)


def out_option(help: str, *, required: bool = False, resumed: bool = False) -> Callable[[F], F]:
    """`--out` and, unless the command goes on with a file that is there, `--force`.

    One rule for every command.
    """

    def check(ctx: click.Context, param: click.Parameter, value: str | None) -> Path | None:
        if value is None:
            return None
        return writable(Path(value), overwrite=resumed or ctx.meta.get("moeviz.force", False))

    def force(ctx: click.Context, param: click.Parameter, value: bool) -> None:
        ctx.meta["moeviz.force"] = value

    def add(command: F) -> F:
        command = click.option("--out", callback=check, required=required, metavar="FILE", help=help)(command)
        if resumed:
            return command
        return click.option(
            "--force",
            is_flag=True,
            is_eager=True,  # before --out, which asks for it
            expose_value=False,
            callback=force,
            help="Write over a file that is there already.",
        )(command)

    return add

"""`python -m moeviz cache`: the packed experts that are kept between runs, what they take, and how much they
may."""

from __future__ import annotations

from datetime import datetime
from typing import TYPE_CHECKING

import click

from moeviz.amounts import byte_count
from moeviz.cli.ending import Refused, refusing
from moeviz.cli.options import registered

if TYPE_CHECKING:
    from moeviz.engine.cachefolder import Entry


@registered
@click.group()
def cache() -> None:
    """The folder where experts are kept packed between runs (MOEVIZ_CACHE, or the user's cache folder).

    \b
    Example:
      python -m moeviz cache list
      python -m moeviz cache limit 50GB
    """


@cache.command("list")
def list_() -> None:
    """What is in the folder, the least recently used first: the first to go where a limit is set.

    \b
    Example:
      python -m moeviz cache list
    """
    from moeviz import words
    from moeviz.engine import cachefolder

    found = cachefolder.entries()
    for entry in found:
        used = datetime.fromtimestamp(entry.used).isoformat(" ", "minutes")
        what = f"{entry.model}, {entry.dtype}" if entry.model else "not readable by this version"
        click.echo(f"{entry.path.stem}  {words.size(entry.bytes):>11}  used {used}  {what}")
    click.echo(f"{_sum(found)}, {_limit()}, in {cachefolder.cache_folder()}")


def _sum(entries: list[Entry]) -> str:
    """How many files, and what they take."""
    from moeviz import words

    return f"{words.many(len(entries), 'file')}, {words.size(sum(one.bytes for one in entries))}"


def _limit() -> str:
    from moeviz import words
    from moeviz.engine import cachefolder

    most = cachefolder.limit()
    return "no limit" if most is None else f"limit {words.size(most)}"


@cache.command()
@click.argument("names", nargs=-1)
def clean(names: tuple[str, ...]) -> None:
    """Delete all packed experts, or those that NAMES say: beginnings of what `list` shows first, or names of
    models.

    A later run packs them again. A run that is under way goes on.

    \b
    Example:
      python -m moeviz cache clean
    """
    from moeviz.engine import cachefolder

    found = cachefolder.entries()
    chosen = [e for e in found if not names or any(e.path.stem.startswith(n) or e.model == n for n in names)]
    if names and not chosen:
        raise Refused(
            f"Nothing in {cachefolder.cache_folder()} is called {' or '.join(names)}. Try cache list."
        )
    kept = [entry for entry in chosen if not cachefolder.remove(entry)]
    gone = [entry for entry in chosen if entry not in kept]
    click.echo(f"deleted {_sum(gone)}")
    if kept:
        raise Refused(
            f"{len(kept)} files cannot be deleted: in use, or not yours. End the runs that use them first."
        )


@cache.command()
@click.argument("size", required=False)
def limit(size: str | None) -> None:
    """Show, set or lift (`none`) the size that the folder may have, for all later runs.

    What was not used for longest goes first, now and whenever a run needs room.

    \b
    Example:
      python -m moeviz cache limit 50GB
    """
    from moeviz.engine import cachefolder

    if size is not None:
        with refusing():
            gone = cachefolder.set_limit(None if size.lower() == "none" else bytes_of(size))
        if gone:
            click.echo(f"deleted {_sum(gone)}")
    click.echo(_limit())


def bytes_of(text: str) -> int:
    """50GB, 1.5 TiB, 1000000. Raises Refused."""
    try:
        return byte_count(text)
    except ValueError:
        raise Refused(f"The size {text[:40]!r} is not known. Write for example 50GB or 40GiB.") from None

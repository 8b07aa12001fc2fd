"""`lessons`: what there is to teach, and sheets for paper.

python -m moeviz lessons --sheet questions.html --answers answers.html
"""

from __future__ import annotations

from pathlib import Path

import click

from moeviz.cli.ending import Refused, keeps, refusing, writable, writing
from moeviz.cli.options import registered


@registered
@click.command()
@click.option(
    "--sheet", metavar="FILE", help="Write the questions for a class: an HTML page to print, A4 or Letter."
)
@click.option(
    "--answers", metavar="FILE", help="Write the lecturer's page: answers, what goes wrong, a 45-minute plan."
)
@click.option("--force", is_flag=True, help="Write over a file that is there already.")
def lessons(sheet: str | None, answers: str | None, force: bool) -> None:
    """What is there to teach? Lists the lessons of the app's page Lessons, or writes their sheets for paper.

    \b
    Examples:
      python -m moeviz lessons
      python -m moeviz lessons --sheet questions.html --answers answers.html
    """
    from moeviz.files.moetrace import write_atomically
    from moeviz.lessons import Lab
    from moeviz.lessons import lessons as every
    from moeviz.lessons import sheet as paper

    if sheet is None and answers is None:
        for one in every():
            click.echo(f"{one.number}  {one.title} ({one.minutes} minutes)")
        return
    wanted = (("--sheet", sheet, paper.students), ("--answers", answers, paper.lecturer))
    places = [
        (writable(Path(file), overwrite=force, option=option), option, write)
        for option, file, write in wanted
        if file is not None
    ]
    if len({out.resolve() for out, _, _ in places}) < len(places):
        raise Refused("--sheet and --answers name the same file. Choose another name for one of them.")
    for out, option, write in places:
        with refusing():
            content = write(every(), Lab())
        with writing(out, option):
            write_atomically(out, content.encode())
        keeps(f"{out} is written.")
        click.echo(f"saved      {out}: {len(every())} lessons")

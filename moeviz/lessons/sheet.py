"""Sheets for paper: the questions for a class, and the lecturer's page with answers, minutes and what goes
wrong.

One HTML file each, without script or network; the printer's paper (A4 or Letter) decides the page.

    Path("questions.html").write_text(students(lessons(), Lab()), encoding="utf-8")
"""

from __future__ import annotations

import html
from collections.abc import Sequence

from moeviz.lessons import game
from moeviz.lessons.lab import Lab
from moeviz.lessons.lesson import Answer, Choice, Lesson, Picture
from moeviz.words import policy_name

CLASS_MINUTES = 45
PLAN = (0, 1, 2, 3, 5, 6)  # lessons that fit into one class; the others are for the next one
ROUNDS = 2  # of the game, on paper
STYLE = """
@page { margin: 14mm; }
body { font-family: system-ui, sans-serif; font-size: 11pt; line-height: 1.4; color: #111; background: #fff;
       max-width: 182mm; margin: 0 auto; padding: 4mm; }
h1 { font-size: 20pt; margin: 0 0 2mm; }
h2 { font-size: 14pt; margin: 0 0 2mm; }
section { break-inside: avoid; padding: 5mm 0; border-top: 0.5mm solid #999; }
svg { display: block; max-width: 138mm; margin: 2mm 0; }
.pair { display: grid; grid-template-columns: 1fr 1fr; gap: 0 6mm; }
p { margin: 0 0 2mm; }
.ask { font-weight: 700; }
ol { margin: 0 0 2mm; padding: 0; list-style: none; }
ol li::before { content: ""; display: inline-block; width: 3.4mm; height: 3.4mm; border: 0.4mm solid #111;
                margin-right: 2.5mm; vertical-align: -0.4mm; }
.line { border-bottom: 0.3mm solid #888; height: 7mm; }
.said { font-size: 10pt; color: #333; }
table { border-collapse: collapse; width: 100%; margin: 2mm 0; }
th, td { text-align: left; vertical-align: top; padding: 1.2mm 2mm; border: 0.2mm solid #999; }
@media print { body { padding: 0; max-width: none; } }
"""


def students(several: Sequence[Lesson], lab: Lab) -> str:
    """What a class gets: text, pictures and questions, with room to write; no answers."""
    parts = [
        "<h1>A model whose experts do not fit</h1>",
        "<p>Predict first and write down why; then see what comes out. A wrong prediction with a reason "
        "is worth more than a right one "
        "without.</p>",
    ]
    parts += [_questions(one, lab) for one in several]
    return _page("moeviz: questions", parts)


def lecturer(several: Sequence[Lesson], lab: Lab) -> str:
    """What the lecturer keeps: a plan of CLASS_MINUTES, and for each lesson the computed answer, why, and
    what goes wrong.
    """
    parts = [
        "<h1>Answers, and a plan of 45 minutes</h1>",
        "<p>Every number was computed from the bundled samples when this page was made. Open the app's "
        "page Lessons on the projector, let "
        "the class predict on the sheet, ask for hands, then reveal. Key P makes everything large.</p>",
        _plan(several),
    ]
    parts += [_answers(one, one.answer(lab), lab) for one in several]
    return _page("moeviz: answers", parts)


def plan(several: Sequence[Lesson]) -> list[tuple[int, int, str]]:
    """(from minute, to minute, what) of one class, up to CLASS_MINUTES."""
    known = {one.number: one for one in several}
    rows, at = [], 0
    for number in PLAN:
        one = known[number]
        rows.append((at, at + one.minutes, f"Lesson {number}: {one.title}"))
        at += one.minutes
    return [
        *rows,
        (at, CLASS_MINUTES, "Sum up: who predicted what, and what would you measure on your own text?"),
    ]


def _plan(several: Sequence[Lesson]) -> str:
    rows = "".join(
        f"<tr><td>{first} to {last}</td><td>{html.escape(what)}</td></tr>"
        for first, last, what in plan(several)
    )
    rest = ", ".join(f"{one.number} ({one.minutes} minutes)" for one in several if one.number not in PLAN)
    return (
        "<section><h2>45 minutes</h2><table><tr><th>Minutes</th><th>What</th></tr>"
        f"{rows}</table><p>For the next class: lessons {rest}. Of each lesson take a third for reading "
        f"and predicting, a third for the stage, a "
        "third for talking about why.</p></section>"
    )


def _questions(one: Lesson, lab: Lab) -> str:
    several = [_figure(picture) for picture in _for_paper(one.pictures(lab))]
    drawn = _pair(several) if len(several) == 2 else "".join(several)
    read = "".join(f"<p>{html.escape(paragraph)}</p>" for paragraph in one.read)
    if isinstance(one.predict, Choice):
        options = "".join(f"<li>{html.escape(option)}</li>" for option in one.predict.options)
        room = f"<ol>{options}</ol>"
    else:
        unit = html.escape(one.predict.unit.strip())
        room = f"<p>My prediction, from {one.predict.least} to {one.predict.most} {unit}: ______</p>"
    return (
        f"<section><h2>{one.number}. {html.escape(one.title)}</h2>{read}{drawn}"
        f'<p class="ask">{html.escape(one.ask)}</p>{room}<p>Because:</p>'
        '<div class="line"></div><div class="line"></div>'
        f"{_game(lab, False) if one.extra == 'game' else ''}</section>"
    )


def _answers(one: Lesson, answer: Answer, lab: Lab) -> str:
    why = "".join(f"<p>{html.escape(said.text)}</p>" for said in answer.why if said.holds)
    right = html.escape(one.predict.text(answer.right))
    drawn = "" if answer.picture is None else _figure(answer.picture)
    return (
        f"<section><h2>{one.number}. {html.escape(one.title)} ({one.minutes} minutes in class)</h2>"
        f'<p class="ask">{html.escape(one.ask)}</p><p><b>Answer: {right}.</b></p>{why}{drawn}'
        f"<p><b>What goes wrong.</b> {html.escape(one.goes_wrong)}</p>"
        f"{_game(lab, True) if one.extra == 'game' else ''}</section>"
    )


def _game(lab: Lab, solved: bool) -> str:
    """A few rounds of the game against LRU."""
    now = game.start(lab.trace(), "lru")
    asked = f"<p><b>Play: who leaves, under {html.escape(policy_name('lru'))}?</b></p>"
    rounds = range(min(ROUNDS, len(now.rounds)))
    if solved:
        told = (f"<p>Round {n + 1}: {html.escape(now.rounds[n].sentence)}</p>" for n in rounds)
        return asked + "".join(told)
    boards = [game.board(game.Game(now.policy, now.rounds, n)) for n in rounds]
    return asked + _pair([f"{board}<p>Leaves: ______</p>" for board in boards])


def _for_paper(pictures: Sequence[Picture]) -> Sequence[Picture]:
    """All of them, or of many the ones in the middle and before the end: a walk has too many steps for
    paper.
    """
    return pictures if len(pictures) < 3 else (pictures[len(pictures) // 2], pictures[-2])


def _pair(parts: Sequence[str]) -> str:
    """Side by side, so that a lesson fits on one sheet."""
    return f'<div class="pair">{"".join(f"<div>{part}</div>" for part in parts)}</div>'


def _figure(picture: Picture) -> str:
    return f'{picture.svg}<p class="said">{html.escape(picture.text)}</p>'


def _page(title: str, parts: Sequence[str]) -> str:
    return (
        '<!doctype html>\n<html lang="en">\n<head>\n<meta charset="utf-8">\n'
        f"<title>{html.escape(title)}</title>\n"
        '<meta http-equiv="Content-Security-Policy" content="default-src \'none\'; style-src '
        "'unsafe-inline'\">\n"
        f"<style>{STYLE}</style>\n</head>\n<body>\n{''.join(parts)}\n</body>\n</html>\n"
    )

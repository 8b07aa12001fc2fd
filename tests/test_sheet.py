"""Sheets for paper: questions without answers, answers with a plan, and both printable on A4 and Letter."""

from __future__ import annotations

import html
import os
import re
from functools import cache
from itertools import pairwise
from pathlib import Path

import pytest
from click.testing import CliRunner
from test_lessons import LAB

from moeviz.cli.main import main
from moeviz.lessons import lessons, sheet

PAPER = {"A4": 794, "Letter": 816}  # width in CSS px
RIGHTMOST = """Math.max(...[...document.body.querySelectorAll('*')].map(
  (one) => one.getBoundingClientRect().right))"""
MARGIN = 106  # 14 mm on both sides, in CSS px


@cache
def students() -> str:
    return sheet.students(lessons(), LAB)


@cache
def lecturer() -> str:
    return sheet.lecturer(lessons(), LAB)


def test_the_class_gets_every_question_and_no_answer() -> None:
    for one in lessons():
        assert html.escape(one.ask) in students()
        answer = one.answer(LAB)
        assert not any(html.escape(said.text) in students() for said in answer.why)
        assert html.escape(one.goes_wrong) not in students()


def test_the_lecturer_gets_answers_reasons_and_what_goes_wrong() -> None:
    for one in lessons():
        answer = one.answer(LAB)
        assert f"Answer: {html.escape(one.predict.text(answer.right))}." in lecturer()
        assert all(html.escape(said.text) in lecturer() for said in answer.why)
        assert html.escape(one.goes_wrong) in lecturer()


def test_the_game_on_paper_is_solved_for_the_lecturer_alone() -> None:
    assert students().count("Leaves: ______") == sheet.ROUNDS
    solved = re.findall(r"Round \d: (Expert \d+ left: [^<]*)", lecturer())
    assert len(solved) == sheet.ROUNDS
    assert not any(one in students() for one in solved)


def test_the_plan_fills_45_minutes_without_a_gap() -> None:
    rows = sheet.plan(lessons())
    assert rows[0][0] == 0
    assert rows[-1][1] == 45
    assert all(before[1] == after[0] for before, after in pairwise(rows))
    assert all(first < last for first, last, _ in rows)


def test_sheets_reach_no_network_and_run_nothing() -> None:
    for page in (students(), lecturer()):
        assert "default-src 'none'" in page
        assert not re.search(r"<script|<link|<img|src=|href=", page)


@pytest.mark.browser
@pytest.mark.skipif(not Path("/usr/bin/chromium").exists() and not os.environ.get("CI"), reason="no Chromium")
@pytest.mark.parametrize("make", [students, lecturer])
def test_sheets_print_on_a4_and_letter_with_nothing_cut(make, tmp_path: Path) -> None:
    from playwright.sync_api import sync_playwright
    from test_browser import CHROMIUM, PATIENCE, QUIET

    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=CHROMIUM, args=QUIET)
        page = browser.new_page()
        page.set_default_timeout(PATIENCE)
        page.set_content(make())
        page.emulate_media(media="print")
        for paper, width in PAPER.items():
            page.set_viewport_size({"width": width - MARGIN, "height": 900})
            wide = page.evaluate(RIGHTMOST)
            assert wide <= width - MARGIN + 1
            file = tmp_path / f"{paper}.pdf"
            page.pdf(path=file, format=paper, print_background=False)
            content = file.read_bytes()
            assert content.startswith(b"%PDF")
            assert 3 <= len(re.findall(rb"/Type\s*/Page[^s]", content)) <= 14
        browser.close()


def test_the_command_writes_both_sheets_and_overwrites_nothing(tmp_path: Path) -> None:
    questions, answers = tmp_path / "q.html", tmp_path / "a.html"
    arguments = ["lessons", "--sheet", str(questions), "--answers", str(answers)]
    found = CliRunner().invoke(main, arguments)
    assert found.exit_code == 0, found.output
    assert questions.read_text(encoding="utf-8") == students()
    assert answers.read_text(encoding="utf-8") == lecturer()
    again = CliRunner().invoke(main, ["lessons", "--sheet", str(questions)])
    assert again.exit_code == 2
    assert "is there already. Add --force" in again.output
    assert "--sheet" in again.output


def test_the_command_lists_the_lessons() -> None:
    found = CliRunner().invoke(main, ["lessons"])
    assert found.exit_code == 0
    assert all(one.title in found.output for one in lessons())

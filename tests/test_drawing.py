"""Drawings: well-formed, escaped, and hiding what is to be guessed."""

from __future__ import annotations

import re
from xml.etree import ElementTree

import numpy as np

from moeviz.charts import style
from moeviz.lessons import drawing


def words(svg: str) -> str:
    root = ElementTree.fromstring(svg)
    return " ".join([root.attrib["aria-label"], *(one.text or "" for one in root.iter())])


def test_names_are_text_whatever_they_hold() -> None:
    svg = drawing.bars([("<script>&", 0.5)], "a < b")
    assert "<script>" not in svg
    assert "<script>&" in words(svg)


def test_a_mark_crosses_no_number() -> None:
    """Where the line would, the number stands in its bar."""
    for value in (0.2, 0.5, 0.82, 1.0):
        for at in np.linspace(0, 1, 41):
            root = ElementTree.fromstring(drawing.bars([("a", value)], "what", marks=(("here", float(at)),)))
            line = next(one for one in root if one.tag.endswith("line"))
            number = next(one for one in root if one.text == f"{value:.0%}")
            wide = drawing.LETTER * len(number.text or "")
            left = float(number.attrib["x"]) - (wide if number.attrib["text-anchor"] == "end" else 0)
            if number.attrib["text-anchor"] == "start":
                assert not left < float(line.attrib["x1"]) < left + wide, (value, at)
            assert 0 <= left <= drawing.WIDTH - wide


def test_numbers_are_shares_points_counts_or_of_a_unit() -> None:
    assert drawing.number_of(0.048, "%") == "5%"
    assert drawing.number_of(0.048, "points") == "4.8 points"
    assert drawing.number_of(560.0, "") == "560"
    assert drawing.number_of(8.53, "ms") == "8.53 ms"


def test_a_bar_that_is_to_be_guessed_shows_a_question_mark_and_no_number() -> None:
    said = words(drawing.bars([("known", 0.25), ("hidden", None)], "what"))
    assert "25%" in said
    assert "hidden: ?" in said
    assert said.count("%") == 2  # in the drawing and in its sentence


def test_a_hidden_curve_gives_its_ends_alone() -> None:
    values = [0.1, 0.77, 0.9]
    hidden = drawing.curves([1, 2, 3], [("line", values)], "x", "what", hidden=True)
    shown = drawing.curves([1, 2, 3], [("line", values)], "x", "what")
    assert "polyline" in shown
    assert "polyline" not in hidden
    assert hidden.count("<circle") == 2


def test_a_guess_is_a_line_and_a_ring_on_the_curve_it_was_made_about() -> None:
    lines = [("line", [0.5, 0.75, 1.0]), ("bound", [0.6, 0.8, 1.0])]
    svg = drawing.curves([2, 3, 4], lines, "x", "what", guess=(3, "your guess: 3"))
    assert "your guess: 3 at 3" in words(svg)
    points = re.search(r'points="[^ ]+ ([\d.]+),([\d.]+) ', svg)
    ring = re.search(r'<circle cx="([\d.]+)" cy="([\d.]+)"', svg)
    assert points is not None
    assert ring is not None
    assert ring.groups() == points.groups()


def test_a_raster_counts_its_rows_for_those_who_cannot_see_it() -> None:
    svg = drawing.raster(np.array([[True, False], [True, True]]), "who", "tokens")
    assert "expert 0 1 times, expert 1 2 times" in words(svg)


def test_stacks_show_the_sum_and_their_parts() -> None:
    said = words(drawing.stacks([("run", [("experts", 2.0), ("waiting", 6.5)])], "time", "ms"))
    assert "8.50 ms" in said
    assert "waiting 6.50 ms" in said


def test_the_parts_of_a_tokens_time_look_as_on_every_chart() -> None:
    """Waiting in the colour of computing would say the opposite of the stage beside it."""
    svg = drawing.stacks([("run", [("experts", 2.0), ("waiting", 6.5)])], "time", "ms")
    fills = [one.attrib["fill"] for one in ElementTree.fromstring(svg) if one.tag.endswith("rect")]
    assert fills == [style.COMPUTE, style.STALL] * 2  # the bars, and what they mean

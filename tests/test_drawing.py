"""Drawings: well-formed, escaped, and hiding what is to be guessed."""

from __future__ import annotations

from xml.etree import ElementTree

import numpy as np

from moeviz.lessons import drawing


def words(svg: str) -> str:
    root = ElementTree.fromstring(svg)
    return " ".join([root.attrib["aria-label"], *(one.text or "" for one in root.iter())])


def test_names_are_text_whatever_they_hold() -> None:
    svg = drawing.bars([("<script>&", 0.5)], "a < b")
    assert "<script>" not in svg
    assert "<script>&" in words(svg)


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


def test_a_raster_counts_its_rows_for_those_who_cannot_see_it() -> None:
    svg = drawing.raster(np.array([[True, False], [True, True]]), "who", "tokens")
    assert "expert 0 1 times, expert 1 2 times" in words(svg)


def test_stacks_show_the_sum_and_their_parts() -> None:
    said = words(drawing.stacks([("run", [("compute", 2.0), ("waiting", 6.5)])], "time", "ms"))
    assert "8.5 ms" in said
    assert "waiting 6.5 ms" in said

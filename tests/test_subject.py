"""Where a text changes its subject."""

from __future__ import annotations

from dataclasses import replace
from itertools import pairwise

from moeviz.files import moetrace
from moeviz.numbers.subject import known_domains, subject_changes


def test_the_sample_that_changes_its_subject_does_so_at_its_first_def() -> None:
    trace = moetrace.sample("change-of-subject")
    (change,) = subject_changes(trace)
    assert (change.before, change.after) == ("german", "python")
    assert trace.texts[change.token] == "def"


def test_one_subject_has_no_change() -> None:
    assert subject_changes(moetrace.sample("bible")) == []


def test_changes_follow_one_another() -> None:
    changes = subject_changes(moetrace.sample("python-long"))
    assert all(one.after == two.before for one, two in pairwise(changes))


def test_another_model_has_no_domains() -> None:
    trace = replace(moetrace.sample("change-of-subject"), model="someone else's")
    assert known_domains(trace) == {}
    assert subject_changes(trace) == []


def test_a_text_shorter_than_two_windows_is_not_judged() -> None:
    assert subject_changes(moetrace.sample("change-of-subject").window(0, 40)) == []

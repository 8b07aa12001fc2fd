"""Every lesson on the bundled samples: what its texts take for right is what comes out."""

from __future__ import annotations

from dataclasses import replace
from functools import cache
from pathlib import Path
from xml.etree import ElementTree

import pytest

from moeviz.core.replay import replay
from moeviz.core.run import Run
from moeviz.core.settings import Settings
from moeviz.core.trace import Trace
from moeviz.errors import TraceError
from moeviz.files import moetrace
from moeviz.lessons import Answer, Choice, Guess, Lab, Lesson, drawing, game, lessons
from moeviz.lessons.lesson import lesson
from moeviz.lessons.made_up import Recipe

ROOT = Path(__file__).parent.parent
NUMBERS = range(len(lessons()))


@cache
def sample(name: str) -> tuple[Trace, Run | None]:
    return moetrace.load(moetrace.SAMPLES / f"{name}.moetrace")


_RUNS: dict[tuple[str, Settings], Run] = {}


def kept(trace: Trace, settings: Settings) -> Run:
    key = trace.digest, settings
    if key not in _RUNS:
        _RUNS[key] = replay(trace, settings)
    return _RUNS[key]


LAB = Lab(sample, kept)


@cache
def answered(number: int) -> Answer:
    return lessons()[number].answer(LAB)


def test_lessons_are_numbered_without_a_gap() -> None:
    assert [one.number for one in lessons()] == list(NUMBERS)
    assert len(NUMBERS) == 9


@pytest.mark.parametrize("number", NUMBERS)
def test_text_in_pictures_is_large_enough_on_a_phone_and_not_cut(number: int) -> None:
    pictures = [*lessons()[number].pictures(LAB), answered(number).picture]
    games = [game.start(LAB.trace(), policy) for policy in game.LESSON] if number == 3 else []
    games += [game.guess(one, one.round.candidates[0].expert) for one in games]
    if draw := answered(number).with_guess:
        pictures += [draw(guess, "the class's guess") for guess in range(2, 9)]
    drawn = [one.svg for one in pictures if one is not None] + [game.board(one) for one in games]
    for text in (
        one for svg in drawn for one in ElementTree.fromstring(svg).iter() if one.tag.endswith("text")
    ):
        size, x = float(text.get("font-size", "14")), float(text.get("x", "0"))
        assert size * 358 / drawing.WIDTH >= 12, text.text  # px in a window of 390
        wide = 0.47 * size * len(text.text or "")  # a letter's usual width
        starts = x - wide * {"start": 0, "middle": 0.5, "end": 1}[text.get("text-anchor", "start")]
        assert 0 <= starts <= drawing.WIDTH - wide, text.text


def test_how_it_works_is_read_in_a_minute_and_says_whose_scores_it_shows() -> None:
    first = lessons()[0]
    steps = [one.text for one in first.pictures(LAB)]
    assert first.title.startswith("How it works")
    assert len(" ".join((*first.read, *steps)).split()) <= 240  # a minute of silent reading
    assert any("The others' are not recorded." in one for one in steps)


@pytest.mark.parametrize("number", NUMBERS)
def test_what_a_lesson_claims_is_what_comes_out(number: int) -> None:
    one, answer = lessons()[number], answered(number)
    assert answer.parted == []
    assert one.holds(answer), f"lesson {number} takes {one.claim} for right; computed: {answer.right}"
    assert len(answer.why) >= 2


@pytest.mark.parametrize("number", NUMBERS)
def test_a_prediction_can_be_right_and_can_be_wrong(number: int) -> None:
    one, answer = lessons()[number], answered(number)
    asked = one.predict
    every = range(len(asked.options)) if isinstance(asked, Choice) else range(asked.least, asked.most + 1)
    found = [asked.right(value, answer.right) for value in every]
    assert any(found)
    assert not all(found)
    assert asked.text(answer.right)


@pytest.mark.parametrize("number", NUMBERS)
def test_the_stage_can_show_what_a_lesson_reveals(number: int) -> None:
    shown = answered(number).stage
    for one in shown.settings:
        one.check(shown.trace.layers, shown.trace.num_experts, shown.trace.k)
    assert 0 <= shown.step < len(shown.trace.passes())
    if shown.selected is not None:
        board, layer, expert = shown.selected
        assert board < len(shown.settings)
        assert layer < shown.trace.layers
        assert 0 <= expert < shown.trace.num_experts


@pytest.mark.parametrize("number", NUMBERS)
def test_pictures_are_drawings_with_a_sentence_and_no_script(number: int) -> None:
    several = lessons()[number].pictures(LAB)
    after = answered(number).picture
    for one in (*several, *([after] if after else [])):
        root = ElementTree.fromstring(one.svg)
        assert root.attrib["aria-label"]
        assert one.text
        assert "script" not in one.svg
        assert "http" not in one.svg.replace("http://www.w3.org/2000/svg", "")


@pytest.mark.parametrize("number", NUMBERS)
def test_a_lesson_leads_to_a_page_that_is_there(number: int) -> None:
    one = lessons()[number].try_it
    assert (ROOT / "pages" / f"{one.page}.py").is_file()
    if trace := one.link.get("trace"):
        assert trace.removeprefix("sample: ") in moetrace.sample_names()
    for board in ("a", "b"):
        Settings.parse(one.link.get(board, ""))


def swapped(trace: Trace, settings: Settings) -> Run:
    """A world in which lru does what lfu does, and the other way round."""
    other = {"lru": "lfu", "lfu": "lru"}.get(settings.policy, settings.policy)
    return kept(trace, replace(settings, policy=other))


def test_a_lesson_whose_claim_is_not_so_is_found_out() -> None:
    one = lessons()[1]
    answer = one.answer(Lab(sample, swapped))
    assert not one.holds(answer)
    assert answer.parted


def test_sentences_that_are_not_so_part_from_the_answer() -> None:
    one: Lesson = lessons()[5]
    answer = one.answer(Lab(sample, lambda trace, settings: kept(trace, Settings("lru", 4))))
    assert answer.right == 1  # as long: nothing was guessed
    assert not one.holds(answer)


def test_two_lessons_of_one_number_are_refused() -> None:
    with pytest.raises(ValueError, match="lesson 1 is there twice"):
        lesson(
            1,
            "Another",
            minutes=1,
            read=(),
            ask="",
            predict=Guess(0, 1, "", close=0),
            claim=(0, 1),
            pictures=lambda lab: (),
            goes_wrong="",
            try_it=lessons()[0].try_it,
        )(lambda lab: answered(1))


def test_a_sample_without_a_measured_run_is_named() -> None:
    bare = Lab(lambda name: (sample(name)[0], None))
    with pytest.raises(TraceError, match="holds no measured run"):
        bare.recorded("bible")


def test_a_made_up_text_is_the_same_again_and_another_with_another_seed() -> None:
    assert Recipe(seed=1).trace().digest == Recipe(seed=1).trace().digest
    assert Recipe(seed=1).trace().digest != Recipe(seed=2).trace().digest

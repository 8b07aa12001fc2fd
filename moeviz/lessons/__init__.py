"""Lessons for a class: read, predict, reveal, why, try. One file a lesson, found by their registry.

A lesson is data, and one function that computes its answer when it is shown: from replays of the bundled
samples and the numbers of
`moeviz.numbers`, never from a figure that somebody wrote down. Knows no page, no browser and no model.

    for one in lessons():
        print(one.number, one.title, one.answer(Lab()).right)
"""

from moeviz.lessons.lab import Lab
from moeviz.lessons.lesson import Answer, Choice, Guess, Lesson, Picture, Said, Shown, Try, lessons

__all__ = ["Answer", "Choice", "Guess", "Lab", "Lesson", "Picture", "Said", "Shown", "Try", "lessons"]

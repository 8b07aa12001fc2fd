"""Whoever meets a word of the field in the app finds its sentence there. Nobody has to know it before."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from conftest import odd_traces
from test_charts import of_trace
from test_pages import PAGES, opened

from moeviz import words
from moeviz.charts import Chart, comparison, domains, lanes, story, times
from moeviz.charts.stage.words import LEGEND, PHRASES, TERMS
from moeviz.core.replay import replay
from moeviz.core.settings import SETTINGS, Settings
from moeviz.files import exporters, moetrace
from moeviz.numbers import cost, metrics
from moeviz.numbers.explain import Explainer
from moeviz.words import terms

SAMPLE = Path(__file__).parent.parent / "sample_traces" / "change-of-subject.moetrace"
LABELLED = (
    "selectbox",
    "multiselect",
    "number_input",
    "text_input",
    "text_area",
    "slider",
    "select_slider",
    "button_group",
    "toggle",
)
NAMES = {"Trace", "Published curves", "Format"}  # their options are names of things, not words
EVERYDAY = """
a about above after again aged ago ahead alike all alone an and anew are around array as ask at axes axis
back became been before began being below beside between bible blue both busiest but by bytes calibrated
came cell chance change change-of-subject changes choice choices chose chosen click colour colours come
comes computed copied copy costs count counted counts curve dashed differ difference disk distance
does double-click drag drawn dropped each earlier either equally every far faster favours fetched file
find first for format free from future gb german goes had half has have held here host how if in included
instead is it its jargon kept knows large last late layer layers leads least leaves left lesson life like
likeness line loaded lost many mb mean measure memory mib middle missing model more most moved moves ms
much needed never new next no nobody not nothing now numbers of often on once one one's or order other
output over own paper per points position prediction preset python python-long quarter's ram red repeat
repeats replay request right s same say scale second see serve settings share shares show shown shows
similarity since size slower slows so some sooner spanish speed ssd stale state stays still stronger subject
tell text that the them then there these thick thin this through time timed times to together told too took
two typed under uneven unpacked until used uses very wait waited waits warm was watched way weight weighted
went were what when where which while who whole why with within without words worst would x16 x4 yet your
zoom zooms
"""
PLAIN = set(EVERYDAY.split())


@pytest.fixture(scope="module")
def shown() -> list[tuple[str, str, str, list[str]]]:
    """Every label and heading of every page: where, its text, its tooltip, and its options."""
    found = []
    for page in PAGES:
        app = opened(page)
        for kind in LABELLED:
            for one in getattr(app, kind):
                options = [] if one.label in NAMES else list(map(str, getattr(one, "options", [])))
                found.append((f"{page}: {kind}", one.label, one.proto.help, options))
        found += [(f"{page}: heading", one.value, one.proto.help, []) for one in app.subheader]
    return found


def drawn() -> Iterator[Chart]:
    """Every chart that a page can show."""
    yield from of_trace(odd_traces()["full"])
    trace, run = moetrace.load(SAMPLE)
    assert run is not None
    costs = cost.fit(run)
    yield from comparison.charts([("lru, 4 slots", [run, run])], "measured")
    yield times.modelled([("lru, 4 slots", replay(trace, Settings("lru", 4)))], costs, "its own run")
    yield lanes.over_passes(run, 10, 3, costs)
    yield from (domains.favourites(), domains.nearest(trace, 10))


def on_charts() -> Iterator[str]:
    for one in drawn():
        yield one.title
        yield from (str(name) for name in one.table.columns)
        yield from (mark.name for mark in one.figure.data if mark.name)
        axes = (one.figure.layout.xaxis, one.figure.layout.yaxis)
        yield from (axis.title.text for axis in axes if axis.title.text)


def unknown(text: str) -> set[str]:
    """Words of a text that are neither plain nor explained."""
    rest = terms._TERMS.sub(" ", text)
    return {word.lower() for word in re.findall(r"[^\W\d_][\w’'-]*", rest)} - PLAIN


def test_every_word_of_labels_headings_and_charts_is_plain_or_in_the_glossary(shown: Any) -> None:
    texts = [text for _, label, _, options in shown for text in (label, *options)]
    trace, run = moetrace.load(SAMPLE)
    assert run is not None
    numbers = [name for name, _ in words.numbers(metrics.summary(run), 0.5)]
    told = Explainer(trace, Settings("lru", 3))
    one = next(one for step in range(40) for one in told.evictions(step, 0))
    counting = Explainer(trace, Settings("lfu", 3))
    columns = [
        *(str(name) for found in (told, counting) for name in story.residents(found, one).columns),
        *map(str, comparison.table([("lru", [run])]).columns),
        *comparison.HEADS.values(),
    ]
    stage = [re.sub(r"\{\w+\}", "", phrase) for phrase in (*PHRASES.values(), *words.POLICY_NAMES.values())]
    strange = {}
    for text in (*texts, *on_charts(), *numbers, *columns, *stage, *SETTINGS):
        if text not in exporters.EXPORTERS and (missing := unknown(text.replace("\\", "").replace("_", " "))):
            strange[text] = missing
    assert strange == {}, "a plain word belongs in PLAIN, a word of the field in the glossary"


def test_a_term_has_its_sentence_in_the_tooltip_of_where_it_stands(shown: Any) -> None:
    silent = [
        (where, label, term)
        for where, label, tooltip, _ in shown
        for term in words.terms_in(label.replace("\\", ""))
        if term in words.GLOSSARY and words.GLOSSARY[term] not in tooltip
    ]
    assert silent == []


def test_a_term_in_a_tables_heading_has_its_sentence_there() -> None:
    silent = []
    for app in (opened("library"), opened("timeline", step="131")):
        for one in app.dataframe:
            told = json.loads(one.proto.columns or "{}")
            for name in map(str, one.value.columns):
                silent += [
                    (name, term)
                    for term in words.terms_in(name)
                    if words.GLOSSARY[term] not in (told.get(name, {}).get("help") or "")
                ]
    assert silent == []


def test_the_stage_explains_its_own_words() -> None:
    phrases = [re.sub(r"\{\w+\}", "", phrase) for phrase in (*PHRASES.values(), *LEGEND.values())]
    used = set(words.terms_in(*phrases)) & words.GLOSSARY.keys()
    assert used - set(TERMS) == set()


def test_no_table_shows_a_bare_score_and_nothing_pays() -> None:
    for text in on_charts():
        assert not re.search(r"\b(scores?|pays?)\b", text), text
    for phrase in PHRASES.values():
        assert not re.search(r"\b(pays?|pollution|collision)\b", phrase), phrase


def test_a_tooltip_tells_each_term_once_the_longest_first() -> None:
    assert words.terms_in("Late hits over slots, policies; hit") == ["late hit", "slot", "policy", "hit"]
    assert words.tooltip("Slots", more="How many.") == f"How many.\n\n**slot**: {words.GLOSSARY['slot']}"
    assert words.tooltip("Other words") is None

"""The stage in a real browser, from a file: the JavaScript that app and notebook use too."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator
from dataclasses import replace
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from conftest import random_trace
from playwright.sync_api import Browser, Page, expect
from test_browser import PATIENCE, browser  # noqa: F401
from test_browser import pytestmark as pytestmark

from moeviz.charts import board
from moeviz.charts.stage import results_of, stage, stage_html, stage_payload
from moeviz.core.replay import replay
from moeviz.core.run import HIT, MISS
from moeviz.core.settings import Settings
from moeviz.files import moetrace
from moeviz.numbers.explain import Explainer
from moeviz.words import GLOSSARY

SAMPLES = Path(__file__).parent.parent / "sample_traces"
Open = Callable[..., Page]


@pytest.fixture(scope="module")
def lesson() -> str:
    """LRU against LFU on the sample that changes its subject, with the times recorded in it."""
    trace, recorded = moetrace.load(SAMPLES / "change-of-subject.moetrace")
    return stage(trace, ["lru", "lfu"], 4, recorded=recorded).html


@pytest.fixture
def show(browser: Browser, tmp_path: Path) -> Iterator[Open]:  # noqa: F811
    """Opens a page from file://; fails the test on an error in it and on any request but the file's own."""
    wrong: list[str] = []
    contexts = []

    def open_page(html: str, width: int = 1440, height: int = 900, **context: Any) -> Page:
        contexts.append(browser.new_context(viewport={"width": width, "height": height}, **context))
        page = contexts[-1].new_page()
        page.set_default_timeout(PATIENCE)
        file = tmp_path / f"{len(contexts)}.html"
        file.write_text(html, encoding="utf-8")
        page.on("console", lambda message: wrong.append(message.text) if message.type == "error" else None)
        page.on("pageerror", lambda error: wrong.append(str(error)))
        page.on(
            "request", lambda request: wrong.append(request.url) if request.url != file.as_uri() else None
        )
        page.goto(file.as_uri())
        page.locator(".moeviz-stage[data-pictures]").wait_for()
        return page

    yield open_page
    for context in contexts:
        context.close()
    assert wrong == []


def value(page: Page, expression: str) -> Any:
    """Of the stage on the page."""
    return page.evaluate(f"(() => {{ const stage = window.moevizStage; return {expression} }})()")


def until(page: Page, condition: str) -> None:
    """Waits until something is true in three pictures in a row: what observes sizes speaks after a picture.

    The page's content policy forbids what `wait_for_function` does.
    """
    page.evaluate(
        f"""async () => {{
          const stage = window.moevizStage, start = performance.now()
          for (let pictures = 0; pictures < 3; ) {{
            if (performance.now() - start > {PATIENCE}) throw new Error("never came true")
            await new Promise(requestAnimationFrame)
            pictures = {condition} ? pictures + 1 : 0
          }}
        }}"""
    )


def at(page: Page, step: int) -> None:
    expect(page.locator(".moeviz-stage")).to_have_attribute("data-pass", str(step))


# what it shows is what happened


@pytest.mark.parametrize(
    "settings",
    [
        Settings("lru", 3),
        Settings("lfu", 9, scope="model"),
        Settings("lru", 4, prefetch="next-gate"),
        Settings("lru", 3, warm="first"),
        Settings(baseline="on-demand"),
        Settings(baseline="resident"),
        Settings("lfu", scope="model", budget=1_500),
    ],
    ids=lambda settings: settings.label,
)
def test_boards_are_those_of_the_run(show: Open, settings: Settings) -> None:
    trace = replace(random_trace(4, tokens=60), expert_bytes=(100, 300, 200))
    run = replay(trace, settings)
    assert settings.budget == 0 or len(run.leavers.load) > 10  # a load costs several their place
    page = show(stage_html(stage_payload(trace, [run])))
    steps = [3, 40, 7, 8, 9, 54, 0]  # forwards, backwards and step by step
    got = page.evaluate(
        """(steps) => {
          const run = window.moevizStage.model.runs[0], out = new Uint8Array(window.moevizStage.model.cells)
          return steps.map((step) => { run.frame(step, out); return Array.from(out) })
        }""",
        steps,
    )
    frames = board.frames(run)
    assert got == [frames[step].state.ravel().tolist() for step in steps]


def test_hits_so_far_end_at_the_hit_ratio_of_the_run(show: Open, lesson: str) -> None:
    trace = moetrace.sample("change-of-subject")
    page = show(lesson)
    page.keyboard.press("End")
    for side, name in (("a", "lru"), ("b", "lfu")):
        outcome = replay(trace, Settings(name, 4)).accesses.outcome
        expect(page.locator(f".board.{side} .ratio")).to_have_text(f"{100 * (outcome == HIT).mean():.0f}%")
        counts = f"{(outcome == HIT).sum():,} hit, {(outcome == MISS).sum():,} missed"
        expect(page.locator(f".board.{side} .counts")).to_contain_text(counts)


def test_a_browser_that_does_not_decode_by_itself_shows_the_same(show: Open, lesson: str) -> None:
    page = show(lesson)
    shown = "[...stage.boards[1].run.hits, ...stage.boards[1].run.clock.wall].join()"
    before = value(page, shown)
    page.add_init_script("delete Uint8Array.fromBase64")
    page.reload()
    page.locator(".moeviz-stage[data-pictures]").wait_for()
    assert value(page, "Uint8Array.fromBase64 === undefined")
    assert value(page, shown) == before


def test_the_curve_is_hits_over_the_last_sixteen_tokens(show: Open) -> None:
    trace = random_trace(6, tokens=80, prompt=5)
    run = replay(trace, Settings("lru", 3))
    page = show(stage_html(stage_payload(trace, [run])))
    passes = run.events.forward_pass[run.accesses.event]
    hits = np.bincount(passes, run.accesses.outcome == HIT)
    needs = np.bincount(passes)
    want = [hits[0] / needs[0]]
    for step in range(1, len(hits)):
        own = slice(max(1, step - 15), step + 1)
        want.append(hits[own].sum() / needs[own].sum())
    got = value(page, "Array.from(stage.curves.series[0].recent)")
    assert np.allclose(got, want, atol=1e-6)


def test_next_miss_visits_every_miss_of_the_board_in_order(show: Open) -> None:
    trace = random_trace(7, tokens=30)
    run = replay(trace, Settings("lru", 4))
    page = show(stage_html(stage_payload(trace, [run])))
    page.keyboard.press("Home")
    missed = run.accesses.outcome == MISS
    events = run.accesses.event[missed]
    want = zip(
        run.events.forward_pass[events].tolist(),
        run.events.layer[events].tolist(),
        run.accesses.expert[missed].tolist(),
        strict=True,
    )
    for step, layer, expert in want:
        page.keyboard.press("n")
        assert value(page, "[stage.pass, stage.selected.layer, stage.selected.expert]") == [
            step,
            layer,
            expert,
        ]
    page.keyboard.press("n")  # the first comes after the last, and the last before the first
    assert value(page, "stage.pass") == 0
    page.keyboard.press("Shift+N")
    assert value(page, "stage.pass") == step
    page.keyboard.press("Shift+N")
    assert value(page, "stage.selected.expert") == run.accesses.expert[missed][-2]


def test_next_regretted_eviction_is_the_one_of_the_explanations(show: Open, lesson: str) -> None:
    explainer = Explainer(moetrace.sample("change-of-subject"), Settings("lfu", 4))
    page = show(lesson)
    page.keyboard.press("Home")
    found = explainer.next_event("regret", 0, -1)
    for _ in range(12):
        page.keyboard.press("g")
        seen = value(page, "[stage.pass, stage.selected.layer]")
        if tuple(seen) != found:  # the same event may hold a second one
            assert found is not None
            found = explainer.next_event("regret", *found)
            assert tuple(seen) == found
    expect(page.locator(".regret")).to_contain_text("a regretted choice")


def test_where_there_is_nothing_to_jump_to_the_button_is_disabled(show: Open) -> None:
    trace = moetrace.sample("change-of-subject")
    page = show(stage(trace, ["lru", "belady"], 4).html)
    regretted = page.get_by_role("button", name="regretted")
    expect(regretted).to_be_disabled()  # of the board that is looked at first
    expect(page.get_by_role("button", name="miss", exact=True)).to_be_enabled()
    page.keyboard.press("b")
    expect(regretted).to_be_enabled()
    alike = show(stage(trace, ["lru", "lru"], 4).html)
    expect(alike.get_by_role("button", name="difference")).to_be_disabled()


def test_after_the_last_comes_the_first_and_it_is_said(show: Open) -> None:
    page = show(stage(moetrace.sample("change-of-subject"), ["lru"], 4).html)
    label = page.locator(".jumps .label")
    page.evaluate("window.moevizStage.go(239)")
    expect(label).to_have_text("next")
    for _ in range(20):  # the misses that are left
        page.keyboard.press("n")
        if value(page, "stage.pass") < 239:
            break
    assert value(page, "stage.pass") == 0
    expect(label).to_have_text("first")
    page.keyboard.press("Shift+N")
    assert value(page, "stage.pass") > 200
    expect(label).to_have_text("last")
    page.keyboard.press("ArrowLeft")
    expect(label).to_have_text("next")


def test_a_miss_that_is_clicked_tells_who_left_and_why(show: Open, lesson: str) -> None:
    trace = moetrace.sample("change-of-subject")
    explainer = Explainer(trace, Settings("lfu", 4))
    page = show(lesson)
    page.evaluate("window.moevizStage.go(132)")
    (eviction,) = explainer.evictions(132, 6)
    cell = 6 * trace.num_experts + eviction.for_expert
    place = value(page, f"stage.boards[1].place({cell})")
    page.locator(".board.b canvas").click(position=place)
    story = page.locator(".story")
    expect(story).to_contain_text(f"Expert {eviction.for_expert} was needed and was not there.")
    reason = eviction.sentence.partition(" left: ")[2].partition(";")[0]
    expect(story).to_contain_text(f"Expert {eviction.expert} left for it: {reason}.")
    expect(story).to_contain_text(f"would have dropped expert {eviction.belady[1]}")
    expect(story).to_contain_text(f"comes back {eviction.regret} tokens sooner")
    expect(story).to_contain_text("Under LRU it was there.")
    for one in eviction.residents:
        expect(story).to_contain_text(f"expert {one.expert}")
    assert value(page, "stage.facts.victim") == 6 * trace.num_experts + eviction.expert


def test_a_trace_without_explanations_still_says_what_is_in_it(show: Open) -> None:
    trace = random_trace(8)
    page = show(stage_html(stage_payload(trace, [replay(trace, Settings("lru", 3))])))
    page.keyboard.press("n")
    expect(page.locator(".story")).to_contain_text("was needed and was not there")
    expect(page.locator(".story")).to_contain_text("next needed")
    expect(page.get_by_role("button", name="regretted")).to_be_hidden()


# moving through it


def test_keys_work_from_anywhere_on_the_page(show: Open, lesson: str) -> None:
    page = show(lesson)
    page.keyboard.press("Home")
    for key, step in (("ArrowRight", 1), ("PageDown", 17), ("ArrowLeft", 16), ("End", 239), ("Home", 0)):
        page.keyboard.press(key)
        at(page, step)
    page.keyboard.press(".")
    page.keyboard.press(".")
    expect(page.locator(".layer")).to_have_text("layer 1")
    page.keyboard.press(",")
    expect(page.locator(".layer")).to_have_text("layer 0")
    page.keyboard.press("Escape")
    expect(page.locator(".layer")).to_have_text("layer")
    before = value(page, "stage.selected.expert")
    page.keyboard.press("ArrowDown")
    assert value(page, "stage.selected.expert") == before + 1
    page.keyboard.press("b")
    assert value(page, "stage.selected.board") == 0
    page.keyboard.press("?")
    expect(page.get_by_text("next miss, eviction, difference")).to_be_visible()
    page.keyboard.press("Escape")
    expect(page.get_by_text("next miss, eviction, difference")).to_be_hidden()


def test_keys_are_left_alone_where_something_is_written(show: Open, lesson: str) -> None:
    page = show(lesson)
    page.evaluate("document.body.prepend(document.createElement('input'))")
    before = value(page, "stage.pass")
    page.locator("input").press_sequentially("end .")
    assert value(page, "stage.pass") == before
    assert page.locator("input").input_value() == "end ."


def test_space_plays_after_a_click_on_another_button(show: Open, lesson: str) -> None:
    page = show(lesson)
    page.get_by_role("button", name="difference").click()
    page.keyboard.press("Space")
    assert value(page, "stage.playing")
    expect(page.get_by_role("button", name="Pause")).to_be_visible()
    page.keyboard.press("Space")
    assert not value(page, "stage.playing")


def test_a_click_on_text_band_and_curve_goes_there(show: Open, lesson: str) -> None:
    page = show(lesson)
    page.locator(".band").click(position={"x": 500, "y": 4})
    wide = page.locator(".band").bounding_box()
    assert wide is not None
    at(page, int(500 / wide["width"] * 240))
    x, y, step = value(
        page,
        "(() => { const p = stage.strip.places, t = stage.model.tokenAt[stage.pass + 1] + 2, at = p[t]"
        "; const y = (at.line - stage.strip.top) * stage.strip.row + 12"
        "; return [at.x + 12, y, stage.model.passOf(t)] })()",
    )
    page.locator(".strip .text").click(position={"x": x, "y": y})
    at(page, step)
    page.locator(".curves canvas").click(position={"x": value(page, "stage.curves.x(77)"), "y": 40})
    at(page, 77)


def test_playing_to_the_end_stops_there(show: Open) -> None:
    trace = random_trace(9, tokens=12)
    page = show(stage_html(stage_payload(trace, [replay(trace, Settings("lru", 3))])))
    page.get_by_role("combobox", name="speed").select_option("16")
    page.keyboard.press("Home")
    page.keyboard.press("Space")
    at(page, len(trace.passes()) - 1)
    expect(page.get_by_role("button", name="Play")).to_be_visible()
    page.keyboard.press("Space")  # again from the start
    assert value(page, "stage.playing")


def test_as_measured_the_faster_board_is_through_first(show: Open, lesson: str) -> None:
    page = show(lesson)
    page.keyboard.press("Home")
    ends = value(page, "stage.boards.map((board) => board.run.clock.end[239])")
    first = "LRU" if ends[0] < ends[1] else "LFU (counts kept)"
    page.get_by_role("combobox", name="speed").select_option("times")
    page.keyboard.press("Space")
    page.evaluate(
        "window.moevizStage.time = Math.max(...window.moevizStage.boards.map((b) => b.run.clock.end[60]))"
    )
    until(page, "stage.boards[0].pass !== stage.boards[1].pass")
    page.evaluate(f"window.moevizStage.time = {min(ends)} + 0.5")
    expect(page.locator(".story")).to_contain_text(f"{first} is through first.")
    expect(page.locator(".story")).to_contain_text("modelled from the run of LRU")


def test_the_menu_says_the_pace_that_the_host_plays(show: Open) -> None:
    trace = random_trace(9)
    page = show(stage_html(stage_payload(trace, [replay(trace, Settings("lru", 3))])))
    chosen = page.get_by_role("combobox", name="speed").locator("option:checked")
    page.evaluate("window.moevizStage.seekTo({ step: 0, play: 0.5 })")
    expect(chosen).to_have_text("0.5 tokens a second")
    page.keyboard.press("Space")
    expect(chosen).to_have_text("4 tokens a second")


def test_labels_of_the_curves_stand_inside_and_apart(show: Open, lesson: str) -> None:
    page = show(lesson)
    for step in (1, 40, 125, 239):
        page.evaluate("(step) => window.moevizStage.go(step)", step)
        curves = "stage.curves.drawCursor([stage.pass, stage.pass], stage.pass, stage.theme.size)"
        bases = value(page, f"{curves}.map((one) => one.base)")
        size, bottom = value(page, "[stage.theme.size, stage.curves.bottom]")
        assert len(bases) == 3
        assert max(bases) <= bottom
        assert all(after - before > size for before, after in pairwise(bases))


def test_no_label_of_the_curves_crosses_the_cursor(show: Open, lesson: str) -> None:
    """Just after a change of subject its name is where the cursor is."""
    page = show(lesson)
    spans = """(() => {
      const { curves } = stage, found = [], whole = curves.sheet.text
      curves.sheet.text = (text, x, y, more = {}) => {
        const wide = curves.sheet.wide(text, more.size ?? stage.theme.size, more.weight ?? 400)
        if (y > stage.theme.size) found.push([text, more.align === "right" ? x - wide : x, wide])
        return whole.call(curves.sheet, text, x, y, more)
      }
      curves.draw()
      delete curves.sheet.text
      return found
    })()"""
    for step in (118, 121, 124, 131, 150):
        page.evaluate("(step) => window.moevizStage.go(step)", step)
        cursor = value(page, "stage.curves.x(stage.pass)")
        shown = value(page, spans)
        assert [text for text, left, wide in shown if left < cursor < left + wide] == [], step
        assert "Python" in [text for text, *_ in shown], step


SAID = """(() => {
  const { curves } = stage, said = [], whole = curves.sheet.text
  curves.sheet.text = (text, ...more) => (said.push(text), whole.call(curves.sheet, text, ...more))
  curves.draw()
  delete curves.sheet.text
  return said
})()"""  # what stands in and around the curves


def test_the_bound_says_its_slots_where_a_board_has_others(show: Open) -> None:
    trace = random_trace(6, tokens=80, prompt=5)
    runs = [replay(trace, Settings("lru", slots)) for slots in (3, 5, 5)]
    page = show(stage_html(stage_payload(trace, runs, bound=replay(trace, Settings("belady", 5)))), 1440, 900)
    page.keyboard.press("End")
    assert any(text.startswith("Belady, the bound (5 slots) ") for text in value(page, SAID))
    page.locator(".board.a").get_by_role("combobox", name="policy").select_option("2")
    until(page, "!stage.dirty")
    assert any(re.match(r"Belady, the bound \d", text) for text in value(page, SAID))


def test_what_is_below_the_axis_of_the_curves_is_said_to_be(show: Open) -> None:
    """The axis begins at what the text comes down to once the cache is full; before that all may be less."""
    trace = random_trace(6, tokens=80, prompt=5)
    page = show(stage_html(stage_payload(trace, [replay(trace, Settings("lru", 7))])))
    page.evaluate("window.moevizStage.go(1)")
    floor, now = value(page, "[stage.curves.floor, stage.curves.series[0].recent[1]]")
    assert now < floor
    assert f"LRU {round(100 * now)}% ↓ below the axis" in value(page, SAID)
    page.evaluate("window.moevizStage.go(40)")
    assert not any("below" in text for text in value(page, SAID))


def test_a_text_that_is_not_known_is_told_by_the_numbers_of_its_tokens(show: Open) -> None:
    trace = replace(random_trace(6, tokens=12, prompt=5), texts=("",) * 12)
    page = show(stage_html(stage_payload(trace, [replay(trace, Settings("lru", 7))])))
    assert value(page, "stage.strip.places.map((one) => one.text.trim())") == [*map(str, range(12))]


def test_a_measured_comparison_stands_beside_the_curves_and_is_dimmed_once_it_is_old(
    show: Open, lesson: str
) -> None:
    trace, recorded = moetrace.load(SAMPLES / "change-of-subject.moetrace")
    assert recorded is not None
    two = [(Settings("lru", 4), [recorded, recorded]), (Settings("lfu", 4), [recorded, recorded])]
    runs = [replay(trace, one) for one, _ in two]
    measured = results_of(two, "Measured, 2 pairs")
    long: dict[str, Any] = {"stale": True}
    long["verdict"] = "Speed: LFU (counts kept) is 42% slower (0.53 to 0.71 of the other's speed)."
    long["title"] = (
        "Before: paced, 5 pairs: LRU, 4 slots against LFU (counts kept), 4 slots, on 'Die Datei', SATA SSD"
    )
    for size, height, more in ((1440, 900, {}), (1280, 720, {}), (1280, 720, long)):
        assert measured is not None
        new = stage_payload(trace, runs, title="Which?", results={**measured, **more})
        page = show(stage_html(new), size, height)
        panel = page.get_by_role("region", name=more.get("title", "Measured, 2 pairs"))
        expect(panel.get_by_role("listitem")).to_have_count(2)
        said = more.get("verdict", "Speed: no difference outside the spread (LFU at 1.00 to 1.00")
        expect(panel).to_contain_text(said)
        bar = panel.get_by_role("img").first
        expect(bar).to_have_attribute("aria-label", re.compile("compute .* waits .* mean of the two repeats"))
        box, *dots = (one.bounding_box() for one in [bar, *bar.locator(".each-repeat").all()])
        assert len(dots) == 2
        assert all(box and one and one["x"] + one["width"] / 2 <= box["x"] + box["width"] for one in dots)
        until(page, "!stage.resized && !stage.dirty")
        assert cut(page) == []
        assert page.evaluate("document.documentElement.scrollHeight <= innerHeight")
        assert panel.evaluate("panel => panel.scrollHeight <= panel.clientHeight")
    old = stage_payload(trace, runs, title="Which?", results=results_of(two, "Before: that", stale=True))
    page.evaluate("(payload) => window.moevizStage.update(payload)", old)
    expect(page.locator(".results.stale")).to_contain_text("Before: that")
    page.evaluate("(payload) => window.moevizStage.update(payload)", {**old, "results": None})
    expect(page.locator(".results")).to_be_hidden()
    expect(show(stage_html(new), 390, 844).locator(".results .says")).to_be_visible()


def test_signs_are_drawn_on_low_cells_too(show: Open, lesson: str) -> None:
    page = show(lesson, 1280, 560)
    page.evaluate("window.moevizStage.go(132)")
    until(page, "!stage.resized && !stage.dirty")
    assert value(page, "stage.boards[1].h") < 10
    signs = """(() => {
      const [, board] = stage.boards, seen = []
      board.glyph = (context, state) => seen.push(state)
      board.fit(stage.theme) // which paints every cell anew
      board.draw()
      return seen.length
    })()"""
    assert value(page, signs) == 16


def test_a_text_that_still_grows_says_nothing_of_what_comes(show: Open) -> None:
    trace = random_trace(8)
    page = show(stage_html(stage_payload(trace, [replay(trace, Settings("lru", 3))], live=True)))
    page.keyboard.press("End")
    page.keyboard.press("n")
    page.keyboard.press("Shift+N")
    story = page.locator(".story")
    expect(story).to_contain_text("Why it left is told when the run is over.")
    expect(story).not_to_contain_text("never needed again")


def test_menus_and_numbers_explain_their_words(show: Open, lesson: str) -> None:
    page = show(lesson)
    for part, term in ((".name", "policy"), (".menus span >> nth=0", "slot"), (".ratio", "hit ratio")):
        told = page.locator(".board.a").locator(part).get_attribute("title")
        assert told is not None
        assert GLOSSARY[term] in told
    page.keyboard.press("?")
    expect(page.locator(".help")).to_contain_text(GLOSSARY["regret"])


def test_a_low_window_still_says_what_the_colours_mean(show: Open, lesson: str) -> None:
    page = show(lesson)
    page.set_viewport_size({"width": 1280, "height": 600})
    expect(page.locator(".moeviz-stage.low .main > .legend")).to_be_visible()


def test_without_times_there_is_no_race(show: Open) -> None:
    trace = random_trace(9)
    page = show(stage_html(stage_payload(trace, [replay(trace, Settings("lru", 3))])))
    assert page.locator("option[value=times]").is_disabled()


def test_reduced_motion_draws_no_expert_on_its_way(show: Open, lesson: str) -> None:
    page = show(lesson, reduced_motion="reduce")
    page.keyboard.press("Space")
    until(page, "stage.pictures > 20")
    assert value(page, "stage.playing && stage.boards.every((board) => board.t === 1)")


# what it looks like


def cut(page: Page) -> list[str]:
    """Texts on canvases that did not fit, and boxes that reach out of the window or overflow."""
    return list(
        page.evaluate(
            """() => {
              const stage = window.moevizStage, wrong = []
              const sheets = [stage.strip.sheet, stage.strip.bandSheet, stage.curves.sheet]
              sheets.push(...stage.boards.map((board) => board.sheet))
              for (const sheet of sheets) wrong.push(...sheet.cut)
              for (const one of stage.root.querySelectorAll(
                "h1, h2, .verdict, canvas, .menus, .counts, .ratio, .legend span, button, .where, .story"
              )) {
                if (!one.getClientRects().length) continue
                const box = one.getBoundingClientRect()
                const out = box.right > innerWidth + 0.5 || box.bottom > innerHeight + 0.5 || box.left < -0.5
                if (out) wrong.push(`${one.className || one.tagName} ${JSON.stringify(box)}`)
                if (one.matches(".story, canvas") || !one.clientWidth) continue
                if (one.scrollWidth > one.clientWidth + 1)
                  wrong.push(`${one.className || one.tagName} overflows`)
              }
              return wrong
            }"""
        )
    )


def least_type(page: Page) -> float:
    """The smallest type on the page, px: on canvases and in elements."""
    return float(
        page.evaluate(
            """() => {
              const stage = window.moevizStage
              const sheets = [stage.strip.sheet, stage.strip.bandSheet, stage.curves.sheet]
              sheets.push(...stage.boards.map((board) => board.sheet))
              let least = Math.min(...sheets.map((sheet) => sheet.least))
              for (const one of stage.root.querySelectorAll("*")) {
                const own = [...one.childNodes].some((node) => node.nodeType === 3 && node.textContent.trim())
                const hidden = !one.getClientRects().length || one.closest(".live, option")
                if (own && !hidden) least = Math.min(least, parseFloat(getComputedStyle(one).fontSize))
              }
              return least
            }"""
        )
    )


@pytest.mark.parametrize("size", [(1440, 900), (1280, 720), (1920, 1080)])
def test_the_first_screen_holds_everything_and_cuts_nothing(
    show: Open, lesson: str, size: tuple[int, int]
) -> None:
    page = show(lesson, *size)
    page.evaluate("window.moevizStage.go(132)")
    until(page, "!stage.resized && !stage.dirty")
    assert cut(page) == []
    assert page.evaluate("document.documentElement.scrollHeight <= innerHeight")


def test_presenter_text_is_large_and_whole(show: Open, lesson: str) -> None:
    page = show(lesson, 1920, 1080, color_scheme="dark")
    page.keyboard.press("p")
    page.evaluate("window.moevizStage.go(132)")
    until(page, "!stage.resized && !stage.dirty")
    assert cut(page) == []
    assert least_type(page) >= 22
    assert page.evaluate("document.documentElement.scrollHeight <= innerHeight")
    page.keyboard.press("p")
    expect(page.locator(".moeviz-stage.presenter")).to_have_count(0)


def test_a_story_tells_as_many_residents_as_there_is_room_for(show: Open, lesson: str) -> None:
    page = show(lesson, 1280, 720)
    page.evaluate("window.moevizStage.go(239)")
    residents, heading = page.locator(".story .there li"), page.locator(".story .who-was-there")
    expect(residents).to_have_count(4)
    expect(heading).to_have_text("who was there")
    page.keyboard.press("p")
    until(page, "!stage.resized && !stage.dirty")
    assert page.locator(".story").evaluate("story => story.scrollHeight <= story.clientHeight")
    assert 1 < residents.count() < 4
    expect(heading).to_have_text(f"who was there, {residents.count()} of 4")
    expect(page.locator(".story.goes-on")).to_have_count(0)
    page.set_viewport_size({"width": 1280, "height": 520})  # where there is room for none, no heading is left
    until(page, "!stage.resized && !stage.dirty")
    expect(residents).to_have_count(0)
    expect(heading).to_have_count(0)
    page.set_viewport_size({"width": 1280, "height": 720})
    page.keyboard.press("p")
    expect(residents).to_have_count(4)
    expect(heading).to_have_text("who was there")


def test_a_phone_stacks_the_boards_within_its_width(show: Open, lesson: str) -> None:
    page = show(lesson, 390, 844)
    a, b = (page.locator(f".board.{side}").bounding_box() for side in "ab")
    assert a is not None
    assert b is not None
    assert b["y"] >= a["y"] + a["height"]
    assert page.evaluate("document.documentElement.scrollWidth") <= 390
    assert value(page, "stage.boards.flatMap((board) => board.sheet.cut)") == []


def test_a_tap_on_a_phone_brings_its_story_into_sight(show: Open, lesson: str) -> None:
    page = show(lesson, 390, 844)
    story = page.locator(".story")
    expect(story).not_to_be_in_viewport(ratio=0.5)
    page.locator(".board.a canvas").click()
    expect(story).to_be_in_viewport(ratio=0.9)
    assert page.evaluate("scrollX") == 0


def test_many_experts_are_pooled_and_zoomed_and_it_says_so(show: Open) -> None:
    trace = random_trace(3, tokens=20, layers=61, experts=256, k=8, lookaheads=0)
    page = show(stage(trace, ["lru", "lfu"], 64).html)
    note = page.locator(".board.b .note")
    expect(note).to_contain_text("a cell, the worst of them")
    for _ in range(5):
        page.keyboard.press("+")
    expect(note).to_contain_text("Layers ")
    before, box = note.inner_text(), page.locator(".board.b canvas").bounding_box()
    assert box is not None
    x, y = box["x"] + box["width"] / 2, box["y"] + box["height"] / 3
    page.mouse.move(x, y)
    page.mouse.down()
    page.mouse.move(x + 120, y + 60, steps=4)
    page.mouse.up()
    expect(note).to_contain_text("Layers ")
    expect(note).not_to_have_text(before)  # another part of the board: it has been panned
    page.evaluate("window.moevizStage.go(10)")
    assert value(page, "stage.boards[1].place(stage.facts.cell) !== null")  # the selection is in view
    page.keyboard.press("0")
    expect(note).to_contain_text("a cell, the worst of them")


def test_twenty_thousand_tokens_are_walked_through(show: Open) -> None:
    tokens = 20_000
    trace = random_trace(3, tokens=tokens, layers=2, experts=8, k=2, lookaheads=0)
    run = replay(trace, Settings("lru", 4))
    page = show(stage_html(stage_payload(trace, [run])))
    page.keyboard.press("End")
    last = len(trace.passes()) - 1
    at(page, last)
    want = (run.accesses.outcome == HIT).mean()
    expect(page.locator(".ratio")).to_have_text(f"{100 * want:.0f}%")
    page.evaluate("window.moevizStage.go(9_000)")
    at(page, 9_000)


def test_dark_follows_the_colour_scheme(show: Open, lesson: str) -> None:
    page = show(lesson, color_scheme="dark")
    expect(page.locator(".moeviz-stage.dark")).to_have_count(1)
    page.emulate_media(color_scheme="light")
    expect(page.locator(".moeviz-stage.dark")).to_have_count(0)


def test_a_window_that_goes_to_a_finer_screen_is_drawn_as_finely(show: Open, lesson: str) -> None:
    page = show(lesson)
    screen = {"width": 1440, "height": 900, "deviceScaleFactor": 2, "mobile": False}  # the size is as it was
    page.context.new_cdp_session(page).send("Emulation.setDeviceMetricsOverride", screen)
    until(page, "stage.boards.every((one) => one.canvas.width === 2 * one.canvas.clientWidth)")
    assert value(page, "stage.boards.map((one) => one.ground.ratio)") == [2, 2]


# its host


def test_the_page_may_not_reach_the_network(
    browser: Browser,  # noqa: F811
    lesson: str,
    tmp_path: Path,
) -> None:
    file = tmp_path / "lesson.html"
    file.write_text(lesson, encoding="utf-8")
    page = browser.new_page()
    page.set_default_timeout(PATIENCE)
    page.goto(file.as_uri())
    refused: list[str] = []
    page.on("console", lambda message: refused.append(message.text))
    with pytest.raises(Exception, match="Failed to fetch"):
        page.evaluate("fetch('http://127.0.0.1:9/')")
    page.evaluate(
        "document.body.append(Object.assign(document.createElement('script'), {textContent: 'x = 1'}))"
    )
    assert page.evaluate("typeof x") == "undefined"
    assert any("Content Security Policy" in text for text in refused)
    page.close()


def test_a_page_with_three_policies_lets_each_board_show_any(show: Open) -> None:
    trace = random_trace(5)
    page = show(stage(trace, ["lru", "lfu", "belady"], 3).html)
    page.locator(".board.b").get_by_role("combobox", name="policy").select_option("2")
    page.keyboard.press("End")
    want = (replay(trace, Settings("belady", 3)).accesses.outcome == HIT).mean()
    expect(page.locator(".board.b .ratio")).to_have_text(f"{100 * want:.0f}%")


MENUS = {
    "policy": [("lru", "LRU"), ("fifo", "FIFO")],
    "slots": [(3, "3 slots"), (4, "4 slots")],
    "prefetch": [("none", "no pre-fetch"), ("oracle", "oracle")],
}


def test_the_host_hears_what_its_user_asks_for(show: Open) -> None:
    trace = random_trace(5)
    actions = [{"id": "measure", "label": "Measure", "key": "m"}]
    runs = [replay(trace, Settings(name, 3)) for name in ("lru", "lfu")]
    page = show(stage_html(stage_payload(trace, runs, menus=MENUS, actions=actions)))
    page.evaluate("() => { window.heard = []; moevizStage.host.emit = (event) => heard.push(event) }")
    board_a = page.locator(".board.a")
    board_a.get_by_role("combobox", name="policy").select_option("fifo")
    board_a.get_by_role("combobox", name="slots").select_option("4")
    page.keyboard.press("m")
    page.get_by_role("button", name="Measure").click()
    page.keyboard.press("ArrowRight")
    until(page, "window.heard.some((event) => event.kind === 'cursor')")
    heard = page.evaluate("window.heard")
    assert [event["kind"] for event in heard] == [
        "settings",
        "settings",
        "measure",
        "measure",
        "cursor",
    ]
    assert heard[0]["changes"] == {"policy": "fifo"}
    assert heard[1]["changes"] == {"slots": 4}
    assert heard[4]["pass"] == value(page, "stage.pass")


def test_a_stage_that_is_left_tells_its_place_once(show: Open) -> None:
    trace = random_trace(5)
    page = show(stage_html(stage_payload(trace, [replay(trace, Settings("lru", 3))])))
    page.evaluate("() => { window.heard = []; moevizStage.host.emit = (event) => heard.push(event) }")
    assert value(page, "stage.untold()") is None
    assert value(page, "(stage.go(7), stage.untold())") == 7  # before it would have been told
    assert value(page, "stage.untold()") is None
    assert value(page, "(stage.toggle(), stage.untold() === stage.pass)")  # while it plays
    value(page, "stage.stop()")
    page.keyboard.press("Home")
    until(page, "window.heard.length")
    assert [event["pass"] for event in page.evaluate("window.heard")] == [0]


def test_a_click_on_a_board_focuses_the_stage_alone(show: Open) -> None:
    trace = random_trace(5)
    page = show(stage_html(stage_payload(trace, [replay(trace, Settings("lru", 3))])))
    page.locator(".board canvas").first.click()
    assert value(page, "stage.root.getRootNode().activeElement === stage.root")
    page.keyboard.press("ArrowRight")  # from a key on, what has the focus may be framed
    assert value(page, "getComputedStyle(stage.root).outlineStyle") == "none"


def test_a_run_that_grows_under_the_mouse_loses_no_click(show: Open) -> None:
    actions = [{"id": "stop", "label": "Stop", "key": "r"}]
    short, long = (
        stage_payload(trace, [replay(trace, Settings(name, 3)) for name in ("lru", "lfu")], actions=actions)
        for trace in (random_trace(5), random_trace(5, tokens=60))
    )
    page = show(stage_html(short))
    page.evaluate("() => { window.heard = []; moevizStage.host.emit = (event) => heard.push(event.kind) }")
    page.get_by_role("button", name="Stop").hover()
    page.mouse.down()
    page.evaluate("(payload) => window.moevizStage.update(payload)", long)
    expect(page.locator(".moeviz-stage")).to_have_attribute("data-runs", long["id"])
    page.mouse.up()
    assert page.evaluate("window.heard") == ["stop"]


def test_a_changed_run_keeps_the_cursor_and_what_is_selected(show: Open) -> None:
    trace = random_trace(5)
    runs = [replay(trace, Settings(name, 3)) for name in ("lru", "lfu")]
    page = show(stage_html(stage_payload(trace, runs)))
    page.evaluate("window.moevizStage.go(20)")
    page.evaluate("window.moevizStage.select({ board: 1, layer: 2, expert: 5, kept: true })")
    changed = stage_payload(trace, [replay(trace, Settings("fifo", 4)), runs[1]])
    page.evaluate("(payload) => window.moevizStage.update(payload)", changed)
    expect(page.locator(".board.a .name")).to_have_text("FIFO (4 slots)")
    at(page, 20)
    assert value(page, "[stage.selected.board, stage.selected.layer, stage.selected.expert]") == [1, 2, 5]


def test_odd_numbers_of_a_payload_or_a_host_find_a_place_on_the_boards(show: Open) -> None:
    trace = random_trace(5)
    payload = stage_payload(trace, [replay(trace, Settings(name, 3)) for name in ("lru", "lfu")])
    page = show(stage_html({**payload, "at": 1e9}))
    last = len(trace.passes()) - 1
    at(page, last)
    for wish, step in (
        ("{step: NaN, layer: NaN, slow: NaN}", last),
        ("{step: -7, layer: -7, board: -7, expert: -7}", 0),
        ("{step: 1e12, layer: 1e12, board: 1e12, expert: 1e12, slow: 1e12}", last),
        ("{step: 2.4, layer: 1, board: 'b', expert: null, play: NaN}", 2),
    ):
        page.evaluate(f"window.moevizStage.seekTo({wish})")
        at(page, step)
    page.evaluate("window.moevizStage.go(NaN)")
    assert value(page, "stage.selected.expert < stage.model.experts && !stage.playing")
    none = {**payload, "id": "other", "runs": [{**run, "slots": 0} for run in payload["runs"]]}
    page.evaluate("(payload) => window.moevizStage.update(payload)", none)
    expect(page.locator(".moeviz-stage")).to_have_attribute("data-runs", "other")
    at(page, 2)


def test_a_notebook_shows_it_in_a_frame(browser: Browser, tmp_path: Path) -> None:  # noqa: F811
    trace = random_trace(5)
    file = tmp_path / "notebook.html"
    file.write_text(stage(trace, ["lru", "lfu"])._repr_html_(), encoding="utf-8")
    page = browser.new_page(color_scheme="dark", reduced_motion="reduce")
    page.set_default_timeout(PATIENCE)
    page.goto(file.as_uri())
    frame = page.frame_locator("iframe")
    expect(frame.locator(".moeviz-stage[data-pictures]")).to_be_visible()
    frame.get_by_role("button", name="miss").click()
    page.keyboard.press("Home")
    shown = frame.locator(".moeviz-stage")
    expect(shown).to_have_attribute("data-pass", "0")
    expect(shown).to_have_class(re.compile(r"\bdark\b"))
    page.keyboard.press("Space")
    expect(frame.get_by_role("button", name="Pause")).to_be_visible()
    assert shown.evaluate("() => moevizStage.still && moevizStage.boards.every((board) => board.t === 1)")
    page.emulate_media(color_scheme="light", reduced_motion="no-preference")
    expect(shown).not_to_have_class(re.compile(r"\bdark\b"))
    assert not shown.evaluate("() => moevizStage.still")
    page.close()


def test_a_stage_that_is_hidden_at_first_is_drawn_once_it_is_shown(show: Open, lesson: str) -> None:
    page = show(lesson)
    page.evaluate(
        """() => {
          const payload = window.moevizStage.model.payload, place = document.getElementById("stage")
          window.moevizStage.close()
          place.style.display = "none"
          window.moevizStage = MoevizStage.mount(place, payload)
          place.style.display = ""
        }"""
    )
    until(page, "stage.boards[0].sheet.width > 200")
    until(page, "!stage.resized && !stage.dirty")
    assert cut(page) == []


def test_a_stage_that_is_mounted_anew_goes_on_where_it_was(show: Open, lesson: str) -> None:
    page = show(lesson)
    page.evaluate("window.moevizStage.seekTo({ step: 3 })")
    page.evaluate("window.moevizStage.go(50)")
    page.evaluate("window.moevizStage.select({ board: 0, layer: 2, expert: 5, kept: true })")
    page.evaluate(
        """() => {
          const memory = window.moevizStage.memory(), payload = window.moevizStage.model.payload
          window.moevizStage.close()
          window.moevizStage = MoevizStage.mount(document.getElementById("stage"), payload)
          window.moevizStage.recall(memory)
          window.moevizStage.seekTo({ step: 3 }) // the host still says what it said before
        }"""
    )
    at(page, 50)
    assert value(page, "[stage.selected.board, stage.selected.layer, stage.selected.expert]") == [0, 2, 5]


def test_new_words_around_the_same_runs_walk_nothing_anew(show: Open) -> None:
    trace = random_trace(5)
    runs = [replay(trace, Settings(name, 3)) for name in ("lru", "lfu")]
    page = show(stage_html(stage_payload(trace, runs, verdict="not measured yet")))
    page.evaluate("window.model = window.moevizStage.model")
    actions = [{"id": "stop", "label": "Stop measuring", "key": "m"}]
    said = stage_payload(trace, runs, verdict="3 of 5 rounds", actions=actions)
    page.evaluate("(payload) => window.moevizStage.update(payload)", said)
    expect(page.locator(".verdict")).to_have_text("3 of 5 rounds")
    expect(page.get_by_role("button", name="Stop measuring")).to_be_visible()
    assert value(page, "stage.model === window.model")


def test_nothing_plays_while_the_host_measures(show: Open) -> None:
    trace = random_trace(5)
    runs = [replay(trace, Settings(name, 3)) for name in ("lru", "lfu")]
    page = show(stage_html(stage_payload(trace, runs)))
    page.keyboard.press(" ")
    assert value(page, "stage.playing")
    actions = [{"id": "stop", "label": "Stop measuring", "key": "m", "quiet": "measuring"}]
    for given, may in ((actions, False), ([], True)):
        said = stage_payload(trace, runs, actions=given)
        page.evaluate("(payload) => window.moevizStage.update(payload)", said)
        assert not value(page, "stage.playing")
        assert page.locator("button.play").is_enabled() is may
        page.evaluate("window.moevizStage.toggle()")
        assert value(page, "stage.playing") is may


def test_menus_that_come_with_new_words_are_as_wide_as_what_is_chosen(show: Open) -> None:
    trace = random_trace(5)
    runs = [replay(trace, Settings(name, 3)) for name in ("lru", "lfu")]
    menus = {
        "policy": [("lru", "LRU"), ("lfu", "LFU, and a name that is much longer than the other")],
        "slots": [(3, "3 slots")],
        "prefetch": [("none", "no pre-fetch")],
    }
    widths = []
    page = show(stage_html(stage_payload(trace, runs, menus=menus)))
    for label in ("Measure", "Measure, about 23 s"):
        actions = [{"id": "measure", "label": label, "key": "m"}]
        said = stage_payload(trace, runs, menus=menus, actions=actions)
        page.evaluate("(payload) => window.moevizStage.update(payload)", said)
        expect(page.get_by_role("button", name=label)).to_be_visible()
        widths.append(page.locator(".board.a [aria-label=policy]").evaluate("e => e.offsetWidth"))
    assert max(widths) < 80
    assert widths[0] == widths[1]


def test_a_stage_takes_the_room_of_what_stood_above_it(show: Open, lesson: str) -> None:
    page = show(lesson, 1280, 720)
    full = value(page, "stage.root.clientHeight")
    page.evaluate("""() => {
      const above = document.createElement("div")
      above.id = "above"
      above.style.height = "80px"
      document.body.prepend(above)
    }""")
    until(page, f"stage.root.clientHeight === {full - 80}")
    page.evaluate("document.querySelector('#above').remove()")
    until(page, f"stage.root.clientHeight === {full}")


def test_a_board_that_is_the_bound_is_drawn_once(show: Open) -> None:
    trace = random_trace(3)
    runs = [replay(trace, Settings(name, 5)) for name in ("lru", "belady")]
    page = show(stage_html(stage_payload(trace, runs, bound=runs[1])))
    assert page.evaluate("window.moevizStage.curves.bound") is None
    page = show(stage_html(stage_payload(trace, [runs[0]], bound=runs[1])))
    assert page.evaluate("window.moevizStage.curves.bound") is not None


def test_a_closed_stage_leaves_the_keys_alone(show: Open, lesson: str) -> None:
    page = show(lesson)
    page.evaluate("window.moevizStage.close()")
    page.evaluate("window.pressed = 0; window.addEventListener('keydown', () => window.pressed++)")
    page.keyboard.press("ArrowRight")
    assert page.evaluate("window.pressed") == 1

"""The app in a real browser, from the first page to a saved trace. Needs Chromium; never skipped in CI."""

from __future__ import annotations

import base64
import os
import re
import shutil
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import Literal

import pytest
from looks import faults, lasting
from playwright.sync_api import (
    Browser,
    BrowserContext,
    ConsoleMessage,
    Locator,
    Page,
    Route,
    expect,
    sync_playwright,
)
from servers import ROOT, serving

from moeviz.files.moetrace import load as load_file
from moeviz.lessons import lessons

CHROMIUM = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")
QUIET = [
    "--no-sandbox",
    "--disable-gpu",
    "--disable-quic",
    "--no-first-run",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
]
SECONDS = 1_000
PATIENCE = 300 * SECONDS  # for what a test waits for: on a busy machine a picture takes its time
pytestmark = [
    pytest.mark.browser,
    pytest.mark.skipif(
        CHROMIUM is None and not os.environ.get("CI"), reason="no Chromium (Debian: apt install chromium)"
    ),
]


@pytest.fixture(scope="module")
def browser() -> Iterator[Browser]:
    expect.set_options(timeout=PATIENCE)
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=CHROMIUM, args=QUIET)
        yield browser
        browser.close()


@pytest.fixture(scope="module")
def context(browser: Browser) -> Iterator[BrowserContext]:
    """Kept from test to test for what it has loaded; each test is another visitor by its cookies."""
    context = browser.new_context(viewport={"width": 1440, "height": 900}, accept_downloads=True)
    yield context
    context.close()


@pytest.fixture
def page(app: str, context: BrowserContext) -> Iterator[Page]:
    """An empty page that fails the test on a console error or a request to another host."""
    context.clear_cookies()
    page = context.new_page()
    page.set_default_timeout(PATIENCE)
    wrong: list[str] = []
    page.on("console", lambda message: wrong.append(message.text) if bad(message) else None)
    page.on("pageerror", lambda error: wrong.append(str(error)))
    page.on(
        "request",
        lambda request: (
            wrong.append(request.url) if not request.url.startswith((app, "data:", "blob:")) else None
        ),
    )
    yield page
    for one in context.pages:
        one.close()
    assert wrong == []


def bad(message: ConsoleMessage) -> bool:
    """Streamlit asks for its own state beside a page that is opened by its address, before it does at the
    root, where it is; and gives up a connection that a busy machine has not answered in 15 s for another.
    """
    own = ("/_stcore/health", "/_stcore/host-config")
    late = "WebSocket is closed before the connection is established" in message.text
    return message.type == "error" and not late and not message.location["url"].endswith(own)


def see(page: Page, text: str | re.Pattern[str]) -> None:
    """A badge holds its text twice: in itself and in the span around it."""
    expect(page.get_by_text(text).first).to_be_visible()


def settle(page: Page) -> None:
    """Waits until no script runs, the app's own style is there, keys are heard and nothing fades: a page that
    is drawn anew closes an open list, gives a download button another file, and has other colours for a
    moment.
    """
    expect(page.get_by_test_id("stApp")).to_have_attribute("data-test-script-state", "notRunning")
    expect(page.locator(".st-key-keys")).to_have_css("display", "none")  # which that style says
    expect(page.locator("html")).to_have_attribute("data-keys-of", re.compile("."))
    page.evaluate(
        """() => {
          const inner = [...document.querySelectorAll("*")].map((one) => one.shadowRoot).filter(Boolean)
          const moving = [document, ...inner].flatMap((root) => root.getAnimations())
          const fades = moving.filter((one) => one instanceof CSSTransition) // a spinner never ends
          const over = Promise.allSettled(fades.map((one) => one.finished))
          // one of an element that is gone before it is drawn again never ends either
          return Promise.race([over, new Promise((resolve) => setTimeout(resolve, 5000))]).then(() => null)
        }"""
    )


def saved(page: Page, button: Locator) -> Path:
    """The file of a download button. What the last click or key led to has to be on the page already: then
    its script has begun.
    """
    settle(page)
    with page.expect_download() as download:
        button.click()
    return Path(download.value.path())


def staged(page: Page) -> Locator:
    """The stage, once it is drawn."""
    stage = page.locator(".moeviz-stage")
    expect(stage).to_have_attribute("data-pass", re.compile(r"\d+"))
    settle(page)
    return stage


def goto(page: Page, app: str, query: str) -> Locator:
    page.goto(f"{app}/?{query}")
    return staged(page)


def opened(page: Page, app: str, name: str) -> None:
    """A page of the app by its own address, drawn to its end."""
    page.goto(f"{app}/{path(name)}")
    drawn(page, name)


def path(name: str) -> str:
    """Of a page, in its address."""
    return "" if name == "Stage" else name.lower().replace(" ", "_")


def turn(page: Page, name: str) -> None:
    """To another page of the app."""
    page.get_by_test_id("stHeader").get_by_role("link", name=name, exact=True).click()
    drawn(page, name)


def drawn(page: Page, name: str) -> None:
    """Waits until the page of this name is there and its keys are heard; before its script has begun nothing
    runs either.
    """
    link = page.get_by_test_id("stHeader").get_by_role("link", name=name, exact=True)
    expect(link).to_have_attribute("aria-current", "page")
    expect(page.locator("html")).to_have_attribute("data-keys-of", name)
    settle(page)


def verdict(stage: Locator, text: str | re.Pattern[str]) -> None:
    expect(stage.locator(".verdict")).to_contain_text(text)  # a cold worker imports torch


def test_a_run_is_followed_found_again_after_a_reload_and_saved(page: Page, app: str) -> None:
    stage = goto(page, app, "tokens=60&tier=SD+card%2C+paced")
    page.keyboard.press("r")
    live = stage.locator(".verdict").filter(has_text=re.compile(r"Live: LRU, [1-9]\d* of 60 tokens"))
    over = page.get_by_text("live = replay, event for event")  # on a busy machine before it was looked at
    expect(live.or_(over).first).to_be_visible()
    page.reload()
    stage = staged(page)
    see(page, "live = replay, event for event")
    expect(page.get_by_role("combobox", name="Trace")).to_have_value("my latest run")
    expect(stage).to_have_attribute("data-pass", "59")  # where it ended
    expect(page).to_have_url(re.compile("step=59"))
    trace, run = load_file(saved(page, page.get_by_role("button", name="Save trace")))
    assert run is not None
    assert len(run.output_ids) == 60
    assert trace.prompt == "Die Konfigurationsdatei enthält"


def test_what_draws_charts_is_there_before_a_page_with_charts(page: Page, app: str) -> None:
    goto(page, app, "step=60")
    page.wait_for_function(
        "performance.getEntriesByType('resource').some(one => /PlotlyChart.*js$/.test(one.name))"
    )


def test_a_stage_that_is_mounted_anew_after_pass_64_shows_the_whole_run(page: Page, app: str) -> None:
    stage = goto(page, app, "tokens=1500&tier=SD+card%2C+paced")  # longer than anyone looks
    page.keyboard.press("r")
    verdict(stage, re.compile(r"Live: LRU, (6[5-9]|[7-9]\d|\d{3,}) of 1,500 tokens"))
    turn(page, "Library")
    expect(stage).to_have_count(0)
    turn(page, "Stage")
    verdict(staged(page), re.compile(r"Live: LRU, \d+ of 1,500 tokens"))
    expect(stage).to_have_attribute(
        "data-pass", re.compile(r"^(6[5-9]|[7-9]\d|\d{3,})$")
    )  # at the end of what came
    for _ in range(2):
        page.keyboard.press("PageUp")
    page.keyboard.press("Home")
    expect(stage).to_have_attribute("data-pass", "0")
    stage.get_by_role("button", name="Stop").click()
    see(page, "live = replay, event for event")
    see(page, "stopped after")
    expect(stage).to_have_attribute("data-pass", "0")  # where it was taken to, not where the run ended


def test_a_run_is_stopped_and_keeps_what_it_captured(page: Page, app: str) -> None:
    stage = goto(page, app, "tokens=1500&a=policy%3Darc%2Cslots%3D2")
    stage.get_by_role("button", name="Run it live").click()
    verdict(stage, re.compile(r"[1-9]\d* of 1,500 tokens"))
    stage.get_by_role("button", name="Stop").click()
    see(page, "stopped after")
    see(page, "live = replay, event for event")
    verdict(stage, "points more")
    times = re.compile("modelled from the watched run")  # both: of one kind
    for board, slots in ((".a", "2"), (".b", "4")):
        expect(stage.locator(f".board{board}").get_by_role("combobox", name="slots")).to_have_value(slots)
        expect(stage.locator(f".board{board} canvas")).to_have_attribute("data-source", times)


def test_lru_is_measured_against_lfu(page: Page, app: str) -> None:
    stage = goto(page, app, "tokens=16&tier=this+disk")
    page.keyboard.press("m")
    for badge in ("same tokens in every run", "measured = replayed"):
        see(page, badge)
    expect(stage.locator(".results .says")).to_contain_text("Speed: ")
    expect(stage.locator(".results .a .each-repeat")).to_have_count(5)
    for chart in (
        "Tokens per second",
        "Where the time of a token goes",
        "Hit ratio",
        "What went over the link per token",
    ):
        expect(page.get_by_role("heading", name=chart, exact=True)).to_be_visible()
    expect(page.locator(".js-plotly-plot")).to_have_count(4)
    see(page, "The same comparison without the browser")  # the page has been drawn to its end
    lines = saved(page, page.get_by_role("button", name="Table as CSV")).read_text().splitlines()
    assert [line.split(",")[0].strip('"') for line in lines] == ["settings", "LRU", "LFU (counts kept)"]


def test_a_setting_changed_on_a_board_goes_into_the_link_and_comes_from_it(page: Page, app: str) -> None:
    stage = goto(page, app, "step=60")
    board = stage.locator(".board.b")
    for menu, choice in (("policy", "fifo"), ("slots", "3"), ("prefetch", "next-gate")):
        board.get_by_role("combobox", name=menu).select_option(choice)
        settle(page)
    changed = ("FIFO, 3 slots, next-gate", re.compile("b=policy%3Dfifo%2Cslots%3D3%2Cprefetch%3Dnext-gate"))
    for _ in range(2):
        expect(board).to_have_attribute("aria-label", changed[0])
        expect(page).to_have_url(changed[1])
        verdict(stage, "FIFO")
        page.reload()
        staged(page)


def test_the_expert_that_is_asked_about_and_the_speed_go_into_the_link_and_come_from_it(
    page: Page, app: str
) -> None:
    stage = goto(page, app, "step=60")
    stage.get_by_role("combobox", name="speed").select_option("16")
    page.keyboard.press("ArrowUp")  # the expert above
    story = stage.locator(".story .kicker")
    expect(page).to_have_url(re.compile(r"asked=b\.\d\.\d.*speed=16|speed=16.*asked=b\.\d\.\d"))
    _, layer, expert = str(re.search(r"asked=(b\.\d\.\d)", page.url)[1]).split(".")  # type: ignore[index]
    page.reload()
    stage = staged(page)
    expect(stage.get_by_role("combobox", name="speed")).to_have_value("16")
    expect(story).to_contain_text(f"token 60 · layer {layer}")
    expect(stage.locator(".story h3").first).to_contain_text(f"Expert {expert} ")


def test_slow_motion_goes_into_the_link_and_comes_from_it(page: Page, app: str) -> None:
    goto(page, app, "step=60")
    for _ in range(3):
        page.keyboard.press(".")
    expect(page).to_have_url(re.compile("slow=2"))
    page.reload()
    stage = staged(page)
    expect(stage.locator(".transport .layer")).to_have_text("layer 2")
    expect(stage.locator(".story .kicker")).to_contain_text("token 60 · layer 2")
    page.keyboard.press("ArrowRight")  # which ends it
    expect(page).not_to_have_url(re.compile("slow="))


PAGES = {
    "Stage": "canvas",
    "Experts": ".js-plotly-plot",
    "Timeline": ".js-plotly-plot",
    "Prefetch": ".js-plotly-plot",
    "What if": ".js-plotly-plot",
}
SHELF = "[data-testid=stDataFrame], [data-testid=stTable]"  # the second in presenter mode
SCREENS = PAGES | {"Lessons": ".st-key-lesson-picture svg", "Library": SHELF}
CONTROLS = """() => {
  const kinds = "select, textarea, [role=combobox], [role=radiogroup], [role=slider], [role=switch], " +
    "input[type=number], .stButton button, .stMenuButton button, .stPopover button, " +
    ".stDownloadButton button, .stFileUploader button, .stCheckbox input"
  // a lesson's options, the steps of its picture, and the moves of its game are one choice each
  const groups = ".st-key-lesson-text, .st-key-lesson-picture, .st-key-game-moves"
  const all = [...document.querySelectorAll("[data-testid=stMain] :is(" + kinds + ")")].filter((one) =>
    // neither the bar's own nor the tables behind charts, which are part of the picture
    !one.closest(".st-key-bar, [class*=-table]") && one.checkVisibility({ visibilityProperty: true }))
  return [...new Set(all.map((one) => one.closest(groups) ?? one))].map((one) =>
    one.getAttribute("aria-label") || one.innerText.slice(0, 40) || one.className)
}"""

PLAYED = """(stage, enough) => new Promise((done) => {
  const images = new Set(), passes = new Set(), canvas = stage.querySelector(".board.a canvas")
  let moving = 0
  const look = () => {
    passes.add(stage.dataset.pass)
    images.add(canvas.toDataURL())
    moving = Math.max(moving, stage.getAnimations({ subtree: true }).length)
    if (passes.size < enough) requestAnimationFrame(look)
    else done([images.size, passes.size, moving])
  }
  requestAnimationFrame(look)
})"""  # how many pictures a board showed while it played so many tokens
LEGENDS_CLEAR = """() => [...document.querySelectorAll(".js-plotly-plot")].every((figure) => {
  const legend = figure.querySelector(".legend")?.getBoundingClientRect()
  const top = figure.getBoundingClientRect().top + figure._fullLayout._size.t // of what is drawn
  return !legend || legend.bottom <= top + 2
})"""


def test_the_first_screens_hold_the_question_the_picture_and_five_controls(page: Page, app: str) -> None:
    """On a laptop and on a projector, in presenter mode too: every chart of it is whole, without a scroll."""
    opened(page, app, "Stage")
    for name, picture in SCREENS.items():
        turn(page, name)
        for presenter in (False, True):
            if presenter:
                settle(page)
                page.keyboard.press("p")
                expect(page.get_by_test_id("stHeader")).to_be_hidden()
            for size in ((1280, 720), (1920, 1080) if presenter else (1440, 900)):
                where = (name, size, presenter)
                page.set_viewport_size({"width": size[0], "height": size[1]})
                page.wait_for_function("height => innerHeight === height", arg=size[1])
                expect(page.locator("h1:not(:empty), .st-key-first-visit p").first).to_be_in_viewport()
                within = page.locator(f".st-key-screen {picture}" if "plotly" in picture else picture)
                expect(within.first).to_be_visible()
                settle(page)
                for one in within.all():
                    expect(one).to_be_in_viewport(ratio=1)
                page.wait_for_function(LEGENDS_CLEAR)
                high = partial(misplaced, within.first, lambda box, size=size: box["y"] < 0.55 * size[1])
                assert lasting(page, high) == [], where
                shown = page.evaluate(CONTROLS)
                assert len(shown) <= 5, (where, shown)
        page.keyboard.press("p")
        expect(page.get_by_test_id("stHeader")).to_be_visible()


def misplaced(what: Locator, right: Callable[[dict[str, float]], bool]) -> list[str]:
    """Its box, where that is not right."""
    box = what.bounding_box()
    return [] if box is not None and right(dict(box)) else [str(box)]


def test_every_page_fits_a_phone(page: Page, app: str) -> None:
    page.set_viewport_size({"width": 390, "height": 844})
    for name in SCREENS:
        page.goto(f"{app}/{path(name)}")
        expect(page.locator("h1:visible, .moeviz-stage[data-pass]").first).to_be_visible()  # a led visit asks
        settle(page)
        page.wait_for_function("document.querySelector('[data-testid=stMain]').scrollWidth <= 390")
        assert faults(page, least=12) == [], name


def move_the_slider(page: Page) -> None:
    """Where the question is answered with one."""
    expect(page.locator(".st-key-choice-1 button")).to_be_visible()
    slider = page.locator("[class*=st-key-guess-]").get_by_role("slider")
    if slider.count():
        slider.press("ArrowRight")
        slider.blur()
        expect(page.locator(".st-key-choice-1 button")).to_be_enabled()
        settle(page)


def test_every_lesson_explains_itself_on_one_screen_of_a_projector(page: Page, app: str) -> None:
    page.set_viewport_size({"width": 1280, "height": 720})
    for one in lessons():
        page.goto(f"{app}/lessons?lesson={one.number}")
        see(page, "For the lecturer")
        settle(page)
        move_the_slider(page)
        page.keyboard.press("1")  # the first answer, or what the slider says
        see(page, "Predict again")
        settle(page)
        cut = "texts => texts.filter(it => it.scrollHeight > it.clientHeight).map(it => it.innerText)"
        assert lasting(page, partial(page.locator(".st-key-lesson-text").evaluate_all, cut)) == [], one.title
        expect(page.locator(".st-key-lesson-onward")).to_be_in_viewport(ratio=1)
        pictured = one.number in range(2, 8)  # the others' stage says it all
        expect(page.get_by_role("radio", name="Picture")).to_have_count(int(pictured))
        if pictured:
            page.get_by_role("radio", name="Picture").click()
            expect(page.locator("[class*=st-key-why-]").first).to_be_visible()


def test_a_lesson_is_predicted_by_key_revealed_on_one_screen_kept_and_tried(page: Page, app: str) -> None:
    opened(page, app, "Lessons")
    see(page, "Step 1 of 7")
    page.get_by_role("button", name="Next", exact=True).click()
    see(page, "Step 2 of 7")
    page.get_by_role("radio", name="1", exact=True).click()
    see(page, "The text begins as German")
    settle(page)
    page.keyboard.press("3")
    see(page, "Neither is better")
    stage = staged(page)
    for one in (stage, page.get_by_role("button", name="Next lesson")):
        whole = partial(misplaced, one, lambda box: box["y"] + box["height"] <= 900 + 12)
        assert lasting(page, whole) == []
    expect(page).to_have_url(re.compile(r"lesson=1.*progress=\.1|progress=\.1.*lesson=1"))
    turn(page, "Library")
    turn(page, "Lessons")
    see(page, "1 of 1 right")
    see(page, "Neither is better")
    page.get_by_role("link", name="Try other policies and slots").click()
    verdict(staged(page), "LFU (aged)")


def test_every_lesson_is_one_screen(page: Page, app: str) -> None:
    """On a projector and on a laptop, asked and answered: the picture or the stage is whole, text and buttons
    are beside it, nothing scrolls.
    """
    page.set_viewport_size({"width": 1280, "height": 720})
    opened(page, app, "Lessons")
    stage = page.locator(".moeviz-stage")

    def whole(where: tuple[int, int, bool], *parts: str) -> None:
        for part in parts:
            expect(page.locator(part)).to_be_in_viewport(ratio=0.99)
        main = "document.querySelector('[data-testid=stMain]')"
        hidden = f"Math.max(0, {main}.scrollHeight - {main}.clientHeight - 12)"
        assert lasting(page, lambda: [px] if (px := page.evaluate(hidden)) else []) == [], where

    answered = [f".moeviz-stage {part}" for part in (".strip", ".board.a", ".curves", ".transport", ".story")]
    answered.append(".st-key-lesson-onward")
    for presenter in (False, True):
        if presenter:
            page.keyboard.press("p")
            expect(page.get_by_test_id("stHeader")).to_be_hidden()
        for number in range(9):
            page.get_by_role("radio", name=re.compile(rf"^{number}\b")).click()
            settle(page)
            if presenter:
                page.locator(f".st-key-again-{number} button").click()  # no other lesson's
                expect(stage).to_have_count(0)
                whole((number, 1280, True), ".drawing svg")
            shown = page.evaluate(CONTROLS)
            assert len(shown) <= 5, (number, presenter, shown)
            move_the_slider(page)
            page.locator(".st-key-choice-1 button").click()
            if number == 3:
                page.get_by_role("radio", name="Stage").click()
            expect(stage).to_have_attribute("data-pass", re.compile(r"\d+"))
            settle(page)
            for width, height in ((1280, 720),) if presenter else ((1440, 900), (1280, 720)):
                page.set_viewport_size({"width": width, "height": height})
                page.wait_for_function("height => innerHeight === height", arg=height)
                whole((number, width, presenter), *answered)
                assert faults(page, least=22 * height / 1080 if presenter else 12) == [], (number, width)


def test_two_tabs_follow_and_stop_one_run(page: Page, app: str) -> None:
    verdict(goto(page, app, "tokens=1500&tier=SD+card%2C+paced"), "LRU")
    early = page.context.new_page()
    goto(early, app, "step=3")
    page.keyboard.press("r")
    verdict(page.locator(".moeviz-stage"), re.compile(r"Live: LRU, [1-9]"))
    early.keyboard.press("ArrowRight")  # what its user does tells it that a run goes on
    verdict(early.locator(".moeviz-stage"), re.compile(r"Live: LRU, \d+ of 1,500 tokens"))
    other = page.context.new_page()
    other.goto(f"{app}/?tokens=1500")
    verdict(staged(other), re.compile(r"Live: LRU, \d+ of 1,500 tokens"))
    other.get_by_role("button", name="Stop").click()
    for tab in (other, early, page):
        expect(tab.get_by_role("button", name="Run it live")).to_be_visible(timeout=PATIENCE)
    other.close()


def test_a_rule_comes_from_a_link_and_bad_values_leave_it(page: Page, app: str) -> None:
    goto(page, app, "rule_both=one-by-one&a=policy%3Dlru%2Cslots%3D4&step=abc&presenter=maybe")
    expect(page).not_to_have_url(re.compile("step=|presenter="))
    expect(page).to_have_url(re.compile("rule_both=one-by-one"))
    expect(page.locator(".board.a")).to_have_attribute("aria-label", "LRU, 4 slots, one-by-one")


def test_the_game_of_a_lesson_is_played_by_mouse(page: Page, app: str) -> None:
    opened(page, app, "Lessons")
    page.get_by_role("radio", name="3", exact=True).click()
    see(page, "Which expert does LRU drop?")
    page.get_by_role("button", name="Hint").click()
    see(page, "last used")
    page.get_by_role("button", name=re.compile(r"Expert \d")).first.click()
    see(page, re.compile(r"Expert \d left: last used"))
    page.get_by_role("button", name="Next round").click()
    see(page, "Round 2 of 8")


def test_a_sheet_is_saved_from_the_page(page: Page, app: str) -> None:
    opened(page, app, "Lessons")
    page.get_by_role("button", name="For the lecturer").click()
    button = page.get_by_role("button", name="Questions", exact=True)
    expect(button).to_be_visible()
    assert "A model whose experts do not fit" in saved(page, button).read_text(encoding="utf-8")


@pytest.mark.parametrize("motion", ["reduce", "no-preference"])
def test_who_wants_no_motion_sees_one_picture_for_each_token(
    page: Page, app: str, motion: Literal["reduce", "no-preference"]
) -> None:
    page.emulate_media(reduced_motion=motion)
    stage = goto(page, app, "step=60&speed=1")  # so slow that also a busy machine draws several a token
    page.keyboard.press("Space")
    pictures, passes, moving = stage.evaluate(PLAYED, 5)
    if motion == "reduce":
        assert pictures <= passes
        assert moving == 0
    else:  # experts are seen on their way
        assert pictures > passes


def test_a_bad_link_opens_the_page_all_the_same(page: Page, app: str) -> None:
    goto(page, app, "a=slots%3Dabc&policy=nonsense&seed=-4&step=99999999")
    assert page.locator("[data-testid=stException]").count() == 0


def test_the_cursor_steps_from_anywhere_and_jumps(page: Page, app: str) -> None:
    opened(page, app, "Timeline")
    strip = page.locator(".strip")
    expect(strip).to_have_attribute("data-step", "59")
    page.keyboard.press("ArrowRight")
    expect(strip).to_have_attribute("data-step", "60")
    see(page, "Token 60, MoE layer 0")
    for key, token in (("ArrowRight", 61), ("ArrowRight", 62), ("ArrowLeft", 61), ("PageDown", 71)):
        page.keyboard.press(key)
        see(page, f"Token {token}, MoE layer 0")
        settle(page)
        expect(strip).to_have_attribute("data-step", str(token))
    for _ in range(12):  # quicker than pages are drawn
        page.keyboard.press("ArrowLeft")
    see(page, "Token 59, MoE layer 0")
    settle(page)
    expect(strip).to_have_attribute("data-step", "59")
    page.get_by_role("button", name="Jump to").click()
    page.get_by_text("the next regretted eviction").click()
    see(page, "Belady would have dropped")
    expect(page).to_have_url(re.compile(r"step=\d+"))
    settle(page)
    expect(strip).to_have_attribute("data-step", re.search(r"step=(\d+)", page.url)[1])  # type: ignore[index]
    page.keyboard.press("Home")
    see(page, "The prompt, MoE layer")
    settle(page)
    expect(strip).to_have_attribute("data-step", "0")
    strip.locator("span").nth(30).click()
    see(page, "Token 30, MoE layer")


# Whether, within five seconds, the text has another size than before, the cursor's token is in sight, and no
# line of it is cut.
SEEN = """async (strip, before) => {
  for (let picture = 0; picture < 300; picture++) {
    await new Promise(requestAnimationFrame)
    const { fontSize, lineHeight, paddingTop } = getComputedStyle(strip)
    const line = parseFloat(lineHeight), top = strip.scrollTop
    const token = strip.querySelector(".current").offsetTop - top
    const whole = !top || (top - parseFloat(paddingTop)) % line <= 4 // px: past the mark of the line above
    if (fontSize !== before && token >= 0 && token + line <= strip.clientHeight + 1 && whole) return fontSize
  }
}"""


def test_a_menu_that_was_used_by_mouse_gives_the_keys_back(page: Page, app: str) -> None:
    stage = goto(page, app, "step=60")
    page.locator(".st-key-trace input").click()
    page.get_by_role("option", name="sample: bible").click()
    expect(page).to_have_url(re.compile("bible"))
    expect(stage).to_have_attribute(
        "data-pass", "1", timeout=60 * SECONDS
    )  # the first token after the prompt
    settle(page)
    page.keyboard.press("ArrowRight")
    expect(stage).to_have_attribute("data-pass", "2", timeout=60 * SECONDS)
    more = page.get_by_test_id("stPopoverButton").first
    more.click()
    expect(more).to_have_attribute("aria-expanded", "true", timeout=60 * SECONDS)
    page.keyboard.press("Escape")
    expect(more).to_have_attribute("aria-expanded", "false", timeout=60 * SECONDS)
    page.keyboard.press("Space")
    expect(stage.get_by_role("button", name="Pause")).to_be_visible(timeout=60 * SECONDS)


def test_larger_text_keeps_the_cursor_of_the_text_in_sight(page: Page, app: str) -> None:
    page.goto(f"{app}/{path('Experts')}?step=200")
    drawn(page, "Experts")
    strip = page.locator(".strip")
    expect(strip).to_have_attribute("data-step", "200")
    small = strip.evaluate(SEEN, "")
    page.keyboard.press("p")
    large = strip.evaluate(SEEN, small)
    page.keyboard.press("p")
    assert large
    assert strip.evaluate(SEEN, large) == small


def test_another_page_goes_on_where_the_stage_was_left_while_it_played(page: Page, app: str) -> None:
    stage = goto(page, app, "step=20")
    page.keyboard.press("Space")
    expect(stage).to_have_attribute("data-pass", re.compile(r"^(2[7-9]|[3-9]\d|1\d\d)$"))
    left = int(stage.get_attribute("data-pass") or 0)
    turn(page, "Timeline")
    strip = page.locator(".strip")
    expect(strip).not_to_have_attribute("data-step", "20")
    assert int(strip.get_attribute("data-step") or 0) >= left


def test_the_menu_of_a_phone_closes_once_a_page_was_chosen(page: Page, app: str) -> None:
    page.set_viewport_size({"width": 390, "height": 844})
    goto(page, app, "step=60")
    page.get_by_test_id("stExpandSidebarButton").click()
    page.get_by_test_id("stSidebarNavLink").filter(has_text="Prefetch").click()
    see(page, "Are guesses right")
    expect(page.get_by_test_id("stSidebarNavLink").first).not_to_be_in_viewport()


@pytest.mark.parametrize("figure", [0, 1])
def test_a_click_on_the_timeline_opens_the_stage_there(page: Page, app: str, figure: int) -> None:
    opened(page, app, "Timeline")
    expect(page.locator(".js-plotly-plot")).to_have_count(2)
    drawn = page.locator(".js-plotly-plot").nth(figure)
    spot = drawn.evaluate(
        """plot => {
          const layout = plot._fullLayout
          const last = plot.calcdata.length - 1, marks = plot._fullData[last]
          const n = [...marks.customdata].findIndex(one => one[0] > 70)
          return {
            x: layout.xaxis._offset + layout.xaxis.c2p(plot.calcdata[last][n].x),
            y: layout.yaxis._offset + layout.yaxis.c2p(plot.calcdata[last][n].y),
            at: [...marks.customdata[n]],
          }
        }"""
    )
    drawn.click(position={"x": spot["x"], "y": spot["y"]})  # once it stands still
    step, layer, expert = spot["at"]
    stage = page.locator(".moeviz-stage")
    expect(stage).to_have_attribute("data-pass", str(step))
    expect(stage.locator(".story .kicker")).to_contain_text(f"LRU · token {step} · layer {layer}")
    expect(stage.locator(".story h3").first).to_contain_text(f"Expert {expert} ")
    turn(page, "Timeline")  # and back: the page stays
    expect(page.locator(".js-plotly-plot")).to_have_count(2)


def test_a_click_on_a_copy_of_the_lanes_opens_the_stage_there(page: Page, app: str) -> None:
    opened(page, app, "Prefetch")
    drawn = page.locator(".st-key-chart-lanes .js-plotly-plot")
    spot = drawn.evaluate(
        """plot => {
          const { xaxis, yaxis } = plot._fullLayout
          const n = plot.data.findIndex(one => one.name === "on demand"), bars = plot.calcdata[n]
          const widest = bars.reduce((a, b) => (b.s > a.s ? b : a))
          return {
            x: xaxis._offset + xaxis.c2p(widest.b + widest.s / 2),
            y: yaxis._offset + yaxis.c2p(widest.p),
            at: [...plot._fullData[n].customdata[widest.i]],
          }
        }"""
    )
    drawn.click(position={"x": spot["x"], "y": spot["y"]})
    step, layer, expert = spot["at"]
    stage = page.locator(".moeviz-stage")
    expect(stage).to_have_attribute("data-pass", str(step))
    expect(stage.locator(".story .kicker")).to_contain_text(f"token {step} · layer {layer}")
    expect(stage.locator(".story h3").first).to_contain_text(f"Expert {expert} ")


def test_a_click_on_an_expert_opens_its_story_on_the_stage(page: Page, app: str) -> None:
    opened(page, app, "Experts")
    drawn = page.locator(".js-plotly-plot").first
    spot = drawn.evaluate(
        """plot => {
          const { xaxis, yaxis } = plot._fullLayout, marks = plot.calcdata[1]
          const other = [...Array(8).keys()].find(e => !marks.some(({ x, y }) => x === 2 && y === e))
          return { x: xaxis._offset + xaxis.c2p(2), y: yaxis._offset + yaxis.c2p(other), expert: other }
        }"""
    )  # one that layer 2 does not need now
    drawn.click(position={"x": spot["x"], "y": spot["y"]})
    stage = page.locator(".moeviz-stage")
    expect(stage.locator(".story .kicker")).to_contain_text("layer 2")
    expect(stage.locator(".story h3").first).to_contain_text(f"Expert {spot['expert']} ")


def test_presenter_mode_and_help_by_key(page: Page, app: str) -> None:
    page.set_viewport_size({"width": 1920, "height": 1080})
    opened(page, app, "Experts")
    header = page.get_by_test_id("stHeader")
    page.keyboard.press("p")
    expect(header).to_be_hidden()
    expect(page).to_have_url(re.compile("presenter=true"))
    size = "where => parseFloat(getComputedStyle(document.querySelector(where)).fontSize)"
    for height, least in ((1080, 22), (720, 14.6)):  # the same share of the wall
        page.set_viewport_size({"width": height * 16 // 9, "height": height})
        page.wait_for_function(f"([where, least]) => ({size})(where) >= least", arg=["html", least])
        label = page.locator(".js-plotly-plot .ytitle").first
        expect(label).to_have_css(
            "font-size", re.compile(rf"{least:.0f}(\.\d+)?px|{least + 1:.0f}(\.\d+)?px")
        )
        expect(label).to_be_in_viewport(ratio=0.98)
    page.keyboard.press("p")
    expect(header).to_be_visible()
    expect(page).not_to_have_url(re.compile("presenter=true"))
    page.keyboard.press("?")
    see(page, "move the cursor by one token")


@contextmanager
def without(page: Page, script: str, app: str, name: str) -> Iterator[None]:
    """A page whose keys are heard, while a script of Streamlit's own, and what it draws, is yet to come."""
    held: list[Route] = []
    coming = True
    page.route(f"**/{script}.*.js", lambda route: held.append(route) if coming else route.continue_())
    with page.expect_request(f"**/{script}.*.js"):
        page.goto(f"{app}/{path(name)}")
    expect(page.locator("html")).to_have_attribute("data-keys-of", name)
    page.wait_for_function(
        "document.querySelector('[data-testid=stApp]').dataset.testScriptState === 'notRunning'"
    )
    yield
    coming = False
    for one in held:
        one.continue_()


def test_a_key_that_is_pressed_before_its_button_is_there_presses_it(page: Page, app: str) -> None:
    with without(page, "Button", app, "Experts"):
        expect(page.locator(".st-key-present button")).to_have_count(0)
        page.keyboard.press("p")
    expect(page.get_by_test_id("stHeader")).to_be_hidden()


def test_a_file_over_a_page_that_takes_none_is_not_opened_by_the_browser(page: Page, app: str) -> None:
    opened(page, app, "Experts")
    over = page.evaluate(
        """() => {
          const dataTransfer = new DataTransfer()
          dataTransfer.items.add(new File(["#"], "README.md"))
          dataTransfer.dropEffect = "copy"
          const over = new DragEvent("dragover", { dataTransfer, bubbles: true, cancelable: true })
          document.querySelector("h1").dispatchEvent(over)
          return [over.defaultPrevented, dataTransfer.dropEffect]
        }"""
    )
    assert over == [True, "none"]


def test_a_file_dropped_anywhere_in_the_library_is_the_current_trace(page: Page, app: str) -> None:
    """Before the page has a place for it: what is dropped later finds one."""
    content = base64.b64encode((ROOT / "sample_traces" / "bible.moetrace").read_bytes()).decode()
    with without(page, "FileUploader", app, "Library"):
        heard = page.evaluate(
            """content => {
              const bytes = Uint8Array.from(atob(content), one => one.charCodeAt(0))
              const dataTransfer = new DataTransfer()
              dataTransfer.items.add(new File([bytes], "dropped.moetrace"))
              const drop = new DragEvent("drop", { dataTransfer, bubbles: true, cancelable: true })
              document.querySelector("h1").dispatchEvent(drop)
              return drop.defaultPrevented
            }""",
            content,
        )
        assert heard
    trace = page.get_by_role("combobox", name="Trace")
    expect(trace).to_have_value("upload: dropped")
    for name in ("Experts", "Timeline", "Prefetch", "What if", "Lessons", "Stage"):
        turn(page, name)
        expect(trace).to_have_value("upload: dropped")
    page.reload()
    staged(page)
    expect(trace).to_have_value("upload: dropped")


def test_a_link_to_a_page_opens_it_within_the_app(browser: Browser, tmp_path: Path) -> None:
    """The very first request that a server sees, for a page other than the first."""
    with serving(tmp_path) as address:
        page = browser.new_page()
        page.set_default_timeout(PATIENCE)
        page.goto(f"{address}/what_if")
        expect(
            page.get_by_role("heading", name="How many slots, which policy, which machine?")
        ).to_be_visible()
        expect(page.get_by_role("link", name="Timeline")).to_be_visible()
        page.close()


def test_back_leads_to_the_page_before_and_not_through_what_was_set_on_it(page: Page, app: str) -> None:
    page.goto(app)
    stage = staged(page)
    page.get_by_role("button", name="Skip").click()
    see(page, "Which cache suits this text?")
    for step in (1, 2, 3):
        page.keyboard.press("ArrowRight")
        expect(page).to_have_url(re.compile(f"step={step}"))
    turn(page, "Experts")
    page.go_back()
    expect(stage).to_have_attribute("data-pass", "3")
    page.go_back()
    expect(page).to_have_url("about:blank")


def test_a_trace_without_sizes_leaves_the_curves_their_half_of_the_page(page: Page, app: str) -> None:
    opened(page, app, "Library")
    content = "token,layer,expert\n" + "".join(f"{n},0,{n % 3}\n" for n in range(9))
    upload = page.get_by_test_id("stFileUploaderDropzoneInput")
    upload.set_input_files({"name": "bare.csv", "mimeType": "text/csv", "buffer": content.encode()})
    see(page, "Opened bare.csv")
    turn(page, "What if")
    see(page, "does not say how large an expert is")
    chart = page.locator(".js-plotly-plot")
    expect(chart).to_have_count(1)
    page.wait_for_function("document.querySelector('.js-plotly-plot').clientWidth > 600")


def test_prefetch_and_what_if_draw_their_charts_and_give_their_tables(page: Page, app: str) -> None:
    opened(page, app, "Prefetch")
    expect(page.locator(".js-plotly-plot")).to_have_count(5)
    turn(page, "What if")
    expect(page.get_by_role("heading", name="Hit ratio over slots")).to_be_visible()
    expect(page.locator(".js-plotly-plot")).to_have_count(2)
    expect(page.get_by_text("not checked on this machine yet")).to_be_visible()
    page.get_by_role("button", name="Table").first.click()
    button = page.get_by_test_id("stDownloadButton").get_by_role("button", name="CSV")
    expect(button).to_be_visible()
    assert saved(page, button).read_text().startswith("slots,lru,lfu")

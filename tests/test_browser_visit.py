"""A first visit in a real browser, by mouse and by keyboard alone; and that it stands in nobody's way."""

from __future__ import annotations

import pytest
from playwright.sync_api import Page, expect
from test_browser import (  # noqa: F401
    SECONDS,
    browser,
    context,
    page,
    pytestmark,
    settle,
    staged,
    turn,
    verdict,
)

SIZES = [(1280, 720), (1920, 1080)]
PARTS = [".st-key-first-visit", ".strip", ".board.a", ".board.b", ".curves", ".transport"]


@pytest.fixture
def clock(page: Page) -> Page:  # noqa: F811
    """A page whose animation is ten times as fast."""
    page.add_init_script("""
        const ask = requestAnimationFrame.bind(window)
        window.requestAnimationFrame = (then) => ask((at) => then(10 * at))
    """)
    return page


def led(page: Page, app: str) -> None:  # noqa: F811
    """Opens the app as someone who comes for the first time."""
    page.goto(app)
    staged(page)


def test_a_first_visit_by_mouse_predicts_watches_and_is_told(clock: Page, app: str) -> None:
    led(clock, app)
    stage = staged(clock)
    expect(stage.locator(".verdict")).to_have_text("")
    clock.get_by_role("button", name="Show me").click()
    clock.get_by_role("button", name="LFU").click()
    expect(
        clock.get_by_text(
            "You said LFU (counts kept); it is LRU. In German LFU (counts kept) led by 3.2 points."
        )
    ).to_be_visible()
    expect(stage).to_have_attribute("data-pass", "239")
    verdict(stage, "LRU hits 3.6 points more")
    clock.get_by_role("button", name="Go on by yourself").click()
    expect(clock.locator(".st-key-first-visit")).to_have_count(0)
    expect(stage).to_have_attribute("data-pass", "239")


def test_a_first_visit_by_keyboard_alone(clock: Page, app: str) -> None:
    led(clock, app)
    for key, then in (("1", "Which will more often"), ("1", "You said LRU, and so it is."), ("1", "")):
        settle(clock)
        clock.keyboard.press(key)
        if then:
            expect(clock.get_by_text(then)).to_be_visible()
    expect(clock.locator(".st-key-first-visit")).to_have_count(0)


def test_who_loads_the_page_again_before_the_end_is_asked_again(page: Page, app: str) -> None:  # noqa: F811
    led(page, app)
    page.get_by_role("button", name="Show me").click()
    page.get_by_role("button", name="LFU").click()
    expect(page.get_by_text("You said LFU (counts kept).")).to_be_visible()
    page.reload()
    expect(page.get_by_text("Which will more often")).to_be_visible()
    verdict(staged(page), "")
    page.get_by_role("button", name="LRU").click()
    page.get_by_role("button", name="To the end").click()
    expect(page.get_by_text("You said LRU, and so it is.")).to_be_visible()
    assert "visit" not in page.url
    page.reload()
    verdict(staged(page), "hits")
    expect(page.locator(".st-key-first-visit")).to_have_count(0)


@pytest.mark.parametrize("how", ["mouse", "keyboard", "another page", "a setting", "measuring"])
def test_it_stands_in_nobodys_way(page: Page, app: str, how: str) -> None:  # noqa: F811
    led(page, app)
    expect(page.get_by_role("button", name="Show me")).to_be_visible()
    settle(page)
    match how:
        case "mouse":
            page.get_by_role("button", name="Skip").click()
        case "keyboard":
            page.keyboard.press("2")
        case "another page":
            turn(page, "Library")
            turn(page, "Stage")
        case "a setting":
            page.locator(".board.a").get_by_role("combobox", name="policy").select_option("fifo")
        case "measuring":
            page.keyboard.press("m")
            page.get_by_role("button", name="Stop measuring").click()
    verdict(staged(page), "hits")
    expect(page.locator(".st-key-first-visit")).to_have_count(0)
    if how != "mouse":
        return
    page.reload()
    verdict(staged(page), "hits")
    expect(page.locator(".st-key-first-visit")).to_have_count(0)


@pytest.mark.parametrize("size", SIZES)
def test_the_first_screen_of_a_first_visit_holds_everything(
    page: Page,  # noqa: F811
    app: str,
    size: tuple[int, int],
) -> None:
    page.set_viewport_size({"width": size[0], "height": size[1]})
    led(page, app)
    if size[0] == 1920:
        page.keyboard.press("p")
        expect(page.locator(".moeviz-stage.presenter")).to_be_visible()
    for said in ("see in half a minute", "Which will more often"):
        expect(page.get_by_text(said)).to_be_visible()
        settle(page)
        for part in PARTS:
            expect(page.locator(part).first).to_be_in_viewport(ratio=1)
        page.keyboard.press("1")

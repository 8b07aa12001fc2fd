"""Every page, light and dark and for a projector, against WCAG 2.2 A and AA, as axe-core checks them. Needs
Chromium; never skipped in CI.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest
from axe_playwright_python.sync_playwright import Axe
from looks import faults, lasting
from playwright.sync_api import BrowserContext, Page, expect
from test_browser import PATIENCE, browser, context, opened, path, pytestmark, settle, staged, turn

__all__ = ["browser", "context", "pytestmark"]  # fixtures and marks, which pytest finds by their names

PAGES = ("Stage", "Experts", "Timeline", "Prefetch", "What if", "Lessons", "Library")
RULES = {
    "runOnly": {"type": "tag", "values": ["wcag2a", "wcag2aa", "wcag21a", "wcag21aa", "wcag22aa"]},
    "resultTypes": ["violations"],
}
OF_COLOURS = {  # what can differ between the themes
    "runOnly": {"type": "rule", "values": ["color-contrast", "link-in-text-block"]},
    "resultTypes": ["violations"],
}
STREAMLITS: set[tuple[str, str]] = (
    set()
)  # (rule, selector) of what is Streamlit's own and cannot be mended here


@pytest.fixture
def page(app: str, context: BrowserContext) -> Iterator[Page]:
    context.clear_cookies()
    page = context.new_page()
    page.emulate_media(color_scheme="light")
    page.set_default_timeout(PATIENCE)
    yield page
    page.close()


def selector(node: dict[str, Any]) -> str:
    """Of an element; those in a shadow root come as a list."""
    return " ".join(map(str, node["target"]))


def broken(page: Page, rules: dict[str, Any] = RULES) -> list[str]:
    """What breaks a rule here and is ours: rule, element and reason of each."""

    def found() -> list[str]:
        return [
            f"{rule['id']} at {selector(node)}: {node['failureSummary']} in {node['html'][:200]}"
            for rule in Axe().run(page, options=rules).response["violations"]
            for node in rule["nodes"]
            if (rule["id"], selector(node)) not in STREAMLITS
        ]

    return lasting(page, found)


def in_both_themes(page: Page, where: str) -> list[str]:
    """The same for the page as it is, light and dark; ends in light."""
    wrong = []
    for scheme in ("dark", "light"):
        page.emulate_media(color_scheme=scheme)
        ground = {"dark": "rgb(17, 22, 28)", "light": "rgb(255, 255, 255)"}[scheme]
        expect(page.get_by_test_id("stApp")).to_have_css("background-color", ground)
        settle(page)
        rules = RULES if scheme == "dark" else OF_COLOURS  # all in the light: presenter mode, below
        wrong += [f"{where}, {scheme}: {one}" for one in broken(page, rules)]
    return wrong


def ready(page: Page) -> None:
    """Waits until a page is drawn to its end."""
    page.locator("h1, .moeviz-stage[data-pass]").first.wait_for()
    settle(page)
    if page.locator(".js-plotly-plot").count():
        page.locator(".js-plotly-plot .main-svg").first.wait_for()


def test_every_page_keeps_the_rules_in_both_themes(page: Page, app: str) -> None:
    wrong = []
    opened(page, app, PAGES[0])
    for name in PAGES:
        turn(page, name)
        ready(page)
        if name == "Lessons":
            page.get_by_role("slider").first.wait_for()
        wrong += in_both_themes(page, name)
        if name == "What if":
            page.get_by_role("button", name="Table").first.hover()
            wrong += in_both_themes(page, "what the mouse is over")
    assert wrong == []


def test_what_opens_keeps_the_rules_too(page: Page, app: str) -> None:
    """A lesson's answer with the stage, a plan, the drawer, and the table behind a chart; in the dark, where
    contrast is had less easily.
    """
    page.emulate_media(color_scheme="dark")
    opened(page, app, "Stage")
    staged(page)
    page.keyboard.press("?")
    wrong = broken(page)
    turn(page, "Lessons")
    page.get_by_role("radio", name="7", exact=True).click()
    settle(page)
    page.keyboard.press("1")
    staged(page)
    wrong += broken(page)
    turn(page, "What if")
    ready(page)
    page.get_by_text("Plan for a model").click()
    page.get_by_role("button", name="Plan", exact=True).click()
    page.get_by_text("Slots that fit").wait_for()
    wrong += broken(page)
    page.get_by_role("button", name="More").first.click()  # the page's own; the plan has one too
    page.get_by_text("Published curves").wait_for()
    wrong += broken(page)
    page.keyboard.press("Escape")
    page.get_by_role("button", name="Table").first.click()
    page.get_by_role("dialog").get_by_text("CSV").wait_for()
    wrong += broken(page)
    assert wrong == []


def test_a_led_first_visit_keeps_the_rules(page: Page, app: str) -> None:
    wrong = []
    opened(page, app, "Stage")
    for said in ("see in half a minute", "Which will more often", "You said LRU. The large", "and so it is"):
        expect(page.locator(".st-key-first-visit")).to_contain_text(said)
        wrong += in_both_themes(page, said)
        page.keyboard.press("1")
    assert wrong == []


def test_presenter_mode_keeps_the_rules(page: Page, app: str) -> None:
    page.set_viewport_size({"width": 1920, "height": 1080})
    wrong = []
    for name in PAGES:
        page.goto(f"{app}/{path(name)}?presenter=true")
        ready(page)
        wrong += [f"{name}: {one}" for one in (*broken(page), *faults(page, least=22))]
    assert wrong == []

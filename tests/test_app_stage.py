"""The stage as a component of the app, in a real browser: what goes to the browser, and what comes back."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
from playwright.sync_api import Browser, BrowserContext, Page, expect
from servers import ROOT, listening
from test_browser import PATIENCE, browser, context  # noqa: F401
from test_browser import pytestmark as pytestmark

from moeviz.app import components

PAGE = """
from dataclasses import replace

import streamlit as st
from starlette.middleware import Middleware

from moeviz.app.early import Early
from moeviz.app.stage import stage
from moeviz.charts.stage import stage_payload
from moeviz.core.settings import Settings
from moeviz.files import moetrace
from moeviz.numbers.explain import Explainer

def script() -> None:
    st.set_page_config(layout="wide")
    state = st.session_state
    state.setdefault("boards", [Settings("lru", 4), Settings("lfu", 4)])
    state.setdefault("runs", 0)
    state.runs += 1
    trace = moetrace.sample("bible")
    told = [Explainer(trace, one) for one in state.boards]
    payload = stage_payload(
        trace,
        [one.run for one in told],
        explainers=told,
        menus={
            "policy": [("lru", "LRU"), ("lfu", "LFU"), ("fifo", "FIFO")],
            "slots": [(4, "four"), (5, "five")],
        },
        actions=[{"id": "run", "label": "Run it live", "key": "r"}],
    )
    event = stage(payload, key="stage", seek={"step": 9, "board": 1, "layer": 2, "expert": 5})
    if event.kind == "settings":
        state.boards[event.board] = replace(state.boards[event.board], **event.changes)
        st.rerun()
    where = f"{event.step} on {event.selected_board}, {event.layer}, {event.expert}"
    if event.kind:
        state.did = event.kind
    st.text(f"heard {state.get('did', 'nothing')} at {where}")
    st.text_input("something to write", key="written")
    st.text(f"boards {[one.label for one in state.boards]}")


if __name__ == "page":  # Streamlit imports it once, for its server
    app = st.App(__file__, middleware=[Middleware(Early)])
else:
    script()
"""


@pytest.fixture(scope="module")
def address(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    script = tmp_path_factory.mktemp("page") / "page.py"
    script.write_text(PAGE)
    with listening(ROOT, {"PYTHONPATH": str(ROOT)}, str(script)) as port:
        yield f"http://127.0.0.1:{port}"


@pytest.fixture
def page(address: str, context: BrowserContext) -> Iterator[Page]:  # noqa: F811
    wrong: list[str] = []
    page = context.new_page()
    page.set_default_timeout(PATIENCE)
    page.on("pageerror", lambda error: wrong.append(str(error)))
    page.goto(address)
    page.locator(".moeviz-stage[data-pictures]").wait_for()
    yield page
    page.close()
    assert wrong == []


def test_the_cursor_begins_where_the_host_says_and_is_heard(page: Page) -> None:
    shown = page.locator(".moeviz-stage")
    expect(shown).to_have_attribute("data-pass", "9")
    expect(page.locator(".story")).to_contain_text("layer 2")
    page.keyboard.press("ArrowRight")
    expect(page.get_by_text("heard nothing at 10 on 1, 2, 5")).to_be_visible()
    expect(shown).to_have_attribute("data-pass", "10")  # the script has run again and did not move it


def test_a_menu_on_a_board_replays_it_and_the_cursor_stays(page: Page) -> None:
    page.keyboard.press("End")
    page.locator(".board.a").get_by_role("combobox", name="policy").select_option("fifo")
    expect(page.get_by_text("boards ['fifo, 4 slots', 'lfu, 4 slots']")).to_be_visible()
    page.locator(".board.b").get_by_role("combobox", name="slots").select_option("5")
    expect(page.get_by_text("boards ['fifo, 4 slots', 'lfu, 5 slots']")).to_be_visible()
    expect(page.locator(".moeviz-stage")).to_have_attribute("data-pass", "159")


def test_the_key_r_is_the_stages_and_not_streamlits(page: Page) -> None:
    page.keyboard.press("r")
    expect(page.get_by_text("heard run at 9")).to_be_visible()


def test_what_is_written_in_a_field_of_the_page_is_not_a_key(page: Page) -> None:
    field = page.get_by_label("something to write")
    field.fill("")
    field.press_sequentially("run b . n")
    assert field.input_value() == "run b . n"
    expect(page.locator(".moeviz-stage")).to_have_attribute("data-pass", "9")


def test_the_end_of_an_earlier_mounting_that_comes_late_ends_nothing(browser: Browser) -> None:  # noqa: F811
    """Streamlit ends a call of a component that was overtaken by the next only after that one."""
    page = browser.new_page()
    page.set_default_timeout(PATIENCE)
    here = Path(components.__file__).parent
    page.set_content((here / "strip.html").read_text(encoding="utf-8"))
    page.evaluate(
        """async (script) => {
          const { default: mount } = await import(`data:text/javascript,${encodeURIComponent(script)}`)
          const data = { of: "a", at: 0, texts: ["a", "b", "c"], kinds: ["", "", ""], titles: ["", "", ""] }
          const call = () => mount({ data, parentElement: document.body, setStateValue: () => {} })
          const early = call()
          window.end = call()
          early()
        }""",
        components.MOUNTING + (here / "strip.js").read_text(encoding="utf-8"),
    )
    strip = page.locator(".strip")
    page.keyboard.press("ArrowRight")
    expect(strip).to_have_attribute("data-step", "1")
    page.evaluate("window.end()")
    page.keyboard.press("ArrowRight")
    expect(strip).to_have_attribute("data-step", "1")
    page.close()

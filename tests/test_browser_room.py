"""A room in a real browser: a lecturer, three students, and all that a student tries besides."""

from __future__ import annotations

import json
import re
import socket
import urllib.error
import urllib.request
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from http.cookiejar import CookieJar
from io import BytesIO
from pathlib import Path
from typing import Any

import pytest
import zxingcpp
from PIL import Image
from playwright.sync_api import Browser, Page, expect
from servers import ROOT, listening
from test_axe import broken
from test_browser import PATIENCE, browser, pytestmark, see, settle, turn  # noqa: F401
from test_gate import ROUTES

HOMES: list[Path] = []  # of the server that these tests share
PHONE = {"width": 390, "height": 844}


@pytest.fixture(scope="module")
def app(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    own = tmp_path_factory.mktemp("server")
    HOMES.append(own)
    options = ("--server.address", "0.0.0.0", "--", "--room")
    environment = {"MOEVIZ_DATA": str(own / "data"), "HOME": str(own), "TMPDIR": str(own)}
    with listening(ROOT, environment, "app.py", *options) as port:
        yield f"http://127.0.0.1:{port}"


def files(home: Path) -> dict[str, tuple[int, int]]:
    """Whatever a server has written: what it keeps, its home and its scratch are all in one folder."""
    return {
        str(one): (one.stat().st_size, one.stat().st_mtime_ns) for one in home.rglob("*") if one.is_file()
    }


class Class:
    """Pages that fail the test on what goes wrong in them. A student comes from another computer, as a proxy
    on this one says.
    """

    def __init__(self, browser: Browser, app: str, stack: ExitStack) -> None:  # noqa: F811
        self.browser, self.app, self.stack = browser, app, stack
        self.wrong: list[str] = []

    def page(self, path: str, from_: str = "", **context: object) -> Page:
        headers = {"X-Forwarded-For": from_} if from_ else {}
        made = self.browser.new_context(extra_http_headers=headers, **context)  # type: ignore[arg-type]
        self.stack.callback(made.close)
        page = made.new_page()
        page.set_default_timeout(PATIENCE)
        if from_:  # Streamlit itself asks for files beside a page that is loaded again, which are not there
            page.on("console", lambda one: self.wrong.append(one.text) if one.type == "error" else None)
        page.on("pageerror", lambda error: self.wrong.append(str(error)))
        page.goto(f"{self.app}{path}")
        return page

    def lecturer(self) -> Page:
        page = self.page("/?lesson=1", viewport={"width": 1440, "height": 900})
        turn(page, "Lessons")
        see(page, "The text begins as German")
        return page

    def student(self, number: int, **context: object) -> Page:
        return self.page("/", f"10.0.0.{number}", viewport=PHONE, **context)


@pytest.fixture
def class_(browser: Browser, app: str) -> Iterator[Class]:  # noqa: F811
    with ExitStack() as stack:
        made = Class(browser, app, stack)
        yield made
    assert made.wrong == []


def open_room(lecturer: Page) -> None:
    lecturer.get_by_role("button", name="For the lecturer").click()
    lecturer.get_by_role("button", name="Open the room").click()


def counted(lecturer: Page, *counts: int) -> None:
    """The bars say so many each, once they do."""
    for row, count in enumerate(counts):
        expect(lecturer.locator(".room-bars .row").nth(row)).to_have_text(re.compile(rf"\D{count}$"))


def predict(student: Page, number: int) -> None:
    student.get_by_role("button").nth(number).click()
    expect(student.get_by_role("button").nth(number)).to_have_attribute("aria-pressed", "true")
    expect(student.get_by_role("status")).to_contain_text("Counted")


def test_a_class_predicts_is_counted_live_told_together_and_sent_home(class_: Class) -> None:
    early = class_.student(1)
    expect(early.get_by_role("heading", name="The room opens soon")).to_be_visible()
    lecturer = class_.lecturer()
    open_room(lecturer)
    card = lecturer.get_by_role("dialog")
    code = card.get_by_role("img", name="QR code: http://")
    expect(code).to_be_visible()
    settle(lecturer)
    seen = zxingcpp.read_barcode(Image.open(BytesIO(code.screenshot())))
    assert seen is not None
    assert seen.text == f"http://{card.locator('.room-link').inner_text()}"
    wrong = broken(lecturer)
    students = [early, class_.student(2, color_scheme="dark"), class_.student(3)]
    expect(card.get_by_text("3 phones")).to_be_visible()
    card.get_by_role("button", name="To the counts").click()
    expect(card).to_have_count(0)
    for student, number in zip(students, (0, 2, 2), strict=True):
        expect(student.get_by_role("heading", name="Which of the two hits more?")).to_be_visible()
        wrong += broken(student)
        predict(student, number)
        wrong += broken(student)
        assert student.evaluate("document.documentElement.scrollWidth") <= PHONE["width"]
    expect(lecturer.locator(".room-bars .row").nth(2)).to_contain_text(re.compile("2$"))
    counted(lecturer, 1, 0, 2, 0)
    students[1].reload()
    predict(students[1], 3)
    expect(lecturer.locator(".room-bars .row").nth(3)).to_contain_text(re.compile("1$"))
    counted(lecturer, 1, 0, 1, 1)
    for student in students:
        assert student.get_by_text("It is:").count() == 0
    settle(lecturer)
    lecturer.keyboard.press("1")  # reveals
    see(lecturer, "1 of 3 predicted right")
    see(lecturer, "Neither is better")
    expect(students[0].get_by_text("It is: LFU (counts kept) in the first half")).to_be_visible()
    expect(students[2].get_by_text("Right, you said LFU")).to_be_visible()
    expect(students[2].get_by_role("listitem")).to_have_count(4)
    settle(lecturer)
    for page in (lecturer, *students):
        wrong += broken(page)
    lecturer.get_by_role("radio", name="4", exact=True).click()
    for student, number in zip(students[:2], ("30", "70"), strict=True):
        student.get_by_role("slider").fill(number)
        wrong += broken(student)
        student.get_by_role("button", name="Send").click()
        expect(student.get_by_role("status")).to_contain_text("Counted")
    expect(lecturer.locator(".room-bars .row").nth(3)).to_contain_text(re.compile("1$"))
    expect(lecturer.locator(".room-bars .row").nth(7)).to_contain_text(re.compile("1$"))
    lecturer.reload()  # a reload does not end the class
    see(lecturer, "2 predicted, of 3 phones")
    lecturer.close()
    for student in students:
        expect(student.get_by_role("heading", name="The room is closed")).to_be_visible()
        wrong += broken(student)
    assert wrong == []


def test_a_class_of_seventy_is_counted_by_the_real_server(class_: Class) -> None:
    """Each phone opens the page, asks what is asked and answers, all at the same time; and when the class is
    over, the server has written nothing.
    """
    lecturer = class_.lecturer()
    settle(lecturer)
    before = files(HOMES[0])
    open_room(lecturer)
    see(lecturer, "0 predicted, of 0 phones")  # the question is asked

    def phone(number: int) -> None:
        web = urllib.request.build_opener(urllib.request.HTTPCookieProcessor(CookieJar()))

        def asked(path: str, **said: int) -> Any:
            headers = {"X-Forwarded-For": f"10.0.1.{number}", "Content-Type": "application/json"}
            request = urllib.request.Request(
                class_.app + path, json.dumps(said).encode() if said else None, headers
            )
            with web.open(request, timeout=300) as reply:
                return reply.read()

        asked("/room")
        now = json.loads(asked("/room/now"))["question"]["round"]
        assert json.loads(asked("/room/answer", round=now, value=number % 4))["error"] == ""

    with ThreadPoolExecutor(70) as phones:
        list(phones.map(phone, range(70)))
    see(lecturer, "70 predicted, of 70 phones")
    counted(lecturer, 18, 18, 17, 17)
    lecturer.get_by_role("button", name="Close the room").click()
    expect(lecturer.get_by_role("dialog")).to_have_count(0)
    assert files(HOMES[0]) == before


def test_a_students_page_has_nothing_but_the_answers(class_: Class) -> None:
    lecturer = class_.lecturer()
    open_room(lecturer)
    student = class_.student(1)
    expect(student.get_by_role("button")).to_have_count(4)
    assert student.locator("a, input, textarea, select, iframe, form").count() == 0
    asked: list[str] = []
    student.on("request", lambda request: asked.append(f"{request.method} {request.url}"))
    student.on("websocket", lambda socket: asked.append(socket.url))
    predict(student, 1)
    with student.expect_request("**/room/now"):
        pass
    assert set(asked) <= {f"POST {class_.app}/room/answer", f"GET {class_.app}/room/now"}
    lecturer.get_by_role("button", name="Close the room").click()
    expect(student.get_by_role("heading", name="The room is closed")).to_be_visible()


@pytest.mark.parametrize("path", ROUTES)
def test_the_real_server_refuses_a_student_every_other_route(app: str, path: str) -> None:
    for method in ("GET", "PUT", "POST"):
        data = None if method == "GET" else b"x"
        request = urllib.request.Request(f"{app}{path}", data, {"X-Forwarded-For": "10.0.0.9"}, method=method)
        with pytest.raises(urllib.error.HTTPError) as refused:
            urllib.request.urlopen(request)
        assert refused.value.code == 403
        refused.value.close()


def test_the_real_server_gives_a_student_no_session(app: str) -> None:
    port = int(app.rpartition(":")[2])
    for more in ("X-Forwarded-For: 10.0.0.9", "X-Forwarded-For: 127.0.0.1, 10.0.0.9"):
        request = (
            f"GET /_stcore/stream HTTP/1.1\r\nHost: localhost:{port}\r\n"
            f"Origin: http://localhost:{port}\r\n{more}\r\n"
            "Connection: Upgrade\r\nUpgrade: websocket\r\nSec-WebSocket-Version: 13\r\n"
            "Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\nSec-WebSocket-Protocol: streamlit\r\n\r\n"
        )
        with socket.create_connection(("127.0.0.1", port), timeout=300) as connection:
            connection.sendall(request.encode())
            assert connection.recv(1_000).split()[1] == b"403"

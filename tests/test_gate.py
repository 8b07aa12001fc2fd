"""Who gets in: from elsewhere a student's three requests and nothing else, whatever is pretended."""

from __future__ import annotations

import asyncio
import copy
import json
from typing import Any, NamedTuple

import pytest
from streamlit import config
from uvicorn.middleware.proxy_headers import ProxyHeadersMiddleware

from moeviz.app import gate, own
from moeviz.app.gate import COOKIE, MOST_BYTES, Gate, middleware
from moeviz.app.room import HALL, OF_ONE_ADDRESS, Hall
from moeviz.lessons import lessons

HERE, THERE, OWN = "127.0.0.1", "192.168.7.31", "192.168.7.5"
STUDENT = gate._word()
ROUTES = [
    "/lessons",
    "/stage",
    "/_stcore/health",
    "/_stcore/host-config",
    "/_stcore/metrics",
    "/_stcore/script-health-check",
    "/_stcore/upload_file/session/file",
    "/_stcore/bidi-components/moeviz_stage/x.js",
    "/_stcore/agent/v1/apps",
    "/_stcore/stream",
    "/media/0123.html",
    "/component/x/index.html",
    "/static/js/index.js",
    "/app/static/x",
    "/room/",
    "/room/../_stcore/health",
    "/room/now/../../_stcore/health",
    "//_stcore/health",
    "/ROOM",
]


class Reply(NamedTuple):
    status: int
    headers: dict[str, str]
    body: str


async def streamlit(scope: Any, receive: Any, send: Any) -> None:
    """Stands for all that is behind the gate."""
    await send({"type": "http.response.start", "status": 299, "headers": []})
    await send({"type": "http.response.body", "body": b"the app"})


def ask(
    hall: Hall,
    path: str,
    method: str = "GET",
    *,
    client: str | None = THERE,
    server: str = OWN,
    host: str = "",
    body: bytes = b"",
    kind: str = "http",
    trusted: str = HERE,
    **headers: str,
) -> Reply:
    said = {"host": host or f"{server}:8501", **headers}
    scope = {
        "type": kind,
        "method": method,
        "path": path,
        "client": (client, 50_000) if client else None,
        "server": (server, 8501),
        "headers": [(k.replace("_", "-").encode(), v.encode()) for k, v in said.items()],
    }
    sent: list[dict[str, Any]] = []

    async def receive() -> dict[str, Any]:
        return {"type": "http.request", "body": body, "more_body": False}

    async def send(message: Any) -> None:
        sent.append(message)

    served: Any = ProxyHeadersMiddleware(Gate(streamlit, hall), trusted)  # as uvicorn puts it around
    asyncio.run(served(scope, receive, send))
    if sent[0]["type"] == "websocket.close":
        return Reply(403, {}, "")
    found = {k.decode(): v.decode() for k, v in sent[0]["headers"]}
    return Reply(sent[0]["status"], found, sent[1]["body"].decode())


def predict(hall: Hall, value: object, round_: object, student: str = STUDENT, **more: str) -> Reply:
    body = json.dumps({"round": round_, "value": value}).encode()
    headers = {"content_type": "application/json", "cookie": f"{COOKIE}={student}"} | more
    return ask(hall, "/room/answer", "POST", body=body, **headers)


@pytest.fixture
def hall() -> Hall:
    """Where a room is open and lesson 1 is asked."""
    made = Hall(admits=True)
    made.open().ask(lessons()[1])
    return made


def round_of(hall: Hall) -> int:
    return int(json.loads(ask(hall, "/room/now").body)["question"]["round"])


def answered(hall: Hall) -> int:
    assert hall.room is not None
    return hall.room.answered(1)


@pytest.mark.parametrize("client", [HERE, "::1", "::ffff:127.0.0.1", "127.8.8.8"])
def test_this_computer_gets_the_app(hall: Hall, client: str) -> None:
    for path in ("/", *ROUTES[:11]):
        assert ask(hall, path, client=client, server=HERE).status == 299


@pytest.mark.parametrize("path", ROUTES)
@pytest.mark.parametrize("method", ["GET", "POST", "PUT", "DELETE", "OPTIONS"])
def test_a_student_gets_nothing_but_the_rooms_page(hall: Hall, path: str, method: str) -> None:
    assert ask(hall, path, method).status == 403


@pytest.mark.parametrize("path", ["/_stcore/stream", "/room", "/room/now", "/"])
def test_a_student_gets_no_session(hall: Hall, path: str) -> None:
    assert ask(hall, path, kind="websocket").status == 403


@pytest.mark.parametrize(
    "headers",
    [
        {"x_forwarded_for": HERE},
        {"forwarded": f"for={HERE}"},
        {"x_real_ip": HERE},
        {"host": "localhost:8501"},
        {"host": "127.0.0.1:8501"},
        {"origin": "http://localhost:8501"},
    ],
)
@pytest.mark.parametrize("trusted", [HERE, "*", f"{HERE},{THERE}", "192.168.0.0/16"])
def test_nobody_becomes_the_lecturer_by_what_a_request_says(
    hall: Hall, headers: dict[str, str], trusted: str
) -> None:
    for path in ("/", "/lessons", "/_stcore/health", "/_stcore/stream"):
        assert ask(hall, path, trusted=trusted, **headers).status in (303, 403)
        assert ask(hall, path, kind="websocket", trusted=trusted, **headers).status == 403


@pytest.mark.parametrize("said", [THERE, HERE, ""])
def test_who_comes_through_a_proxy_on_this_computer_is_elsewhere(hall: Hall, said: str) -> None:
    assert ask(hall, "/lessons", client=HERE, server=HERE, x_forwarded_for=said).status == 403


def test_the_front_door_leads_a_student_to_the_room(hall: Hall) -> None:
    reply = ask(hall, "/")
    assert (reply.status, reply.headers["location"]) == (303, "/room")


@pytest.mark.parametrize("host", ["evil.example", f"{OWN}.evil.example", "192.168.7.6", "0.0.0.0", "", "@"])
def test_the_room_is_known_by_this_computers_address_alone(hall: Hall, host: str) -> None:
    for path in ("/", "/room", "/room/now"):
        assert ask(hall, path, host=host or " ").status == 403


def test_the_address_of_a_server_on_all_protocols_is_its_own(hall: Hall) -> None:
    assert ask(hall, "/room", server=f"::ffff:{OWN}", host=f"{OWN}:8501").status == 200
    assert ask(hall, "/room", server="2001:db8::5", host="[2001:db8::5]:8501").status == 200


def test_without_the_flag_everyone_else_is_refused_and_told_how_a_room_is_opened() -> None:
    for path in ("/", "/room", "/room/now", *ROUTES):
        reply = ask(Hall(), path)
        assert reply.status == 403
        assert "--server.address 0.0.0.0 -- --room" in reply.body
    assert ask(Hall(), "/", client=None).status == 403


def test_a_page_is_its_own_and_gives_each_browser_a_word_that_it_keeps(hall: Hall) -> None:
    first, second = ask(hall, "/room"), ask(hall, "/room")
    word = first.headers["set-cookie"].partition(";")[0]
    assert word != second.headers["set-cookie"].partition(";")[0]
    assert first.headers["set-cookie"].endswith("; Path=/room; HttpOnly; SameSite=Strict")
    again = ask(hall, "/room", cookie=f"other=1; {word}")
    assert again.headers["set-cookie"].startswith(word)
    assert "default-src 'none'" in first.headers["content-security-policy"]
    assert "://" not in first.body  # nothing of other hosts


def test_a_reload_does_not_count_twice_and_a_changed_answer_moves(hall: Hall) -> None:
    now = round_of(hall)
    for value in (1, 1, 3):
        reply = predict(hall, value, now)
        assert reply.status == 200
        assert json.loads(reply.body)["question"]["mine"] == value
    assert hall.room is not None
    assert [bar.count for bar in hall.room.bars(lessons()[1])] == [0, 0, 0, 1]


@pytest.mark.parametrize(
    "body",
    [b"", b"{", b"[]", b"null", b'{"round": 1}', b"\xff", b"[" * 900, b'{"value": 1, "round": "1"}'],
)
def test_what_is_no_answer_is_refused(hall: Hall, body: bytes) -> None:
    headers = {"content_type": "application/json", "cookie": f"{COOKIE}={STUDENT}"}
    assert ask(hall, "/room/answer", "POST", body=body, **headers).status == 400


@pytest.mark.parametrize("value", [True, None, "1", 1.5, 1e400, [1], {"a": 1}])
def test_only_a_whole_number_is_an_answer(hall: Hall, value: object) -> None:
    assert predict(hall, value, round_of(hall)).status == 400
    assert answered(hall) == 0


def test_an_answer_that_is_too_long_or_of_another_site_or_of_nobody_does_not_count(hall: Hall) -> None:
    now = round_of(hall)
    long = b" " * MOST_BYTES + json.dumps({"round": now, "value": 1}).encode()
    headers = {"content_type": "application/json", "cookie": f"{COOKIE}={STUDENT}"}
    assert ask(hall, "/room/answer", "POST", body=long, **headers).status == 400
    assert predict(hall, 1, now, content_type="text/plain").status == 400  # all that a foreign form can send
    for student in ("", STUDENT.upper() + "A", "a" * 32, STUDENT + "a", "../../etc", STUDENT[:31] + ";"):
        reply = predict(hall, 1, now, student)
        assert reply.status == 400
        assert json.loads(reply.body)["question"]["round"] == now  # the page has what to show
    assert answered(hall) == 0


def test_a_cookie_of_another_page_that_is_malformed_hides_no_student(hall: Hall) -> None:
    cookie = f'a b=1; {{"x": "y"}}; {COOKIE}={STUDENT}; z'
    assert predict(hall, 1, round_of(hall), cookie=cookie).status == 200


def test_a_phone_that_asks_for_many_words_does_not_outvote_the_class(hall: Hall) -> None:
    now = round_of(hall)
    for _ in range(OF_ONE_ADDRESS + 3):
        word = ask(hall, "/room").headers["set-cookie"].partition(";")[0].partition("=")[2]
        predict(hall, 1, now, word)
    assert answered(hall) == OF_ONE_ADDRESS


@pytest.mark.parametrize(
    ("options", "url"),
    [
        ({}, "http://127.0.0.1:8501"),
        ({"server.address": "0.0.0.0"}, "http://localhost:8501"),
        ({"server.address": "::1"}, "http://[::1]:8501"),
        ({"server.sslCertFile": "c.pem", "server.baseUrlPath": "moe"}, "https://127.0.0.1:8501/moe"),
        ({"browser.serverAddress": "name.example"}, "http://name.example:8501"),
    ],
)
def test_the_browser_opens_where_the_app_is(
    monkeypatch: pytest.MonkeyPatch, options: dict[str, str], url: str
) -> None:
    monkeypatch.setattr(config, "_config_options", copy.deepcopy(config.get_config_options()))
    for name, value in options.items():
        config._set_option(name, value, "the test")
    assert gate.address() == url


def test_a_closed_room_counts_nothing_and_says_so(hall: Hall) -> None:
    now = round_of(hall)
    assert hall.room is not None
    hall.room.close()
    reply = predict(hall, 1, now)
    assert reply.status == 409
    assert json.loads(reply.body) == {"error": "The room is closed.", "closed": True}


def test_the_flag_lets_others_in_and_names_no_file(monkeypatch: pytest.MonkeyPatch) -> None:
    for line, admits in (
        (["--", "--policy", "a.py:a", "--room"], True),
        (["--", "--rooms"], False),
        ([], False),
    ):
        monkeypatch.setattr("sys.orig_argv", ["streamlit", "run", "app.py", *line])
        middleware()
        assert HALL.admits is admits
    monkeypatch.setattr("sys.orig_argv", ["app.py", "--", "--room", "--policy", "a.py:a"])
    assert own.given() == ["--policy", "a.py:a"]
    HALL.admits = False

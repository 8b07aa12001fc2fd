"""What a browser is told to fetch early is there, and the stage's script comes as a file that it may keep."""

from __future__ import annotations

import re
from collections.abc import Callable
from pathlib import Path

import pytest
import streamlit as st
from starlette.applications import Starlette
from starlette.responses import HTMLResponse, JSONResponse
from starlette.routing import Route
from starlette.testclient import TestClient

from moeviz.app import early

STATIC = Path(st.__file__).parent / "static"


def html(_: object) -> HTMLResponse:
    return HTMLResponse("<p>the app")


def data(_: object) -> JSONResponse:
    return JSONResponse({})


@pytest.fixture
def client() -> TestClient:
    routes: list[tuple[str, Callable[[object], HTMLResponse | JSONResponse]]] = [("/", html), ("/data", data)]
    return TestClient(early.Early(Starlette(routes=[Route(*one) for one in routes])))


def test_a_page_names_scripts_that_are_there_and_that_it_does_not_name_itself(client: TestClient) -> None:
    named = re.findall(r"<\./([^>]+)>; rel=modulepreload; fetchpriority=low", client.get("/").headers["link"])
    assert named == [*early.scripts(), early.stage_file()]
    assert any("/BidiComponent." in name for name in named)
    own = (STATIC / "index.html").read_text(encoding="utf-8")
    for name in early.scripts():
        assert (STATIC / name).is_file(), name
        assert Path(name).name not in own, name


def test_nothing_is_said_with_what_is_no_page(client: TestClient) -> None:
    assert "link" not in client.get("/data").headers
    assert "link" not in client.get("/gone").headers


def test_a_browser_that_has_all_of_it_is_told_of_nothing(client: TestClient) -> None:
    assert "link" not in client.get("/", headers={"cookie": "a=b; _streamlit_xsrf=2|00|00|0"}).headers


@pytest.mark.parametrize("below", ["", "/a/base/path"])
def test_the_stages_script_may_be_kept_for_good(client: TestClient, below: str) -> None:
    answer = client.get(f"{below}/{early.stage_file()}")
    assert answer.status_code == 200
    assert answer.headers["content-type"].startswith("text/javascript")
    assert "immutable" in answer.headers["cache-control"]
    assert answer.text.endswith("export { MoevizStage }\n")
    head = client.head(f"{below}/{early.stage_file()}")
    assert (head.text, head.headers["content-length"]) == ("", str(len(answer.content)))


def test_what_a_first_page_needs_of_streamlit_is_answered_as_streamlit_would(client: TestClient) -> None:
    page = (STATIC / "index.html").read_text(encoding="utf-8")
    asked = [*early.scripts(), *re.findall(r"static/js/[\w.-]+\.js", page)]
    assert len(asked) > 60
    for name in asked:  # the app under test has none of them
        assert client.get(f"/{name}").content == (STATIC / name).read_bytes()
    assert client.get(f"/{asked[0]}".replace("static/js", "static/css")).status_code == 404
    assert client.post(f"/{asked[0]}").status_code == 404


def test_a_script_of_another_version_is_not_answered_with_this_one(client: TestClient) -> None:
    assert client.get("/moeviz/stage.0123456789abcdef.js").status_code == 404


def test_without_streamlits_scripts_nothing_is_named(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    (tmp_path / "index.html").write_text("<p>another version")
    monkeypatch.setattr(early, "STATIC", tmp_path)
    assert early.scripts.__wrapped__() == []

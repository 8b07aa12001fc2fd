"""The library: names that stay within it, files that are whole."""

from __future__ import annotations

import os
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from moeviz.errors import TraceError
from moeviz.files import library


@pytest.fixture(autouse=True)
def _own_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MOEVIZ_DATA", str(tmp_path))


def test_keep_number_rename_and_delete() -> None:
    assert library.names() == []
    assert library.keep("a run.moetrace", b"1") == "a run"
    assert library.keep("a run", b"2") == "a run (2)"
    assert library.rename("a run (2)", "other") == "other"
    assert library.names() == ["a run", "other"]
    assert library.path("other").read_bytes() == b"2"
    with pytest.raises(TraceError, match="already"):
        library.rename("other", "a run")
    library.delete("a run")
    assert library.names() == ["other"]


@pytest.mark.parametrize("name", ["x" * library.LONGEST, "𐍈" * 50])
def test_a_name_that_is_as_long_as_may_be_is_numbered_too(name: str) -> None:
    kept = [library.keep(name, content) for content in (b"1", b"2", b"3")]
    assert kept[0] == name
    assert [one[-4:] for one in kept[1:]] == [" (2)", " (3)"]
    assert [library.path(one).read_bytes() for one in kept] == [b"1", b"2", b"3"]


def test_two_that_keep_one_name_at_once_both_keep_it() -> None:
    contents = [bytes([number]) for number in range(8)]
    with ThreadPoolExecutor(len(contents)) as several:
        kept = list(several.map(lambda content: library.keep("a run", content), contents))
    assert [library.path(name).read_bytes() for name in kept] == contents


@pytest.mark.parametrize(
    ("text", "name"),
    [
        ("../../etc/passwd", "passwd"),
        ("C:\\Users\\x\\run.moetrace", "run"),
        ("<b>x</b>", "b_"),
        ("a\x00b\n", "a_b_"),
        (".hidden", "hidden"),
        ("=1+1", "=1+1"),
        ("𐍈" * 90, "𐍈" * 50),  # four bytes each, where a file's name has room for 255
    ],
)
def test_names_stay_within_the_folder(text: str, name: str) -> None:
    assert library.safe_name(text) == name


@given(st.text(max_size=200))
def test_no_name_leaves_the_folder(text: str) -> None:
    try:
        path = library.path(text)
    except TraceError:
        return
    assert path.parent == library.folder()
    assert path.name == path.name.strip()
    assert not path.name.startswith(".")


@pytest.mark.parametrize("text", ["", "..", "/", "con", "\x00"])
def test_what_is_no_name_is_refused(text: str) -> None:
    if text == "\x00":
        assert library.safe_name(text) == "_"
        return
    with pytest.raises(TraceError, match="is no name"):
        library.safe_name(text)


def test_what_cannot_be_read_says_why_and_can_be_deleted() -> None:
    library.keep("broken", b"not a trace")
    assert "is not a .moetrace file" in library.fault("broken")
    library.delete("broken")
    assert library.names() == []


@pytest.mark.skipif(sys.platform in ("darwin", "win32"), reason="their file names are text")
def test_a_file_of_a_name_that_is_none_is_listed_read_and_deleted() -> None:
    library.folder().mkdir(parents=True)
    for name in (b"caf\xe9.moetrace", b"a<b>\n.moetrace"):
        (library.folder() / os.fsdecode(name)).write_bytes(b"content")
    assert library.names() == ["a<b>\n", r"caf\xe9"]
    for name in library.names():
        name.encode()  # every page shows it
        assert library.path(name).read_bytes() == b"content"
        library.delete(name)
    assert library.names() == []

"""Tables in terminals of any width."""

from __future__ import annotations

import pytest

from moeviz.cli.tables import table

COLUMNS = ("at", "memory", "best", "hit ratio, mean", "against", "points more, median prompt", "95 of 100")
ROW = ("2 slots", "18 MiB", "lru", "49.7%", "lfu", "no difference", "+0.0 to +0.0")


@pytest.mark.parametrize("width", [56, 60, 80, 120])
def test_a_narrow_terminal_breaks_lines_between_words(
    width: int, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr("moeviz.cli.tables.WIDTH", width)
    table(COLUMNS, [ROW])
    lines = capsys.readouterr().out.splitlines()
    assert max(map(len, lines)) <= width
    words = {word for line in lines for word in line.split()}
    assert {word for cell in (*COLUMNS, *ROW) for word in cell.split()} <= words


def test_a_word_that_no_terminal_holds_is_broken(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr("moeviz.cli.tables.WIDTH", 60)
    table(("file", "hits"), [("x" * 200, "1")])
    lines = capsys.readouterr().out.splitlines()
    assert max(map(len, lines)) <= 60
    assert "".join(lines).count("x") == 200

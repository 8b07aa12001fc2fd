"""How far a command is, in a terminal and elsewhere."""

from __future__ import annotations

import io

import pytest

from moeviz.cli.meter import Meter


class Terminal(io.StringIO):
    def isatty(self) -> bool:
        return True


@pytest.mark.parametrize("quiet", [True, False])
def test_a_terminal_sees_what_is_done_of_how_much_and_the_time_left(
    quiet: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("TERM", "xterm")
    monkeypatch.setenv("COLUMNS", "80")
    monkeypatch.setattr("sys.stderr", terminal := Terminal())
    with Meter("runs", quiet=quiet) as meter:
        for done in (1, 2, 3):
            meter(done, 3)
        meter.say("one was left out")
    assert "3/3" in terminal.getvalue()
    assert "0:00:00" in terminal.getvalue()
    assert "one was left out" in terminal.getvalue()


def test_elsewhere_a_tenth_is_a_line_but_for_a_measurement(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("moeviz.cli.meter.time.monotonic", lambda: 0.0)
    with Meter("curves replayed") as meter:
        for done in range(1, 41):
            meter(done, 40)
    lines = capsys.readouterr().err.splitlines()
    assert len(lines) == 10
    assert lines[0] == "4 of 40 curves replayed, about 0 s left"
    assert lines[-1] == "40 of 40 curves replayed"
    with Meter("runs", quiet=True) as meter:
        for done in range(41):
            meter(done, 40)
    assert capsys.readouterr().err == "1 of 40 runs, about 0 s left\n"


def test_where_there_is_nothing_to_do_there_is_no_bar(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TERM", "xterm")
    monkeypatch.setattr("sys.stderr", terminal := Terminal())
    with Meter("curves replayed"):
        pass
    assert terminal.getvalue() == ""

"""What unpacking an expert takes is measured by what a run unpacks with, and never made up."""

from __future__ import annotations

import runpy
import sys
from pathlib import Path

import pytest

from moeviz.engine.unpack_time import unpack_ms


@pytest.mark.parametrize("kept", ["mxfp4", "fp8", "int8", "int4"])
def test_every_way_of_packing_is_measured(
    kept: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    if kept.startswith("int"):
        pytest.importorskip("torchao")
    monkeypatch.setattr(sys, "argv", ["unpack_time", kept, "bfloat16", "192x64", "64x96"])
    monkeypatch.delitem(sys.modules, "moeviz.engine.unpack_time")
    runpy.run_module("moeviz.engine.unpack_time", run_name="__main__")
    assert 0 < float(capsys.readouterr().out) < 10_000


@pytest.mark.parametrize("program", ["/bin/false", "/bin/echo", "/no/such/program"])
def test_what_cannot_be_measured_is_not_made_up(program: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "executable", program)
    assert unpack_ms("mxfp4", "bfloat16", [(64, 64)]) is None


def test_it_is_measured_from_any_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    assert unpack_ms("mxfp4", "bfloat16", [(64, 64)]) is not None

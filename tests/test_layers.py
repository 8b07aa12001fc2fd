"""Imports point down only, and the heavy libraries stay in their rooms."""

import ast
import contextlib
import re
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
HOUSE = [  # from the ground up; a file may import from its own room and from the rooms below it
    {"moeviz.errors", "moeviz.amounts"},
    {"moeviz.core"},
    {"moeviz.policies"},  # what a user's policy imports
    {"moeviz.numbers"},
    {"moeviz.words"},
    {"moeviz.charts"},
    {"moeviz.files"},
    {"moeviz.lessons"},
    {"moeviz.engine"},
    {"moeviz.sweeps"},
    {"moeviz"},  # the library's names
    {"moeviz.demo_model", "moeviz.bench"},
    {"moeviz.cli"},
    {"moeviz.bench.cli"},  # a command of its own, with the options that all commands share
    {"moeviz.__main__", "moeviz.app"},
    {"pages"},
    {"app"},
]
FLOOR = {room: floor for floor, rooms in enumerate(HOUSE) for room in rooms}
FILES = sorted([*(ROOT / "moeviz").rglob("*.py"), *(ROOT / "pages").glob("*.py"), ROOT / "app.py"])
ONLY_IN = {  # library -> the rooms that may import it
    "streamlit": {"moeviz.app", "pages", "app"},
    "torch": {"moeviz.engine", "moeviz.demo_model"},
    "transformers": {"moeviz.engine", "moeviz.demo_model"},
    "accelerate": {"moeviz.engine"},
}

UPWARDS = {  # imported only when it is asked for by name, so that the core alone still loads nothing above it
    ("moeviz.core.trace", "moeviz.files.moetrace"): "Trace.save and Trace.load",
    ("moeviz.core.oracle", "moeviz.files.library"): "the trace that a calibration names",
    ("moeviz.core.trace", "moeviz.charts.inline"): "what a notebook shows of a trace",
    ("moeviz.core.run", "moeviz.charts.inline"): "what a notebook shows of a run",
    ("moeviz.numbers.curves", "moeviz.charts.curves.over_slots"): "Curve.chart",
    ("moeviz.numbers.curves", "moeviz.charts.chart.Chart"): "the type of Curve.chart, for the checker alone",
}


def module(path: Path) -> str:
    return ".".join(path.relative_to(ROOT).with_suffix("").parts).removesuffix(".__init__")


def imported(path: Path) -> set[str]:
    """Dotted names of everything that a file imports, at its top and within functions, relative imports
    resolved."""
    package = module(path) if path.name == "__init__.py" else module(path).rpartition(".")[0]
    return set(imports(ast.parse(path.read_text(encoding="utf-8")), package))


def imports(tree: ast.AST, package: str) -> Iterator[str]:
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            base = package.split(".")[: len(package.split(".")) + 1 - node.level] if node.level else []
            origin = ".".join([*base, node.module or ""]).strip(".")
            yield from (f"{origin}.{alias.name}" for alias in node.names)


def programs(tree: ast.AST) -> Iterator[str]:
    """Dotted names of everything that programs import which stand in a file as text."""
    for node in ast.walk(tree):
        if isinstance(node, ast.Constant) and isinstance(node.value, str) and "import " in node.value:
            with contextlib.suppress(SyntaxError):  # prose
                yield from imports(ast.parse(node.value), "")


def room(name: str) -> str | None:
    """The longest room that holds a dotted name; None for names of other packages."""
    parts = name.split(".")
    return next((r for n in range(len(parts), 0, -1) if (r := ".".join(parts[:n])) in FLOOR), None)


@pytest.mark.parametrize("path", FILES, ids=lambda path: str(path.relative_to(ROOT)))
def test_imports_point_down(path: Path) -> None:
    own = room(module(path))
    assert own is not None, f"{path} is in no room of the house"
    for name in {*imported(path), *programs(ast.parse(path.read_text(encoding="utf-8")))}:
        top = name.split(".")[0]
        assert top not in ONLY_IN or own in ONLY_IN[top], f"{path.name} imports {name}"
    for name in imported(path):
        other = room(name)
        if (module(path), name) in UPWARDS:
            continue
        if other is not None and other != own:
            assert FLOOR[other] < FLOOR[own], f"{path.name} of {own} imports {name} of {other}"


def test_the_readme_lists_the_rooms_from_the_top_down() -> None:
    tree = (ROOT / "README.md").read_text(encoding="utf-8").partition("## What is where\n\n```\n")[2]
    listed = re.findall(r"^moeviz/(\w+)", tree.partition("```")[0], re.MULTILINE)
    floors = [FLOOR[f"moeviz.{name}" if name != "api" else "moeviz"] for name in listed]
    assert floors == sorted(floors, reverse=True)
    there = {path.stem for path in (ROOT / "moeviz").iterdir() if path.suffix in ("", ".py")}
    assert {name for name in there if not name.startswith("__")} == set(listed)


def test_imports_are_seen_wherever_they_stand() -> None:
    code = """
def later() -> None:
    import torch
    from ..core.trace import Trace
PROGRAM = "import streamlit as st; st.stop()"
"""
    assert set(imports(ast.parse(code), "moeviz.bench")) == {"torch", "moeviz.core.trace.Trace"}
    assert set(programs(ast.parse(code))) == {"streamlit"}
    assert not set(programs(ast.parse("'import a trace of another tool'")))
    assert module(ROOT / "moeviz" / "core" / "cache.py") == "moeviz.core.cache"
    assert room("moeviz.engine.link.HostLink") == "moeviz.engine"
    assert room("numpy.typing") is None


def test_the_core_and_the_command_line_load_no_torch() -> None:
    code = (
        "import sys, moeviz.core.replay, moeviz.charts.hits, moeviz.charts.board; "
        "import moeviz.engine.client, moeviz.cli.main; "
        "assert 'torch' not in sys.modules"
    )
    subprocess.run([sys.executable, "-c", code], check=True, cwd=ROOT)


def test_help_loads_no_numpy() -> None:
    code = (
        "import contextlib, sys\nfrom moeviz.cli.main import main\n"
        "with contextlib.suppress(SystemExit):\n    main(['--help'])\n"
        "assert not {'numpy', 'pandas', 'torch'} & sys.modules.keys()"
    )
    subprocess.run([sys.executable, "-c", code], check=True, cwd=ROOT, stdout=subprocess.DEVNULL)


def test_no_line_is_longer_than_110_columns() -> None:
    kinds = {".py", ".js", ".css", ".html", ".md", ".toml", ".txt"}
    rooms = [ROOT / name for name in ("moeviz", "pages", "tests", ".streamlit")]
    files = [path for room in rooms for path in room.rglob("*") if "cases" not in path.parts]
    files += [path for path in ROOT.iterdir() if path.is_file()]
    files = [path for path in files if path.suffix in kinds]
    files += [ROOT / ".ci" / "run", ROOT / "moeviz" / "output.schema.json"]
    long = [
        f"{path.relative_to(ROOT)}:{number}"
        for path in files
        for number, line in enumerate(path.read_text(encoding="utf-8").splitlines(), 1)
        if len(line) > 110
    ]
    assert long == []

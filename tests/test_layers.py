"""Imports point down only."""

import ast
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
HEIGHT = [  # from the ground up; a module may import what stands before it
    {"policies", "predictors"},
    {"settings"},
    {"run"},
    {"trace"},
    {"knowledge"},
    {"cache"},
    {"replay", "routing", "board", "library"},
    {"metrics"},
    {"curves"},
    {"cost", "explain"},
    {"charts", "sweep"},
    {"exchange"},
    {"offload"},
    {"demo_model"},
    {"bench"},
    {"cli"},
    {"__main__"},
]
LEVEL = {name: level for level, names in enumerate(HEIGHT) for name in names}
FILES = sorted((ROOT / "moeviz").rglob("*.py"))


def imports(path: Path) -> set[str]:
    found = set()
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and node.module:
            found |= {node.module} | {f"{node.module}.{alias.name}" for alias in node.names}
    return found


def own(path: Path) -> str:
    return path.relative_to(ROOT / "moeviz").parts[0].removesuffix(".py")


@pytest.mark.parametrize("path", FILES, ids=lambda path: str(path.relative_to(ROOT)))
def test_imports_point_down(path: Path) -> None:
    for name in imports(path):
        package, *rest = name.split(".")
        assert package != "streamlit", "only app.py and pages/ draw"
        if package in ("torch", "transformers", "accelerate"):
            assert own(path) in ("offload", "demo_model") or (own(path), package) == ("bench", "transformers"), (
                "models run in offload"
            )
        if package == "moeviz" and rest and rest[0] in LEVEL and own(path) in LEVEL:
            assert rest[0] == own(path) or LEVEL[rest[0]] < LEVEL[own(path)], f"{path.name} imports {name}"


def test_offload_uses_only_what_decides_and_records() -> None:
    allowed = {"settings", "trace", "run", "policies", "predictors", "knowledge", "cache", "offload"}
    for path in (ROOT / "moeviz" / "offload").glob("*.py"):
        used = {name.split(".")[1] for name in imports(path) if name.startswith("moeviz.")}
        assert used <= allowed, path.name


def test_the_core_and_the_app_load_no_torch() -> None:
    import subprocess
    import sys

    code = "import sys, moeviz.replay, moeviz.charts, moeviz.board, moeviz.offload.client, moeviz.cli; assert 'torch' not in sys.modules"
    subprocess.run([sys.executable, "-c", code], check=True, cwd=ROOT)

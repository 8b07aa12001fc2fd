"""What moeviz's own processes import, and what they are kept from."""

import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).parent.parent
CODE = """
import gc, sys
from moeviz.engine.imports import import_engine
import_engine()
assert "moeviz.engine.session" in sys.modules
assert "torchao" not in sys.modules
assert gc.isenabled()
from transformers.utils import is_torchao_available
assert is_torchao_available()
import torchao
"""


def test_torchao_is_imported_by_nobody_until_it_is_asked_for(tmp_path: Path) -> None:
    """transformers imports it at every start where it is installed, for seconds and with warnings."""
    (tmp_path / "torchao").mkdir()
    (tmp_path / "torchao" / "__init__.py").write_text("print('imported')")
    about = tmp_path / "torchao-9.0.0.dist-info"
    about.mkdir()
    (about / "METADATA").write_text("Metadata-Version: 2.1\nName: torchao\nVersion: 9.0.0\n")
    code = f"import sys; sys.path.insert(0, {str(tmp_path)!r})\n{CODE}"
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True)
    assert (done.returncode, done.stdout) == (0, "imported\n"), done.stderr


def test_a_run_of_the_command_line_prints_no_warning() -> None:
    command = [
        sys.executable,
        "-m",
        "moeviz",
        "run",
        "--prompt",
        "In the",
        "--max-new-tokens",
        "1",
        "--no-verify",
    ]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 0
    assert done.stderr == ""

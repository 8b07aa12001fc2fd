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
for name in ("scipy", "torch._dynamo.utils", "torch.distributed.tensor"):
    assert name not in sys.modules, name
assert gc.isenabled()
from transformers.utils import is_torchao_available
from transformers.utils import is_scipy_available
assert is_torchao_available()
assert is_scipy_available()
import scipy, torch
assert torch.distributed.is_available()
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


def test_torch_s_compiler_and_symbols_come_when_they_are_asked_for_and_not_to_run_a_model() -> None:
    code = """
import sys
from moeviz.engine.imports import import_engine
import_engine()
import torch, transformers.masking_utils
from moeviz.core.settings import Settings
from moeviz.engine.loader import load
from moeviz.engine.session import Options, generate
next(iter(generate(load(tier="host", device="cpu"), "In the", Settings(), Options(1))))
assert "torch._dynamo.utils" not in sys.modules
assert "sympy" not in sys.modules
with transformers.masking_utils.TransformGetItemToIndex():
    assert torch.arange(3)[torch.tensor(1)] == 1
assert torch.compile(lambda x: x + 1, backend="eager")(torch.ones(1)) == 2
import torch._dynamo
assert torch._dynamo.disable.__module__.startswith("torch._dynamo")
"""
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr


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

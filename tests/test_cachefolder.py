"""The folder of packed experts: damage is seen, one process fills at a time, what is half-written goes, the
limit holds."""

from __future__ import annotations

import errno
import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from click.testing import CliRunner
from filelock import FileLock

from moeviz.cli.main import main
from moeviz.engine import cachefolder
from moeviz.errors import StoreError

ROOT = Path(__file__).parent.parent


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("MOEVIZ_CACHE", str(tmp_path))
    (tmp_path / "experts").mkdir()
    return tmp_path / "experts"


def packed(folder: Path, name: str, size: int, used: int) -> Path:
    """A sealed file of one record, last used so many seconds after 1970."""
    path = folder / f"{name}.experts"
    with open(path, "wb") as file:
        file.write(bytes(size))
        about = {"model": f"model {name}", "dtype": "float32", "record_bytes": size}
        cachefolder.seal(file, np.zeros(1, np.uint32), about)
    os.utime(path, (used, used))
    return path


@pytest.mark.parametrize(
    "damage", [lambda b: b[:-1], lambda b: b + b"x", lambda b: b[1:], lambda b: b[:-9] + bytes(9)]
)
def test_a_file_that_is_not_as_it_was_sealed_has_no_seal(
    damage: Callable[[bytes], bytes], folder: Path
) -> None:
    path = packed(folder, "a", 1_000, 1)
    assert cachefolder.read_seal(path) is not None
    path.write_bytes(damage(path.read_bytes()))
    assert cachefolder.read_seal(path) is None


def test_what_was_not_used_for_longest_goes_first(folder: Path) -> None:
    for name, used in (("old", 1), ("older", 0), ("new", 2)):
        packed(folder, name, 1_000, used)
    kept = sum(entry.bytes for entry in cachefolder.entries()[1:])
    assert [entry.path.stem for entry in cachefolder.set_limit(kept)] == ["older"]
    cachefolder.make_room(1_000, folder / "next.experts")
    assert [entry.path.stem for entry in cachefolder.entries()] == ["new"]
    with pytest.raises(StoreError, match=r"needs 1\.0 GB, but the cache in .* Raise the limit with"):
        cachefolder.make_room(10**9, folder / "next.experts")
    assert [entry.path.stem for entry in cachefolder.entries()] == ["new"]


def test_a_limit_that_cannot_be_written_leaves_the_one_before_and_says_what_helps(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    cachefolder.set_limit(10**9)

    def full(handle: int) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(
        StoreError, match=r"limit: No space left on device\. Make room there, or set MOEVIZ_CACHE"
    ):
        cachefolder.set_limit(2 * 10**9)
    assert cachefolder.limit() == 10**9


def test_what_a_dead_process_left_is_swept_and_what_a_living_one_writes_is_not(folder: Path) -> None:
    dead, alive = folder / "dead.experts", folder / "alive.experts"
    for path in (dead, alive):
        cachefolder.part_of(path).write_bytes(b"half")
    with (
        FileLock(alive.with_suffix(".lock")),
        cachefolder.alone_at(folder / "mine.experts", lambda: None),
    ):
        assert not cachefolder.part_of(dead).exists()
        assert cachefolder.part_of(alive).exists()


def test_waiting_for_another_process_can_be_ended(folder: Path) -> None:
    class Enough(Exception):
        pass

    def waiting() -> None:
        raise Enough

    path = folder / "a.experts"
    with FileLock(path.with_suffix(".lock")), pytest.raises(Enough), cachefolder.alone_at(path, waiting):
        pass


def test_two_processes_load_one_model_at_once_and_one_of_them_packs_it(
    folder: Path, tiny_model: Callable[[str], Path]
) -> None:
    code = (
        "import sys; from moeviz.engine import filling, loader, measure\n"
        "from moeviz.core.settings import Settings\n"
        "from moeviz.engine.session import Options\n"
        "write = filling.write_file\n"
        "def tell(*args): print('packed'); write(*args)\n"
        "filling.write_file = tell\n"
        "loaded = loader.load(sys.argv[1], device='cpu')\n"
        "print(measure.record(loaded, 'x', Settings(), Options(4, 0.0, stop_at_end=False))[1].output_ids)"
    )
    command = [sys.executable, "-c", code, str(tiny_model("mixtral"))]
    both = [subprocess.Popen(command, stdout=subprocess.PIPE, text=True, cwd=ROOT) for _ in range(2)]
    said = [process.communicate()[0].splitlines() for process in both]
    assert [process.returncode for process in both] == [0, 0]
    assert said[0][-1] == said[1][-1]
    assert sorted(len(lines) for lines in said) == [1, 2]
    assert len(list(folder.glob("*.experts"))) == 1
    assert not list(folder.glob("*.part"))


def run(*arguments: str) -> tuple[int, str]:
    result = CliRunner().invoke(main, ["cache", *arguments])
    return result.exit_code, result.output


def test_the_cache_is_listed_cleaned_and_limited_by_commands(folder: Path) -> None:
    packed(folder, "aa", 2_000_000, 1)
    packed(folder, "bb", 3_000_000, 2)
    (folder / "cc.experts").write_bytes(b"what is this")
    code, text = run("list")
    assert code == 0
    assert "model aa, float32" in text
    assert "cc" in text
    assert "not readable by this version" in text
    assert "3 files, 5.0 MB, no limit" in text
    assert run("clean", "model bb") == (0, "deleted 1 file, 3.0 MB\n")
    assert run("limit", "1MB") == (0, "deleted 1 file, 2.0 MB\nlimit 1.0 MB\n")
    assert "1 file, 12 bytes, limit 1.0 MB" in run("list")[1]
    assert run("limit", "none") == (0, "no limit\n")
    assert run("limit") == (0, "no limit\n")
    assert run("clean") == (0, "deleted 1 file, 12 bytes\n")
    assert "0 files" in run("list")[1]


@pytest.mark.parametrize(
    ("arguments", "words"),
    [(("limit", "much"), "The size 'much' is not known"), (("clean", "nobody"), "is called nobody")],
)
def test_what_the_cache_commands_cannot_do_is_one_message(
    arguments: tuple[str, ...], words: str, folder: Path
) -> None:
    code, text = run(*arguments)
    assert code == 2
    assert words in text

"""What a checkpoint says of itself is read without its weights, and what is wrong with it is one message."""

from __future__ import annotations

import json
import os
import struct
import subprocess
import sys
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from threading import Thread
from typing import Any

import pytest

from moeviz.errors import ModelError
from moeviz.files.headers import CHECKPOINT, no_hub_id, read
from moeviz.numbers.sizes import Tensor

Shapes = dict[str, tuple[str, tuple[int, ...]]]  # name -> type as safetensors names it, shape


def write(folder: Path, config: dict[str, Any], tensors: Shapes, file: str = "model.safetensors") -> Path:
    """A checkpoint whose weights are zeros, in types that numpy lacks too."""
    at, header = 0, {}
    for name, (dtype, shape) in tensors.items():
        size = Tensor(dtype, shape).bytes
        header[name] = {"dtype": dtype, "shape": list(shape), "data_offsets": [at, at + size]}
        at += size
    text = json.dumps(header).encode()
    folder.mkdir(parents=True, exist_ok=True)
    (folder / file).write_bytes(struct.pack("<Q", len(text)) + text + bytes(at))
    (folder / "config.json").write_text(json.dumps(config))
    return folder


ONE: Shapes = {"a.weight": ("BF16", (4, 3)), "b.weight": ("F8_E4M3", (2, 2))}


def test_names_types_and_shapes_are_read(tmp_path: Path) -> None:
    found = read(str(write(tmp_path, {"model_type": "x"}, ONE)))
    assert found.config == {"model_type": "x"}
    assert found.tensors == {"a.weight": Tensor("BF16", (4, 3)), "b.weight": Tensor("F8_E4M3", (2, 2))}
    assert [tensor.bytes for tensor in found.tensors.values()] == [24, 4]


def test_only_the_files_of_the_index_are_read(tmp_path: Path) -> None:
    write(tmp_path, {}, {"a": ("F32", (1,))}, "one.safetensors")
    write(tmp_path, {}, {"b": ("F32", (1,))}, "two.safetensors")
    write(tmp_path, {}, {"c": ("F32", (1,))}, "consolidated.safetensors")
    places = {"weight_map": {"a": "one.safetensors", "b": "two.safetensors"}}
    (tmp_path / "model.safetensors.index.json").write_text(json.dumps(places))
    assert set(read(str(tmp_path)).tensors) == {"a", "b"}


@pytest.mark.parametrize(
    ("spoil", "words"),
    [
        (lambda folder: (folder / "config.json").unlink(), "has no config.json"),
        (lambda folder: (folder / "config.json").write_text("[1"), "cannot be read as JSON"),
        (lambda folder: (folder / "config.json").write_text("[" * 100_000), "cannot be read as JSON"),
        (lambda folder: (folder / "config.json").write_text("[]"), "holds no JSON object"),
        (lambda folder: (folder / "model.safetensors").unlink(), "has neither model.safetensors nor"),
        (lambda folder: (folder / "model.safetensors").write_bytes(b"\xff" * 20), "cut short or damaged"),
        (
            lambda folder: (folder / "model.safetensors").write_bytes(
                (folder / "model.safetensors").read_bytes()[:-3]
            ),
            "cut short or damaged",
        ),
    ],
)
def test_what_is_no_checkpoint_is_one_message(spoil: Any, words: str, tmp_path: Path) -> None:
    spoil(write(tmp_path, {}, ONE))
    with pytest.raises(ModelError, match=words):
        read(str(tmp_path))


@pytest.mark.parametrize(
    ("index", "words"),
    [
        ({"weight_map": {"a": "gone.safetensors"}}, "lacks gone.safetensors"),
        ({"weight_map": {"a": "../x.safetensors"}}, "does not say which file"),
        ({"weight_map": {"a": 3}}, "does not say which file"),
        ({}, "does not say which file"),
    ],
)
def test_a_spoiled_index_is_one_message(index: dict[str, Any], words: str, tmp_path: Path) -> None:
    write(tmp_path, {}, ONE)
    (tmp_path / "model.safetensors").unlink()
    (tmp_path / "model.safetensors.index.json").write_text(json.dumps(index))
    with pytest.raises(ModelError, match=words):
        read(str(tmp_path))


@pytest.mark.parametrize(
    ("cause", "way"),
    [
        ("You are trying to access a gated repo.", "accept its terms on huggingface.co and log in"),
        ("403 Client Error. Cannot access gated repo for url", "accept its terms"),
        ("401 Client Error. Repository Not Found for url", "Check how it is written"),
        (
            "owner/x is not a valid model identifier listed on 'https://huggingface.co'",
            "Check how it is written",
        ),
        ("[Errno -2] Name or service not known", "or a hub id that is reachable"),
    ],
)
def test_whoever_may_not_read_a_model_is_told_how_to_and_whoever_cannot_is_told_why(
    cause: str, way: str
) -> None:
    assert f"cannot be read: {cause.rstrip('.')}. " in no_hub_id("owner/x", cause)
    assert way in no_hub_id("owner/x", cause)


def test_what_is_no_models_folder_is_told_without_asking_the_hub(tmp_path: Path) -> None:
    (tmp_path / "m.gguf").write_bytes(b"GGUF")
    (tmp_path / "m.bin").write_bytes(b"")
    for name, said in (
        ("m.gguf", "is a GGUF file"),
        ("m.bin", "is a file"),
        ("no/where", "There is no folder"),
    ):
        with pytest.raises(ModelError, match=said):
            read(str(tmp_path / name))


@pytest.mark.parametrize("name", ["nobody/no-such-model", "no folder at all"])
def test_what_is_neither_a_folder_nor_reachable_is_one_message(name: str) -> None:
    with pytest.raises(ModelError, match="is no folder, and as a hub id it cannot be read"):
        read(name)


def test_a_downloaded_checkpoint_is_read_without_the_hub(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def kept(name: str, local_files_only: bool, **wanted: Any) -> str:
        assert (local_files_only, wanted) == (True, CHECKPOINT)  # whole is what the engine downloads
        return str(tmp_path)

    monkeypatch.setattr("huggingface_hub.snapshot_download", kept)
    write(tmp_path, {}, ONE)
    assert set(read("some/model").tensors) == set(ONE)


class Hub(ThreadingHTTPServer):
    """Answers for owner/x with the files of the folder x, and says of others what the hub says."""

    folder: Path
    sent: int  # bytes


class _Request(BaseHTTPRequestHandler):
    server: Hub

    def do_HEAD(self) -> None:
        self.do_GET()

    def do_GET(self) -> None:
        _, name, *place = self.path.strip("/").split("/")
        path = self.server.folder / name / (place or [""])[-1]
        if not path.is_file():
            status, code = (404, "EntryNotFound") if path.parent.is_dir() else (401, "RepoNotFound")
            if name == "gated":
                status, code = 403, "GatedRepo"
            self._answer(status, b"", {"X-Error-Code": code})
            return
        content, about = path.read_bytes(), {"ETag": '"1"', "X-Repo-Commit": "0" * 40}
        if asked := self.headers.get("Range"):
            begin, end = map(int, asked.removeprefix("bytes=").split("-"))
            about["Content-Range"] = f"bytes {begin}-{min(end, len(content) - 1)}/{len(content)}"
            content = content[begin : end + 1]
        self._answer(206 if asked else 200, content, about)

    def _answer(self, status: int, content: bytes, about: dict[str, str]) -> None:
        self.send_response(status)
        for key, value in {"Content-Length": str(len(content)), **about}.items():
            self.send_header(key, value)
        self.end_headers()
        if self.command == "GET":
            self.wfile.write(content)
            self.server.sent += len(content)

    def log_message(self, *values: Any) -> None:
        """Nothing is printed."""


@pytest.fixture
def hub(tmp_path: Path) -> Iterator[Hub]:
    server = Hub(("127.0.0.1", 0), _Request)
    server.folder, server.sent = tmp_path / "models", 0
    Thread(target=server.serve_forever, daemon=True).start()
    yield server
    server.shutdown()
    server.server_close()


def test_of_a_hub_id_only_the_headers_come_over_the_network(hub: Hub, tmp_path: Path) -> None:
    write(hub.folder / "made", {"model_type": "mixtral"}, {"a.weight": ("BF16", (1_000, 1_000))})
    write(hub.folder / "pickled", {}, {}, "pytorch_model.bin")
    code = (
        "from moeviz.errors import ModelError\n"
        "from moeviz.files.headers import read\n"
        "for name in ('made', 'pickled', 'gated', 'absent'):\n"
        "    try:\n"
        "        print(read(f'owner/{name}').tensors)\n"
        "    except ModelError as error:\n"
        "        print(error)\n"
    )
    there = {
        "HF_ENDPOINT": f"http://127.0.0.1:{hub.server_port}",
        "HF_HOME": str(tmp_path / "hub"),
        "NO_PROXY": "127.0.0.1",
    }
    done = subprocess.run(
        [sys.executable, "-c", code],
        env={**os.environ, **there, "HF_HUB_OFFLINE": "0"},
        cwd=Path(__file__).parent.parent,
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stderr
    made, pickled, gated, absent = done.stdout.splitlines()
    assert made == str({"a.weight": Tensor("BF16", (1_000, 1_000))})
    assert hub.sent < 200_000, "of two megabytes"
    assert pickled == "owner/pickled holds no safetensors files, so its sizes cannot be read."
    assert "accept its terms on huggingface.co and log in" in gated
    assert "Check how it is written" in absent

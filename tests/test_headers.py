"""What a checkpoint says of itself is read without its weights, and what is wrong with it is one message."""

from __future__ import annotations

import json
import struct
from pathlib import Path
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

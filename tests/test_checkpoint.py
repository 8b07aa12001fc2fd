"""A checkpoint that is not whole, or that wants to run code of its own, is one message and never runs."""

from __future__ import annotations

import ast
import json
import os
import re
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file

from moeviz.engine import plan
from moeviz.engine.architectures import check_type
from moeviz.engine.loader import load
from moeviz.errors import ModelError

ROOT = Path(__file__).parent.parent
TinyModel = Callable[[str], Path]
Tensors = dict[str, torch.Tensor]
MIXTRAL = "model.layers.1.block_sparse_moe.experts"
QWEN = "model.layers.1.mlp.experts"


def copy_of(folder: Path, to: Path, change: Callable[[Tensors], object]) -> Path:
    """The same checkpoint with other tensors."""
    shutil.copytree(folder, to)
    tensors = load_file(to / "model.safetensors")
    change(tensors)
    save_file({name: tensor.contiguous() for name, tensor in tensors.items()}, to / "model.safetensors")
    return to


@pytest.mark.parametrize(
    ("name", "change", "words"),
    [
        (
            "mixtral",
            lambda t: t.pop("model.layers.0.self_attn.q_proj.weight"),
            "lacks model.layers.0.self_attn.q_proj.weight: it would run on random weights",
        ),
        (
            "mixtral",
            lambda t: t.update({"model.norm.weight": t["model.norm.weight"][:-1]}),
            r"model.norm.weight is \[31\], not \[32\]",
        ),
        ("mixtral", lambda t: t.update({"model.odd": torch.ones(3)}), "holds model.odd, for which"),
        ("mixtral", lambda t: t.pop(f"{MIXTRAL}.3.w1.weight"), f"lacks {MIXTRAL}.3.w1.weight, which other"),
        (
            "mixtral",
            lambda t: t.update({f"{MIXTRAL}.3.w1.weight": t[f"{MIXTRAL}.3.w1.weight"][:-1]}),
            rf"{MIXTRAL}.3.w1.weight is \[47, 32\], not \[48, 32\]",
        ),
        ("qwen3_moe", lambda t: t.pop(f"{QWEN}.0.down_proj.weight"), f"lacks {QWEN}.0.down_proj.weight"),
        (
            "qwen3_moe",
            lambda t: [t.pop(name) for name in list(t) if name.startswith(f"{QWEN}.7.")],
            f"{QWEN}.down_proj.*holds another number of experts",
        ),
        (
            "qwen3_moe",
            lambda t: [t.pop(name) for name in list(t) if name.startswith(f"{QWEN}.7.")],
            "It lacks expert 7",
        ),
        (
            "mixtral",
            lambda t: [t.pop(name) for name in list(t) if name.startswith(MIXTRAL) and ".w3." in name],
            f"lacks {MIXTRAL}.0.w3.weight, {MIXTRAL}.1.w3.weight",
        ),
        (
            "mixtral",
            lambda t: t.update({f"{MIXTRAL}.3.odd.weight": torch.ones(3)}),
            f"holds {MIXTRAL}.3.odd.weight, which most experts of the layer lack",
        ),
        ("gpt_oss", lambda t: t.pop(f"{QWEN}.down_proj"), f"lacks {QWEN}.down_proj"),
        (
            "gpt_oss",
            lambda t: t.update({f"{QWEN}.down_proj": t[f"{QWEN}.down_proj"][:-1]}),
            f"{QWEN}.down_proj: the checkpoint holds another number of experts",
        ),
    ],
)
def test_a_tensor_that_is_missing_odd_or_unknown_is_named(
    name: str, change: Callable[[Tensors], object], words: str, tiny_model: TinyModel, tmp_path: Path
) -> None:
    folder = copy_of(tiny_model(name), tmp_path / "model", change)
    with pytest.raises(ModelError, match=words) as caught:
        load(folder, device="cpu")
    assert "\n" not in str(caught.value)


def test_tied_weights_need_not_be_there(tiny_model: TinyModel, tmp_path: Path) -> None:
    folder = copy_of(tiny_model("mixtral"), tmp_path / "model", lambda t: t.pop("lm_head.weight"))
    config = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps(config | {"tie_word_embeddings": True}))
    model = load(folder, device="cpu").model
    assert torch.equal(model.lm_head.weight, model.model.embed_tokens.weight)


def test_a_file_that_is_cut_short_is_named(tiny_model: TinyModel, tmp_path: Path) -> None:
    folder = shutil.copytree(tiny_model("mixtral"), tmp_path / "model")
    file = folder / "model.safetensors"
    file.write_bytes(file.read_bytes()[:-100])
    with pytest.raises(ModelError, match=r"model\.safetensors is cut short or damaged"):
        load(folder, device="cpu")


def test_a_shard_that_is_missing_or_lacks_what_the_index_says_is_named(
    tiny_model: TinyModel, tmp_path: Path
) -> None:
    folder = shutil.copytree(tiny_model("mixtral"), tmp_path / "model")
    tensors = load_file(folder / "model.safetensors")
    (folder / "model.safetensors").unlink()
    names = sorted(tensors)
    halves = {"model-00001-of-00002.safetensors": names[:20], "model-00002-of-00002.safetensors": names[20:]}
    index = {"weight_map": {name: file for file, held in halves.items() for name in held}}
    (folder / "model.safetensors.index.json").write_text(json.dumps(index))
    first, second = halves
    save_file({name: tensors[name] for name in halves[first]}, folder / first)
    with pytest.raises(ModelError, match=f"lacks {second}, which holds .* and {len(names) - 24} more"):
        load(folder, device="cpu")
    save_file({name: tensors[name] for name in halves[second][1:]}, folder / second)
    with pytest.raises(ModelError, match=f"{second} lacks {names[20]}, which the folder's index promises"):
        load(folder, device="cpu")


@pytest.fixture
def model_with_code(tiny_model: TinyModel, tmp_path: Path) -> Path:
    """A folder whose configuration wants its own Python to run; the Python leaves a file `ran`."""
    folder = shutil.copytree(tiny_model("mixtral"), tmp_path / "model")
    own = {"AutoConfig": "odd.OddConfig", "AutoModelForCausalLM": "odd.OddModel"}
    config = json.loads((folder / "config.json").read_text()) | {"model_type": "odd", "auto_map": own}
    (folder / "config.json").write_text(json.dumps(config))
    (folder / "odd.py").write_text(f"open({str(tmp_path / 'ran')!r}, 'w').close()\n")
    return folder


def test_code_of_a_model_folder_never_runs_whatever_stands_on_standard_input(
    model_with_code: Path, tmp_path: Path
) -> None:
    found = subprocess.run(
        [sys.executable, "-m", "moeviz", "run", str(model_with_code), "--prompt", "x"],
        input="y\n" * 99,
        capture_output=True,
        text=True,
        cwd=ROOT,
        env=os.environ | {"MOEVIZ_CACHE": str(tmp_path / "cache")},
    )
    assert found.returncode == 2
    assert "needs Python code that comes with the model" in found.stderr
    assert "Choose a checkpoint" in found.stderr
    assert "Traceback" not in found.stderr
    assert "[y/N]" not in found.stdout + found.stderr
    assert not (tmp_path / "ran").exists()


def test_a_plan_refuses_what_a_run_refuses(model_with_code: Path, tmp_path: Path) -> None:
    with pytest.raises(ModelError, match="needs Python code that comes with the model") as run:
        load(model_with_code, device="cpu")
    with pytest.raises(ModelError) as planned:
        plan.make(str(model_with_code), fast=2**30, fast_speed=10)
    assert str(planned.value) == str(run.value)
    assert not (tmp_path / "ran").exists()
    config = json.loads((model_with_code / "config.json").read_text()) | {"model_type": "mixtral"}
    (model_with_code / "config.json").write_text(json.dumps(config))
    assert plan.make(str(model_with_code), fast=2**30, fast_speed=10).size.num_experts > 1


@pytest.mark.parametrize(
    ("own", "kind", "said"),
    [
        ({"AutoModelForCausalLM": "odd.OddModel"}, "odd", "is of a type that .* does not have: odd"),
        ({"AutoModelForCausalLM": "odd.OddModel"}, None, "has no model_type"),
        ({"AutoConfig": "odd.OddConfig"}, None, "needs Python code"),
        (["AutoConfig"], "odd", "auto_map of its configuration is no table"),
        (["AutoConfig"], "mixtral", "auto_map of its configuration is no table"),
        (None, "mixtral", "auto_map of its configuration is no table"),
        ({"AutoConfig": None}, "mixtral", "auto_map of its configuration is no table"),
        ({"AutoModelForCausalLM": None}, "mixtral", "auto_map of its configuration is no table"),
        ({"AutoTokenizer": ["odd.OddTokenizer", None]}, "mixtral", ""),
        ({}, "mixtral", ""),
    ],
)
def test_a_plan_and_a_run_have_one_rule(
    own: object, kind: str | None, said: str, model_with_code: Path, tmp_path: Path
) -> None:
    config = json.loads((model_with_code / "config.json").read_text()) | {"auto_map": own, "model_type": kind}
    if kind is None:
        del config["model_type"]
    (model_with_code / "config.json").write_text(json.dumps(config))
    found = []
    for work in (
        lambda: load(model_with_code, device="cpu"),
        lambda: plan.make(str(model_with_code), fast=2**30, fast_speed=10),
    ):
        try:
            work()
            found.append("")
        except ModelError as error:
            found.append(str(error))
    assert found[0] == found[1]
    assert re.search(said, found[0]) if said else not found[0]
    assert not (tmp_path / "ran").exists()


def test_the_types_that_transformers_has_are_read_without_it() -> None:
    from transformers.models.auto import modeling_auto

    own = {"AutoConfig": "odd.OddConfig"}
    write = {
        *modeling_auto.MODEL_FOR_CAUSAL_LM_MAPPING_NAMES,
        *modeling_auto.MODEL_FOR_MULTIMODAL_LM_MAPPING_NAMES,
    }
    assert len(write) > 100
    write -= {"gpt-sw3"}  # which is no MoE, and stands elsewhere
    for one in write:
        check_type("m", {"model_type": one, "auto_map": own})


def test_a_folder_with_code_whose_architecture_transformers_has_runs_without_its_code(
    model_with_code: Path, tmp_path: Path
) -> None:
    config = json.loads((model_with_code / "config.json").read_text()) | {"model_type": "mixtral"}
    (model_with_code / "config.json").write_text(json.dumps(config))
    assert type(load(model_with_code, device="cpu").model).__module__.startswith("transformers.")
    assert not (tmp_path / "ran").exists()


def test_every_call_that_could_run_a_models_code_says_no() -> None:
    calls = [
        (path, node)
        for path in (ROOT / "moeviz").rglob("*.py")
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8")))
        if isinstance(node, ast.Call)
        and isinstance(node.func, ast.Attribute)
        and node.func.attr in ("from_pretrained", "from_config")
    ]
    assert len(calls) >= 6
    for path, call in calls:
        said = {word.arg: word.value for word in call.keywords}.get("trust_remote_code")
        assert isinstance(said, ast.Constant), f"{path}:{call.lineno}"
        assert said.value is False, f"{path}:{call.lineno}"

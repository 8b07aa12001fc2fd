"""Every MoE type of the installed transformers: the same bits as transformers alone, or one message that says
why not.
"""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import tiny_models
import torch
import transformers

import moeviz
from moeviz.core.replay import replay
from moeviz.core.settings import Settings
from moeviz.engine import loader, measure, memory, session
from moeviz.engine.loader import Loaded, load
from moeviz.engine.probe import is_experts
from moeviz.engine.session import Options
from moeviz.errors import ModelError, SettingsError, StoreError
from moeviz.files.headers import read
from moeviz.numbers.sizes import sizes

PROMPT = "How many experts does this prompt need at once?"
GREEDY = Options(max_new_tokens=5, temperature=0.0, stop_at_end=False)
README = Path(loader.__file__).parent / "README.md"
GUESSES: dict[str, str] = {}  # filled by the tests below, for the list
REFUSED: dict[str, str] = {}


class Resident:
    """A run of transformers alone: greedy tokens, their logits, and what each router chose, seen by hooks of
    its own.
    """

    def __init__(self, model: Any, ids: list[int]) -> None:
        self.logits: list[torch.Tensor] = []
        self.tokens: list[int] = []
        chosen: dict[int, list[tuple[torch.Tensor, torch.Tensor]]] = {}
        hooks = [
            module.register_forward_pre_hook(
                lambda m, args: chosen.setdefault(id(m), []).append((args[1], args[2]))
            )
            for module in model.modules()
            if is_experts(module)
        ]
        keep = session.only_the_last_logits(model)
        past = None
        for _ in range(GREEDY.max_new_tokens):
            with torch.inference_mode():
                output = model(input_ids=torch.tensor([ids]), past_key_values=past, use_cache=True, **keep)
            past = output.past_key_values
            self.logits.append(output.logits[0, -1])
            self.tokens.append(int(self.logits[-1].argmax()))
            ids = self.tokens[-1:]
        for hook in hooks:
            hook.remove()
        self.experts, self.weights = (  # [token, layer, k]
            np.stack([torch.cat([one[n] for one in calls]).float().numpy() for calls in chosen.values()], 1)
            for n in (0, 1)
        )


@pytest.fixture
def logits(monkeypatch: pytest.MonkeyPatch) -> list[torch.Tensor]:
    """Filled with the last token's logits of every pass of the engine."""
    seen: list[torch.Tensor] = []
    choose = session._choose
    monkeypatch.setattr(
        session, "_choose", lambda row, *rest: (seen.append(row.clone()), choose(row, *rest))[1]
    )
    return seen


@pytest.mark.parametrize("kind", [k for k in tiny_models.types() if k != "diffusion_gemma"])
def test_a_type_runs_to_the_bits_of_transformers_alone(
    kind: str, tmp_path: Path, logits: list[torch.Tensor]
) -> None:
    if package := tiny_models.PACKAGES.get(kind):
        pytest.importorskip(package)
    folder = tiny_models.save(kind, tmp_path / kind)
    for dtype in ("float32", "bfloat16"):
        logits.clear()
        loaded = load(folder, device="cpu", dtype=dtype)
        trace, run = measure.record(loaded, PROMPT, Settings(slots=3), GREEDY)
        model = tiny_models.reference(kind, folder, getattr(torch, dtype))
        with moeviz.capture(model) as captured:
            resident = Resident(model, loaded.tokenizer(PROMPT)["input_ids"])
        assert run.output_ids == tuple(resident.tokens), dtype
        assert all(torch.equal(a, b) for a, b in zip(logits, resident.logits, strict=True)), dtype
        order = np.lexsort((resident.experts, -resident.weights), axis=2)
        assert (trace.experts == np.take_along_axis(resident.experts, order, 2)).all(), dtype
        assert (trace.weights == np.take_along_axis(resident.weights, order, 2)).all(), dtype
        assert (captured.trace().experts == trace.experts).all(), dtype
        if dtype == "float32":
            GUESSES[kind] = next_gate(loaded)
        loaded.store.close()


def next_gate(loaded: Loaded) -> str:
    """Whether the routers of all, some or none of the layers can be asked ahead; a run that asks them equals
    its replay.
    """
    asked = [layer.router is not None for layer in loaded.layers]
    settings = Settings(slots=4, prefetch="next-gate")
    if any(asked):
        trace, run = measure.record(loaded, PROMPT, settings, GREEDY)
        assert replay(trace, settings).same_decisions(run)
        assert [(trace.guess[:, n, 0] >= 0).any() for n in range(1, len(asked))] == asked[1:]
    else:
        with pytest.raises(
            SettingsError, match="asks the layers' routers ahead, which this model's cannot be"
        ):
            measure.record(loaded, PROMPT, settings, GREEDY)
    assert bool(loaded.notes) == (not all(asked))
    return "all" if all(asked) else "some" if any(asked) else "none"


@pytest.mark.parametrize("kind", tiny_models.own_code())
def test_a_moe_with_code_of_its_own_is_refused_by_name(kind: str, tmp_path: Path) -> None:
    why = "transformers computes its experts in the model's own code, not through its experts interface"
    REFUSED[kind] = why
    with pytest.raises(ModelError, match=r"is a MoE that transformers .* does not serve through its experts"):
        load(tiny_models.save_bare(kind, tmp_path))


def test_block_diffusion_is_refused(tmp_path: Path) -> None:
    REFUSED["diffusion_gemma"] = "it does not write one token after the other"
    with pytest.raises(ModelError, match="does not write one token after the other"):
        load(tiny_models.save_bare("diffusion_gemma", tmp_path))


def test_the_list_of_the_readme_is_what_was_found() -> None:
    ran = [kind for kind in tiny_models.types() if kind not in tiny_models.PACKAGES]
    if not GUESSES.keys() | REFUSED.keys() >= {*ran, *tiny_models.own_code()}:
        pytest.skip("the tests of the types did not all run and pass")
    before, _, rest = README.read_text().partition("<!-- types -->\n")
    shown, _, after = rest.partition("<!-- /types -->")
    found = tiny_models.listed(GUESSES, REFUSED) + "\n"
    if shown != found:
        README.write_text(f"{before}<!-- types -->\n{found}<!-- /types -->{after}")
    assert shown == found, "the list was out of date; it has been written anew: commit it"


# what is refused before anything is packed


def bare(tmp_path: Path, config: Any, **changes: Any) -> Path:
    """A folder with a configuration and a tokenizer."""
    config.save_pretrained(tmp_path)
    tiny_models.save_tokenizer(tmp_path)
    values = json.loads((tmp_path / "config.json").read_text())
    (tmp_path / "config.json").write_text(json.dumps(values | changes))
    return tmp_path


@pytest.mark.parametrize(
    ("config", "changes", "words"),
    [
        (transformers.T5Config, {}, r"is an encoder-decoder model .*; moeviz runs decoder-only models"),
        (transformers.SwitchTransformersConfig, {}, "is an encoder-decoder model"),
        (transformers.ViTConfig, {}, "does not generate text"),
        (transformers.OpenAIPrivacyFilterConfig, {}, "does not generate text"),
        (transformers.BertConfig, {"is_decoder": True}, "is not a mixture-of-experts model"),
        *(
            (transformers.MixtralConfig, {"quantization_config": {"quant_method": method}}, words)
            for method, words in {
                "gptq": r"quantised with gptq \(it takes the package gptqmodel\)",
                "awq": r"quantised with awq \(it takes the package gptqmodel\)",
                "bitsandbytes": r"quantised with bitsandbytes \(it takes the package bitsandbytes\)",
                "compressed-tensors": "quantised with compressed-tensors",
                "magic": r"quantised with magic, and its experts are no plain tensors .* mxfp4 or fp8",
            }.items()
        ),
        (transformers.MixtralConfig, {"quantization_config": "gptq"}, "cannot be read as a model"),
        (transformers.MixtralConfig, {"quantization_config": [4]}, "cannot be read as a model"),
        (transformers.MixtralConfig, {"num_experts_per_tok": "two"}, "cannot be read as a model: .* got str"),
    ],
)
def test_what_cannot_be_run_is_told_from_its_configuration(
    config: Callable[[], Any], changes: dict[str, Any], words: str, tmp_path: Path
) -> None:
    with pytest.raises(ModelError, match=words):
        load(bare(tmp_path, config(), **changes))


def test_what_is_no_models_folder_is_told(tmp_path: Path) -> None:
    with pytest.raises(ModelError, match="There is no folder"):
        load(tmp_path / "nowhere")
    (tmp_path / "model.gguf").write_bytes(b"GGUF")
    for name in (tmp_path, tmp_path / "model.gguf"):
        with pytest.raises(ModelError, match=r"is a GGUF file, which llama\.cpp reads"):
            load(name)
    (tmp_path / "empty").mkdir()
    with pytest.raises(ModelError, match=r"The folder .*empty has no config\.json"):
        load(tmp_path / "empty")
    (tmp_path / "weights.bin").write_bytes(b"")
    with pytest.raises(ModelError, match=r"is a file\. Choose the folder"):
        load(tmp_path / "weights.bin")


def test_a_type_that_transformers_does_not_have_and_a_folder_without_weights_are_told(tmp_path: Path) -> None:
    folder = tiny_models.save("mixtral", tmp_path / "model")
    (folder / "model.safetensors").unlink()
    with pytest.raises(ModelError, match=r"holds no weights, such as model\.safetensors"):
        load(folder)
    values = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps(values | {"model_type": "fancy"}))
    with pytest.raises(ModelError, match=r"is of a type that transformers .* does not have: fancy\."):
        load(folder)


def test_a_token_that_uses_no_expert_is_told(tiny_model: Callable[[str], Path], tmp_path: Path) -> None:
    folder = tmp_path / "model"
    shutil.copytree(tiny_model("mixtral"), folder)
    config = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps(config | {"num_experts_per_tok": 0}))
    with pytest.raises(ModelError, match="a token uses no expert at all"):
        load(folder, device="cpu")


def test_a_tokenizer_of_another_model_is_told(tmp_path: Path) -> None:
    folder = tiny_models.save("mixtral", tmp_path / "model", vocab_size=20)
    with pytest.raises(ModelError, match=r"but the model knows 20 tokens: they are of different models"):
        load(folder)


def test_a_model_without_tokenizer_is_refused_before_anything_is_packed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("MOEVIZ_CACHE", str(tmp_path / "cache"))
    folder = tiny_models.save("mixtral", tmp_path / "model")
    for file in folder.glob("*token*"):
        file.unlink()
    with pytest.raises(
        ModelError, match=r"has no tokenizer that can be read \(.*\)\. Put .* beside config\.json"
    ):
        load(folder)
    assert not (tmp_path / "cache").exists()


def test_a_tokenizer_that_transformers_makes_up_is_told(tmp_path: Path) -> None:
    """Of some kinds of model it makes one without a vocabulary, to which every prompt is empty."""
    folder = tiny_models.save("olmoe", tmp_path / "model")
    for file in folder.glob("*token*"):
        file.unlink()
    with pytest.raises(ModelError, match=r"has no tokenizer that can be read .*gives no token for any text"):
        load(folder)


def test_what_no_memory_holds_is_refused_before_it_is_read(
    tiny_model: Callable[[str], Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("MOEVIZ_CACHE", str(tmp_path / "cache"))
    sizes_of = sizes(read(str(tiny_model("mixtral"))), "float32")
    for room, tier, said in (
        (
            sizes_of.dense,
            "disk",
            r"The dense part of .*, which stays in the fast tier, needs .* a smaller model",
        ),
        (sizes_of.slow_tier, "host", r"The slow tier in memory needs .* on cpu, .* Choose --tier disk"),
    ):
        monkeypatch.setattr(memory, "host_free", lambda room=room: room)
        with pytest.raises((ModelError, StoreError), match=said):
            load(tiny_model("mixtral"), tier=tier, dtype="float32", device="cpu")
    assert not list((tmp_path / "cache").rglob("*.experts"))


def test_settings_that_do_not_fit_are_refused_before_anything_is_packed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("MOEVIZ_CACHE", str(tmp_path / "cache"))
    folder = tiny_models.save_bare("qwen3_moe", tmp_path / "model")  # which has no weights to be read
    with pytest.raises(SettingsError, match="slots"):
        load(folder, wanted=lambda shape: [Settings(slots=2)])
    monkeypatch.setattr(memory, "host_free", lambda: 400_000)
    for wanted in (Settings(slots=8), Settings(baseline="resident")):
        with pytest.raises(ModelError, match=r"needs .* of memory on cpu, .* Choose (fewer )?slots"):
            load(folder, wanted=lambda shape, one=wanted: [one], dtype="float32", device="cpu")
    assert not (tmp_path / "cache").exists()


def test_a_package_that_a_model_needs_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    import sys

    monkeypatch.setitem(sys.modules, "scipy", None)
    monkeypatch.setitem(sys.modules, "scipy.optimize", None)
    with pytest.raises(ModelError, match=r"needs the package scipy.*, which is not installed"):
        load(tiny_models.save_bare("inkling_mm_model", tmp_path))

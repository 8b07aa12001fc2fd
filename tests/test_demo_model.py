"""The bundled model and the samples recorded with it: what the card says is so.

The texts are not in the repository.
"""

from __future__ import annotations

import os
from itertools import product
from pathlib import Path

import numpy as np
import pytest
import torch
from conftest import in_step

from moeviz.core.policies import POLICIES
from moeviz.core.predictors import PREDICTORS
from moeviz.core.replay import replay
from moeviz.core.run import MISS
from moeviz.core.settings import SCOPES, Settings
from moeviz.demo_model import data, evaluate, train
from moeviz.engine import measure
from moeviz.engine.loader import load
from moeviz.engine.session import Options
from moeviz.files.moetrace import SAMPLES
from moeviz.files.moetrace import load as load_file
from moeviz.numbers import routing

NAMES = sorted(path.stem for path in SAMPLES.glob("*.moetrace"))
READERS = {  # a word or two that only such a text has
    "bible": ("And it came to pass", ("LORD", "unto", "thou", "Israel", "king")),
    "spanish": ("Y aconteció después de estas cosas, que", (" los ", " que ", "Jehová", " de ")),
    "german": ("Die Konfigurationsdatei enthält", (" die ", " der ", "Paket", " und ", "Debian")),
    "python": ("class Parser:\n    def __init__(self, name):\n        ", ("self", "return", "def ", "if ")),
    "jargon": (":hack: n. A program that", (" the ", " of ", " a ")),
}


@pytest.fixture(scope="module")
def domains() -> dict[str, evaluate.Domain]:
    try:
        return evaluate.evaluate()
    except data.MissingText as missing:
        if os.environ.get("CI"):
            raise
        pytest.skip(str(missing))


@pytest.mark.texts
class TestOnHeldOutText:
    def test_loss_is_the_cards(self, domains: dict[str, evaluate.Domain]) -> None:
        card = evaluate.card_losses()
        assert card.keys() == domains.keys()
        for name, domain in domains.items():
            assert domain.loss == pytest.approx(card[name], rel=0.02), name

    def test_expert_use_is_what_the_page_shows(self, domains: dict[str, evaluate.Domain]) -> None:
        shown = routing.domain_use()
        assert shown.keys() == domains.keys()
        for name, domain in domains.items():
            assert shown[name] == pytest.approx(domain.use(), abs=0.02), name

    def test_every_expert_is_used(self, domains: dict[str, evaluate.Domain]) -> None:
        assert (np.sum([domain.use() for domain in domains.values()], axis=0) > 0.01 * len(domains)).all()

    def test_a_domain_is_told_by_its_experts(self, domains: dict[str, evaluate.Domain]) -> None:
        assert evaluate.guessed_right(domains) >= 0.9


def test_the_card_names_every_text_and_its_licence() -> None:
    card = evaluate.CARD.read_text(encoding="utf-8")
    sources = card.partition("| domain | text | package | licence |")[2].partition("\n\n")[0].splitlines()[2:]
    assert [line.split(" | ")[0].strip("| ") for line in sources] == list(routing.domain_use())


def test_it_fits_and_loads_like_any_checkpoint() -> None:
    files = list(train.FOLDER.glob("*.safetensors"))
    assert sum(path.stat().st_size for path in files) < 45e6
    from transformers import AutoModelForCausalLM

    model = AutoModelForCausalLM.from_pretrained(train.FOLDER)
    assert model.dtype == torch.bfloat16
    assert type(model).__name__ == "MixtralForCausalLM"


@pytest.mark.parametrize("name", READERS)
def test_it_writes_what_the_prompt_is(name: str) -> None:
    from transformers import AutoModelForCausalLM, AutoTokenizer

    prompt, words = READERS[name]
    model = AutoModelForCausalLM.from_pretrained(
        train.FOLDER, dtype=torch.float32, experts_implementation="eager"
    )
    tokenizer = AutoTokenizer.from_pretrained(train.FOLDER)
    torch.manual_seed(0)
    ids = tokenizer(prompt, return_tensors="pt")["input_ids"]
    written = tokenizer.decode(
        model.generate(ids, max_new_tokens=100, do_sample=True, temperature=0.6, eos_token_id=-1)[
            0, ids.shape[1] :
        ]
    )
    assert sum(word in written for word in words) >= 3, written


def test_there_are_three_samples_of_three_kinds() -> None:
    assert NAMES == ["bible", "change-of-subject", "python-long"]
    assert load_file(SAMPLES / "python-long.moetrace")[0].tokens >= 500


@pytest.mark.parametrize("name", NAMES)
def test_a_sample_replays_to_what_was_recorded(name: str) -> None:
    trace, run = load_file(SAMPLES / f"{name}.moetrace")
    assert run is not None
    assert run.measured
    again = replay(trace, run.settings)
    assert again.same_decisions(run)
    assert (again.accesses.outcome == MISS).sum() == (run.accesses.outcome == MISS).sum() > 0


def test_live_equals_replay_for_every_policy_scope_and_predictor() -> None:
    """On the bundled model itself; greedy, so that one trace is the future of all."""
    loaded = load()
    prompt, options = "And it came to pass", Options(max_new_tokens=5, temperature=0.0, stop_at_end=False)
    future, resident = measure.record(loaded, prompt, measure.RESIDENT, options)
    for (policy, prefetch), scope in product(in_step(list(POLICIES), list(PREDICTORS)), SCOPES):
        settings = Settings(
            policy,
            3 if scope == "layer" else 20,
            scope,
            prefetch,
            calibration="python-long" if policy == "static" else "",
        )
        trace, run = measure.record(loaded, prompt, settings, options, future=future)
        assert replay(trace, settings).same_decisions(run), settings.label
        assert run.output_ids == resident.output_ids, settings.label


def test_training_starts_resumes_and_ends(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A model of a few thousand weights on made-up text: stopped halfway and resumed, it is the same model as
    trained in one go.
    """
    words = {
        name: [" ".join(f"{name}{n % 7}" for n in range(start, start + 900))] * 3
        for start, name in enumerate(data.DOMAINS)
    }
    monkeypatch.setattr(data, "load", lambda held_out: words)
    small = {
        "hidden_size": 16,
        "intermediate_size": 24,
        "num_hidden_layers": 2,
        "num_attention_heads": 2,
        "num_key_value_heads": 1,
    }
    monkeypatch.setattr(train, "CONFIG", train.CONFIG | small)
    monkeypatch.setattr(train, "BATCH", 2)
    monkeypatch.setattr(train, "CONTEXT", 32)

    def trained(folder: str, *pieces: int) -> torch.Tensor:
        target = tmp_path / folder
        monkeypatch.setattr(train, "FOLDER", target)
        for steps in pieces:
            done = train.train(tmp_path / f"{folder}-work", minutes=60, steps=6, until=steps)
            assert done == (steps == 6)
        from safetensors.torch import load_file as load_weights

        return load_weights(target / "model.safetensors")["model.embed_tokens.weight"]

    assert torch.equal(trained("whole", 6), trained("pieces", 3, 6))
    assert (tmp_path / "whole" / "tokenizer.json").exists()

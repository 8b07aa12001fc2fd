"""Several prompts as one batch: what transformers' own generate gives, one trace with a request for each."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from click.testing import CliRunner
from conftest import ARCHITECTURES
from transformers import AutoModelForCausalLM

from moeviz.cli.main import main
from moeviz.core.replay import replay
from moeviz.core.settings import Settings
from moeviz.core.trace import DECODE, PREFILL, Trace
from moeviz.engine import exactness, measure
from moeviz.engine.capture import capture
from moeviz.engine.link import HostLink
from moeviz.engine.loader import Loaded, load
from moeviz.engine.session import MOST_PROMPTS, Options
from moeviz.engine.sources import own
from moeviz.errors import ModelError

PROMPTS = ["How many experts?", "And it came to pass in those days, that", "A", "for n in range(9):"]
NEW = 6
GREEDY = Options(max_new_tokens=NEW, temperature=0.0, stop_at_end=False)
TinyModel = Callable[[str], Path]

_loaded: dict[str, Loaded] = {}


def loaded(tiny_model: TinyModel, name: str) -> Loaded:
    if name not in _loaded:
        _loaded[name] = load(tiny_model(name), tier="host", device="cpu")
    return _loaded[name]


@pytest.mark.parametrize("name", ARCHITECTURES)
def test_a_batch_is_that_of_transformers(name: str, tiny_model: TinyModel) -> None:
    model = loaded(tiny_model, name)
    plain = AutoModelForCausalLM.from_pretrained(
        tiny_model(name), dtype=torch.float32, experts_implementation="eager"
    ).eval()
    own(plain)
    ids = [model.tokenizer(prompt)["input_ids"] for prompt in PROMPTS]
    width = max(map(len, ids))
    padded = torch.tensor([[0] * (width - len(row)) + row for row in ids])
    mask = torch.tensor([[0] * (width - len(row)) + [1] * len(row) for row in ids])
    with capture(plain, model.tokenizer) as captured:
        found = plain.generate(
            input_ids=padded,
            attention_mask=mask,
            max_new_tokens=NEW,
            min_new_tokens=NEW,
            do_sample=False,
            pad_token_id=0,
        )
    for settings in (
        Settings("lfu", model.k + 1),
        Settings("lru", model.k, prefetch="next-gate"),
        Settings(baseline="whole-layer"),
    ):
        with exactness.logits_seen(model) as logits:
            trace, run = measure.record(model, PROMPTS, settings, GREEDY)
        assert run.output_ids == tuple(found[:, width:].T.ravel().tolist())
        assert exactness.reference(model, trace) == logits, "bit for bit"
        assert replay(trace, settings).same_decisions(run)
    theirs = captured.trace()
    for column in ("experts", "phase", "forward_pass", "sequence", "token_ids"):
        assert np.array_equal(getattr(trace, column), getattr(theirs, column)), column


def test_a_trace_of_the_most_prompts_has_a_request_for_each(tiny_model: TinyModel) -> None:
    model = loaded(tiny_model, "mixtral")
    prompts = [prompt + " " * n for n in range(MOST_PROMPTS // len(PROMPTS)) for prompt in PROMPTS]
    with exactness.logits_seen(model) as logits:
        trace, run = measure.record(model, prompts, Settings(slots=4), GREEDY)
    assert exactness.reference(model, trace) == logits, "bit for bit"
    lengths = [len(model.tokenizer(prompt)["input_ids"]) for prompt in prompts]
    assert trace.sequences() == list(range(MOST_PROMPTS))
    for number, length in enumerate(lengths):
        one = trace.of_sequence(number)
        assert (one.phase == PREFILL).sum() == length
        assert (one.phase == DECODE).sum() == NEW - 1
        assert one.token_ids[:length].tolist() == model.tokenizer(prompts[number])["input_ids"]
    assert trace.prompt == "\n".join(prompts)
    assert run.passes.tokens.tolist() == [sum(lengths)] + [MOST_PROMPTS] * (NEW - 1)
    assert trace.guess.shape[2] > 0


@pytest.mark.parametrize("experts", ["lossless", "int8"])
@pytest.mark.parametrize("prefetch", ["none", "next-gate"])
def test_what_padding_needs_is_copied_by_the_link_s_own_thread_too(
    experts: str, prefetch: str, tiny_model: TinyModel, monkeypatch: pytest.MonkeyPatch
) -> None:
    if experts != "lossless":
        pytest.importorskip("torchao")
    monkeypatch.setattr(HostLink, "_waiter_copies", False)
    model = load(tiny_model("mixtral"), tier="host", device="cpu", experts=experts)
    settings = Settings(slots=4, prefetch=prefetch)
    trace, run = measure.record(model, PROMPTS, settings, GREEDY)
    assert replay(trace, settings).same_decisions(run)
    model.store.close()


def test_a_batch_goes_on_until_its_last_prompt_has_ended(
    tiny_model: TinyModel, monkeypatch: pytest.MonkeyPatch
) -> None:
    model = loaded(tiny_model, "mixtral")
    _, run = measure.record(model, PROMPTS[:2], Settings(slots=4), GREEDY)
    first, second = np.array(run.output_ids).reshape(NEW, 2).T.tolist()
    ending = Options(max_new_tokens=NEW, temperature=0.0)
    ends = [first[0], second[2]]
    monkeypatch.setattr(model.model.generation_config, "eos_token_id", ends)
    _, run = measure.record(model, PROMPTS[:2], Settings(slots=4), ending)
    passes = next(n for n in range(NEW) if any(t in ends for t in second[: n + 1])) + 1
    assert len(run.output_ids) == 2 * passes
    assert passes > 1


def test_the_command_line_runs_several_prompts_together(tiny_model: TinyModel, tmp_path: Path) -> None:
    out = tmp_path / "batch.moetrace"
    given = [word for prompt in PROMPTS[:2] for word in ("--prompt", prompt)]
    options = ["--temperature", "0", "--max-new-tokens", "3", "--tier", "host", "--json", "--out", str(out)]
    result = CliRunner().invoke(main, ["run", str(tiny_model("mixtral")), *given, "--slots", "4", *options])
    assert result.exit_code == 0, result.output
    found = json.loads(result.stdout)
    assert (found["lossless"], len(found["token_ids"])) == (True, 6)
    rows = CliRunner().invoke(main, ["replay", str(out), "--json"])
    assert json.loads(rows.stdout)["token_ids"] == found["token_ids"], "prompt after prompt"
    trace = Trace.load(out)
    assert trace.sequence is not None
    assert set(trace.sequence.tolist()) == {0, 1}
    assert trace.of_sequence(1).token_ids[-2:].tolist() == found["token_ids"][3:5]


def test_what_no_batch_can_be_is_said(tiny_model: TinyModel) -> None:
    model = loaded(tiny_model, "mixtral")
    for prompts, options, words in (
        (["A"] * 17, GREEDY, "17 prompts were given. Give 1 to 16."),
        ([], GREEDY, "0 prompts were given"),
        (["A", " "], GREEDY, "The prompt is empty"),
        (["A", "B"], Options(then="x"), "goes with one prompt"),
    ):
        with pytest.raises(ModelError, match=words):
            measure.record(model, prompts, Settings(slots=4), options)


def test_a_prompt_of_thousands_of_tokens_reads_each_expert_of_a_layer_once(tiny_model: TinyModel) -> None:
    model = replace(loaded(tiny_model, "mixtral"), context=10_000)  # its rotary positions know no end
    prompt = "x" * 8_000
    assert len(model.tokenizer(prompt)["input_ids"]) >= 8_000
    trace, run = measure.record(model, prompt, Settings(slots=model.k + 1), Options(1, guesses=False))
    assert trace.tokens >= 8_000
    used = {(layer, e) for layer in range(trace.layers) for e in np.unique(trace.experts[:, layer]).tolist()}
    loads = list(zip(run.loads.layer.tolist(), run.loads.expert.tolist(), strict=True))
    assert len(loads) == len(set(loads))
    assert set(loads) == used

"""What the tests share: tiny random models and hand-made traces. Nothing here sleeps, times or reaches for
the network."""

from __future__ import annotations

import os
import signal
import sys
from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from types import ModuleType
from typing import Any, NamedTuple

import hypothesis
import numpy as np
import pytest
from servers import serving

os.environ.setdefault("HF_HUB_OFFLINE", "1")
from moeviz.core.policies import POLICIES
from moeviz.core.predictors import PREDICTORS
from moeviz.core.run import MISS, Run
from moeviz.core.trace import Trace
from moeviz.files.importers import IMPORTERS

hypothesis.settings.register_profile(  # a busy machine is no fault of what is tested
    "moeviz",
    deadline=None,
    suppress_health_check=[hypothesis.HealthCheck.too_slow],
    derandomize=bool(os.environ.get("CI")),  # there a failure is the change's own, and comes again
)
hypothesis.settings.load_profile("moeviz")
if signal.getsignal(signal.SIGINT) == signal.SIG_IGN:  # in a shell's background; tests of ^C need it
    signal.signal(signal.SIGINT, signal.default_int_handler)


@pytest.fixture(autouse=True, scope="session")
def _one_thread_and_own_cache(tmp_path_factory: pytest.TempPathFactory) -> None:
    """Two torch threads on two busy cores fight; packed experts of tests do not belong in the user's
    cache."""
    os.environ["MOEVIZ_CACHE"] = str(tmp_path_factory.mktemp("cache"))
    os.environ["MOEVIZ_DATA"] = str(tmp_path_factory.mktemp("data"))
    import torch

    torch.set_num_threads(1)


@pytest.fixture(autouse=True, scope="module")
def _registries_as_they_were() -> Iterator[None]:
    """What a file of tests registers of its own is not there for the next: it counts what there is."""
    registries: list[dict[str, Any]] = [POLICIES, PREDICTORS, IMPORTERS]  # type: ignore[list-item]
    before = [dict(one) for one in registries]
    yield
    for registry, own in zip(registries, before, strict=True):
        registry.clear()
        registry.update(own)


@pytest.fixture(scope="session")
def app(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """Address of the app's own server, which all tests with a browser share: each is a visitor of its own."""
    with serving(tmp_path_factory.mktemp("data")) as address:
        yield address


@pytest.fixture
def plain_main(monkeypatch: pytest.MonkeyPatch) -> None:
    """A new process runs the main module's file again, and AppTest leaves the app in that place."""
    monkeypatch.setitem(sys.modules, "__main__", ModuleType("__main__"))


def in_step(*several: Sequence[str]) -> list[tuple[str, ...]]:
    """As many combinations as the longest list has values: each value of each list is in one at least.

    For what costs a run of a model each time. All combinations are replayed, which costs little, elsewhere.
    """
    return [tuple(one[n % len(one)] for one in several) for n in range(max(map(len, several)))]


class Told(NamedTuple):
    """One event of a run, read row by row, as a check of what reads the columns."""

    layer: int
    hits: list[int]
    misses: list[int]
    loads: list[
        tuple[int, int, int, int, int, bool]
    ]  # layer, expert, slot, victim's layer, victim, speculative


def told(run: Run) -> list[list[Told]]:
    """The events of each forward pass."""
    passes: list[list[Told]] = [[] for _ in run.passes.phase]
    for step, layer in zip(run.events.forward_pass, run.events.layer, strict=True):
        passes[step].append(Told(int(layer), [], [], []))
    events = [event for events in passes for event in events]
    for at, expert, outcome in zip(
        run.accesses.event, run.accesses.expert, run.accesses.outcome, strict=True
    ):
        (events[at].misses if outcome == MISS else events[at].hits).append(int(expert))
    rows = run.loads
    for at, *place, guessed in zip(
        rows.event,
        rows.layer,
        rows.expert,
        rows.slot,
        rows.victim_layer,
        rows.victim_expert,
        rows.speculative,
        strict=True,
    ):
        events[at].loads.append((*map(int, place), bool(guessed)))
    return passes


def make_trace(
    events: Sequence[Sequence[Sequence[int]]], experts: int = 8, guess: Any = None, weights: Any = None
) -> Trace:
    """A decode trace. events: [token, layer, rank]"""
    chosen = np.array(events, np.int16)
    tokens, layers, k = chosen.shape
    falling = np.broadcast_to(np.linspace(0.9, 0.1, k, dtype=np.float32), chosen.shape)
    return Trace(
        experts=chosen,
        weights=np.array(weights, np.float32) if weights is not None else falling.copy(),
        token_ids=np.arange(tokens, dtype=np.int32),
        phase=np.ones(tokens, np.uint8),
        forward_pass=np.arange(tokens, dtype=np.int32),
        guess=np.array(guess, np.int16)
        if guess is not None
        else np.full((tokens, layers, 0, 0), -1, np.int16),
        num_experts=experts,
        texts=tuple(f"t{i}" for i in range(tokens)),
        expert_bytes=1_000,
    )


def random_trace(
    seed: int,
    tokens: int = 40,
    layers: int = 3,
    experts: int = 8,
    k: int = 2,
    prompt: int = 5,
    lookaheads: int = 3,
) -> Trace:
    """Skewed routing with a prefill pass and guesses that are right about half the time."""
    rng = np.random.default_rng(seed)
    skew = rng.dirichlet(np.full(experts, 0.6), size=layers)
    chosen = np.array(
        [
            [
                rng.choice(experts, k, replace=False, p=skew[layer] * 0.9 + 0.1 / experts)
                for layer in range(layers)
            ]
            for _ in range(tokens)
        ],
        np.int16,
    )
    weights = -np.sort(-rng.random((tokens, layers, k)).astype(np.float32), axis=2)
    guess = np.full((tokens, layers, lookaheads, 2 * k), -1, np.int16)
    probability = np.zeros(guess.shape, np.float16)
    for layer in range(layers):
        for d in range(1, min(lookaheads, layer) + 1):
            for token in range(tokens):
                order = rng.permutation(experts)
                if rng.random() < 0.5:
                    own = chosen[token, layer]
                    order = np.concatenate([own, np.setdiff1d(order, own)])
                guess[token, layer, d - 1] = order[: 2 * k]
                probability[token, layer, d - 1] = -np.sort(-rng.dirichlet(np.ones(experts)))[: 2 * k]
    return Trace(
        experts=chosen,
        weights=weights,
        token_ids=rng.integers(0, 99, tokens).astype(np.int32),
        phase=(np.arange(tokens) >= prompt).astype(np.uint8),
        forward_pass=np.maximum(np.arange(tokens) - prompt + 1, 0).astype(np.int32),
        guess=guess,
        guess_probability=probability,
        num_experts=experts,
        texts=tuple("x" for _ in range(tokens)),
        expert_bytes=1_000,
    )


@pytest.fixture(scope="session")
def tiny_model(tmp_path_factory: pytest.TempPathFactory) -> Callable[[str], Path]:
    """Makes a random model of an architecture, 2 or 3 layers x 8 experts, and gives its folder."""
    made: dict[str, Path] = {}

    def make(name: str) -> Path:
        if name not in made:
            made[name] = _save_tiny(name, tmp_path_factory.mktemp(name))
        return made[name]

    return make


ARCHITECTURES = (
    "mixtral",
    "qwen2_moe",
    "qwen3_moe",
    "olmoe",
    "gpt_oss",
    "deepseek_v3",
    "granitemoe",
    "phimoe",
)


def _save_tiny(name: str, folder: Path) -> Path:
    import torch
    import transformers as t

    common = {
        "vocab_size": 128,
        "hidden_size": 32,
        "intermediate_size": 48,
        "num_hidden_layers": 3,
        "num_attention_heads": 4,
        "num_key_value_heads": 2,
        "max_position_embeddings": 256,
        "bos_token_id": None,
        "eos_token_id": None,
        "pad_token_id": None,
    }
    configs: dict[str, Callable[[], Any]] = {
        "mixtral": lambda: t.MixtralConfig(**common, num_local_experts=8, num_experts_per_tok=2),
        "qwen2_moe": lambda: t.Qwen2MoeConfig(
            **common,
            num_experts=8,
            num_experts_per_tok=4,
            moe_intermediate_size=24,
            shared_expert_intermediate_size=40,
        ),
        "qwen3_moe": lambda: t.Qwen3MoeConfig(
            **common, head_dim=8, num_experts=8, num_experts_per_tok=4, moe_intermediate_size=24
        ),
        "olmoe": lambda: t.OlmoeConfig(**common, num_experts=8, num_experts_per_tok=4),
        "gpt_oss": lambda: t.GptOssConfig(
            **common, head_dim=8, num_local_experts=8, num_experts_per_tok=4, sliding_window=64
        ),
        "deepseek_v3": lambda: t.DeepseekV3Config(
            **(common | {"num_key_value_heads": 4, "num_hidden_layers": 4}),
            n_routed_experts=8,
            num_experts_per_tok=2,
            moe_intermediate_size=24,
            first_k_dense_replace=1,
            n_group=2,
            topk_group=1,
            kv_lora_rank=16,
            q_lora_rank=16,
            qk_rope_head_dim=8,
            qk_nope_head_dim=8,
            v_head_dim=8,
            n_shared_experts=1,
        ),
        "granitemoe": lambda: t.GraniteMoeConfig(**common, num_local_experts=8, num_experts_per_tok=2),
        "phimoe": lambda: t.PhimoeConfig(**common, num_local_experts=8, num_experts_per_tok=2),
        "llama": lambda: t.LlamaConfig(**common),
    }
    torch.manual_seed(7)
    model = t.AutoModelForCausalLM.from_config(configs[name]())
    for parameter in model.parameters():
        torch.nn.init.normal_(parameter, std=0.2)
    model.save_pretrained(folder)
    letters = {chr(33 + n): n for n in range(90)}
    from tokenizers import Tokenizer, models, pre_tokenizers

    tokenizer = Tokenizer(models.WordLevel(letters | {"?": 90}, unk_token="?"))
    tokenizer.pre_tokenizer = pre_tokenizers.Split("", "isolated")
    t.PreTrainedTokenizerFast(tokenizer_object=tokenizer, unk_token="?").save_pretrained(folder)
    return folder


def odd_traces() -> dict[str, Trace]:
    """What a trace may lack or hold that the bundled model's traces do not, by name; each has to be shown all
    the same.
    """
    full = random_trace(7, tokens=30)
    short = full.experts.copy()
    short[3:9, 1, 1] = -1
    short[4] = -1  # a token that no layer routes
    short[10:20, 2] = -1  # a layer without any event in these passes
    plain = replace(full, expert_bytes=0, weights=None, token_ids=None, texts=("",) * full.tokens)
    none = np.full((full.tokens, full.layers, 0, 0), -1, np.int16)
    of_two = (np.arange(full.tokens) % 2).astype(np.int16)
    return {
        "full": full,
        "no weights": replace(full, weights=None),
        "no guesses": replace(full, guess=none, guess_probability=None),
        "no texts": replace(full, texts=("",) * full.tokens),
        "no sizes": replace(full, expert_bytes=0),
        "sizes by layer": replace(full, expert_bytes=(1_000, 2_000, 3_000)),
        "unused places": replace(full, experts=short, weights=np.where(short < 0, 0, full.weights)),
        "two sequences": replace(full, sequence=of_two),
        "nothing but the experts": replace(plain, guess=none, guess_probability=None),
        "prompt alone": replace(
            full, phase=np.zeros(full.tokens, np.uint8), forward_pass=np.zeros(full.tokens, np.int32)
        ),
        "one layer of one pass": random_trace(8, tokens=1, layers=1, prompt=0),
    }


def ragged_trace(seed: int) -> Trace:
    """Not rectangular: -1 places, events without experts, several sequences and tokens a pass, perhaps no
    weights, sizes by layer."""
    rng = np.random.default_rng(seed)
    layers, experts, k = int(rng.integers(1, 4)), int(rng.integers(4, 10)), int(rng.integers(1, 4))
    tokens = int(rng.integers(4, 30))
    lively = rng.random(layers) * 0.9 + 0.1  # a layer may be left out by many tokens
    chosen = np.full((tokens, layers, k), -1, np.int16)
    for token in range(tokens):
        for layer in range(layers):
            count = int(rng.integers(1, k + 1)) if rng.random() < lively[layer] else 0
            chosen[token, layer, :count] = rng.permutation(experts)[:count]
    if (chosen < 0).all():
        chosen[0, 0, 0] = 0
    weights = np.where(chosen >= 0, -np.sort(-rng.random(chosen.shape), axis=2), 0).astype(np.float32)
    prompt = int(rng.integers(0, tokens))
    joined = rng.random(tokens) < 0.3
    joined[prompt] = False
    return Trace(
        experts=chosen,
        weights=None if seed % 4 == 0 else weights,
        token_ids=None,
        phase=(np.arange(tokens) >= prompt).astype(np.uint8),
        forward_pass=np.cumsum(~joined).astype(np.int32),
        guess=np.full((tokens, layers, 0, 0), -1, np.int16),
        num_experts=experts,
        texts=("",) * tokens,
        expert_bytes=tuple(int(size) for size in rng.integers(1, 4, layers) * 100),
        sequence=rng.integers(0, 3, tokens).astype(np.int16) if seed % 3 else None,
    )


def check_books(trace: Trace, run: Run) -> None:
    """Residency followed load by load agrees with every outcome and never exceeds the slots, or the bytes."""
    shared = run.settings.scope == "model"
    room, number = run.room, 0
    leavers = run.leavers.rows()
    start = zip(run.start.layer.tolist(), run.start.expert.tolist(), run.start.slot.tolist(), strict=True)
    slots = {(0 if shared else layer, slot): (layer, expert) for layer, expert, slot in start}
    for tokens, events in zip(trace.passes(), told(run), strict=True):
        for event in events:
            need = set(trace.experts[tokens, event.layer].ravel().tolist()) - {-1}
            resident = {key[1] for key in slots.values() if key[0] == event.layer}
            assert sorted(event.hits + event.misses) == sorted(need)
            if not run.settings.one_by_one:
                assert set(event.hits) == need & resident
            for layer, expert, slot, victim_layer, victim, speculative in event.loads:
                place = (0 if shared else layer, slot)
                assert slots.get(place, (-1, -1)) == (victim_layer, victim)
                assert (layer, expert) not in slots.values()
                assert speculative == (layer != event.layer)
                while leavers and leavers[0][0] == number:
                    _, *left = leavers.pop(0)
                    del slots[next(place for place, key in slots.items() if key == tuple(left))]
                number += 1
                slots[place] = (layer, expert)
                assert 0 <= slot < room.limits[place[0]]
                if room.bytes:
                    assert sum(int(run.layer_bytes[key[0]]) for key in slots.values()) <= room.bytes
            assert {load[1] for load in event.loads if not load[5]} >= set(event.misses)


@pytest.fixture
def same_again(tmp_path: Path) -> Iterator[str]:
    """A predictor of a user's own file, as `path.py:name`: what the latest event used."""
    path = tmp_path / "mine.py"
    path.write_text(
        "from moeviz.policies import predictor\n\n\n@predictor('same-again')\nclass SameAgain:\n"
        "    def __init__(self, context): self.last = []\n"
        "    def observe(self, layer, chosen): self.last = [one for one in chosen[-1] if one >= 0]\n"
        "    def guess(self, layer, routers, width): return self.last[:width]\n"
    )
    name = f"{path}:same-again"
    yield name
    PREDICTORS.pop(name, None)

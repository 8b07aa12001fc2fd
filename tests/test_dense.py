"""What stands in for modules of a model's dense part: the same bits, and the model's own modules back."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import nn
from torch.nn.functional import linear

from moeviz.core.settings import Settings
from moeviz.engine import dense as dense_module
from moeviz.engine import exactness
from moeviz.engine import experts as experts_module
from moeviz.engine.bits import alike, exact_zeros, same_bits
from moeviz.engine.dense import Dense, same_inputs
from moeviz.engine.experts import Together
from moeviz.engine.loader import load
from moeviz.engine.rows import Rows
from moeviz.engine.session import Options, generate
from moeviz.engine.sources import own

PROMPT = "How many experts?"
GREEDY = Options(max_new_tokens=5, temperature=0.0, stop_at_end=False)
DTYPES = pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])


class _Norm(nn.Module):
    """As most models of transformers have it."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.randn(width))
        self.epsilon = 1e-3

    def forward(self, hidden: torch.Tensor) -> torch.Tensor:
        wide = hidden.to(torch.float32)
        wide = wide * torch.rsqrt(wide.pow(2).mean(-1, keepdim=True) + self.epsilon)
        return self.weight * wide.to(hidden.dtype)


class _Gated(_Norm):
    """As some have it that are given a gate too."""

    def forward(self, hidden: torch.Tensor, gate: Any = None) -> torch.Tensor:
        return super().forward(hidden if gate is None else hidden * gate)


class _Centred(_Norm):
    def forward(self, hidden: torch.Tensor) -> torch.Tensor:
        return hidden + super().forward(hidden)


class _Attention(nn.Module):
    """Three products of one input and one of what comes of them; `changes`: the input between them."""

    def __init__(self, width: int, changes: bool = False) -> None:
        super().__init__()
        self.norm, self.gated, self.centred = _Norm(width), _Gated(width), _Centred(width)
        self.q, self.k, self.v, self.o = (nn.Linear(width, width, bias=False) for _ in range(4))
        self.biased = nn.Linear(width, width)
        self.changes = changes

    def forward(self, hidden: torch.Tensor) -> torch.Tensor:
        hidden = self.gated(self.norm(hidden), hidden)
        q = self.q(hidden)
        if self.changes:
            hidden += 1
        return self.centred(self.biased(self.o(q + self.k(hidden) * self.v(hidden))))


def _model(dtype: torch.dtype, changes: bool = False) -> tuple[nn.Module, Dense, list[torch.Tensor]]:
    """A model, what stands in for its modules, and inputs of one row and of several."""
    torch.manual_seed(0)
    model = _Attention(64, changes).to(dtype).eval()
    own(model, in_pages=True)
    inputs = [torch.randn(shape).to(dtype) for shape in ((1, 1, 64), (1, 1, 64), (1, 5, 64))]
    with torch.inference_mode(), same_inputs(model) as together:
        model(inputs[-1].clone())
    return model, Dense(model, together), inputs


@DTYPES
@pytest.mark.parametrize("changes", [False, True])
def test_stand_ins_give_the_bits_of_the_modules(dtype: torch.dtype, changes: bool) -> None:
    model, dense, inputs = _model(dtype, changes)
    with torch.inference_mode():
        expected = [model(one.clone()) for one in inputs]
        dense.begin()
        found = [model(one.clone()) for one in inputs]
        dense.end()
    assert all(torch.equal(a, b) for a, b in zip(found, expected, strict=True))
    names = {name for name, module in model.named_modules() if module in dense.stand_ins}
    assert names == {"q", "k", "v", "o", "norm"}  # not with a bias, nor another norm


def test_neighbours_are_one_product_only_for_the_same_tensor() -> None:
    model, dense, (row, other, _) = _model(torch.float32)
    assert isinstance(model, _Attention)
    with torch.inference_mode():
        first, second = (dense.stand_ins[one] for one in (model.q, model.k))
        together = first(row)
        assert together.untyped_storage().nbytes() == 3 * together.nbytes
        assert torch.equal(second(other), model.k(other))  # not what was computed for `row`
        assert torch.equal(second(row), model.k(row))


@DTYPES
def test_a_row_with_gaps_is_multiplied_by_the_module(dtype: torch.dtype) -> None:
    model, dense, _ = _model(dtype)
    assert isinstance(model, _Attention)
    matrix, vector = exact_zeros(64, 64, dtype, torch.Generator().manual_seed(1))
    row = torch.stack([vector, vector], -1)[None, None, :, 0]
    with torch.inference_mode():
        for one in (model.q, model.k, model.v, model.o):
            one.weight.copy_(matrix)
            assert torch.equal(dense.stand_ins[one](row), one(row))


def test_the_experts_of_a_token_whose_row_has_gaps_are_computed_as_the_model_computes_them(
    tiny_model: Callable[[str], Path],
) -> None:
    loaded = load(tiny_model("mixtral"), tier="host", device="cpu", dtype="bfloat16")
    ids, weights = np.array([[3, 1]]), torch.tensor([[0.75, 0.25]])
    for hidden, alone in ((torch.randn(1, 64), [3, 1]), (torch.randn(1, 128)[:, ::2], [])):
        rows = Rows(loaded.hardware, hidden, weights, ids, weights.numpy())
        assert rows.one_token == alone
        assert rows.chosen == [[3, 1]]


def test_stand_ins_are_chosen_for_the_threads_of_the_run(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(dense_module, "alike", lambda *kind: torch.get_num_threads() == 1)
    model, dense, _ = _model(torch.float32)
    assert any(isinstance(one, nn.Linear) for one in dense.stand_ins)
    torch.set_num_threads(2)
    try:
        dense.begin()
        assert not any(isinstance(one, nn.Linear) for one in dense.stand_ins)
        assert vars(model)["q"] is model.q
    finally:
        torch.set_num_threads(1)
        dense.end()


def test_a_model_has_its_own_modules_back_when_a_run_is_over() -> None:
    model, dense, _ = _model(torch.float32)
    before = {name: dict(vars(module)) for name, module in model.named_modules()}
    heard: list[nn.Module] = []
    hook = model.o.register_forward_hook(lambda module, *_: heard.append(module))  # type: ignore[union-attr]
    dense.begin()
    assert vars(model) != before[""]
    with torch.inference_mode():
        model(torch.randn(1, 1, 64))
    assert heard == [model.o]  # a module that is listened to is called itself
    dense.end()
    hook.remove()
    assert {name: dict(vars(module)) for name, module in model.named_modules()} == before


@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
@pytest.mark.parametrize("name", ["qwen3_moe", "gpt_oss"])  # the second has biases
def test_a_run_is_the_same_with_and_without(name: str, dtype: str, tiny_model: Callable[[str], Path]) -> None:
    loaded = load(tiny_model(name), tier="host", device="cpu", dtype=dtype)
    assert loaded.dense.stand_ins
    with exactness.logits_seen(loaded) as seen:
        for one in (loaded, replace(loaded, dense=Dense(nn.Module(), []))):
            list(generate(one, PROMPT, Settings(slots=loaded.k + 1), GREEDY))
    assert seen[: len(seen) // 2] == seen[len(seen) // 2 :]


def test_rows_are_multiplied_where_vectors_would_have_other_bits(
    tiny_model: Callable[[str], Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = tiny_model("mixtral")
    as_vectors = load(folder, tier="host", device="cpu", dtype="bfloat16")
    for module in (dense_module, experts_module):
        monkeypatch.setattr(module, "alike", lambda *kind: False)
    as_rows = load(folder, tier="host", device="cpu", dtype="bfloat16")
    assert as_rows.recipe.together is Together
    assert not any(isinstance(one, nn.Linear) for one in as_rows.dense.stand_ins)
    seen = []
    for one in (as_vectors, as_rows):
        with exactness.logits_seen(one) as logits:
            list(generate(one, PROMPT, Settings(slots=one.k), GREEDY))
        seen.append(logits)
    assert seen[0] == seen[1]


@DTYPES
def test_another_order_of_the_same_sum_shows(dtype: torch.dtype) -> None:
    generator = torch.Generator().manual_seed(0)
    matrix, vector = exact_zeros(64, 258, dtype, generator)
    wide, row = matrix.double(), vector.double()
    assert not (wide @ row).abs().max() > 1e-9
    there = sum((wide[:, n] * row[n]).float() for n in range(258))
    back = sum((wide[:, n] * row[n]).float() for n in reversed(range(258)))
    assert (there.to(dtype) != back.to(dtype)).float().mean() > 0.3  # type: ignore[union-attr]
    assert alike((64,), 258, dtype) == torch.equal(torch.mv(matrix, vector), linear(vector[None], matrix)[0])


@DTYPES
@pytest.mark.parametrize("rows", [(32,), (64, 32), (33, 31)])
def test_ways_that_differ_in_tiny_and_huge_numbers_are_not_alike(
    rows: tuple[int, ...], dtype: torch.dtype
) -> None:
    generator = torch.Generator().manual_seed(1)
    matrix, row = (torch.randn(n, 64, generator=generator).to(dtype) for n in (sum(rows), 1))
    kinds = (row * torch.finfo(dtype).tiny, row * torch.finfo(dtype).max / 8, row * 0)
    with torch.inference_mode():
        equal = [
            same_bits(torch.mv(matrix, one[0]), torch.cat([linear(one, m)[0] for m in matrix.split(rows)]))
            for one in kinds
        ]
    assert all(equal) or not alike(rows, 64, dtype)


def test_bits_are_more_than_equality() -> None:
    zero, none = torch.tensor([0.0]), torch.tensor([float("nan")])
    assert same_bits(zero, zero)
    assert same_bits(none, -none)
    assert not same_bits(zero, -zero)
    assert not same_bits(zero, none)


def test_what_is_too_large_to_try_keeps_its_own_way() -> None:
    assert not alike((2**20,), 2**10, torch.bfloat16)

"""A model without values is the one that is made without the short way."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from moeviz.engine.bare import sooner


class Model(nn.Module):
    def __init__(self, mixes: bool) -> None:
        super().__init__()
        self.words = nn.Embedding(4, 3)  # drawn
        self.frequencies = nn.Buffer(1.0 / torch.arange(1, 4))
        if mixes:
            self.both = nn.Buffer(torch.cat([self.frequencies, torch.zeros(2)]))


def about(model: nn.Module) -> dict[str, tuple[torch.Size, torch.dtype]]:
    return {name: (tensor.shape, tensor.dtype) for name, tensor in model.state_dict().items()}


@pytest.mark.parametrize("mixes", [False, True])  # a range on the host with a tensor that has no values
def test_a_model_has_the_tensors_that_it_would_have(mixes: bool) -> None:
    with torch.device("meta"):
        model, expected = sooner(lambda: Model(mixes)), Model(mixes)
    assert about(model) == about(expected)
    assert model.words.weight.is_meta
    assert model.frequencies.is_meta == mixes


def test_what_is_drawn_outside_has_values() -> None:
    torch.manual_seed(0)
    drawn = sooner(lambda: nn.Embedding(4, 3)).weight
    torch.manual_seed(0)
    assert torch.equal(drawn, nn.Embedding(4, 3).weight)


def test_what_cannot_be_made_at_all_is_told_as_ever() -> None:
    with pytest.raises(RuntimeError, match="size"):
        sooner(lambda: torch.ones(2) + torch.ones(3))

"""The tokens of one event: which experts they need, what each expert is given, and the sum of what they give
back.

Knows neither caches nor slots.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from moeviz.engine.hardware import Hardware
from moeviz.errors import ModelError


class Rows:
    """`chosen`, `strengths`: [token, rank], strongest first, equal ones by lower id.

    hidden: [token, hidden] and weights: [token, k] where experts are computed; ids, strengths: [token, k] the
    choice and its weights on the host.
    """

    def __init__(
        self,
        hardware: Hardware,
        hidden: torch.Tensor,
        weights: torch.Tensor,
        ids: NDArray[Any],
        strengths: NDArray[Any],
    ) -> None:
        self.hidden, self.weights, self.ids = hidden, weights, ids
        # The experts of a single token in the order of its weights' columns, where its row stands in one
        # piece: kernels may add up one that does not in another order.
        self.one_token: list[int] = []
        self.chosen: list[list[int]]
        self.strengths: list[list[float]]
        self._columns: dict[int, torch.Tensor] | None = None
        if len(ids) == 1 and self._one_token(ids[0].tolist(), strengths[0].tolist()):
            return
        order = np.lexsort((ids, -strengths), axis=1)
        self.chosen = np.take_along_axis(ids, order, 1).tolist()
        self.strengths = np.take_along_axis(strengths, order, 1).tolist()
        # The rows of each expert stand together, in the order of the eager code: by rank, then by token.
        flat = ids.T.ravel()
        order = np.argsort(flat, kind="stable")
        experts, begins = np.unique(flat[order], return_index=True)
        rank, token = np.divmod(order, len(ids))
        self._token, self._rank = hardware.upload(np.stack([token, rank]))
        ends = [*begins[1:].tolist(), len(flat)]
        self._slices = {
            expert: slice(begin, end)
            for expert, begin, end in zip(experts.tolist(), begins.tolist(), ends, strict=True)
        }
        self.needed = self._slices.keys()

    def of_tokens(self, real: Sequence[int] | None) -> tuple[list[list[int]], list[list[float]]]:
        """`chosen` and `strengths` of the rows that are no padding; None: of all. Raises ModelError where a
        layer is not given the rows of the batch."""
        if real is None:
            return self.chosen, self.strengths
        if real[-1] != len(self.chosen) - 1:  # padding is on the left, so the last row is a token
            raise ModelError(
                f"A layer was given {len(self.chosen)} rows of a batch with others, so its tokens cannot "
                "be told from padding. Give one prompt at a time."
            )
        return [self.chosen[row] for row in real], [self.strengths[row] for row in real]

    def _one_token(self, ids: list[int], strengths: list[float]) -> bool:
        """The short way of a single token, which needs no search; False where it names an expert twice."""
        if len(set(ids)) < len(ids):
            return False
        pairs = sorted(zip([-strength for strength in strengths], ids, strict=True))
        self.chosen = [[expert for _, expert in pairs]]
        self.strengths = [[-strength for strength, _ in pairs]]
        self.one_token = ids if self.hidden.is_contiguous() else []
        self._columns = dict(zip(ids, self.weights.unbind(1), strict=True))
        self.needed = self._columns.keys()
        return True

    def of(self, expert: int) -> tuple[torch.Tensor, torch.Tensor]:
        """What an expert is given: hidden states [n, hidden] and router weights, [n, 1] or [1], of its
        tokens.
        """
        if self._columns is not None:
            return self.hidden, self._columns[expert]
        own = self._slices[expert]
        token = self._token[own]
        return self.hidden[token], self.weights[token, self._rank[own], None]

    def add(self, parts: dict[int, torch.Tensor], dtype: torch.dtype) -> torch.Tensor:
        """The sum of the contributions of each expert, [token, hidden].

        In id order, whatever the slot or the wave: the resident model adds in that order, and sums of floats
        depend on it.
        """
        if self._columns is not None:
            first, *others = sorted(parts)
            total = parts[first]
            if total.dtype != dtype:
                total = total.to(dtype)
            for expert in others:
                part = parts[expert]
                total = total + (part if part.dtype == dtype else part.to(dtype))
            return total if dtype == self.hidden.dtype else total.to(self.hidden.dtype)
        total = torch.zeros_like(self.hidden, dtype=dtype)
        for expert in sorted(parts):
            total.index_add_(0, self._token[self._slices[expert]], parts[expert].to(dtype))
        return total.to(self.hidden.dtype)

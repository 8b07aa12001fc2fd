"""Routes of tools that log each call of a layer with all its tokens, and count neither passes nor requests.

calls = Calls(source)
calls.add("call 1", layer=0, rows=[[4, 7], [1, 2]])
return finish(source, options, calls.routed(), "mbolt")
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from moeviz.files.importers.collect import Routes
from moeviz.files.importers.routed import Routed
from moeviz.files.importers.source import Source


class Calls:
    """Routes of tools that log each call of a layer with all its tokens, and count neither passes nor
    requests.

    A pass ends where a layer comes again. A layer with fewer tokens than the others of its pass has the last
    ones: llama.cpp computes only those in the last layer whose output is wanted.
    """

    def __init__(self, source: Source) -> None:
        self._source, self._routes = source, Routes(source)
        self._pass: dict[int, list[tuple[list[int], list[float] | None]]] = {}
        self._place, self._number, self._tokens, self._last = "", 0, 0, -1

    def add(
        self,
        place: str,
        layer: int,
        rows: Sequence[Sequence[int]],
        weights: Sequence[list[float]] | None = None,
    ) -> None:
        """One call: what each of its tokens chose. Raises TraceError."""
        if layer in self._pass:
            self._end()
        self._place, self._last = place, layer
        self._pass[layer] = [
            (list(row), None if weights is None else weights[number]) for number, row in enumerate(rows)
        ]

    def row(self, place: str, layer: int, ids: list[int], weights: list[float] | None) -> None:
        """One token of a log that has a row for each: rows of one layer that follow each other are one call.
        Raises TraceError.
        """
        if layer == self._last and layer in self._pass:
            self._pass[layer].append((ids, weights))
        else:
            self.add(place, layer, [ids], None if weights is None else [weights])

    def _end(self) -> None:
        tokens = max((len(rows) for rows in self._pass.values()), default=0)
        for layer, rows in self._pass.items():
            for number, (ids, weights) in enumerate(rows, self._tokens + tokens - len(rows)):
                self._routes.add(self._place, "", number, layer, ids, weights, step=self._number)
        self._number += 1
        self._tokens += tokens
        self._pass = {}

    def routed(self, **others: Any) -> Routed:
        """The choices of all calls that were added, as tokens in order. Raises TraceError."""
        if self._number == 0 and len(self._pass) == 1:  # one layer only: no call can be told from the next
            ((layer, rows),) = self._pass.items()
            for ids, weights in rows:
                self._pass = {layer: [(ids, weights)]}
                self._end()
        self._end()
        return self._routes.routed(**others)

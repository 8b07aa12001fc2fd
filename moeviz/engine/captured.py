"""What a captured model was seen to do: which token is whose, what is no routing of the text, and the Trace
that comes of it. `moeviz.engine.capture` tells it of every call.

Left out, and said in `Captured.report`: padding, by the attention mask; prefixes that are computed again
because there is no cache; in a loop of your own, drafts that were taken back from the cache.
"""

from __future__ import annotations

import inspect
import re
from dataclasses import dataclass, field
from itertools import chain
from typing import Any

import numpy as np
import torch
import transformers
from numpy.typing import NDArray
from torch import nn

from moeviz.core.trace import DECODE, PREFILL, Trace
from moeviz.engine.experts import stacked
from moeviz.engine.probe import is_experts
from moeviz.errors import ModelError
from moeviz.words import many

_NUMBER = re.compile(r"\.(\d+)\.")
_PACKED = (
    "capture cannot tell apart texts that are packed in one row, as generate_batch does. Generate with "
    "generate(), which takes a padded batch."
)


@dataclass(slots=True)
class _Row:
    """One sequence of the batch that runs now."""

    sequence: int
    # that entered so far, padding included; -1 where only embeddings did
    ids: list[int] = field(default_factory=list)
    ended: bool = False  # its text is complete, and it is padded while others of its batch go on


@dataclass(slots=True)
class Generation:
    """The call of generate that runs now; without one, the user's own loop."""

    first: bool = False  # its first pass is still to come
    prompt: int = 0  # tokens that it was given, of the turns before too; a piece of them may be one
    ends: frozenset[int] = frozenset()  # tokens that end a text


@dataclass(slots=True)
class _Pass:
    """One forward pass: where its tokens are among all rows that the layers see, and what they are."""

    place: list[int]  # of each kept token in [batch x tokens]
    sequence: list[int]
    position: list[int]  # in the row, so that a rejected draft can be found again
    ids: list[int]
    phase: int
    rows: int  # batch x tokens
    chosen: dict[int, tuple[torch.Tensor, torch.Tensor]] = field(default_factory=dict)  # of each layer


class Captured:
    """Forward passes as they were seen."""

    def __init__(self, model: nn.Module, tokenizer: Any, verify: bool) -> None:
        self._model, self._tokenizer = model, tokenizer
        found = [(name, module) for name, module in model.named_modules() if is_experts(module)]
        self.modules = [module for _, module in found]
        self.blocks = [model.get_submodule(name.rpartition(".")[0]) for name, _ in found]
        self._layers = [
            int(m[1]) if (m := _NUMBER.search(f".{name}.")) else n for n, (name, _) in enumerate(found)
        ]
        self._passes: list[_Pass] = []
        self._now: _Pass | None = None
        self._rows: list[_Row] = []
        self._sequences = 0
        self._packed = False  # it was called with texts packed in one row
        self.generation = Generation()
        self._names = list(inspect.signature(model.forward).parameters)
        self._left: dict[str, int] = {}  # what was left out -> how many tokens
        self._logits: dict[int, torch.Tensor] = {}
        self._differ: dict[int, list[int]] = {}  # layer -> tokens that ran other experts, tokens compared
        self.verify = verify

    # what happened

    def begin_pass(self, module: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
        """The model was called. Raises ModelError where its sequences cannot be told."""
        kwargs = dict(zip(self._names, args, strict=False)) | kwargs if args else kwargs
        if kwargs.get("cu_seq_lens_q") is not None:
            self._packed = True  # generate_batch only logs what a pass of its thread raises
            raise ModelError(_PACKED)
        ids = kwargs.get("input_ids", args[0] if args else None)  # a wrapped forward names nothing
        given = ids if isinstance(ids, torch.Tensor) else kwargs.get("inputs_embeds")
        if not isinstance(given, torch.Tensor) or given.dim() < 2:
            raise ModelError(
                "capture needs input_ids or inputs_embeds [batch, tokens]; the model was called without."
            )
        batch, tokens = given.shape[:2]
        rows = ids.tolist() if given is ids else [[-1] * tokens for _ in range(batch)]
        cache = kwargs.get("past_key_values")
        past = int(cache.get_seq_length()) if hasattr(cache, "get_seq_length") else 0
        real = _real(kwargs.get("attention_mask"), batch, tokens, past)
        again = self._again(cache, rows, past)
        if again:
            self._count(
                "prefixes that were computed again, without a cache", sum(map(bool, chain(*real))) - batch
            )
        elif past == 0 or len(self._rows) != batch:
            if past:
                raise ModelError(
                    f"the model went on with {batch} sequences from {len(self._rows)}; capture tells "
                    "sequences apart only where a batch stays as it is. Run without beam search, and each "
                    "batch from its begin."
                )
            self._begin([[] for _ in rows])
        else:
            if self.generation.first and past < len(self._rows[0].ids):
                self._begin([row.ids[:past] for row in self._rows])  # further texts on one computed prefix
            self._take_back(past)
            for row in self._rows if self.generation.first else ():
                row.ended = False  # a further turn of its text, on the cache of the one before
        generation = self.generation
        given_now = past < max(generation.prompt, 1) or tokens > 1
        phase = PREFILL if given_now and not again else DECODE
        decodes = batch > 1 and not generation.first and (again or tokens == 1)
        generation.first = False
        self._now = _Pass([], [], [], [], phase, batch * tokens)
        for number, (row, own, keep) in enumerate(zip(self._rows, rows, real, strict=True)):
            first = tokens - 1 if again else 0
            row.ended = row.ended or (decodes and own[-1] in generation.ends)
            if row.ended:
                self._count("texts that had ended while others of their batch went on", tokens - first)
                row.ids += own[first:]
                continue
            for at in range(first, tokens):
                if keep[at]:
                    self._now.place.append(number * tokens + at)
                    self._now.sequence.append(row.sequence)
                    self._now.position.append(len(row.ids) + at - first)
                    self._now.ids.append(own[at])
                else:
                    self._count("padding", 1)
            row.ids += own[first:]

    def _again(self, cache: Any, rows: list[list[int]], past: int) -> bool:
        """True where each row is what it was, with one token more, and nothing was kept of the pass
        before.
        """
        if past or cache is not None or self.generation.first or len(self._rows) != len(rows):
            return False
        return all(row.ids and own[:-1] == row.ids for row, own in zip(self._rows, rows, strict=True))

    def _begin(self, prefixes: list[list[int]]) -> None:
        """New sequences, on what the cache holds of them."""
        self._rows = [_Row(self._sequences + n, ids) for n, ids in enumerate(prefixes)]
        self._sequences += len(prefixes)

    def _take_back(self, past: int) -> None:
        """Takes back the tokens beyond `past`, which the cache has dropped: drafts that were not accepted."""
        beyond = max(len(row.ids) for row in self._rows) - past
        if beyond <= 0:
            return
        numbers = {row.sequence for row in self._rows}
        for row in self._rows:
            del row.ids[past:]
        for one in reversed(self._passes):
            gone = [
                n
                for n, (s, p) in enumerate(zip(one.sequence, one.position, strict=True))
                if s in numbers and p >= past
            ]
            if not gone:
                break
            for n in reversed(gone):
                del one.place[n], one.sequence[n], one.position[n], one.ids[n]
            self._count("drafts that were taken back from the cache", len(gone))

    def _count(self, what: str, tokens: int) -> None:
        self._left[what] = self._left.get(what, 0) + tokens

    def take(self, number: int, index: torch.Tensor, weights: torch.Tensor) -> None:
        """A layer's experts are about to run."""
        if self._now is not None:
            own = weights.detach() if weights.requires_grad else weights
            self._now.chosen[number] = index.clone(), own.clone()

    def logits(self, number: int, output: Any) -> None:
        """What a module beside the experts gave; the first that has a number for each expert is the
        router's.
        """
        experts = _experts_of(self.modules[number])
        for one in output if isinstance(output, (tuple, list)) else (output,):
            if isinstance(one, torch.Tensor) and one.is_floating_point() and one.shape[-1] == experts:
                self._logits[number] = one.detach().reshape(-1, experts)
                return

    def end_pass(self, *_: Any) -> None:
        """The model has answered."""
        one, self._now = self._now, None
        if one is None or not one.place:
            return
        self._passes.append(one)
        if not self.verify:
            return
        for number, (index, _) in one.chosen.items():
            logits = self._logits.pop(number, None)
            if logits is None or len(logits) != len(index):
                continue
            highest = logits.topk(index.shape[1], dim=1).indices.sort(dim=1).values
            differs = (highest != index.sort(dim=1).values).any(1)[one.place]
            found = self._differ.setdefault(number, [0, 0])
            found[0] += int(differs.sum())
            found[1] += len(one.place)

    # what it comes to

    @property
    def report(self) -> list[str]:
        """What was left out, and what the check found, in words."""
        lines = [f"left out {many(count, 'token')} of {what}" for what, count in self._left.items()]
        if not self.verify:
            return lines
        for number, (differ, compared) in sorted(self._differ.items()):
            if differ:
                lines.append(
                    f"layer {self._layers[number]}: {differ:,} of {compared:,} tokens ran other experts "
                    "than the highest of the router's output: a bias, groups or a limit choose there, and "
                    "a plain top-k of it is wrong"
                )
        missing = len(self.modules) - len(self._differ)
        if missing:
            lines.append(
                f"{missing} layers could not be checked: nothing beside their experts gives a number for each"
            )
        elif not any(differ for differ, _ in self._differ.values()):
            lines.append("every token ran the highest experts of its routers' output")
        return lines

    def trace(self) -> Trace:
        """What was captured so far. Raises ModelError where that is nothing, or no text."""
        if self._packed:
            raise ModelError(_PACKED)
        passes = [one for one in self._passes if one.place and one.chosen]
        if not passes:
            raise ModelError("nothing was captured: the model was not called within the with block.")
        report = self.report
        k = max(index.shape[1] for one in passes for index, _ in one.chosen.values())
        parts = [self._laid_out(one, k, report) for one in passes]
        ids = np.array([token for one in passes for token in one.ids], np.int64)
        known = bool((ids >= 0).all())
        sequence = np.array([number for one in passes for number in one.sequence])
        counts = [len(one.place) for one in passes]
        chosen, strength = (np.concatenate([part[n] for part in parts]) for n in (0, 1))
        reached = np.flatnonzero((chosen >= 0).any((0, 2))).tolist()
        if len(reached) < len(self.modules):  # a vision tower's experts, where there was no picture
            report.append(
                f"left out {many(len(self.modules) - len(reached), 'experts module')} that no token reached"
            )
        if not reached:
            raise ModelError("nothing was captured: no token reached an experts module.")
        modules = [self.modules[number] for number in reached]
        experts = _experts_of(modules[0])
        sizes = tuple(
            sum(p.numel() * p.element_size() for p in stacked(module).values()) // experts
            for module in modules
        )
        prompt = passes[0].ids if known else []
        first = [
            token
            for token, own in zip(prompt, passes[0].sequence, strict=False)
            if own == passes[0].sequence[0]
        ]
        return Trace(
            experts=chosen[:, reached],
            weights=strength[:, reached],
            token_ids=ids.astype(np.int32) if known else None,
            phase=np.repeat(np.array([one.phase for one in passes], np.uint8), counts),
            forward_pass=np.repeat(np.arange(len(passes), dtype=np.int32), counts),
            guess=np.full((len(ids), len(modules), 0, 0), -1, np.int16),
            num_experts=experts,
            texts=tuple(self._text(token) for token in ids.tolist()),
            model=str(getattr(self._model, "name_or_path", "") or type(self._model).__name__),
            layer_indices=tuple(self._layers[number] for number in reached),
            expert_bytes=sizes[0] if len(set(sizes)) == 1 else sizes,
            prompt=self._tokenizer.decode(first) if self._tokenizer and known else "",
            recorded={"torch": torch.__version__, "transformers": transformers.__version__},
            sequence=sequence.astype(np.int16) if len(set(sequence.tolist())) > 1 else None,
            notes=tuple(dict.fromkeys(report)),
        )

    def _text(self, token: int) -> str:
        if token < 0:
            return ""
        return str(self._tokenizer.decode([token])) if self._tokenizer else f"{token} "

    def _laid_out(
        self, one: _Pass, k: int, report: list[str]
    ) -> tuple[NDArray[np.int16], NDArray[np.float32]]:
        """Experts and weights of a pass, strongest first. Both [token, layer, k]; -1 where a layer did not
        run for a token.
        """
        shape = (len(one.place), len(self.modules), k)
        ids, strength = np.full(shape, -1, np.int16), np.zeros(shape, np.float32)
        for number, (index, weights) in one.chosen.items():
            if len(index) != one.rows:
                report.append(
                    f"layer {self._layers[number]} ran for some tokens of a pass only; which is not said, "
                    "and it is left out there"
                )
                continue
            own, given = index.cpu().numpy(), weights.float().cpu().numpy()
            order = np.lexsort((own, -given), axis=1)
            width = own.shape[1]
            ids[:, number, :width] = np.take_along_axis(own, order, 1)[one.place]
            strength[:, number, :width] = np.take_along_axis(given, order, 1)[one.place]
        return ids, strength


def _real(mask: Any, batch: int, tokens: int, past: int) -> list[list[Any]]:
    """False or 0 for padding. [batch][tokens], from a mask [batch, past + tokens], or from one of who attends
    to whom, [batch, heads, tokens, past + tokens]: there a token of the text attends to itself.
    """
    if isinstance(mask, dict):  # one for each kind of attention
        mask = next((one for one in mask.values() if isinstance(one, torch.Tensor)), None)
    real = None
    if isinstance(mask, torch.Tensor) and mask.dim() == 2 and mask.shape[1] >= tokens:
        first = min(past, mask.shape[1] - tokens)
        real = mask[:, first : first + tokens]
    elif isinstance(mask, torch.Tensor) and mask.dim() == 4 and mask.shape[3] >= past + tokens:
        itself = mask[:, 0].diagonal(past, 1, 2)[:, :tokens]
        real = itself if itself.dtype == torch.bool else itself == 0
    if real is None or real.shape[1] != tokens:
        return [[True] * tokens for _ in range(batch)]
    return (real if len(real) == batch else real.expand(batch, -1)).tolist()


def _experts_of(module: nn.Module) -> int:
    return len(next(iter(stacked(module).values())))

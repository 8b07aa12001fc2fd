"""What the engine tells of a run: facts of the model, and a `PassRecord` for each forward pass.

Imports no torch.

A record carries the rows that are new, column by column, as the cache wrote them; nothing is said twice.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass, field
from typing import Any

import numpy as np

from moeviz import words
from moeviz.core.recorder import Recorder
from moeviz.core.run import Run, Tier
from moeviz.core.settings import Settings
from moeviz.core.trace import Trace

Prompt = str | Sequence[str]  # of one text, or of each text of a batch


def prompts_of(prompt: Prompt) -> list[str]:
    """The texts of a batch, or the one."""
    return [prompt] if isinstance(prompt, str) else list(prompt)


@dataclass(frozen=True, slots=True)
class ModelFacts:
    """What a trace and a page need to know of a loaded model."""

    name: str
    revision: str
    layer_indices: tuple[int, ...]  # of the MoE layers among the model's layers
    experts: int  # E
    k: int
    expert_bytes: int  # in a slot
    link_bytes: int  # that cross the link for one expert, where they are packed; 0: expert_bytes
    context: int  # tokens that fit
    device: str
    dtype: str
    tier: Tier
    versions: dict[str, str]  # of torch, transformers, moeviz, python; and the machine
    rounding: str = ""  # to which its experts are rounded; empty: none

    @property
    def layers(self) -> int:
        return len(self.layer_indices)

    def recorder(self, settings: Settings) -> Recorder:
        """For the rows of a run of this model that another process sends."""
        return Recorder(
            settings, self.layers, self.experts, self.k, self.expert_bytes, link_bytes=self.link_bytes
        )

    @classmethod
    def from_json(cls, values: dict[str, Any]) -> ModelFacts:
        return cls(
            **{
                **values,
                "tier": Tier.from_dict(values["tier"]),
                "layer_indices": tuple(values["layer_indices"]),
            }
        )


@dataclass(slots=True)
class PassRecord:
    """One forward pass: what went in, what the routers chose, what came out, and the new rows of the run's
    tables.
    """

    phase: int
    token_ids: list[int]
    texts: list[str]
    experts: list[list[list[int]]]  # [token, layer, rank]
    weights: list[list[list[float]]]
    guess: list[list[list[list[int]]]]  # [token, layer, lookahead, rank]
    guess_probability: list[list[list[list[float]]]]  # the same, rounded to float16
    rows: dict[str, list[int]]  # `Recorder.take`
    copies: list[tuple[int, int, int]] = field(
        default_factory=list
    )  # load, start and end in ns since the run began
    next_ids: list[int] = field(default_factory=list)  # the token that came out, of each prompt
    next_texts: list[str] = field(default_factory=list)
    sequence: list[int] = field(default_factory=list)  # the prompt that each token is of; empty: there is one

    @property
    def wall_ns(self) -> int:
        """Of the pass and the choice of its token."""
        return self.rows["times.pass_wall"][0]

    def add_to(self, recorder: Recorder) -> None:
        """Appends the pass to a run."""
        recorder.extend(self.rows)
        recorder.time_loads(self.copies)
        recorder.output_ids += self.next_ids

    def to_json(self) -> dict[str, Any]:
        return asdict(self)

    @classmethod
    def from_json(cls, values: dict[str, Any]) -> PassRecord:
        return cls(**values)


def recording(
    records: Sequence[PassRecord],
    facts: ModelFacts,
    settings: Settings,
    prompt: Prompt,
    seed: int,
    recorded_at: str,
) -> tuple[Trace, Run]:
    """Trace and measured Run of what was captured, whether or not the run came to its end. Each prompt of a
    batch is a request of the trace.

    Needs at least one pass.
    """
    recorder = facts.recorder(settings)
    for record in records:
        record.add_to(recorder)
    lengths = [len(record.token_ids) for record in records]
    tokens = sum(lengths)
    guess = np.array([row for record in records for row in record.guess], np.int16)
    probability = np.array([row for record in records for row in record.guess_probability], np.float16)
    trace = Trace(
        experts=np.array([row for record in records for row in record.experts], np.int16),
        weights=np.array([row for record in records for row in record.weights], np.float32),
        token_ids=np.array([token for record in records for token in record.token_ids], np.int32),
        phase=np.repeat(np.array([record.phase for record in records], np.uint8), lengths),
        forward_pass=np.repeat(np.arange(len(records), dtype=np.int32), lengths),
        guess=guess if guess.ndim == 4 else np.empty((tokens, facts.layers, 0, 0), np.int16),
        num_experts=facts.experts,
        texts=tuple(text for record in records for text in record.texts),
        model=facts.name,
        revision=facts.revision,
        layer_indices=facts.layer_indices,
        expert_bytes=facts.expert_bytes,
        link_bytes=facts.link_bytes,
        notes=(words.rounded(facts.rounding),) if facts.rounding else (),
        prompt="\n".join(prompts_of(prompt)),
        sequence=np.array([number for record in records for number in record.sequence], np.int16)
        if records[0].sequence
        else None,
        seed=seed,
        recorded={**facts.versions, "time": recorded_at},
        guess_probability=probability if guess.ndim == 4 and probability.shape == guess.shape else None,
    )
    return trace, recorder.run(facts.tier)

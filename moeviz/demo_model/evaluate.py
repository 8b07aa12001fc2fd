"""What the bundled model learned, on text held out from its training: loss and expert use of every domain.

Writes the model card's table and domains.json.

python -m moeviz.demo_model.evaluate          # prints the table and puts it into the card
"""

from __future__ import annotations

import json
import re
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from transformers import AutoModelForCausalLM, AutoTokenizer

from moeviz.core.oracle import DOMAIN_USE
from moeviz.demo_model import data
from moeviz.demo_model.train import CONTEXT, FOLDER, encode
from moeviz.files.moetrace import write_atomically

CARD = FOLDER / "README.md"
SEQUENCES = 32  # of CONTEXT tokens, per domain
WINDOW = 64  # tokens from whose expert use a domain is guessed


@dataclass(frozen=True, eq=False, slots=True)
class Domain:
    """One domain's held-out text, as the model sees it."""

    loss: float  # nats per token
    tokens: int
    chosen: NDArray[np.int64]  # [token, layer, k] experts

    def use(self) -> NDArray[np.float64]:
        """Share of a layer's choices that each expert got. [layer, expert]"""
        return histogram(self.chosen)


def histogram(chosen: NDArray[np.int64]) -> NDArray[np.float64]:
    """[token, layer, k] -> [layer, expert], each layer adding up to 1"""
    layers = chosen.shape[1]
    counts = np.stack([np.bincount(chosen[:, layer].ravel(), minlength=8) for layer in range(layers)])
    return np.asarray(counts / counts.sum(1, keepdims=True))


def evaluate() -> dict[str, Domain]:
    """Raises data.MissingText where the packages that hold the texts are not installed."""
    documents = data.load(held_out=True)
    tokenizer = AutoTokenizer.from_pretrained(FOLDER, trust_remote_code=False)
    model = AutoModelForCausalLM.from_pretrained(
        FOLDER, dtype=torch.float32, experts_implementation="eager", trust_remote_code=False
    ).eval()
    chosen: list[torch.Tensor] = []
    for layer in model.model.layers:
        layer.mlp.gate.register_forward_hook(lambda module, args, output: chosen.append(output[2]))
    domains = {}
    for name, texts in documents.items():
        ids = encode(tokenizer, texts)
        count = min(SEQUENCES, len(ids) // CONTEXT)
        at = np.linspace(0, len(ids) - CONTEXT, count).astype(int)  # spread over all that was held out
        rows = torch.from_numpy(np.stack([ids[a : a + CONTEXT] for a in at]).astype(np.int64))
        chosen.clear()
        with torch.inference_mode():
            losses = [model(input_ids=row, labels=row).loss.item() for row in rows.split(8)]
        per_layer = [torch.cat(chosen[n :: len(model.model.layers)]) for n in range(len(model.model.layers))]
        weights = [len(row) for row in rows.split(8)]
        domains[name] = Domain(
            float(np.average(losses, weights=weights)), rows.numel(), torch.stack(per_layer, 1).numpy()
        )
    return domains


def guessed_right(domains: dict[str, Domain]) -> float:
    """Share of windows of WINDOW held-out tokens whose domain is the one with the nearest mean expert use,
    the window left out of it.
    """
    windows = {
        name: np.stack([histogram(part) for part in np.split(domain.chosen, len(domain.chosen) // WINDOW)])
        for name, domain in domains.items()
    }
    right = total = 0
    for name, own in windows.items():
        for n, window in enumerate(own):
            centres = {other: rows.mean(0) for other, rows in windows.items()}
            centres[name] = np.delete(own, n, 0).mean(0)
            nearest = min(centres, key=lambda other: float(((centres[other] - window) ** 2).sum()))
            right += nearest == name
            total += 1
    return right / total


def table(domains: dict[str, Domain]) -> str:
    """Markdown: a line per domain."""
    lines = [
        "| domain | held-out loss (nats per token) | tokens | busiest expert of each layer (share) |",
        "| --- | --- | --- | --- |",
    ]
    for name, domain in domains.items():
        use = domain.use()
        busiest = ", ".join(
            f"{expert} ({share:.0%})" for expert, share in zip(use.argmax(1), use.max(1), strict=True)
        )
        lines.append(f"| {name} | {domain.loss:.3f} | {domain.tokens:,} | {busiest} |")
    return "\n".join(lines)


def card_losses() -> dict[str, float]:
    """Held-out loss per domain as the card states it."""
    rows = re.findall(r"^\| (\w+) \| ([\d.]+) \|", CARD.read_text(encoding="utf-8"), re.MULTILINE)
    return {name: float(loss) for name, loss in rows}


def main() -> None:
    torch.set_num_threads(1)
    domains = evaluate()
    lines = table(domains)
    print(lines)
    least = min(domain.use().min() for domain in domains.values())
    whole = np.mean([domain.use() for domain in domains.values()], axis=0)
    print(
        f"least used expert: {whole.min():.1%} of its layer's choices over all domains, "
        f"{least:.1%} in a domain"
    )
    print(f"domain guessed from {WINDOW} tokens' expert use: right in {guessed_right(domains):.1%}")
    shares = {name: np.round(domain.use(), 4).tolist() for name, domain in domains.items()}
    write_atomically(DOMAIN_USE, json.dumps(shares).encode())
    if CARD.exists():
        card = CARD.read_text(encoding="utf-8")
        CARD.write_text(
            re.sub(r"\| domain \| held-out.*?(?=\n\n)", lambda match: lines, card, flags=re.DOTALL),
            encoding="utf-8",
        )


if __name__ == "__main__":
    main()

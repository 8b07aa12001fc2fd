"""Trains the bundled model: a Mixtral of 8 layers x 8 experts, 21.5 M parameters, on five narrow domains.

Resumable, seeded, one thread by default. Needs the Debian packages that `moeviz.demo_model.data` names and
fetches nothing.

    python -m moeviz.demo_model.train --work /tmp/demo --minutes 90   # again to go on; writes the model
"""

from __future__ import annotations

import argparse
import json
import math
import os
import time
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from tokenizers import ByteLevelBPETokenizer
from transformers import MixtralConfig, MixtralForCausalLM, PreTrainedTokenizerFast

from moeviz.demo_model import data

FOLDER = Path(__file__).parent  # the trained model lives beside the script that made it
SEED = 2511
VOCABULARY = 4_096
CONTEXT = 256
BATCH = 16  # sequences per step
END = "<|end|>"  # between documents

CONFIG = {
    "vocab_size": VOCABULARY,
    "hidden_size": 256,
    "intermediate_size": 384,
    "num_hidden_layers": 8,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "num_local_experts": 8,
    "num_experts_per_tok": 2,
    "max_position_embeddings": 2_048,
    "rope_parameters": {"rope_type": "default", "rope_theta": 10_000.0},
    "tie_word_embeddings": True,  # a million parameters less to ship
    "output_router_logits": False,
    "bos_token_id": 0,
    "eos_token_id": 0,
}

STEPS = 2_300  # 9 M tokens: readable text from narrow domains in about 90 minutes of one slow core
LEARNING_RATE = 2e-3
WARM_UP = 100  # steps
BALANCE = 0.01  # coefficient of the router's auxiliary loss: no dead expert, room for experts of one domain
CHANGE_SUBJECT = 0.15  # share of sequences that change domain midway, as the presets do


def tokenizer_for(documents: dict[str, list[str]]) -> PreTrainedTokenizerFast:
    """Byte-level BPE with the same number of characters of each domain, so that none owns the vocabulary."""
    bpe = ByteLevelBPETokenizer()
    sample = [text for texts in documents.values() for text in _first(texts, 800_000)]
    bpe.train_from_iterator(sample, vocab_size=VOCABULARY, special_tokens=[END], show_progress=False)
    return PreTrainedTokenizerFast(tokenizer_object=bpe._tokenizer, bos_token=END, eos_token=END)


def encode(tokenizer: PreTrainedTokenizerFast, documents: list[str]) -> NDArray[np.int16]:
    """Token ids of all documents in one row, each closed by the end token. [tokens]"""
    ids: list[int] = []
    for document in tokenizer(documents, add_special_tokens=False)["input_ids"]:
        ids += [*document, tokenizer.eos_token_id]
    return np.array(ids, np.int16)


def batch(rows: list[NDArray[np.int16]], step: int) -> torch.Tensor:
    """Sequences of one step: every domain as often as the others; drawn from (seed, step), so a resumed run
    sees the same.
    """
    rng = np.random.default_rng([SEED, step])
    sequences = []
    for _ in range(BATCH):
        parts = 2 if rng.random() < CHANGE_SUBJECT else 1
        pieces = []
        for row in rng.choice(len(rows), size=parts, replace=False):
            start = rng.integers(len(rows[row]) - CONTEXT)
            pieces.append(rows[row][start : start + CONTEXT // parts])
        sequences.append(np.concatenate(pieces))
    return torch.from_numpy(np.stack(sequences).astype(np.int64))  # [sequence, token]


def balance_loss(router_logits: list[torch.Tensor], experts: int, k: int) -> torch.Tensor:
    """Switch Transformer's auxiliary loss (arXiv 2101.03961 eq. 4), layer by layer; 1 means even use.

    transformers' own `router_aux_loss_coef` pools the layers before it averages, so one layer's dead expert
    is made good by another layer's busy one.
    """
    loss = torch.zeros(())
    for logits in router_logits:  # [tokens, expert]
        probability = logits.float().softmax(-1)
        chosen = torch.zeros_like(probability).scatter_(1, probability.topk(k, -1).indices, 1.0)
        loss = loss + experts / k * (chosen.mean(0) * probability.mean(0)).sum()
    return loss / len(router_logits)


def learning_rate(step: int, steps: int) -> float:
    warm = min(1.0, (step + 1) / WARM_UP)
    return LEARNING_RATE * warm * (0.05 + 0.95 * (1 + math.cos(math.pi * step / steps)) / 2)


def train(work: Path, minutes: float, steps: int, until: int | None = None) -> bool:
    """Trains to the last of `steps`, to step `until`, or for `minutes`, whichever comes first; True where it
    was the last.

    Goes on from `work/checkpoint.pt` if it is there; the model is written at the end.
    """
    deadline = time.monotonic() + 60 * minutes
    work.mkdir(parents=True, exist_ok=True)
    torch.manual_seed(SEED)
    documents = data.load(held_out=False)
    tokenizer = tokenizer_for(documents)
    rows = [encode(tokenizer, texts) for texts in documents.values()]
    print("tokens:", {domain: len(row) for domain, row in zip(documents, rows, strict=True)}, flush=True)

    model = MixtralForCausalLM(MixtralConfig(**CONFIG))
    model.set_experts_implementation("eager")
    matrices = [p for p in model.parameters() if p.dim() > 1]
    others = [p for p in model.parameters() if p.dim() < 2]
    groups = [{"params": matrices, "weight_decay": 0.1}, {"params": others, "weight_decay": 0.0}]
    optimizer = torch.optim.AdamW(groups, lr=LEARNING_RATE, betas=(0.9, 0.95), fused=True)
    step = 0
    checkpoint = work / "checkpoint.pt"
    if checkpoint.exists():
        state = torch.load(checkpoint, weights_only=True)
        model.load_state_dict(state["model"])
        optimizer.load_state_dict(state["optimizer"])
        step = state["step"]
        print("resumed at step", step, flush=True)

    def save() -> None:
        state = {"model": model.state_dict(), "optimizer": optimizer.state_dict(), "step": step}
        torch.save(state, checkpoint.with_suffix(".part"))
        os.replace(checkpoint.with_suffix(".part"), checkpoint)

    routers: list[torch.Tensor] = []  # logits of this step, a layer each
    for layer in model.model.layers:
        layer.mlp.gate.register_forward_hook(lambda module, args, output: routers.append(output[0]))
    started = time.monotonic()
    first = step
    while step < (until or steps) and time.monotonic() < deadline:
        for group in optimizer.param_groups:
            group["lr"] = learning_rate(step, steps)
        ids = batch(rows, step)
        routers.clear()
        with torch.autocast(
            "cpu", torch.bfloat16
        ):  # a third faster than float32 where the processor multiplies bfloat16
            output = model(input_ids=ids, labels=ids, use_cache=False)
        balance = balance_loss(routers, model.config.num_local_experts, model.config.num_experts_per_tok)
        (output.loss + BALANCE * balance).backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        optimizer.zero_grad(set_to_none=True)
        step += 1
        if step % 20 == 0:
            rate = (step - first) * BATCH * CONTEXT / (time.monotonic() - started)
            print(
                f"step {step} loss {output.loss.item():.3f} balance {balance.item():.3f} {rate:.0f} tokens/s",
                flush=True,
            )
        if step % 100 == 0:
            save()
    save()
    if step < steps:
        print(f"{step} of {steps} steps; run again to go on", flush=True)
        return False
    model.to(torch.bfloat16).save_pretrained(FOLDER)
    tokenizer.save_pretrained(FOLDER)
    facts = {"steps": steps, "tokens": steps * BATCH * CONTEXT, "torch": torch.__version__, "seed": SEED}
    (FOLDER / "training.json").write_text(json.dumps(facts, indent=2) + "\n")
    return True


def _first(texts: list[str], characters: int) -> list[str]:
    taken = []
    for text in texts:
        if characters <= 0:
            break
        taken.append(text[:characters])
        characters -= len(text)
    return taken


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument(
        "--work", type=Path, required=True, help="folder for the checkpoint; kept between runs"
    )
    parser.add_argument(
        "--minutes", type=float, default=90, help="stop after this time and keep a checkpoint (default 90)"
    )
    parser.add_argument(
        "--steps", type=int, default=STEPS, help=f"length of the whole training (default {STEPS})"
    )
    parser.add_argument("--threads", type=int, default=1, help="torch threads (default 1)")
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    train(options.work, options.minutes, options.steps)


if __name__ == "__main__":
    main()

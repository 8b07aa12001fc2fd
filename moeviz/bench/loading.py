"""Peak memory of loading a model, against what has to be in memory, and the bytes that are written for it.

Linux only: it reads /proc.

python -m moeviz bench loading
"""

from __future__ import annotations

import json
import os
import select
import subprocess
import sys
import tempfile
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from moeviz.bench.rounds import ROOT

LAYERS, EXPERTS, SLOTS = 6, 8, 2
HIDDEN, INNER = 512, 2048
_LOADING = """
import sys
from moeviz.engine.loader import load, use_threads
from moeviz.engine.session import Options, generate
from moeviz.core.settings import Settings
use_threads(1)
load(sys.argv[2], dtype="float32")  # what importing and loading anything costs
for turn in range(2):
    print("begin", flush=True)
    sys.stdin.readline()
    model = load(sys.argv[1], dtype="float32")
    list(generate(model, "hello", Settings(slots=2), Options(2, 0.0, stop_at_end=False)))
    print("end", flush=True)
    sys.stdin.readline()
    model.store.close()
    del model
"""


def _read(process: subprocess.Popen[str], file: str, *names: str) -> int:
    """The sum of these numbers of a process in /proc."""
    lines = Path(f"/proc/{process.pid}/{file}").read_text().splitlines()
    return sum(int(line.split()[1]) for line in lines if line.partition(":")[0] in names)


def _memory(process: subprocess.Popen[str]) -> int:
    """Bytes of a process's own memory now.

    Pages of a mapped checkpoint are not counted: the system drops them when it needs room.
    """
    return _read(process, "status", "RssAnon", "RssShmem") * 1024


def _watched(command: list[str], environment: dict[str, str]) -> list[tuple[int, int]]:
    """For each time that a process says "begin" and "end": the most memory that it takes between, beyond what
    it had before, looked up all the time; and the bytes that it writes.
    """
    found = []
    with subprocess.Popen(
        command, cwd=ROOT, env=environment, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    ) as process:
        assert process.stdin is not None
        assert process.stdout is not None
        while (line := process.stdout.readline()) == "begin\n":
            before = most = _memory(process)
            written = _read(process, "io", "wchar")
            process.stdin.write("go\n")
            process.stdin.flush()
            while not select.select([process.stdout], [], [], 0)[0]:
                most = max(most, _memory(process))
            if process.stdout.readline() != "end\n":
                break
            found.append((most - before, _read(process, "io", "wchar") - written))
            process.stdin.write("done\n")
            process.stdin.flush()
        if line or len(found) != 2:
            raise RuntimeError("the measured process ended early")
    return found


def _save(kind: str, folder: Path, hidden: int, inner: int) -> tuple[int, int]:
    """Writes a random model of a kind of KINDS; bytes of its dense part and of one layer's experts, in
    float32.
    """
    import torch
    import transformers
    from safetensors.torch import load_file, save_file
    from tokenizers import Tokenizer, models

    config, change, about = KINDS[kind]
    torch.manual_seed(0)
    common = {"hidden_size": hidden, "num_hidden_layers": LAYERS, "num_attention_heads": 4}
    common |= {"num_key_value_heads": 2, "vocab_size": 128, "num_experts_per_tok": 2}
    made = getattr(transformers, f"{config}Config")(
        **common,
        head_dim=hidden // 4,
        intermediate_size=inner,
        moe_intermediate_size=inner,
        num_experts=EXPERTS,
        num_local_experts=EXPERTS,
    )
    model = transformers.AutoModelForCausalLM.from_config(made, trust_remote_code=False)
    model.save_pretrained(folder)
    layer = sum(p.numel() * 4 for p in model.model.layers[0].mlp.experts.parameters())
    dense = sum(p.numel() * 4 for p in model.parameters()) - LAYERS * layer
    del model
    if change is not None:
        tensors: dict[str, Any] = {}
        for name, tensor in load_file(folder / "model.safetensors").items():
            tensors |= change(name, tensor)
        save_file(tensors, folder / "model.safetensors", {"format": "pt"})
        values = json.loads((folder / "config.json").read_text())
        (folder / "config.json").write_text(json.dumps(values | {"quantization_config": about}))
    words = Tokenizer(models.WordLevel({"hello": 0, "?": 1}, unk_token="?"))
    transformers.PreTrainedTokenizerFast(tokenizer_object=words).save_pretrained(folder)
    return dense, layer


def _mxfp4(name: str, tensor: Any) -> dict[str, Any]:
    """Experts of as many values as `tensor` has, in mxfp4."""
    import torch

    if not name.endswith(("gate_up_proj", "down_proj")):
        return {name: tensor}
    experts, wide, out = tensor.shape
    blocks = torch.randint(0, 256, (experts, out, wide // 32, 16)).byte()
    return {f"{name}_blocks": blocks, f"{name}_scales": torch.full(blocks.shape[:3], 121).byte()}


def _fp8(name: str, tensor: Any) -> dict[str, Any]:
    """A tensor of an expert in fp8, in blocks of 128 by 128; any other as it is."""
    import torch

    if ".experts." not in name:
        return {name: tensor}
    scales = torch.full([size // 128 for size in tensor.shape], 2.0**-9)
    return {name: (tensor * 512).to(torch.float8_e4m3fn), f"{name}_scale_inv": scales}


Change = Callable[[str, Any], dict[str, Any]]
# architecture, how it is packed, what config.json says of that
KINDS: dict[str, tuple[str, Change | None, dict[str, Any]]] = {
    "one by one": ("Mixtral", None, {}),
    "stacked": ("GptOss", None, {}),
    "mxfp4": ("GptOss", _mxfp4, {"quant_method": "mxfp4"}),
    "fp8": ("Qwen3Moe", _fp8, {"quant_method": "fp8", "weight_block_size": [128, 128]}),
}


def loading(kinds: Sequence[str] = tuple(KINDS)) -> dict[str, float]:
    """Loading random models of 6 layers x 8 experts in float32 and a short run with 2 slots a layer, by how
    the checkpoint holds its experts: megabytes at the peak, over those of dense part, slots and one layer's
    experts, and what is written by a first load and a second.

    In a process of its own, beyond what that process held after loading a model of the same shape with almost
    no weights (Linux).
    """
    found: dict[str, float] = {}
    for kind in kinds:
        with tempfile.TemporaryDirectory() as folder:
            dense, layer = _save(kind, Path(folder) / "large", HIDDEN, INNER)
            _save(kind, Path(folder) / "small", 128, 128)
            command = [sys.executable, "-c", _LOADING, f"{folder}/large", f"{folder}/small"]
            (peak, written), (_, again) = _watched(command, os.environ | {"MOEVIZ_CACHE": folder})
            slow = next(path for path in Path(folder).rglob("*.experts") if path.stat().st_size > layer // 8)
            room = dense + LAYERS * SLOTS * layer // EXPERTS + layer
            found |= {
                f"{kind}: peak, MB": peak / 1e6,
                f"{kind}: peak / (dense part + slots + one layer)": peak / room,
                f"{kind}: slow tier, MB": slow.stat().st_size / 1e6,
                f"{kind}: written by a first load / slow tier": written / slow.stat().st_size,
                f"{kind}: written by a second load, MB": again / 1e6,
            }
    return found

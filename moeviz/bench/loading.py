"""Peak memory of loading a model, against what has to be in memory. Linux only: it reads /proc.

python -m moeviz bench loading
"""

from __future__ import annotations

import os
import select
import subprocess
import sys
import tempfile
from pathlib import Path

from moeviz.bench.rounds import ROOT

_LOADING = """
import sys
from moeviz.engine.loader import load, use_threads
from moeviz.engine.session import Options, generate
from moeviz.core.settings import Settings
use_threads(1)
load(sys.argv[2])  # what importing and loading anything costs
print("begin", flush=True)
sys.stdin.readline()
model = load(sys.argv[1])
list(generate(model, "hello", Settings(slots=2), Options(2, 0.0, stop_at_end=False)))
print("end", flush=True)
sys.stdin.readline()
"""


def _memory(process: subprocess.Popen[str]) -> int:
    """Bytes of a process's own memory now.

    Pages of a mapped checkpoint are not counted: the system drops them when it needs room.
    """
    line = next(
        line
        for line in Path(f"/proc/{process.pid}/status").read_text().splitlines()
        if line.startswith("RssAnon")
    )
    shared = next(
        line
        for line in Path(f"/proc/{process.pid}/status").read_text().splitlines()
        if line.startswith("RssShmem")
    )
    return (int(line.split()[1]) + int(shared.split()[1])) * 1024


def _peak(command: list[str], environment: dict[str, str]) -> int:
    """Most memory that a process takes between its lines "begin" and "end", beyond what it had at the first;
    looked up all the time.
    """
    with subprocess.Popen(
        command, cwd=ROOT, env=environment, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    ) as process:
        assert process.stdin is not None
        assert process.stdout is not None
        if process.stdout.readline() != "begin\n":
            raise RuntimeError("the measured process ended before it began")
        before = most = _memory(process)
        process.stdin.write("go\n")
        process.stdin.flush()
        while not select.select([process.stdout], [], [], 0)[0]:
            most = max(most, _memory(process))
        if process.stdout.readline() != "end\n":
            raise RuntimeError("the measured process ended early")
        process.stdin.write("done\n")
    return most - before


def loading() -> dict[str, float]:
    """Megabytes that loading a random Mixtral of 6 layers x 8 experts and a short run with 2 slots a layer
    take at their peak.

    In a process of its own, beyond what that process held after loading a model of the same shape with almost
    no weights (Linux).
    """
    import transformers
    from tokenizers import Tokenizer, models

    with tempfile.TemporaryDirectory() as folder:

        def save(name: str, hidden: int, inner: int) -> tuple[Path, int, int]:
            config = transformers.MixtralConfig(
                hidden_size=hidden,
                intermediate_size=inner,
                num_hidden_layers=6,
                num_attention_heads=4,
                num_key_value_heads=2,
                vocab_size=128,
                num_local_experts=8,
                num_experts_per_tok=2,
            )
            model = transformers.AutoModelForCausalLM.from_config(config, trust_remote_code=False)
            model.save_pretrained(Path(folder) / name)
            words = Tokenizer(models.WordLevel({"hello": 0, "?": 1}, unk_token="?"))
            transformers.PreTrainedTokenizerFast(tokenizer_object=words).save_pretrained(Path(folder) / name)
            layer = sum(p.numel() * 4 for p in model.model.layers[0].mlp.experts.parameters())
            return Path(folder) / name, sum(p.numel() * 4 for p in model.parameters()) - 6 * layer, layer

        large, dense, layer = save("large", 512, 2048)
        small, _, _ = save("small", 32, 32)
        command = [sys.executable, "-c", _LOADING, str(large), str(small)]
        environment = os.environ | {"MOEVIZ_CACHE": folder}
        peak = _peak(command, environment)
    slots = 6 * 2 * layer // 8
    sizes = {
        "peak": peak,
        "dense part": dense,
        "slots": slots,
        "one layer's experts": layer,
        "all experts": 6 * layer,
    }
    return {f"{name}, MB": size / 1e6 for name, size in sizes.items()} | {
        "peak / (dense part + slots + one layer)": peak / (dense + slots + layer)
    }

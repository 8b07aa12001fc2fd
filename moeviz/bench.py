"""Times moeviz itself, as ratios within one run, with their spread: what recording costs, what loading holds, how fast the board draws.

python -m moeviz bench engine
"""

from __future__ import annotations

import os
import select
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

ROOT = Path(__file__).parent.parent


def spread(values: Sequence[float]) -> dict[str, float]:
    """Median, least and most."""
    return {"median": statistics.median(values), "least": min(values), "most": max(values)}


def interleaved(work: dict[str, Callable[[], float]], repeats: int) -> dict[str, list[float]]:
    """Every piece of work once, all again, each round starting one further, so that a slow spell of the machine meets all of them."""
    names = list(work)
    found: dict[str, list[float]] = {name: [] for name in names}
    for number in range(repeats):
        for name in names[number % len(names) :] + names[: number % len(names)]:
            found[name].append(work[name]())
    return found


def engine(repeats: int, tokens: int) -> dict[str, Any]:
    """What recording the routers' guesses costs: tokens per second with and without, and their ratio, round by round."""
    import torch

    from moeviz.offload import measure
    from moeviz.offload.loader import load
    from moeviz.offload.session import Options
    from moeviz.settings import Settings

    torch.set_num_threads(1)
    sys.setswitchinterval(5e-4)
    loaded = load()

    def speed(guesses: bool) -> Callable[[], float]:
        options = Options(max_new_tokens=tokens, stop_at_end=False, guesses=guesses)

        def once() -> float:
            _, run = measure.record(loaded, "And it came to pass", Settings("lru"), options)
            assert run.times is not None
            return len(run.pass_phase[1:]) / (run.times.pass_wall[1:].sum() / 1e9)

        return once

    speed(True)()  # warms up
    found = interleaved({"guesses recorded": speed(True), "guesses not recorded": speed(False)}, repeats)
    ratio = [b / a for a, b in zip(*found.values(), strict=True)]
    return {**{f"tokens/s, {name}": spread(values) for name, values in found.items()}, "time with / without": spread(ratio)}


_LOADING = """
import sys
import torch
from moeviz.offload.loader import load
from moeviz.offload.session import Options, generate
from moeviz.settings import Settings
torch.set_num_threads(1)
load(sys.argv[2])  # what importing and loading anything costs
print("begin", flush=True)
sys.stdin.readline()
model = load(sys.argv[1])
list(generate(model, "hello", Settings(slots=2), Options(2, 0.0, stop_at_end=False)))
print("end", flush=True)
sys.stdin.readline()
"""


def _memory(process: subprocess.Popen[str]) -> int:
    """Bytes of a process's own memory now. Pages of a mapped checkpoint are not counted: the system drops them when it needs room."""
    line = next(line for line in Path(f"/proc/{process.pid}/status").read_text().splitlines() if line.startswith("RssAnon"))
    shared = next(line for line in Path(f"/proc/{process.pid}/status").read_text().splitlines() if line.startswith("RssShmem"))
    return (int(line.split()[1]) + int(shared.split()[1])) * 1024


def _peak(command: list[str], environment: dict[str, str]) -> int:
    """Most memory that a process takes between its lines "begin" and "end", beyond what it had at the first; looked up all the time."""
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
    """Megabytes that loading a random Mixtral of 6 layers x 8 experts and a short run with 2 slots a layer take at their peak.

    In a process of its own, beyond what that process held after loading a model of the same shape with almost no weights (Linux).
    """
    import transformers
    from tokenizers import Tokenizer, models

    with tempfile.TemporaryDirectory() as folder:

        def save(name: str, hidden: int, inner: int) -> tuple[Path, int, int]:
            config = transformers.MixtralConfig(
                hidden_size=hidden, intermediate_size=inner, num_hidden_layers=6, num_attention_heads=4, num_key_value_heads=2,
                vocab_size=128, num_local_experts=8, num_experts_per_tok=2,
            )  # fmt: skip
            model = transformers.AutoModelForCausalLM.from_config(config)
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


def board(seconds: float, repeats: int) -> dict[str, Any]:
    """Pictures per second of the board while the bundled model generates, in headless Chromium (needs playwright and Chromium)."""
    import shutil
    import socket
    import urllib.request

    from playwright.sync_api import sync_playwright

    chromium = shutil.which("chromium") or shutil.which("google-chrome")
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    command = [sys.executable, "-m", "streamlit", "run", "app.py", "--server.port", str(port), "--server.headless", "true"]
    server = subprocess.Popen(command, cwd=ROOT, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    found = []
    try:
        while True:
            try:
                urllib.request.urlopen(f"http://127.0.0.1:{port}/_stcore/health").read()
                break
            except OSError:
                time.sleep(0.1)
        with sync_playwright() as playwright:
            browser = playwright.chromium.launch(executable_path=chromium, args=["--no-sandbox", "--disable-gpu"])
            page = browser.new_page(viewport={"width": 1440, "height": 900})
            page.goto(f"http://127.0.0.1:{port}/?tokens=1900")
            for _ in range(repeats):
                page.get_by_role("button", name="Run").click()
                page.get_by_text("of 1900 tokens").first.wait_for(timeout=60_000)
                shown = page.locator(".board")
                start = time.perf_counter()
                seen = {shown.get_attribute("data-step")}
                while time.perf_counter() - start < seconds:
                    page.wait_for_timeout(20)
                    seen.add(shown.get_attribute("data-step"))
                found.append(len(seen) / (time.perf_counter() - start))
                page.get_by_role("button", name="Stop").click()
                page.get_by_text("stopped after").first.wait_for(timeout=60_000)
            browser.close()
    finally:
        server.terminate()
        server.wait()
    return {"different pictures per second while it generates": spread(found)}

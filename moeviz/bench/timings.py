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
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from moeviz.core.trace import Trace

ROOT = Path(__file__).parents[2]


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
    from moeviz.core.settings import Settings
    from moeviz.engine import measure
    from moeviz.engine.loader import load, use_threads
    from moeviz.engine.session import Options

    use_threads(1)
    loaded = load()

    def speed(guesses: bool) -> Callable[[], float]:
        options = Options(max_new_tokens=tokens, stop_at_end=False, guesses=guesses)

        def once() -> float:
            _, run = measure.record(loaded, "And it came to pass", Settings("lru"), options)
            assert run.times is not None
            return len(run.passes.phase[1:]) / (run.times.pass_wall[1:].sum() / 1e9)

        return once

    speed(True)()  # warms up
    found = interleaved({"guesses recorded": speed(True), "guesses not recorded": speed(False)}, repeats)
    ratio = [b / a for a, b in zip(*found.values(), strict=True)]
    return {
        **{f"tokens/s, {name}": spread(values) for name, values in found.items()},
        "time with / without": spread(ratio),
    }


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
    """Bytes of a process's own memory now. Pages of a mapped checkpoint are not counted: the system drops them when it needs room."""
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
                hidden_size=hidden,
                intermediate_size=inner,
                num_hidden_layers=6,
                num_attention_heads=4,
                num_key_value_heads=2,
                vocab_size=128,
                num_local_experts=8,
                num_experts_per_tok=2,
            )
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
    command = [
        sys.executable,
        "-m",
        "streamlit",
        "run",
        "app.py",
        "--server.port",
        str(port),
        "--server.headless",
        "true",
    ]
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
            browser = playwright.chromium.launch(
                executable_path=chromium, args=["--no-sandbox", "--disable-gpu"]
            )
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


def made_up(tokens: int, layers: int = 24, experts: int = 32, k: int = 4, seed: int = 0) -> Trace:
    """A trace of skewed routing that repeats itself with noise: half of a token's experts are those of one of the last tokens."""
    import numpy as np

    from moeviz.core.trace import Trace

    rng = np.random.default_rng(seed)
    skew = np.log(rng.dirichlet(np.full(experts, 0.5), layers) + 1e-4)
    noise = rng.gumbel(size=(tokens, layers, experts)).astype(np.float32)
    score = skew[None] + noise
    for back in (1, 3):  # what was wanted lately is wanted more
        score[back:] += 0.7 * noise[:-back]
    chosen = np.argpartition(-score, k, 2)[:, :, :k]
    weights = np.take_along_axis(score, chosen, 2)
    order = np.argsort(-weights, 2)
    weights = -np.sort(-rng.random((tokens, layers, k)).astype(np.float32), 2)
    return Trace(
        experts=np.take_along_axis(chosen, order, 2).astype(np.int16),
        weights=weights,
        token_ids=np.zeros(tokens, np.int32),
        phase=np.ones(tokens, np.uint8),
        forward_pass=np.arange(tokens, dtype=np.int32),
        guess=np.full((tokens, layers, 0, 0), -1, np.int16),
        num_experts=experts,
        texts=tuple(f"t{n}" for n in range(tokens)),
        model="made up",
        expert_bytes=1_000_000,
    )


def replaying(repeats: int, tokens: int, trace: Trace | None = None) -> dict[str, Any]:
    """Milliseconds for all policies at all slot counts, for one policy at one, for the event-by-event replay, and for cachetools."""
    import cachetools

    from moeviz.core.policies import POLICIES
    from moeviz.core.replay import replay
    from moeviz.core.settings import ITSELF, Settings
    from moeviz.numbers.curves import curve

    known = trace or made_up(tokens)
    slots = min(2 * known.k, known.num_experts)
    streams = known.experts.transpose(1, 0, 2).reshape(known.layers, -1).tolist()

    def timed(work: Callable[[], object]) -> Callable[[], float]:
        def once() -> float:
            start = time.perf_counter()
            work()
            return 1e3 * (time.perf_counter() - start)

        return once

    def everything() -> None:
        for policy in POLICIES:
            curve(known, Settings(policy, slots, calibration=ITSELF))

    def oracle() -> None:
        for stream in streams:  # one expert at a time: no event rule, so its hits are not ours
            cache = cachetools.LRUCache(slots)
            for expert in stream:
                if expert in cache:
                    cache[expert]
                else:
                    cache[expert] = True

    work = {
        f"ms, {len(POLICIES)} policies x {known.num_experts - known.k + 1} slot counts": everything,
        **{
            f"ms, hits of {policy} at {slots} slots": lambda policy=policy: curve(
                known, Settings(policy, slots), [slots]
            )
            for policy in ("lru", "lfu", "lfu-resident")
        },
        f"ms, lru at {slots} slots event by event": lambda: replay(known, Settings("lru", slots)),
        f"ms, cachetools.LRUCache({slots}) on the same accesses": oracle,
    }
    found = interleaved({name: timed(one) for name, one in work.items()}, repeats)
    return {"accesses": float(known.experts.size), **{name: spread(values) for name, values in found.items()}}


_PAGES = """
import sys, time
import streamlit as st
from streamlit.testing.v1 import AppTest
from moeviz.bench.timings import made_up
tokens = int(sys.argv[1])
long = made_up(tokens)
for page in ("activations", "timeline", "prefetch", "what_if"):
    for name, trace in (("a sample", None), (f"{tokens:,} tokens", long)):
        app = AppTest.from_file("app.py", default_timeout=300).run()
        if trace is not None:
            app.session_state["opened"] = {name: (trace, None)}
            app.session_state["trace"] = name
        st.cache_resource.clear()
        start = time.perf_counter()
        app.switch_page(f"pages/{page}.py").run()
        took = time.perf_counter() - start
        assert not app.exception, app.exception[0].value
        print(f"s, {page}, {name}", took, sep="\t")
"""


def pages(tokens: int, repeats: int) -> dict[str, Any]:
    """Seconds from a click to a page that is made (the browser's drawing comes on top), with nothing of the trace kept from before."""
    found: dict[str, list[float]] = {}
    for _ in range(repeats):
        command = [sys.executable, "-c", _PAGES, str(tokens)]
        done = subprocess.run(
            command, check=True, cwd=ROOT, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True
        )
        for line in done.stdout.splitlines():
            name, took = line.split("\t")
            found.setdefault(name, []).append(float(took))
    return {name: spread(values) for name, values in found.items()}

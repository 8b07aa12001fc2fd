"""How fast the engine decodes, beside transformers with all experts in memory.

python -m moeviz bench engine
"""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

from moeviz.bench.rounds import interleaved, spread

if TYPE_CHECKING:
    from moeviz.engine.loader import Loaded

PROMPT = "And it came to pass"
DTYPES = ("float32", "bfloat16")


def engine(repeats: int, tokens: int, name: str = "") -> dict[str, Any]:
    """How fast the engine decodes beside transformers with all experts in memory, on one thread, in both
    dtypes.

    `name` is the folder of a model, empty the bundled one. Gives tokens per second of transformers with each
    of its experts backends, of the engine with every expert in a slot (with and without recording the
    routers' guesses), and with half the slots and the host tier; and the engine's ratios to the fastest
    backend, round by round.
    """
    import torch

    from moeviz.engine.loader import BUNDLED, load, use_threads

    use_threads(1)
    folder = name or str(BUNDLED)
    answer: dict[str, Any] = {"torch threads": float(torch.get_num_threads())}
    for dtype in DTYPES:
        loaded = load(folder, tier="host", device="cpu", dtype=dtype)
        work = {
            **{f"transformers, {backend}": one for backend, one in _alone(folder, dtype, tokens).items()},
            **_served(loaded, tokens),
        }
        for one in work.values():
            one()  # warms up
        found = interleaved(work, repeats)
        fastest = max(
            (backend for backend in found if backend.startswith("transformers")),
            key=lambda backend: statistics.median(found[backend]),
        )
        for what, speeds in found.items():
            answer[f"{dtype}: tokens/s, {what}"] = spread(speeds)
        for what in work:
            if not what.startswith("transformers"):
                ratio = [ours / theirs for ours, theirs in zip(found[what], found[fastest], strict=True)]
                answer[f"{dtype}: {what} / {fastest}"] = spread(ratio)
        pairs = zip(found["resident"], found["resident, no guesses"], strict=True)
        answer[f"{dtype}: time with guesses / without"] = spread(
            [without / with_ for with_, without in pairs]
        )
        loaded.store.close()
    return answer


def _served(loaded: Loaded, tokens: int) -> dict[str, Callable[[], float]]:
    """Tokens per second by the median decode pass of the engine, by setting."""
    from moeviz.core.settings import Settings
    from moeviz.engine import measure
    from moeviz.engine.session import Options

    def speed(settings: Settings, guesses: bool = True) -> Callable[[], float]:
        options = Options(max_new_tokens=tokens, temperature=0.0, stop_at_end=False, guesses=guesses)

        def once() -> float:
            _, run = measure.record(loaded, PROMPT, settings, options)
            assert run.times is not None
            return float(1e9 / statistics.median(run.times.pass_wall[1:].tolist()))

        return once

    return {
        "resident": speed(measure.RESIDENT),
        "resident, no guesses": speed(measure.RESIDENT, guesses=False),
        "half the slots": speed(Settings("lru", max(loaded.k, loaded.experts // 2))),
    }


def _alone(folder: str, dtype: str, tokens: int) -> dict[str, Callable[[], float]]:
    """Tokens per second by the median decode pass of transformers with all experts in memory, by experts
    backend.
    """
    import torch
    from transformers import AutoModelForCausalLM, AutoTokenizer

    from moeviz.engine.loader import own

    model = AutoModelForCausalLM.from_pretrained(
        folder, dtype=getattr(torch, dtype), trust_remote_code=False
    ).eval()
    own(model)
    prompt = AutoTokenizer.from_pretrained(folder, trust_remote_code=False)(PROMPT)["input_ids"]

    def speed(backend: str) -> Callable[[], float]:
        def once() -> float:
            model.set_experts_implementation(backend)
            ids, past, walls = list(prompt), None, []
            for _ in range(tokens):
                start = time.perf_counter_ns()
                with torch.inference_mode():
                    inputs = torch.tensor([ids])
                    output = model(input_ids=inputs, past_key_values=past, use_cache=True, logits_to_keep=1)
                past = output.past_key_values
                ids = [int(output.logits[0, -1].argmax())]
                walls.append(time.perf_counter_ns() - start)
            return 1e9 / statistics.median(walls[1:])

        return once

    return {backend: speed(backend) for backend in ("eager", "grouped_mm", "batched_mm")}

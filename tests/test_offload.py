"""The engine on random models: lossless bit for bit, equal to replay event for event, sparing with memory."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import replace
from itertools import cycle
from pathlib import Path
from typing import Any

import pytest
import tiny_models
import torch
from conftest import ARCHITECTURES, in_step, random_trace
from transformers import AutoModelForCausalLM

from moeviz.core.policies import POLICIES
from moeviz.core.predictors import PREDICTORS
from moeviz.core.replay import replay
from moeviz.core.settings import BASELINES, WARM, Settings
from moeviz.core.trace import Trace
from moeviz.engine import measure
from moeviz.engine.experts import Plain, RecipeError, direct, of_class, recipe_for
from moeviz.engine.link import HostLink
from moeviz.engine.loader import Loaded, load
from moeviz.engine.serving import Serving
from moeviz.engine.session import Options, generate
from moeviz.engine.sources import own
from moeviz.engine.store import DiskStore, HostStore
from moeviz.errors import ModelError, SettingsError, StoreError

ROOT = Path(__file__).parent.parent
PROMPT = "How many experts does this prompt need at once?"
GREEDY = Options(max_new_tokens=8, temperature=0.0, stop_at_end=False)
TinyModel = Callable[[str], Path]

_loaded: dict[tuple[str, str], Loaded] = {}


def loaded(tiny_model: TinyModel, name: str, tier: str = "disk") -> Loaded:
    if (name, tier) not in _loaded:
        _loaded[name, tier] = load(tiny_model(name), tier=tier, device="cpu")
    return _loaded[name, tier]


def settings_to_try(k: int, calibration: Path) -> list[Settings]:
    """Every policy, predictor, scope and warm start; slots from k to E."""
    policies, guesses = list(POLICIES), list(PREDICTORS)
    every = [Settings(policy, slots) for policy, slots in zip(policies, cycle((k, k + 1, 8)), strict=False)]
    every += [Settings(policy, k + 1, prefetch=guess) for policy, guess in in_step(policies, guesses)]
    every += [
        Settings(policy, 2 * k + 1, scope="model", prefetch=guess, warm=warm)
        for policy, guess, warm in in_step(policies[::-1], guesses, list(WARM))
    ]
    every += [
        Settings(slots=k + 1, prefetch="next-gate", lookahead=2, width=3),
        Settings(slots=8, prefetch="next-gate", threshold=0.5),
    ]
    return [replace(one, calibration=str(calibration)) for one in every] + [
        Settings(baseline=name) for name in BASELINES
    ]


def past_and_future(model: Loaded, folder: Path) -> tuple[Path, Trace]:
    """A trace of another prompt in a file, to calibrate on, and one of PROMPT."""
    path = folder / "past.moetrace"
    measure.record(model, "Another prompt", measure.RESIDENT, GREEDY)[0].save(path)
    return path, measure.record(model, PROMPT, measure.RESIDENT, GREEDY)[0]


def resident_logits(folder: Path, ids: list[int], steps: int) -> tuple[list[torch.Tensor], list[int]]:
    """Of transformers alone, all experts in memory, with its own eager experts."""
    model = AutoModelForCausalLM.from_pretrained(
        folder, dtype=torch.float32, experts_implementation="eager"
    ).eval()
    own(model)
    rows, chosen = [], []
    past = None
    for _ in range(steps):
        with torch.inference_mode():
            output = model(
                input_ids=torch.tensor([ids]), past_key_values=past, use_cache=True, logits_to_keep=1
            )
        past = output.past_key_values
        rows.append(output.logits[0, -1])
        chosen.append(int(rows[-1].argmax()))
        ids = [chosen[-1]]
    return rows, chosen


@pytest.mark.parametrize("name", ARCHITECTURES)
def test_logits_and_tokens_are_those_of_the_resident_model(
    name: str, tiny_model: TinyModel, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    model = loaded(tiny_model, name)
    expected, tokens = resident_logits(
        tiny_model(name), model.tokenizer(PROMPT)["input_ids"], GREEDY.max_new_tokens
    )
    past, future = past_and_future(model, tmp_path)
    seen: list[torch.Tensor] = []
    from moeviz.engine import session

    choose = session._choose
    monkeypatch.setattr(
        session, "_choose", lambda logits, *rest: (seen.append(logits.clone()), choose(logits, *rest))[1]
    )
    for settings in settings_to_try(model.k, past):
        seen.clear()
        records = list(generate(model, PROMPT, settings, GREEDY, future=future))
        assert [record.next_ids[0] for record in records] == tokens, settings.label
        assert all(torch.equal(a, b) for a, b in zip(seen, expected, strict=True)), settings.label


@pytest.mark.parametrize("name", ["mixtral", "gpt_oss"])
def test_a_live_run_equals_its_replay(name: str, tiny_model: TinyModel, tmp_path: Path) -> None:
    model = loaded(tiny_model, name, "host")
    past, future = past_and_future(model, tmp_path)
    for settings in settings_to_try(model.k, past):
        trace, run = measure.record(model, PROMPT, settings, GREEDY, future=future)
        assert replay(trace, settings).same_decisions(run), settings.label
        assert run.measured


def test_the_trace_does_not_depend_on_the_cache(tiny_model: TinyModel) -> None:
    model = loaded(tiny_model, "mixtral")
    first, _ = measure.record(model, PROMPT, Settings(slots=2), GREEDY)
    second, _ = measure.record(model, PROMPT, Settings("lfu", 6, prefetch="next-gate"), GREEDY)
    for field in ("experts", "weights", "token_ids", "phase", "forward_pass", "guess"):
        assert (getattr(first, field) == getattr(second, field)).all(), field


@pytest.mark.parametrize("name", ["mixtral", "deepseek_v3"])  # the second chooses by groups, with a bias
def test_next_gate_asks_the_later_router_about_this_layers_input(name: str, tiny_model: TinyModel) -> None:
    model = loaded(tiny_model, name)
    assert [layer.router.product is None for layer in model.layers] == [name == "deepseek_v3"] * 3
    entered: dict[int, torch.Tensor] = {}

    def keep(number: int) -> Callable[..., None]:
        def hook(module: torch.nn.Module, args: tuple[torch.Tensor], output: object) -> None:
            entered.setdefault(number, args[0])

        return hook

    routers = [layer.router.module for layer in model.layers if layer.router is not None]
    hooks = [router.register_forward_hook(keep(number)) for number, router in enumerate(routers)]
    # the guesses call later routers before their own turn: keep each router's input of a run without guesses
    next(iter(generate(model, PROMPT, Settings(slots=8), Options(1, 0.0, guesses=False))))
    for hook in hooks:
        hook.remove()
    trace, _ = measure.record(model, PROMPT, Settings(slots=8), Options(1, 0.0))
    for d in (1, 2):
        with torch.inference_mode():
            chosen = routers[d](entered[0])[2]
        guessed = torch.tensor(trace.guess[: len(chosen), d, d - 1, : model.k].astype("int64"))
        assert (guessed.sort(1).values == chosen.sort(1).values).all()
    assert (trace.guess[:, 0] == -1).all()
    assert (trace.guess[:, 1, 1] == -1).all()


@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
def test_routers_asked_side_by_side_guess_what_each_guesses_by_itself(
    dtype: str, tiny_model: TinyModel
) -> None:
    for name in ("mixtral", "qwen3_moe"):
        model = load(tiny_model(name), tier="host", device="cpu", dtype=dtype)
        assert (model.routers is None) == (dtype == "bfloat16")  # in which a CPU asks each the sooner
        for settings in (Settings(slots=8), Settings(slots=4, prefetch="next-gate", lookahead=2)):
            together, apart = (
                measure.record(one, PROMPT, settings, GREEDY)[0]
                for one in (model, replace(model, routers=None))
            )
            assert (together.guess == apart.guess).all()
            assert together.guess_probability is not None
            assert apart.guess_probability is not None
            assert (together.guess_probability == apart.guess_probability).all()


def test_a_run_ends_the_one_before_it_that_nobody_closed(tiny_model: TinyModel) -> None:
    model = loaded(tiny_model, "mixtral")
    expected = measure.record(model, PROMPT, Settings(slots=3), GREEDY)[1]
    left = generate(model, "Another prompt", Settings(slots=2), GREEDY)
    next(left)
    run = generate(model, PROMPT, Settings(slots=3), GREEDY)
    found = [next(run)]
    with pytest.raises(ModelError, match=r"Another run of .* has begun, which ended this one"):
        next(left)
    found += run
    assert [one.next_ids[0] for one in found] == list(expected.output_ids)
    assert all(len(one.experts) == len(one.token_ids) for one in found)
    assert "forward" not in vars(model.layers[0].experts)


def test_the_experts_of_a_token_are_computed_together_only_where_that_is_equal(tiny_model: TinyModel) -> None:
    model = loaded(tiny_model, "mixtral")
    assert model.recipe.together
    assert loaded(tiny_model, "gpt_oss").recipe.together is None  # which has biases
    for settings in (Settings(slots=8), Settings(slots=2)):
        together, apart = (
            measure.record(one, PROMPT, settings, GREEDY)
            for one in (model, replace(model, recipe=replace(model.recipe, together=None)))
        )
        assert together[1].output_ids == apart[1].output_ids
        assert (together[0].weights == apart[0].weights).all()


@pytest.mark.parametrize("name", ["mixtral", "gpt_oss"])
def test_the_faster_way_is_used_only_where_it_is_equal(name: str, tiny_model: TinyModel) -> None:
    model = loaded(tiny_model, name)
    module, layout = model.layers[0].experts, model.store.layout

    def recipe(weights: torch.dtype = torch.float32) -> object:
        return recipe_for(module, layout, model.device, layout.dtype, weights)

    assert model.recipe == recipe()
    assert model.recipe.way is direct
    own = type(module).forward.__wrapped__

    def twice(self: torch.nn.Module, *args: torch.Tensor) -> torch.Tensor:
        return own(self, *args) * 2

    def average(self: torch.nn.Module, hidden: torch.Tensor, *args: torch.Tensor) -> torch.Tensor:
        return own(self, hidden, *args) - hidden

    for other, way in ((twice, of_class), (average, None)):  # an average is no sum of contributions
        type(module).forward.__wrapped__ = other
        try:
            if way is None:
                with pytest.raises(RecipeError, match="cannot be computed one expert at a time"):
                    recipe()
            else:
                assert recipe().way is way
        finally:
            type(module).forward.__wrapped__ = own


def test_contributions_are_added_in_the_architectures_own_dtype(tiny_model: TinyModel) -> None:
    model = loaded(tiny_model, "mixtral")
    layout = replace(model.store.layout, dtype=torch.bfloat16)
    module = model.layers[0].experts
    own = type(module).forward.__wrapped__

    def precise(
        self: torch.nn.Module, hidden: torch.Tensor, index: torch.Tensor, weights: torch.Tensor
    ) -> torch.Tensor:
        outs = [own(self, hidden, index[:, n : n + 1], torch.ones_like(weights[:, :1])) for n in range(2)]
        return sum(out * weights[:, n : n + 1] for n, out in enumerate(outs)).to(hidden.dtype)

    kinds = (torch.bfloat16, torch.float32)
    assert recipe_for(module, layout, model.device, *kinds).sum_dtype == torch.bfloat16
    type(module).forward.__wrapped__ = precise
    try:
        assert recipe_for(module, layout, model.device, *kinds).sum_dtype == torch.float32
    finally:
        type(module).forward.__wrapped__ = own


@pytest.mark.parametrize("tier", ["disk", "host"])
def test_the_slow_tier_holds_the_checkpoints_weights(tier: str, tiny_model: TinyModel) -> None:
    model = loaded(tiny_model, "qwen3_moe", tier)
    assert isinstance(model.store, DiskStore if tier == "disk" else HostStore)
    reference = AutoModelForCausalLM.from_pretrained(tiny_model("qwen3_moe"), dtype=torch.float32)
    record = torch.empty(model.store.layout.record_bytes + 4096, dtype=torch.uint8)
    record = record[-record.data_ptr() % 4096 :][: model.store.layout.record_bytes]
    for number, layer in enumerate(reference.model.layers):
        for expert in (0, 7):
            model.store.read(number, expert, record)
            for name, view in model.store.layout.views(record).items():
                assert torch.equal(view, getattr(layer.mlp.experts, name)[expert])
    assert model.tier.kind == tier
    assert model.tier.latency_ms > 0


def test_a_disk_that_refuses_direct_reads_is_read_buffered_and_says_so(
    tiny_model: TinyModel, monkeypatch: pytest.MonkeyPatch
) -> None:
    import os

    store = loaded(tiny_model, "mixtral").store
    assert isinstance(store, DiskStore)
    plain = os.open

    def refuse(path: object, flags: int, *rest: object) -> int:
        if flags & os.O_DIRECT:
            raise OSError(22, "Invalid argument")
        return plain(path, flags, *rest)  # type: ignore[arg-type]

    monkeypatch.setattr(os, "open", refuse)
    buffered = DiskStore(store.layout, store.path)
    assert not buffered.page_cache_bypassed
    a, b = (torch.empty(store.layout.record_bytes, dtype=torch.uint8) for _ in range(2))
    buffered.read(1, 3, a)
    expert = store.layout.views(a)["down_proj"]
    b.zero_()
    buffered.read(1, 4, b)
    assert not torch.equal(a, b)
    assert expert.isfinite().all()


def test_no_room_for_the_slow_tier_is_one_message(
    tiny_model: TinyModel, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    import shutil
    from collections import namedtuple

    monkeypatch.setenv("MOEVIZ_CACHE", str(tmp_path))
    monkeypatch.setattr(shutil, "disk_usage", lambda path: namedtuple("Usage", "total used free")(10, 10, 0))
    with pytest.raises(StoreError, match=r"needs .* kB in .* Make room, or set MOEVIZ_CACHE"):
        load(tiny_model("mixtral"))
    assert not list(tmp_path.rglob("*.experts"))


def test_what_is_no_moe_is_refused(tiny_model: TinyModel, tmp_path: Path) -> None:
    with pytest.raises(ModelError, match=r"not a mixture-of-experts model .*LlamaForCausalLM.*Choose a MoE"):
        load(tiny_model("llama"))
    with pytest.raises(ModelError, match=r"no config\.json"):
        load(tmp_path)
    with pytest.raises(ModelError, match="device 'abacus' is not available"):
        load(tiny_model("mixtral"), device="abacus")


@pytest.mark.parametrize(
    ("prompt", "options", "words"),
    [
        ("  ", Options(), "prompt is empty"),
        ("x" * 200, Options(100), r"too long: 200 tokens and 100 new ones are more than the 256"),
        ("x", Options(0), "Ask for at least 1"),
    ],
)
def test_bad_requests_are_refused_before_anything_runs(
    prompt: str, options: Options, words: str, tiny_model: TinyModel
) -> None:
    with pytest.raises(ModelError, match=words):
        generate(loaded(tiny_model, "mixtral"), prompt, Settings(), options)


def test_a_change_of_subject_is_fed_token_by_token(tiny_model: TinyModel) -> None:
    model = loaded(tiny_model, "mixtral")
    records = list(generate(model, PROMPT, Settings(), Options(12, 0.0, stop_at_end=False, then="abc")))
    script = model.tokenizer("abc")["input_ids"]
    assert [record.next_ids[0] for record in records][6:9] == script
    assert [record.token_ids for record in records][7:10] == [[token] for token in script]


def test_stop_ends_within_one_token_and_the_model_is_left_as_it_was(tiny_model: TinyModel) -> None:
    model = loaded(tiny_model, "mixtral")
    count = 0

    def stop() -> bool:
        return count >= 3

    for _ in generate(model, PROMPT, Settings(), Options(50, 0.0, stop_at_end=False), stop):
        count += 1
    assert count == 3
    assert model.model.config._experts_implementation == "eager"
    assert not hasattr(model.layers[0].experts, "moeviz")


def test_sampling_depends_on_the_seed_alone(tiny_model: TinyModel) -> None:
    model = loaded(tiny_model, "mixtral")
    warm = [
        measure.record(model, PROMPT, Settings("lfu", slots), Options(12, 1.0, seed))[1].output_ids
        for slots, seed in ((2, 1), (8, 1), (2, 2))
    ]
    assert warm[0] == warm[1] != warm[2]


def test_compare_interleaves_and_agrees(tiny_model: TinyModel) -> None:
    model = loaded(tiny_model, "mixtral")
    settings = [Settings("lru", 3), Settings("lfu", 3, prefetch="next-gate"), Settings(baseline="on-demand")]
    steps = list(measure.compare(model, PROMPT, settings, 2, GREEDY))
    assert [number for _, number, _, _ in steps] == [-1, 0, 1, 2, 1, 2, 0]
    trace, resident = steps[0][2], steps[0][3]
    assert trace is not None
    for _, number, _, run in steps[1:]:
        assert run.output_ids == resident.output_ids
        assert replay(trace, settings[number]).same_decisions(run)


def test_times_add_up(tiny_model: TinyModel) -> None:
    """Stall and compute of a pass fit in its wall time, and every copy that was waited for has a duration."""
    model = loaded(tiny_model, "mixtral")
    _, run = measure.record(model, PROMPT, Settings("lru", 3, prefetch="next-gate"), GREEDY)
    times = run.times
    assert times is not None
    for number in range(len(run.passes.phase)):
        events = run.events.forward_pass == number
        assert times.event_stall[events].sum() + times.event_compute[events].sum() <= times.pass_wall[number]
    needed = ~run.loads.speculative | run.loads.used
    assert (times.load_start[needed] >= 0).all()
    assert (times.load_end[needed] > times.load_start[needed]).all()


def test_a_prompts_next_wave_is_copied_while_its_last_is_computed(
    tiny_model: TinyModel, monkeypatch: pytest.MonkeyPatch
) -> None:
    log: list[str] = []
    submit, compute = HostLink.submit, Plain.__call__

    def copied(self: HostLink, *args: Any, **others: Any) -> Any:
        log.append("copy")
        return submit(self, *args, **others)

    def computed(self: Plain, *args: Any) -> Any:
        log.append("compute")
        return compute(self, *args)

    model = loaded(tiny_model, "mixtral")
    monkeypatch.setattr(HostLink, "submit", copied)
    monkeypatch.setattr(Plain, "__call__", computed)
    _, run = measure.record(model, "In the beginning there was a word " * 6, Settings(slots=3), GREEDY)
    assert int((run.accesses.event == 0).sum()) == 8  # every expert, in waves of three, three and two
    assert log[:16] == ["copy"] * 3 + ["compute", "copy"] * 5 + ["compute"] * 3


def test_slots_do_not_wait_for_copies_that_were_called_off(tiny_model: TinyModel) -> None:
    """A guess whose slot is taken again before its copy began moves nothing."""
    from moeviz.core.cache import Load
    from moeviz.engine.aligned import aligned

    store = loaded(tiny_model, "mixtral").store
    link = HostLink(store)
    slots = aligned(2, store.layout.record_bytes)
    with link._changed:  # the reader thread is held off while three copies queue up
        guess = link.submit(Load(0, 1, 0, (-1, -1), 0, True), slots[0])
        demand = link.submit(Load(0, 2, 0, (0, 1), 1, False), slots[0])
        other = link.submit(Load(0, 3, 1, (-1, -1), 2, False), slots[1])
    link.wait(slots[0])
    link.wait(slots[1])
    link.close()
    assert (guess.state, demand.state, other.state) == ("dropped", "done", "done")


@pytest.mark.gpu
@pytest.mark.skipif(not torch.accelerator.is_available(), reason="no accelerator")
@pytest.mark.parametrize("tier", ["disk", "host"])
def test_an_accelerator_gives_the_resident_tokens_and_the_replays_decisions(
    tier: str, tiny_model: TinyModel, tmp_path: Path
) -> None:
    model = load(tiny_model("mixtral"), tier=tier, device="auto", dtype="float32")
    resident = measure.record(model, PROMPT, measure.RESIDENT, GREEDY)[1].output_ids
    past, future = past_and_future(model, tmp_path)
    for settings in settings_to_try(model.k, past):
        trace, run = measure.record(model, PROMPT, settings, GREEDY, future=future)
        assert run.output_ids == resident
        assert replay(trace, settings).same_decisions(run)


def test_serving_refuses_next_gate_without_routers(tiny_model: TinyModel) -> None:
    model = loaded(tiny_model, "mixtral")
    blind = replace(model, layers=tuple(replace(layer, router=None) for layer in model.layers))
    with pytest.raises(SettingsError, match="asks the layers' routers ahead, which this model's cannot be"):
        Serving(blind, Settings(prefetch="next-gate"))


def test_a_run_that_departs_from_its_future_is_told(tiny_model: TinyModel, tmp_path: Path) -> None:
    model = loaded(tiny_model, "mixtral")
    with pytest.raises(SettingsError, match=r"has to know the future"):
        generate(model, PROMPT, Settings("belady"), GREEDY)
    _, future = past_and_future(model, tmp_path)
    with pytest.raises(SettingsError, match=r"departs from the trace given as its future in forward pass 0"):
        list(generate(model, "Something else", Settings("belady"), GREEDY, future=future))


def test_a_calibration_of_another_model_is_refused(tiny_model: TinyModel, tmp_path: Path) -> None:
    model = loaded(tiny_model, "mixtral")
    random_trace(0, layers=2).save(tmp_path / "two.moetrace")
    with pytest.raises(SettingsError, match=r"of another model: 2 MoE layers of 8 experts, not 3 of 8"):
        generate(model, PROMPT, Settings("static", calibration=str(tmp_path / "two.moetrace")), GREEDY)


def test_dtype_auto_on_a_cpu_is_the_faster_one_and_says_so(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from moeviz.engine import dtypes

    folder = tiny_models.save("mixtral", tmp_path / "model")
    assert load(folder, device="cpu").notes == ()  # a float32 checkpoint loses nothing for speed
    values = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps(values | {"dtype": "bfloat16"}))
    for bfloat16, chosen in ((0.5, torch.bfloat16), (0.95, torch.float32)):
        times = {torch.float32: 1.0, torch.bfloat16: bfloat16}
        monkeypatch.setattr(dtypes, "_expert_ms", lambda experts, dtypes, times=times: times)
        model = load(folder, device="cpu")
        assert model.dtype == chosen
        (note,) = model.notes
        assert f"float32 1.00 ms, bfloat16 {bfloat16:.2f} ms" in note
        assert measure.facts(model).versions["notes"] == note
    monkeypatch.undo()
    assert load(folder, device="cpu").dtype in (torch.float32, torch.bfloat16)

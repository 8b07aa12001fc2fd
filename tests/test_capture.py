"""Capturing while somebody else's code runs the model: the same routing as the engine's."""

from __future__ import annotations

import copy
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from conftest import ARCHITECTURES
from transformers import AutoModelForCausalLM, AutoTokenizer, GenerationConfig

import moeviz
from moeviz.core.trace import Trace
from moeviz.engine import measure
from moeviz.engine.loader import load
from moeviz.engine.session import Options
from moeviz.errors import ModelError

TinyModel = Callable[[str], Path]
PROMPT = "What do the routers choose?"


@pytest.mark.parametrize("name", ARCHITECTURES)
def test_it_sees_what_the_engine_sees(name: str, tiny_model: TinyModel) -> None:
    folder = tiny_model(name)
    tokenizer = AutoTokenizer.from_pretrained(folder)
    model = AutoModelForCausalLM.from_pretrained(
        folder, dtype=torch.float32, experts_implementation="eager"
    ).eval()
    with moeviz.capture(model, tokenizer) as captured:
        ids = tokenizer(PROMPT, return_tensors="pt")["input_ids"]
        model.generate(ids, max_new_tokens=6, min_new_tokens=6, do_sample=False)
    trace = captured.trace()
    expected, _ = measure.record(
        load(folder, device="cpu"), PROMPT, measure.RESIDENT, Options(6, 0.0, stop_at_end=False)
    )
    for field in ("experts", "token_ids", "phase", "forward_pass"):
        assert (getattr(trace, field) == getattr(expected, field)).all(), field
    assert trace.weights == pytest.approx(expected.weights, abs=1e-6)
    assert (trace.num_experts, trace.expert_bytes, trace.texts) == (
        expected.num_experts,
        expected.expert_bytes,
        expected.texts,
    )
    assert not model._forward_hooks
    assert not model._forward_pre_hooks


def test_what_cannot_be_captured_is_refused(tiny_model: TinyModel) -> None:
    llama = AutoModelForCausalLM.from_pretrained(tiny_model("llama"))
    with pytest.raises(ModelError, match="LlamaForCausalLM has no experts"), moeviz.capture(llama):
        pass
    model = AutoModelForCausalLM.from_pretrained(tiny_model("mixtral"), experts_implementation="eager")
    with moeviz.capture(model) as captured:
        with pytest.raises(ModelError, match="nothing was captured"):
            captured.trace()
        with pytest.raises(ModelError, match="needs input_ids or inputs_embeds"):
            model(labels=torch.ones((2, 3), dtype=torch.long))


@pytest.fixture
def mixtral(tiny_model: TinyModel) -> Any:
    return AutoModelForCausalLM.from_pretrained(
        tiny_model("mixtral"), dtype=torch.float32, experts_implementation="eager"
    ).eval()


IDS = torch.tensor([[5, 9, 17, 33, 2]])
GREEDY = {"max_new_tokens": 5, "min_new_tokens": 5, "do_sample": False, "pad_token_id": 0}


def alone(model: Any, ids: torch.Tensor, **more: Any) -> Trace:
    with moeviz.capture(model) as captured:
        model.generate(ids, **(GREEDY | more))
    return captured.trace()


def same_routing(a: Trace, b: Trace) -> bool:
    return a.token_ids.tolist() == b.token_ids.tolist() and (a.experts == b.experts).all()


def test_a_batch_is_a_sequence_each_and_padding_is_no_routing(mixtral: Any) -> None:
    short, long = IDS[:, :2], IDS
    batch = torch.cat([torch.nn.functional.pad(short, (3, 0)), long])
    mask = torch.tensor([[0, 0, 0, 1, 1], [1, 1, 1, 1, 1]])
    with moeviz.capture(mixtral) as captured:
        mixtral.generate(batch, attention_mask=mask, **GREEDY)
    trace = captured.trace()
    assert trace.sequences() == [0, 1]
    assert captured.report == ["left out 3 tokens of padding"]
    for number, ids in enumerate((short, long)):
        own = trace.of_sequence(number)
        assert own is not None
        assert same_routing(own, alone(mixtral, ids))
    assert trace.forward_pass.tolist() == [0] * 7 + [1, 1, 2, 2, 3, 3, 4, 4]


def test_a_text_that_ended_is_not_padded_with_routing(mixtral: Any) -> None:
    """generate goes on with padding for it, under a mask of ones, until every text of the batch has ended."""
    batch = torch.cat([IDS, IDS.flip(1)])
    free = {"min_new_tokens": 0, "max_new_tokens": 8}
    first, second = (mixtral.generate(ids, **(GREEDY | free))[0, 5:].tolist() for ids in batch.split(1))
    end = next(token for token in first[:4] if token not in second)
    for use_cache in (True, False):
        with moeviz.capture(mixtral) as captured:
            mixtral.generate(batch, **(GREEDY | free), eos_token_id=end, use_cache=use_cache)
        trace = captured.trace()
        for number, ids in enumerate(batch.split(1)):
            own = trace.of_sequence(number)
            assert own is not None
            assert same_routing(own, alone(mixtral, ids, **free, eos_token_id=end))
        assert any("of texts that had ended while others" in line for line in captured.report)


def test_the_last_piece_of_a_prompt_may_be_one_token(mixtral: Any) -> None:
    pieces = alone(mixtral, IDS, prefill_chunk_size=2)
    assert pieces.phase.tolist() == [0] * 5 + [1] * 4
    assert same_routing(pieces, alone(mixtral, IDS))


def test_a_text_that_ended_goes_on_in_the_next_turn(mixtral: Any) -> None:
    """A conversation of a batch on one cache: what was said before is not computed again."""
    batch = torch.cat([IDS, IDS.flip(1)])
    end = mixtral.generate(IDS, **GREEDY)[0, 5].item()
    free = GREEDY | {"min_new_tokens": 0, "eos_token_id": end, "return_dict_in_generate": True}
    with moeviz.capture(mixtral) as captured:
        said = mixtral.generate(batch, **free)
        more = torch.cat([said.sequences, batch], 1)
        mixtral.generate(
            more, past_key_values=said.past_key_values, attention_mask=torch.ones_like(more), **GREEDY
        )
    own = captured.trace().of_sequence(0)
    assert own is not None
    last = said.sequences[0, -1:].tolist()  # was not computed in the turn before
    assert own.token_ids[:11].tolist() == [*IDS[0].tolist(), *last, *IDS[0].tolist()]
    assert own.phase.tolist() == [0] * 11 + [1] * 4


def test_padding_is_told_by_masks_of_any_form(mixtral: Any) -> None:
    """A static cache has masks of who attends to whom, and no others."""
    batch = torch.cat([torch.nn.functional.pad(IDS[:, :2], (3, 0)), IDS])
    mask = torch.tensor([[0, 0, 0, 1, 1], [1, 1, 1, 1, 1]])
    traces = []
    for more in ({}, {"cache_implementation": "static"}):
        with moeviz.capture(mixtral) as captured:
            mixtral.generate(batch, attention_mask=mask, **GREEDY, **more)
        traces.append(captured.trace())
    assert traces[0].tokens == traces[1].tokens == 2 + 5 + 8
    assert same_routing(*traces)
    with moeviz.capture(mixtral) as captured, torch.no_grad():
        mixtral(batch, mask)  # by position
    assert captured.trace().tokens == 7
    forward = mixtral.forward
    mixtral.forward = lambda *args, **kwargs: forward(*args, **kwargs)  # as wrappers do, without names
    with moeviz.capture(mixtral) as captured, torch.no_grad():
        mixtral(batch, attention_mask=mask)
    assert captured.trace().tokens == 7


def test_a_prefix_that_is_computed_again_is_not_new(mixtral: Any) -> None:
    with_cache, without = alone(mixtral, IDS), alone(mixtral, IDS, use_cache=False)
    assert without.phase.tolist() == with_cache.phase.tolist() == [0] * 5 + [1] * 4
    assert same_routing(with_cache, without)
    assert any("tokens of prefixes that were computed again" in line for line in without.notes)
    with moeviz.capture(mixtral) as captured, torch.no_grad():  # a loop of one's own that keeps nothing
        ids = IDS
        for _ in range(5):
            ids = torch.cat([ids, mixtral(ids).logits[:, -1:].argmax(-1)], 1)
    assert same_routing(captured.trace(), without)


def test_drafts_that_a_loop_of_ones_own_takes_back_are_left_out(mixtral: Any) -> None:
    plain = alone(mixtral, IDS)
    with moeviz.capture(mixtral) as captured, torch.no_grad():
        cache = mixtral(IDS, use_cache=True).past_key_values
        for at in range(5, 9):
            draft = torch.cat([torch.tensor([plain.token_ids[at : at + 1].tolist()]), IDS[:, :2]], 1)
            mixtral(draft, past_key_values=cache)
            cache.crop(-2)
        mixtral(IDS[:, :1], past_key_values=cache)  # where the last drafts are seen to be gone
    drafted = captured.trace()
    assert drafted.token_ids[:9].tolist() == plain.token_ids.tolist()
    assert (drafted.experts[:9] == plain.experts).all()
    assert drafted.notes == ("left out 8 tokens of drafts that were taken back from the cache",)


def test_texts_that_share_a_computed_prefix_are_requests_of_their_own(mixtral: Any) -> None:
    with moeviz.capture(mixtral) as captured:
        with torch.no_grad():
            prefix = mixtral(IDS, use_cache=True).past_key_values
        for more in (3, 7):
            ids = torch.cat([IDS, torch.tensor([[more, 4]])], 1)
            mixtral.generate(ids, past_key_values=copy.deepcopy(prefix), **GREEDY)
    trace = captured.trace()
    assert not trace.notes
    assert trace.sequences() == [0, 1]
    for number, more in enumerate((3, 7)):
        own = trace.of_sequence(number)
        assert own is not None
        whole = alone(mixtral, torch.cat([IDS, torch.tensor([[more, 4]])], 1))
        assert own.token_ids[-6:].tolist() == whole.token_ids[-6:].tolist()
        assert own.phase[-6:].tolist() == whole.phase[-6:].tolist()
        assert (own.experts[-6:] == whole.experts[-6:]).all()


def test_calls_follow_each_other_as_requests(mixtral: Any) -> None:
    with moeviz.capture(mixtral) as captured:
        mixtral.generate(IDS, **GREEDY)
        mixtral.generate(IDS[:, :3], **GREEDY)
    trace = captured.trace()
    assert trace.sequences() == [0, 1]
    second = trace.of_sequence(1)
    assert second is not None
    assert same_routing(second, alone(mixtral, IDS[:, :3]))


def test_beam_search_is_refused_in_words(mixtral: Any) -> None:
    with moeviz.capture(mixtral), pytest.raises(ModelError, match="cannot follow beam search"):
        mixtral.generate(IDS, num_beams=2, **GREEDY)
    with moeviz.capture(mixtral), pytest.raises(ModelError, match="cannot follow beam search"):
        mixtral.generate(IDS, GenerationConfig(num_beams=2, **GREEDY))  # by position
    assert mixtral.generate(IDS, num_beams=2, **GREEDY).shape[1] == 10


def test_assisted_generation_is_refused_in_words(mixtral: Any) -> None:
    """Its passes load experts for drafts that the model rejects, so a replay of the text would have too few
    misses; and drafts that the model makes for itself would be taken for text."""
    for drafts in (
        {"assistant_model": mixtral},
        {"prompt_lookup_num_tokens": 3},
        {"assistant_early_exit": 1},
        {"use_mtp": True},
    ):
        refusal = f"cannot follow assisted generation \\({next(iter(drafts))}\\).*Generate without it"
        with moeviz.capture(mixtral) as captured:
            with pytest.raises(ModelError, match=refusal):
                mixtral.generate(IDS, **GREEDY, **drafts)
            mixtral.generate(IDS, **GREEDY)
        assert same_routing(captured.trace(), alone(mixtral, IDS))
    mixtral.generation_config.prompt_lookup_num_tokens = 3
    with moeviz.capture(mixtral), pytest.raises(ModelError, match="cannot follow assisted generation"):
        mixtral.generate(IDS, **GREEDY)


def test_texts_packed_in_one_row_are_refused_in_words(mixtral: Any) -> None:
    """generate_batch packs them, in a thread that only logs what a pass raises: the trace says it again."""
    packed = {"cu_seq_lens_q": torch.tensor([0, 2, 5]), "position_ids": torch.tensor([[0, 1, 0, 1, 2]])}
    with moeviz.capture(mixtral) as captured:
        with pytest.raises(ModelError, match=r"packed in one row, as generate_batch does.*generate\(\)"):
            mixtral(IDS, **packed)
        with pytest.raises(ModelError, match="packed in one row"):
            captured.trace()


def test_embeddings_are_captured_without_ids(mixtral: Any) -> None:
    with moeviz.capture(mixtral) as captured, torch.no_grad():
        mixtral(inputs_embeds=mixtral.get_input_embeddings()(IDS))
    trace = captured.trace()
    assert trace.token_ids is None
    assert (trace.experts == alone(mixtral, IDS).experts[:5]).all()


def test_a_layer_that_runs_for_some_tokens_only_is_left_out_there(mixtral: Any) -> None:
    experts = mixtral.model.layers[1].mlp.experts
    with moeviz.capture(mixtral) as captured, torch.no_grad():
        mixtral(IDS)
        whole = captured.trace()
        captured._passes[-1].chosen[1] = tuple(part[:2] for part in captured._passes[-1].chosen[1])
        del captured._passes[-1].chosen[2]
    trace = captured.trace()
    assert (trace.experts[:, 1:] == -1).all()
    assert (trace.experts[:, 0] == whole.experts[:, 0]).all()
    assert any("layer 1 ran for some tokens" in line for line in trace.notes)
    assert experts is captured.modules[1]


def test_verify_names_layers_that_choose_by_more_than_the_routers_output(
    tiny_model: TinyModel, mixtral: Any
) -> None:
    with moeviz.capture(mixtral, verify=True) as captured:
        mixtral.generate(IDS, **GREEDY)
    assert captured.report == ["every token ran the highest experts of its routers' output"]
    deepseek = AutoModelForCausalLM.from_pretrained(
        tiny_model("deepseek_v3"), dtype=torch.float32, experts_implementation="eager"
    ).eval()
    with moeviz.capture(deepseek, verify=True) as captured:
        deepseek.generate(IDS, **GREEDY)
    assert any("tokens ran other experts than the highest" in line for line in captured.report)
    assert captured.trace().layer_indices == (1, 2, 3)


def test_tokens_of_a_picture_are_routed_as_text_is() -> None:
    """A picture stands in the prompt as tokens of its own, here four, each of which the routers send to
    experts: they are in the trace, in their places, with what the router itself chose."""
    from transformers import Qwen3VLMoeConfig, Qwen3VLMoeForConditionalGeneration

    torch.manual_seed(0)
    text = {
        "vocab_size": 64,
        "hidden_size": 32,
        "intermediate_size": 32,
        "num_hidden_layers": 2,
        "num_attention_heads": 2,
        "num_key_value_heads": 1,
        "head_dim": 16,
        "num_experts": 8,
        "num_experts_per_tok": 2,
        "moe_intermediate_size": 16,
        "decoder_sparse_step": 1,
        "rope_parameters": {"rope_type": "default", "mrope_section": [2, 3, 3], "rope_theta": 1e4},
        "pad_token_id": 0,
    }
    vision = {
        "depth": 1,
        "hidden_size": 16,
        "intermediate_size": 16,
        "num_heads": 2,
        "patch_size": 2,
        "temporal_patch_size": 1,
        "spatial_merge_size": 2,
        "out_hidden_size": 32,
        "num_position_embeddings": 16,
        "deepstack_visual_indexes": [0],
        "in_channels": 3,
    }
    marks = {
        "image_token_id": 60,
        "video_token_id": 61,
        "vision_start_token_id": 62,
        "vision_end_token_id": 63,
    }
    model = Qwen3VLMoeForConditionalGeneration(
        Qwen3VLMoeConfig(text_config=text, vision_config=vision, **marks)
    ).eval()
    ids = torch.tensor([[1, 62, 60, 60, 60, 60, 63, 2, 3]])
    seen = {
        "input_ids": ids,
        "attention_mask": torch.ones_like(ids),
        "pixel_values": torch.randn(16, 12),  # 4 x 4 patches of 2 x 2 points in three colours
        "image_grid_thw": torch.tensor([[1, 4, 4]]),
        "mm_token_type_ids": (ids == 60).long(),
    }
    with moeviz.capture(model, verify=True) as captured:
        model.generate(**seen, max_new_tokens=3, do_sample=False, eos_token_id=None)
    trace = captured.trace()
    assert trace.token_ids[:9].tolist() == ids[0].tolist()
    assert trace.phase.tolist() == [0] * 9 + [1, 1]
    chosen: list[torch.Tensor] = []
    for layer in model.model.language_model.layers:
        layer.mlp.gate.register_forward_hook(lambda module, args, output: chosen.append(output[2]))
    with torch.no_grad():
        model(**seen)
    own = np.stack([np.sort(one.numpy(), -1) for one in chosen], 1)  # [token, layer, k]
    np.testing.assert_array_equal(np.sort(trace.experts[:9], -1), own)

"""Importers: every format on a small file in exactly its form, and on what is wrong with it."""

from __future__ import annotations

import base64
import gzip
import io
import json
import struct
import zipfile
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from conftest import random_trace
from hypothesis import example, given, settings
from hypothesis import strategies as st

from moeviz.core.replay import replay
from moeviz.core.run import HIT
from moeviz.core.settings import Settings
from moeviz.core.trace import Trace
from moeviz.errors import TraceError
from moeviz.files.guarded import open_guarded
from moeviz.files.importers import Counted, Found, Imported, Options, load_importer, names, open_content, read
from moeviz.files.importers.registry import Watched
from moeviz.files.moetrace import to_bytes

CASES = Path(__file__).parent / "cases"
IDS = random_trace(3, tokens=12, prompt=1).experts  # [12, 3, 2] of 8
EIGHT = Options(experts=8)


def npy(array: np.ndarray) -> bytes:
    buffer = io.BytesIO()
    np.save(buffer, array)
    return buffer.getvalue()


def npz(**arrays: np.ndarray) -> bytes:
    buffer = io.BytesIO()
    np.savez_compressed(buffer, **arrays)
    return buffer.getvalue()


def parquet(table: pd.DataFrame) -> bytes:
    buffer = io.BytesIO()
    table.to_parquet(buffer)
    return buffer.getvalue()


def torch_file(content: object) -> bytes:
    import torch

    buffer = io.BytesIO()
    torch.save(content, buffer)
    return buffer.getvalue()


def zipped(name: str) -> bytes:
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w") as archive:
        archive.writestr(name, "hello")
    return buffer.getvalue()


def lines(*values: object) -> bytes:
    return "".join(json.dumps(value) + "\n" for value in values).encode()


def each(**names: str) -> list[dict[str, object]]:
    """An object for each token and layer of IDS; names: its keys for token, layer and experts, and constant
    others.
    """
    return [
        {names["token"]: token, names["layer"]: layer, names["experts"]: ids}
        for token, layers in enumerate(IDS.tolist())
        for layer, ids in enumerate(layers)
    ]


def long_table(weights: bool = True) -> pd.DataFrame:
    place = np.indices(IDS.shape).reshape(3, -1)
    table = pd.DataFrame({"token": place[0], "layer": place[1], "rank": place[2], "expert": IDS.ravel()})
    return table.assign(weight=np.tile([0.75, 0.25], IDS.size // 2)) if weights else table


def wide_table() -> pd.DataFrame:
    place = np.indices(IDS.shape[:2]).reshape(2, -1)
    own = IDS.reshape(-1, 2)
    return pd.DataFrame({"pos": place[0], "layer_id": place[1], "expert_0": own[:, 0], "expert_1": own[:, 1]})


def policylang(scores: object = (0.75, 0.25)) -> bytes:
    header = {"model_name": "m", "num_layers": 3, "num_experts": 8, "top_k": 2, "num_entries": 36}
    return lines(header, *(row | {"s": scores} for row in each(token="t", layer="l", experts="e")))


def policylang_parquet(*names: str) -> bytes:
    rows = [
        (t, layer, ids, [0.75, 0.25])
        for t, layers in enumerate(IDS.tolist())
        for layer, ids in enumerate(layers)
    ]
    return parquet(pd.DataFrame(rows, columns=list(names)))


def routes(weights: bool = True) -> bytes:
    more = {"req_id": "r0"} | ({"topk_weights": [0.75, 0.25]} if weights else {})
    head = {"model": "m", "num_experts": 8}
    return lines(head, *(row | more for row in each(token="token_idx", layer="layer", experts="topk_ids")))


def moe_cache_lab() -> bytes:
    head = {
        "record_type": "metadata",
        "format": "moe-cache-lab",
        "format_version": 1,
        "model_id": "m",
        "num_experts": 8,
    }
    rows = each(token="token_position", layer="layer", experts="selected_experts")
    more = {"record_type": "routing_selection", "selected_probabilities": [0.7, 0.2]}
    return lines(
        head | {"experts_per_token": 2},
        *(
            row | more | {"phase": "prompt" if n < 9 else "generation", "token_id": 50 + n // 3}
            for n, row in enumerate(rows)
        ),
    )


def moe_sim() -> bytes:
    rows = each(token="token_position", layer="layer_id", experts="expert_ids")
    return lines(
        *(
            row
            | {"request_id": "a", "phase": "prefill" if n < 9 else "decode", "step_id": max(n // 3 - 2, 0)}
            for n, row in enumerate(rows)
        )
    )


def mbolt() -> bytes:
    """The first four tokens are a prompt, of which the last layer has only the last."""
    numbers = [0x544C424D, 1, 8]
    for layer in range(3):
        own = IDS[3:4, layer] if layer == 2 else IDS[:4, layer]
        numbers += [layer, 2, len(own), *own.ravel().tolist()]
    for token in range(4, 12):
        for layer in range(3):
            numbers += [layer, 2, 1, *IDS[token, layer].tolist()]
    return struct.pack(f"<{len(numbers)}i", *numbers)


def rtrace() -> bytes:
    content = b"RTRACE01" + struct.pack("<ii", 8, 0)
    for token, layers in enumerate(IDS.tolist()):
        for layer, (first, second) in enumerate(layers):
            softmax = np.full(8, 0.01, "<f4")
            softmax[first], softmax[second] = 0.6, 0.3
            content += struct.pack("<ii", token, layer) + softmax.tobytes()
    return content


def nunspark() -> bytes:
    rows = [
        {"t": 3 * t + layer, "layer": layer, "fired": ids}
        for t, one in enumerate(IDS.tolist())
        for layer, ids in enumerate(one)
    ]
    union = [{"t": 0, "layer": layer, "fired": [0, 1, 2, 3], "batch_tokens": 9} for layer in range(3)]
    return lines(*union, *(row | {"batch_tokens": 1} for row in rows))


def moe_l2() -> bytes:
    rows = [
        f"EXPERT|L{layer}|T{t}: {ids}" for t, one in enumerate(IDS.tolist()) for layer, ids in enumerate(one)
    ]
    return ("loading the model\n" + "\n".join(rows) + "\ndone").encode()


def selection_log() -> bytes:
    """As llama.cpp is patched to print it: no token numbers; a prompt of 4 first, layer by layer."""
    rows = [(layer, IDS[t, layer]) for layer in range(3) for t in range(4)]
    rows += [(layer, IDS[t, layer]) for t in range(4, 12) for layer in range(3)]
    return ("layer_id,expert_ids\n" + "\n".join(f"{layer},{a} {b}" for layer, (a, b) in rows)).encode()


def fingerprint() -> bytes:
    data = [
        {
            f"token_{t}": {
                f"layer_{n}": {"selected_experts": ids, "selected_probs": [0.7, 0.3]}
                for n, ids in enumerate(one)
            }
        }
        for t, one in enumerate(IDS.tolist())
    ]
    return json.dumps(
        {"router_data": data, "full_text": "a prompt and more", "generated_only": " and more"}
    ).encode()


def moe_beyond() -> bytes:
    head = "Layer ID,Batch Number,Token,Activated Expert IDs"
    rows = [
        f'{layer},{t},"the","{ids}"' for t, one in enumerate(IDS.tolist()) for layer, ids in enumerate(one)
    ]
    return "\n".join([head, *rows]).encode()


def route_trace() -> bytes:
    rows = ["# route_trace v1", "# model=m n_layer=3 n_expert=8 n_expert_used=2"]
    rows += [f"# layer={n} expert_bytes={100 * (n + 1)} dense_bytes=1" for n in range(3)]
    rows.append("turn,phase,step,layer,slot,expert,weight,residency,expert_bytes,dropped")
    for token, layer, rank in np.ndindex(IDS.shape):
        rows.append(f"0,{int(token > 3)},{token},{layer},{rank},{IDS[token, layer, rank]},nan,1,0,0")
    return "\n".join(rows).encode()


def sglang_record(number: int, tokens: slice, **more: object) -> dict[str, object]:
    """As the recorder dumps it: all layers of the model, a fixed width of 8, -1 where there is nothing."""
    import torch

    ids = torch.full((5, tokens.stop - tokens.start, 8), -1, dtype=torch.int32)
    ids[2:, :, :2] = torch.from_numpy(IDS[tokens].astype("int32")).transpose(0, 1)
    return {"forward_pass_id": number, "rank": 0, "topk_ids_of_layer": ids, "misc_objects": [], **more}


def sglang() -> bytes:
    records = [
        sglang_record(5, slice(9, 10), forward_mode=2),
        sglang_record(4, slice(0, 9), forward_mode=1),
        sglang_record(7, slice(10, 12), forward_mode=2),
    ]
    return torch_file({"records": records})


def sglang_answer() -> bytes:
    packed = base64.b64encode(IDS.astype("<i4").tobytes()).decode()
    return json.dumps(
        {"meta_info": {"prompt_tokens": 4, "completion_tokens": 9, "routed_experts": packed}}
    ).encode()


FORMATS: dict[
    str, tuple[str, Callable[[], bytes], Options]
] = {  # what it is -> format, a file of IDS, options
    "npy": ("vllm", lambda: npy(IDS), EIGHT),
    "npy uint8": ("vllm", lambda: npy(IDS.astype(np.uint8)), EIGHT),
    "npy big-endian, Fortran": ("vllm", lambda: npy(np.asfortranarray(IDS.astype(">i4"))), EIGHT),
    "npy layer first": ("vllm", lambda: npy(IDS.transpose(1, 0, 2)), Options(8, axes="layer,token,k")),
    "npz": ("vllm", lambda: npz(routed_experts=IDS, weights=np.ones(IDS.shape, np.float16)), EIGHT),
    "npz prompt and rest": (
        "vllm",
        lambda: npz(prompt_routed_experts=IDS[:4], routed_experts=IDS[4:]),
        EIGHT,
    ),
    "torch tensor": ("torch", lambda: torch_file(__import__("torch").from_numpy(IDS)), EIGHT),
    "sglang": ("sglang", sglang, EIGHT),
    "sglang answer": ("answers", sglang_answer, EIGHT),
    "vllm answer": (
        "answers",
        lambda: json.dumps({"choices": [{"routed_experts": IDS.tolist()}]}).encode(),
        EIGHT,
    ),
    "atlas": (
        "atlas",
        lambda: lines({"num_experts": 8}, {"id": 1, "routing": IDS.tolist(), "prompt_tokens": 4}),
        EIGHT,
    ),
    "csv": ("table", lambda: long_table().to_csv(index=False).encode(), EIGHT),
    "csv in any order": (
        "table",
        lambda: long_table(False).sample(frac=1, random_state=0).to_csv(index=False).encode(),
        EIGHT,
    ),
    "csv semicolons": ("table", lambda: long_table().to_csv(index=False, sep=";").encode(), EIGHT),
    "csv capitals": (
        "table",
        lambda: long_table().rename(columns=str.upper).to_csv(index=False).encode(),
        EIGHT,
    ),
    "csv no rank": ("table", lambda: long_table().drop(columns="rank").to_csv(index=False).encode(), EIGHT),
    "csv wide": ("table", lambda: wide_table().to_csv(index=False).encode(), EIGHT),
    "parquet": ("table", lambda: parquet(long_table()), EIGHT),
    "routes": ("routes", routes, Options()),
    "routes without weights": ("routes", lambda: routes(False), Options()),
    "routes as rows": ("routes", lambda: long_table().to_json(orient="records").encode(), EIGHT),
    "lattice": (
        "routes",
        lambda: lines(*each(token="token_idx", layer="layer_idx", experts="selected_ids")),
        EIGHT,
    ),
    "moe-sim": ("routes", moe_sim, EIGHT),
    "moe-cache-lab": ("moe-cache-lab", moe_cache_lab, Options()),
    "policylang": ("policylang", policylang, Options()),
    "policylang all scores": ("policylang", lambda: policylang([0.5] * 8), Options()),
    "policylang no scores": ("policylang", lambda: policylang(None), Options()),
    "policylang parquet": ("policylang", lambda: policylang_parquet("t", "l", "e", "s"), EIGHT),
    "policylang parquet, long names": (
        "policylang",
        lambda: policylang_parquet("token_idx", "layer_idx", "selected_experts", "router_scores"),
        EIGHT,
    ),
    "mbolt": ("mbolt", mbolt, Options()),
    "rtrace": ("rtrace", rtrace, Options(top_k=2)),
    "nunspark": ("nunspark", nunspark, EIGHT),
    "moe-l2": ("moe-l2", moe_l2, EIGHT),
    "selection log": ("table", selection_log, EIGHT),
    "fingerprint": ("fingerprints", fingerprint, EIGHT),
    "moe-beyond": ("moe-beyond", moe_beyond, EIGHT),
    "route trace": ("big-moe-on-edge", route_trace, Options()),
    "lists": ("lists", lambda: json.dumps(IDS.tolist()).encode(), EIGHT),
    "npz an array a layer": (
        "vllm",
        lambda: npz(**{f"layer_{n}": IDS[:, n] for n in range(3)}),
        EIGHT,
    ),
    "torch a tensor a layer": (
        "torch",
        lambda: torch_file(tuple(__import__("torch").from_numpy(IDS[:, n].copy()) for n in range(3))),
        EIGHT,
    ),
    "csv spreadsheet": (
        "table",
        lambda: long_table().to_csv(index=False, sep=";", decimal=",").encode(),
        EIGHT,
    ),
    "csv names of layers": (
        "table",
        lambda: (
            long_table()
            .assign(layer=lambda table: "model.layers." + table.layer.astype(str) + ".mlp")
            .to_csv()
            .encode()
        ),
        EIGHT,
    ),
    "csv top1_expert": (
        "table",
        lambda: (
            wide_table()
            .rename(columns={"expert_0": "top1_expert", "expert_1": "top2_expert"})
            .to_csv(index=False)
            .encode()
        ),
        EIGHT,
    ),
    "csv a row a token": (
        "table",
        lambda: (
            pd.DataFrame({f"layer_{n}_expert_{r}": IDS[:, n, r] for n in range(3) for r in range(2)})
            .to_csv(index_label="token")
            .encode()
        ),
        EIGHT,
    ),
    "csv a row a token, lists": (
        "table",
        lambda: (
            pd.DataFrame({f"layer_{n}": IDS[:, n].tolist() for n in range(3)})
            .to_csv(index_label="token")
            .encode()
        ),
        EIGHT,
    ),
    "csv steps": (
        "table",
        lambda: long_table(False).rename(columns={"token": "step"}).to_csv(index=False).encode(),
        EIGHT,
    ),
    "routes, names of layers": (
        "routes",
        lambda: lines(
            *(
                {"token": t, "layer": f"model.layers.{n}.mlp.gate", "experts": ids}
                for t, one in enumerate(IDS.tolist())
                for n, ids in enumerate(one)
            )
        ),
        EIGHT,
    ),
    "gz": ("routes", lambda: gzip.compress(routes()), Options()),
}
PROMPT = {  # how many of the tokens are the prompt, where the format says it
    **dict.fromkeys(
        ("npz prompt and rest", "sglang answer", "atlas", "mbolt", "selection log", "route trace"), 4
    ),
    **dict.fromkeys(("moe-sim", "moe-cache-lab"), 3),
    "sglang": 9,
}


@pytest.mark.parametrize("kind", FORMATS)
def test_every_format_is_found_by_its_content_and_read(kind: str) -> None:
    format, make, options = FORMATS[kind]
    found = read("file", make(), options)
    expected = IDS.copy()
    if kind == "mbolt":
        expected[:3, 2] = -1
    assert found.format == format
    assert (found.trace.experts == expected).all()
    assert found.trace.num_experts == 8
    assert int((found.trace.phase == 0).sum()) == PROMPT.get(kind, 0)
    assert found.trace.notes == tuple(found.report)
    assert (replay(found.trace, Settings(slots=4)).accesses.outcome == HIT).any()


def prompt_of_four(**columns: object) -> dict[str, bytes]:
    """The same in a table, in JSON lines, in arrays."""
    table = long_table(False).assign(**columns)
    own = table[table.layer.eq(0) & table["rank"].eq(0)]
    arrays = {name: own[name].to_numpy() for name in columns}
    arrays = {name: array.astype("U") if array.dtype.kind == "O" else array for name, array in arrays.items()}
    return {
        "a.csv": table.to_csv(index=False).encode(),
        "a.json": table.to_json(orient="records").encode(),
        "a.npz": npz(experts=IDS, **arrays),
    }


@pytest.mark.parametrize(
    "columns",
    [
        {"phase": np.repeat(["prefill", "decode"], (24, 48))},
        {"phases": np.repeat(["PREFILL", "DECODE"], (24, 48))},
        {"is_prefill": np.repeat([True, False], (24, 48))},
        {"is_decode": np.repeat([0.0, 1.0], (24, 48))},
        {"prompt_len": 4},
    ],
)
def test_however_a_file_says_where_the_prompt_ends_it_is_used(columns: dict[str, object]) -> None:
    files = prompt_of_four(**columns)
    if "prompt_len" in columns:
        files["a.npz"] = npz(experts=IDS, prompt_len=np.array(4))
        files["a.pt"] = torch_file({"experts": __import__("torch").from_numpy(IDS), "prompt_len": 4})
        files["b.json"] = json.dumps({"experts": IDS.tolist(), "prompt_len": 4}).encode()
        files["a.jsonl"] = lines({"prompt_len": 4}, *each(token="token", layer="layer", experts="experts"))
    for name, content in files.items():
        found = read(name, content, EIGHT)
        assert (found.trace.experts == IDS).all(), name
        assert found.trace.phase.tolist() == [0] * 4 + [1] * 8, name
        assert found.trace.forward_pass.tolist() == [0] * 4 + list(range(1, 9)), name
        assert not any("not used" in line for line in found.report), (name, found.report)


@pytest.mark.parametrize(
    ("first", "phases"),
    [
        ((1, 1), [0, 0, 1, 1, 1, 1] * 2),
        ((0, 6), [0, 0, 1, 1, 1, 1] * 2),  # on from request to request
        ((2, 2), [1] * 12),  # no prompt was recorded
        ((1, 3), [1] * 12),  # nobody knows
    ],
)
def test_a_length_of_the_prompt_counts_from_where_the_numbers_of_tokens_begin(
    first: tuple[int, int], phases: list[int]
) -> None:
    """Two requests of six tokens, the first two of each its prompt."""
    rows = [
        {"request": t // 6, "token": first[t // 6] + t % 6, "layer": layer, "experts": ids, "prompt_len": 2}
        for t, one in enumerate(IDS.tolist())
        for layer, ids in enumerate(one)
    ]
    table = pd.DataFrame(rows).explode("experts").rename(columns={"experts": "expert"})
    for name, content in (("a.jsonl", lines(*rows)), ("a.csv", table.to_csv(index=False).encode())):
        found = read(name, content, EIGHT)
        assert (found.trace.experts == IDS).all()
        assert found.trace.phase.tolist() == phases
        unknown = any("lengths of prompts are not used" in line for line in found.report)
        assert unknown == (first == (1, 3))


def test_an_empty_cell_marks_no_expert() -> None:
    rows = "token,layer,e0,e1,e2\n0,0,1,,\n0,1,,1,\n1,0,,,1\n1,1,1,,\n"
    assert read("m.csv", rows.encode()).trace.experts[..., 0].tolist() == [[0, 1], [2, 0]]


def test_a_key_without_a_name_and_a_weight_of_no_layer_are_named_as_not_used() -> None:
    routes = lines({"": 3, "token": 0, "layer": 0, "experts": [1, 2]})
    assert "keys not used: (without a name)" in read("a.jsonl", routes).report
    lists = lines({"": 3, "routing": [[[1, 2]], [[3, 0]]]})
    assert any("not used: (without a name)" in line for line in read("a.jsonl", lists).report)
    columns = b"token,weight,layer_0,layer_1\n0,0.5,1,2\n"
    assert "columns not used: weight" in read("a.csv", columns).report


def test_what_only_has_the_name_of_a_number_is_left_out() -> None:
    """A dict's experts may be how many there are, and a header's prompt_tokens the tokens."""
    import torch

    content = torch_file({"topk_ids": torch.from_numpy(IDS), "experts": 8, "num_experts": 8})
    found = read("a.pt", content)
    assert (found.trace.experts == IDS).all()
    assert "keys not used: experts" in found.report
    rows = each(token="token", layer="layer", experts="experts")
    found = read("a.jsonl", lines({"prompt_tokens": ["In", "the"]}, *rows), EIGHT)
    assert "keys of the header not used: prompt_tokens" in found.report


def test_a_batch_of_arrays_is_read_with_its_mask_and_its_requests_names() -> None:
    """Padding at the left is no text, and stands in [sequence, token] as the experts do."""
    batch = np.stack([IDS, np.concatenate([np.broadcast_to(np.int16([6, 7]), (3, 3, 2)), IDS[:9]])])
    mask = np.ones((2, 12), int)
    mask[1, :3] = 0
    content = npz(experts=batch, attention_mask=mask, input_ids=np.arange(24).reshape(2, 12))
    found = read("batch.npz", content, Options(8, axes="sequence,token,layer,k"))
    assert (found.trace.experts == np.concatenate([IDS, IDS[:9]])).all()
    assert found.trace.sequence is not None
    assert found.trace.sequence.tolist() == [0] * 12 + [1] * 9
    assert found.trace.token_ids is not None
    assert found.trace.token_ids.tolist() == [*range(12), *range(15, 24)]
    assert any("left out 3 rows of padding" in line for line in found.report)
    named = read("n.npz", npz(experts=IDS, request_ids=np.repeat(["b", "a"], 6)), EIGHT).trace
    assert named.sequence is not None
    assert named.sequence.tolist() == [0] * 6 + [1] * 6


def test_requests_whose_tokens_alternate_in_an_array_keep_theirs() -> None:
    """A token without an expert is in the middle of its text though its request's rows stand apart, and the
    prompt is counted in each request."""
    ids = IDS.copy()
    ids[5] = -1  # of the second request, which has five more
    content = npz(experts=ids, request_ids=np.array([7, 3] * 6), token_ids=np.arange(12))
    found = read("a.npz", content, Options(8, prompt_tokens=2))
    order = [*range(0, 12, 2), *range(1, 12, 2)]
    assert found.trace.sequence is not None
    assert found.trace.sequence.tolist() == [0] * 6 + [1] * 6
    assert found.trace.token_ids is not None
    assert found.trace.token_ids.tolist() == order
    assert (found.trace.experts == ids[order]).all()
    assert found.trace.phase.tolist() == [0, 0, 1, 1, 1, 1] * 2
    assert any("tokens of several requests alternate" in line for line in found.report)


def test_an_empty_batch_is_named() -> None:
    with pytest.raises(TraceError, match=r"the array 'experts' is empty: \(6, 0, 2\)"):
        read("b.npz", npz(experts=np.zeros((2, 3, 0, 2), int)), Options(axes="sequence,token,layer,k"))


def test_one_layers_routes_are_told_from_counts_by_their_axes() -> None:
    assert isinstance(open_content("one.npy", npy(IDS[:, 0])), Counted)
    found = read("one.npy", npy(IDS[:, 0]), Options(8, axes="token,k"))
    assert (found.trace.experts[:, 0] == IDS[:, 0]).all()


def test_probabilities_stay_what_they_are() -> None:
    """A softmax of a softmax would be flatter than what the router gave."""
    numbers = np.full((5, 2, 4), 0.1, np.float32)
    numbers[..., 3], numbers[..., 1] = 0.5, 0.3
    found = read("p.npy", npy(numbers), Options(top_k=2))
    assert found.trace.weights is not None
    assert found.trace.experts[0, 0].tolist() == [3, 1]
    assert found.trace.weights[0, 0].tolist() == pytest.approx([0.5, 0.3])
    assert any("sum to 1, as probabilities do" in line for line in found.report)
    numbers[0] = 0  # padding
    padded = read("p.npy", npy(numbers), Options(top_k=2)).trace
    assert padded.weights is not None
    assert padded.weights[1, 0].tolist() == pytest.approx([0.5, 0.3])


def test_token_ids_of_vllms_requests_and_answers() -> None:
    """The last token that was generated has no routes: nothing was computed of it."""
    prompt, generated = np.arange(4) + 50, np.arange(9) + 70
    expected = [*range(50, 54), *range(70, 78)]
    arrays = npz(
        prompt_routed_experts=IDS[:4], routed_experts=IDS[4:], prompt_token_ids=prompt, token_ids=generated
    )
    choice = {"text": "x", "token_ids": generated.tolist(), "routed_experts": IDS[4:].tolist()}
    answer = {
        "model": "Qwen/x",
        "prompt_token_ids": prompt.tolist(),
        "prompt_routed_experts": IDS[:4].tolist(),
        "choices": [choice],
        "service_tier": None,
    }
    for name, content in (("r.npz", arrays), ("r.json", json.dumps(answer).encode())):
        found = read(name, content, EIGHT)
        assert found.trace.token_ids is not None
        assert found.trace.token_ids.tolist() == expected
        assert found.trace.phase.tolist() == [0] * 4 + [1] * 8
    assert found.trace.model == "Qwen/x"
    assert "keys of the answer not used: service_tier, choices.text" in found.report


def test_an_answer_with_routes_of_its_end_only_takes_no_others_phases_and_ids() -> None:
    """Of a prompt of 4 tokens, whose begin was cached or is not said, and 9 that were generated."""
    choice = {"token_ids": list(range(70, 79)), "prompt_token_ids": [50, 51, 52, 53]}
    for rows, prompt in ((9, 1), (8, 0)):
        choice["routed_experts"] = IDS[-rows:].tolist()
        answer = {"usage": {"prompt_tokens": 4, "completion_tokens": 9}, "choices": [choice]}
        found = read("r.json", json.dumps(answer).encode(), EIGHT)
        assert found.trace.phase.tolist() == [0] * prompt + [1] * 8
        assert found.trace.token_ids is None
        assert "token ids are left out: routes are not as many" in found.report
    beside = {"prompt_tokens": 4, "completion_tokens": 9, "choices": [{"routed_experts": IDS.tolist()}]}
    found = read("r.json", json.dumps(beside).encode(), EIGHT)
    assert found.trace.phase.tolist() == [0] * 4 + [1] * 8
    assert not any("not used" in line for line in found.report)


def test_lists_with_the_layer_first_are_turned_where_that_is_said() -> None:
    turned = IDS.transpose(1, 0, 2).tolist()
    for row, options in (
        ({"experts": turned, "n_layers": 3}, EIGHT),
        ({"experts": turned}, Options(8, axes="layer,token,k")),
    ):
        found = read("a.jsonl", lines(row), options)
        assert (found.trace.experts == IDS).all()
        assert "lists are taken as layer,token,k" in found.report
    unlikely = read("a.jsonl", lines({"experts": turned}), EIGHT)
    assert any("12 layers of 3 tokens, which is unlikely" in line for line in unlikely.report)


def test_nested_lists_may_be_ragged_and_several_requests() -> None:
    found = read("r.json", b"[[[1, 2], [3]], [[4, 5], []]]", EIGHT)
    assert "fewer than 2 experts in 2 of 4 choices; nothing is put in their place" in found.report
    ragged = found.trace
    assert ragged.experts.tolist() == [[[1, 2], [3, -1]], [[4, 5], [-1, -1]]]
    several = read("s.json", json.dumps([IDS.tolist(), IDS[:3].tolist()]).encode(), EIGHT).trace
    assert several.sequence is not None
    assert several.sequence.tolist() == [0] * 12 + [1] * 3


def test_nested_lists_may_stand_a_line_each() -> None:
    """A line is [layer][k] of a token, [token][layer][k] of a request, or [k] where a model has one layer."""
    assert (read("t.jsonl", lines(*IDS.tolist()), EIGHT).trace.experts == IDS).all()
    several = read("r.jsonl", lines(IDS.tolist(), IDS[:3].tolist()), EIGHT).trace
    assert several.sequence is not None
    assert several.sequence.tolist() == [0] * 12 + [1] * 3
    one = read("k.jsonl", lines(*IDS[:, 0].tolist()), Options(8, axes="token,k")).trace
    assert (one.experts == IDS[:, :1]).all()
    with pytest.raises(TraceError, match="line 2 is not JSON"):
        read("b.jsonl", b"[[1, 2]]\n[[3,\n[[1, 2]]\n", EIGHT)


def test_more_lines_of_numbers_than_layers_want_a_head() -> None:
    with pytest.raises(
        TraceError, match=r"more than 512 lines of numbers without a head.*Routes need a head"
    ):
        read("n.csv", b"".join(b"%d,0,%d\n" % (n, n % 8) for n in range(513)))


def test_numbers_that_begin_again_with_decode_are_no_single_pass() -> None:
    rows = [
        {
            "record_type": "routing_selection",
            "phase": "prompt" if t < 4 else "generation",
            "token_position": t % 4 if t < 4 else t - 4,
            "layer": n,
            "selected_experts": ids,
        }
        for t, one in enumerate(IDS.tolist())
        for n, ids in enumerate(one)
    ]
    trace = read("m.jsonl", lines(*rows), EIGHT).trace
    assert (trace.experts == IDS).all()
    assert trace.forward_pass.tolist() == [0] * 4 + list(range(1, 9))


def test_passes_that_mix_or_verify_leave_the_others_their_phase() -> None:
    """SGLang's modes: 3 is a piece of a prompt beside decode, 5 verifies drafts, 7 says nothing here."""
    modes = ((1, 4), (3, 3), (5, 2), (2, 2), (7, 1))
    starts = np.cumsum([0, *(count for _, count in modes)]).tolist()
    records = [
        sglang_record(n, slice(starts[n], starts[n + 1]), forward_mode=mode)
        for n, (mode, _) in enumerate(modes)
    ]
    found = read("dump.pt", torch_file({"records": records}), EIGHT)
    assert found.trace.phase.tolist() == [0] * 7 + [1] * 5
    for words in ("1 pass decoded beside a prompt", "does not say what 1 pass did", "decode several tokens"):
        assert any(words in line for line in found.report), words


def test_columns_of_policylangs_parquet_that_are_not_used_are_named() -> None:
    rows = [(t, n, e, 0.5) for t, one in enumerate(IDS.tolist()) for n, e in enumerate(one)]
    table = pd.DataFrame(rows, columns=["token_idx", "layer_idx", "selected_experts", "token_loss"])
    assert "columns not used: token_loss" in read("p.parquet", parquet(table), EIGHT).report


def test_a_cell_without_an_expert_is_an_unused_place() -> None:
    table = wide_table().astype({"expert_1": "Int64"})
    table.loc[table.pos == 3, "expert_1"] = None
    expected = IDS.copy()
    expected[3, :, 1] = -1
    for name, content in (("w.csv", table.to_csv(index=False).encode()), ("w.parquet", parquet(table))):
        assert (read(name, content, EIGHT).trace.experts == expected).all(), name


@pytest.mark.parametrize(
    ("name", "content", "layers"),
    [
        ("frame.csv", b",0,1,2\n3,4,0,1\n5,2,2,9\n", (3, 5)),
        ("frame without index.csv", b"0,1,2\n4,0,1\n2,2,9\n", ()),
        ("headed.csv", b"layer,0,1,2\n3,4,0,1\n5,2,2,9\n", (3, 5)),
        ("m.json", b"[[4, 0, 1], [2, 2, 9]]", ()),
        ("by layer.json", b'{"layer_3": [4, 0, 1], "layer_5": [2, 2, 9]}', (3, 5)),
        (
            "llama.csv",
            b"tensor,expert,count\n"
            + b"".join(
                b"blk.%d.ffn_up_exps.weight,%d,%d\n" % (layer, expert, uses)
                for layer, counts in ((3, (4, 0, 1)), (5, (2, 2, 9)))
                for expert, uses in enumerate(counts)
            ),
            (3, 5),
        ),
    ],
)
def test_counts_in_the_shapes_that_people_keep(name: str, content: bytes, layers: tuple[int, ...]) -> None:
    found = open_content(name, content)
    assert isinstance(found, Counted)
    assert found.counts.counts.tolist() == [[4, 0, 1], [2, 2, 9]]
    assert found.counts.layer_indices == layers


def test_counts_without_a_head_are_read_where_they_can_be_nothing_else() -> None:
    """A few lines of a few numbers may as well be token, layer, expert: then a sentence says what to give."""
    for name, content in (
        ("m.csv", b"4,0,1,0,0,5,1,2\n2,2,9,0,1,0,3,3\n"),
        ("m.txt", b"# by hand\n4.0e+00 0.0e+00 1.0e+00 0 0 5 1 2\n2 2 9 0 1 0 3 3\n"),
    ):
        found = open_content(name, content)
        assert isinstance(found, Counted)
        assert found.counts.counts.tolist() == [[4, 0, 1, 0, 0, 5, 1, 2], [2, 2, 9, 0, 1, 0, 3, 3]]
    for content, counts in (
        (b"0.4,0.5,0.1\n0.2,0.3,0.9\n", [[0.4, 0.5, 0.1], [0.2, 0.3, 0.9]]),  # no number of anything
        (b"0,1,2\n2,2,9\n4,0,1\n", [[2, 2, 9], [4, 0, 1]]),  # a head, and no token or layer 0 or 1
        (b"0,1,2\n4,0,1\n", [[4, 0, 1]]),
    ):
        found = open_content("few.csv", content)
        assert isinstance(found, Counted)
        assert found.counts.counts.tolist() == counts
    with pytest.raises(TraceError, match="may be routes or a count a line"):
        open_content("few.csv", b"0,1,2\n0,2,9\n1,0,1\n")
    for content in (b"4,0,1\n2,2,9\n", b"5,0,3\n4,1,2\n3,0,7\n", b"3 7\n1 2\n5 0\n4 6\n", b"3,0,5\n"):
        with pytest.raises(TraceError, match="may be routes or a count a line"):
            open_content("few.csv", content)


def test_ids_that_count_from_one_are_named() -> None:
    """Nothing in the file says so: one expert that nobody chose, and one too many."""
    found = read("m.npy", npy(IDS + 1))
    assert found.trace.num_experts == 9
    assert any(
        line.startswith("no token chose expert 0: if the file counts experts from 1") for line in found.report
    )
    assert not any("counts experts from 1" in line for line in read("m.npy", npy(IDS)).report)
    with pytest.raises(TraceError, match=r"chose expert 8, but --experts says 8\. If the file counts from 1"):
        read("m.npy", npy(IDS + 1), EIGHT)


@pytest.mark.parametrize("kind", ["uint8", "bool", "float32"])
def test_marks_of_the_chosen_experts_are_no_ids(kind: str) -> None:
    """0 and 1 for every expert, as a router's mask is: also where a token chose fewer."""
    marks = np.zeros((*IDS.shape[:2], 8), kind)
    np.put_along_axis(marks, IDS.astype(np.int64), 1, 2)
    marks[4, 1] = 0
    marks[4, 1, 6] = 1
    found = read("mask.npy", npy(marks))
    expected = np.sort(IDS, axis=2)
    expected[4, 1] = [6, -1]
    assert found.trace.experts.tolist() == expected.tolist()
    assert found.trace.num_experts == 8
    assert any("0 and 1 mark which of 8 experts were chosen" in line for line in found.report)


def test_weights_beside_marks_are_those_of_the_marked() -> None:
    marks = np.zeros((*IDS.shape[:2], 8), np.bool_)
    np.put_along_axis(marks, IDS.astype(np.int64), True, 2)
    marks[4, 1] = np.arange(8) == 6
    shares = np.arange(marks.size, dtype=np.float32).reshape(marks.shape)
    trace = read("m.npz", npz(experts=marks, weights=shares)).trace
    assert trace.weights is not None
    expected = np.take_along_axis(shares, trace.experts.astype(np.int64), 2) * (trace.experts >= 0)
    assert trace.weights.tolist() == expected.tolist()
    with pytest.raises(TraceError, match=r"weights has shape \(12, 3, 2\); expected \(12, 3, 8\)"):
        read("m.npz", npz(experts=marks, weights=shares[:, :, :2]))


def test_nan_among_whole_numbers_is_an_unused_place() -> None:
    ids = IDS.astype(np.float32)
    ids[5] = np.nan
    found = read("pivoted.npy", npy(ids), EIGHT)
    assert found.trace.experts[5].max() == -1
    assert (np.delete(found.trace.experts, 5, 0) == np.delete(IDS, 5, 0)).all()
    assert "NaN stands for an unused place, in 6 places" in found.report


def test_255_twice_in_an_event_is_no_expert() -> None:
    """-1 in bytes is 255, which could be an expert of 256: no token uses one twice."""
    ids = np.concatenate([IDS, IDS[:, :, :1]], 2).astype(np.uint8)
    ids[:, :, 2] = 255
    once = read("bytes.npy", npy(ids))
    assert once.trace.experts.max() == 255  # that is not sure yet
    ids[3, 0, 1] = 255
    found = read("bytes.npy", npy(ids))
    assert (found.trace.experts[4:] == IDS[4:]).all()
    assert found.trace.experts[3, 0].tolist() == [IDS[3, 0, 0], -1]


def test_an_expert_255_beside_layers_and_tokens_without_routes_stays() -> None:
    """There every place of an event is 255, which says nothing of a place among others."""
    ids = np.concatenate([IDS, IDS + 248], 1).astype(np.uint8)
    assert (ids == 255).any()
    ids[:, 0] = ids[-1] = 255
    found = read("bytes.npy", npy(ids))
    assert found.trace.layer_indices == (1, 2, 3, 4, 5)
    assert (found.trace.experts == ids[:-1, 1:]).all()


def test_axes_that_cannot_be_are_said_to_be_a_guess() -> None:
    with pytest.raises(
        TraceError, match=r"The axes were taken as token,layer,k of \(12, 2, 3\); if they are others"
    ):
        read("turned.npy", npy(IDS.transpose(0, 2, 1)))
    found = read("turned.npy", npy(IDS.transpose(0, 2, 1)), Options(axes="token,k,layer"))
    assert (found.trace.experts == IDS).all()
    long = np.tile(IDS[:2], (300, 1, 1))
    long[7, 2] = 3
    with pytest.raises(TraceError, match=r"taken as layer,token,k of \(3, 600, 2\).*--axes token,layer,k"):
        read("turned.npy", npy(long.transpose(1, 0, 2)))
    with pytest.raises(TraceError, match=r"every id is 0\.$"):
        read("nothing.npy", npy(IDS * 0))


def test_few_tokens_of_many_layers_may_be_the_layers() -> None:
    ids = random_trace(3, tokens=16, layers=12).experts
    assert any("16 tokens are few" in line for line in read("deep.npy", npy(ids)).report)
    asked = read("deep.npy", npy(ids), Options(axes="token,layer,k"))
    assert not any("are few" in line for line in asked.report)
    named = read("deep.npz", npz(routed_experts=ids))  # as vLLM and SGLang call what has these axes
    assert not any("are few" in line for line in named.report)


def test_an_array_a_request_may_hold_what_a_single_one_may() -> None:
    """Marks, unused places as NaN, router logits and axes of their own order; tokens stay with their
    request.
    """
    marks = np.zeros((12, 3, 8), bool)
    np.put_along_axis(marks, IDS.astype(np.int64), True, 2)
    some = IDS.astype(np.float32)
    some[2, 1, 1] = np.nan
    logits = np.random.default_rng(0).normal(size=(12, 3, 8)).astype(np.float32)
    mixed = npz(a=IDS[:5].astype(np.uint8), b=np.where(np.arange(2) == 1, -1, IDS[5:]).astype(np.int32))
    for content, options, experts in (
        (npz(a=marks[:5], b=marks[5:]), Options(), np.sort(IDS, 2)),
        (npz(a=marks[:5].astype(np.uint8), b=marks[5:].astype(np.uint8)), Options(), np.sort(IDS, 2)),
        (npz(a=some[:5], b=some[5:]), EIGHT, np.nan_to_num(some, nan=-1)),
        (npz(a=logits[:5], b=logits[5:]), Options(top_k=2), np.argsort(-logits, 2)[:, :, :2]),
        (
            npz(a=logits[:5].astype(np.float64), b=logits[5:]),
            Options(top_k=2),
            np.argsort(-logits, 2)[:, :, :2],
        ),
        (npz(a=IDS[:5].swapaxes(0, 1), b=IDS[5:].swapaxes(0, 1)), Options(8, axes="layer,token,k"), IDS),
        (mixed, EIGHT, np.concatenate([IDS[:5], np.where(np.arange(2) == 1, -1, IDS[5:])])),
    ):
        found = read("requests.npz", content, options)
        assert found.trace.experts.tolist() == experts.tolist()
        assert found.trace.sequence is not None
        assert found.trace.sequence.tolist() == [0] * 5 + [1] * 7
        assert any("2 arrays are taken for a request each" in line for line in found.report)
    assert read("requests.npz", npz(a=marks[:5], b=marks[5:])).trace.num_experts == 8
    with pytest.raises(TraceError, match=r"'a' holds float32 that are no whole numbers.*Give --top-k N"):
        read("requests.npz", npz(a=logits[:5], b=logits[5:]))
    with pytest.raises(TraceError, match=r"of one shape a request; it holds a int16"):
        read("requests.npz", npz(a=IDS[:5], b=IDS[5:, :2]))


def test_weights_beside_router_logits_are_named_as_not_used() -> None:
    logits = np.random.default_rng(0).normal(size=(12, 3, 8)).astype(np.float32)
    content = npz(experts=logits, weights=np.ones((12, 3, 2), np.float32))
    found = read("logits.npz", content, Options(top_k=2))
    assert [line for line in found.report if "beside router logits" in line and "weights" in line]
    assert found.trace.weights is not None
    assert (found.trace.weights < 1).all()  # the softmax of the logits


def test_requests_that_number_their_tokens_alike_are_not_one_choice() -> None:
    """Without a rank and a request their rows would be one token of twice as many experts."""
    head, one = "token,layer,expert\n", "0,0,1\n0,0,2\n1,0,3\n1,0,4\n"
    with pytest.raises(
        TraceError, match="row 5 has token 0 and expert 1 of layer 0 again: where several requests"
    ):
        read("two.csv", (head + one + one).encode())
    found = read("two.csv", (head + one + "0,0,5\n0,0,6\n1,0,7\n1,0,0\n").encode())
    assert any("stand apart in the file and are taken for one choice" in line for line in found.report)
    assert not any("stand apart" in line for line in read("one.csv", (head + one).encode()).report)
    dense = "0,0,0\n0,1,1\n1,0,0\n1,1,3\n0,0,0\n0,1,2\n1,0,0\n1,1,4\n"  # layer 0, ranks one after the other
    assert read("dense.csv", (head + dense).encode()).trace.experts.tolist() == [[[1, 2]], [[3, 4]]]
    rows = [{"position": t, "layer": 0, "experts": [t], "phase": "decode"} for t in (0, 1, 2, 0, 1, 2)]
    found = read("two.jsonl", lines(*rows))
    assert any("if it is another request, say so in a column request_id" in line for line in found.report)


def test_one_number_a_layer_is_said_to_be_an_expert() -> None:
    """It could be anything else that one number tells of a layer and a step."""
    found = read("steps.csv", b"step,layer_0,layer_1\n0,3,1\n1,0,2\n")
    assert found.trace.experts[..., 0].tolist() == [[3, 1], [0, 2]]
    assert "a cell's number is taken for the one expert that the token chose in the layer" in found.report


def test_router_logits_of_each_layer_in_a_dict() -> None:
    """As transformers gives them with output_router_logits: a tuple with a tensor a layer."""
    import torch

    logits = torch.randn(3, 10, 8, generator=torch.Generator().manual_seed(0))
    content = torch_file({"router_logits": tuple(logits), "input_ids": torch.arange(10)})
    found = read("outputs.pt", content, Options(top_k=2))
    assert (found.trace.experts == logits.topk(2).indices.transpose(0, 1).numpy()).all()
    assert found.trace.token_ids is not None
    assert found.trace.token_ids.tolist() == list(range(10))
    beside = {"experts": torch.tensor(IDS), "hidden": list(torch.rand(3, 12, 4))}
    assert "keys not used: hidden" in read("outputs.pt", torch_file(beside)).report


def test_zst() -> None:
    import pyarrow

    sink = pyarrow.BufferOutputStream()
    with pyarrow.CompressedOutputStream(sink, "zstd") as stream:
        stream.write(routes())
    assert (read("routes.jsonl.zst", sink.getvalue().to_pybytes()).trace.experts == IDS).all()


def test_moeviz_own_format_brings_its_run() -> None:
    trace = random_trace(1)
    run = replay(trace, Settings(slots=3))
    found = read("a.moetrace", to_bytes(trace, run))
    assert found.format == "moetrace"
    assert found.run is not None
    assert found.run.same_decisions(run)


def case(name: str, options: Options = Options()) -> Found:
    return open_content(name, (CASES / name).read_bytes(), options)


def trace_of(name: str, options: Options = Options()) -> Trace:
    found = case(name, options)
    assert isinstance(found, Imported)
    return found.trace


def test_a_dense_layer_is_left_out_and_its_index_kept() -> None:
    trace = trace_of("a01b_vllm_dense_layer_minus1.npy")
    assert (trace.tokens, trace.layers, trace.layer_indices) == (6, 2, (1, 2))
    zeros = np.load(CASES / "a01b_vllm_dense_layer_minus1.npy")
    zeros[:, 0] = 0
    assert (read("zeros.npy", npy(zeros)).trace.experts == trace.experts).all()


def test_what_a_token_does_not_use_is_minus_one() -> None:
    given = np.load(CASES / "a04_layers_with_different_k.npy")
    assert (trace_of("a04_layers_with_different_k.npy").experts == given).all()
    dynamic = trace_of("a05_dynamic_k_per_token.npy")
    assert (dynamic.experts == np.load(CASES / "a05_dynamic_k_per_token.npy")).all()
    dropped = trace_of("b03_capacity_dropped_token.jsonl")
    assert dropped.experts.ravel().tolist() == [0, 1, -1, 3]
    assert len(dropped.events()) == 3


def test_prompt_and_generated_are_prefill_and_decode() -> None:
    assert trace_of("a02_vllm_prompt_and_generated.npz").phase.tolist() == [0] * 4 + [1] * 3


def test_answers_of_servers() -> None:
    sglang = trace_of("a06_sglang_generate_response.json")
    assert sglang.experts.shape == (5, 2, 2)
    assert sglang.experts[0].tolist() == [[1, 5], [0, 3]]
    assert sglang.phase.tolist() == [0, 0, 0, 1, 1]
    assert (trace_of("a06_sglang_generate_response.json", Options(top_k=2)).experts == sglang.experts).all()
    assert trace_of("a06b_vllm_chat_response.json").experts[0].tolist() == [[2, 7], [0, 3]]


def test_a_shape_that_cannot_be_known_is_asked_for() -> None:
    answer = json.loads((CASES / "a06_sglang_generate_response.json").read_bytes())
    del answer["meta_info"]["prompt_tokens"]
    with pytest.raises(TraceError, match="cannot be known without prompt_tokens"):
        read("answer.json", json.dumps(answer).encode())
    ids = np.array([[[0, 1], [2, 3]], [[4, 5], [6, 7]]], "<i4")  # may be one layer of four
    packed = base64.b64encode(ids.tobytes()).decode()
    content = json.dumps(
        {"meta_info": {"prompt_tokens": 1, "completion_tokens": 2, "routed_experts": packed}}
    ).encode()
    with pytest.raises(TraceError, match=r"2 layers of 2 or 1 layers of 4\. Give --top-k"):
        read("answer.json", content)
    assert read("answer.json", content, Options(top_k=2)).trace.experts.tolist() == ids.tolist()


@pytest.mark.parametrize(
    ("name", "shape", "layers", "total"),
    [
        ("a07_sglang_count.csv", (2, 3), (3, 4), 126),
        ("a08_sglang_stat.pt", (2, 8), (), 661),
        ("b05_llamacpp_profile_counts.csv", (2, 6), (3, 4), 28),
    ],
)
def test_counts_are_counts(name: str, shape: tuple[int, int], layers: tuple[int, ...], total: int) -> None:
    found = case(name)
    assert isinstance(found, Counted)
    assert found.counts.counts.shape == shape
    assert found.counts.layer_indices == layers
    assert found.counts.counts.sum() == total
    with pytest.raises(TraceError, match=f"{name} holds counts, not a trace"):
        read(name, (CASES / name).read_bytes())


def test_sglangs_batches_modes_and_ids() -> None:
    trace = trace_of("a09_sglang_batch_decode.pt")
    assert trace.phase.tolist() == [0, 1, 1, 1, 1]
    assert trace.token_ids is not None
    assert trace.token_ids.tolist() == [11, 21, 22, 23, 24]
    assert trace.forward_pass.tolist() == [0, 1, 1, 2, 2]
    assert trace.sequence is None


def test_sglangs_verify_passes_are_said_to_hold_rejected_drafts() -> None:
    records = [
        sglang_record(1, slice(0, 4), forward_mode=1),
        sglang_record(2, slice(4, 8), forward_mode=5),
        sglang_record(3, slice(8, 12), forward_mode=5),
    ]
    found = read("dump.pt", torch_file({"records": records}))
    assert any(line.startswith("2 passes verified drafts: those that were rejected") for line in found.report)
    assert (found.trace.experts == IDS).all()
    assert found.trace.phase.tolist() == [0] * 4 + [1] * 8


def test_sglangs_physical_ids_become_logical() -> None:
    import torch

    mapping = torch.arange(10).repeat(5, 1) % 8  # physical 8 and 9 are copies of 0 and 1
    record = sglang_record(1, slice(0, 12))
    ids = record["topk_ids_of_layer"]
    ids[ids == 0] = 8  # type: ignore[index]
    found = read("dump.pt", torch_file({"records": [record], "last_physical_to_logical_map": mapping}))
    assert (found.trace.experts == IDS).all()
    assert found.trace.num_experts == 8
    assert found.trace.layer_indices == (2, 3, 4)
    assert any("10 physical ids a layer were mapped to 8 logical" in line for line in found.report)


@pytest.mark.parametrize(
    ("name", "words"),
    [
        (
            "a08b_sglang_per_pass.pt",
            "per_pass mode.*Record with --expert-distribution-recorder-mode per_token",
        ),
        ("a08c_sglang_empty.pt", "empty recording"),
        (
            "a13_object_array.npy",
            "object array.*with -1 in unused places, or an array for each request with np.savez",
        ),
        ("a17_router_logits.npy", "router logits are.*Give --top-k N"),
        (
            "hostile/beyond-float.csv",
            "row 1: an entry of Activated Expert IDs is '1.2'; expected a whole number",
        ),
        (
            "hostile/beyond-text.csv",
            "row 1: Activated Expert IDs is 'no experts: error 404 at 17'; expected a list",
        ),
        ("hostile/beyond-long-digits.csv", "row 1: Activated Expert IDs holds a number of 5,000 digits"),
        ("hostile/bomb-strings.parquet", "has the columns token, t; expected token, layer"),
        ("hostile/npz-dup-member.npz", "holds the member 'experts.npy' twice"),
        ("hostile/npz-raw-member.npz", "'experts' is not an array that numpy saved"),
        ("hostile/policylang-s-10e400.csv", "row 1: s holds a number of 401 digits"),
        ("hostile/policylang-s-int.csv", "s has 1 entries; expected a number for each of 2 experts"),
        ("hostile/routes-dup-keys.jsonl", "line 2 names the key 'topk_ids' twice"),
        ("hostile/routes-weight-bool.jsonl", "line 2: topk_weights must be a list of numbers"),
        ("hostile/table-dup-col.csv", "'token' stands twice"),
        ("hostile/table-more-cells-than-head.csv", "row 1 has 5 cells; expected 4, as the head has"),
    ],
)
def test_cases_that_are_refused(name: str, words: str) -> None:
    with pytest.raises(TraceError, match=words):
        case(name)


def test_bare_tensors_floats_and_an_array_a_request() -> None:
    assert trace_of("a11_routed_experts_tensor.pt").experts[0].tolist() == [[0, 7], [3, 5]]
    assert trace_of("a15_float_ids.npy").experts[0].tolist() == [[3, 2], [0, 4]]
    requests = trace_of("a14_npz_per_request.npz")
    assert requests.sequence is not None
    assert requests.sequence.tolist() == [0] * 4 + [1] * 3
    logits = np.load(CASES / "a17_router_logits.npy")
    trace = trace_of("a17_router_logits.npy", Options(top_k=2))
    assert (trace.experts[..., 0] == logits.argmax(2)).all()
    assert (trace.num_experts, trace.k) == (8, 2)


def test_axes() -> None:
    plain = case("a16_layer_first.npy")
    assert any("40 layers of 4 tokens are unlikely" in line for line in plain.report)
    assert trace_of("a16_layer_first.npy", Options(axes="layer,token,k")).experts.shape == (40, 4, 2)
    deep = np.tile(IDS.transpose(1, 0, 2), (1, 60, 1))  # no model has 720 layers
    assert read("deep.npy", npy(deep), EIGHT).trace.experts.shape == (720, 3, 2)
    four = read("four.npy", npy(np.stack([IDS, IDS])), Options(8, axes="sequence,token,layer,k")).trace
    assert four.sequence is not None
    assert four.sequence.tolist() == [0] * 12 + [1] * 12
    assert read("top1.npy", npy(IDS[..., 0]), Options(8, axes="token,layer")).trace.k == 1


def test_the_conformance_toy_counts_as_published() -> None:
    trace = trace_of("b01_event_atomic_toy.csv")
    for policy in ("lru", "lfu", "belady"):
        outcome = replay(trace, Settings(policy, 2)).accesses.outcome
        assert ((outcome == HIT).sum(), (outcome != HIT).sum()) == (12, 18)


def test_lists_in_a_column_and_routes_without_a_header() -> None:
    assert trace_of("b07_events_list_column.csv").experts[3].tolist() == [[0, 3], [3, 5]]
    assert trace_of("b12_routes_without_meta_line.jsonl").experts[0].tolist() == [[2, 6], [1, 6]]
    assert trace_of("b15_json_array.json").experts[3].tolist() == [[3, 4], [3, 5]]
    assert trace_of("b16_routes.jsonl.gz").experts[:, 0].tolist() == [[0, 1], [1, 2], [2, 3], [3, 4]]
    assert trace_of("hostile/routes-u2028-in-string.jsonl").experts.tolist() == [[[1, 2]]]


def test_tokens_that_are_counted_again_begin_a_pass() -> None:
    found = case("b08_token_idx_restarts_each_pass.jsonl")
    assert isinstance(found, Imported)
    assert found.trace.phase.tolist() == [0] * 4 + [1] * 5
    assert found.trace.experts[0, 0].tolist() == [6, 3]
    assert any("the first pass was left out: its 16 tokens" in line for line in found.report)


def test_phase_and_text_of_a_table_are_used() -> None:
    trace = trace_of("b14_table_with_phase.csv")
    assert trace.phase.tolist() == [0, 0, 1, 1]
    assert trace.texts == ("w0", "w1", "w2", "w3")
    assert trace.forward_pass.tolist() == [0, 0, 1, 2]


def test_the_route_trace_has_bytes_by_layer_and_a_last_layer_with_one_prompt_token() -> None:
    trace = trace_of("b18_route_trace_v1.csv")
    assert trace.phase.tolist() == [0, 0, 0, 1, 1]
    assert trace.experts[:3, 1].tolist() == [[-1, -1], [-1, -1], [4, 5]]
    assert trace.expert_bytes == (1000, 1500)


def test_prompts_phases_ids_and_domains_of_policylang() -> None:
    trace = trace_of("policylang_two_prompts.jsonl")
    assert trace.sequence is not None
    assert trace.sequence.tolist() == [0, 0, 0, 1, 1]
    assert trace.phase.tolist() == [0, 0, 1, 0, 1]
    assert trace.token_ids is not None
    assert trace.token_ids.tolist() == [101, 102, 103, 201, 202]
    assert trace.recorded["domains"] == "code, legal"


def test_rows_at_the_end_that_were_never_routed_are_counted_and_dropped() -> None:
    """In the middle, and at the begin, a token stays where it is in the text."""
    blank = np.zeros((2, *IDS.shape[1:]), np.int16)
    ids = np.concatenate([IDS[:5], blank, IDS[5:], np.full_like(blank, -1), blank[:1]])
    found = read("routed.npy", npy(ids))
    assert (found.trace.experts == np.concatenate([IDS[:5], blank - 1, IDS[5:]])).all()
    assert any("dropped 3 rows at the end, never routed" in line for line in found.report)
    assert any("in any layer: 2 tokens, kept without events" in line for line in found.report)


def test_what_only_may_be_a_dummy_is_kept_and_named() -> None:
    ids = np.concatenate([IDS, np.broadcast_to(np.int16([0, 1]), (1, 3, 2))])
    found = read("routed.npy", npy(ids))
    assert found.trace.tokens == 13
    assert any("the last token chose 0 to 1 in every layer" in line for line in found.report)
    one = np.concatenate([IDS[..., :1], np.zeros((2, 3, 1), np.int16)])
    found = read("routed.npy", npy(one))
    assert found.trace.tokens == 14
    assert any("chose expert 0 in every layer, as unused rows may" in line for line in found.report)


def test_sentinels_are_unused_places() -> None:
    """-1 in an unsigned type is its largest number; some kernels write the number of experts where there is
    none.
    """
    for dtype, sentinel in (("uint16", 65_535), ("uint8", 255), ("int32", 8)):
        ids, expected = IDS.astype(dtype), IDS.copy()
        ids[4, 1], ids[7] = sentinel, sentinel
        expected[4, 1], expected[7] = -1, -1
        found = read("routed.npy", npy(ids), EIGHT)
        assert (found.trace.experts == expected).all()
        assert any(f"2 tokens hold the id {sentinel}" in line for line in found.report)
    one = IDS[..., :1].astype("uint8")
    one[3, 0] = 255  # could be an expert where nobody says how many there are
    assert read("routed.npy", npy(one)).trace.num_experts == 256


def test_prompt_tokens_are_set_by_the_user() -> None:
    content = npz(a=IDS[:5], b=IDS[5:])
    trace = read("two.npz", content, Options(8, prompt_tokens=2)).trace
    assert trace.phase.tolist() == [0, 0, 1, 1, 1, 0, 0, 1, 1, 1, 1, 1]
    assert trace.forward_pass.tolist() == [0, 0, 1, 2, 3, 4, 4, 5, 6, 7, 8, 9]


def test_requests_that_alternate_are_told_apart_and_put_together() -> None:
    rows = [
        {"req_id": r, "token_idx": t, "layer": layer, "topk_ids": [2 * t + (r == "b"), 6]}
        for t in range(2)
        for r in ("a", "b")
        for layer in (0, 1)
    ]
    trace = read("routes.jsonl", lines(*rows)).trace
    assert trace.sequence is not None
    assert trace.sequence.tolist() == [0, 0, 1, 1]
    assert trace.experts[:, 0, 0].tolist() == [0, 2, 1, 3]


def test_masks_ids_and_headers_beside_an_array_are_used_and_the_rest_is_named() -> None:
    mask = np.ones(12, bool)
    mask[:3] = False
    header = np.array(json.dumps({"model": "m", "n_experts": 8, "license": "x"}))
    found = read(
        "a.npz",
        npz(experts=IDS, attention_mask=mask, token_ids=np.arange(12), header=header, hidden=np.ones(3)),
    )
    assert (found.trace.experts == IDS[3:]).all()
    assert found.trace.token_ids is not None
    assert found.trace.token_ids.tolist() == list(range(3, 12))
    assert (found.trace.model, found.trace.num_experts) == ("m", 8)
    assert "arrays not used: hidden" in found.report
    assert "keys of header not used: license" in found.report
    assert any("left out 3 rows of padding" in line for line in found.report)


def test_what_is_not_used_is_named() -> None:
    table = long_table().assign(loss=0.5, head=3).to_csv(index=False).encode()
    assert "columns not used: loss, head" in read("t.csv", table, EIGHT).report
    rows = [row | {"latency": 3} for row in each(token="token_idx", layer="layer", experts="topk_ids")]
    found = read("r.jsonl", lines(*rows, {"type": "stats", "x": 1}), EIGHT)
    assert "keys not used: latency" in found.report
    assert "1 lines of kind 'stats' are not used" in found.report


@pytest.mark.parametrize(
    ("make", "words"),
    [
        (lambda: npy(np.where(IDS == 0, 8, IDS)), "chose expert 8, but --experts says 8"),
        (lambda: npy(np.full((4, 3, 2), -1)), "holds no routes: every place is -1"),
        (
            lambda: npy(np.stack([IDS[..., 0], IDS[..., 0]], -1) + 1),
            "names one expert twice for token 0 in layer 0",
        ),
        (lambda: npy(np.full((2, 2, 2, 2), 1)), "4 dimensions.*--axes sequence,token,layer,k"),
        (lambda: npy(IDS)[:-3], "the array is cut short"),
        (lambda: npz(other=IDS[0], another=np.ones(3)), "holds no array routed_experts"),
        (lambda: npz(routed_experts=IDS, weights=np.ones((2, 2))), "weights has shape"),
        (lambda: b"PK\x03\x04" + b"x" * 50, "is not a whole zip file"),
        (
            lambda: b"a,b\n1,2\n",
            "none of the formats.*has the columns a, b; expected token, layer, rank, expert.*Read are",
        ),
        (lambda: b"0,0,0,4\n0,0,1,5\n1,0,0,3\n", "numbers without a head, which may be routes or a count"),
        (lambda: b"3,0,5\n3,1,7\n4,0,1\n4,1,2\n", "or a count a line. Give it one, for example token,"),
        (lambda: b"expert,layer_0,layer_1\n0,24,3\n1,39,9\n", "has the columns expert, layer_0, layer_1"),
        (lambda: b"[[[[1, 2]]], []]", r"request 1 is '\[\]'; expected a list of tokens"),
        (lambda: b"[[[[1, 2]]], 5]", "request 1 is '5'; expected a list of tokens"),
        (lambda: b'{"0": [3, 17], "1": [2]}', "lists have 1 to 2 numbers; expected a count of every expert"),
        (lambda: b'{"0": [3, 1], "layer_0": [2, 4]}', "layer 0 stands twice"),
        (
            lambda: b"The format is `EXPERT|L3|T1: [4, 7]`, a line each.\n",
            "none of the formats that are read: it looks like a table",
        ),
        (lambda: b"[[[1, 1e999]]]", "no whole numbers, as router logits are"),
        (lambda: b'{"3": [1, %d]}' % 10**400, "the counts of '3' are not all numbers that count uses"),
        (lambda: b'["a", "b"]', r"it looks like JSON of a list\. Read are"),
        (
            lambda: b"step,layer,expert\n0,0,1\n0,0,2\n0,0,3\n1,0,1\n",
            "no column that numbers the tokens, and a step may have several",
        ),
        (lambda: "a,b\n".encode("utf-16"), "text in UTF-16; save it as UTF-8"),
        (
            lambda: torch_file({"state_dict": {"a.weight": __import__("torch").zeros(2)}}),
            "holds a model's weights",
        ),
        (lambda: b"token,layer,rank,expert\n", "has no rows"),
        (lambda: b"token,layer,rank,expert\n0,0,0,x\n", "row 1: expert is 'x'; expected a whole number"),
        (lambda: b"token,layer,rank,expert\n0,0,0,1\n0,0,1,-3\n", "row 2: expert is -3"),
        (
            lambda: b"token,layer,rank,expert\n0,0,0,1\n0,0,0,2\n",
            "row 2 has rank 0 of token 0 in layer 0 again",
        ),
        (lambda: b'{"model": "m"}\n{"token_idx": 0}', "line 2 lacks layer and experts"),
        (lambda: b'{"model": "m"}', "no object in it names a layer"),
        (
            lambda: zipped("readme.txt"),
            "a zip archive with no arrays in it; unpack it first. Read are",
        ),
        (lambda: lines({"token_idx": 0, "layer": 0, "topk_ids": [1.5]}), "an entry of topk_ids is '1.5'"),
        (
            lambda: lines({"token_idx": 0, "layer": 0, "topk_ids": [1], "topk_weights": [1, 2]}),
            "topk_weights has 2 entries; expected a number for each of 1",
        ),
        (
            lambda: routes() + lines({"req_id": "r0", "token_idx": 9, "layer": 0, "expert": 1}),
            "lacks experts; its keys are req_id, token_idx, layer, expert",
        ),
        *(
            (
                lambda huge=huge: lines(
                    {"token_idx": 0, "layer": 0, "topk_ids": [1], "topk_weights": [huge]}
                ),
                "topk_weights holds a number that is beyond floating point",
            )
            for huge in (1e308, -(10**400))
        ),
        (
            lambda: routes() + lines({"req_id": "r0", "token_idx": 0, "layer": 0, "topk_ids": [1, 2]}),
            "token 0 more than once in layer 0",
        ),
        (
            lambda: parquet(pd.DataFrame({"t": [0], "l": [0], "e": ["no list"]})),
            "e holds .*string; expected lists",
        ),
        (lambda: b"PAR1" + b"x" * 50, "only a part of a parquet file"),
        (
            lambda: b"nothing at all",
            "none of the formats that are read: it looks like text that begins with 'nothing",
        ),
        (lambda: b"\x89PNG\r\n\x1a\n" + bytes(40), "it looks like a PNG image"),
        (
            lambda: b'\n<!DOCTYPE html><meta content="width=device-width, initial-scale=1">\n<p>a, b\n',
            r"it looks like a web page \(HTML\), perhaps what a server sent instead",
        ),
        (lambda: b'<?xml version="1.0"?>\n<a b="1,2"/>\n', "it looks like HTML or XML"),
        (
            lambda: b"\x80\x04\x95" + bytes(40),
            "it looks like a Python pickle, which is not read because reading it runs",
        ),
        (
            lambda: json.dumps({"a": 1, "b": [2]}).encode(),
            "no object in it names a layer and its experts; it looks like JSON of an object with a, b. Read",
        ),
        (lambda: lines({"layer": 0, "fired": [1, 2, 3], "batch_tokens": 7}), "7|1 calls of several tokens"),
        (lambda: rtrace(), "does not say how many of its 8 experts a token uses. Give --top-k"),
        (lambda: mbolt()[:-4], "is cut short"),
        (lambda: gzip.compress(routes())[:-20], "cut short"),
        (lambda: b"   \n \n", "is empty"),
    ],
)
def test_what_is_wrong_is_named(make: Callable[[], bytes], words: str) -> None:
    with pytest.raises(TraceError, match=words):
        read("file", make(), EIGHT)


def test_a_pickle_that_runs_code_is_refused_unrun(tmp_path: Path) -> None:
    class Evil:
        def __reduce__(self) -> tuple[object, tuple[Path]]:
            return Path.touch, (tmp_path / "touched",)

    for content, words in (
        ({"records": [Evil()]}, "its pickle names .*, which is code; nothing of it was run"),
        ({"other": 1}, "a dict with other: no tensor"),
        ({"records": [{}]}, "was recorded in other mode"),
        ({"model.layers.0.weight": __import__("torch").zeros(3)}, "holds a model's weights"),
    ):
        with pytest.raises(TraceError, match=words):
            read("dump.pt", torch_file(content))
    assert not (tmp_path / "touched").exists()


def bomb_gz() -> bytes:
    return gzip.compress(b"0,0,0,0\n" * 2**25)


def bomb_zip_member() -> bytes:
    """A member that declares less than it holds."""
    content = npz(experts=IDS)
    with zipfile.ZipFile(io.BytesIO(content)) as archive:
        size = archive.infolist()[0].file_size
    return content.replace(struct.pack("<I", size), struct.pack("<I", size - 8))


def bomb_broadcast_tensor() -> bytes:
    import torch

    return torch_file(torch.zeros(1, 1, 1, dtype=torch.int32).expand(2_000_000, 500, 2))


def bomb_dictionary() -> bytes:
    """A text of 1 MB that a dictionary repeats in every row, in a column that is wanted."""
    return parquet(
        pd.DataFrame(
            {"token": range(400), "layer": 0, "rank": 0, "expert": 1, "text": ["x" * 1_000_000] * 400}
        )
    )


BOMBS: dict[str, tuple[Callable[[], bytes], str]] = {
    "npz": (lambda: npz(experts=np.zeros((262_144, 8, 32), np.uint8)), "would take"),
    "npz member": (bomb_zip_member, "cannot be unpacked|has not the"),
    "npy shape": (lambda: npy(IDS).replace(b"(12, 3, 2)", b"(12, 3, 9)"), "cut short"),
    "dictionary": (bomb_dictionary, "its texts would take"),
    "gz": (bomb_gz, "unpacks to more than 128 MiB"),
    "tensor": (bomb_broadcast_tensor, "expected up to|would take"),
    "columns": (
        lambda: ",".join(f"c{n}" for n in range(1_000_000)).encode() + b"\n",
        "its head is longer|columns",
    ),
    "newlines": (lambda: b"\n" * 10**8, "is empty"),
    "lines of a table": (lambda: b"token,layer,rank,expert" + b"\n" * 10**8, "lines"),
    "nesting": (lambda: b'{"layer": ' + b"[" * 100_000, "nested|not JSON|no routes|looks like"),
    "brackets": (lambda: b"[" + b"[]," * 5_000_000 + b"[]]", "would take"),
    "digits": (lambda: b'{"layer": ' + b"9" * 100_000 + b', "topk_ids": [1]}', "not JSON"),
    "sparse": (
        lambda: b"token,layer,expert\n" + b"".join(b"%d,%d,1\n" % (n, n % 512) for n in range(100_000)),
        "would take",
    ),
}


@pytest.mark.parametrize("kind", BOMBS)
def test_what_unfolds_to_too_much_is_refused_within_the_room(kind: str) -> None:
    import tracemalloc

    make, words = BOMBS[kind]
    content = make()
    tracemalloc.start()
    try:
        with pytest.raises(TraceError, match=words):
            read("bomb", content)
        most = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    assert most < 256 * 2**20 + len(content)


def test_a_users_own_format(tmp_path: Path) -> None:
    path = tmp_path / "mine.py"
    path.write_text(
        "import numpy as np\n"
        "from moeviz.files.importers.registry import importer\n"
        "from moeviz.files.importers.routed import Routed, finish\n"
        "@importer('mine-test', 'mine', sniff=lambda source: 0)\n"
        "def read(source, options):\n"
        "    ids = np.frombuffer(source.content, np.uint8).reshape(-1, 1, 2).astype(np.int16)\n"
        "    return finish(source, options, Routed(ids), 'mine-test')\n"
    )
    found = read("x.bin", bytes([1, 2, 3, 4]), format=f"{path}:mine-test")
    assert found.trace.experts.tolist() == [[[1, 2]], [[3, 4]]]
    for text, words in (
        (f"{path}:other", "registers no importer 'other'"),
        ("nope", "format 'nope' is not known"),
    ):
        with pytest.raises(TraceError, match=words):
            load_importer(text)


def test_what_parquet_leaves_empty_is_unknown() -> None:
    """MoE-PolicyLang writes all of its columns, and nulls where nothing was recorded."""
    rows = [(t, n, e) for t, layers in enumerate(IDS.tolist()) for n, e in enumerate(layers)]
    table = pd.DataFrame(rows, columns=["token_idx", "layer_idx", "selected_experts"])
    table = table.assign(prompt_id=0, phase=None, token_id=pd.array([None] * 36, "Int32"), router_scores=None)
    found = read("p.parquet", parquet(table.astype({"phase": "string"}).drop(columns="router_scores")), EIGHT)
    assert (found.trace.experts == IDS).all()
    assert found.trace.token_ids is None
    blank = long_table().assign(phase=["prefill"] + [""] * 71, token_id=["7"] + [""] * 71)
    found = read("t.csv", blank.to_csv(index=False).encode(), EIGHT)
    assert {"phase is not used: some rows have none", "token_id is not used: some rows have none"} <= set(
        found.report
    )


def test_wide_tables_of_marks_and_of_counts() -> None:
    """A column for each expert is neither ids nor ranks."""
    place = np.indices(IDS.shape[:2]).reshape(2, -1)
    marks = np.zeros((len(place[0]), 8), int)
    np.put_along_axis(marks, IDS.reshape(-1, 2).astype(int), 1, 1)
    columns = {f"expert_{n}": marks[:, n] for n in range(8)}
    table = pd.DataFrame({"token": place[0], "layer": place[1], **columns}).to_csv(index=False).encode()
    trace = read("marks.csv", table).trace
    assert (trace.experts == np.sort(IDS, axis=2)).all()
    assert trace.num_experts == 8
    found = open_content("counts.csv", b"layer,expert_0,expert_1,expert_2\n3,5,0,1\n4,2,2,9\n")
    assert isinstance(found, Counted)
    assert found.counts.counts.tolist() == [[5, 0, 1], [2, 2, 9]]
    assert found.counts.layer_indices == (3, 4)


def test_names_stand_in_one_row_only() -> None:
    every = [name for row in names.ALIASES.values() for name in row]
    assert len(every) == len(set(every))


PARQUET = [kind for kind in FORMATS if "parquet" in kind]


def _mutated(kind: str, seed: int) -> bytes:
    _, make, _ = FORMATS[kind]
    rng = np.random.default_rng(seed)
    content = bytearray(_made(kind, make))
    for _ in range(rng.integers(1, 8)):
        content[rng.integers(len(content))] = rng.integers(256)
    if rng.random() < 0.2:
        content = content[: rng.integers(1, len(content) + 1)]
    return bytes(content)


@pytest.mark.parametrize("kind", [kind for kind in FORMATS if kind not in PARQUET])
@given(seed=st.integers(0, 2**32))
@example(seed=204_824)  # of a torch file: a member that stands beyond 64 bits
def test_mutated_files_are_valid_or_refused(kind: str, seed: int) -> None:
    said, found = "", None
    try:
        found = open_content("file", _mutated(kind, seed), FORMATS[kind][2])
    except TraceError as error:
        said = str(error)
    assert not ("cannot be read: " in said and "Error: " in said), f"a reader stumbled: {said}"
    if isinstance(found, Imported):
        assert found.trace.experts.max() < found.trace.num_experts


@pytest.mark.parametrize("kind", PARQUET)
@settings(max_examples=10)
@given(seed=st.integers(0, 2**32))
def test_mutated_parquet_is_valid_or_refused_in_a_process_of_its_own(kind: str, seed: int) -> None:
    # pyarrow ends the process on some damaged metadata; an upload is read in a child for such a case
    try:
        found = open_guarded("file", _mutated(kind, seed), FORMATS[kind][2])
    except TraceError:
        return
    if isinstance(found, Imported):
        assert found.trace.experts.max() < found.trace.num_experts


_MADE: dict[str, bytes] = {}


def _made(kind: str, make: Callable[[], bytes]) -> bytes:
    if kind not in _MADE:
        _MADE[kind] = make()
    return _MADE[kind]


def test_a_refusal_is_short_however_long_what_it_names() -> None:
    from moeviz.files.importers import _guard

    def refuse() -> Found:
        raise TraceError(f"x.jsonl: line 2 is token {'9' * 5_000}; expected 1.")

    with pytest.raises(TraceError) as refusal:
        _guard("x.jsonl", refuse)
    said = str(refusal.value)
    assert (said[:24], said[-14:]) == ("x.jsonl: line 2 is token", "9; expected 1.")
    assert len(said) <= 600


# what the user says and the file has no use for


@pytest.mark.parametrize(
    ("name", "content", "options", "said"),
    [
        (
            "r.jsonl",
            lambda: lines(*each(token="token", layer="layer", experts="experts")),
            {"top_k": 7},
            "--top-k",
        ),
        (
            "r.jsonl",
            lambda: lines(*each(token="token", layer="layer", experts="experts")),
            {"axes": "token,layer"},
            "--axes",
        ),
        ("r.npy", lambda: npy(IDS), {"top_k": 7}, "--top-k"),
        (
            "t.moetrace",
            lambda: to_bytes(random_trace(1)),
            {"experts": 4, "prompt_tokens": 1},
            "--prompt-tokens",
        ),
        ("counts.npy", lambda: npy(np.ones((3, 8), np.int64)), {"prompt_tokens": 2}, "--prompt-tokens"),
    ],
)
def test_an_option_that_a_file_has_no_use_for_is_named(
    name: str, content: Callable[[], bytes], options: dict[str, object], said: str
) -> None:
    plain = open_content(name, content(), Options())
    found = open_content(name, content(), Options(**options))  # type: ignore[arg-type]
    told = [line for line in found.report if line.startswith(f"{said} is not used (")]
    assert len(told) == 1
    assert not any("is not used" in line for line in plain.report)
    if isinstance(found, Imported) and isinstance(plain, Imported):
        assert np.array_equal(found.trace.experts, plain.trace.experts)
        assert told[0] in found.trace.notes


def test_a_reader_may_hand_on_changed_options() -> None:
    watched = Watched(experts=8, top_k=2)
    changed = replace(watched, experts=16)
    assert (changed.experts, changed.top_k) == (16, 2)
    assert [line.split()[0] for line in watched.not_used] == ["--experts"]  # top_k is handed on


def test_an_option_that_is_used_is_not_called_unused() -> None:
    logits = np.random.default_rng(1).standard_normal((12, 3, 8)).astype(np.float32)
    found = read("l.npy", npy(logits), Options(8, 3, "token,layer,k", 2))
    assert not any("is not used" in line for line in found.report)
    assert found.trace.k == 2


def test_a_prompt_of_more_tokens_than_there_are_is_refused_and_one_that_is_all_is_not() -> None:
    with pytest.raises(
        TraceError, match="--prompt-tokens says 99,999, but the longest request has 12 tokens"
    ):
        read("r.npy", npy(IDS), Options(prompt_tokens=99_999))
    assert not read("r.npy", npy(IDS), Options(prompt_tokens=12)).trace.phase.any()
    phases = lines(
        *({**one, "phase": "decode"} for one in each(token="token", layer="layer", experts="experts"))
    )
    found = read("r.jsonl", phases, Options(prompt_tokens=2))
    assert any("as was asked instead of the file's own phases" in line for line in found.report)
    assert found.trace.phase.tolist() == [0] * 2 + [1] * 10


def test_an_expert_that_is_named_twice_is_no_place_without_a_route() -> None:
    table = b"token,layer,expert\n0,0,1\n0,0,1\n1,0,2\n1,0,3\n"
    with pytest.raises(TraceError, match="names one expert twice for token 0 in layer 0"):
        open_content("d.csv", table, Options())
    zeros = open_content("d.csv", table.replace(b"0,0,1", b"0,0,0"), Options())
    assert zeros.trace.experts[:, 0].tolist() == [[-1, -1], [2, 3]]

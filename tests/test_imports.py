"""Importers, each on a small file in exactly its format, and on what is wrong with it."""

from __future__ import annotations

import io
import json
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from click.testing import CliRunner
from conftest import random_trace
from hypothesis import given
from hypothesis import strategies as st

from moeviz.cli.main import main
from moeviz.core.replay import replay
from moeviz.core.run import HIT
from moeviz.core.settings import Settings
from moeviz.errors import TraceError
from moeviz.files import imports
from moeviz.files.imports import read
from moeviz.files.moetrace import to_bytes

IDS = random_trace(3, tokens=12, prompt=1).experts


def npy(array: np.ndarray) -> bytes:
    buffer = io.BytesIO()
    np.save(buffer, array)
    return buffer.getvalue()


def npz(**arrays: np.ndarray) -> bytes:
    buffer = io.BytesIO()
    np.savez_compressed(buffer, **arrays)
    return buffer.getvalue()


def long_table(weights: bool = True) -> pd.DataFrame:
    tokens, layers, k = IDS.shape
    place = np.indices(IDS.shape).reshape(3, -1)
    table = pd.DataFrame({"token": place[0], "layer": place[1], "rank": place[2], "expert": IDS.ravel()})
    return table.assign(weight=np.tile([0.75, 0.25], tokens * layers * k // 2)) if weights else table


def routes(weights: bool = True, meta: str = '{"model": "m", "num_experts": 8}') -> bytes:
    lines = [meta]
    for token, layers in enumerate(IDS.tolist()):
        for layer, ids in enumerate(layers):
            route = {"req_id": "r0", "token_idx": token, "layer": layer, "topk_ids": ids} | (
                {"topk_weights": [0.75, 0.25]} if weights else {}
            )
            lines.append(json.dumps(route))
    return "\n".join(lines).encode()


def policylang(scores: int = 2) -> bytes:
    """As TraceRecording.save writes it; scores of the chosen experts, of all 8, or null."""
    header = {
        "model_name": "m",
        "num_layers": 3,
        "num_experts": 8,
        "top_k": 2,
        "num_entries": IDS.shape[0] * 3,
    }
    lines = [json.dumps(header)]
    for token, layers in enumerate(IDS.tolist()):
        for layer, ids in enumerate(layers):
            lines.append(json.dumps({"t": token, "l": layer, "e": ids, "s": [0.5] * scores or None}))
    return ("\n".join(lines) + "\n").encode()


def policylang_parquet(names: tuple[str, str, str, str]) -> bytes:
    rows = [
        (t, layer, ids, [0.75, 0.25])
        for t, layers in enumerate(IDS.tolist())
        for layer, ids in enumerate(layers)
    ]
    return parquet(pd.DataFrame(rows, columns=list(names)))


def parquet(table: pd.DataFrame) -> bytes:
    buffer = io.BytesIO()
    table.to_parquet(buffer)
    return buffer.getvalue()


def test_moeviz_own_format_brings_its_run() -> None:
    trace = random_trace(1)
    run = replay(trace, Settings(slots=3))
    found = read("a.moetrace", to_bytes(trace, run))
    assert found.format == "moetrace"
    assert found.run is not None
    assert found.run.same_decisions(run)


@pytest.mark.parametrize(
    ("make", "format"),
    [
        (lambda: npy(IDS), "vllm"),
        (lambda: npy(IDS.astype(np.uint8)), "vllm"),
        (lambda: npz(routed_experts=IDS, weights=np.ones(IDS.shape, np.float16)), "vllm"),
        (lambda: npz(experts=IDS), "vllm"),
        (lambda: long_table().to_csv(index=False).encode(), "table"),
        (lambda: long_table(False).sample(frac=1, random_state=0).to_csv(index=False).encode(), "table"),
        (lambda: parquet(long_table()), "table"),
        (lambda: routes(), "routes"),
        (lambda: routes(weights=False), "routes"),
        (lambda: policylang(), "policylang"),
        (lambda: policylang(scores=8), "policylang"),
        (lambda: policylang(scores=0), "policylang"),
        (lambda: policylang_parquet(("t", "l", "e", "s")), "policylang"),
        (
            lambda: policylang_parquet(("token_idx", "layer_idx", "selected_experts", "router_scores")),
            "policylang",
        ),
        (lambda: long_table().rename(columns=str.upper).to_csv(index=False).encode(), "table"),
    ],
)
def test_every_format_is_found_by_its_content(make: Callable[[], bytes], format: str) -> None:
    found = read("file", make(), experts=8)
    assert found.format == format
    assert (found.trace.experts == IDS).all()
    assert found.trace.num_experts == 8
    assert (replay(found.trace, Settings(slots=4)).accesses.outcome == HIT).any()


def test_moe_beyond() -> None:
    lines = ["Layer ID,Batch Number,Token,Activated Expert IDs"]
    for batch in range(2):
        for layer in range(3):
            lines += [f'{layer},{batch},"the","[{layer}, {layer + 1 + token}]"' for token in range(2)]
    found = read("beyond.csv", "\n".join(lines).encode())
    assert found.format == "moe-beyond"
    assert found.trace.experts.shape == (4, 3, 2)
    assert found.trace.experts[1, 2].tolist() == [2, 4]


def test_padding_and_warm_up_are_counted_and_left_out() -> None:
    ids = np.concatenate(
        [np.zeros((2, *IDS.shape[1:]), np.int16), IDS, np.full((3, *IDS.shape[1:]), -1, np.int16)]
    )
    found = read("routed.npy", npy(ids))
    assert (found.trace.experts == IDS).all()
    assert any("3 tokens with the id -1" in line for line in found.report)
    assert any("2 tokens with one id" in line for line in found.report)
    assert any("taken for" in line for line in found.report)


def test_sentinels_are_counted_and_left_out() -> None:
    """-1 in an unsigned type is its largest number; some kernels write the number of experts where there is none."""
    for dtype, sentinel in (("uint16", 65_535), ("uint8", 255), ("int32", 8)):
        ids = IDS.astype(dtype)
        ids[4, 1] = sentinel
        ids[7] = sentinel
        found = read("routed.npy", npy(ids), experts=8)
        assert (found.trace.experts == np.delete(IDS, [4, 7], 0)).all()
        assert found.report[0] == f"2 tokens hold the id {sentinel}, which stands for an empty place"
    one = IDS[..., :1].astype("uint8")
    one[3, 0] = 255  # could be an expert where nobody says how many there are
    assert read("routed.npy", npy(one)).trace.num_experts == 256


@pytest.mark.parametrize(
    ("make", "words"),
    [
        (lambda: npy(IDS.astype(float)), r"float64 with 3 dimensions; expected whole numbers"),
        (lambda: npy(IDS[0]), "2 dimensions"),
        (lambda: npy(np.where(IDS == 0, 8, IDS)), "chose expert 8, but there are 8"),
        (lambda: npy(np.array([{}], object)), "not an array that numpy saved"),
        (lambda: npy(np.full((4, 3, 2), -1)), "holds no tokens but padding"),
        (
            lambda: npy(np.stack([IDS[..., 0], IDS[..., 0]], -1)),
            "names one expert twice for token 0 in layer 0",
        ),
        (lambda: npz(other=IDS), "holds no array routed_experts"),
        (lambda: npz(routed_experts=IDS, weights=np.ones((2, 2))), "weights has shape"),
        (lambda: b"PK\x03\x04" + b"x" * 50, "not an array that numpy saved"),
        (lambda: b"a,b\n1,2\n", "has the columns a, b; expected token, layer, rank, expert"),
        (lambda: b"token,layer,rank,expert\n", "has no rows"),
        (lambda: b"token,layer,rank,expert\n0,0,0,x\n", "row 1: expert is 'x'"),
        (lambda: b"token,layer,rank,expert\n0,0,0,1\n0,0,1,-3\n", "row 2: expert is -3"),
        (
            lambda: b"token,layer,rank,expert\n0,0,0,1\n0,0,1,2\n1,0,0,1\n",
            "token 1 in layer 0 has not each rank",
        ),
        (
            lambda: b"token,layer,rank,expert\n0,0,0,1\n0,1,0,2\n1,0,0,1\n",
            "token 1 nowhere in layer 1; expected each of 2 tokens in each of 2 layers",
        ),
        (
            lambda: b'Layer ID,Batch Number,Token,Activated Expert IDs\n0,0,a,"[1, 2]"\n0,0,b,[1]\n',
            "row 2: 1 expert ids; expected 2",
        ),
        (lambda: b'{"model": "m"}\n{"token_idx": 0}', "line 2 lacks layer, topk_ids"),
        (lambda: b'{"model": "m"}', "holds no routes"),
        (
            lambda: b'{}\n{"token_idx": 0, "layer": 0, "topk_ids": [1.5]}',
            "line 2: token_idx, layer and topk_ids must be whole numbers",
        ),
        (
            lambda: b'{}\n{"token_idx": 0, "layer": 0, "topk_ids": [1], "topk_weights": [1, 2]}',
            "line 2: topk_weights must be",
        ),
        (
            lambda: routes() + b'\n{"req_id": "r0", "token_idx": 0, "layer": 0, "topk_ids": [1, 2]}',
            "token 0 more than once in layer 0; expected each of 12 tokens in each of 3 layers once",
        ),
        (
            lambda: b'{"top_k": 2}\n{"t": 0, "l": 0, "e": [1, 2]}\n{"t": 1, "l": 0, "e": [1]}',
            "token 1 in layer 0 has 1 experts; expected 2",
        ),
        (
            lambda: b'{"top_k": 2}\n{"t": 0, "l": 0, "e": [1, 2], "s": [1]}',
            "line 2: s must be a number for each of 2",
        ),
        (
            lambda: parquet(pd.DataFrame({"t": [0], "l": [0], "e": ["no list"]})),
            "row 1: t, l and e must be whole numbers",
        ),
        (lambda: b"PAR1" + b"x" * 50, "not a table that can be read"),
        (lambda: b"nothing at all", "is no trace|not a .moetrace"),
    ],
)
def test_what_is_wrong_is_named(make: Callable[[], bytes], words: str) -> None:
    with pytest.raises(TraceError, match=words):
        read("file", make(), experts=8)


def test_a_zip_that_unpacks_to_too_much_is_refused_first(monkeypatch: pytest.MonkeyPatch) -> None:
    content = npz(routed_experts=np.zeros((1000, 10, 4), np.int64))
    monkeypatch.setattr(imports, "MAX_FILE_BYTES", 100_000)
    monkeypatch.setattr(np, "load", lambda *args, **kwargs: pytest.fail("unpacked"))
    with pytest.raises(TraceError, match="would unpack to"):
        read("bomb.npz", content)


def test_requests_follow_each_other() -> None:
    lines = ["{}"] + [
        json.dumps({"req_id": r, "token_idx": t, "layer": 0, "topk_ids": [i, i + 1]})
        for i, (r, t) in enumerate([("a", 0), ("a", 1), ("b", 0)])
    ]
    assert read("routes.jsonl", "\n".join(lines).encode()).trace.experts[:, 0, 0].tolist() == [0, 1, 2]


def dump(tmp_path: Path, content: object) -> Path:
    import torch

    torch.save(content, tmp_path / "dump.pt")
    return tmp_path / "dump.pt"


def test_sglangs_recorder(tmp_path: Path) -> None:
    """As the recorder dumps it: all layers of the model, a fixed width of 8, -1 where there is nothing, passes in any order."""
    import torch

    from moeviz.engine.sglang import records

    def record(number: int, tokens: slice) -> dict[str, object]:
        ids = torch.full((5, tokens.stop - tokens.start, 8), -1, dtype=torch.int32)
        ids[2:, :, :2] = torch.from_numpy(IDS[tokens].astype("int32")).transpose(0, 1)
        return {
            "forward_pass_id": number,
            "rank": 0,
            "gatherer_key": "primary",
            "input_ids": [1],
            "topk_ids_of_layer": ids,
            "misc_objects": [],
        }

    path = dump(
        tmp_path, {"records": [record(5, slice(9, 10)), record(4, slice(0, 9)), record(7, slice(10, 12))]}
    )
    found = imports.from_records("dump.pt", records(path), 8)
    assert (found.trace.experts == IDS).all()
    assert found.trace.phase.tolist() == [0] * 9 + [1] + [0] * 2
    assert found.trace.forward_pass.tolist() == [0] * 9 + [1] + [2] * 2
    assert "2 layers without experts and 6 unused places" in found.report[0]
    result = CliRunner().invoke(
        main, ["import", str(path), "--experts", "8", "--out", str(tmp_path / "out.moetrace")]
    )
    assert result.exit_code == 0, result.output


def test_a_pickle_that_runs_code_is_refused(tmp_path: Path) -> None:
    class Evil:
        def __reduce__(self) -> tuple[object, tuple[str]]:
            return Path.touch, (Path("/nowhere"),)  # type: ignore[return-value]

    for content, words in (
        ({"records": [Evil()]}, "is not a dump of SGLang's recorder"),
        ({"other": 1}, "holds no records"),
        ({"records": [{}]}, "no per_token records"),
    ):
        result = CliRunner().invoke(
            main, ["import", str(dump(tmp_path, content)), "--out", str(tmp_path / "out")]
        )
        assert result.exit_code == 2
        assert words in result.stderr


SEEDS = {
    "routes": routes(),
    "policylang": policylang(),
    "policylang parquet": policylang_parquet(("t", "l", "e", "s")),
    "npy": npy(IDS),
    "npz": npz(routed_experts=IDS),
    "csv": long_table().to_csv(index=False).encode(),
    "parquet": parquet(long_table()),
    "moetrace": to_bytes(random_trace(0, tokens=8)),
}


@pytest.mark.parametrize("kind", SEEDS)
@given(seed=st.integers(0, 2**32))
def test_mutated_files_are_valid_or_refused(kind: str, seed: int) -> None:
    rng = np.random.default_rng(seed)
    content = bytearray(SEEDS[kind])
    for _ in range(rng.integers(1, 8)):
        content[rng.integers(len(content))] = rng.integers(256)
    try:
        found = read(
            "file", bytes(content[: rng.integers(1, len(content) + 1)] if rng.random() < 0.2 else content)
        )
    except TraceError:
        return
    assert found.trace.experts.max() < found.trace.num_experts

"""The stage's payload and page: what the browser is given is what the runs and explanations say."""

from __future__ import annotations

import base64
import html
import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from click.testing import CliRunner
from conftest import make_trace, random_trace

import moeviz
from moeviz.charts.stage import payload, stage, stage_html, stage_payload
from moeviz.charts.stage.packing import packed, pairs_of_bits
from moeviz.cli.main import main
from moeviz.core.replay import replay
from moeviz.core.run import HIT, MISS
from moeviz.core.settings import Settings
from moeviz.errors import StageError
from moeviz.files import moetrace
from moeviz.numbers import cost
from moeviz.numbers.explain import Explainer
from moeviz.numbers.lanes import KINDS
from moeviz.numbers.subject import subject_changes
from moeviz.words import hit_verdict

TYPES = {"u8": "<u1", "i8": "<i1", "u16": "<u2", "i16": "<i2", "u32": "<u4", "i32": "<i4", "f32": "<f4"}
SUBJECT = "change-of-subject"


def sample_file(name: str) -> Path:
    return Path(moeviz.__file__).parents[1] / "sample_traces" / f"{name}.moetrace"


def unpacked(part: dict[str, str]) -> np.ndarray[Any, Any]:
    """What decode.js makes of a packed array."""
    return np.frombuffer(base64.b64decode(part["data"]), TYPES[part["type"]])


def outcomes(part: dict[str, str], count: int) -> np.ndarray[Any, Any]:
    quads = unpacked(part)
    return np.stack([quads >> 2 * at & 3 for at in range(4)], 1).ravel()[:count]


@pytest.mark.parametrize(
    ("values", "kind"),
    [
        ([0, 255], "u8"),
        ([-1, 7], "i8"),
        ([0, 256], "u16"),
        ([-1, 300], "i16"),
        ([70_000], "u32"),
        ([-1, 70_000], "i32"),
        ([0.5], "f32"),
        ([True], "u8"),
    ],
)
def test_arrays_are_packed_in_the_smallest_type(values: list[Any], kind: str) -> None:
    part = packed(np.array(values))
    assert part["type"] == kind
    assert unpacked(part).tolist() == values


def test_numbers_that_fit_in_no_type_are_refused() -> None:
    with pytest.raises(ValueError, match="32 bits"):
        packed(np.array([2**40]))


def test_four_outcomes_share_a_byte() -> None:
    values = np.array([0, 1, 2, 3, 2], np.uint8)
    assert outcomes(pairs_of_bits(values), 5).tolist() == values.tolist()


@pytest.mark.parametrize(
    "settings",
    [
        Settings("lru", 3),
        Settings("lfu", 9, scope="model"),
        Settings("lru", 3, prefetch="next-gate"),
        Settings(baseline="on-demand"),
    ],
    ids=lambda settings: settings.label,
)
def test_a_run_comes_out_as_it_went_in(settings: Settings) -> None:
    trace = random_trace(1)
    run = replay(trace, settings)
    made = stage_payload(trace, [run])
    part = made["runs"][0]
    events = len(run.passes.phase) * run.layers
    number = run.events.forward_pass.astype(int) * run.layers + run.events.layer
    assert unpacked(made["needs"]["experts"]).tolist() == run.accesses.expert.tolist()
    needs = np.repeat(np.arange(events), unpacked(made["needs"]["counts"]))
    assert needs.tolist() == number[run.accesses.event].tolist()
    assert outcomes(part["outcome"], len(needs)).tolist() == run.accesses.outcome.tolist()
    loads = np.repeat(np.arange(events), unpacked(part["loads"]["counts"]))
    assert loads.tolist() == number[run.loads.event].tolist()
    assert unpacked(part["loads"]["expert"]).tolist() == run.loads.expert.tolist()
    assert unpacked(part["loads"]["victim"]).tolist() == run.loads.victim_expert.tolist()
    if part["loads"]["layer"] is None:
        assert (run.loads.layer == run.events.layer[run.loads.event]).all()
    else:
        assert unpacked(part["loads"]["layer"]).tolist() == run.loads.layer.tolist()
        assert unpacked(part["loads"]["victimLayer"]).tolist() == run.loads.victim_layer.tolist()


def test_an_event_that_needs_nobody_keeps_its_place() -> None:
    events = [[[0, 1], [2, 3]], [[-1, -1], [2, 4]], [[0, 5], [2, 3]]]
    trace = make_trace(events, weights=np.where(np.array(events) < 0, 0.0, 0.5))
    made = stage_payload(trace, [replay(trace, Settings("lru", 3))])
    assert unpacked(made["needs"]["counts"]).tolist() == [2, 2, 0, 2, 2, 2]


def test_every_eviction_is_told_as_the_explainer_tells_it() -> None:
    trace = moetrace.sample("bible")
    explainer = Explainer(trace, Settings("lfu", 4))
    story = stage_payload(trace, [explainer.run], explainers=[explainer])["runs"][0]["story"]
    told = {load: at for at, load in enumerate(unpacked(story["load"]).tolist())}
    columns = {name: unpacked(story[name]).tolist() for name in ("why", "belady", "regret")}
    starts = np.cumsum([0, *unpacked(story["counts"]).tolist()])
    cells, statuses, says = (unpacked(story[name]).tolist() for name in ("cell", "status", "says"))
    seen = 0
    for step in range(len(trace.passes())):
        for layer in range(trace.layers):
            for eviction in explainer.evictions(step, layer):
                at = told[eviction.load]
                seen += 1
                assert story["words"][columns["why"][at]] in eviction.sentence
                assert divmod(columns["belady"][at], trace.num_experts) == eviction.belady
                assert columns["regret"][at] == (-1 if eviction.regret is None else eviction.regret)
                own = range(starts[at], starts[at + 1])
                assert {divmod(cells[n], trace.num_experts) for n in own} == {
                    (one.layer, one.expert) for one in eviction.residents
                }
                assert (statuses[starts[at]], cells[starts[at]]) == (
                    0,
                    eviction.layer * trace.num_experts + eviction.expert,
                )
                assert all(story["words"][says[n]].startswith("used ") for n in own)
    assert seen == len(told) > 100


def test_all_who_left_for_one_load_are_told() -> None:
    trace = replace(random_trace(4, tokens=60), expert_bytes=(100, 300, 200))
    explainer = Explainer(trace, Settings("lfu", scope="model", budget=1_500))
    run, belady = explainer.run, replay(trace, Settings("belady", scope="model", budget=1_500))
    made = stage_payload(trace, [run], explainers=[explainer], bound=belady)
    leavers, story = made["runs"][0]["loads"]["leavers"], made["runs"][0]["story"]
    cells = [layer * trace.num_experts + expert for _, layer, expert in run.departures.rows()]
    assert unpacked(leavers["load"]).tolist() == run.leavers.load.tolist()
    assert len(run.leavers.load) > 10
    assert unpacked(story["load"]).tolist() == run.departures.load.tolist()
    starts = np.cumsum([0, *unpacked(story["counts"]).tolist()])[:-1]
    assert unpacked(story["cell"])[starts].tolist() == cells
    assert (made["bound"]["holds"], made["bound"]["rule"]) == (False, "")
    other = replay(trace, Settings("belady", 4, rule="one-by-one"))
    assert stage_payload(trace, [run], bound=other)["bound"]["rule"] == "one-by-one"
    assert stage_payload(trace, [run], bound=replay(trace, Settings("belady")))["bound"]["holds"] is True


def test_the_choice_of_the_bound_is_told_among_many_residents() -> None:
    trace = random_trace(5, tokens=60, experts=32, k=2)
    explainer = Explainer(trace, Settings("lru", 20))
    story = stage_payload(trace, [explainer.run], explainers=[explainer])["runs"][0]["story"]
    starts = np.cumsum([0, *unpacked(story["counts"]).tolist()])
    cells = unpacked(story["cell"]).tolist()
    assert max(np.diff(starts)) == 8
    for at, belady in enumerate(unpacked(story["belady"]).tolist()):
        assert belady in cells[starts[at] : starts[at + 1]]


def waited(times: dict[str, Any]) -> Any:
    """ms that compute waits in each pass, as the browser reads them off the lanes."""
    lanes = {name: unpacked(times["lanes"][name]) for name in ("counts", "lane", "kind", "start", "end")}
    stall = (lanes["lane"] == 0) & (lanes["kind"] == KINDS.index("stall"))
    share = np.where(stall, (lanes["end"].astype(float) - lanes["start"]) / 65_535, 0)
    of = np.repeat(np.arange(len(lanes["counts"])), lanes["counts"])
    return np.bincount(of, share, len(lanes["counts"])) * unpacked(times["wall"])


def test_times_are_measured_modelled_or_absent_and_say_which() -> None:
    trace, recorded = moetrace.load(sample_file(SUBJECT))
    assert recorded is not None
    assert recorded.times is not None
    lru, lfu = (replay(trace, Settings(name, 4)) for name in ("lru", "lfu"))
    (own,) = (part["times"] for part in stage_payload(trace, [lru], measured=[recorded])["runs"])
    assert own["source"] == "measured"
    assert np.allclose(unpacked(own["wall"]), recorded.times.pass_wall / 1e6)
    pair = [part["times"] for part in stage_payload(trace, [lru, lfu], measured=[recorded])["runs"]]
    assert [(one["source"], one["of"]) for one in pair] == [("modelled", "LRU")] * 2  # of one kind
    other = pair[1]
    assert unpacked(other["wall"]).min() > 0
    assert len(unpacked(other["lanes"]["kind"])) == unpacked(other["lanes"]["counts"]).sum()
    both = stage_payload(trace, [lru, lfu], measured=[recorded, replace(lfu, times=recorded.times)])["runs"]
    assert [(one["times"]["source"], one["times"]["of"]) for one in both] == [
        ("measured", "LRU"),
        ("measured", "LFU (counts kept)"),
    ]
    kind, end, layer = (unpacked(own["lanes"][name]) for name in ("kind", "end", "layer"))
    rest = (kind == KINDS.index("other")) & (end == end.max())  # of each pass, after its last layer
    assert rest.sum() == len(trace.passes())
    assert (layer[rest] == trace.layers - 1).all()
    stalls = np.bincount(recorded.events.forward_pass, recorded.times.event_stall / 1e6)
    assert np.allclose(waited(own), stalls, atol=0.02)
    modelled = cost.stack(lfu, cost.fit(recorded))
    assert modelled is not None
    assert waited(other)[lfu.passes.phase == 1].mean() == pytest.approx(modelled.stall, abs=0.02)
    assert stage_payload(trace, [lru])["runs"][0]["times"] is None


def test_times_that_arrive_make_another_payload() -> None:
    trace, recorded = moetrace.load(sample_file(SUBJECT))
    assert recorded is not None
    run = replay(trace, Settings("lru", 4))
    bare, timed = stage_payload(trace, [run]), stage_payload(trace, [run], measured=[recorded])
    assert bare["id"] != timed["id"]
    assert bare["id"] == stage_payload(trace, [run], verdict="something else")["id"]


def test_a_kept_part_stands_for_its_run() -> None:
    trace = random_trace(2)
    runs = [replay(trace, Settings(name, 3)) for name in ("lru", "lfu")]
    whole = stage_payload(trace, runs)
    kept = payload.run_part(runs[1])
    assert stage_payload(trace, runs, parts=[None, kept]) == whole


def test_a_run_of_another_trace_is_refused() -> None:
    run = replay(random_trace(1, tokens=30), Settings("lru", 3))
    with pytest.raises(StageError, match="Replay this trace"):
        stage_payload(random_trace(1, tokens=40), [run])
    with pytest.raises(StageError, match="at least one run"):
        stage_payload(random_trace(1), [])


def test_a_trace_that_is_too_long_names_the_way_out(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(payload, "MAX_ACCESSES", 100)
    trace = random_trace(1)
    with pytest.raises(StageError, match="Choose a window"):
        stage_payload(trace, [replay(trace, Settings("lru", 3))])


def test_the_verdict_is_the_difference_of_hit_ratios() -> None:
    trace = moetrace.sample(SUBJECT)
    runs = [replay(trace, Settings(name, 4)) for name in ("lru", "lfu")]
    changes = subject_changes(trace)
    token = changes[0].token
    change = next(number for number, part in enumerate(trace.passes()) if part.start <= token < part.stop)

    def points(first: int, last: int) -> float:
        found = []
        for run in runs:
            passes = run.events.forward_pass[run.accesses.event]
            own = run.accesses.outcome[(passes >= first) & (passes < last)]
            found.append(100 * float((own == HIT).mean()))
        return found[0] - found[1]

    whole, before, after = points(0, 10_000), points(0, change), points(change, 10_000)
    assert before < 0 < after
    decoded = int(trace.phase.sum())
    assert hit_verdict(trace, runs, changes) == (
        f"LRU hits {whole:.1f} points more than LFU (counts kept) over the prompt and {decoded} tokens: "
        f"in German LFU leads by {-before:.1f} points, in Python LRU leads by {after:.1f} points."
    )


def test_boards_are_named_by_what_tells_them_apart() -> None:
    trace = random_trace(3)
    settings = [Settings("lfu", 3), Settings("lfu", 4, prefetch="oracle"), Settings("lru", 3)]
    runs = [replay(trace, one) for one in settings]
    names = [part["name"] for part in stage_payload(trace, runs)["runs"]]
    assert names == [
        "LFU (counts kept, 3 slots, no pre-fetch)",
        "LFU (counts kept, 4 slots, oracle)",
        "LRU (3 slots, no pre-fetch)",
    ]
    assert hit_verdict(trace, runs, []).startswith(names[1])


def test_equal_runs_make_no_winner() -> None:
    trace = random_trace(3)
    runs = [
        replay(trace, Settings(name, trace.k)) for name in ("lru", "lfu")
    ]  # slots = k: all policies are equal
    assert hit_verdict(trace, runs, []).startswith("LRU and LFU (counts kept) hit alike")
    assert hit_verdict(trace, runs[:1], []) == ""
    assert hit_verdict(trace, [runs[0], runs[0]], []) == "Both are set alike."


def test_a_sample_is_one_small_page_without_addresses() -> None:
    for name in moetrace.sample_names():
        trace, recorded = moetrace.load(sample_file(name))
        page = stage(trace, ["lru", "lfu"], recorded=recorded).html
        assert len(page.encode()) < 2_000_000
        assert "http:" not in page
        assert "https:" not in page
        assert "default-src 'none'" in page


def test_a_page_that_is_passed_on_names_no_folder(tmp_path: Path) -> None:
    (tmp_path / "own.py").write_text("def mine(use, now): return use.loaded\n")
    page = stage(random_trace(1), ["lru", f"{tmp_path}/own.py:mine"]).html
    assert "own.py:mine" in page
    assert str(tmp_path) not in page


def test_boards_are_named_by_a_policy_by_settings_or_in_words() -> None:
    trace = moetrace.sample("change-of-subject")
    page = stage(trace, ["policy=lru,slots=4,prefetch=previous-token", Settings("lfu", 4)]).html
    assert page == stage(trace, [Settings("lru", 4, prefetch="previous-token"), "lfu"], 4).html


def test_text_of_a_trace_cannot_end_the_script() -> None:
    trace = make_trace([[[0, 1]], [[2, 3]]])
    made = stage_payload(
        trace, [replay(trace, Settings("lru", 2))], title="</script><script>alert(1)</script>"
    )
    page = stage_html(made)
    assert page.count("</script>") == 2
    assert "<script>alert" not in page


def test_a_notebook_shows_the_page_in_a_frame_of_its_own(tmp_path: Path) -> None:
    made = moeviz.stage(random_trace(1), ["lru", Settings("lfu", 5)], slots=4)
    frame = made._repr_html_()
    assert 'sandbox="allow-scripts"' in frame
    assert html.escape(made.html) in frame
    made.save(tmp_path / "stage.html")
    assert (tmp_path / "stage.html").read_text() == made.html


def test_boards_of_one_batch_size_share_a_stage_and_others_do_not() -> None:
    trace = random_trace(1, tokens=30, prompt=6)
    four = [Settings(name, 6, rule="batch:4") for name in ("lru", "lfu")]
    page = stage(trace, four).html
    data = json.loads(page.partition('id="payload">')[2].partition("</script>")[0])
    assert data["shape"]["passes"] == len(replay(trace, four[0]).passes.phase) < len(trace.passes())
    with pytest.raises(StageError, match="has to be the same"):
        stage(trace, [four[0], Settings("lru", 6)])


def test_slots_that_nobody_chose_are_a_third_but_more_than_k() -> None:
    found = [
        given_slots(random_trace(1, experts=experts, k=k, lookaheads=0))
        for experts, k in ((32, 4), (8, 4), (3, 1))
    ]
    assert found == [11, 5, 2]


def given_slots(trace: Any) -> int:
    page = stage(trace, ["lru"]).html
    data = page.partition('id="payload">')[2].partition("</script>")[0]
    return int(json.loads(data)["runs"][0]["slots"])


def test_export_writes_the_stage(tmp_path: Path) -> None:
    out = tmp_path / "lesson.html"
    arguments = ["export", str(sample_file("bible")), "--format", "stage", "--policies", "lru,lfu,belady"]
    done = CliRunner().invoke(main, [*arguments, "--out", str(out)])
    assert done.exit_code == 0, done.output
    data = json.loads(out.read_text().partition('id="payload">')[2].partition("</script>")[0])
    assert [run["policy"] for run in data["runs"]] == ["lru", "lfu", "belady"]
    assert all(run["times"] for run in data["runs"])
    trace = moetrace.sample("bible")
    misses = int((replay(trace, Settings("lfu", 4)).accesses.outcome == MISS).sum())
    count = len(replay(trace, Settings("lfu", 4)).accesses.outcome)
    assert int((outcomes(data["runs"][1]["outcome"], count) == 2).sum()) == misses


@pytest.mark.parametrize(
    ("policies", "says"), [("lru, nope", "'nope' is not known"), (" ,", "no policy was named")]
)
def test_export_of_policies_that_there_are_not_is_one_message(
    tmp_path: Path, policies: str, says: str
) -> None:
    arguments = ["export", str(sample_file("bible")), "--format", "stage", "--policies", policies]
    done = CliRunner().invoke(main, [*arguments, "--out", str(tmp_path / "x.html")])
    assert done.exit_code == 2
    assert says in done.output
    assert "Traceback" not in done.output

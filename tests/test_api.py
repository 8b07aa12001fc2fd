"""The library: names one can remember, lazily, and the same numbers as everywhere else."""

from __future__ import annotations

import math
import re
import xml.etree.ElementTree as ElementTree
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from conftest import random_trace
from test_metrics import timed

import moeviz as mv
from moeviz.core.policies import POLICIES
from moeviz.core.predictors import PREDICTORS
from moeviz.core.replay import replay
from moeviz.core.settings import Settings
from moeviz.errors import ArgumentError, SettingsError
from moeviz.files import moetrace
from moeviz.files.moetrace import SAMPLES
from moeviz.numbers import metrics
from moeviz.sweeps import Plan


def test_every_name_is_there() -> None:
    for name in mv.__all__:
        assert getattr(mv, name) is not None, name
        assert name in dir(mv)
    with pytest.raises(AttributeError, match="it has MoevizError, Run"):
        mv.nothing  # noqa: B018


def test_a_trace_and_a_run_are_one_line_where_somebody_types_their_name() -> None:
    trace = random_trace(1, tokens=2_000, prompt=1)
    assert repr(trace) == "<Trace: 2,000 tokens, 3 MoE layers x 8 experts, top-2, of an unknown model>"
    assert repr(replace(trace, model="mix\ntral")).endswith(r"top-2, 'mix\ntral'>")
    run = replay(trace, Settings("lfu", 4))
    shape, misses = "2,000 forward passes, 3 MoE layers x 8 experts, top-2", f"{run.misses:,}"
    accesses = f"{len(run.accesses.event):,}"
    assert repr(run) == f"<Run: replayed, 'lfu, 4 slots', {shape}, misses {misses} of {accesses}>"
    assert repr(timed(run)).startswith("<Run: measured, ")


def test_load_reads_what_the_importers_read(tmp_path: Path) -> None:
    trace = random_trace(1, prompt=1)
    trace.save(tmp_path / "a.moetrace", replay(trace, Settings(slots=3)))
    np.save(tmp_path / "routed.npy", trace.experts)
    same, run = mv.load(tmp_path / "a.moetrace")
    assert same.digest == trace.digest
    assert run is not None
    assert run.settings == Settings(slots=3)
    other, none = mv.load(tmp_path / "routed.npy", experts=9)
    assert other.num_experts == 9
    assert none is None


def test_slots_that_nobody_names_suit_the_trace() -> None:
    trace = random_trace(3, layers=2, experts=24, k=5)
    assert mv.replay(trace, "lfu").settings == Settings("lfu", 8)
    assert mv.replay(trace, "policy=lfu,scope=model").settings == Settings("lfu", 16, "model")
    assert mv.replay(trace, "policy=lfu,slots=6").settings == mv.replay(trace, "lfu", slots=6).settings
    assert mv.replay(trace, Settings("lfu", 6)).settings == Settings("lfu", 6)
    assert mv.compare(trace, "lru")["slots"].tolist() == [8]
    assert mv.explain(trace, "lru").run.settings == Settings("lru", 8)
    assert mv.curve(trace, "lru").slots[0] == trace.k


@pytest.mark.parametrize("verb", ["replay", "compare", "curve", "explain", "stage"])
def test_what_is_no_trace_is_refused_with_the_way_to_one(verb: str) -> None:
    trace = random_trace(2)
    for given, says in (
        ("a.moetrace", "'a.moetrace' is a path: trace, run = moeviz.load"),
        ((trace, None), "moeviz.load gives two: trace, run = "),
        (replay(trace, Settings(slots=3)), "a Run does not hold the Trace"),
        (None, "None is none"),
    ):
        with pytest.raises(ArgumentError, match=f"^{verb} takes a Trace first, and .*{re.escape(says)}"):
            getattr(mv, verb)(given, "lru" if verb != "stage" else ["lru"])


def test_what_is_no_run_no_paths_and_no_model_is_refused(tmp_path: Path) -> None:
    trace = random_trace(2)
    for verb, arguments, says in (
        ("summary", (trace,), "a Trace is none: moeviz.replay"),
        ("load", (trace,), "a Trace is none"),
        ("sweep", ("a.moetrace", tmp_path / "t.parquet"), r"'a.moetrace' is one: write \[path\]"),
        ("sweep", (trace, tmp_path / "t.parquet"), "a Trace is none: trace.save"),
        ("sweep", ([trace], tmp_path / "t.parquet"), "a Trace is none: trace.save"),
        ("run", (trace, "In the beginning"), r"a Trace is none: moeviz.replay\(trace"),
        ("run", (3, "In the beginning"), "an int is none: moeviz.capture"),
    ):
        with pytest.raises(ArgumentError, match=f"^{verb} takes .*{says}"):
            getattr(mv, verb)(*arguments)
    with pytest.raises(ArgumentError, match="'x' is none: AutoModelForCausalLM"), mv.capture("x"):
        pass


def test_what_a_verb_does_not_take_is_named(tmp_path: Path) -> None:
    path, out, trace = SAMPLES / "bible.moetrace", tmp_path / "t.csv", random_trace(2)
    for work, says in (
        (lambda: mv.load(path, experts="x"), "experts of load is a whole number, and 'x' is none"),
        (lambda: mv.load(path, top_k=True), "top_k of load is a whole number, and a bool is none"),
        (lambda: mv.synthetic("a"), "tokens of synthetic is a whole number, and 'a' is none"),
        (
            lambda: mv.sweep([path], out, foo=3),
            "sweep knows no 'foo'. It takes budgets, dask, jobs, ",
        ),
        (lambda: mv.synthetic(5, skew="a"), "skew of synthetic is a number, and 'a' is none"),
        (lambda: mv.synthetic(5, reuse=None), "reuse of synthetic is a number, and None is none"),
        (lambda: mv.curve(trace, slots=[4.9]), "slots of curve are whole numbers, and a float is none"),
        (lambda: mv.curve(trace, slots="ab"), "slots of curve are whole numbers, and 'ab' is none"),
        (lambda: mv.compare(trace, 5), "settings are a policy's name, policy=lru,slots=4"),
        (lambda: mv.compare(trace, slots=True), "slots of compare are whole numbers, and a bool is none"),
        (lambda: mv.sweep([path], out, policies=5), "policies of sweep are names, and an int is none"),
        (lambda: mv.sweep([path], out, slots=["4"]), "slots of sweep are whole numbers, and '4' is none"),
        (lambda: mv.sweep([path], out, width="2"), "width of sweep is a whole number, and '2' is none"),
        (lambda: mv.sweep([path], out, rule=2), "rule of sweep is a text, and an int is none"),
        (lambda: mv.run("", 5), "prompts of run are texts, and an int is none"),
        (lambda: mv.run("", ["a", 5]), "prompts of run are texts, and an int is none"),
        (lambda: mv.run("", b"abc"), "prompts of run are texts, and a bytes is none"),
        (lambda: mv.compare(trace, b"lru"), "settings are a policy's name, policy=lru,slots=4"),
        (lambda: mv.sweep([path], out, jobs="2"), "jobs of sweep is a whole number, and '2' is none"),
        (lambda: mv.run("", "a", temperature=math.nan), "temperature of run is a number, and nan is none"),
        (lambda: mv.run("", "a", threads=0), "threads of run is 0; it must be at least 1"),
        (lambda: mv.run("", "a", threads="2"), "threads of run is a whole number, and '2' is none"),
        (lambda: mv.run("", "a", max_new_tokens="5"), "max_new_tokens of run is a whole number"),
        (lambda: mv.run("", "a", temperature="hot"), "temperature of run is a number, and 'hot' is none"),
        (lambda: mv.run("", "a", stop_at_end=1), "stop_at_end of run is True or False, and an int is"),
        (lambda: mv.run("", "a", max_tokens=5), "run knows no 'max_tokens'. It takes baseline, "),
    ):
        with pytest.raises(ArgumentError, match=re.escape(says)):
            work()


def test_whole_numbers_of_numpy_are_whole_numbers() -> None:
    """Those of a curve go into a replay."""
    trace = random_trace(2)
    curve = mv.curve(trace, "lfu", slots=3)
    assert curve.slots.tolist() == [3]
    (run,) = (mv.replay(trace, "lfu", slots=slots) for slots in curve.slots)
    assert run.settings == Settings("lfu", 3)
    assert type(run.settings.slots) is int
    assert mv.compare(trace, "lru", slots=curve.slots)["slots"].tolist() == [3]
    for odd in (3.0, np.array([3]), np.array([3, 4]), np.int64, True):
        with pytest.raises(SettingsError, match=r"slots is .*; it must be a whole number"):
            mv.replay(trace, slots=odd)
    assert mv.curve(trace, slots=np.array(3)).slots.tolist() == [3]


def test_a_sweep_says_which_policy_its_processes_cannot_know(tmp_path: Path) -> None:
    mv.policy("here")(lambda use, now: -use.last_touch)
    with pytest.raises(ArgumentError, match=r"do not know 'here' of this program\. Put it into a file"):
        mv.sweep([SAMPLES / "bible.moetrace"], tmp_path / "t.csv", policies="here")
    POLICIES.pop("here")


def test_a_name_of_moeviz_is_not_taken_for_the_whole_process() -> None:
    for kind, work in (
        ("policy", lambda: mv.policy("lru")(lambda use, now: use.expert)),
        ("predictor", lambda: mv.predictor("frequency")(lambda context: None)),
        ("importer", lambda: mv.importer("table", "mine", lambda source: 0)(lambda source, options: None)),
        ("exporter", lambda: mv.exporter("csv", ".csv", "mine")(lambda export: b"")),
    ):
        with pytest.raises(ArgumentError, match=rf"^{kind} '[a-z]+' is moeviz's own\. Give yours another"):
            work()
    mv.policy("again")(lambda use, now: -use.last_touch)
    mv.policy("again")(lambda use, now: use.last_touch)  # as a notebook's cell does that is run twice
    POLICIES.pop("again")


def test_settings_are_a_name_a_text_or_settings() -> None:
    trace = random_trace(2)
    wanted = replay(trace, Settings("lfu", 3, prefetch="next-gate"))
    for run in (
        mv.replay(trace, "lfu", slots=3, prefetch="next-gate"),
        mv.replay(trace, "policy=lfu,slots=3,prefetch=next-gate"),
        mv.replay(trace, Settings("lfu", 3), prefetch="next-gate"),
    ):
        assert run.same_decisions(wanted)
    with pytest.raises(SettingsError, match=r"'size' is not a setting\. Choose from policy"):
        mv.replay(trace, "lru", size=3)


def test_compare_and_curve_and_summary_say_the_same() -> None:
    trace = random_trace(3, tokens=60)
    table = mv.compare(trace, ["lru", "belady"], slots=[3, 5])
    curve = mv.curve(trace, "lru", [3, 5])
    assert table[table["policy"] == "lru"]["hit_ratio"].tolist() == pytest.approx(curve.hit_ratio)
    run = mv.replay(trace, "belady", slots=5)
    assert run.hit_ratio == mv.summary(run).decode.hit_ratio == table["hit_ratio"].iloc[-1]
    assert run.misses == mv.summary(run).whole.misses
    assert run.tokens_per_second is None
    times = metrics.summary(timed(run)).times
    assert times is not None
    assert timed(run).tokens_per_second == times.tokens_per_second


def test_explain_says_why(tmp_path: Path) -> None:
    explainer = mv.explain(random_trace(3, tokens=60), "lfu", slots=2)
    where = explainer.next_event("eviction", 0, 0)
    assert where is not None
    assert "left" in explainer.evictions(*where)[0].sentence


def test_a_trace_and_a_run_show_themselves_and_no_script() -> None:
    evil = "<script>window.pwned=1</script>"
    trace = replace(
        random_trace(0, tokens=40), prompt=evil, model=evil, recorded={"machine": evil}, notes=(evil,)
    )
    run = replace(replay(trace, Settings(slots=3)), settings=Settings(slots=3, calibration=evil))
    for shown in (trace, run, timed(run), replay(trace, Settings(baseline="on-demand"))):
        page = ElementTree.fromstring(shown._repr_html_())
        assert page.findall(".//script") == []
        picture = page.find(".//svg")
        assert picture is not None
        title = picture.find("title")
        assert title is not None
        assert title.text
        assert "%" in title.text
    assert "3 MoE layers of 8 experts, 2 for each token" in trace._repr_html_()


def test_the_engine_runs(tmp_path: Path) -> None:
    trace, run = mv.run("", "And it came", policy="lfu", slots=3, max_new_tokens=3, temperature=0.0, seed=1)
    assert run.measured
    assert trace.seed == run.settings.seed == 1
    assert len(run.output_ids) == 3
    assert run.same_decisions(mv.replay(trace, run.settings))


def test_a_curve_draws_itself() -> None:
    trace = random_trace(2)
    found = mv.curve(trace, "lfu")
    chart = found.chart(mv.curve(trace, "belady"), at=4)
    assert chart.table["lfu"].tolist() == found.hit_ratio.tolist()
    assert [line.name for line in chart.figure.data] == ["LFU (counts kept)", "Belady: the bound"]


def test_what_a_verb_does_not_take_is_said_in_words() -> None:
    trace = random_trace(3)
    with pytest.raises(ArgumentError, match="a policy's name, policy=lru,slots=4 or a moeviz"):
        mv.replay(trace, None)
    for baseline in ("resident", "on-demand", "whole-layer"):
        with pytest.raises(SettingsError, match=f"{baseline} is no cache with slots"):
            mv.curve(trace, Settings(baseline=baseline))
    with pytest.raises(SettingsError, match="none is named"):
        mv.curve(trace, "lru", slots=[])


def test_fields_by_name_are_those_that_count() -> None:
    trace = random_trace(3)
    assert mv.replay(trace, "policy=lru,slots=3", slots=5).settings == Settings("lru", 5)
    assert mv.compare(trace, ["policy=lru,slots=3"], slots=[2, 4])["slots"].tolist() == [2, 4]
    assert mv.compare(trace, "lru", slots=np.int64(3))["slots"].tolist() == [3]


OWN = """
from moeviz.policies import policy, predictor

@policy("mru")
def mru(use, now):
    return -use.last_touch

@predictor("same-again")
class SameAgain:
    def __init__(self, context): self.last = []
    def observe(self, layer, chosen): self.last = [expert for expert in chosen[-1] if expert >= 0]
    def guess(self, layer, routers, width): return self.last[:width]
"""


def test_a_policy_and_a_predictor_of_a_file_are_taken_wherever_one_is_named(tmp_path: Path) -> None:
    """By name, by field and in a text; and a run under them opens without its run where nobody names them."""
    for number in range(4):  # each is new to this process
        (tmp_path / f"own{number}.py").write_text(OWN)
    policies, predictors = (
        [f"{tmp_path}/own{number}.py:{name}" for number in range(4)] for name in ("mru", "same-again")
    )
    trace = mv.load(SAMPLES / "bible.moetrace")[0]
    runs = [
        mv.replay(trace, policies[0], slots=4, prefetch=predictors[0]),
        mv.replay(trace, policy=policies[1], slots=4, prefetch=predictors[1]),
        mv.replay(trace, Settings("lru", 4), policy=policies[2], prefetch=predictors[2]),
    ]
    assert all(one.same_decisions(runs[0]) for one in runs)
    plan = Plan(policies=(policies[3],), prefetch=(predictors[3],), slots=(4,))
    assert [settings.policy for settings, _ in plan.tasks(trace)] == [policies[3]]
    path = tmp_path / "own.moetrace"
    path.write_bytes(moetrace.to_bytes(trace, mv.replay(trace, "lru", slots=4, prefetch=predictors[0])))
    del PREDICTORS[predictors[0]]
    again, run = mv.load(path)
    assert run is None
    assert (again.experts == trace.experts).all()
    assert "is in a file of its user, which is not opened" in again.notes[-1]


def test_every_seed_draws_for_itself() -> None:
    trace = mv.load(SAMPLES / "bible.moetrace")[0]
    runs = [mv.replay(trace, "random", slots=4, seed=seed) for seed in (0, 1, 2**16, 2**16 + 1, 2**62)]
    for number, one in enumerate(runs):
        assert not any(one.same_decisions(other) for other in runs[:number])

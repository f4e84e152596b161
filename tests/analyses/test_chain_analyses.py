"""Commitment, anchors and loop warnings: whole analyses on models whose blocks are known."""

from __future__ import annotations

from types import ModuleType

import numpy as np
import pandas as pd
import pytest

from analyses import anchors, commitment, loop_warning
from analyses.plumbing import loop_profile, workbench
from analyses.plumbing.frames import StudyData
from analyses.plumbing.workbench import Workbench
from interp.chains.chain import Budget
from interp.diagnosis.loops import Loop, find_loop
from interp.interventions.interventions import dense
from interp.model.reasoning_model import ReasoningModel
from scaling.benchmarks import load_benchmark
from tests.analyses.test_time_maps import singles
from tests.chains import answered_chain, make_chain
from tests.planted import NUMBERS, WORD, Planted, PlantedBench

PLANTED = Planted(n_blocks=4, copier=1, brake=2, answerer=3)
SMALL = {
    commitment: {"PROBLEMS": 16, "LINES": 10, "TRIED": 16, "JOINED": 6},
    anchors: {"PROBLEMS": 12, "CHAINS": 8, "LINES": 4, "SAMPLES": 8},
    loop_warning: {"PROBLEMS": 80, "TRIED": 6, "HEATED": 12},
}


def computed(module: ModuleType, study: StudyData, planted: Planted = PLANTED) -> pd.DataFrame:
    bench = PlantedBench.made(planted, study, problems=80, thinking=64)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(Workbench, "of", classmethod(lambda *_: bench))
        patch.setattr(workbench, "candidates", singles)
        for name, value in SMALL[module].items():
            patch.setattr(module, name, value)
        return module._compute(study, {"benchmark": "planted", "thinking": 64})


@pytest.fixture(scope="module")
def committed(study: StudyData) -> pd.DataFrame:
    return computed(commitment, study)


@pytest.fixture(scope="module")
def warned(study: StudyData) -> pd.DataFrame:
    return computed(loop_warning, study)


def test_the_block_that_answers_is_the_one_that_settles(committed: pd.DataFrame) -> None:
    """The answer here depends on no line: it is settled from the start, by block 3 alone."""
    rows = committed[(committed["part"] == "along") & (committed["name"] == "settled")]
    rows = rows.set_index("block")
    assert set(rows.index[rows["p_holm"] < 0.05]) == {3} and rows["value"][3] < -0.5
    shifts = committed[(committed["part"] == "along") & (committed["name"] != "settled")]
    assert (shifts["value"] == 0).all()
    curve = committed[committed["part"] == "curve"]
    assert len(curve) == len(commitment.GRID) and curve["value"].std() < 0.02
    assert "step" not in set(committed["part"]), "no line settles it, so no step is tried"


def test_commitment_in_words_and_figure(committed: pd.DataFrame, study: StudyData) -> None:
    assert "planted" in commitment.caption(committed)
    lines = commitment.text(committed)
    assert lines[0].startswith("The answer is settled after .00 ")
    assert any("fewer dense chains settle at all: 3 (" in line for line in lines)
    whole = commitment.figure(committed, study)
    assert whole is not None
    pairs = set(zip(committed["part"], committed["name"], strict=True))
    shown = {("curve", "probability"), ("sharp", "largest rise"), ("step", "dropped")}
    assert len(whole.axes) == len(pairs & (shown | set(commitment.SHIFTS)))


def made_up_commitment() -> pd.DataFrame:
    head = {"benchmark": "b", "x": np.nan, "named": "", "n": 9, "baseline": 0.2}
    every = {"block": -1, "named": "every line"}
    rows = [
        {"part": "sharp", "name": "largest rise", "value": 0.8, "p": 0.0001, **every},
        {"part": "sharp", "name": "chains that are sharp", "value": 0.9, "p": np.nan, **every},
        {"part": "sharp", "name": "largest over second", "value": 7.5, "p": np.nan, **every},
        {"part": "sharp", "name": "largest rise", "block": -1, "value": 0.7, "p": 0.001},
        {"part": "along", "name": "fraction", "block": 0, "value": 0.3, "p": 0.001},
        {"part": "along", "name": "fraction", "block": 1, "value": 0.0, "p": 0.9},
        {"part": "step", "name": "dropped", "block": -1, "value": 0.7, "named": "boundary"},
        {"part": "step", "name": "dropped", "block": -1, "value": 0.1, "named": "after"},
        {"part": "step", "name": "dropped", "block": -1, "value": -0.4, "p": 0.002,
         "named": "after less before"},
    ]  # fmt: skip
    frame = pd.DataFrame([{**head, **row} for row in rows])
    frame = frame.assign(low=frame["value"] - 0.1, high=frame["value"] + 0.1)
    return frame.assign(p_holm=frame["p"])


def test_commitment_says_what_its_table_says(study: StudyData) -> None:
    found = made_up_commitment()
    lines = commitment.text(found)
    assert ".80" in lines[0] and "p < .001" in lines[0] and ".90" in lines[0]
    assert "7.5 times the second" in lines[0] or "7.50 times the second" in lines[0]
    assert "0 (+.30" in lines[1] and "1 (" not in lines[1]
    assert lines[2].startswith("Lines dropped: ") and "boundary .70" in lines[2]
    assert "after less before −.40, p = .002" in lines[2]
    ax = commitment.plot_steps(found)
    assert [t.get_text() for t in ax.get_xticklabels()] == ["before it", "itself", "after it"]
    ax = commitment.plot_shift(found, part="along", measure="fraction")
    drawn = {float(y) for line in ax.get_lines() for y in np.atleast_1d(line.get_ydata())}  # type: ignore[arg-type]
    assert {0.3, 0.0} <= drawn
    assert commitment.figure(found, study) is not None


# -------------------------------------------------------------------------------- anchors


def test_no_line_is_an_anchor_where_no_line_counts(study: StudyData) -> None:
    found = computed(anchors, study)
    places = found[found["part"] == "place"]
    assert len(places) and (places["value"].abs() < 0.3).all()
    rows = found[(found["part"] == "anchor") & (found["name"] == "importance")]
    assert not (rows["p_holm"] < 0.05).any()
    agree = found[(found["part"] == "anchor") & (found["name"] == "agree")].set_index("block")
    assert agree["value"].idxmin() == 3, "without the answerer, continuations answer otherwise"
    assert "Importance of a line, by quarter" in anchors.text(found)[0]
    whole = anchors.figure(found, study)
    assert whole is not None and len(whole.axes) == 2
    assert "planted" in anchors.caption(found)


# --------------------------------------------------------------------------- loop warnings


def test_loops_of_the_planted_variant_are_watched(warned: pd.DataFrame) -> None:
    assert set(warned["base"]) == {"skip 2"}
    alarms = warned[warned["part"] == "alarm"]
    assert len(alarms) == 3 * 7 and (alarms["n"] > 10).all()
    # The copier copies from the first token on: chance alone decides where a loop begins.
    first = alarms[alarms["place"] == "first pass"]
    assert not (first["p_holm"] < 0.01).any()
    assert first["false_alarms"].mean() < 0.25
    ends = alarms[alarms["place"] == "end"].set_index("name")
    assert ends["value"].idxmax() in ("text recurrence", "hidden recurrence")
    assert ends["p"]["text recurrence"] < 0.05, "a loop that is there raises the alarm"
    near = warned[(warned["part"] == "similarity") & (warned["name"] == "similarity")]
    near = near.set_index("x")["value"]
    # this model's stream depends on the last few tokens alone: it returns with the text
    assert near[1.0] == pytest.approx(1, abs=1e-6) and near[-1.0] < 0.99
    looped = warned[(warned["part"] == "temperature") & (warned["name"] == "skip 2")]
    assert looped["x"].tolist() == list(loop_warning.TEMPERATURES)
    calm = warned[(warned["part"] == "temperature") & (warned["name"] == dense.name)]
    assert looped["value"].iloc[-1] > calm["value"].iloc[-1]


def test_the_copiers_attention_is_seen(study: StudyData, warned: pd.DataFrame) -> None:
    """Its head looks `period` - 1 back at every token, whatever the text: there is no V."""
    rows = warned[(warned["part"] == "attention") & (warned["name"] == "attention")]
    assert (rows["value"] > 0.08).all(), "one head of four in one block of three"
    v = warned[(warned["part"] == "attention") & (warned["name"] == "V")]
    assert abs(v["value"].item()) < 0.1


def test_loop_warning_in_words_and_figure(warned: pd.DataFrame, study: StudyData) -> None:
    lines = loop_warning.text(warned)
    assert any("before a loop's first pass" in line for line in lines)
    assert any(line.startswith("V: ") for line in lines)
    assert "skip 2" in loop_warning.caption(warned)
    whole = loop_warning.figure(warned, study)
    assert whole is not None and len(whole.axes) == 4


def test_without_loops_only_the_temperature_is_left(study: StudyData) -> None:
    found = computed(loop_warning, study, Planted(n_blocks=3, answerer=2))
    assert set(found["part"]) == {"temperature"} and set(found["base"]) == {""}
    whole = loop_warning.figure(found, study)
    assert whole is not None and len(whole.axes) == 1
    assert "none looped" in loop_warning.caption(found)


def test_the_run_of_restating_lines_that_lasts_to_the_end() -> None:
    known = np.ones(6, dtype=bool)
    alike = np.array([0, 1, 0, 1, 1, 1], dtype=bool)
    assert loop_profile.run_start(alike, known) == 3
    assert loop_profile.run_start(~alike, known) is None or not alike[5]
    gap = known.copy()
    gap[2] = False  # a line too short to tell does not interrupt
    assert loop_profile.run_start(alike, gap) == 1
    cut = np.array([0, 1, 1, 1, 1, 0], dtype=bool)  # the last line may be cut
    assert loop_profile.run_start(cut, known) == 1
    assert loop_profile.run_start(np.zeros(3, dtype=bool), np.ones(3, dtype=bool)) is None


def test_restating_is_dated_by_its_line(study: StudyData) -> None:
    """One line, then another again and again: the run begins at the third line."""
    bench = PlantedBench.made(PLANTED, study, problems=2, thinking=64)
    dot = WORD["."]
    one = [*NUMBERS[3:9], dot]
    other = [*NUMBERS[10:16], dot]
    loops, calm = [other, *[one] * 6], [[*NUMBERS[k : k + 6], dot] for k in range(0, 21, 3)]
    chains = [
        make_chain([t for line in lines for t in line], [WORD["what"]], problem=f"p{i}")
        for i, lines in enumerate([loops, loops, calm, calm[::-1]])
    ]
    found = [find_loop(chains[0].ids), find_loop(chains[1].ids), None, None]
    assert found[0] is not None and found[0].onset == 6, "the full stop before it too"
    rows = loop_profile.restated_rows(bench, chains, found, dense, loop_warning.RATE)
    by_name = {r["name"]: r["value"] for r in rows}
    assert by_name["words"] == 14 - (6 + 7), "its first restating line is the first repeated one"
    assert by_name["meaning less words"] == by_name["meaning"] - by_name["words"]


def test_kinds_of_loops_and_passes(study: StudyData) -> None:
    bench = PlantedBench.made(PLANTED, study, problems=1, thinking=64)
    of_numbers, of_words = [*NUMBERS[:4], WORD["."]], [*[WORD["try"]] * 4, NUMBERS[0]]
    for words, kind in ((of_numbers, "numeric, exact"), (of_words, "statements, exact")):
        chain = make_chain(words * 8)
        loop = Loop("exact", 5, 5, 7.0, 35)
        assert loop_warning.kind_of(bench, chain, loop) == kind
        moments = [loop_warning.moment(chain, loop, p) for p in loop_warning.PLACES]
        assert moments == [5, 10, 40]
    values = np.r_[np.full(5, np.nan), np.arange(5.0, 30.0)]
    np.testing.assert_allclose(loop_profile.by_pass(values, 10, 5), [np.nan, 7, 12, 17, 22])
    short = loop_profile.by_pass(values, 4, 5)
    assert np.isnan(short[:2]).all()


@pytest.mark.parametrize("module", SMALL, ids=lambda m: m.__name__)
def test_a_study_without_chains_gives_nothing(module: ModuleType, study: StudyData) -> None:
    empty = StudyData({}, study.scores.iloc[:0], study.diversity.iloc[:0])
    assert len(module.table(empty)) == 0 and not module.in_store(empty)
    assert module.figure(pd.DataFrame(), empty) is None


def test_too_few_calm_chains_give_no_alarm(study: StudyData) -> None:
    bench = PlantedBench.made(PLANTED, study, problems=8, thinking=64)
    loops = [Loop("exact", 5, 5, 7.0, 35)] * 7 + [None]
    chains = [make_chain(NUMBERS[:5] * 8, problem=f"p{i}") for i in range(8)]
    series = {"x": [np.zeros(64)] * 8}
    assert loop_warning.alarm_rows(bench, chains, loops, series) == []


def test_the_answer_of_a_chain_is_what_its_grader_reads(study: StudyData) -> None:
    model, benchmark = ReasoningModel.load("testbed"), load_benchmark("arithmetic", limit=1)
    bench = Workbench(study, model, benchmark, Budget(32, 4))
    problem = benchmark.problems[0]
    for said, verdict in ((problem.answer, "correct"), (str(int(problem.answer) + 1), "wrong")):
        end = model.encode("</think>")[0]
        chain = answered_chain([], end, model.encode(said), problem=problem.id)
        assert (bench.answer(chain), bench.verdict(chain)) == (said, verdict)
    silent = make_chain([], problem=problem.id)
    assert (bench.answer(silent), bench.verdict(silent)) == (None, "no answer")

"""Programs of layers: a defect that one repeat mends is found, and nothing where there is none."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pandas as pd
import pytest

from analyses import layer_programs
from analyses.plumbing.frames import StudyData
from analyses.plumbing.workbench import Workbench
from interp.counterfactuals.program_contest import (
    ANY,
    Tries,
    any_of,
    held_out,
    usual_programs,
    winners,
)
from interp.errors import UserError
from interp.interventions.programs import program_blocks
from scaling.problem import Problem
from tests.models import tiny
from tests.planted import Planted, PlantedBench

HALF = 2.5  # logits: half of what the answerer writes in a whole model
WEAK = Planted(n_blocks=4, answerer=2, answer=HALF)
NONE = Planted(n_blocks=4)
N = 48


def tries(correct: np.ndarray, kinds: tuple[str, ...] = ()) -> Tries:
    n = correct.shape[1]
    return Tries(
        tuple(f"t{i}" for i in range(n)), kinds or ("x",) * n, correct.astype(float),
        np.ones(correct.shape),
    )  # fmt: skip


@pytest.fixture(scope="module")
def found(study: StudyData) -> pd.DataFrame:
    bench = PlantedBench.made(WEAK, study, problems=N, thinking=24)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(Workbench, "of", classmethod(lambda *_: bench))
        patch.setattr(layer_programs, "PROBLEMS", N)
        settings = {"benchmark": "planted", "thinking": 24, "seed": 0}
        return layer_programs._compute(study, settings)


def test_the_repeat_that_mends_the_planted_block_is_found(found: pd.DataFrame) -> None:
    best = found[found["part"] == "best"].set_index(["arm", "kind"])
    top, repeat = best.loc[("programs", ANY)], best.loc[("programs", "repeat")]
    assert repeat["name"] == "repeat 2"
    for row in (top, repeat):
        assert row["p_holm"] < 0.05 and row["low"] > 0
        assert 0.15 < row["value"] < 0.5  # from sigmoid(.5) to sigmoid(3): .33
        assert row["n_problems"] == N // 2 and row["n_samples"] == 2 * N
    model = WEAK.model()
    named = {
        v.name: program_blocks(model, v) for few in usual_programs(model).values() for v in few
    }
    assert named[top["name"]].count(2) == 2
    for kind in ("skip", "swap"):
        assert best.loc[("programs", kind), "p_holm"] > 0.05, kind
    assert best.loc[("samples", ANY), "p_holm"] > 0.05


def test_oracles_are_set_beside_samples_of_the_same_compute(found: pd.DataFrame) -> None:
    oracle = found[found["part"] == "oracle"]
    for kind in ("all", "wrong"):
        rows = oracle[oracle["kind"] == kind].set_index("arm")
        assert list(rows.index) == ["programs", "noise", "samples"]
        assert rows.loc["programs", "compute"] == 1
        assert 0.9 < rows.loc["samples", "compute"] < 1.1
        assert (rows["value"] <= 1).all() and np.isnan(rows.loc["programs", "gap"])
        # each dense sample solves a problem with .62, so a dozen solve nearly all of them; programs
        # have the noise of the one that failed
        assert rows.loc["samples", "value"] > 0.95 and rows.loc["samples", "gap"] < 0


def test_words_and_figure_say_what_the_table_says(found: pd.DataFrame, study: StudyData) -> None:
    lines = layer_programs.text(found)
    assert " beats dense: the best of 12 programs" in lines[0]
    assert any(line.startswith("The best of") and "samples" in line for line in lines)
    assert "failed, at least one try solves" in lines[-1]
    assert layer_programs.caption(found).startswith("Planted")
    whole = layer_programs.figure(found, study)
    assert whole is not None and len(whole.axes) == 2
    labels = [t.get_text() for t in whole.axes[0].get_yticklabels()]
    assert len(labels) == len(found[found["part"] == "best"])
    assert layer_programs.figure(pd.DataFrame(), study) is None


def test_without_a_planted_block_no_program_beats_dense(study: StudyData) -> None:
    """Five whole analyses of a model with no defect."""
    claims = 0
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(layer_programs, "PROBLEMS", 32)
        for again in range(5):
            bench = PlantedBench.made(NONE, study, problems=32, thinking=8)
            other = tuple(
                Problem(id=f"{again} {p.id}", question=p.question, answer="1")
                for p in bench.benchmark.problems
            )
            bench = replace(bench, benchmark=replace(bench.benchmark, problems=other))
            frame = layer_programs.contest(bench, again, controls=False)
            mine = frame[frame["part"] == "best"]
            assert set(frame["arm"]) == {"programs"} and len(mine) == 5
            claim = bool(((mine["p_holm"] < 0.05) & (mine["value"] > 0)).any())
            said = layer_programs.text(frame.assign(benchmark="x"))[0]
            assert said.startswith("No program beats dense") != claim
            claims += claim
    assert claims <= 1  # of five; two have a chance of .006 at the nominal rate of .025


def test_the_rate_of_false_claims_is_nominal_and_that_of_the_selected_half_is_not() -> None:
    rng, level, honest, naive = np.random.default_rng(0), 0.05, 0, 0
    for _ in range(300):
        rate = rng.beta(2, 2, 48)[:, None]  # problems differ, tries do not
        draw = (rng.random((48, 30)) < rate).astype(float)
        first = (rng.random(48) < rate[:, 0]).astype(float)
        selection = np.arange(48) >= 24
        kinds = ("skip",) * 10 + ("repeat",) * 10 + ("swap",) * 10
        won = winners(tries(draw, kinds), first, selection)
        fresh = {w.name: (rng.random((24, 2)) < rate[:24]).astype(float) for w in won}
        rows = held_out(won, (rng.random((24, 2)) < rate[:24]).astype(float), fresh)
        honest += bool(((rows["p_holm"] < level) & (rows["value"] > 0)).any())
        at = int(won[0].name[1:])
        seen = held_out(won[:1], first[24:, None], {won[0].name: draw[24:, [at]]})
        naive += bool((seen["p"] < level).any() and seen["value"].iloc[0] > 0)
    assert honest <= 15  # of 300 at .025: 7.5 expected
    assert naive > 20  # the gain on the problems that it was selected on is no evidence


def test_winners_are_the_best_of_their_kind_and_the_cheapest_of_equals() -> None:
    correct = np.array([[1, 0, 1, 1], [0, 0, 1, 1], [1, 1, 0, 0], [1, 1, 0, 0]])
    given = replace(tries(correct, ("a", "a", "b", "b")), passes=np.array([[1.0, 1, 3, 2]] * 4))
    won = winners(given, np.zeros(4), np.array([True, True, False, False]))
    assert [(w.kind, w.name, w.tries, w.selected) for w in won] == [
        (ANY, "t3", 4, 1.0), ("a", "t0", 2, 0.5), ("b", "t3", 2, 1.0),
    ]  # fmt: skip
    for wrong in (np.ones(4, bool), np.zeros(4, bool)):
        with pytest.raises(UserError, match="others to test on"):
            winners(given, np.zeros(4), wrong)
    with pytest.raises(UserError, match="expected one per try"):
        replace(given, kinds=("a",))


def test_an_oracle_counts_problems_that_any_try_solves() -> None:
    arms = {
        "programs": tries(np.array([[1, 0], [0, 1], [0, 0], [1, 1]])),
        "samples": tries(np.array([[0, 0], [1, 1], [0, 0], [0, 1]])),
    }
    rows = any_of(arms, np.array([0.0, 1, 0, 1])).set_index(["kind", "arm"])
    assert rows["value"].to_dict() == {
        ("all", "programs"): 0.75, ("all", "samples"): 0.5,
        ("wrong", "programs"): 0.5, ("wrong", "samples"): 0.0,
    }  # fmt: skip
    assert rows.loc[("all", "samples"), "gap"] == 0.25
    assert set(any_of(arms, np.ones(4))["kind"]) == {"all"}


def test_usual_programs_are_next_to_the_dense_model() -> None:
    model = tiny(n_blocks=4)
    named = usual_programs(model, run_lengths=(2, 4))
    got = {kind: [program_blocks(model, v) for v in few] for kind, few in named.items()}
    assert got["skip"][1] == (0, 2, 3) and got["repeat"][3] == (0, 1, 2, 3, 3)
    assert got["swap"] == [(1, 0, 2, 3), (0, 2, 1, 3), (0, 1, 3, 2)]
    assert got["run"][1] == (0, 1, 2, 1, 2, 3) and got["run"][-1] == (0, 1, 2, 3, 0, 1, 2, 3)
    names = [v.name for few in named.values() for v in few]
    assert len(names) == len(set(names)) == 4 + 4 + 3 + 3 + 1


def test_a_study_without_chains_or_without_noise_gives_nothing(study: StudyData) -> None:
    empty = StudyData({}, study.scores.iloc[:0], study.diversity.iloc[:0])
    assert len(layer_programs.table(empty)) == 0 and not layer_programs.in_store(empty)
    assert layer_programs.settings_of(study) is not None
    greedy = replace(study, config={**study.config, "sampling": [0.0, 0, 1.0]})
    assert layer_programs.settings_of(greedy) is None

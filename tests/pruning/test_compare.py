"""Comparing rankings: agreement against hand counts, laws of symmetry, and refusals."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from interp.errors import UserError
from pruning.compare import compare, compare_criteria
from pruning.criteria import criteria, score
from pruning.criteria.influence_definitions import DEFINITIONS
from pruning.scores import Scores
from tests.models import tiny
from tests.slow_streams import texts


def scores(name: str, values: Any, **more: Any) -> Scores:
    return Scores.plain(name, values, tuple(range(len(values))), **more)


def slow_tau(x: np.ndarray, y: np.ndarray) -> float:
    """Kendall's tau-b by looking at every pair."""
    total = ties_x = ties_y = 0
    pairs = [(i, j) for i in range(len(x)) for j in range(i)]
    for i, j in pairs:
        a, b = np.sign(x[i] - x[j]), np.sign(y[i] - y[j])
        total += a * b
        ties_x += a == 0
        ties_y += b == 0
    return total / np.sqrt((len(pairs) - ties_x) * (len(pairs) - ties_y))


def slow_rho(x: np.ndarray, y: np.ndarray) -> float:
    """Spearman's rho as the correlation of mean ranks."""
    ranks = [[np.mean([(v < w) + 0.5 * (v == w) for v in z]) for w in z] for z in (x, y)]
    return float(np.corrcoef(ranks[0], ranks[1])[0, 1])


@given(st.lists(st.tuples(st.integers(0, 6), st.integers(0, 6)), min_size=4, max_size=12))
def test_agreement_against_counting_pairs(pairs: list[tuple[int, int]]) -> None:
    x, y = np.array(pairs, dtype=float).T
    if len(set(x)) == 1 or len(set(y)) == 1:
        return
    found = compare([scores("x", x), scores("y", y)])
    assert found.kendall[0, 1] == pytest.approx(slow_tau(x, y))
    assert found.spearman[0, 1] == pytest.approx(slow_rho(x, y))
    for table in (found.kendall, found.spearman):
        np.testing.assert_allclose(table, table.T)
        np.testing.assert_allclose(np.diag(table), 1)
    for n in range(1, found.overlap.shape[-1] + 1):
        first = [set(np.lexsort((-np.arange(len(z)), z))[:n]) for z in (x, y)]
        assert found.overlap[0, 1, n - 1] == len(first[0] & first[1]) / n


@given(st.permutations(range(9)))
def test_only_the_order_of_the_scores_counts(order: list[int]) -> None:
    values = np.array(order, dtype=float)
    found = compare([scores("a", values), scores("b", np.exp(values)), scores("c", -values)])
    assert found.kendall[0, 1] == found.spearman[0, 1] == pytest.approx(1)
    assert found.kendall[0, 2] == pytest.approx(-1)
    assert (found.overlap[0, 1] == 1).all()


def test_a_greedy_criterion_is_compared_by_its_path() -> None:
    greedy = scores("greedy", [0.0, 1.0, 2.0, 3.0, 4.0, 5.0], picks=((4,), (4, 2), (4, 2, 0)))
    found = compare([greedy, scores("depth", [5.0, 4.0, 3.0, 2.0, 1.0, 0.0])], most=5)
    assert found.ranks[0].tolist() == [2, 3, 1, 4, 0, 5]
    assert found.rankings()["greedy"].tolist() == ["4", "2", "0", "1", "3", "5"]
    np.testing.assert_allclose(found.overlap[0, 1, :3], [0, 1 / 2, 1 / 3])
    assert np.isnan(found.overlap[0, 1, 3:]).all()  # it was not followed so far
    assert (found.overlap[1, 1] == 1).all()


def test_runs_of_neighbours_are_compared_as_sets() -> None:
    run = scores("run", [3.0, 0.0, 2.0, 1.0, 4.0], picks=((1,), (2, 3), (2, 3, 4), (1, 2, 3, 4)))
    found = compare([run, scores("depth", [4.0, 3.0, 2.0, 1.0, 0.0])], most=3)
    assert found.ranks[0].tolist() == [3, 0, 2, 1, 4]
    np.testing.assert_allclose(found.overlap[0, 1], [0, 1 / 2, 1])


def test_ties_share_a_rank_unless_something_breaks_them() -> None:
    flat = scores("flat", [1.0, 1.0, 0.0, 1.0])
    broken = scores("broken", [1.0, 1.0, 0.0, 1.0], tie_break=(2.0, 0.0, 0.0, 1.0))
    found = compare([flat, broken])
    assert found.ranks.tolist() == [[2, 2, 0, 2], [3, 1, 0, 2]]
    assert flat.ranking == (2, 3, 1, 0)  # the deeper first
    assert broken.ranking == (2, 1, 3, 0)
    with pytest.raises(ValueError, match="differ in length"):
        scores("wrong", [1.0, 2.0], tie_break=(1.0,))


def test_frames_and_lines() -> None:
    first = scores("first", [2.0, 0.0, 1.0, 3.0])
    found = compare(
        [first, scores("second", [0.0, 1.0, 2.0, 3.0]), scores("third", [3.0, 2, 1, 0])]
    )
    frame = found.to_frame()
    assert len(frame) == 12
    assert frame[frame["criterion"] == "first"]["rank"].tolist() == [2, 0, 1, 3]
    assert frame["block"].tolist() == [0, 1, 2, 3] * 3
    agreement = found.agreement()
    assert agreement[["a", "b"]].to_numpy().tolist() == [
        ["first", "second"],
        ["first", "third"],
        ["second", "third"],
    ]
    assert agreement["kendall"].iloc[2] == pytest.approx(-1)
    assert agreement["overlap_1"].tolist() == [0, 0, 0]
    lines = found.lines()
    assert lines[1].split() == ["1", "first", "1", "2", "0", "3"]
    assert any(line.split() == ["3", "third", "-.33", "-1.00", "1.00"] for line in lines)


def test_plots_take_an_axis_and_a_figure_is_written(tmp_path: Path) -> None:
    import matplotlib.pyplot as plt

    found = compare([scores("a", [2.0, 0.0, 1.0]), scores("b", [0.0, 1.0, 2.0])])
    _, (left, right) = plt.subplots(1, 2)
    assert found.plot(left) is left
    assert found.plot_agreement(right) is right
    assert [t.get_text() for t in left.get_yticklabels()] == ["a", "b"]
    assert len(left.texts) == 6
    plt.close("all")
    assert found.save_figure(tmp_path / "x.png").stat().st_size > 1000
    assert not plt.get_fignums()


def test_names_are_told_apart() -> None:
    model = tiny("qwen3", 5)
    draws = [score("random", model, seed=s) for s in range(3)]
    assert compare(draws).names == ("random seed 0", "random seed 1", "random seed 2")
    same = [scores("a", [0.0, 1.0]), scores("a", [1.0, 0.0]), scores("b", [1.0, 0.0])]
    assert compare(same).names == ("a (1)", "a (2)", "b")


def test_scores_that_do_not_belong_together_are_refused() -> None:
    one = scores("one", [0.0, 1.0, 2.0])
    with pytest.raises(UserError, match="at least two"):
        compare([one])
    with pytest.raises(UserError, match="same blocks"):
        compare([one, scores("two", [0.0, 1.0])])
    with pytest.raises(UserError, match="score one model"):
        compare([scores("a", [0.0, 1.0], model="x"), scores("b", [0.0, 1.0], model="y")])
    for most in (0, 3):
        with pytest.raises(UserError, match="expected 1 to 2"):
            compare([one, one], most=most)


def test_every_definition_of_block_influence_is_in_the_comparison() -> None:
    model = tiny("qwen3", 4)
    data = texts(model, (6, 17, 9, 12))
    found = compare_criteria(model, data, ["shortgpt", "angular", "swap-kl"])
    assert found.names == (*(d.name for d in DEFINITIONS), "angular", "swap-kl")
    plain = score("shortgpt", model, data)
    np.testing.assert_allclose(found.values[0], plain.values)
    every = compare_criteria(model, data)
    cheap = {c.name for c in criteria().values() if c.kind in ("one-shot", "contiguous")}
    assert {n.partition(",")[0] for n in every.names} <= cheap
    assert {"perplexity", "magnitude", "cka"} <= set(every.names)
    assert not {"random", "taylor+", "llm-drop"} & set(every.names)


def test_sublayers_compare_among_themselves() -> None:
    model = tiny("qwen3", 3)
    data = texts(model, (6, 17, 9))
    found = compare_criteria(model, data, ["blockpruner", "finercut"])
    assert found.items[:2] == ("0 attention", "0 mlp")
    assert found.to_frame()["block"].tolist()[:4] == [0, 0, 1, 1]
    with pytest.raises(UserError, match="blocks and sublayers"):
        compare_criteria(model, data, ["blockpruner", "cka"])
    with pytest.raises(UserError, match="Did you mean 'cka'"):
        compare_criteria(model, data, ["ckaa"])


# ------------------------------------------------------------------------- the command


@pytest.fixture
def calibration(tmp_path: Path) -> str:
    path = tmp_path / "texts.txt"
    path.write_text("try 3 + 4 = 7 left 2 .\nback 3 left 4 2 .\n", encoding="utf-8")
    return str(path)


def test_the_command_compares(
    calibration: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    import pandas as pd

    from prunescope import cli

    out = tmp_path / "deep" / "compared.csv"
    asked = ["score", "--compare", "shortgpt", "angular", "--texts", calibration]
    assert cli.run([*asked, "--out", str(out)]) == 0
    said = capsys.readouterr().out
    assert "shortgpt, float16" in said
    assert "Kendall's tau" in said
    table = pd.read_csv(out)
    assert table["criterion"].nunique() == len(DEFINITIONS) + 1
    agreement = pd.read_csv(out.with_name("compared-agreement.csv"))
    assert agreement["kendall"].between(-1, 1).all()
    assert out.with_suffix(".png").stat().st_size > 1000


def test_the_command_shows_sublayers_and_the_way_of_a_greedy_criterion(
    calibration: str, capsys: pytest.CaptureFixture[str]
) -> None:
    from prunescope import cli

    asked = ["score", "--method", "blockpruner", "--remove", "2", "--texts", calibration]
    assert cli.run(asked) == 0
    *said, after = capsys.readouterr().out.splitlines()
    assert after.startswith("Next: prunescope prune ")
    assert said[0].split() == ["block", "part", "score", "low", "high", "rank"]
    assert said[-2].startswith("1 removed: ") and said[-1].startswith("2 removed: ")
    assert said[-1].count(",") == 1


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["--compare", "shortgtp", "cka"], "Did you mean 'shortgpt'"),
        (["--method", "cka", "--remove", "2"], "step by step"),
        (["--part", "promt"], "Did you mean 'prompt'"),
        (["--method", "task-greedy", "--texts", "TEXTS"], "leave --texts out"),
        (["--method", "task-greedy", "--benchmarks", "recall"], "answers are generated"),
    ],
)
def test_the_command_refuses_what_it_cannot_do(
    arguments: list[str], said: str, calibration: str, capsys: pytest.CaptureFixture[str]
) -> None:
    from prunescope import cli

    assert cli.run(["score", *(a.replace("TEXTS", calibration) for a in arguments)]) == 2
    assert said in capsys.readouterr().err


def test_the_command_grades_answers_for_task_greedy(capsys: pytest.CaptureFixture[str]) -> None:
    from prunescope import cli

    asked = ["score", "--method", "task-greedy", "--remove", "1", "--benchmarks", "arithmetic"]
    assert cli.run(asked) == 0
    *said, after = capsys.readouterr().out.splitlines()
    assert after.startswith("Next: prunescope prune ")
    assert said[-1].startswith("1 removed: ")
    ranked = {line.split()[-1]: float(line.split()[1]) for line in said[1:-1]}
    assert ranked["0"] <= ranked["5"]

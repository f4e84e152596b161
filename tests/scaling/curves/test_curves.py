"""Tables of parallel and sequential scaling against slow counts of the same rows."""

from __future__ import annotations

import itertools
from collections import Counter

import numpy as np
import pandas as pd
import pytest
from hypothesis import given
from hypothesis import strategies as st

from interp.errors import UserError
from scaling.curves.outcomes import by_budget, crossed, ended, extractors, table, vote, votes
from scaling.curves.parallel import parallel_scaling
from scaling.curves.sequential import sequential_scaling, wait_extensions
from scaling.study.sample_diversity import duplicate_samples
from tests.drawing import max_examples


def rows(
    answers: list[list[str | None]], variant: str = "dense", **columns: object
) -> pd.DataFrame:
    """Rows of problems x samples; the answer "1" is correct, None is no answer."""
    found = [
        {
            "benchmark": "b",
            "problem": f"p{i}",
            "variant": variant,
            "budget": "64",
            "sample": j,
            "scoring": "generate",
            "extracted": answer,
            "outcome": {"1": "correct", None: "no answer"}.get(answer, "wrong"),
            "mean_logprob": -float((i * 7 + j * 3) % 5),
            "ids_hash": f"{i}/{j}",
            "tokens": 40 + j,
            "thinking_budget": 64,
            "waits_allowed": 0,
            "waits": 0,
            "thinking_tokens": 30 + i,
            "answer_tokens": 2,
            "thinking_finish": "end",
            "finish": "stop",
            **columns,
        }
        for i, line in enumerate(answers)
        for j, answer in enumerate(line)
    ]
    return pd.DataFrame(found)


SAMPLES = st.lists(
    st.lists(st.sampled_from(["1", "2", "3", None]), min_size=4, max_size=4), min_size=1, max_size=6
)


def slow(answers: list[list[str | None]], k: int, measure: str) -> float:
    """Every subset of k samples, counted."""
    chances = []
    for i, line in enumerate(answers):
        won = []
        for subset in itertools.combinations(range(len(line)), k):
            picked = [line[j] for j in subset]
            if measure == "pass":
                won.append(float("1" in picked))
            elif measure == "maj":
                votes = Counter(a for a in picked if a is not None)
                best = [a for a, n in votes.items() if n == max(votes.values())]
                won.append(float(best.count("1")) / len(best) if best else 0.0)
            else:
                score = {j: -float((i * 7 + j * 3) % 5) for j in subset}
                top = [j for j in subset if score[j] == max(score.values())]
                won.append(float(np.mean([line[j] == "1" for j in top])))
        chances.append(np.mean(won))
    return float(np.mean(chances))


@max_examples(20)
@given(SAMPLES)
def test_one_sample_set_gives_every_k(answers: list[list[str | None]]) -> None:
    frame = parallel_scaling(rows(answers)).to_frame()
    assert set(frame["k"]) == {1, 2, 4}
    for point in frame.to_dict("records"):
        if point["measure"] == "cov":
            solved = np.mean(["1" in line[: point["k"]] for line in answers])
            assert point["value"] == pytest.approx(solved)
        elif point["measure"] == "best" and point["k"] not in (1, 4):
            continue  # ties inside a subset: covered by the statistics' own tests
        else:
            wanted = slow(answers, point["k"], point["measure"])
            assert point["value"] == pytest.approx(wanted)
        assert 0 <= point["low"] <= point["value"] + 1e-9
        assert point["value"] - 1e-9 <= point["high"] <= 1
        assert point["steady"] == (point["k"] <= 2)


def test_an_interval_never_collapses_at_the_edges() -> None:
    none = parallel_scaling(rows([["2"] * 4] * 30)).to_frame()
    assert (none["value"] == 0).all()
    assert (none["high"] > 0.01).all()


def test_bad_questions() -> None:
    good = rows([["1", "2"], ["1", "1"]])
    with pytest.raises(UserError, match="k=4"):
        parallel_scaling(good, ks=[4])
    with pytest.raises(UserError, match="occur twice"):
        parallel_scaling(pd.concat([good, good]))
    with pytest.raises(UserError, match="lack"):
        parallel_scaling(good.drop(columns="extracted"))
    with pytest.raises(UserError, match="No rows"):
        sequential_scaling(good.iloc[:0])
    assert parallel_scaling(rows([["1"], ["2"]])).points == ()


def test_equal_samples_are_seen() -> None:
    frame = rows([["1", "1", "2"], ["1", "2", "2"]])
    frame.loc[1, "ids_hash"] = frame.loc[0, "ids_hash"]
    found = duplicate_samples(frame)
    assert found[["samples", "duplicates"]].to_numpy().tolist() == [[6, 1]]
    assert duplicate_samples(frame.assign(tokens=3)).empty
    assert parallel_scaling(frame).points[0].duplicates == pytest.approx(1 / 6)


def test_votes() -> None:
    assert vote("1/2") == vote("0.50") == vote(" 0.5 ")
    assert vote("3 + 4") == vote("4+3") == vote("7") != vote("8")
    assert vote("a + b") == vote("a+b") != vote("b+a")
    outcomes = [*["wrong"] * 4, "no answer", "wrong"]
    found = votes(["a + b", "b+a", None, "7", "7", "a-b"], outcomes)
    assert found[0] == found[1] and len(set(found)) == 4
    assert found[2] is None and found[4] is None
    assert vote(None) is None
    assert vote("7", "no answer") is None
    assert vote(r"\left( 3, \dfrac{\pi}{2} \right)") == vote(r"(3,\frac{\pi}{2})")


def test_outcomes_keep_their_places() -> None:
    frame = rows([["1", "2"], ["2", "1"]]).drop(index=1)
    np.testing.assert_array_equal(table(frame), [[1, np.nan], [0, 1]])
    np.testing.assert_array_equal(table(frame, problems=["p1", "p9"])[0], [0, 1])


def test_accuracy_at_each_budget_and_what_it_cost() -> None:
    small = rows([["2"], ["2"], [None]], thinking_finish="forced")
    large = rows([["1"], ["2"], ["1"]], budget="128", thinking_budget=128)
    first, second = sequential_scaling(pd.concat([large, small])).points
    assert (first.thinking_budget, second.thinking_budget) == (64, 128)
    assert (first.accuracy, second.accuracy) == (0, pytest.approx(2 / 3))
    assert (first.forced, second.forced) == (1, 0)
    assert (first.no_answer, second.no_answer) == (pytest.approx(1 / 3), 0)
    assert first.tokens == pytest.approx(31 + 2)
    assert first.low <= first.accuracy <= first.high


def test_costs_stand_beside_the_tokens_where_they_are_known() -> None:
    plain = rows([["1", "2"], ["2", None]])
    assert np.isnan(sequential_scaling(plain).points[0].flops)
    frame = plain.assign(flops=[1.0, 3.0, 5.0, 7.0], seconds=0.5)
    (point,) = sequential_scaling(frame).points
    assert (point.flops, point.seconds) == (4.0, 0.5)
    with pytest.raises(UserError, match="Did you mean 'flops'"):
        sequential_scaling(frame).plot(x="flop")


ENDINGS = st.tuples(
    st.sampled_from(["stop", "cut", "looped", "positions"]),
    st.sampled_from(["end", "forced", "looped", "none"]),
    st.sampled_from([0, 1, None]),
    st.sampled_from(["correct", "wrong", "no answer"]),
)


@given(st.lists(ENDINGS, min_size=1, max_size=12))
def test_outcomes_are_crossed_with_how_chains_ended(chains: list[tuple]) -> None:
    frame = rows([["1"]] * len(chains))
    for column, values in zip(
        ("finish", "thinking_finish", "looped", "outcome"), zip(*chains, strict=True), strict=True
    ):
        frame[column] = values
    found = crossed(frame)
    assert len(found) == 9
    assert found["chains"].sum() == len(chains)
    assert found["share"].sum() == pytest.approx(1)
    for row in found.to_dict("records"):
        here = [c[3] for c in chains if one_end(*c[:3]) == row["end"]]
        assert row["chains"] == here.count(row["outcome"])
        if here:
            assert row["share_of_end"] == pytest.approx(here.count(row["outcome"]) / len(here))
            assert row["low"] <= row["share_of_end"] <= row["high"]
        else:
            assert np.isnan(row["share_of_end"])
    if "looped" in frame:
        without = ended(frame.drop(columns="looped"))
        assert all(a == b or a == "looped" for a, b in zip(ended(frame), without, strict=True))


def one_end(finish: str, thinking: str, looped: int | None) -> str:
    """The rule, once more in words: a loop first, then any budget."""
    if finish == "looped" or thinking == "looped" or looped == 1:
        return "looped"
    return "cut" if finish != "stop" or thinking == "forced" else "finished"


def test_two_extractors_side_by_side() -> None:
    frame = rows([["1", "2"], [None, None], [None, None]])
    frame["strict_outcome"] = frame["outcome"]
    frame["lenient_outcome"] = ["correct", "wrong", "correct", "wrong", "no answer", "correct"]
    (row,) = extractors(frame).to_dict("records")
    assert (row["strict"], row["lenient"]) == (pytest.approx(1 / 6), pytest.approx(0.5))
    assert (row["saved"], row["guessed"], row["no_answer"], row["disagree"]) == (2, 1, 1, 3)
    assert row["strict_low"] < row["strict"] < row["strict_high"]
    with pytest.raises(UserError, match="lack"):
        extractors(frame.drop(columns="lenient_outcome"))


def test_budgets_of_the_same_problems() -> None:
    small = rows([["1"], ["2"], ["1"]])
    large = rows([["1"], ["1"]], budget="128", thinking_budget=128)
    waited = rows([["1"]], budget="64+1wait", waits_allowed=1)
    found = by_budget(pd.concat([large, waited, small]))
    assert (found.budgets, found.problems, found.samples) == ((64, 128), ("p0", "p1"), 1)
    np.testing.assert_array_equal(found.accuracy, [[1, 0], [1, 1]])
    np.testing.assert_array_equal(found.cost, [[32, 33], [32, 33]])
    np.testing.assert_array_equal(found.of(["p1"]).accuracy, [[0], [1]])
    with pytest.raises(UserError, match="no column 'flops'"):
        by_budget(small, "flops")
    with pytest.raises(UserError, match="not positive"):
        by_budget(small.assign(flops=0.0), "flops")


chain = st.tuples(
    st.sampled_from(["p0", "p1", "p10", "p2"]), st.sampled_from([16, 64, 128]), st.integers(0, 2)
)


@given(st.dictionaries(chain, st.tuples(st.booleans(), st.floats(0.5, 1e6)), min_size=1))
def test_budgets_are_the_means_of_each_problem(
    drawn: dict[tuple[str, int, int], tuple[bool, float]],
) -> None:
    frame = pd.DataFrame(
        {"problem": p, "thinking_budget": b, "sample": s, "waits_allowed": 0, "cost": cost,
         "outcome": "correct" if right else "wrong"}
        for (p, b, s), (right, cost) in drawn.items()
    )  # fmt: skip
    budgets = sorted({b for _, b, _ in drawn})
    problems = sorted({p for p, _, _ in drawn})
    problems = [p for p in problems if all(any(k[:2] == (p, b) for k in drawn) for b in budgets)]
    found = by_budget(frame, "cost")
    assert (found.budgets, found.problems) == (tuple(budgets), tuple(problems))
    for i, b in enumerate(budgets):
        for j, p in enumerate(problems):
            mine = [value for key, value in drawn.items() if key[:2] == (p, b)]
            assert found.accuracy[i, j] == pytest.approx(np.mean([right for right, _ in mine]))
            assert found.cost[i, j] == pytest.approx(np.mean([cost for _, cost in mine]))
    sizes = Counter(k[:2] for k in drawn if k[0] in problems)
    assert found.samples == max(sizes.values(), default=0)


def test_waits_are_compared_with_none_on_the_same_problems() -> None:
    plain = rows([["1"], ["2"], ["2"], ["2"]])
    longer = rows([["1"], ["1"], ["1"]], budget="64+1wait", waits_allowed=1, waits=1)
    longer["thinking_tokens"] += 10
    (point,) = wait_extensions(pd.concat([plain, longer])).points
    assert (point.before, point.after) == (pytest.approx(1 / 3), 1)
    assert point.difference == pytest.approx(2 / 3)
    assert (point.extended, point.extra_tokens, point.n_problems) == (1, 10, 3)
    assert point.p == point.p_holm
    assert wait_extensions(plain).points == ()


def test_plots_return_their_axes() -> None:
    import matplotlib.pyplot as plt

    frame = rows([["1", "2"], ["2", "1"]])
    for result in (parallel_scaling(frame), sequential_scaling(frame)):
        ax = plt.subplots()[1]
        assert result.plot(ax) is ax
        assert ax.get_xlabel()
    plt.close("all")

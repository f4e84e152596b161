"""Diversity: laws, slow references, sacrebleu itself."""

from __future__ import annotations

import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from interp.diagnosis import diversity, repetition
from interp.diagnosis.diversity_measures import levenshtein
from interp.errors import UserError

ids = st.lists(st.integers(0, 6), max_size=25)
several = st.lists(st.lists(st.integers(0, 6), min_size=1, max_size=25), min_size=2, max_size=5)


def slow_levenshtein(a: list[int], b: list[int]) -> int:
    row = list(range(len(b) + 1))
    for i, x in enumerate(a, 1):
        previous, row = row, [i]
        for j, y in enumerate(b, 1):
            row.append(min(previous[j] + 1, row[-1] + 1, previous[j - 1] + (x != y)))
    return row[-1]


@given(ids, ids)
def test_levenshtein_is_the_table(a: list[int], b: list[int]) -> None:
    assert levenshtein(a, b) == slow_levenshtein(a, b) == levenshtein(b, a)


def test_levenshtein_of_long_rows_crosses_machine_words() -> None:
    rng = np.random.default_rng(0)
    a, b = rng.integers(0, 9, 300).tolist(), rng.integers(0, 9, 257).tolist()
    assert levenshtein(a, b) == slow_levenshtein(a, b)


def grams(row: list[int], n: int) -> list[tuple[int, ...]]:
    return [tuple(row[i : i + n]) for i in range(len(row) - n + 1)]


def slow_vendi(rows: list[list[int]]) -> float:
    kernels = []
    for n in (1, 2):
        names = sorted({g for row in rows for g in grams(row, n)})
        counts = np.array([[grams(row, n).count(g) for g in names] for row in rows], dtype=float)
        counts = counts.reshape(len(rows), len(names))
        kernel = np.eye(len(rows))
        for i in range(len(rows)):
            for j in range(len(rows)):
                size = math.sqrt((counts[i] @ counts[i]) * (counts[j] @ counts[j]))
                none = not counts[i].any() and not counts[j].any()
                kernel[i, j] = counts[i] @ counts[j] / size if size else float(none)
        kernels.append(kernel)
    values = np.linalg.eigvalsh(np.mean(kernels, axis=0) / len(rows))
    values = values[values > 1e-12]
    return math.exp(-(values * np.log(values)).sum())


@given(several)
def test_measures_are_their_slow_references(rows: list[list[int]]) -> None:
    found = diversity(rows)
    pairs = [(a, b) for i, a in enumerate(rows) for b in rows[:i]]
    edits = [slow_levenshtein(a, b) / max(len(a), len(b)) for a, b in pairs]
    assert found.edit_distance == pytest.approx(np.mean(edits))
    assert found.vendi == pytest.approx(slow_vendi(rows), rel=1e-6)
    for n, value in ((1, found.distinct_1), (2, found.distinct_2), (4, found.distinct_4)):
        listed = [g for row in rows for g in grams(row, n)]
        if listed:
            assert value == pytest.approx(len(set(listed)) / len(listed))
        else:
            assert math.isnan(value)
    shared = [next((i for i, (x, y) in enumerate(zip(a, b, strict=False)) if x != y),
                   min(len(a), len(b))) for a, b in pairs]  # fmt: skip
    assert found.common_prefix == pytest.approx(np.mean(shared))


@given(several)
def test_self_bleu_is_sacrebleus_sentence_bleu(rows: list[list[int]]) -> None:
    from sacrebleu.metrics.bleu import BLEU

    metric = BLEU(tokenize="none", effective_order=True)
    text = [" ".join(f"w{i}" for i in row) for row in rows]
    scores = [
        metric.sentence_score(one, text[:i] + text[i + 1 :]).score / 100
        for i, one in enumerate(text)
    ]
    assert diversity(rows).self_bleu == pytest.approx(np.mean(scores))


@given(several, st.randoms(use_true_random=False), st.permutations(range(7)))
def test_order_of_samples_and_names_of_tokens_do_not_matter(rows, random, names) -> None:
    answers = [row[0] for row in rows]
    found = diversity(rows, answers)
    order = list(range(len(rows)))
    random.shuffle(order)
    again = diversity([[names[t] for t in rows[i]] for i in order], [answers[i] for i in order])
    np.testing.assert_allclose(
        found.to_frame().astype(float), again.to_frame().astype(float), atol=1e-9
    )


@given(st.lists(st.integers(0, 9), min_size=5, max_size=40), st.integers(2, 6))
def test_identical_samples_are_one(row: list[int], n: int) -> None:
    found = diversity([row] * n, ["x"] * n, [True] * n)
    assert found.vendi == pytest.approx(1)
    assert found.edit_distance == 0
    assert found.self_bleu == pytest.approx(1)
    assert found.common_prefix == len(row)
    assert (found.answer_entropy, found.accuracy) == (0, 1)


def test_samples_without_a_common_token_are_all_different() -> None:
    found = diversity([list(range(10 * i, 10 * i + 10)) for i in range(5)])
    assert found.vendi == pytest.approx(5)
    assert found.edit_distance == 1
    assert found.distinct_1 == 1
    assert found.common_prefix == 0
    assert found.self_bleu < 0.05


def test_a_single_sample_says_nothing_between_samples() -> None:
    found = diversity([[1, 2, 3, 4, 5]])
    for name in ("self_bleu", "edit_distance", "vendi", "common_prefix", "answer_entropy"):
        assert math.isnan(getattr(found, name))
    assert found.distinct_1 == 1


def test_empty_samples_are_alike_to_each_other_only() -> None:
    both, one = diversity([[], []]), diversity([[], [1, 2, 3]])
    assert (both.self_bleu, both.edit_distance) == (1, 0)
    assert both.vendi == pytest.approx(1)
    assert one.edit_distance == 1
    assert one.vendi == pytest.approx(2)


def test_equal_length_cuts_all_and_leaves_out_the_short() -> None:
    rows = [[1, 2, 3, 9, 9, 9], [1, 2, 3], [1, 2, 3, 4]]
    shortest = diversity(rows, length="shortest")
    assert shortest.edit_distance == 0
    assert shortest.length == 3
    assert shortest.n_samples == 3
    four = diversity(rows, correct=[True, False, False], length=4)
    assert four.n_samples == 2
    assert four.mean_length == 4
    assert four.edit_distance == 0.25
    assert four.accuracy == pytest.approx(1 / 3)
    assert math.isnan(diversity(rows, length=100).vendi)


def test_answers_given_make_the_entropy_and_abstentions_the_share() -> None:
    found = diversity([[1]] * 4, ["a", "b", None, None])
    assert found.answer_entropy == pytest.approx(math.log(2))
    assert found.answered == 0.5
    assert math.isnan(diversity([[1]] * 2, [None, None]).answer_entropy)


def test_sixteen_long_samples_take_no_time() -> None:
    rows = np.random.default_rng(0).integers(0, 200, (16, 1000))
    import time

    start = time.perf_counter()
    found = diversity(list(rows))
    assert time.perf_counter() - start < 15
    assert 0.8 < found.edit_distance < 1


def test_repetition_in_fixed_windows() -> None:
    rng = np.random.default_rng(0)
    assert repetition([5] * 256) == pytest.approx(1 - 1 / 125)
    assert repetition(np.arange(300)) == 0
    assert math.isnan(repetition(np.arange(100)))
    healthy = rng.integers(0, 4, 128)
    listed = grams(healthy.tolist(), 4)
    assert repetition(healthy) == pytest.approx(1 - len(set(listed)) / len(listed))


@pytest.mark.parametrize(
    "mistake",
    [
        lambda: diversity([]),
        lambda: diversity([[1], [2]], answers=["a"]),
        lambda: diversity([[1], [2]], correct=[True]),
        lambda: diversity([[1], [2]], length=0),
        lambda: repetition([1, 2, 3], n=4, window=3),
    ],
)
def test_mistakes_are_user_errors(mistake) -> None:
    with pytest.raises(UserError):
        mistake()

"""Word problems made here: solved again from their sentences, and unlike a public test set."""

from __future__ import annotations

import re
from collections import Counter
from itertools import pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st

from recovery.examples import Example, TrainingSet
from recovery.overlap import overlaps
from scaling.benchmarks import load_benchmark
from scaling.benchmarks.word_problems import CHANGES, LARGEST, word_problems
from scaling.grading import grade_text
from scaling.problem import Problem
from tests.scaling.data import data_file

#: What a sentence does to the number of things, or to the answer; told apart by its words alone.
SENTENCES = {
    r"has (\d+)": lambda _, a: a,
    r"fills (\d+) boxes with (\d+)": lambda _, a, b: a * b,
    r"collects (\d+) .* and (\d+) more": lambda _, a, b: a + b,
    r"^Then (\d+) more": lambda v, n: v + n,
    r"buys (\d+) packs of (\d+)": lambda v, n, size: v + n * size,
    r"doubles": lambda v: v + v,
    r"gives (\d+) of them": lambda v, n: v - n,
    r"^(\d+) children take (\d+)": lambda v, n, each: v - n * each,
    r"^Half of them": lambda v: v / 2,
    r"^A third of them": lambda v: v - v / 3,
    r"for (\d+) dollars each": lambda v, price: v * price,
    r"equally among (\d+) people": lambda v, n: v / n,
}


def told(problem: Problem) -> list[str]:
    return re.findall(r"[^.?]+[.?]", problem.question.replace(". ", ".\n").replace("\n", ""))


def solved(problem: Problem) -> tuple[list[float], list[str]]:
    """The number of things after each sentence but the question, and what each sentence was."""
    value, values, kinds = 0.0, [], []
    *sentences, question = told(problem)
    assert question.endswith("?")
    for sentence in sentences:
        (pattern,) = (p for p in SENTENCES if re.search(p, sentence.strip()))
        found = re.search(pattern, sentence.strip())
        assert found is not None
        value = SENTENCES[pattern](value, *map(int, found.groups()))
        values.append(value)
        kinds.append(pattern)
    return values, kinds


@given(st.integers(0, 2**32), st.integers(1, 12))
def test_the_answer_follows_from_the_sentences(seed: int, n: int) -> None:
    problems = word_problems(n, seed)
    assert len({p.id for p in problems}) == len({p.question for p in problems}) == n
    for problem in problems:
        values, kinds = solved(problem)
        assert float(problem.answer) == values[-1]
        assert all(value == int(value) and value >= 1 for value in values)
        asked = kinds[-1].startswith(("for", "equally"))  # the question's own sentence
        assert max(values[:-1]) <= LARGEST
        changes = len(kinds) - 1 - asked
        assert changes == problem.metadata["changes"] and CHANGES[0] <= changes <= CHANGES[1]
        assert all(a != b for a, b in pairwise(kinds))


def test_more_problems_begin_with_the_same() -> None:
    many = word_problems(300, 4)
    assert word_problems(40, 4) == many[:40]
    assert not {p.question for p in many} & {p.question for p in word_problems(300, 5)}
    kinds = Counter(kind for p in many for kind in solved(p)[1])
    assert set(kinds) == set(SENTENCES) and min(kinds.values()) >= 20


def test_it_is_asked_and_graded_as_a_benchmark() -> None:
    bench = load_benchmark("word-problems", limit=3, seed=1)
    problem = bench.problems[0]
    assert bench.problems == tuple(word_problems(3, 1)) and "\\boxed{}" in bench.instruction
    right = f"She has \\boxed{{{problem.answer}}} left."
    assert grade_text(bench, problem, right).outcome == "correct"
    assert grade_text(bench, problem, right.replace(problem.answer, "0.5")).outcome == "wrong"
    assert load_benchmark("word-problems").problems == tuple(word_problems(100, 0))


def test_none_of_them_is_in_a_public_test_set() -> None:
    gsm8k = load_benchmark("gsm8k", data=data_file("gsm8k_test.jsonl"))
    made = tuple(Example(p.id, p.question, problem=p) for p in word_problems(500, 0))
    assert not overlaps(TrainingSet("made", made), [gsm8k])
    copied = Example("copied", gsm8k.problems[7].question)
    found = overlaps(TrainingSet("copied", (*made, copied)), [gsm8k])
    assert [one.example for one in found] == ["copied"]


@pytest.mark.parametrize("n", [0, 1])
def test_few(n: int) -> None:
    assert len(word_problems(n, 0)) == n

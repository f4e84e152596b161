"""Problems: exact, reproducible, split without overlap, solvable."""

from __future__ import annotations

from dataclasses import replace
from itertools import permutations, product

import pytest
from hypothesis import given
from hypothesis import strategies as st

from interp.errors import UserError
from testbed.problems import (
    KINDS,
    apply,
    content,
    facts,
    first_steps,
    generate,
    inner_steps,
    is_test,
    last_steps,
    mean_search,
    without,
)
from testbed.vocabulary import ENTITIES, ID, RELATIONS, WORDS
from tests.drawing import max_examples

pools = st.lists(st.integers(2, 15), min_size=3, max_size=3, unique=True).map(tuple)


@pytest.mark.parametrize("kind", KINDS)
def test_same_call_same_problems_and_every_word_is_known(kind):
    first, second = generate(kind, 40, seed=3), generate(kind, 40, seed=3)
    assert first == second
    assert len({p.id for p in first}) == 40
    assert [p.id for p in first] != [p.id for p in generate(kind, 40, seed=4)]
    assert all(word in ID for p in first for word in p.question.split() + p.answer.split())


@pytest.mark.parametrize("kind", [k for k in KINDS if k != "recall"])
def test_training_and_test_problems_never_meet(kind):
    train = {content(p) for p in generate(kind, 200, split="train")}
    test = {content(p) for p in generate(kind, 100, split="test")}
    assert not train & test
    assert all(is_test(i) for i in test)
    assert not any(is_test(i) for i in train)


def test_a_reordered_pool_stays_in_its_split():
    for problem in generate("countdown-4", 30) + generate("countdown-4", 30, split="train"):
        for numbers in permutations(problem.numbers):
            other = replace(problem, numbers=numbers)
            assert is_test(content(other)) == is_test(content(problem))


def test_every_kind_has_at_least_five_hundred_test_problems():
    for kind in KINDS[:4]:
        assert len({p.id for p in generate(kind, 500)}) == 500


def test_facts_are_many_and_words_are_one_token_each():
    assert len(facts()) == len(ENTITIES) * len(RELATIONS) == 256
    assert len(set(WORDS)) == len(WORDS)
    for (_, relation), value in facts().items():
        assert value in RELATIONS[relation]


def test_recall_choices_hold_the_answer_once():
    for problem in generate("recall", 300):
        assert len(set(problem.choices)) == 4
        assert problem.choices.count(problem.answer) == 1
        entity, relation = problem.question.split()[5], problem.question.split()[3]
        assert facts()[entity, relation] == problem.answer


def _brute_solvable(numbers, target):
    """Any order, any operators, every value on the way inside 1..84: the slow reference."""
    for order in permutations(numbers):
        for operators in product("+-x", repeat=len(numbers) - 1):
            value = order[0]
            for operator, number in zip(operators, order[1:], strict=True):
                value = apply(value, operator, number)
                if not 1 <= value <= 84:
                    break
            else:
                if value == target:
                    return True
    return False


@given(pools, st.integers(10, 84))
@max_examples(60)
def test_a_search_finds_a_solution_only_where_one_exists(numbers, target):
    if mean_search(numbers, target) < float("inf"):
        assert _brute_solvable(numbers, target)


def test_every_generated_search_can_be_solved():
    for problem in generate("countdown-4", 30) + generate("countdown-3", 30):
        assert _brute_solvable(problem.numbers, problem.target)
        assert mean_search(problem.numbers, problem.target) < 500


@given(pools)
@max_examples(50)
def test_steps_compute_and_stay_in_the_vocabulary(numbers):
    for value, operator, number, result in first_steps(numbers):
        assert result == apply(value, operator, number)
        rest = without(numbers, value, number)
        for step in inner_steps(result, rest):
            assert step[3] == apply(*step[:3])
            assert 1 <= step[3] <= 84
        for target in (10, 84):
            for step in last_steps(result, rest[0], target):
                assert step[3] == apply(*step[:3])
                assert 0 <= step[3] <= 99


@pytest.mark.parametrize(
    ("call", "says"),
    [
        (lambda: generate("countdwn-4", 3), "Did you mean 'countdown-4'"),
        (lambda: generate("arithmetic", 0), "at least 1"),
        (lambda: generate("arithmetic", 3, split="tets"), "Did you mean 'test'"),
        (lambda: generate("countdown-3", 10**6), "ask for fewer"),
    ],
)
def test_bad_requests_say_what_to_do(call, says):
    with pytest.raises(UserError, match=says):
        call()

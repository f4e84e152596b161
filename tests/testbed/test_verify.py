"""The verifier: silent on what the expert writes, exact about what is planted."""

from __future__ import annotations

import random

import pytest
from hypothesis import given
from hypothesis import strategies as st

from testbed.expert import Habits, write
from testbed.problems import GeneratedProblem, generate
from testbed.verify import check_answer, check_chain, evaluate
from testbed.vocabulary import ID, THINK_END, THINK_START, TURN_END
from tests.drawing import max_examples

QUESTION = "use 3 7 2 4 to make 25"
PROBLEM = GeneratedProblem("countdown-4", "t", QUESTION, "25", numbers=(3, 7, 2, 4), target=25)
SUM = GeneratedProblem(
    "arithmetic", "s", "compute 3 + 4 x 2 - 5", "9", numbers=(3, 4, 2, 5), target=9
)
CLEAN = Habits(slip=0, false_yes=0, early=0, forced=0, wait=0, wait_after_yes=0)


def parts(document):
    words = document.words
    a, b = words.index(THINK_START), words.index(THINK_END)
    return " ".join(words[a + 1 : b]), " ".join(words[b + 1 :])


def written(kind, n, habits, seed=0):
    for problem in generate(kind, n, seed=seed, split="train"):
        yield problem, write(problem, random.Random(problem.id), habits)


@pytest.mark.parametrize("kind", ["arithmetic", "countdown-3", "countdown-4", "countdown-5"])
def test_an_expert_without_slips_is_faultless(kind):
    for problem, document in written(kind, 60, CLEAN):
        report = check_chain(problem, *parts(document))
        assert report.slips == ()
        assert report.kind in ("", "premature conclusion")
        # The one way to end without a solution is to run out of room.
        assert (report.kind == "") == check_answer(problem, parts(document)[1])


@pytest.mark.parametrize("kind", ["arithmetic", "countdown-3", "countdown-4", "countdown-5"])
def test_the_experts_slips_are_arithmetic_and_nearly_all_noticed(kind):
    habits = Habits(slip=1, slip_rate=0.2, early=0, forced=0, wait=0, wait_after_yes=0)
    slips = [s for p, d in written(kind, 80, habits) for s in check_chain(p, *parts(d)).slips]
    assert slips
    assert {s.kind for s in slips} == {"arithmetic slip"}
    assert sum(s.noticed and s.mended for s in slips) > 0.97 * len(slips)


@given(st.integers(0, 10**6), st.sampled_from(["countdown-3", "countdown-4"]))
@max_examples(60)
def test_one_changed_result_is_found_where_it_stands(seed, kind):
    """Plant one wrong result in a clean chain: it is the first wrong step."""
    rng = random.Random(seed)
    problem = generate(kind, 1, seed=seed, split="train")[0]
    thinking, answer = parts(write(problem, rng, CLEAN))
    words = thinking.split()
    results = [i for i, w in enumerate(words) if i and words[i - 1] == "="]
    at = rng.choice(results)
    wrong = str((int(words[at]) + rng.randint(1, 60)) % 85)
    if wrong in (words[at], str(problem.target)):
        return
    words[at] = wrong
    report = check_chain(problem, " ".join(words), answer)
    first = min(report.slips, key=lambda slip: slip.at)
    assert (first.kind, first.at) == ("arithmetic slip", at)


words_of = st.sampled_from(sorted(ID))


@given(st.lists(words_of, max_size=80), st.lists(words_of, max_size=8))
@max_examples(200)
def test_any_words_can_be_read(thinking, answer):
    for problem in (PROBLEM, SUM):
        report = check_chain(problem, " ".join(thinking), " ".join(answer))
        assert report.first_wrong is None or 0 <= report.first_wrong <= len(thinking)
        assert report.noticed <= report.arithmetic_slips


TRY = "try 3 + 7 = 10 left 2 4 . "


@pytest.mark.parametrize(
    ("thinking", "answer", "kind"),
    [
        (TRY + "10 x 2 = 20 left 4 . 20 + 4 = 24 no .", "3 + 7 x 2 + 4", "premature conclusion"),
        (TRY + "10 x 2 = 21 left 4 . 21 + 4 = 25 yes .", "3 + 7 x 2 + 4", "arithmetic slip"),
        (TRY + "10 x 9 = 90 left 4 .", "", "copying slip"),
        ("try 3 + 7 = 10 left 2 5 .", "", "copying slip"),
        ("try 3 + 3 = 6 left 2 4 .", "", "copying slip"),
        (TRY + "11 x 2 = 22 left 4 .", "", "lost state"),
        (TRY + "10 x 2 = 20 left 4 . 20 + 4 = 24 no . back 12 left 2 4 .", "", "lost state"),
        (TRY + "10 x 2 = 20 left 4 . 20 + 4 = 24 yes .", "3 + 7 x 2 + 4", "false yes"),
        (
            TRY + "10 x 2 = 20 left 4 . 20 + 4 = 24 no . again 3 + 7 = 10 left 2 4 .",
            "",
            "repeated branch",
        ),
        (
            TRY + "10 x 2 = 20 left 4 . 20 + 4 = 24 no . back 10 left 2 4 . 10 x 2 = 20 left 4 .",
            "",
            "repeated branch",
        ),
        ("no no what .", "", "unreadable"),
        ("", "", "no conclusion"),
        ("", None, "no conclusion"),
        (TRY + "10 x 2 =", "", "no conclusion"),
    ],
)
def test_each_kind_of_wrong_step(thinking, answer, kind):
    assert check_chain(PROBLEM, thinking, answer).kind == kind


def test_missed_solutions():
    problem = GeneratedProblem("countdown-4", "t", "", "24", numbers=(3, 7, 2, 4), target=24)
    path = TRY + "10 x 2 = 20 left 4 . 20 + 4 = 24 "
    assert check_chain(problem, path + "yes .", "3 + 7 x 2 + 4").kind == ""
    assert check_chain(problem, path + "no .", "").kind == "missed solution"
    other = check_chain(problem, path + "yes .", "3 + 7 + 2 + 4")
    assert other.kind == "missed solution"
    assert other.reached


def test_noticing_and_mending():
    slip = TRY + "10 x 2 = 21 "
    mended = check_chain(PROBLEM, slip + "wait 10 x 2 = 20 left 4 . 20 + 4 = 24 no .", "")
    assert (mended.arithmetic_slips, mended.noticed, mended.mended, mended.waits) == (1, 1, 1, 1)
    assert mended.kind == "no conclusion"
    late = check_chain(PROBLEM, slip + "left 4 . wait 10 x 2 = 20 left 4 . 20 + 4 = 24 no .", "")
    assert (late.noticed, late.mended) == (1, 1)
    twice = check_chain(PROBLEM, slip + "wait 10 x 2 = 22 left 4 . 22 + 4 = 26 no .", "")
    assert (twice.arithmetic_slips, twice.noticed, twice.mended) == (2, 1, 0)
    checked = check_chain(
        PROBLEM,
        slip + "left 4 . 21 + 4 = 25 yes . check 3 + 7 = 10 . 10 x 2 = 20 . 20 + 4 = 24 no . wait",
        "",
    )
    assert (checked.noticed, checked.mended, checked.checks) == (1, 1, 1)
    assert checked.kind != "arithmetic slip"


def test_arithmetic_chains():
    right = "3 + 4 = 7 . 7 x 2 = 14 . 14 - 5 = 9 ."
    assert check_chain(SUM, right, "9").kind == ""
    assert check_chain(SUM, right, "8").kind == "missed solution"
    assert (
        check_chain(SUM, "3 + 4 = 8 . 8 x 2 = 16 . 16 - 5 = 11 .", "11").kind == "arithmetic slip"
    )
    assert check_chain(SUM, "3 + 4 = 7 . 7 x 3 = 21 .", "21").kind == "copying slip"
    assert check_chain(SUM, "3 + 4 = 7 .", "7").kind == "premature conclusion"
    assert check_chain(SUM, "3 + 4 = 7 .", "7", forced=True).kind == "no conclusion"
    checked = check_chain(SUM, "3 + 4 = 7 . 7 x 2 = 15 . 15 - 5 = 10 . check " + right, "9")
    assert checked.kind == ""
    assert checked.mended == 1


@pytest.mark.parametrize(
    ("problem", "answer", "verdict"),
    [
        (PROBLEM, "7 x 3 + 4", False),
        (PROBLEM, "7 x 3 + 4 + 2", False),
        (PROBLEM, "4 + 7 x 2 + 3", True),
        (PROBLEM, f"4 + 7 x 2 + 3 {TURN_END}", True),
        (PROBLEM, "25", False),
        (PROBLEM, "25 = 25", None),
        (PROBLEM, "", None),
        (PROBLEM, None, None),
        (SUM, "9", True),
        (SUM, "10", False),
        (SUM, "9 9", None),
        (SUM, "no", None),
    ],
)
def test_answers(problem, answer, verdict):
    assert check_answer(problem, answer) is verdict


@given(st.lists(st.integers(0, 99), min_size=1, max_size=6), st.data())
def test_expressions_are_evaluated_left_to_right(numbers, data):
    operators = [data.draw(st.sampled_from("+-x")) for _ in numbers[1:]]
    words, value = [str(numbers[0])], numbers[0]
    for operator, number in zip(operators, numbers[1:], strict=True):
        words += [operator, str(number)]
        value = {"+": value + number, "-": value - number, "x": value * number}[operator]
    assert evaluate(words) == (value, numbers)
    assert evaluate([*words, "+"]) is None

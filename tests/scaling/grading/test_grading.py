"""Graders: what counts as an answer, what is none, and agreement with labels made by others."""

from __future__ import annotations

import re
import time
from collections.abc import Iterator
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from interp.errors import NonFiniteError, UserError
from scaling.benchmarks import load_benchmark
from scaling.grading import get_grader, grade_likelihood, grade_text, graders
from scaling.grading._boxes import boxes, last_boxed
from scaling.grading.numbers import read_number
from scaling.problem import Benchmark, Problem
from tests.drawing import max_examples
from tests.scaling.data import data_file


def bench(grader: str, answer: str, choices: tuple[str, ...] = ()) -> tuple[Benchmark, Problem]:
    problem = Problem("p", "q", answer, choices)
    return Benchmark("b", "1", (problem,), grader=grader), problem


def outcomes(grader: str, gold: str, text: str, choices: tuple[str, ...] = ()) -> tuple[str, str]:
    verdict = grade_text(*bench(grader, gold, choices), text)
    return verdict.strict_outcome, verdict.lenient_outcome


C, W, N = "correct", "wrong", "no answer"


@pytest.mark.parametrize(
    ("gold", "text", "expected"),
    [
        ("18", r"so it is \boxed{18}", (C, C)),
        ("18", r"\boxed{17} no, \boxed{18}", (C, C)),
        ("18", r"\boxed{\$18.00}", (C, C)),
        ("18", r"\boxed{18 \text{ dollars}}", (C, C)),
        ("18", "The answer is 18 dollars.", (C, C)),
        ("18", "The answer is $18.50.", (W, W)),
        ("70000", "A: 70,000", (C, C)),
        ("70000", "#### 70000", (C, C)),
        ("18", "18", (C, C)),
        ("18", "Final Answer: 18", (C, C)),
        ("18", "**Answer:** 18", (C, C)),
        ("18", "she makes 9 * 2 = 18", (N, C)),
        ("18", "there are 18 ducks and 3 eggs", (N, W)),
        ("18", "I do not know", (N, N)),
        ("18", "", (N, N)),
        ("0.25", r"\boxed{\frac{1}{4}}", (C, C)),
        ("0.25", "1/4", (C, C)),
        ("-3", "The answer is -3", (C, C)),
        ("-3", "-$3", (C, C)),
        ("3", "x = 3", (C, C)),
        ("5", r"\boxed{", (N, N)),
        ("5", "1/0", (N, N)),
        ("1234", "1,234", (C, C)),
        ("1234", "1,23,4", (N, W)),
    ],
)
def test_numeric(gold: str, text: str, expected: tuple[str, str]) -> None:
    assert outcomes("numeric", gold, text) == expected


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("C", (C, C)),
        ("(C)", (C, C)),
        (r"\boxed{C}", (C, C)),
        (r"\boxed{\text{C}}", (C, C)),
        ("The answer is (C).", (C, C)),
        ("C. The mitochondrion", (C, C)),
        ("Answer: B", (W, W)),
        ("A frog is C", (N, C)),
        ("A frog", (N, N)),
        ("I think so", (N, N)),
        ("E", (N, N)),
        ("", (N, N)),
    ],
)
def test_choice(text: str, expected: tuple[str, str]) -> None:
    assert outcomes("choice", "C", text, ("A", "B", "C", "D")) == expected


@given(st.text(max_size=80))
def test_text_without_a_letter_of_the_choices_is_no_answer(text: str) -> None:
    bare = "".join(c for c in text if c.upper() not in "ABCD")
    assert outcomes("choice", "C", bare, ("A", "B", "C", "D")) == (N, N)


@given(
    st.integers(-(10**9), 10**9),
    st.sampled_from(["{}", "so\n#### {}", r"so \boxed{{{}}}", "A: {}"]),
)
def test_a_number_is_read_however_it_is_announced(value: int, form: str) -> None:
    for written in (str(value), f"{value:,}", f"{value}.0"):
        assert outcomes("numeric", str(value), form.format(written)) == (C, C)
        assert outcomes("numeric", str(value + 1), form.format(written)) == (W, W)


@given(st.text(max_size=200))
def test_no_text_makes_a_grader_fail(text: str) -> None:
    for name in ("numeric", "integer", "choice"):
        gold = "C" if name == "choice" else "7"
        verdict = grade_text(*bench(name, gold, ("A", "C") if name == "choice" else ()), text)
        assert verdict.outcome == verdict.strict_outcome
        assert (verdict.extracted is None) == (verdict.outcome == N)
    read_number(text)


@given(st.text("0123456789 .=+", max_size=30), st.integers(0, 99))
def test_an_answer_inside_unfinished_thinking_is_none(text: str, value: int) -> None:
    unfinished = f"{text} \\boxed{{{value}}} the answer is {value}"
    b, p = bench("numeric", str(value))
    assert grade_text(b, p, unfinished, opened=True).lenient_outcome == N
    assert grade_text(b, p, "<think>" + unfinished).lenient_outcome == N
    assert grade_text(b, p, f"{unfinished} </think> {value}", opened=True).outcome == C
    assert grade_text(b, p, f"x </think> <think> {unfinished}").lenient_outcome == N


def test_half_a_number_at_the_cut_is_no_answer() -> None:
    b, p = bench("numeric", "12")
    assert grade_text(b, p, "The answer is 12", cut=True).lenient_outcome == N
    assert grade_text(b, p, "The answer is 12 ", cut=True).outcome == C
    assert grade_text(b, p, r"\boxed{12}", cut=True).outcome == C


def test_gold_that_cannot_be_read_is_said_before() -> None:
    for name, answer in (("numeric", "seven"), ("integer", "7.5"), ("testbed", "7")):
        with pytest.raises(UserError, match="p"):
            get_grader(name).check_gold(Problem("p", "q", answer))
    with pytest.raises(UserError, match="needs choices"):
        get_grader("choice").check_gold(Problem("p", "q", "A"))
    assert {"integer", "numeric", "math", "choice", "testbed"} <= set(graders())


def test_likelihood_takes_the_likeliest_and_no_default() -> None:
    problem = Problem("p", "q", "B", ("A", "B", "C"))
    verdict = grade_likelihood(problem, np.array([-3.0, -2.0, -2.5]), [1, 1, 1])
    assert (verdict.outcome, verdict.extracted) == ("correct", "B")
    longer = grade_likelihood(problem, np.array([-3.0, -4.0, -9.0]), [1, 2, 3])
    assert (longer.strict_outcome, longer.lenient_outcome) == (W, C)
    with pytest.raises(NonFiniteError):
        grade_likelihood(problem, np.array([np.nan, -2.0, -2.5]), [1, 1, 1])


def test_testbed_answers() -> None:
    b = load_benchmark("arithmetic", limit=3)
    for problem in b.problems:
        assert grade_text(b, problem, f" {problem.answer} ").outcome == C
        assert grade_text(b, problem, str(int(problem.answer) + 1)).outcome == W
        assert grade_text(b, problem, "").outcome == N
        assert grade_text(b, problem, "wait wait").outcome == N


@pytest.mark.parametrize("name", ["numeric", "integer", "choice", "math", "testbed"])
@pytest.mark.parametrize(
    "piece",
    [
        " ",
        "\n",
        "\t",
        "\\boxed{",
        "\\boxed{7",
        "the answer is ",
        "A: ",
        "9",
        "a",
        "$",
        "-",
        "{",
        "}",
        "\\frac{",
        "\\frac{1}{",
        "**",
        "(A",
        "1,",
        "1/",
        "#### ",
        "\\",
        "\\text{",
        "\u2028",
        "=",
        "/ ",
    ],
)
def test_a_chain_that_loops_is_graded_at_once(name: str, piece: str) -> None:
    """Eight times the text of one piece, whole and cut, takes about eight times as long.

    A square would be 64 times, and hours over a study of long loops.
    """
    problem = Problem("p", "q", "7", ("7", "8"))
    if name == "choice":
        problem = Problem("p", "q", "A", ("A", "B"))
    if name == "testbed":
        problem = load_benchmark("arithmetic", limit=1).problems[0]
    bench_ = Benchmark("b", "1", (problem,), grader=name)

    def seconds(n: int) -> float:
        began = time.process_time()
        for cut in (False, True):
            grade_text(bench_, problem, "so " + piece * (n // len(piece)), cut=cut)
        return time.process_time() - began

    short = max(min(seconds(5_000) for _ in range(3)), 0.01)
    assert any(seconds(40_000) < 24 * short for _ in range(3))


@given(
    st.lists(
        st.sampled_from(["\\boxed{", "\\fbox {", "{", "}", "\\", "\\{", "x", "\n"]), max_size=14
    )
)
def test_the_last_box_is_the_one_found_by_counting_braces(pieces: list[str]) -> None:
    """Against the definition: of all boxes that close, the one that opens last."""
    text, found = "".join(pieces), None
    for match in re.finditer(r"\\(?:boxed|fbox|framebox)\s*\{", text):
        depth, position = 1, match.end()
        while position < len(text) and depth:
            if text[position] == "\\" and not re.match(
                r"\\\\(?:boxed|fbox|framebox)\s*\{", text[position:]
            ):
                position += 1
            elif text[position] in "{}":
                depth += 1 if text[position] == "{" else -1
            position += 1
        if depth == 0:
            found = text[match.end() : position - 1].strip()
    assert last_boxed(text) == (found or None)
    opened = [
        m.start()
        for m in re.finditer(r"\\(?:boxed|fbox|framebox)\s*\{", text)
        if _begins(text, m.start())
    ]
    closed = [box.start for box in boxes(text)[0]]
    assert boxes(text)[1] == bool(opened and opened[-1] not in closed)


def _begins(text: str, start: int) -> bool:
    """Whether the backslash at `start` is not itself escaped by an escape that begins earlier."""
    position = 0
    while position < start:
        if text[position] == "\\" and not re.match(
            r"\\\\(?:boxed|fbox|framebox)\s*\{", text[position:]
        ):
            position += 1
        position += 1
    return position == start


def test_a_box_behind_a_new_line_of_latex() -> None:
    assert last_boxed(r"so \\boxed{5}") == "5"
    assert last_boxed(r"\boxed{a\}b}") == r"a\}b"
    assert last_boxed(r"} \boxed{5} {") == "5"


# ------------------------------------------------------------------ the worker of `math`


@pytest.fixture(scope="module")
def worker() -> Iterator[Any]:
    from scaling.grading.math_expression import MathWorker

    made = MathWorker(time_limit=20.0)
    yield made
    made.close()


@pytest.mark.parametrize(
    ("gold", "answer", "equal"),
    [
        (r"\frac{14}{3}", "14/3", True),
        ("p - q", "-q+p", True),
        (r"3\sqrt{13}", r"\sqrt{117}", True),
        (r"\left( 3, \frac{\pi}{2} \right)", r"(3, \pi/2)", True),
        (r"90^\circ", "90", True),
        (r"\frac{14}{3}", "4.6667", False),
        ("4", r"\undefined{", None),
    ],
)
def test_mathematics(worker: Any, gold: str, answer: str, equal: bool | None) -> None:
    assert worker.equal(gold, answer) is equal


def test_a_comparison_that_takes_too_long_is_cut_short_and_the_worker_comes_back(
    worker: Any,
) -> None:
    worker.equal("1", "1")  # started
    limit, kills, worker.time_limit = worker.time_limit, worker.kills, 0.2
    product = "(a+b+c+d+k+m)^{12}" * 3  # expands to millions of terms
    began = time.monotonic()
    assert worker.equal(product, product.replace("a", "2a", 1)) is None
    worker.time_limit = limit
    assert time.monotonic() - began < 15
    assert worker.kills == kills + 1
    assert worker.equal("4", "2+2") is True


HOSTILE = [
    "9" * 1500,
    "9^{9^{9^{9^{9}}}}",
    "(" * 400 + ")" * 400,
    r"\frac{1}{" * 150 + "1" + "}" * 150,
    r"\sqrt{" * 300 + "2" + "}" * 300,
    r"\sum_{n=1}^{10^{10}} \frac{1}{n^{n}}",
    r"\int_0^\infty \frac{\sin(x^{x^x})}{\ln x} dx",
    r"\prod_{k=1}^{99999999} k!",
    "99999999!!!!",
    "x" * 1900,
    "x^{x^{x^{x^{x^{x}}}}} = y^{y^{y^{y}}}",
    r"\left\{" * 100,
    r"\begin{matrix}" * 60,
    "__import__('os').system('true')",
    "\x00\x01\ud800",
    "{}[]()^^__\\\\&&%%$$##",
    "1/0",
    r"\frac{0}{0}",
    "",
]


@pytest.fixture(scope="module")
def judge() -> Iterator[Any]:
    from scaling.grading.math_expression import Math, MathWorker

    made = Math()
    made._worker = MathWorker(time_limit=1.5)
    made.worker.equal("1", "1")  # started
    yield made
    made.worker.close()


@pytest.mark.parametrize("answer", HOSTILE, ids=range(len(HOSTILE)))
def test_hostile_latex_is_not_correct_and_the_next_answer_is_judged(
    judge: Any, answer: str
) -> None:
    began = time.monotonic()
    assert judge.equal(answer, Problem("p", "q", "5")) is False
    assert judge.equal("5.0", Problem("p", "q", "5"))
    assert time.monotonic() - began < 60


PIECES = (
    r"\frac{ \sqrt{ { } ^ _ ( ) 1 99 x \\ $ = , \pi \text{ ! / - \left( \begin{pmatrix}".split()
)
PIECES += [" ", r"\int "]


@max_examples(25)
@given(st.lists(st.sampled_from(PIECES), max_size=25))
def test_no_latex_breaks_the_grader(judge: Any, pieces: list[str]) -> None:
    problem = Problem("p", "q", "31415")  # no product of the pieces' numbers
    assert judge.equal("".join(pieces), problem) is False
    assert judge.equal(r"\frac{62830}{2}", problem)


def test_math_grader_on_real_golds() -> None:
    b = load_benchmark("math500", data=data_file("math500_test.json"))
    for problem in b.problems:
        assert grade_text(b, problem, f"so \\boxed{{{problem.answer}}}").outcome == C
    shifted = [
        grade_text(b, p, f"\\boxed{{{q.answer}}}").outcome == C
        for p, q in zip(b.problems[:12], b.problems[12:24], strict=True)
        if p.answer != q.answer
    ]
    assert not any(shifted)

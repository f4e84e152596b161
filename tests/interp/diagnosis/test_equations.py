"""Equations in words: exact arithmetic is a law, and right solutions have no slips."""

from __future__ import annotations

import json
import os
from fractions import Fraction
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from interp.diagnosis.equations import equations

DATA = Path(os.environ.get("PRUNESCOPE_DATA") or Path(__file__).parents[4] / "shared" / "data")


@st.composite
def sums(draw: st.DrawFn) -> tuple[str, Fraction]:
    """An expression as text and its exact value (no division by 0), brackets included."""
    if draw(st.integers(0, 2)) == 0:
        number = draw(st.integers(0, 400))
        return str(number), Fraction(number)
    left, a = draw(sums())
    right, b = draw(sums())
    sign = draw(st.sampled_from("+-*/"))
    if sign == "/" and b == 0:
        sign = "+"
    value = {"+": a + b, "-": a - b, "*": a * b, "/": a / b if b else a}[sign]
    return f"({left} {sign} {right})", value


def written(value: Fraction) -> str:
    """An exact value as a fraction or a whole number."""
    if value.denominator == 1:
        return str(value.numerator)
    return f"{value.numerator}/{value.denominator}"


@given(
    sums(), st.sampled_from(["So she has {} apples left.", "- {}", "**{}**", "Thus ${}$.", "{}"])
)
def test_exact_equations_hold_wherever_they_stand(made: tuple[str, Fraction], around: str) -> None:
    said, value = made
    if "(" not in said or len(said) > 150:
        return
    found = equations(around.format(f"{said[1:-1]} = {written(value)}"))
    assert len(found) == 1
    assert not found.slips
    assert found.found[0].value == pytest.approx(float(value))


@given(sums(), st.integers(2, 50))
def test_another_value_is_a_slip(made: tuple[str, Fraction], off: int) -> None:
    said, value = made
    if "(" not in said or len(said) > 150:
        return
    assert len(equations(f"{said[1:-1]} = {written(value + off)}").slips) == 1


@given(st.text(alphabet="0123456789+-*/=() .,%$x^{}\\frac \nab:", max_size=60))
def test_any_text_is_read_without_an_error(text: str) -> None:
    for equation in equations(text).found:
        assert 0 <= equation.start < equation.stop <= len(text)


RIGHT = [
    "Janet sells 16 - 3 - 4 = <<16-3-4=9>>9 duck eggs a day.",
    "20% of 50 = 10",
    "100% - 20% = 80%",
    "100 - 20 = 80%",
    "10 / 3 = 3.33",
    "10 / 3 = 3.3",
    "2 / 3 = .66",
    "15 / 4 = 3 women",
    "0.25 - 0.20 = 0.04999999999999999",
    "2 + 3 = 5 + 4 = 9",
    "$1,200 x 3 = $3,600",
    r"\(\frac{3}{4} \times 8 = 6\)",
    r"2 \text{ boxes} \cdot 6 = 12 \text{ pens}",
    r"16 - 3 = \boxed{13}",
    "12 divided by 4 = 3",
    "2^3 + 1 = 9",
    "2(3 + 4) = 14",
    "16 - 3 - 4\n= 9",
    "-48 + 21 = -27",
    "5 hours * 60 = 300 minutes",
]


@pytest.mark.parametrize("text", RIGHT)
def test_right_equations(text: str) -> None:
    found = equations(text)
    assert len(found) >= 1
    assert not found.slips


@pytest.mark.parametrize(
    "text",
    ["16 - 3 - 4 = 8 eggs", "20% of 50 = 11", r"\frac{3}{4} \times 8 = 5", "10 / 3 = 3.4",
     "18 - 36 = 18", "35.0 * (1/2) = 17.0", "2 + 3 = 6 + 4 = 10", "He paid $32 - $20 = $300."],
)  # fmt: skip
def test_wrong_equations(text: str) -> None:
    assert len(equations(text).slips) == 1


@pytest.mark.parametrize(
    "text",
    ["2x = 10", "x + 3 = 5", "half of 6 - 2 = 1", "2 hours - 30 minutes = 1.5 hours",
     "3 1/2 - 2 = 1 1/2", "$350 000 x 5/100 = $17500", "the books - 135 = 65", "sqrt(9) + 1 = 4",
     "5:00 - 1 = 4:00", "9 = (3/4)*number", "6 nephews = 96/6", "27 - 9 = (6 * x) - (3 * x)",
     "6 / 2(3) = 1", "5 / 0 = 3", "2 ^ 99 = 3", "3 dozen + 4 = 40", "f(3) = 4 + 1", "a <= 3 + 4",
     "x == 3 + 5", "the average of 3 + 5 = 4", "F_1 = F_2 + 4 = -1 + 4", "2 + 2 ≈ 4.1",
     "of his 1 teacher + 1 = 27 - of 2"],
)  # fmt: skip
def test_what_is_not_plain_arithmetic_is_left_alone(text: str) -> None:
    assert not equations(text).slips


def test_slips_that_were_noticed_and_mended() -> None:
    text = "16 - 3 = 12\nWait, that is wrong.\n16 - 3 = 13\n5 + 5 = 11\n"
    found = equations(text, [text.index("Wait")])
    assert [(e.left, e.noticed, e.mended) for e in found.slips] == [
        ("16 - 3", True, True),
        ("5 + 5", False, False),
    ]
    assert found.slips_per_100 == pytest.approx(200 / 3)
    assert list(found.to_frame()["holds"]) == [False, True, False]


def test_a_text_of_numbers_is_read_in_linear_time() -> None:
    assert len(equations("1 + " * 20_000 + "1 = 3")) == 0  # too long a side, and no hang
    assert len(equations("1 + 1 = 2\n" * 5_000)) == 5_000


@pytest.mark.skipif(not (DATA / "gsm8k_test.jsonl").exists(), reason="the real data is not here")
def test_right_solutions_have_no_slips_and_most_of_their_equations_are_read() -> None:
    lines = (DATA / "gsm8k_test.jsonl").read_text().splitlines()
    answers = [json.loads(line)["answer"] for line in lines]
    found = [equations(answer) for answer in answers]
    assert sum(map(len, found)) > 0.85 * sum(answer.count("<<") for answer in answers)
    slips = [e.left for one in found for e in one.slips]
    assert slips == ["364 / 4", "32 - 20"]  # both are wrong in the file


@pytest.mark.skipif(
    not (DATA / "gsm8k_gpt3_model_solutions.jsonl").exists(), reason="the real data is not here"
)
def test_slips_stand_in_solutions_that_end_wrong() -> None:
    counts = counted(every=4)
    right, wrong = (slips / total for total, slips in (counts[True], counts[False]))
    assert wrong > 2 * right
    assert right < 0.01


@pytest.mark.slow
@pytest.mark.skipif(
    not (DATA / "gsm8k_gpt3_model_solutions.jsonl").exists(), reason="the real data is not here"
)
def test_the_figures_of_the_page() -> None:
    counts = counted(every=1)
    read, slips = (counts[True][i] + counts[False][i] for i in (0, 1))
    assert (read, slips) == (14_277, 213)
    assert counts[False][1] > 0.9 * slips


def counted(every: int) -> dict[bool, list[int]]:
    """Equations and slips in the GPT-3 solutions, by whether a solution is right."""
    counts = {True: [0, 0], False: [0, 0]}
    for line in (DATA / "gsm8k_gpt3_model_solutions.jsonl").read_text().splitlines()[::every]:
        for solution in json.loads(line).values():
            if isinstance(solution, dict):
                found = equations(solution["solution"])
                counts[solution["is_correct"]][0] += len(found)
                counts[solution["is_correct"]][1] += len(found.slips)
    return counts
